"""The public file formats of showers, and everything that can be wrong with a file.

* CaloChallenge (arXiv:2410.21611): ``incident_energies`` (N, 1) MeV, ``showers`` (N, voxels) MeV.
* CaloGAN (arXiv:1712.10321, doi:10.17632/pvn3xc3wy5.1): ``energy`` (N, 1) GeV, ``layer_0`` (N, 3,
  96), ``layer_1`` (N, 12, 12), ``layer_2`` (N, 12, 6) and ``overflow`` (N, 3), the last four in
  MeV. A file without ``overflow`` is accepted: generated showers have none.
* ILD on a grid (arXiv:2005.05334, doi:10.5281/zenodo.3826103): ``energy`` (N, 1) GeV, ``layers``
  (N, 30, 30, 30) MeV. (Point clouds have a module of their own, `calostudy.clouds`.)
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from calostudy.calorimeter import CALORIMETERS, Calorimeter
from calostudy.calorimeter import calorimeter as named_calorimeter
from calostudy.errors import DataError

# Enough to hold one row of HDF5 chunks of the public files, so that reading rows in turn
# decompresses every chunk once.
_CHUNK_CACHE = {"rdcc_nbytes": 64 << 20, "rdcc_nslots": 20011, "rdcc_w0": 1.0}

# Median of deposited over incident energy that no sample has in the right units. A pion that only
# ionises leaves 0.003 of 100 GeV in CaloGAN's calorimeter; the largest response known is 6.93, of
# low-energy pions in CaloChallenge dataset 1. A wrong unit is a factor 1000.
_RATIO_BOUNDS = (0.0015, 100.0)


@dataclass(frozen=True)
class FileFormat:
    """Keys and units of a public file format.

    Attributes:
        title: its name in prose.
        energy: key of the incident energies.
        unit: unit of the incident energies in the file.
        mev: that unit in MeV.
        overflow: key of the energy that missed the cells, or None.
        cells: key of the cells: one array of flat showers, or of layers, or one for each layer.
    """

    title: str
    energy: str
    unit: str
    mev: int
    overflow: str | None = None
    cells: str = "showers"

    def arrays(self, calorimeter: Calorimeter) -> dict[str, tuple[tuple[int, ...], slice]]:
        """Return key -> (shape of one shower in the file, its place in the flat order)."""
        if "{id}" not in self.cells:
            shape = calorimeter.shape if self.cells == "layers" else (calorimeter.cells,)
            return {self.cells: (shape, slice(0, calorimeter.cells))}
        pairs = zip(calorimeter.layers, calorimeter.slices, strict=True)
        return {self.cells.format(id=layer.id): (layer.shape, place) for layer, place in pairs}

    def to_mev(self, energy: np.ndarray) -> np.ndarray:
        """Turn incident energies in the file's unit into MeV, in their own type."""
        return energy if self.mev == 1 else energy * energy.dtype.type(self.mev)

    def from_mev(self, energy: np.ndarray) -> np.ndarray:
        """Turn incident energies in MeV into the file's unit.

        Of the neighbouring numbers, one is taken that :meth:`to_mev` turns into exactly the same
        MeV, if there is one. That is not always so: x1000 maps two neighbouring floating-point
        numbers in GeV to one in MeV here and there, and skips some in MeV elsewhere.
        """
        if self.mev == 1:
            return energy
        stored = energy / energy.dtype.type(self.mev)
        for direction in (-np.inf, np.inf):
            neighbour = np.nextafter(stored, energy.dtype.type(direction))
            better = (self.to_mev(stored) != energy) & (self.to_mev(neighbour) == energy)
            stored = np.where(better, neighbour, stored)
        return stored


FORMATS: dict[str, FileFormat] = {
    "calochallenge": FileFormat("CaloChallenge", "incident_energies", "MeV", 1),
    "calogan": FileFormat("CaloGAN", "energy", "GeV", 1000, "overflow", "layer_{id}"),
    "ild": FileFormat("ILD grid", "energy", "GeV", 1000, cells="layers"),
}
"""The file formats by the name that ``Calorimeter.file_format`` has."""


@contextmanager
def open_file(path: str | os.PathLike) -> Iterator[h5py.File]:
    """Open an HDF5 file to read; whatever HDF5 says of it on the way becomes a DataError."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with h5py.File(path, "r", **_CHUNK_CACHE) as file:
            yield file
    except OSError as error:
        kind = "truncated or damaged" if h5py.is_hdf5(path) else "not an HDF5 file"
        raise DataError(f"{path}: {kind}, expected a whole HDF5 file ({error})") from error


def root_attributes(file: h5py.File) -> dict:
    """Return the attributes of an open file as plain Python values."""
    return {
        key: value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        for key, value in file.attrs.items()
    }


def fitting_calorimeters(file: h5py.File) -> list[str]:
    """Name the calorimeters whose keys and shapes an open HDF5 file has."""
    return [name for name in CALORIMETERS if not _misfit(file, named_calorimeter(name))]


def check_structure(path: str | os.PathLike, file: h5py.File, calorimeter: Calorimeter) -> int:
    """Check keys, shapes, types and lengths of an open file; return its number of showers.

    Raises:
        DataError: with what is wrong, and which calorimeter would fit.
    """
    layout = FORMATS[calorimeter.file_format]
    problem = _misfit(file, calorimeter)
    if problem:
        others = " or ".join(fitting_calorimeters(file))
        expected = f"it fits {others}" if others else f"expected a {layout.title} file"
        raise DataError(f"{path}: {problem}, for calorimeter {calorimeter.name}; {expected}")
    keys = [layout.energy, *layout.arrays(calorimeter)]
    if layout.overflow and layout.overflow in file:
        keys.append(layout.overflow)
    for key in keys:
        if file[key].dtype.kind != "f":
            kind = file[key].dtype
            raise DataError(f"{path}: {key} has type {kind}, expected floating-point energies")
    lengths = {key: file[key].shape[0] for key in keys}
    if len(set(lengths.values())) != 1:
        listed = ", ".join(f"{key} has {n}" for key, n in lengths.items())
        raise DataError(f"{path}: arrays of different length: {listed}; expected one per shower")
    if not lengths[layout.energy]:
        raise DataError(f"{path}: holds zero showers, expected at least one")
    return lengths[layout.energy]


def _misfit(file: h5py.File, calorimeter: Calorimeter) -> str:
    """Say what keeps a file from being on a calorimeter; the empty string if nothing does."""
    layout = FORMATS[calorimeter.file_format]
    cells = {key: shape for key, (shape, _) in layout.arrays(calorimeter).items()}
    missing = [key for key in (layout.energy, *cells) if not _is_dataset(file, key)]
    if missing:
        found = ", ".join(sorted(file)) or "nothing"
        return f"no {', no '.join(missing)} in it (found {found})"
    # Energies of shape (N,) are common in files by other hands, and say the same.
    allowed = {layout.energy: [(1,), ()], **{key: [shape] for key, shape in cells.items()}}
    if layout.overflow and layout.overflow in file:
        allowed[layout.overflow] = [(len(calorimeter.layers),)]
    for key, shapes in allowed.items():
        found = file[key].shape
        if not found or found[1:] not in shapes:
            wanted = ", ".join(["N", *map(str, shapes[0])])
            return f"{key} has shape {found}, expected ({wanted})"
    return ""


def _is_dataset(file: h5py.File, key: str) -> bool:
    return isinstance(file.get(key), h5py.Dataset)


def check_values(
    where: str | os.PathLike,
    calorimeter: Calorimeter,
    incident: np.ndarray,
    cells: np.ndarray,
    overflow: np.ndarray | None = None,
    energy_range: tuple[float, float] | None = None,
    first: int = 0,
) -> None:
    """Refuse values that no showers have: NaN, infinite, negative, in the wrong unit.

    Args:
        where: the file's name, for the message.
        calorimeter: where the cells are.
        incident: (N,) incident energies, MeV if the file is right.
        cells: (N, cells) MeV.
        overflow: (N, layers) MeV or None.
        energy_range: lowest and highest incident energy (MeV) that the sample can have.
        first: number of the first shower in the file, for the message.

    Raises:
        DataError: the first thing that is wrong.
    """
    layout = FORMATS[calorimeter.file_format]
    named = {layout.energy: incident}
    named |= {key: cells[:, place] for key, (_, place) in layout.arrays(calorimeter).items()}
    if overflow is not None:
        named[layout.overflow or "overflow"] = overflow
    for key, values in named.items():
        low, high = values.min(), values.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            row = first + _first_row(~np.isfinite(values))
            raise DataError(f"{where}: {key} of shower {row} is NaN or infinite, expected energies")
        if low < 0:
            row = first + _first_row(values < 0)
            raise DataError(f"{where}: {key} of shower {row} is negative, expected energies >= 0")
    if not incident.min() > 0:
        row = first + _first_row(incident <= 0)
        raise DataError(f"{where}: {layout.energy} of shower {row} is zero, expected > 0")
    problem = unit_problem(layout, incident, cells.sum(axis=1, dtype=np.float64), energy_range)
    if problem:
        raise DataError(f"{where}: {problem}")


def unit_problem(
    layout: FileFormat,
    incident: np.ndarray,
    deposited: np.ndarray,
    energy_range: tuple[float, float] | None = None,
) -> str:
    """Say whether energies are a factor 1000 off; the empty string if they seem right.

    Judged by the median incident energy, where a range is given, and by the median of deposited
    over incident energy. Showers without any deposit say nothing.

    Args:
        layout: the file format.
        incident: (N,) incident energies, MeV if the file is right.
        deposited: (N,) deposited energies, MeV if the file is right.
        energy_range: lowest and highest incident energy (MeV) that the sample can have.
    """
    # If the CaloChallenge unit is wrong, the numbers are in GeV, and too small; if that of CaloGAN
    # is, they are in MeV, and too large.
    wrong, correction = {"MeV": ("GeV", 1000.0), "GeV": ("MeV", 0.001)}[layout.unit]
    if energy_range is not None:
        low, high = energy_range
        typical = float(np.median(incident))
        if not low <= typical <= high and low <= typical * correction <= high:
            return (
                f"{layout.energy} in {wrong}? expected {layout.unit}, from {low / layout.mev:g} to "
                f"{high / layout.mev:g}; the median is {typical / layout.mev:g}"
            )
    hit = deposited > 0
    ratio = float(np.median(deposited[hit] / incident[hit])) if hit.any() else 1.0
    too_small, too_large = _RATIO_BOUNDS
    if too_small <= ratio <= too_large:
        return ""
    suspects = {
        ("MeV", True): f"{layout.energy} in GeV? expected MeV",
        ("MeV", False): "showers in GeV? expected MeV",
        ("GeV", True): "layers in keV? expected MeV",
        ("GeV", False): f"{layout.energy} in MeV, or layers in GeV? expected GeV, and MeV",
    }
    suspect = suspects[layout.unit, ratio > too_large]
    return f"{suspect}; deposited over incident energy is {ratio:.3g} in the median"


def _first_row(bad: np.ndarray) -> int:
    return int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
