"""Showers on one calorimeter, and their files, read and written in chunks.

The files are those of :mod:`calostudy.fileformats`; in memory every energy is in MeV.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import h5py
import numpy as np

from calostudy.calorimeter import Calorimeter
from calostudy.errors import DataError, UsageError
from calostudy.fileformats import FORMATS, check_structure, check_values, open_file, root_attributes
from calostudy.files import atomic_path

Rows = slice | Sequence[int] | np.ndarray

_BLOCK = 1000  # showers held at once where the caller does not say
_BLOCK_BYTES = 64 << 20  # held at once for the sake of the chunks of a file
_CHUNK_BYTES = 1 << 20  # size of a chunk in the files that are written here
_WRITE_CACHE = 16 << 20  # a chunk that several appends fill is compressed once


@dataclass(frozen=True, eq=False)
class Showers:
    """Showers on one calorimeter.

    Attributes:
        calorimeter: where the cells are.
        incident_energy: (N,) MeV.
        cells: (N, cells) MeV, in the flat order of the calorimeter.
        overflow: (N, layers) MeV that missed the cells (CaloGAN files), or None.
        stored_energy: (N,) incident energies in the unit of the file that they were read from,
            where that is not MeV: GeV -> MeV -> GeV is not exact in floating point, and a copy
            of a file should be the same to the last bit.

    Raises:
        UsageError: the arrays do not fit each other or the calorimeter.
    """

    calorimeter: Calorimeter
    incident_energy: np.ndarray
    cells: np.ndarray
    overflow: np.ndarray | None = None
    stored_energy: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self):
        n = len(self.cells)
        expected = {
            "incident_energy": (n,),
            "cells": (n, self.calorimeter.cells),
            "overflow": (n, len(self.calorimeter.layers)),
            "stored_energy": (n,),
        }
        for name, shape in expected.items():
            array = getattr(self, name)
            if array is not None and np.shape(array) != shape:
                raise UsageError(
                    f"showers on {self.calorimeter.name}: {name} has shape {np.shape(array)}, "
                    f"expected {shape}"
                )

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, rows: Rows) -> "Showers":
        """Select showers by a slice, an index array or a mask; always returns ``Showers``."""
        if isinstance(rows, int | np.integer):
            raise UsageError("select showers with a slice or an index array, e.g. showers[3:4]")
        return self._with(lambda array: array[rows])

    def __repr__(self) -> str:
        return f"Showers({self.calorimeter.name!r}, {len(self)} showers, {self.cells.dtype})"

    def layer(self, i: int) -> np.ndarray:
        """Cells of ``calorimeter.layers[i]``: (N, n_alpha, n_r) or (N, n_eta, n_phi) MeV."""
        shape = self.calorimeter.layers[i].shape
        return self.cells[:, self.calorimeter.slices[i]].reshape(-1, *shape)

    def layer_energies(self) -> np.ndarray:
        """Deposited energy per layer: (N, layers) MeV, float64."""
        return self.calorimeter.layer_energies(self.cells)

    def total_energy(self) -> np.ndarray:
        """Deposited energy: (N,) MeV, float64."""
        return self.cells.sum(axis=1, dtype=np.float64)

    def above_threshold(self, mev: float) -> "Showers":
        """Set cells strictly below ``mev`` (MeV) to zero; a copy, where anything changes."""
        if mev <= 0:
            return self
        cells = np.where(self.cells < mev, self.cells.dtype.type(0), self.cells)
        return Showers(
            self.calorimeter, self.incident_energy, cells, self.overflow, self.stored_energy
        )

    def _with(self, change) -> "Showers":
        arrays = (self.incident_energy, self.cells, self.overflow, self.stored_energy)
        return Showers(self.calorimeter, *(None if a is None else change(a) for a in arrays))


def concatenate(parts: Sequence[Showers]) -> Showers:
    """Join showers on one calorimeter, in order; overflow is kept where every part has it.

    Raises:
        UsageError: there is no part, or the parts are on different calorimeters.
    """
    parts = list(parts)
    names = sorted({part.calorimeter.name for part in parts})
    if len(names) != 1:
        raise UsageError(f"cannot join showers on {names or 'no calorimeter at all'}")

    def joined(name):
        arrays = [getattr(part, name) for part in parts]
        return None if any(a is None for a in arrays) else np.concatenate(arrays)

    return Showers(
        parts[0].calorimeter,
        joined("incident_energy"),
        joined("cells"),
        joined("overflow"),
        joined("stored_energy"),
    )


def read(
    path: str | os.PathLike,
    calorimeter: Calorimeter,
    rows: Rows = slice(None),
    energy_range: tuple[float, float] | None = None,
) -> Showers:
    """Read showers from a public-format file, in the file's own floating-point type.

    Args:
        path: an HDF5 file in the format of the calorimeter.
        calorimeter: where the cells are.
        rows: a slice, an array of indices or a mask; only these showers are held in memory.
        energy_range: lowest and highest incident energy (MeV), to recognise a wrong unit.

    Raises:
        DataError: the file or the showers read are malformed.
        UsageError: ``rows`` selects nothing or is out of range.
    """
    with open_file(path) as file:
        n = check_structure(path, file, calorimeter)
        showers = load_unchecked(path, file, calorimeter, rows, n)
    _check(path, showers, energy_range)
    return showers


def iterate(
    path: str | os.PathLike,
    calorimeter: Calorimeter,
    chunk: int = _BLOCK,
    energy_range: tuple[float, float] | None = None,
) -> Iterator[Showers]:
    """Read a file from beginning to end, at most ``chunk`` showers at a time.

    What HDF5 has compressed together is read once.

    Raises:
        DataError: the file or the showers of a chunk are malformed.
        UsageError: ``chunk`` is not positive.
    """
    if chunk < 1:
        raise UsageError(f"chunk must be at least 1, is {chunk}")
    with open_file(path) as file:
        n = check_structure(path, file, calorimeter)
        stored = _rows_per_chunk(file, calorimeter)
        block = stored * max(1, chunk // stored)
        for first in range(0, n, block):
            showers = load_unchecked(path, file, calorimeter, slice(first, first + block), n)
            _check(path, showers, energy_range, first)
            for start in range(0, len(showers), chunk):
                yield showers[start : start + chunk]


def count(path: str | os.PathLike, calorimeter: Calorimeter) -> int:
    """Return the number of showers in a file, after a check of its structure.

    Raises:
        DataError: the file is not one of showers on that calorimeter.
    """
    with open_file(path) as file:
        return check_structure(path, file, calorimeter)


def read_energies(path: str | os.PathLike, calorimeter: Calorimeter) -> np.ndarray:
    """Read the incident energies of a file, (N,) MeV, whether or not showers are with them.

    Raises:
        DataError: no such file, no incident energies in it, or impossible ones.
    """
    layout = FORMATS[calorimeter.file_format]
    with open_file(path) as file:
        if not isinstance(file.get(layout.energy), h5py.Dataset):
            raise DataError(f"{path}: no {layout.energy} in it, expected a {layout.title} file")
        energy = file[layout.energy]
        if energy.shape[1:] not in ((), (1,)) or energy.dtype.kind != "f" or not energy.size:
            raise DataError(
                f"{path}: {layout.energy} is {energy.dtype} of shape {energy.shape}, "
                "expected floating-point energies (N, 1)"
            )
        energies = layout.to_mev(energy[...].reshape(-1))
    if not (np.isfinite(energies) & (energies > 0)).all():
        raise DataError(f"{path}: {layout.energy} has values that are no energies above zero")
    return energies


def attributes(path: str | os.PathLike) -> dict:
    """Return the attributes of a file: its provenance, where calostudy wrote it.

    Raises:
        DataError: not an HDF5 file.
    """
    with open_file(path) as file:
        return root_attributes(file)


def write(
    path: str | os.PathLike,
    showers: Showers,
    *,
    mantissa_bits: int | None = None,
    attributes: Mapping | None = None,
) -> None:
    """Write showers to a public-format file; see :class:`Writer`."""
    writer = Writer(path, showers.calorimeter, mantissa_bits=mantissa_bits, attributes=attributes)
    with writer:
        writer.append(showers)


class Writer:
    """Write a public-format file piece by piece; it appears, whole, when the context ends well.

    The types of the first showers appended are those of the file. What was read from a file is
    written back to the last bit. Energies in MeV that become GeV (CaloGAN) read back as the same
    MeV wherever one floating-point number in GeV does so, else one rounding away.

    Args:
        path: the file; an old one is replaced, at the end and at once.
        calorimeter: where the cells are.
        mantissa_bits: store cells and overflow as float32, rounded to nearest with this many bits
            of the mantissa (1 to 23; 10 is a relative error of at most 0.05 %), so that they
            compress well. Incident energies stay as they are.
        attributes: provenance, written as attributes of the file's root; what HDF5 has no type
            for is written as JSON.

    Raises:
        UsageError: ``mantissa_bits`` out of range, or showers on another calorimeter.
        DataError: showers with values that no reader would accept, or none at all.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        calorimeter: Calorimeter,
        *,
        mantissa_bits: int | None = None,
        attributes: Mapping | None = None,
    ):
        if mantissa_bits is not None and not 1 <= mantissa_bits <= 23:
            raise UsageError(f"mantissa_bits must be from 1 to 23, is {mantissa_bits}")
        self.path = path
        self.calorimeter = calorimeter
        self.mantissa_bits = mantissa_bits
        self.attributes = dict(attributes or {})
        self.count = 0

    def __enter__(self) -> "Writer":
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            self._file = stack.enter_context(h5py.File(temporary, "w", rdcc_nbytes=_WRITE_CACHE))
            for key, value in self.attributes.items():
                self._file.attrs[key] = _storable(value)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception) -> bool | None:
        if exception[0] is None and not self.count:
            empty = DataError(f"{self.path}: no showers to write, expected at least one")
            self._stack.__exit__(DataError, empty, None)
            raise empty
        return self._stack.__exit__(*exception)

    def append(self, showers: Showers) -> None:
        """Add showers at the end of the file."""
        if showers.calorimeter.name != self.calorimeter.name:
            raise UsageError(
                f"{self.path}: showers on {showers.calorimeter.name}, expected "
                f"{self.calorimeter.name}"
            )
        if not len(showers):
            return
        _check(self.path, showers, first=self.count)
        arrays = self._arrays(showers)
        if self.count and set(arrays) != set(self._file):
            raise UsageError(f"{self.path}: some showers have overflow and some have none")
        for key, array in arrays.items():
            dataset = self._file[key] if key in self._file else self._create(key, array)
            dataset.resize(self.count + len(showers), axis=0)
            dataset[self.count :] = array
        self.count += len(showers)

    def _arrays(self, showers: Showers) -> dict[str, np.ndarray]:
        layout = FORMATS[self.calorimeter.file_format]
        arrays = {layout.energy: _stored_energy(showers)[:, None]}
        for key, (shape, place) in layout.arrays(self.calorimeter).items():
            arrays[key] = self._rounded(showers.cells[:, place].reshape(-1, *shape))
        if layout.overflow and showers.overflow is not None:
            arrays[layout.overflow] = self._rounded(showers.overflow)
        return arrays

    def _rounded(self, values: np.ndarray) -> np.ndarray:
        return values if self.mantissa_bits is None else round_bits(values, self.mantissa_bits)

    def _create(self, key: str, array: np.ndarray) -> h5py.Dataset:
        row = array.dtype.itemsize * int(np.prod(array.shape[1:]))
        return self._file.create_dataset(
            key,
            shape=(0, *array.shape[1:]),
            maxshape=(None, *array.shape[1:]),
            dtype=array.dtype,
            chunks=(max(1, min(_BLOCK, _CHUNK_BYTES // row)), *array.shape[1:]),
            shuffle=True,
            compression="gzip",
            compression_opts=4 if self.mantissa_bits is None else 9,
        )


def round_bits(values: np.ndarray, mantissa_bits: int) -> np.ndarray:
    """Round to float32 with fewer bits of the mantissa, to nearest, ties to even.

    Args:
        values: finite numbers, any shape.
        mantissa_bits: bits to keep, from 1 to 23, beside the implied leading one.

    >>> round_bits(np.array([1.0, 1.2, 1000.3]), 10).tolist()
    [1.0, 1.2001953125, 1000.5]
    """
    drop = 23 - mantissa_bits
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    if not drop:
        return bits.view(np.float32)
    half = (1 << (drop - 1)) - 1
    odd = (bits >> np.uint32(drop)) & np.uint32(1)
    mask = np.uint32(0xFFFFFFFF ^ ((1 << drop) - 1))
    return ((bits + np.uint32(half) + odd) & mask).view(np.float32)


def _check(path, showers: Showers, energy_range=None, first: int = 0) -> None:
    check_values(
        path,
        showers.calorimeter,
        showers.incident_energy,
        showers.cells,
        showers.overflow,
        energy_range,
        first,
    )


def load_unchecked(path, file: h5py.File, calorimeter: Calorimeter, rows: Rows, n: int) -> Showers:
    """Read rows of an open file of n showers; its structure is checked, its values are not."""
    try:
        wanted = np.arange(n)[rows]
    except IndexError as error:
        raise UsageError(f"{path}: has {n} showers, no such rows ({error})") from error
    if not wanted.size:
        raise UsageError(f"{path}: has {n} showers, rows {rows} select none of them")
    layout = FORMATS[calorimeter.file_format]
    arrays = layout.arrays(calorimeter)
    dtype = np.result_type(*(file[key].dtype for key in arrays))
    if len(arrays) == 1:
        cells = _rows(file[next(iter(arrays))], wanted).reshape(len(wanted), -1)
    else:
        cells = np.empty((len(wanted), calorimeter.cells), dtype)
        for key, (_, place) in arrays.items():
            cells[:, place] = _rows(file[key], wanted).reshape(len(wanted), -1)
    energy = _rows(file[layout.energy], wanted).reshape(-1)
    overflow = None
    if layout.overflow and layout.overflow in file:
        overflow = _rows(file[layout.overflow], wanted)
    if layout.mev == 1:
        return Showers(calorimeter, energy, cells, overflow)
    return Showers(calorimeter, layout.to_mev(energy), cells, overflow, energy)


def _rows_per_chunk(file: h5py.File, calorimeter: Calorimeter) -> int:
    """Rows that HDF5 stores together, up to a bound in memory: it is slow to read fewer at once."""
    dataset = file[next(iter(FORMATS[calorimeter.file_format].arrays(calorimeter)))]
    row = max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:])))
    return min(dataset.chunks[0] if dataset.chunks else 1, _BLOCK_BYTES // row)


def _rows(dataset: h5py.Dataset, wanted: np.ndarray) -> np.ndarray:
    """Read rows in any order; HDF5 itself is fast for consecutive ones only."""
    low, high = int(wanted.min()), int(wanted.max()) + 1
    if np.array_equal(wanted, np.arange(low, high)):
        return dataset[low:high]
    out = np.empty((len(wanted), *dataset.shape[1:]), dataset.dtype)
    step = dataset.chunks[0] if dataset.chunks else _BLOCK
    for first in np.unique(wanted // step) * step:
        here = np.flatnonzero((wanted >= first) & (wanted < first + step))
        out[here] = dataset[first : first + step][wanted[here] - first]
    return out


def _stored_energy(showers: Showers) -> np.ndarray:
    """Incident energies in the unit of the file, (N,)."""
    layout = FORMATS[showers.calorimeter.file_format]
    energy = np.asarray(showers.incident_energy)
    stored = layout.from_mev(energy)
    if showers.stored_energy is None:
        return stored
    # Energies that were changed since they were read no longer agree, and win.
    same = layout.to_mev(showers.stored_energy) == energy
    return np.where(same, showers.stored_energy, stored)


def _storable(value):
    """Keep what HDF5 attributes can hold; turn the rest into JSON."""
    if isinstance(value, str | bool | int | float | np.generic):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value
    return json.dumps(value, default=str)
