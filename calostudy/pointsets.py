"""Showers of voxels as sets of points, and back.

A point is a hit voxel: its layer, its bins in alpha and r (slow and fast axis of the layer), its
energy in MeV. The points of all showers stand one after the other, those of a shower in the order
of its cells. What a network draws are rings, the cells of one layer and radius, which are alike:
`in_rings` chooses the cells.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from calostudy.calorimeter import Calorimeter
from calostudy.devices import table


@dataclass(frozen=True)
class PointSets:
    """Points of `showers` showers.

    Attributes:
        showers: how many, N.
        shower: (M,) the shower of each point, ascending.
        place: (M, 3) layer, bin in alpha, bin in r.
        energy: (M,) MeV.
    """

    showers: int
    shower: Tensor
    place: Tensor
    energy: Tensor

    @property
    def counts(self) -> Tensor:
        """Points of each shower, (N,)."""
        return torch.bincount(self.shower, minlength=self.showers)

    def to_cells(self, calorimeter: Calorimeter) -> Tensor:
        """Cells (N, V) MeV, in which points in one voxel add up."""
        cells = self.energy.new_zeros(self.showers, calorimeter.cells)
        at = cells_at(calorimeter, self.place)
        return cells.index_put_((self.shower, at), self.energy, accumulate=True)


def points_of(cells: Tensor, calorimeter: Calorimeter) -> PointSets:
    """The hit voxels of cells (N, V) in MeV: the inverse of `PointSets.to_cells`."""
    shower, cell = cells.nonzero(as_tuple=True)
    return PointSets(len(cells), shower, _places(calorimeter)[cell], cells[shower, cell])


def cells_at(calorimeter: Calorimeter, place: Tensor) -> Tensor:
    """Numbers (M,) of the cells at places (M, 3)."""
    starts = torch.tensor([s.start for s in calorimeter.slices])
    radii = torch.tensor([layer.shape[1] for layer in calorimeter.layers])
    layer, alpha, r = place.unbind(1)
    return starts[layer] + alpha * radii[layer] + r


def in_rings(ring: np.ndarray, cells: np.ndarray, random: np.ndarray) -> np.ndarray:
    """A cell for each point of one shower, given only its ring.

    The points of a ring take its cells in random order, each cell once until all are taken.

    Args:
        ring: (M,) the ring of each point.
        cells: (V,) the ring of each cell, `Calorimeter.rings`.
        random: (V,) uniform numbers.

    Returns the numbers of the cells, (M,).
    """
    order = np.lexsort((random, cells))  # the cells ring by ring, in random order within
    size = np.bincount(cells)
    first = np.cumsum(size) - size
    sorting = np.argsort(ring, kind="stable")
    count = np.bincount(ring, minlength=len(size))
    rank = np.empty(len(ring), int)
    rank[sorting] = np.arange(len(ring)) - (np.cumsum(count) - count)[ring[sorting]]
    return order[first[ring] + rank % size[ring]]


@table
def _places(calorimeter: Calorimeter) -> Tensor:
    """Layer, bin in alpha and bin in r of each cell, (V, 3)."""
    indices = [np.indices(layer.shape).reshape(2, -1) for layer in calorimeter.layers]
    return torch.tensor(np.vstack([calorimeter.layer_index, np.hstack(indices)]).T)


@dataclass(frozen=True)
class Dequantiser:
    """Whole numbers 0 ... K - 1 on the real line, spread by their frequencies (K,).

    A number becomes a random point of its step of the cumulative distribution and then the normal
    quantile of that: numbers drawn by the frequencies become standard normal ones (Schnake,
    Krücker & Borras, arXiv:2403.15782). Every number has a share of at least 1e-7.
    """

    frequency: Tensor

    @property
    def _edges(self) -> Tensor:
        share = self.frequency.double().clamp_min(1e-7)
        return torch.cat([share.new_zeros(1), (share / share.sum()).cumsum(0)])

    def forward(self, numbers: Tensor, uniform: Tensor) -> Tensor:
        """Whole numbers (M,) and uniform numbers in [0, 1) to real ones (M,), float64."""
        low, high = self._edges[numbers], self._edges[numbers + 1]
        return torch.special.ndtri((low + (high - low) * uniform).clamp(1e-9, 1 - 1e-9))

    def inverse(self, values: Tensor) -> Tensor:
        """The whole number of each real one, (M,)."""
        inner = self._edges[1:-1]
        return torch.searchsorted(inner, torch.special.ndtr(values.double()), right=True)
