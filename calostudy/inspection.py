"""What a file of showers is, and what is wrong with it, in bounded memory."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import h5py
import numpy as np

from calostudy import clouds
from calostudy.calorimeter import Calorimeter, calorimeter
from calostudy.datasets import DATASETS, Dataset
from calostudy.energies import GEV, EnergyLaw
from calostudy.errors import DataError
from calostudy.fileformats import (
    FORMATS,
    check_structure,
    fitting_calorimeters,
    open_file,
    root_attributes,
    unit_problem,
)
from calostudy.showers import load_unchecked

QUANTILES = (0.05, 0.5, 0.95)
_TITLES = {name: layout.title for name, layout in FORMATS.items()} | {"clouds": "point clouds"}
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class Report:
    """What a file of showers is.

    Attributes:
        path: the file.
        bytes: its size.
        format: a key of ``fileformats.FORMATS``, "clouds" for point clouds, or None.
        calorimeters: names of the calorimeters that its keys and shapes fit.
        datasets: names of the data sets on that calorimeter with a sample, public or simulated,
            that can have all these incident energies.
        events: number of showers.
        dtype: type of the cell energies in the file.
        incident_energy: lowest and highest (MeV).
        response: deposited over incident energy at the quantiles 0.05, 0.5 and 0.95.
        occupancy: fraction of cells above zero, mean over showers.
        occupancy_by_layer: the same for each layer, by its public number.
        largest_cell: MeV.
        points: fewest, mean and most points of a shower, of point clouds.
        attributes: provenance in the file.
        problems: what is wrong, one sentence each; empty for a good file.
    """

    path: str
    bytes: int
    format: str | None = None
    calorimeters: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    events: int | None = None
    dtype: str | None = None
    incident_energy: tuple[float, float] | None = None
    response: tuple[float, ...] | None = None
    occupancy: float | None = None
    occupancy_by_layer: dict[int, float] = field(default_factory=dict)
    largest_cell: float | None = None
    points: tuple[float, float, float] | None = None
    attributes: dict = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def as_dict(self) -> dict:
        """Return the report as plain types that JSON can hold."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Return (what, value) as text, for a table; unknown values are left out."""
        found = {
            "file": f"{self.path} ({self.bytes / 1e6:.3g} MB)",
            "format": self.format and _TITLES[self.format],
            "calorimeter": " or ".join(self.calorimeters),
            "showers": self.events and f"{self.events} ({self.dtype})",
            "incident energies": self.incident_energy
            and "{:.4g} to {:.4g} GeV".format(*(e / GEV for e in self.incident_energy)),
            "energies as in": ", ".join(self.datasets),
            "deposited / incident": self.response
            and "{1:.3g} in the median, 5 % below {0:.3g}, 5 % above {2:.3g}".format(
                *self.response
            ),
            "occupied cells": self.occupancy is not None and f"{self.occupancy:.2%}",
            "points per shower": self.points
            and "{1:,.0f} in the mean, {0:,.0f} to {2:,.0f}".format(*self.points),
            "largest cell": self.largest_cell is not None and f"{self.largest_cell:.4g} MeV",
            **{f"attribute {key}": str(value) for key, value in self.attributes.items()},
        }
        rows = [(what, value) for what, value in found.items() if value]
        return rows + [("problem", problem) for problem in self.problems or ("none",)]

    def __str__(self) -> str:
        rows = self.rows()
        width = max(len(what) for what, _ in rows)
        return "\n".join(f"{what:<{width}}  {value}" for what, value in rows)


def inspect(path: str | os.PathLike) -> Report:
    """Look at every shower of a file, a block at a time, and report.

    What is wrong with the file stands in ``problems``; nothing is raised for it.

    Raises:
        DataError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    known: dict = {"path": str(path), "bytes": path.stat().st_size}
    try:
        with open_file(path) as file:
            _describe(known, path, file)
    except DataError as error:
        known["problems"] = (str(error).removeprefix(f"{path}: "),)
    return Report(**known)


def _describe(known: dict, path: Path, file: h5py.File) -> None:
    """Add to ``known`` what an open file is, up to the first thing that stops the reading."""
    known["attributes"] = root_attributes(file)
    if "events" in file:
        known |= {"format": "clouds", **_clouds_summary(path)}
        return
    candidates = fitting_calorimeters(file)
    formats = [calorimeter(name).file_format for name in candidates]
    formats += [name for name, layout in FORMATS.items() if layout.energy in file]
    known |= {"calorimeters": tuple(candidates), "format": formats[0] if formats else None}
    if not candidates:
        raise DataError(_why_nothing_fits(path, file, known["format"]))
    target = calorimeter(candidates[0])
    n = check_structure(path, file, target)
    key = next(iter(FORMATS[target.file_format].arrays(target)))
    known |= {"events": n, "dtype": str(file[key].dtype)}
    known |= _summary(path, file, target, n)


def _why_nothing_fits(path: Path, file: h5py.File, file_format: str | None) -> str:
    if file_format == "calogan":
        try:
            check_structure(path, file, calorimeter("calogan"))
        except DataError as error:
            return str(error)
    if "showers" in file and file_format:
        voxels = {
            name: calorimeter(name).cells for name in ("ds1-photons", "ds1-pions", "ds2", "ds3")
        }
        wanted = ", ".join(f"{n} ({name})" for name, n in voxels.items())
        return (
            f"incident_energies of shape {_shape(file, 'incident_energies')} and showers of shape "
            f"{_shape(file, 'showers')}, expected (N, 1) and (N, voxels) with voxels {wanted}"
        )
    expected = " or ".join(
        " and ".join((layout.energy, *layout.arrays(calorimeter(name))))
        for layout, name in ((FORMATS["calochallenge"], "ds2"), (FORMATS["calogan"], "calogan"))
    )
    return f"keys {', '.join(sorted(file)) or 'missing'}; expected {expected}"


def _shape(file: h5py.File, key: str):
    return getattr(file[key], "shape", "(a group)")


def _summary(path: Path, file: h5py.File, target: Calorimeter, n: int) -> dict:
    """Read all showers and sum up what they are."""
    incident, deposited = np.empty(n), np.empty(n)
    bad = {"NaN or infinite": 0, "negative": 0}
    occupied = np.zeros(len(target.layers))
    largest = 0.0
    step = max(1, min(1000, _BLOCK_BYTES // (8 * target.cells)))
    for first in range(0, n, step):
        part = load_unchecked(path, file, target, slice(first, first + step), n)
        incident[first : first + step] = part.incident_energy
        deposited[first : first + step] = part.total_energy()
        arrays = [part.cells] if part.overflow is None else [part.cells, part.overflow]
        for values in arrays:
            bad["NaN or infinite"] += int((~np.isfinite(values)).any(axis=1).sum())
            bad["negative"] += int((values < 0).any(axis=1).sum())
        occupied += [np.count_nonzero(part.cells[:, s] > 0) for s in target.slices]
        largest = max(largest, float(np.nanmax(part.cells)))
    counts = np.array([layer.cells for layer in target.layers])
    layout = FORMATS[target.file_format]
    positive = np.isfinite(incident) & (incident > 0)
    problems = [f"{count} showers with {what} energies" for what, count in bad.items() if count]
    if not positive.all():
        problems.append(f"{layout.energy} not above zero in {np.sum(~positive)} showers")
    summary = {
        "occupancy": float(occupied.sum() / (n * counts.sum())),
        "occupancy_by_layer": dict(
            zip(target.layer_ids, (occupied / (n * counts)).tolist(), strict=True)
        ),
        "largest_cell": largest,
    }
    if positive.any():
        incident, deposited = incident[positive], deposited[positive]
        usable = np.where(np.isfinite(deposited), deposited, 0.0)
        ratios = np.quantile(usable / incident, QUANTILES)
        summary |= {
            "incident_energy": (float(incident.min()), float(incident.max())),
            "response": tuple(ratios.tolist()),
            "datasets": tuple(_datasets_with(target, incident)),
        }
        bounds = [law.range for entry in _on(target) for law in _laws(entry)]
        widest = (min(low for low, _ in bounds), max(high for _, high in bounds))
        problems.append(unit_problem(layout, incident, usable, widest))
    summary["problems"] = tuple(problem for problem in problems if problem)
    return summary


def _clouds_summary(path: Path) -> dict:
    """Read all point clouds and sum up what they are."""
    energies, responses, points, largest = [], [], [], 0.0
    for part in clouds.iterate(path):
        energies.append(part.incident_energy)
        responses.append(part.total_energy() / part.incident_energy)
        points.append(part.counts)
        largest = max(largest, float(part.energy.max(initial=0.0)))
    incident, counts = np.concatenate(energies), np.concatenate(points)
    ratios = np.quantile(np.concatenate(responses), QUANTILES)
    return {
        "calorimeters": ("ild",),
        "events": len(incident),
        "dtype": "float32",
        "incident_energy": (float(incident.min()), float(incident.max())),
        "response": tuple(ratios.tolist()),
        "datasets": tuple(_datasets_with(calorimeter("ild"), incident)),
        "points": (float(counts.min()), float(counts.mean()), float(counts.max())),
        "largest_cell": largest,
    }


def _datasets_with(target: Calorimeter, incident: np.ndarray) -> list[str]:
    """Name the data sets that have a sample, public or simulated, with all these energies."""
    return [
        entry.name
        for entry in _on(target)
        if any(law.contains(incident).all() for law in _laws(entry))
    ]


def _on(target: Calorimeter) -> list[Dataset]:
    return [entry for entry in DATASETS.values() if entry.calorimeter is target]


def _laws(entry: Dataset) -> list[EnergyLaw]:
    return [law for law in (entry.energies, entry.twin_energies) if law is not None]
