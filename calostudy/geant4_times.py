"""Geant4's CPU time per shower on this machine: one line per shower.

``python -m calostudy.geant4_times data/measured/geant4_times.csv`` simulates a few showers of each
data set by its law of incident energies, on one core, and writes the CPU time of each. A data set
that was measured on this machine is not measured again; lines of other machines are kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from calostudy.datasets import dataset as catalogue_entry
from calostudy.datasets import showers_path
from calostudy.energies import GEV
from calostudy.errors import CaloStudyError, DataError, exit_status
from calostudy.geant4 import SETUPS, sidecar_path, simulate
from calostudy.measured import read_lines, write_lines
from calostudy.paths import data_dir
from calostudy.provenance import code_version, processor
from calostudy.showers import read_energies
from calostudy.timing import Geant4Time, geant4_time

FIELDS = ("dataset", "energy_gev", "cpu_ms", "seed", "machine", "date", "made_by")


def read(path: str | Path) -> pd.DataFrame:
    """The lines of a file; none where there is no file yet.

    Raises:
        DataError: it is not a file of this module.
    """
    return read_lines(path, FIELDS)


Measured = tuple[Geant4Time, str]
"""Geant4's times, and the machine with the date."""


def by_machine(dataset: str) -> dict[str, Measured]:
    """Geant4's times of a data set on each machine, the one that was measured last at the end.

    Raises:
        DataError: they were not measured.
    """
    table = read(data_dir() / "measured" / "geant4_times.csv")
    table = table[table["dataset"] == dataset]
    if table.empty:
        raise DataError(
            f"data/measured/geant4_times.csv has no lines of {dataset}; "
            f"python -m calostudy.geant4_times makes them"
        )
    found = {}
    for machine, own in table.groupby("machine", sort=False):
        energies, seconds = own["energy_gev"].to_numpy() * GEV, own["cpu_ms"].to_numpy() / 1e3
        where = f"{machine}, {own['date'].iloc[-1]}"
        found[machine] = geant4_time(energies, seconds, where), where
    return found


def processor_of(machine: str) -> str:
    """A machine without its number of cores, of which Geant4 uses one.

    >>> processor_of("AMD EPYC, 2 cores")
    'AMD EPYC'
    """
    return machine.partition(",")[0]


def near(measured: Mapping[str, Measured], machine: str = "") -> Measured:
    """Of times by machine the last with the processor of this machine, else the last of all."""
    alike = [m for m in measured if processor_of(m) == processor_of(machine)]
    return measured[(alike or list(measured))[-1]]


def shipped(dataset: str, machine: str = "") -> Measured:
    """Geant4's times of a data set, `near` a machine.

    Raises:
        DataError: they were not measured.
    """
    return near(by_machine(dataset), machine)


def mean_cost(dataset: str, machine: str = "") -> tuple[float, float, str]:
    """Geant4's CPU ms per shower, averaged over the incident energies of the evaluation sample by
    the measured line, its uncertainty, and where and when it was measured, `near` a machine.

    Raises:
        DataError: it was not measured, or the sample is missing.
    """
    measured, where = shipped(dataset, machine)
    path = showers_path(dataset, "evaluation")
    energies = read_energies(path, catalogue_entry(dataset).calorimeter) / GEV
    error = (measured.slope_error or 0.0) * energies.mean()
    return float(measured.fit(energies).mean()), float(error), where


def measure(dataset: str, showers: int, seed: int) -> list[dict]:
    """The lines of a data set, measured now on one core.

    Raises:
        UsageError: Geant4 is not installed, or there is no such simulation.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "showers.h5"
        simulate(dataset, showers, seed, path, progress=False)
        energies = read_energies(path, catalogue_entry(dataset).calorimeter)
        with h5py.File(sidecar_path(path), "r") as file:
            seconds = file["cpu_seconds"][:]
    return [
        {
            "dataset": dataset,
            "energy_gev": energy / GEV,
            "cpu_ms": 1e3 * second,
            "seed": seed,
            "machine": processor(),
            "date": datetime.now(UTC).date().isoformat(),
            "made_by": f"code {code_version()}",
        }
        for energy, second in zip(energies, np.asarray(seconds, float), strict=True)
    ]


def complete(out: str | Path, datasets: Sequence[str], showers: int, seed: int) -> Path:
    """Add to `out` the data sets that were not measured on this machine, each at once.

    Raises:
        DataError: `out` holds something else.
        UsageError: Geant4 is not installed, or there is no such simulation.
    """
    out = Path(out)
    for dataset in datasets:
        table = read(out)
        here = table["machine"] == processor()
        if (here & (table["dataset"] == dataset)).any():
            continue
        table = pd.concat([table, pd.DataFrame(measure(dataset, showers, seed))])
        write_lines(out, table, FIELDS)
    return out


def main(argv: list[str] | None = None) -> int:
    """Measure; exit status 2 on bad usage, 1 on bad data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="CSV file to write or to complete")
    parser.add_argument("--datasets", default=",".join(SETUPS))
    parser.add_argument("-n", "--showers", type=int, default=60)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args(argv)
    try:
        complete(given.out, given.datasets.split(","), given.showers, given.seed)
    except CaloStudyError as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
