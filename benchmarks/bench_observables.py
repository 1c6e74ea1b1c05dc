"""Observables against a plain NumPy transcription of their definitions, interleaved.

    python benchmarks/bench_observables.py [--showers 2000] [--rounds 7]

Prints ms per shower and the ratio for each calorimeter, one thread, and the same from a compressed
file in chunks. Showers are random with a quarter of the cells filled; what is in them does not
change the time of either side.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from calostudy.calorimeter import CALORIMETERS
from calostudy.datasets import DATASETS, Dataset
from calostudy.hardware import describe_machine, target
from calostudy.metrics.observables import observables, stream_observables
from calostudy.showers import Showers, write
from calostudy.timing import race


def transcription(showers: Showers, threshold: float) -> dict[str, np.ndarray]:
    """The definitions, written down layer by layer with NumPy."""
    cells = np.where(showers.cells < threshold, 0.0, showers.cells).astype(np.float64)
    result = {"E_tot": cells.sum(axis=1)}
    for layer, part in zip(showers.calorimeter.layers, showers.calorimeter.slices, strict=True):
        own = cells[:, part]
        energy = own.sum(axis=1)
        result[f"E_layer/{layer.id}"] = energy
        result[f"sparsity/{layer.id}"] = 1 - (own > 0).mean(axis=1)
        for axis in ("eta", "phi", "r") if layer.two_dimensional else ("r",):
            x = getattr(layer, axis)
            centre = (x * own).sum(axis=1) / (energy + 1e-16)
            second = (x**2 * own).sum(axis=1) / (energy + 1e-16)
            result[f"EC_{axis}/{layer.id}"] = centre
            result[f"width_{axis}/{layer.id}"] = np.sqrt(np.maximum(0, second - centre**2))
    return result


def random_showers(entry: Dataset, n: int) -> Showers:
    rng = np.random.default_rng(1)
    shape = (n, entry.calorimeter.cells)
    cells = rng.exponential(10.0, shape) * (rng.random(shape) < 0.25)
    return Showers(entry.calorimeter, 1.2 * cells.sum(axis=1), cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--showers", type=int, default=2000, help="for DS2; others by size")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    machine = describe_machine()
    print(f"{machine['cpu']}, one thread, numpy {machine['libraries']['numpy']}; ms per shower")
    print(
        f"{'':12s} {'cells':>6s} {'NumPy':>8s} {'ours':>8s} {'ratio (16-84 %)':>20s} {'file':>8s}"
    )
    for name in CALORIMETERS:
        entry = next(entry for entry in DATASETS.values() if entry.calorimeter.name == name)
        n = max(50, min(20_000, options.showers * 6480 // entry.calorimeter.cells))
        measure(entry, random_showers(entry, n), options.rounds)


def measure(entry: Dataset, showers: Showers, rounds: int) -> None:
    with target("cpu-1/fp64").active(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "showers.h5"
        write(path, showers)
        cases = {
            "NumPy": lambda: transcription(showers, entry.threshold),
            "ours": lambda: observables(showers, entry.threshold),
            "file": lambda: stream_observables(path, entry, chunk=500),
        }
        run = race(cases, rounds)
    ms = {case: run.timing(case).median * 1e3 / len(showers) for case in cases}
    ratio = run.ratio("NumPy", "ours")
    spread = f"{ratio.median:.1f} ({ratio.low:.1f}-{ratio.high:.1f})"
    noisy = " (noisy machine)" if any(run.timing(case).noisy for case in cases) else ""
    print(
        f"{entry.calorimeter.name:12s} {entry.calorimeter.cells:6d} {ms['NumPy']:8.4f} "
        f"{ms['ours']:8.4f} {spread:>20s} {ms['file']:8.4f}{noisy}"
    )


if __name__ == "__main__":
    main()
