"""The study's clock: interleaved rounds, medians with their spread, ratios of paired rounds.

Inside the clock: from incident energies and a seed to cell energies in MeV, in memory: drawing the
noise, all networks with their samplers, and the maps back to energies with the threshold. Outside:
the start of the process, loading weights, building the sampler, compilation, writing files.

Every call has other incident energies and other noise, drawn before the clock starts. After each
case has run once to warm up, each round times every case once, in shuffled order; a case too slow
for its budget sits out some of the rounds, and the result says how many it ran. A sample of a case
is repeated until it lasts ``MINIMUM_SECONDS``. The result is the median over rounds, its spread the
16 and 84 % quantiles; a ratio is the median of the ratios within each round, so that a machine that
slows down for a while slows both. A diffusion too slow for any round can be timed at two numbers of
network evaluations, of which a straight line says what all of them take.

How busy other processes kept the machine is read from the kernel around each sample: samples above
``BUSY`` are left out where three quiet ones remain, and the result is marked as noisy where they do
not. The CPU time that the process itself used is recorded beside: it is what a busy machine
disturbs least.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import h5py
import numpy as np
import psutil

from calostudy.catalogue import Dataset
from calostudy.datasets import showers_path
from calostudy.energies import GEV, energy_groups
from calostudy.errors import DataError, UsageError
from calostudy.generation import draw_energies
from calostudy.hardware import HardwareTarget, require_support
from calostudy.hardware import target as hardware_target
from calostudy.models.diffusion import Diffusion
from calostudy.models.surrogate import Surrogate
from calostudy.showers import read_energies

MINIMUM_SECONDS = 0.2
SLOW = 10  # times MINIMUM_SECONDS: such a case is warm after one call
ENERGY_SETS = 64  # different calls before the energies repeat
BUSY = 0.2  # cores that other processes may use in a sample that counts as quiet
TICK = 0.01  # s, the resolution of the kernel's CPU times
QUANTILES = (0.16, 0.84)
BUDGET_SECONDS = 30.0  # of one case after its warm-up

INSIDE = "incident energies and seed to cell energies in MeV, in memory"


@dataclass(frozen=True)
class Timing:
    """Seconds of one call of one case over the rounds.

    cpu: median CPU seconds of this process, all threads; rounds: how many count; dropped: how many
    were left out because other processes were busy; busy: median number of cores that others used
    in the rounds that count; noisy: whether fewer than three rounds were quiet.
    """

    median: float
    low: float
    high: float
    cpu: float
    rounds: int
    dropped: int
    busy: float
    noisy: bool


@dataclass(frozen=True)
class Ratio:
    """How many times slower one case is than another: median of paired rounds, 16-84 % range."""

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Sample:
    """One sample of a case: wall and CPU seconds per call, and the cores that others used."""

    seconds: float
    cpu: float
    busy: float
    quiet: bool


@dataclass(frozen=True)
class Race:
    """What was sampled: case -> round -> sample; a case need not have run in every round."""

    samples: Mapping[str, Mapping[int, Sample]]

    def counted(self, case: str) -> dict[int, Sample]:
        """The rounds of a case that count: the quiet ones if there are three, else all."""
        played = self.samples[case]
        quiet = {i: sample for i, sample in played.items() if sample.quiet}
        return quiet if len(quiet) >= 3 else dict(played)

    def timing(self, case: str) -> Timing:
        """Median and spread of a case."""
        kept = self.counted(case)
        values = [sample.seconds for sample in kept.values()]
        low, median, high = np.quantile(values, (QUANTILES[0], 0.5, QUANTILES[1]))
        return Timing(
            float(median),
            float(low),
            float(high),
            cpu=float(np.median([sample.cpu for sample in kept.values()])),
            rounds=len(kept),
            dropped=len(self.samples[case]) - len(kept),
            busy=float(np.median([sample.busy for sample in kept.values()])),
            noisy=sum(sample.quiet for sample in kept.values()) < 3,
        )

    def ratio(self, slow: str, fast: str) -> Ratio:
        """``slow`` over ``fast``, round by round, in the rounds that both ran."""
        a, b = self.counted(slow), self.counted(fast)
        common = a.keys() & b.keys()
        if not common:  # different rounds were quiet
            a, b = self.samples[slow], self.samples[fast]
            common = a.keys() & b.keys()
        ratios = [a[i].seconds / b[i].seconds for i in common]
        low, median, high = np.quantile(ratios, (QUANTILES[0], 0.5, QUANTILES[1]))
        return Ratio(float(median), float(low), float(high), len(ratios))


def race(
    cases: Mapping[str, Callable[[], object]],
    rounds: int = 9,
    seed: int = 0,
    minimum: float = MINIMUM_SECONDS,
    budget: float = BUDGET_SECONDS,
) -> Race:
    """Time the cases in ``rounds`` interleaved rounds of shuffled order.

    A case that would take longer than ``budget`` seconds runs in fewer of the rounds, spread over
    them evenly, but always in the first; beside its warm-up that bounds the time that this takes.

    Raises:
        UsageError: no case, or no round.
    """
    if not cases or rounds < 1:
        raise UsageError("a race needs a case and a round at least")
    repeats, turns = {}, {}
    for name, call in cases.items():
        once = _sample(call, 1).seconds  # compilation, allocation, caches
        if once < SLOW * minimum:
            once = _sample(call, 1).seconds
        repeats[name] = max(1, round(minimum / max(once, 1e-9)))
        affordable = int(budget / max(once * repeats[name], minimum))
        count = max(1, min(rounds, affordable))
        turns[name] = {i * rounds // count for i in range(count)}
    shuffle = random.Random(seed)
    samples: dict[str, dict[int, Sample]] = {name: {} for name in cases}
    for i in range(rounds):
        order = [name for name in cases if i in turns[name]]
        shuffle.shuffle(order)
        for name in order:
            samples[name][i] = _sample(cases[name], repeats[name])
    return Race(samples)


def _sample(call: Callable[[], object], repeats: int) -> Sample:
    machine, own, start = _busy_seconds(), time.process_time(), time.perf_counter()
    for _ in range(repeats):
        call()
    duration = time.perf_counter() - start
    cpu = time.process_time() - own
    busy = max(0.0, (_busy_seconds() - machine - cpu) / duration)
    return Sample(duration / repeats, cpu / repeats, busy, busy < BUSY + 2 * TICK / duration)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


# ---- surrogates ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class SurrogateTime:
    """ms per shower of one surrogate at one batch size on one target.

    value, low, high: median and 16-84 % quantiles over rounds; cpu: CPU ms of all threads; noisy:
    other processes were busy in all but two rounds; yardstick: what ``ratio`` (yardstick over ours,
    paired) compares with, its own ms per shower beside; trained: or random weights; evaluations:
    the most network evaluations that ran, where they are not all and the rest is counted on.
    """

    model: str
    dataset: str
    size: str
    trained: bool
    target: str
    batch: int
    value: float
    low: float
    high: float
    cpu: float
    rounds: int
    dropped: int
    busy: float
    noisy: bool
    yardstick: str | None = None
    yardstick_value: float | None = None
    yardstick_rounds: int | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    evaluations: int | None = None
    inside: str = INSIDE

    def as_dict(self) -> dict:
        return asdict(self)


def time_surrogate(
    surrogate: Surrogate,
    batches: Sequence[int] = (1, 10, 100),
    target: str | HardwareTarget = "cpu-1/fp32",
    against: str | None = None,
    rounds: int = 9,
    seed: int = 0,
    budget: float = BUDGET_SECONDS,
) -> list[SurrogateTime]:
    """ms per shower for each batch size, with incident energies by the dataset's law.

    against: a sampler of the surrogate (such as "nflows") that is timed interleaved as yardstick.

    Raises:
        UsageError: unknown target or yardstick, or a target that this machine or the surrogate
            lacks.
    """
    contestants = {"ours": (surrogate, None)} | ({against: (surrogate, against)} if against else {})
    return [
        time_contestants(contestants, batch, target, against, rounds, seed, budget)["ours"]
        for batch in batches
    ]


def time_by_evaluations(
    surrogate: Diffusion,
    batch: int,
    target: str | HardwareTarget = "cpu-1/fp32",
    few: int = 2,
    rounds: int = 5,
    seed: int = 0,
    budget: float = BUDGET_SECONDS,
) -> SurrogateTime:
    """ms per shower of a diffusion that takes too long to be timed whole.

    `few` network evaluations and many more run in each round; the straight line through their times
    says what the surrogate's own number takes. What does not depend on it (the other networks,
    noise, energies) is in both; so many more are taken that they last twice as long.

    Raises:
        UsageError: unknown target, or one that this machine or the surrogate lacks.
    """
    where = hardware_target(target)
    require_support(surrogate, where)
    with where.active():
        surrogate.to(where.torch_device)

        def calls(count: int) -> Callable[[], None]:
            return _calls(surrogate, batch, where, seed, None, {"evaluations": count})

        calls(few)()  # compilation, caches
        shortest, many = _sample(calls(few), 1).seconds, 2 * few
        while many < surrogate.network_evaluations:
            if _sample(calls(many), 1).seconds >= 2 * shortest:
                break
            many *= 2
        run = race({"few": calls(few), "many": calls(many)}, rounds, seed, budget=budget)
        surrogate.to("cpu")
    a, b = run.samples["few"], run.samples["many"]
    share = (surrogate.network_evaluations - few) / (many - few)
    whole = {
        i: Sample(
            a[i].seconds + share * (b[i].seconds - a[i].seconds),
            a[i].cpu + share * (b[i].cpu - a[i].cpu),
            max(a[i].busy, b[i].busy),
            a[i].quiet and b[i].quiet,
        )
        for i in a.keys() & b.keys()
    }
    found = _summary(Race({"whole": whole}), "whole", surrogate, batch, where, None)
    return replace(found, evaluations=many)


Contestant = tuple[Surrogate, str | None]
"""A surrogate and the sampler that it is to use, None for its first."""


def time_contestants(
    contestants: Mapping[str, Contestant],
    batch: int,
    target: str | HardwareTarget = "cpu-1/fp32",
    against: str | None = None,
    rounds: int = 9,
    seed: int = 0,
    budget: float = BUDGET_SECONDS,
    energy: float | None = None,
) -> dict[str, SurrogateTime]:
    """ms per shower of several surrogates or samplers at one batch size, in one interleaved run.

    against: the name of the contestant that all others are compared with (`ratio`: its time over
    theirs, round by round). energy: incident energy in MeV, by default those of the dataset's law.

    Raises:
        UsageError: unknown target or yardstick, or a target that this machine or a surrogate lacks.
    """
    where = hardware_target(target)
    if against is not None and against not in contestants:
        raise UsageError(f"no contestant {against!r}; there are {', '.join(contestants)}")
    for surrogate, _ in contestants.values():
        require_support(surrogate, where)
    with where.active():
        for surrogate, _ in contestants.values():
            surrogate.to(where.torch_device)
        cases = {
            name: _calls(
                surrogate, batch, where, seed, energy, {"sampler": sampler} if sampler else {}
            )
            for name, (surrogate, sampler) in contestants.items()
        }
        run = race(cases, rounds, seed, budget=budget)
        for surrogate, _ in contestants.values():
            surrogate.to("cpu")
    return {
        name: _summary(run, name, surrogate, batch, where, None if name == against else against)
        for name, (surrogate, _) in contestants.items()
    }


def _summary(
    run: Race, name: str, surrogate: Surrogate, batch: int, where: HardwareTarget, against
) -> SurrogateTime:
    ours = run.timing(name)
    scale = 1e3 / batch
    compared = {}
    if against:
        ratio, yardstick = run.ratio(against, name), run.timing(against)
        compared = {
            "yardstick": against,
            "yardstick_value": yardstick.median * scale,
            "yardstick_rounds": yardstick.rounds,
            "ratio": ratio.median,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
        }
    return SurrogateTime(
        model=surrogate.name,
        dataset=surrogate.dataset.name,
        size=surrogate.size,
        trained=surrogate.weights_sha256 is not None,
        target=where.name,
        batch=batch,
        value=ours.median * scale,
        low=ours.low * scale,
        high=ours.high * scale,
        cpu=ours.cpu * scale,
        rounds=ours.rounds,
        dropped=ours.dropped,
        busy=ours.busy,
        noisy=ours.noisy,
        **compared,
    )


def _calls(
    surrogate: Surrogate,
    batch: int,
    where: HardwareTarget,
    seed: int,
    energy: float | None,
    options: Mapping[str, object],
) -> Callable[[], None]:
    """A function that generates one batch, other showers at each call."""
    energies = draw_energies(surrogate.dataset, batch * ENERGY_SETS, seed)
    if energy is not None:
        energies = np.full_like(energies, energy)
    numbers = itertools.cycle(range(ENERGY_SETS))

    def generate() -> None:
        first = next(numbers) * batch
        surrogate.sample(energies[first : first + batch], seed=seed, first=first, **options)
        where.synchronise()

    return generate


# ---- Geant4 -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Geant4Time:
    """CPU time of Geant4 per shower: ``cpu_ms`` (N,) at incident energies ``energy_gev`` (N,).

    value and uncertainty: mean over the incident energies of the sample, and its error, in ms.
    offset and slope, with their errors: fit of offset + slope x E(GeV), in ms and ms per GeV, with
    its chi2 over ndf; for one single energy a line through the origin without errors (None). where:
    which showers.
    """

    energy_gev: np.ndarray
    cpu_ms: np.ndarray
    value: float
    uncertainty: float
    offset: float
    slope: float
    where: str
    offset_error: float | None = None
    slope_error: float | None = None
    chi2: float | None = None
    ndf: int = 0

    def fit(self, energy_gev: np.ndarray) -> np.ndarray:
        """The fitted ms per shower at energies in GeV."""
        return self.offset + self.slope * np.asarray(energy_gev)

    def by_energy(self, bins: int = 8) -> list[dict[str, float]]:
        """Mean ms per shower and its error for each incident energy, or bins of equal counts."""
        return _cpu_by_energy(self.energy_gev, self.cpu_ms, bins)

    def sentence(self) -> str:
        """The times in words."""
        mean = (
            f"Geant4 took {self.value:.0f} ± {self.uncertainty:.0f} CPU ms per shower (mean over "
            f"{len(self.cpu_ms):,} showers and their incident energies), recorded {self.where}; "
        )
        if self.slope_error is None:
            return f"{mean}all have one energy, at {self.slope:.3g} ms per GeV."
        quality = f", χ²/ndf = {self.chi2:.1f}/{self.ndf}" if self.ndf else ""
        return (
            f"{mean}the fit is ({self.offset:.2g} ± {self.offset_error:.1g}) ms + "
            f"({self.slope:.4g} ± {self.slope_error:.1g}) ms per GeV{quality}."
        )

    def as_dict(self) -> dict[str, float]:
        names = (
            "value", "uncertainty", "offset", "slope", "where",
            "offset_error", "slope_error", "chi2", "ndf",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


def _cpu_by_energy(energy: np.ndarray, cpu: np.ndarray, bins: int) -> list[dict[str, float]]:
    return [
        {
            "low": float(energy[rows].min()),
            "high": float(energy[rows].max()),
            "energy": float(energy[rows].mean()),
            "value": float(cpu[rows].mean()),
            "uncertainty": float(cpu[rows].std(ddof=1) / np.sqrt(len(rows))),
            "showers": len(rows),
        }
        for rows in energy_groups(energy, bins)
        if len(rows) > 1
    ]


def geant4_time(energies: np.ndarray, cpu_seconds: np.ndarray, where: str) -> Geant4Time:
    """Summary of the CPU times (N,) in s of single showers at incident energies (N,) in MeV.

    The line is fitted to the single times, whose relative fluctuation is about the same at all
    energies, with weights 1 / fitted value, twice; its errors take the fluctuation from the sample.
    chi2 and ndf are those of the mean residuals of groups of like energy.

    Raises:
        DataError: fewer than two showers, or not one time for each energy.
    """
    if len(energies) != len(cpu_seconds) or len(energies) < 2:
        raise DataError(
            f"times of Geant4 {where}: {len(cpu_seconds)} times for {len(energies)} incident "
            "energies, expected one for each of at least two"
        )
    energy, cpu = np.asarray(energies) / GEV, np.asarray(cpu_seconds, dtype=np.float64) * 1e3
    error = float(cpu.std(ddof=1) / np.sqrt(len(cpu)))
    summary = energy, cpu, float(cpu.mean()), error
    if np.ptp(energy) < 1e-6 * energy.max():
        return Geant4Time(*summary, 0.0, float(cpu.mean() / energy.mean()), where)
    weight = 1 / energy
    for _ in range(2):
        slope, offset = np.polyfit(energy, cpu, 1, w=weight)
        weight = 1 / np.maximum(offset + slope * energy, 1e-3 * cpu.max())
    if len(cpu) < 4:
        return Geant4Time(*summary, float(offset), float(slope), where)
    (slope, offset), covariance = np.polyfit(energy, cpu, 1, w=weight, cov=True)
    slope_error, offset_error = np.sqrt(np.diag(covariance))
    rest = _cpu_by_energy(energy, cpu - offset - slope * energy, 8)
    pulls = [row["value"] / row["uncertainty"] for row in rest if row["uncertainty"] > 0]
    return Geant4Time(
        *summary,
        float(offset),
        float(slope),
        where,
        offset_error=float(offset_error),
        slope_error=float(slope_error),
        chi2=float(np.square(pulls).sum()),
        ndf=max(len(pulls) - 2, 0),
    )


def shipped_geant4_time(entry: Dataset, split: str = "evaluation") -> Geant4Time:
    """Geant4's times, recorded while the shipped showers were made, on the machine that made them.

    Raises:
        DataError: the file of times beside the showers is missing or damaged.
    """
    path = showers_path(entry.name, split)
    beside = path.with_suffix(".geant4.h5")
    try:
        with h5py.File(beside, "r") as file:
            cpu = file["cpu_seconds"][:]
    except (OSError, KeyError) as error:
        raise DataError(f"{beside}: no CPU times of the simulation in it ({error})") from None
    return geant4_time(read_energies(path, entry.calorimeter), cpu, f"while {path.name} was made")


def speed_up(geant4: Geant4Time, surrogate: SurrogateTime) -> tuple[float, float]:
    """Geant4's over the surrogate's ms per shower, and its uncertainty.

    The uncertainty joins the error of Geant4's mean and half the 16-84 % range of the surrogate's
    rounds, both relative, in quadrature.
    """
    value = geant4.value / surrogate.value
    relative = np.hypot(
        geant4.uncertainty / geant4.value,
        (surrogate.high - surrogate.low) / 2 / surrogate.value,
    )
    return value, float(value * relative)
