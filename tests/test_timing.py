"""The timing protocol on cases of known duration, surrogates on the clock, Geant4's own times."""

import dataclasses
import time
from itertools import pairwise

import h5py
import numpy as np
import pytest

from calostudy import timing
from calostudy.datasets import dataset
from calostudy.errors import DataError, UsageError
from calostudy.models import build
from calostudy.showers import Showers, write
from calostudy.timing import (
    Race,
    Sample,
    geant4_time,
    race,
    shipped_geant4_time,
    speed_up,
    time_by_evaluations,
    time_contestants,
    time_surrogate,
)


def quiet(seconds: float) -> Sample:
    return Sample(seconds, seconds, busy=0.0, quiet=True)


def disturbed(seconds: float) -> Sample:
    return Sample(seconds, seconds, busy=1.5, quiet=False)


class Clock:
    """A machine whose time passes only when a test says so, with an account of busy cores."""

    def __init__(self):
        self.now = self.own = self.machine = 0.0

    def spend(self, seconds, *, working=False, others=0.0):
        self.now += seconds
        self.own += seconds * working
        self.machine += seconds * (working + others)

    def perf_counter(self):
        return self.now

    def process_time(self):
        return self.own


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(timing, "_busy_seconds", lambda: clock.machine)
    return clock


# ---- the protocol -----------------------------------------------------------------------------


def test_a_case_that_takes_three_times_as_long_is_found_to(clock):
    cases = {"slow": lambda: clock.spend(0.03, working=True), "fast": lambda: clock.spend(0.01)}
    run = race(cases, rounds=5)
    assert run.ratio("slow", "fast").median == pytest.approx(3)
    assert run.timing("fast").median == pytest.approx(0.01)
    assert run.timing("slow").cpu == pytest.approx(0.03)
    assert run.timing("fast").cpu == 0.0  # waiting uses no processor


def test_a_real_clock_is_read():
    cases = {"slow": lambda: time.sleep(0.06), "fast": lambda: time.sleep(0.01)}
    run = race(cases, rounds=3, minimum=0.02)
    assert run.ratio("slow", "fast").median > 1.5
    assert run.timing("slow").median >= 0.06
    assert run.timing("slow").cpu < 0.03


def test_the_spread_is_the_central_68_percent(clock):
    durations = iter([1.0, 1.0, *np.linspace(1.0, 2.0, 101)])
    found = race({"x": lambda: clock.spend(next(durations))}, rounds=101, budget=1e9).timing("x")
    assert (found.low, found.median, found.high) == pytest.approx((1.16, 1.5, 1.84))


def test_every_case_runs_in_every_round_in_an_order_that_changes(clock):
    calls = []
    cases = {name: lambda name=name: calls.append(name) or clock.spend(1.0) for name in "abc"}
    run = race(cases, rounds=12, seed=1)
    assert {len(run.samples[name]) for name in "abc"} == {12}
    rounds = [tuple(calls[-36:][i : i + 3]) for i in range(0, 36, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 2


def test_short_calls_are_repeated_until_a_sample_lasts(clock):
    calls = []
    race({"short": lambda: calls.append(1) or clock.spend(0.001)}, rounds=1, minimum=0.1)
    assert len(calls) == 2 + 100  # the warm-up, the first measurement, one sample


def test_warming_up_is_not_counted(clock):
    durations = iter([1.0] + [0.005] * 1000)
    found = race({"x": lambda: clock.spend(next(durations))}, rounds=3).timing("x")
    assert found.high == pytest.approx(0.005)


def test_a_slow_case_sits_out_rounds_so_that_the_race_ends(clock):
    calls = {"slow": 0}

    def slow():
        calls["slow"] += 1
        clock.spend(50.0)

    run = race({"slow": slow, "fast": lambda: clock.spend(0.001)}, rounds=8, budget=120)
    assert calls["slow"] == 1 + 2  # the warm-up, and two rounds
    assert run.timing("slow").rounds == 2
    assert sorted(run.samples["slow"]) == [0, 4]
    assert len(run.samples["fast"]) == 8
    assert run.ratio("slow", "fast").rounds == 2
    one = race({"slow": slow}, rounds=8, budget=10)
    assert one.timing("slow").rounds == 1


def test_noisy_rounds_are_left_out_where_three_quiet_ones_remain():
    samples = {0: quiet(1.0), 1: disturbed(5.0), 2: quiet(1.1), 3: quiet(0.9), 4: disturbed(7.0)}
    found = Race({"x": samples}).timing("x")
    assert (found.median, found.rounds, found.dropped, found.noisy) == (1.0, 3, 2, False)
    assert found.busy == 0.0


def test_without_three_quiet_rounds_all_count_and_the_result_says_that_it_is_noisy():
    samples = {0: quiet(1.0), 1: disturbed(5.0), 2: quiet(1.1), 3: disturbed(6.0)}
    found = Race({"x": samples}).timing("x")
    assert (found.rounds, found.dropped, found.noisy) == (4, 0, True)
    assert found.busy == 0.75


def test_ratios_are_paired_so_that_a_slow_phase_of_the_machine_cancels():
    phases = {i: 1 + i for i in range(6)}
    run = Race(
        {
            "a": {i: quiet(2.0 * phase) for i, phase in phases.items()},
            "b": {i: quiet(1.0 * phase) for i, phase in phases.items()},
        }
    )
    ratio = run.ratio("a", "b")
    assert (ratio.median, ratio.low, ratio.high, ratio.rounds) == (2.0, 2.0, 2.0, 6)
    assert run.timing("a").high > 2 * run.timing("a").low


def test_what_other_processes_use_is_measured(clock):
    cases = {"x": lambda: clock.spend(0.1, working=True, others=1.5)}
    found = race(cases, rounds=3).timing("x")
    assert found.busy == pytest.approx(1.5)
    assert found.noisy


def test_own_work_is_not_taken_for_that_of_others(clock):
    found = race({"x": lambda: clock.spend(0.1, working=True)}, rounds=3).timing("x")
    assert found.busy == pytest.approx(0.0)
    assert not found.noisy


def test_the_kernel_s_account_of_busy_cores_advances_with_work():
    before, end = timing._busy_seconds(), time.process_time() + 0.2
    while time.process_time() < end:
        sum(range(1000))
    assert timing._busy_seconds() - before > 0.1


def test_a_race_without_cases_or_rounds_is_refused():
    with pytest.raises(UsageError):
        race({})
    with pytest.raises(UsageError):
        race({"x": lambda: None}, rounds=0)


# ---- surrogates -------------------------------------------------------------------------------


class Toy:
    """Takes 2 ms per batch and 1 ms per shower; the yardstick twice that."""

    name, size, weights_sha256 = "toy", "embedded", None
    dataset = dataset("calogan-eplus")

    def __init__(self, clock=None):
        self.clock, self.energies, self.firsts = clock, [], []

    def to(self, device):
        return self

    def sample(self, incident_energy, seed=0, first=0, sampler="own"):
        self.energies.append(incident_energy)
        self.firsts.append(first)
        seconds = 2e-3 + 1e-3 * len(incident_energy)
        self.clock.spend(seconds * (2 if sampler == "yardstick" else 1), working=True)

    def __repr__(self):
        return "toy calogan-eplus embedded"


def test_milliseconds_are_per_shower_and_batches_are_timed_one_by_one(clock):
    one, ten = time_surrogate(Toy(clock), batches=(1, 10), rounds=3)
    assert (one.batch, ten.batch) == (1, 10)
    assert (one.value, one.cpu) == pytest.approx((3.0, 3.0))
    assert ten.value == pytest.approx(1.2)
    assert (one.target, one.trained, one.rounds, one.noisy) == ("cpu-1/fp32", False, 3, False)
    assert one.yardstick is one.ratio is None
    assert "MeV" in one.inside
    assert one.as_dict()["value"] == one.value


def test_a_yardstick_is_interleaved_and_compared_round_by_round(clock):
    found = time_surrogate(Toy(clock), batches=(10,), against="yardstick", rounds=3)[0]
    assert found.yardstick == "yardstick"
    assert (found.ratio_low, found.ratio, found.ratio_high) == pytest.approx((2.0, 2.0, 2.0))
    assert found.yardstick_value == pytest.approx(2.4)
    assert found.yardstick_rounds == 3


def test_every_call_has_other_energies_of_the_dataset(clock):
    surrogate = Toy(clock)
    time_surrogate(surrogate, batches=(5,), rounds=4)
    assert len({tuple(energies) for energies in surrogate.energies}) == timing.ENERGY_SETS
    assert surrogate.firsts[:3] == [0, 5, 10]
    flat = np.concatenate(surrogate.energies)
    assert surrogate.dataset.law("simulated").contains(flat).all()
    assert flat.std() > 1e4  # 1 to 100 GeV


def test_a_target_that_the_surrogate_does_not_do_is_refused_not_mislabelled():
    for target in ("cpu-1/bf16", "cpu-1/fp32/compile", "cpu-1/fp16"):
        with pytest.raises(UsageError, match="toy"):
            time_surrogate(Toy(), batches=(1,), target=target)
    with pytest.raises(UsageError, match="no precision"):
        time_surrogate(Toy(), batches=(1,), target="cpu-1/fp31")


class ToyDiffusion(Toy):
    """Takes 5 ms per batch and 1 ms for each shower and each of 400 network evaluations."""

    network_evaluations = 400

    def sample(self, incident_energy, seed=0, first=0, evaluations=None):
        self.clock.spend(5e-3 + 1e-3 * len(incident_energy) * (evaluations or 400), working=True)


def test_a_few_network_evaluations_tell_the_time_of_all(clock):
    toy = ToyDiffusion(clock)
    (whole,) = time_surrogate(toy, batches=(10,), rounds=3)
    begun = clock.now
    found = time_by_evaluations(toy, 10, rounds=3)
    assert clock.now - begun < 2.0 < 4.0 < whole.value * 10 * 1e-3
    assert (found.value, found.low, found.high, found.cpu) == pytest.approx((whole.value,) * 4)
    assert (found.evaluations, found.rounds, found.noisy) == (8, 3, False)
    assert whole.evaluations is None


def test_a_real_surrogate_is_timed_against_its_yardstick(monkeypatch):
    monkeypatch.setattr(race, "__defaults__", (9, 0, 0.01, timing.BUDGET_SECONDS))
    surrogate = build("caloflow-teacher", "calogan-eplus", "embedded")
    found = time_surrogate(surrogate, batches=(20,), against="incremental", rounds=5)[0]
    assert found.ratio == pytest.approx(1.0, rel=0.5)  # the same sampler on both sides
    assert found.cpu > 0 and not found.trained


# ---- Geant4 -----------------------------------------------------------------------------------


def test_geant4_s_mean_its_error_and_the_line_against_energy_are_found():
    rng = np.random.default_rng(1)
    energies = rng.uniform(1e3, 1e5, 2000)
    seconds = (1e-3 + 8e-6 * energies / 1) * rng.normal(1, 0.03, 2000)
    found = geant4_time(energies, seconds, "in a test")
    assert found.value == pytest.approx(seconds.mean() * 1e3)
    assert found.uncertainty == pytest.approx(seconds.std(ddof=1) * 1e3 / np.sqrt(2000))
    assert found.offset == pytest.approx(1.0, abs=0.1)
    assert found.slope == pytest.approx(8.0, rel=0.01)  # ms per GeV
    assert found.fit(50.0) == pytest.approx(401, rel=0.01)
    assert {"value", "uncertainty", "offset", "slope", "where"} <= set(found.as_dict())
    bins = found.by_energy(4)
    assert [entry["showers"] for entry in bins] == [500] * 4
    assert all(a["high"] <= b["low"] for a, b in pairwise(bins))
    assert bins[2]["value"] == pytest.approx(found.fit(bins[2]["energy"]), rel=0.02)


def test_times_and_energies_of_different_length_are_refused():
    with pytest.raises(DataError, match="3 times for 4"):
        geant4_time(np.ones(4), np.ones(3), "in a test")
    with pytest.raises(DataError):
        geant4_time(np.ones(1), np.ones(1), "in a test")


def test_shipped_times_are_read_from_beside_the_showers(tmp_path, monkeypatch):
    monkeypatch.setenv("CALOSTUDY_DATA", str(tmp_path))
    entry = dataset("calogan-eplus")
    energies = np.linspace(2e3, 9e4, 50)
    cells = np.outer(energies, np.full(entry.calorimeter.cells, 1 / 504)).astype(np.float32)
    folder = tmp_path / "showers" / entry.name
    folder.mkdir(parents=True)
    write(folder / "evaluation.h5", Showers(entry.calorimeter, energies, cells, np.zeros((50, 3))))
    with pytest.raises(DataError, match=r"evaluation\.geant4\.h5"):
        shipped_geant4_time(entry)
    with h5py.File(folder / "evaluation.geant4.h5", "w") as file:
        file["cpu_seconds"] = 8e-6 * energies
    assert shipped_geant4_time(entry).slope == pytest.approx(8.0)
    assert shipped_geant4_time(entry).value == pytest.approx(8e-3 * energies.mean())


def test_the_speed_up_joins_both_uncertainties(clock):
    geant4 = geant4_time(np.array([1e4, 2e4, 3e4]), np.array([0.1, 0.2, 0.3]), "in a test")
    ours = time_surrogate(Toy(clock), batches=(1,), rounds=3)[0]
    ours = dataclasses.replace(ours, low=2.5, high=4.0)
    value, error = speed_up(geant4, ours)
    assert value == pytest.approx(200 / ours.value)
    relative = np.hypot(geant4.uncertainty / 200, 0.75 / ours.value)
    assert error == pytest.approx(value * relative)


def test_contestants_take_turns_and_are_compared_with_one_of_them(monkeypatch):
    monkeypatch.setattr(timing, "MINIMUM_SECONDS", 1e-3)
    surrogate = build("caloinn", "ds1-photons")
    contestants = {"fast": (surrogate, None), "slow": (surrogate, "eager")}
    found = time_contestants(contestants, 2, "cpu-1/fp32", "slow", rounds=2, energy=1e4)
    assert list(found) == ["fast", "slow"]
    assert found["fast"].yardstick == "slow" and found["fast"].ratio > 0
    assert found["slow"].ratio is None
    with pytest.raises(UsageError, match="no contestant 'plain'; there are fast, slow"):
        time_contestants(contestants, 2, against="plain")
