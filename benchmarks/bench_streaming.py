"""All histogram metrics of a file that does not fit into memory: time and largest memory.

    python benchmarks/bench_streaming.py [--dataset ds3] [--showers 100000] [--folder FOLDER]

The file is made of the shipped showers, each taken many times with its cells scaled at random; it
is compared with itself, read twice, as generated and as reference sample. Prints the seconds of
each step, and the largest resident memory of the process that compared them.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from calostudy.datasets import dataset, load
from calostudy.hardware import describe_machine
from calostudy.metrics import Sample
from calostudy.metrics.histograms import mean_separation, separations

CHUNK = 1000


def make(path: Path, name: str, showers: int) -> None:
    """Write the file; one that is there already and long enough stays."""
    if path.exists() and h5py.File(path)["showers"].shape[0] == showers:
        return
    source = load(name, "evaluation", rows=slice(0, CHUNK))
    rng = np.random.default_rng(1)
    energies = np.asarray(source.incident_energy, dtype=np.float32)
    with h5py.File(path, "w") as file:
        cells = file.create_dataset(
            "showers",
            (showers, source.calorimeter.cells),
            np.float32,
            chunks=(100, source.calorimeter.cells),
            compression="gzip",
            compression_opts=1,
            shuffle=True,
        )
        energy = file.create_dataset("incident_energies", (showers, 1), np.float32)
        for first in tqdm(range(0, showers, CHUNK), "writing", unit="k"):
            rows = rng.choice(len(source), min(CHUNK, showers - first))
            factor = rng.normal(1, 0.02, (len(rows), 1)).astype(np.float32)
            cells[first : first + CHUNK] = source.cells[rows] * factor
            energy[first : first + CHUNK, 0] = energies[rows]


def compare(path: Path, name: str) -> None:
    entry = dataset(name)
    start = time.perf_counter()
    samples = [Sample.open(path, entry, label) for label in ("generated", "reference")]
    read = time.perf_counter()
    table = separations(*samples)
    value, _ = mean_separation(table)
    done = time.perf_counter()
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    n = len(samples[0])
    print(
        f"{n:,} showers twice, {path.stat().st_size / 2**30:.1f} GiB on disk: observables "
        f"{read - start:.0f} s, {len(table)} histograms with 100 replicas {done - read:.0f} s, "
        f"largest memory {gib:.2f} GiB; separation power {value:g} of a sample from itself"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", default="ds3")
    parser.add_argument("--showers", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--compare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compare:
        return compare(options.compare, options.dataset)
    path = options.folder / f"streaming-{options.dataset}-{options.showers}.h5"
    make(path, options.dataset, options.showers)
    print(describe_machine()["cpu"])
    # A process of its own, so that its largest memory is that of the comparison.
    again = [sys.executable, __file__, "--compare", str(path), "--dataset", options.dataset]
    return subprocess.run(again, check=True).returncode


if __name__ == "__main__":
    sys.exit(main())
