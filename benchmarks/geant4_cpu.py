"""CPU time of Geant4 per shower: ``python benchmarks/geant4_cpu.py [--repeats 5] [--json FILE]``.

Points of fixed energy, one process, interleaved: every repeat goes once through all points, so that
a slow spell of the machine touches all of them alike. The clock is the process's CPU time from the
beginning to the end of each event; initialisation (about a second per process) is outside it.
Median over the repeats of the mean over events, and the spread (smallest, largest).
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import h5py

from calostudy.geant4 import sidecar_path, simulate

POINTS = (
    ("calogan-eplus", 10.0, 50),
    ("calogan-gamma", 10.0, 50),
    ("calogan-piplus", 10.0, 80),
    ("ds2", 10.0, 40),
)


def cpu_seconds(dataset: str, energy: float, n: int, seed: int, brem: str = "rel") -> float:
    """Mean CPU seconds per event of ``n`` showers of ``energy`` GeV."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "showers.h5"
        limits = {"emin": energy, "emax": energy}
        simulate(dataset, n, seed, out, brem=brem, progress=False, **limits)
        with h5py.File(sidecar_path(out)) as file:
            return float(file["cpu_seconds"][:].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    times = {(dataset, energy): [] for dataset, energy, _ in POINTS}
    for repeat in range(options.repeats):
        for dataset, energy, n in POINTS:
            times[dataset, energy].append(cpu_seconds(dataset, energy, n, seed=1000 + repeat))
    rows = [
        {
            "dataset": dataset,
            "energy_GeV": energy,
            "cpu_ms_per_shower": 1e3 * statistics.median(values),
            "smallest": 1e3 * min(values),
            "largest": 1e3 * max(values),
        }
        for (dataset, energy), values in times.items()
    ]
    for row in rows:
        print(
            f"{row['dataset']:15s} {row['energy_GeV']:6.1f} GeV "
            f"{row['cpu_ms_per_shower']:7.1f} ms ({row['smallest']:.1f} to {row['largest']:.1f})"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
