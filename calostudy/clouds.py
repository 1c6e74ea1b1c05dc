"""Showers as point clouds: Geant4's steps, or steps clustered into cells finer than the readout.

The file format is that of CaloClouds (arXiv:2305.04847, arXiv:2309.05704): ``energy`` (N, 1) GeV
and ``events`` (N, P, 4): x, y, z, energy; x and z across the shower axis in mm, y along it,
energies in GeV, rows of zero energy are padding. y is a position in ILD, in mm, or the number of
the layer; in files of this study the attribute ``front_face_mm`` says where depth begins in y.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from calostudy.binning import sum_into_cells
from calostudy.calorimeter import Calorimeter, calorimeter
from calostudy.energies import GEV
from calostudy.errors import DataError, UsageError
from calostudy.fileformats import open_file
from calostudy.files import atomic_path
from calostudy.showers import Rows, Showers, round_bits

FRONT_FACE = 1811.34 - 2.1
"""y of the first tungsten plate of ILD's calorimeter in mm, in the public point clouds."""

FACTOR = 6
"""Points lie on a lattice of so many to the side of a cell: 36 to the cell (CaloClouds)."""

MAXIMUM = 6000
"""Points of a clustered shower at most; the most energetic are kept (CaloClouds)."""


@dataclass(frozen=True)
class PointClouds:
    """Showers of points, one after the other.

    Attributes:
        incident_energy: (N,) MeV.
        offsets: (N + 1,) where each shower's points begin and end.
        position: (M, 3) eta, phi and depth from the front face, mm.
        energy: (M,) MeV.

    Raises:
        UsageError: the arrays do not fit each other.
    """

    incident_energy: np.ndarray
    offsets: np.ndarray
    position: np.ndarray
    energy: np.ndarray

    def __post_init__(self):
        points = int(self.offsets[-1]) if len(self.offsets) else -1
        if (
            len(self.offsets) != len(self.incident_energy) + 1
            or self.position.shape != (points, 3)
            or self.energy.shape != (points,)
        ):
            raise UsageError(
                f"{len(self.incident_energy)} incident energies, {len(self.offsets)} offsets, "
                f"positions {self.position.shape} and energies {self.energy.shape} do not fit"
            )

    def __len__(self) -> int:
        return len(self.incident_energy)

    @property
    def counts(self) -> np.ndarray:
        """Points of each shower, (N,)."""
        return np.diff(self.offsets)

    @property
    def shower(self) -> np.ndarray:
        """Number of the shower of each point, (M,)."""
        return np.repeat(np.arange(len(self)), self.counts)

    def total_energy(self) -> np.ndarray:
        """Energy of all points of each shower, (N,) MeV."""
        return np.bincount(self.shower, self.energy, minlength=len(self))

    def layer_index(self, geometry: Calorimeter) -> np.ndarray:
        """Position in ``geometry.layers`` of each point, (M,); -1 outside the layers."""
        near, far = np.array([layer.depth for layer in geometry.layers]).T
        depth = self.position[:, 2]
        layer = np.searchsorted(near, depth, side="right") - 1
        return np.where((layer >= 0) & (depth < far[layer]), layer, -1)

    def per_layer(self, geometry: Calorimeter) -> tuple[np.ndarray, np.ndarray]:
        """Number of points and energy (MeV) in each layer, both (N, layers)."""
        layer = self.layer_index(geometry)
        inside = layer >= 0
        layers = len(geometry.layers)
        key = self.shower[inside] * layers + layer[inside]
        counts = np.bincount(key, minlength=len(self) * layers)
        sums = np.bincount(key, self.energy[inside], minlength=len(self) * layers)
        return counts.reshape(-1, layers), sums.reshape(-1, layers)

    def to_showers(self, geometry: Calorimeter, shift: np.ndarray | None = None) -> Showers:
        """Sum the points into the cells of a calorimeter; points outside are cut off.

        Args:
            geometry: a calorimeter with known depths.
            shift: (N, 2) mm by which each shower is moved in eta and phi first (the incident point
                of arXiv:2309.05704), or None.
        """
        cells = sum_into_cells(geometry, self.offsets, self.position, self.energy, shift)
        return Showers(geometry, self.incident_energy, cells.astype(np.float32))

    def on_lattice(self, geometry: Calorimeter, factor: int = FACTOR) -> np.ndarray:
        """Eta and phi (M, 2) of the centres of the cells of a finer lattice that the points are in.

        The lattice is that of `clustered`, whose points keep their places.
        """
        low, pitch = _lattice(geometry, factor)
        return low + (np.floor((self.position[:, :2] - low) / pitch) + 0.5) * pitch

    def clustered(self, geometry: Calorimeter, factor: int = FACTOR) -> PointClouds:
        """Join the points of each shower that share a layer and a cell of a finer lattice.

        The lattice has ``factor`` cells to the side of a cell of the calorimeter and no border.
        Points are at the centres of the lattice and the middle of the layers. At most `MAXIMUM`
        points are kept, those with the largest energies.
        """
        low, pitch = _lattice(geometry, factor)
        layer = self.layer_index(geometry)
        inside = layer >= 0
        place = np.floor((self.position[inside, :2] - low) / pitch).astype(np.int64)
        rows = np.column_stack([self.shower[inside], layer[inside], place])
        found, inverse = np.unique(rows, axis=0, return_inverse=True)
        energy = np.bincount(inverse.ravel(), self.energy[inside], minlength=len(found))
        keep = np.ones(len(found), bool)
        for shower, count in zip(*np.unique(found[:, 0], return_counts=True), strict=True):
            if count > MAXIMUM:
                here = np.flatnonzero(found[:, 0] == shower)
                keep[here[np.argsort(-energy[here], kind="stable")[MAXIMUM:]]] = False
        found, energy = found[keep], energy[keep]
        middle = np.array([np.mean(one.depth) for one in geometry.layers])
        position = np.column_stack([low + (found[:, 2:] + 0.5) * pitch, middle[found[:, 1]]])
        counts = np.bincount(found[:, 0], minlength=len(self))
        return PointClouds(self.incident_energy, _offsets(counts), position, energy)

    def __getitem__(self, rows: Rows) -> PointClouds:
        wanted = np.arange(len(self))[rows]
        parts = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in np.atleast_1d(wanted)]
        points = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        counts = [len(part) for part in parts]
        return PointClouds(
            np.atleast_1d(self.incident_energy[wanted]),
            _offsets(counts),
            self.position[points],
            self.energy[points],
        )


def _lattice(geometry: Calorimeter, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a lattice with so many cells to the side of a cell begins, and its pitch, mm."""
    edges = geometry.layers[0].edges
    pitch = np.array([np.diff(axis).mean() for axis in edges]) / factor
    return np.array([axis[0] for axis in edges]), pitch


def _offsets(counts) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def read(path: str | os.PathLike, rows: slice = slice(None)) -> PointClouds:
    """Read point clouds, or a slice of them; positions and energies are float64.

    Raises:
        DataError: the file is not one of point clouds, or its values are impossible.
        UsageError: ``rows`` selects nothing.
    """
    with open_file(path) as file:
        n = _check_structure(path, file)
        if not len(range(n)[rows]):
            raise UsageError(f"{path}: has {n} showers, rows {rows} select none of them")
        energy = file["energy"][rows].astype(np.float64).reshape(-1)
        events = file["events"][rows]
        front = file.attrs.get("front_face_mm")
    for name, values in (("energy", energy), ("events", events)):
        if not np.isfinite(values).all():
            raise DataError(f"{path}: {name} has NaN or infinite values, expected numbers")
    if (energy <= 0).any() or (events[..., 3] < 0).any():
        raise DataError(f"{path}: negative or zero energies, expected GeV above zero")
    present = events[..., 3] > 0
    points = events[present].astype(np.float64)
    ratio = points[:, 3].sum() / energy.sum()
    if ratio > 1.0:
        raise DataError(f"{path}: events hold {ratio:.3g} of the incident energy; expected GeV")
    depth = _depth(path, points[:, 1]) if front is None else points[:, 1] - front
    position = np.column_stack([points[:, 0], points[:, 2], depth])
    return PointClouds(GEV * energy, _offsets(present.sum(axis=1)), position, GEV * points[:, 3])


def is_clouds(path: str | os.PathLike) -> bool:
    """Whether a file is one of point clouds. Raises DataError when it is no HDF5 file."""
    with open_file(path) as file:
        return "events" in file


def count(path: str | os.PathLike) -> int:
    """Return the number of showers in a file. Raises DataError when it is not of point clouds."""
    with open_file(path) as file:
        return _check_structure(path, file)


def iterate(path: str | os.PathLike, chunk: int = 100) -> Iterator[PointClouds]:
    """Read a file from beginning to end, ``chunk`` showers at a time.

    Raises:
        DataError: see `read`.
    """
    n = count(path)
    for first in range(0, n, chunk):
        yield read(path, slice(first, first + chunk))


def _check_structure(path, file: h5py.File) -> int:
    missing = [key for key in ("energy", "events") if not isinstance(file.get(key), h5py.Dataset)]
    if missing:
        found = ", ".join(sorted(file)) or "nothing"
        raise DataError(
            f"{path}: no {', no '.join(missing)} (found {found}); expected point clouds"
        )
    energy, events = file["energy"].shape, file["events"].shape
    if len(events) != 3 or events[2] != 4 or energy not in ((events[0], 1), (events[0],)):
        raise DataError(
            f"{path}: energy has shape {energy} and events {events}, expected (N, 1) and (N, P, 4)"
        )
    if not events[0]:
        raise DataError(f"{path}: holds zero showers, expected at least one")
    return events[0]


def _depth(path, y: np.ndarray) -> np.ndarray:
    """Depth in mm from the front face of ILD; y is a layer number (with a fraction) or in mm."""
    layers = calorimeter("ild").layers
    if not len(y) or y.max() <= len(layers):
        near, far = np.array([layer.depth for layer in layers]).T
        layer = np.clip(y.astype(np.int64), 0, len(layers) - 1)
        return near[layer] + (y - layer) * (far - near)[layer] * (1 - 1e-9)
    depth = y - FRONT_FACE
    if depth.min() < -1 or depth.max() > layers[-1].depth[1] + 1:
        raise DataError(
            f"{path}: y from {y.min():g} to {y.max():g}, expected layer numbers 0 to {len(layers)} "
            f"or mm from {FRONT_FACE:g} to {FRONT_FACE + layers[-1].depth[1]:g}"
        )
    return depth


class Writer:
    """Write point clouds piece by piece; the file appears, whole, when the context ends well.

    Args:
        path: the file.
        width: most points of a shower, P in the file.
        mantissa_bits: bits of the mantissa that energies keep.
        front_face: y at depth 0, mm.
        attributes: provenance.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        width: int = MAXIMUM,
        mantissa_bits: int = 23,
        front_face: float = FRONT_FACE,
        attributes: Mapping | None = None,
    ):
        self.path, self.width, self.bits, self.front = Path(path), width, mantissa_bits, front_face
        self.attributes = {**(attributes or {}), "front_face_mm": front_face}

    def __enter__(self) -> Writer:
        self._place = atomic_path(self.path)
        self._file = h5py.File(self._place.__enter__(), "w", rdcc_nbytes=64 << 20)
        self._file.attrs.update(self.attributes)
        self._file.create_dataset("energy", (0, 1), "f4", maxshape=(None, 1))
        # One column to a chunk, bytes not shuffled: whole numbers of the lattice repeat.
        self._file.create_dataset(
            "events", (0, self.width, 4), "f4", maxshape=(None, self.width, 4),
            chunks=(max(1, (1 << 18) // self.width), self.width, 1),
            compression="gzip", compression_opts=9,
        )  # fmt: skip
        return self

    def __exit__(self, *exception) -> bool | None:
        self._file.close()
        return self._place.__exit__(*exception)

    def append(self, clouds: PointClouds) -> None:
        """Add showers at the end. Raises UsageError when one has more than ``width`` points."""
        counts = clouds.counts
        if counts.max(initial=0) > self.width:
            raise UsageError(f"{self.path}: a shower of {counts.max()} points, room: {self.width}")
        events = np.zeros((len(clouds), self.width, 4), np.float32)
        column = np.arange(len(clouds.energy)) - np.repeat(clouds.offsets[:-1], counts)
        x, z, depth = clouds.position.T
        energy = round_bits(clouds.energy / GEV, self.bits)
        events[clouds.shower, column] = np.column_stack([x, depth + self.front, z, energy])
        for key, values in (("energy", clouds.incident_energy[:, None] / GEV), ("events", events)):
            before = len(self._file[key])
            self._file[key].resize(before + len(values), axis=0)
            self._file[key][before:] = values
