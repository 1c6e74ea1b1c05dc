"""The grid of times, measured: each cell in bounded time, what cannot be measured with its reason.

``python -m calostudy.grid data/measured/times.csv`` measures every model on what this machine has,
most important cells first, for so many seconds (``--budget``). What is there for the same machine,
weights and cell is kept: the same command goes on where it was. Three figures, in ms per shower
(`calostudy.grid_times`):

cold: a process of its own, from its start to the written HDF5 file, as in the CaloChallenge: the
interpreter, imports, weights, compiled code from its cache on disk, all showers, the file.
latency: single showers one after the other in a warm process, with quantiles of the waiting time.
throughput: batches in a warm process by the study's clock (`calostudy.timing`). A diffusion that
takes too long is timed at few network evaluations, and the rest counted on.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from calostudy.errors import CaloStudyError, UsageError, exit_status
from calostudy.files import atomic_path
from calostudy.generation import draw_energies
from calostudy.grid_times import FIELDS, FIGURES, read_times
from calostudy.hardware import HardwareTarget, describe_machine, require_support, target
from calostudy.measured import write_lines
from calostudy.models import MODELS, build, load, shipped_weights
from calostudy.models.diffusion import Diffusion
from calostudy.models.storage import stored
from calostudy.models.surrogate import Surrogate, read_card
from calostudy.probing import Probe, energy_meter, gpu_state, probe, usual_targets
from calostudy.provenance import code_version
from calostudy.timing import SurrogateTime, time_by_evaluations, time_surrogate

CASES = (
    *(("caloflow-teacher", "ds1-photons"), ("caloflow-student", "ds1-photons")),
    *(("caloinn", "ds1-photons"), ("calodiffusion", "ds1-photons"), ("caloscore", "ds1-photons")),
    *(("caloscore-distilled", "ds1-photons"), ("caloscore-single-shot", "ds1-photons")),
    *(("calovae-inn", "ds1-photons"), ("flow-matching", "ds1-photons")),
    *(("caloinn", "ds2"), ("calovae-inn", "ds2"), ("calodiffusion", "ds2"), ("caloscore", "ds2")),
    *(("icaloflow-teacher", "ds2"), ("icaloflow-student", "ds2"), ("l2lflows", "ds2")),
    *(("flow-matching", "ds2"), ("calo-vq", "ds2"), ("supercalo", "ds2"), ("mdma", "ds2")),
    *(("caloscore-distilled", "ds2"), ("caloscore-single-shot", "ds2"), ("calopointflow", "ds2")),
    *(("calodiffusion", "ds3"), ("caloscore", "ds3"), ("calovae-inn", "ds3")),
    *(("icaloflow-teacher", "ds3"), ("icaloflow-student", "ds3"), ("l2lflows", "ds3")),
    *(("flow-matching", "ds3"), ("caloscore-distilled", "ds3"), ("caloscore-single-shot", "ds3")),
    *(("l2lflows", "ild-photons"), ("caloclouds", "ild-photons"), ("caloclouds-cm", "ild-photons")),
    *(("caloflow-teacher", "calogan-eplus"), ("caloflow-student", "calogan-eplus")),
    *(("calodiffusion", "calogan-eplus"), ("flow-matching", "calogan-eplus")),
    *(("caloflow-teacher", "ds1-pions"), ("caloflow-student", "ds1-pions")),
    *(("caloinn", "ds1-pions"), ("calodiffusion", "ds1-pions"), ("caloscore", "ds1-pions")),
    *(("calovae-inn", "ds1-pions"), ("flow-matching", "ds1-pions")),
    *(("dnn-calosim", "ds1-photons"), ("dnn-calosim", "ds1-pions"), ("caloman", "ds1-photons")),
    *(("calogan", "calogan-eplus"), ("bologan", "ds1-photons"), ("bologan", "ds1-pions")),
    *(("caloshowergan", "ds1-photons"), ("caloshowergan", "ds1-pions")),
)
"""Models and data sets, the most important first; all others of the catalogue come behind."""

SIZES = ("embedded", "paper")
BATCHES = (1, 100, 10, 1000, 10000)
ROUNDS = 5
QUERIES = 200
LIMIT = 30.0  # s that a cell may take
LONGER = 600.0  # s that one may take of which the rest is counted on


@dataclass(frozen=True)
class Wanted:
    """A cell to measure."""

    model: str
    dataset: str
    size: str
    target: str
    figure: str
    batch: int


def plan(
    targets: Sequence[str],
    models: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    sizes: Sequence[str] = SIZES,
    batches: Sequence[int] = BATCHES,
    figures: Sequence[str] = FIGURES,
) -> list[Wanted]:
    """The cells, the most important model first, of each the throughput of one and of a hundred
    showers and then the rest; a latency is of single showers, a cold start of at most a hundred.

    Raises:
        UsageError: no such model, figure or target.
    """
    for name in models or ():
        if name not in MODELS:
            raise UsageError(f"no model {name!r}; there are {', '.join(MODELS)}")
    for figure in figures:
        if figure not in FIGURES:
            raise UsageError(f"no figure {figure!r}; there are {', '.join(FIGURES)}")
    names = [target(name).name for name in targets]
    rest = [(name, data) for name, family in MODELS.items() for data in family.datasets]
    cases = list(dict.fromkeys([*CASES, *rest]))
    kinds = [("throughput", batch) for batch in batches]
    kinds[2:2] = [("latency", 1), ("cold", min(max(batches), 100))]
    return [
        Wanted(model, dataset, size, name, figure, batch)
        for model, dataset in cases
        if (models is None or model in models) and (datasets is None or dataset in datasets)
        for size in sizes
        if size in MODELS[model].sizes
        for figure, batch in kinds
        if figure in figures
        for name in names
    ]


def machine_key() -> str:
    """A short name of this machine, of its processor, cores and GPU."""
    about = describe_machine()
    parts = [about["cpu"], f"{about['cores']} cores", *(gpu["name"] for gpu in about["gpus"][:1])]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


def measure(wanted: Wanted, budget: float, peaks: Probe | None = None) -> dict:
    """The line of a cell: its numbers, or the reason why there are none.

    budget: seconds for the samples of a cell; a cell that takes more than `LIMIT` is given up, or,
    if it is the throughput of a diffusion, timed at few network evaluations.
    """
    line = {**asdict(wanted), "unit": "ms per shower", "trained": False, "weights_sha256": ""}
    try:
        where = target(wanted.target)
        weights = shipped_weights(wanted.model, wanted.dataset, wanted.size)
        line["trained"] = weights is not None
        reason = where.missing()
        if reason:
            raise UsageError(reason)
        surrogate = _surrogate(wanted.model, wanted.dataset, wanted.size)
        line["weights_sha256"] = (surrogate.weights_sha256 or "")[:12]
        require_support(surrogate, where)
        try:
            with _limited(LIMIT):
                found = MEASURES[wanted.figure](surrogate, where, wanted.batch, budget)
        except TimeoutError:
            if wanted.figure != "throughput" or not isinstance(surrogate, Diffusion):
                raise
            with _limited(LONGER):
                found = _by_evaluations(surrogate, where, wanted.batch, budget)
        line |= {"reason": "", **found, **_work(surrogate, where, wanted, found["value"], peaks)}
    except TimeoutError as error:
        line["reason"] = str(error)
    except torch.OutOfMemoryError:
        line["reason"] = "takes more memory than the GPU has"
    except (CaloStudyError, RuntimeError, TypeError, ValueError, MemoryError) as error:
        line["reason"] = " ".join(str(error).split())[:200] or type(error).__name__
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return line


@lru_cache(maxsize=1)
def _surrogate(model: str, dataset: str, size: str) -> Surrogate:
    """With the shipped weights, else with random ones."""
    weights = shipped_weights(model, dataset, size)
    return load(weights) if weights else build(model, dataset, size)


def _throughput(surrogate: Surrogate, where: HardwareTarget, batch: int, budget: float) -> dict:
    if where.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    (found,) = time_surrogate(surrogate, [batch], where, rounds=ROUNDS, budget=budget)
    memory = torch.cuda.max_memory_allocated() / 2**20 if where.device == "cuda" else None
    return {
        **_of_clock(found),
        "peak_memory_mib": memory,
        "energy_joule": _energy(surrogate, where, batch) if batch > 1 else None,
    }


def _by_evaluations(surrogate: Diffusion, where: HardwareTarget, batch: int, budget: float) -> dict:
    longer = max(budget, LONGER / 8)
    found = time_by_evaluations(surrogate, batch, where, rounds=ROUNDS, budget=longer)
    return {**_of_clock(found), "evaluations": found.evaluations}


def _of_clock(found: SurrogateTime) -> dict:
    names = "value", "low", "high", "rounds", "dropped", "busy", "noisy"
    return {**{name: getattr(found, name) for name in names}, "cpu_ms": found.cpu}


def _latency(surrogate: Surrogate, where: HardwareTarget, batch: int, budget: float) -> dict:
    energies = draw_energies(surrogate.dataset, QUERIES, 0)
    taken = []
    with where.active():
        surrogate.to(where.torch_device)
        try:
            for i in range(2):
                surrogate.sample(energies[i : i + 1], seed=0, first=i)
            begin = time.perf_counter()
            for i in range(QUERIES):
                where.synchronise()
                start = time.perf_counter()
                surrogate.sample(energies[i : i + 1], seed=0, first=i)
                where.synchronise()
                taken.append(1e3 * (time.perf_counter() - start))
                if time.perf_counter() - begin > budget:
                    break
        finally:
            surrogate.to("cpu")
    low, p50, high, p90, p99 = np.quantile(taken, (0.16, 0.5, 0.84, 0.9, 0.99))
    # The slowest of a few says nothing about the slowest of a hundred.
    enough = {"p90": p90 if len(taken) >= 20 else None, "p99": p99 if len(taken) >= 100 else None}
    return {"value": p50, "low": low, "high": high, "p50": p50, **enough, "rounds": len(taken)}


_COMMAND = """
import atexit, runpy, sys
def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            sys.stderr.write(f"\\n{line}")
if sys.platform == "linux":
    atexit.register(peak)
runpy.run_module("calostudy.cli", run_name="__main__", alter_sys=True)
"""
"""The command line, which says its peak memory at the end: what the kernel reports of a child when
it has ended is at least that of the parent, from which it was forked."""


def _cold(surrogate: Surrogate, where: HardwareTarget, batch: int, budget: float) -> dict:
    name = surrogate.name, surrogate.dataset.name
    times, memory = [], []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _COMMAND, "generate", *name]
        command += ["-n", str(batch), "--batch", str(batch), "--size", surrogate.size]
        command += ["--target", where.name]
        command += [] if surrogate.weights_sha256 else ["--untrained"]
        begin = time.perf_counter()
        for i in range(4):  # the first one fills the caches on disk
            start = time.perf_counter()
            process = subprocess.Popen(
                [*command, "--out", str(Path(folder) / f"{i}.h5")],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            try:
                said, _, peak = process.communicate()[1].partition("\nVmHWM:")
            except TimeoutError:
                process.kill()
                process.wait()
                raise
            if process.returncode:
                raise UsageError(said.strip()[-200:])
            times.append((time.perf_counter() - start) * 1e3 / batch)
            memory += [int(peak.split()[0]) / 1024] if peak else []
            spent = time.perf_counter() - begin
            if spent * (i + 2) / (i + 1) > LIMIT or (i and spent > 2 * budget):
                break
    kept = times[1:] or times
    low, value, high = np.quantile(kept, (0.16, 0.5, 0.84))
    return {
        **{"value": value, "low": low, "high": high, "rounds": len(kept)},
        **{"noisy": len(kept) < 3, "peak_memory_mib": max(memory, default=None)},
    }


MEASURES = {"throughput": _throughput, "latency": _latency, "cold": _cold}


def _energy(surrogate: Surrogate, where: HardwareTarget, batch: int) -> float | None:
    """Joules per shower of a second of batches, of all that the counter counts."""
    meter, _ = energy_meter(where)
    if meter is None:
        return None
    energies, count = draw_energies(surrogate.dataset, batch, 0), 0
    with where.active():
        surrogate.to(where.torch_device)
        start, before = time.perf_counter(), meter()
        while time.perf_counter() - start < 1.0:
            surrogate.sample(energies, seed=0, first=count)
            count += batch
        where.synchronise()
        used = meter() - before
        surrogate.to("cpu")
    return used / count


def _work(
    surrogate: Surrogate, where: HardwareTarget, wanted: Wanted, value: float, peaks: Probe | None
) -> dict:
    """Operations and bytes of a shower at least, and which part of the time those take."""
    if wanted.figure != "throughput":
        return {}
    moved = 4.0 * (_weights(surrogate) / wanted.batch + surrogate.dataset.calorimeter.cells)
    flops = _flops(surrogate)
    least = peaks.least_seconds(flops or 0.0, moved) if peaks else None
    return {
        "flops_per_shower": flops,
        "bytes_per_shower": moved,
        "roofline_fraction": 1e3 * least / value if least else None,
    }


def _weights(surrogate: Surrogate) -> int:
    """Numbers that its networks have, without those that masks set to zero."""
    states = [stored(net, surrogate.precision) for net in surrogate.networks.values()]
    return sum(tensor.numel() for state in states for tensor in state.values())


_COUNTED: dict[str, float | None] = {}


def _flops(surrogate: Surrogate) -> float | None:
    """Floating-point operations of one shower: of a diffusion those of its networks in plain
    torch, counted; else two for each weight that masks leave, which is what a network of dense
    layers takes that is asked once, and less than any other takes."""
    key = str(surrogate)
    if key not in _COUNTED:
        _COUNTED[key] = _counted(surrogate)
    return _COUNTED[key]


def _counted(surrogate: Surrogate) -> float | None:
    if not isinstance(surrogate, Diffusion):
        return 2.0 * _weights(surrogate)
    few = 2, 3
    energies = draw_energies(surrogate.dataset, 1, 0)
    counts = []
    try:
        for evaluations in few:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                surrogate.sample(energies, sampler="eager", solver="ddim", evaluations=evaluations)
            counts.append(counter.get_total_flops())
    except (CaloStudyError, RuntimeError, TypeError):
        return None
    once = counts[1] - counts[0]
    return float(counts[0] + (surrogate.network_evaluations - few[0]) * once)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """TimeoutError after so many seconds, at the next step of the interpreter."""

    def stop(*_):
        raise TimeoutError(f"takes more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def complete(
    out: str | Path,
    cells: Sequence[Wanted],
    budget: float = 600.0,
    each: float = 2.0,
    progress: bool = True,
) -> Path:
    """Add to `out` the cells that it lacks for this machine, until `budget` seconds are over; what
    the machine is goes to ``machines/KEY.json`` beside it. Each cell is written at once.

    Raises:
        DataError: `out` holds something else.
    """
    out, key, begin = Path(out), machine_key(), time.monotonic()
    peaks = {}
    for name in dict.fromkeys(cell.target for cell in cells):
        if target(name).missing() is None:
            peaks[name] = probe(name)
    about = out.parent / "machines" / f"{key}.json"
    about.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(about.read_text()).get("peaks", {}) if about.exists() else {}
    known |= {name: asdict(found) for name, found in peaks.items()}
    meters = {name: energy_meter(target(name))[1] for name in peaks}
    with atomic_path(about) as path:
        content = {**describe_machine(), "gpu_state": gpu_state(), "peaks": known, "energy": meters}
        path.write_text(json.dumps(content, indent=1) + "\n")
    columns = ["model", "dataset", "size", "target", "figure", "batch"]
    for cell in tqdm(cells, unit="cell", disable=None if progress else True):
        table = read_times(out)[list(FIELDS)]
        own = table["machine"] == key
        for name in columns:
            own &= table[name] == getattr(cell, name)
        weights = shipped_weights(cell.model, cell.dataset, cell.size)
        digits = read_card(weights)["weights_sha256"] if weights else ""
        if (table.loc[own, "weights_sha256"] == digits[:12]).any():
            continue
        if time.monotonic() - begin > budget:
            break
        line = {
            **dict.fromkeys(FIELDS),
            **{"machine": key, "date": datetime.now(UTC).date().isoformat()},
            "made_by": f"code {code_version()}",
            **measure(cell, each, peaks.get(cell.target)),
        }
        lines = pd.concat([table[~own].astype(object), pd.DataFrame([line], dtype=object)])
        write_lines(out, lines, FIELDS, digits=5)
    return out


def main(argv: list[str] | None = None) -> int:
    """Measure the grid; exit status 2 on bad usage, 1 on bad data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="CSV file to write or to complete")
    parser.add_argument("--targets", help="such as cpu-1/fp32,cuda/bf16; default: what is here")
    for name in ("models", "datasets"):
        parser.add_argument(f"--{name}", help="only these, separated by commas")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--figures", default=",".join(FIGURES))
    parser.add_argument("--budget", type=float, default=600.0, help="seconds in all")
    parser.add_argument("--each", type=float, default=2.0, help="seconds of samples for a cell")
    given = parser.parse_args(argv)

    def names(text: str | None) -> list[str] | None:
        return text.split(",") if text else None

    try:
        cells = plan(
            names(given.targets) or usual_targets(),
            names(given.models),
            names(given.datasets),
            names(given.sizes),
            [int(batch) for batch in given.batches.split(",")],
            names(given.figures),
        )
        complete(given.out, cells, given.budget, given.each)
    except (CaloStudyError, ValueError) as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
