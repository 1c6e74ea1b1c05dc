"""A sample: showers of one dataset with what the metrics derive from them, each computed once.

A sample in a file is read in chunks: its observables fit into memory where its cells do not. Only
metrics that look at all cells at once (classifiers, neighbours) ask for `Sample.showers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from calostudy import clouds as point_clouds
from calostudy.datasets import Dataset
from calostudy.errors import DataError
from calostudy.metrics.observables import observable_names, observables
from calostudy.metrics.rings import Profiles, cell_radial, cell_rings, cloud_profiles
from calostudy.showers import Showers, concatenate, count, iterate

RATIO = "E_tot/E_inc"

# Small enough that the memory of one chunk is used again for the next: fresh pages cost as much
# time as the observables.
CHUNK_BYTES = 2**24


def check(showers: Showers, entry: Dataset, label: str) -> None:
    """Refuse showers that cannot be of the dataset.

    Raises DataError for another calorimeter, no showers, energies that are not finite or negative,
    and incident energies that the dataset's law cannot give.
    """
    if showers.calorimeter.name != entry.calorimeter.name:
        raise DataError(
            f"{label} showers are on the calorimeter {showers.calorimeter.name}, "
            f"expected {entry.calorimeter.name} for {entry.name}"
        )
    if not len(showers):
        raise DataError(f"there are no {label} showers, expected at least one")
    if not np.isfinite(showers.cells.sum(dtype=np.float64)) or showers.cells.min() < 0:
        raise DataError(f"{label} showers have cells that are negative or not finite")
    energies = np.asarray(showers.incident_energy, dtype=np.float64)
    impossible = energies[~entry.energies.contains(energies)]
    if impossible.size:
        raise DataError(
            f"{label} showers: {impossible.size} of {len(showers)} incident energies are not "
            f"those of {entry.name} ({entry.energies}), the first is {impossible[0]:g} MeV"
        )


@dataclass(frozen=True, eq=False)
class Sample:
    """Showers of one dataset, by what the metrics need of them.

    incident_energy: (N,) MeV. observables: those of `calostudy.metrics.observables`, each (N,),
    after the minimum-energy cut. largest: the hottest cell of each shower (N,) in MeV. radial:
    energy after the cut at the distances of `cell_rings`, (N, D) MeV. chunks: the showers
    themselves, read anew at each call. points: profiles of the same showers as point clouds.
    """

    entry: Dataset
    incident_energy: np.ndarray
    observables: dict[str, np.ndarray] = field(repr=False)
    largest: np.ndarray = field(repr=False)
    radial: np.ndarray = field(repr=False)
    chunks: Callable[[], Iterator[Showers]] = field(repr=False)
    points: Profiles | None = field(default=None, repr=False)

    @classmethod
    def of(cls, showers: Showers, entry: Dataset, label: str = "generated") -> Sample:
        """A sample of showers in memory. Raises DataError as `check` does."""
        check(showers, entry, label)
        return cls._summarise(entry, lambda: iter((showers,)))

    @classmethod
    def open(
        cls,
        path: str | Path,
        entry: Dataset,
        label: str = "generated",
        *,
        clouds: str | Path | None = None,
        chunk: int | None = None,
        progress: bool = False,
    ) -> Sample:
        """A sample in a file, of which one chunk at a time is in memory.

        path: of the dataset's format, or of point clouds, whose points are summed into the cells.
        clouds: point clouds of the same showers; of the first of them, if they are fewer, and the
        sample is these. chunk: showers read at once, by default some megabytes.
        Raises DataError for a file that is broken or not of the dataset.
        """
        geometry = entry.calorimeter
        chunk = chunk or max(1, CHUNK_BYTES // (4 * geometry.cells))
        if of_points := point_clouds.is_clouds(path):
            if not any(file.clouds for file in entry.public_files):
                raise DataError(
                    f"{path}: holds point clouds, expected cells: {entry.name} has none"
                )
            clouds, total = path, point_clouds.count(path)
        else:
            total = count(path, geometry)

        def chunks() -> Iterator[Showers]:
            if of_points:
                return (part.to_showers(geometry) for part in point_clouds.iterate(path, chunk))
            return iterate(path, geometry, chunk=chunk, energy_range=entry.energies.range)

        with tqdm(
            total=total,
            desc=f"{label} showers",
            unit=" showers",
            disable=None if progress else True,
        ) as bar:

            def checked() -> Iterator[Showers]:
                for showers in chunks():
                    check(showers, entry, f"{path}: {label}")
                    yield showers
                    bar.update(len(showers))

            sample = cls._summarise(entry, checked, chunks, empty=f"{path}: there are no showers")
        return sample if clouds is None else sample._with_points(clouds, chunk)

    def _with_points(self, path: str | Path, chunk: int) -> Sample:
        energy, parts = [], []
        for clouds in point_clouds.iterate(path, chunk):
            energy.append(clouds.incident_energy)
            parts.append(cloud_profiles(clouds, self.entry.calorimeter))
        energy = np.concatenate(energy)
        these = self.incident_energy[: len(energy)]
        if len(energy) != len(these) or not np.allclose(energy, these, rtol=1e-5):
            raise DataError(
                f"{path}: {len(energy):,} point clouds of other incident energies than the "
                f"{len(self):,} showers on cells, expected the same showers"
            )
        return replace(self[: len(these)], points=Profiles.join(parts))

    @classmethod
    def _summarise(
        cls,
        entry: Dataset,
        first: Callable[[], Iterable[Showers]],
        chunks: Callable[[], Iterator[Showers]] | None = None,
        empty: str = "",
    ) -> Sample:
        parts: dict[str, list[np.ndarray]] = {n: [] for n in observable_names(entry.calorimeter)}
        energy, largest, radial = [], [], []
        for showers in first():
            found = observables(showers, entry.threshold)
            for name, pieces in parts.items():
                pieces.append(found[name])
            energy.append(np.asarray(showers.incident_energy, dtype=np.float64))
            largest.append(showers.cells.max(axis=1).astype(np.float64))
            radial.append(cell_radial(showers, entry.threshold))
        if not energy:
            raise DataError(f"{empty}, expected at least one")
        # one by one, so that pieces and whole are not all in memory together
        whole = {name: np.concatenate(parts.pop(name)) for name in list(parts)}
        arrays = (np.concatenate(each) for each in (largest, radial))
        return cls(entry, np.concatenate(energy), whole, *arrays, chunks or first)

    def __len__(self) -> int:
        return len(self.incident_energy)

    def __getitem__(self, rows: np.ndarray | slice) -> Sample:
        """The showers of these rows, in the order of the sample: a slice, a mask or numbers."""
        if isinstance(rows, slice) and rows.indices(len(self)) == (0, len(self), 1):
            return self
        chosen = np.sort(np.arange(len(self))[rows])

        def chunks() -> Iterator[Showers]:
            first = 0
            for showers in self.chunks():
                inside = chosen[np.searchsorted(chosen, first) :]
                inside = inside[: np.searchsorted(inside, first + len(showers))]
                if len(inside):
                    yield showers[inside - first]
                first += len(showers)

        return Sample(
            self.entry,
            self.incident_energy[chosen],
            {name: values[chosen] for name, values in self.observables.items()},
            self.largest[chosen],
            self.radial[chosen],
            chunks,
            None if self.points is None else self.points[chosen],
        )

    @cached_property
    def showers(self) -> Showers:
        """All showers, in memory."""
        return concatenate(list(self.chunks()))

    @cached_property
    def distributions(self) -> dict[str, np.ndarray]:
        """The values that are histogrammed: every observable (N,) but E_tot, with E_tot / E_inc.

        Data sets with discrete energies also have `E_tot/E_inc/2^k` for each energy, the slice
        [2^k, 2^(k+1)) MeV; showers of other energies are NaN there.
        """
        values = dict(self.observables)
        ratio = values.pop("E_tot") / self.incident_energy
        slices = {}
        if self.entry.energies.kind == "discrete":
            power = np.floor(np.log2(self.incident_energy * (1 + 1e-9))).astype(int)
            for k in sorted({int(np.log2(value) + 1e-6) for value in self.entry.energies.values}):
                slices[f"{RATIO}/2^{k}"] = np.where(power == k, ratio, np.nan)
        return {RATIO: ratio} | slices | values

    @property
    def layer_energies(self) -> np.ndarray:
        """Energy of each layer after the cut, (N, L) MeV."""
        layers = self.entry.calorimeter.layers
        return np.stack([self.observables[f"E_layer/{x.id}"] for x in layers], axis=1)

    @cached_property
    def hits(self) -> np.ndarray:
        """Cells with energy after the cut, of each shower (N,)."""
        layers = self.entry.calorimeter.layers
        filled = [(1 - self.observables[f"sparsity/{x.id}"]) * x.cells for x in layers]
        return np.rint(np.sum(filled, axis=0))

    @property
    def profiles(self) -> Profiles:
        """Hits, energy by layer and by distance from the axis, of the cells after the cut."""
        distance, _ = cell_rings(self.entry.calorimeter)
        return Profiles(distance, self.hits, self.layer_energies, self.radial)

    @property
    def outside(self) -> float:
        """Share of the points' energy in no cell above the threshold; NaN for cells alone."""
        if self.points is None:
            return float("nan")
        return 1 - float(self.radial.sum() / max(self.points.radial.sum(), 1e-30))

    @property
    def empty(self) -> float:
        """Share of the showers without any energy."""
        return float(np.mean(self.largest == 0))
