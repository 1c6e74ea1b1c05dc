"""Energy by layer and by distance from the shower axis, of cells and of point clouds alike.

Distances are kept in fine rings, the same for all samples; `Profiles.rings` joins them to rings
that share the energy equally, as far as the cells let them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numba
import numpy as np

from calostudy.calorimeter import Calorimeter
from calostudy.clouds import PointClouds
from calostudy.showers import Showers

RINGS = 20
FINE = np.array([0.0, *np.geomspace(0.2, 2000.0, 200)])  # mm; 5 % wide, the last holds all beyond


@dataclass(frozen=True, eq=False)
class Profiles:
    """What showers look like in any form.

    distance: (D,) mm from the axis, rising. hits: (N,) points, or cells with energy. longitudinal:
    (N, layers) MeV. radial: (N, D) MeV at these distances.
    """

    distance: np.ndarray = field(repr=False)
    hits: np.ndarray = field(repr=False)
    longitudinal: np.ndarray = field(repr=False)
    radial: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, rows: np.ndarray | slice) -> Profiles:
        return Profiles(self.distance, self.hits[rows], self.longitudinal[rows], self.radial[rows])

    @classmethod
    def join(cls, parts: Sequence[Profiles]) -> Profiles:
        """Showers of one form, one part after the other."""
        names = ("hits", "longitudinal", "radial")
        joined = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
        return cls(parts[0].distance, *joined)

    def rings(self) -> np.ndarray:
        """Edges of rings with equal shares of the energy, (rings + 1,) mm."""
        energy = self.radial.sum(axis=0, dtype=np.float64)
        filled = energy > 0 if energy.any() else slice(None)
        return ring_edges(self.distance[filled], energy[filled])

    def in_rings(self, edges: np.ndarray) -> np.ndarray:
        """Energy in the rings between `edges`, (N, rings) MeV; the last holds all beyond, too."""
        inside = _ring(edges, self.distance)[:, None] == np.arange(len(edges) - 1)
        return self.radial @ inside.astype(float)


def _ring(edges: np.ndarray, distance: np.ndarray) -> np.ndarray:
    return np.clip(np.searchsorted(edges, distance, side="right") - 1, 0, len(edges) - 2)


def ring_edges(distance: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Edges in mm of rings with equal shares of the energy (M,) at these distances (M,) mm.

    Distances that are the same are in one ring, so that there are fewer rings for coarse cells.

    >>> ring_edges(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 0.01, 1.0, 1.0])).tolist()
    [0.0, 1.5, 2.5, 3.5, 4.0]
    """
    places, inverse = np.unique(np.round(distance, 6), return_inverse=True)
    inside = np.cumsum(np.bincount(inverse, energy))
    wanted = np.linspace(0, 1, RINGS + 1)[1:-1] * inside[-1]
    last = np.searchsorted(inside, wanted)
    last = last[last < len(places) - 1]
    return np.unique([0.0, *0.5 * (places[last] + places[last + 1]), np.max(distance) or 1.0])


@cache
def cell_rings(geometry: Calorimeter) -> tuple[np.ndarray, np.ndarray]:
    """Distances (D,) in mm at which a calorimeter has cells, and which of them each has, (cells,).

    Those within one of the fine rings are one, at their mean.
    """
    _, place = np.unique(_ring(FINE, geometry.r), return_inverse=True)
    return np.bincount(place, geometry.r) / np.bincount(place), place


@numba.njit(cache=True)
def _sum_rings(cells, place, threshold, out):
    for i in range(cells.shape[0]):
        for j in range(cells.shape[1]):
            if cells[i, j] >= threshold:
                out[i, place[j]] += cells[i, j]


def cell_radial(showers: Showers, threshold: float) -> np.ndarray:
    """Energy of the cells from a threshold in MeV on at each of their distances, (N, D) MeV."""
    distance, place = cell_rings(showers.calorimeter)
    out = np.zeros((len(showers), len(distance)))
    _sum_rings(np.ascontiguousarray(showers.cells), place, threshold, out)
    return out.astype(np.float32)


def cloud_profiles(clouds: PointClouds, geometry: Calorimeter) -> Profiles:
    """Profiles of point clouds in the layers of a calorimeter with known depths.

    Distances are those of the lattice on which clustered points lie: points anywhere in its cells
    are not told from points in the middle.
    """
    fine = len(FINE) - 1
    ring = _ring(FINE, np.hypot(*clouds.on_lattice(geometry).T))
    radial = np.bincount(clouds.shower * fine + ring, clouds.energy, len(clouds) * fine)
    return Profiles(
        0.5 * (FINE[1:] + FINE[:-1]),
        clouds.counts,
        clouds.per_layer(geometry)[1],
        radial.reshape(-1, fine).astype(np.float32),
    )
