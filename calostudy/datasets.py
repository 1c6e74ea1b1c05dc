"""The data sets of the study by name, where their files belong, and their showers.

The entries themselves are in :mod:`calostudy.catalogue`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from calostudy import clouds as _clouds
from calostudy import showers as _showers
from calostudy.catalogue import DATASETS, Dataset, PublicFile
from calostudy.clouds import PointClouds
from calostudy.energies import EnergyLaw
from calostudy.errors import DataError, UsageError
from calostudy.paths import data_dir
from calostudy.showers import Rows, Showers

__all__ = [
    "DATASETS",
    "SOURCES",
    "SPLITS",
    "Dataset",
    "EnergyLaw",
    "PublicFile",
    "clouds_path",
    "dataset",
    "iterate",
    "load",
    "load_clouds",
    "showers_path",
    "showers_paths",
    "sources_present",
]

SPLITS = ("train", "evaluation")
SOURCES = ("simulated", "public")


def dataset(name: str) -> Dataset:
    """Return a data set by name.

    >>> dataset("ds2").twin_name
    'DS2-like'

    Raises:
        UsageError: there is none of that name.
    """
    _known("dataset", name, DATASETS)
    return DATASETS[name]


def showers_path(name: str, split: str, source: str = "simulated") -> Path:
    """Return where the file of a sample belongs, whether or not it is there.

    Simulated: ``<data>/showers/<name>/<split>.h5``; public: ``<data>/public/<name>/<file>``.

    Raises:
        UsageError: unknown name, split or source; or several public files (see
            :func:`showers_paths`).
    """
    paths = showers_paths(name, split, source)
    if len(paths) > 1:
        listed = ", ".join(path.name for path in paths)
        raise UsageError(f"{name} {split} is several public files: {listed}")
    return paths[0]


def showers_paths(name: str, split: str, source: str = "simulated") -> list[Path]:
    """Return where the files of a sample belong; several for the public files of ds3."""
    _known("split", split, SPLITS)
    _known("source", source, SOURCES)
    chosen = dataset(name)
    if source == "simulated":
        return [data_dir() / "showers" / name / f"{split}.h5"]
    folder = data_dir() / "public" / name
    files = [f for f in chosen.public_files if not f.clouds]
    return [folder / f.name for f in files if f.split in (None, split)]


def clouds_path(name: str, split: str, source: str = "simulated") -> Path:
    """Return where the point clouds of a sample belong, whether or not they are there.

    Raises:
        UsageError: unknown name, split or source, or a data set without point clouds.
    """
    _known("split", split, SPLITS)
    _known("source", source, SOURCES)
    files = [f for f in dataset(name).public_files if f.clouds]
    if not files:
        raise UsageError(f"{name} has no point clouds")
    if source == "simulated":
        return data_dir() / "showers" / name / f"{split}.clouds.h5"
    return data_dir() / "public" / name / files[0].name


def load_clouds(
    name: str, split: str = "train", source: str = "simulated", rows: slice = slice(None)
) -> PointClouds:
    """Read the point clouds of a sample. A public file is one for both splits, as in :func:`load`.

    Raises:
        DataError: the file is not here (with how to get it) or malformed.
        UsageError: unknown name, split or source, no point clouds; ``rows`` selects nothing.
    """
    path = clouds_path(name, split, source)
    _require(path, dataset(name), split, source)
    if source == "public":
        n = _clouds.count(path)
        edge = n * 7 // 10
        here = range(edge) if split == "train" else range(edge, n)
        rows = here[rows]
        rows = slice(rows.start, rows.stop, rows.step)
    return _clouds.read(path, rows)


def sources_present(name: str) -> dict[str, list[str]]:
    """Return for each source which splits of a data set have all their files here."""
    return {
        source: [
            split
            for split in SPLITS
            if (paths := showers_paths(name, split, source)) and all(p.is_file() for p in paths)
        ]
        for source in SOURCES
    }


def load(
    name: str,
    split: str = "train",
    source: str = "simulated",
    rows: Rows = slice(None),
) -> Showers:
    """Read a sample of a data set, or some rows of it, into memory.

    A public CaloGAN file is one for both splits: its first 70 % are for training, as in CaloFlow
    (arXiv:2106.05285), the rest for evaluation.

    Raises:
        DataError: a file is not here (with how to get it) or malformed.
        UsageError: unknown name, split or source; ``rows`` selects nothing.
    """
    chosen = dataset(name)
    bounds = chosen.law(source).range
    pieces = _pieces(name, split, source)
    total = sum(len(piece) for _, piece in pieces)
    try:
        wanted = np.arange(total)[rows]
    except IndexError as error:
        raise UsageError(f"{name} {split} has {total} showers ({error})") from error
    if not wanted.size:
        raise UsageError(f"{name} {split} has {total} showers, rows {rows} select none of them")
    parts, places, before = [], [], 0
    for path, piece in pieces:
        here = np.flatnonzero((wanted >= before) & (wanted < before + len(piece)))
        if here.size:
            rows_there = wanted[here] - before + piece.start
            parts.append(_showers.read(path, chosen.calorimeter, rows_there, bounds))
            places.append(here)
        before += len(piece)
    if len(parts) == 1:
        return parts[0]
    return _showers.concatenate(parts)[np.argsort(np.concatenate(places))]


def iterate(
    name: str, split: str = "train", source: str = "simulated", chunk: int = 1000
) -> Iterator[Showers]:
    """Read a sample from beginning to end, ``chunk`` showers at a time, in bounded memory.

    Raises:
        DataError: a file is not here (with how to get it) or malformed.
        UsageError: unknown name, split or source, or ``chunk`` is not positive.
    """
    if chunk < 1:
        raise UsageError(f"chunk must be at least 1, is {chunk}")
    total = sum(len(piece) for _, piece in _pieces(name, split, source))
    for first in range(0, total, chunk):
        yield load(name, split, source, slice(first, first + chunk))


def _pieces(name: str, split: str, source: str) -> list[tuple[Path, range]]:
    """Return for each file of a split its path and the rows in it that belong to the split."""
    chosen = dataset(name)
    chosen.law(source)  # refuses the twin of a data set that has none
    pieces = []
    if source == "public" and not chosen.public_files:
        raise UsageError(f"{name}: its public showers were not published; source='simulated'")
    for path in showers_paths(name, split, source):
        _require(path, chosen, split, source)
        n = _showers.count(path, chosen.calorimeter)
        rows = range(n)
        if source == "public" and _file(chosen, path.name).split is None:
            edge = n * 7 // 10
            rows = {"train": range(edge), "evaluation": range(edge, n)}[split]
        pieces.append((path, rows))
    return pieces


def _file(chosen: Dataset, name: str) -> PublicFile:
    return next(f for f in chosen.public_files if f.name == name)


def _require(path: Path, chosen: Dataset, split: str, source: str) -> None:
    if path.is_file():
        return
    if source == "public":
        file = _file(chosen, path.name)
        url = file.url or f"https://doi.org/{chosen.record}"
        how = f"run `calostudy fetch {chosen.name}`, or download {path.name} from {url}"
        how += f" ({file.note})" if file.note else ""
    else:
        n = chosen.twin_events[split]
        how = f"make it with: calostudy simulate {chosen.name} -n {n} --seed S --out {path}"
    raise DataError(f"{path}: no such file; {how}")


def _known(what: str, name: str, names) -> None:
    if name not in names:
        raise UsageError(f"no {what} {name!r}; there are {', '.join(names)}")
