"""The study's clock: interleaved rounds, medians with their spread, ratios of paired rounds.

Inside the clock: from incident energies and a seed to cell energies in MeV, in memory: drawing the
noise, all networks with their samplers, and the maps back to energies with the threshold. Outside:
the start of the process, loading weights, building the sampler, compilation, writing files.

Each round times every case once, in shuffled order, after every case has run once to warm up. A
sample of a case is repeated until it lasts ``MINIMUM_SECONDS``. The result is the median over
rounds, its spread the 16 and 84 % quantiles; a ratio is the median of the ratios within each round,
so that a machine that slows down for a while slows both. How busy other processes kept the machine
is read from the kernel around each sample: rounds above ``BUSY`` are left out where three quiet
ones remain.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import h5py
import numpy as np
import psutil

from calostudy.catalogue import Dataset
from calostudy.datasets import showers_path
from calostudy.energies import GEV
from calostudy.errors import DataError, UsageError
from calostudy.generation import draw_energies
from calostudy.hardware import HardwareTarget
from calostudy.hardware import target as hardware_target
from calostudy.models.surrogate import Surrogate
from calostudy.showers import read_energies

MINIMUM_SECONDS = 0.1
BUSY = 0.2  # cores that other processes may use in a round that counts as quiet
QUANTILES = (0.16, 0.84)
BUDGET_SECONDS = 120.0  # of the slowest case; rounds are cut so that it ends

INSIDE = "incident energies and seed to cell energies in MeV, in memory"


@dataclass(frozen=True)
class Timing:
    """Seconds of one call of one case over the rounds.

    rounds: how many count; dropped: how many were left out because other processes were busy;
    busy: median number of cores that other processes used in the rounds that count.
    """

    median: float
    low: float
    high: float
    rounds: int
    dropped: int
    busy: float


@dataclass(frozen=True)
class Ratio:
    """How many times slower one case is than another: median of paired rounds, 16-84 % range."""

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Race:
    """Seconds per call of every case, (rounds,), with what others did meanwhile (cores)."""

    seconds: Mapping[str, np.ndarray]
    busy: np.ndarray

    @property
    def counted(self) -> np.ndarray:
        """Which rounds count: the quiet ones if there are three, else all, (rounds,) bool."""
        quiet = self.busy < BUSY
        return quiet if quiet.sum() >= 3 else np.ones(len(quiet), dtype=bool)

    def timing(self, case: str) -> Timing:
        """Median and spread of a case."""
        kept = self.counted
        low, median, high = np.quantile(self.seconds[case][kept], (QUANTILES[0], 0.5, QUANTILES[1]))
        dropped = int((~kept).sum())
        busy = float(np.median(self.busy[kept]))
        return Timing(float(median), float(low), float(high), int(kept.sum()), dropped, busy)

    def ratio(self, slow: str, fast: str) -> Ratio:
        """``slow`` over ``fast``, round by round."""
        ratios = (self.seconds[slow] / self.seconds[fast])[self.counted]
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

    A case so slow that its rounds would outlast ``budget`` seconds cuts the rounds of all, to one at
    least; the result says how many there were.

    Raises:
        UsageError: no case, or no round.
    """
    if not cases or rounds < 1:
        raise UsageError("a race needs a case and a round at least")
    repeats, first = {}, {}
    for name, call in cases.items():
        call()  # compilation, allocation, caches
        first[name] = _sample(call, 1)
        repeats[name] = max(1, int(minimum / max(first[name][0], 1e-9)))
    slowest = max(seconds for seconds, _ in first.values())
    rounds = max(1, min(rounds, int(budget / max(slowest, minimum))))
    shuffle = random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    busy = []
    for _ in range(rounds):
        order = list(cases)
        shuffle.shuffle(order)
        worst = 0.0
        for name in order:
            duration, others = _sample(cases[name], repeats[name])
            seconds[name].append(duration)
            worst = max(worst, others)
        busy.append(worst)
    return Race({name: np.array(values) for name, values in seconds.items()}, np.array(busy))


def _sample(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Seconds per call, and the number of cores that other processes used meanwhile."""
    machine, own, start = _busy_seconds(), _own_seconds(), time.perf_counter()
    for _ in range(repeats):
        call()
    duration = time.perf_counter() - start
    others = (_busy_seconds() - machine) - (_own_seconds() - own)
    return duration / repeats, max(0.0, others / duration)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def _own_seconds() -> float:
    times = psutil.Process().cpu_times()
    return times.user + times.system


# ---- surrogates ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class SurrogateTime:
    """ms per shower of one surrogate at one batch size on one target.

    value, low, high: median and 16-84 % quantiles over rounds; yardstick: what ``ratio`` (yardstick
    over ours, paired) compares with, its own ms per shower beside; trained: or random weights.
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
    rounds: int
    dropped: int
    busy: float
    yardstick: str | None = None
    yardstick_value: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
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
        UsageError: unknown target or yardstick, or a target that this machine lacks.
    """
    where = hardware_target(target)
    with where.active():
        return [
            _time_batch(surrogate, batch, where, against, rounds, seed, budget) for batch in batches
        ]


def _time_batch(surrogate, batch, where, against, rounds, seed, budget) -> SurrogateTime:
    energies = draw_energies(surrogate.dataset, batch, seed)

    def call(sampler: str | None) -> Callable[[], None]:
        def generate() -> None:
            surrogate.sample(energies, seed=seed, **({"sampler": sampler} if sampler else {}))
            where.synchronise()

        return generate

    cases = {"ours": call(None)} | ({against: call(against)} if against else {})
    run = race(cases, rounds, seed, budget=budget)
    ours = run.timing("ours")
    scale = 1e3 / batch
    compared = {}
    if against:
        ratio = run.ratio(against, "ours")
        compared = {
            "yardstick": against,
            "yardstick_value": run.timing(against).median * scale,
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
        rounds=ours.rounds,
        dropped=ours.dropped,
        busy=ours.busy,
        **compared,
    )


# ---- Geant4 -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Geant4Time:
    """CPU time of Geant4 per shower: ``cpu_ms`` (N,) at incident energies ``energy_gev`` (N,).

    value and uncertainty: mean over the incident energies of the sample, and its error, in ms.
    offset and slope: fit of offset + slope x E(GeV), in ms and ms per GeV. where: which showers.
    """

    energy_gev: np.ndarray
    cpu_ms: np.ndarray
    value: float
    uncertainty: float
    offset: float
    slope: float
    where: str

    def fit(self, energy_gev: np.ndarray) -> np.ndarray:
        """The fitted ms per shower at energies in GeV."""
        return self.offset + self.slope * np.asarray(energy_gev)

    def as_dict(self) -> dict[str, float]:
        names = ("value", "uncertainty", "offset", "slope", "where")
        return {name: getattr(self, name) for name in names}


def geant4_time(energies: np.ndarray, cpu_seconds: np.ndarray, where: str) -> Geant4Time:
    """Summary of the CPU times (N,) in s of single showers at incident energies (N,) in MeV.

    The relative fluctuation of a shower's time is about the same at all energies, so the line is
    fitted with weights 1/E.
    """
    energy, cpu = np.asarray(energies) / GEV, np.asarray(cpu_seconds, dtype=np.float64) * 1e3
    slope, offset = np.polyfit(energy, cpu, 1, w=1 / energy)
    error = cpu.std(ddof=1) / np.sqrt(len(cpu))
    return Geant4Time(energy, cpu, float(cpu.mean()), float(error), offset, slope, where)


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
