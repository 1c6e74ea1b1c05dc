"""The cells of a layer one after the other, on a spiral from the shower axis outwards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from calostudy.calorimeter import Layer
from calostudy.devices import table_property

UNIT = 10.0
"""Of lengths, in mm; and the size of every cell for a network that does not know sizes."""

WINDOW = 2  # cells on each side of a cell that count as its neighbours
BEFORE = 8  # cells before it on the spiral that it sees, too


def spiral(layer: Layer) -> np.ndarray:
    """The cells of a Cartesian layer in the order of a counter-clockwise spiral: indices (cells,).

    It begins in the cell at (0+, 0+), which the shower axis enters, and walks around it in squares
    of cells (figure 2b of arXiv:2212.08233); where a square leaves the layer, it goes on where it
    comes back. eta points to the right, phi upwards.

    >>> from calostudy.segmentations import segmentation
    >>> layer = segmentation((48, 4), (12, 12)).layers[1]
    >>> [tuple(map(int, divmod(cell, 12))) for cell in spiral(layer)[:5]]
    [(6, 6), (7, 6), (7, 7), (6, 7), (5, 7)]
    """
    x, y = _steps_from_axis(layer)
    ring = np.maximum(np.abs(x), np.abs(y))
    inside, along = np.maximum(2 * ring - 1, 0) ** 2, np.full(len(x), -1)
    sides = (
        ((x == ring) & (y > -ring), y + ring - 1),
        (y == ring, 3 * ring - 1 - x),
        (x == -ring, 5 * ring - 1 - y),
        (y == -ring, 7 * ring - 1 + x),
    )
    for on_side, place in sides:
        along = np.where((along < 0) & on_side, place, along)
    return np.argsort(inside + along, kind="stable")


def _steps_from_axis(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """How many cells each cell is away from that at the shower axis, in eta and phi: (cells,)."""
    index = np.indices(layer.shape).reshape(2, -1)
    start = [np.searchsorted(edges, 0.0, side="right") - 1 for edges in layer.edges]
    return index[0] - start[0], index[1] - start[1]


def sizeless(layer: Layer) -> Layer:
    """The layer as a network sees it that does not know sizes: all cells are of one `UNIT`, and
    places are counted in cells from the shower axis."""
    edges = tuple(
        UNIT * (np.arange(len(edges)) - np.searchsorted(edges, 0.0, side="right") + 1.0)
        for edges in layer.edges
    )
    return Layer(layer.id, layer.view, edges, layer.depth)


@dataclass(frozen=True, eq=False)
class Spiral:
    """The cells of one layer on the spiral, and what is known of them before the first shower.

    All arrays are in the order of the spiral. `layer` has the edges that a network is told, which
    are those of the layer itself or of `sizeless`.
    """

    layer: Layer

    @cached_property
    def order(self) -> np.ndarray:
        """Flat index of each cell in the layer, (n,)."""
        return spiral(self.layer)

    @cached_property
    def rank(self) -> np.ndarray:
        """Inverse of `order`: the place of each cell of the layer on the spiral, (n,)."""
        return np.argsort(self.order)

    def __len__(self) -> int:
        return len(self.order)

    @table_property
    def sizes(self) -> Tensor:
        """(d_eta, d_phi) of each cell in `UNIT`, (n, 2)."""
        index = np.unravel_index(self.order, self.layer.shape)
        sizes = [np.diff(e)[i] for e, i in zip(self.layer.edges, index, strict=True)]
        return torch.as_tensor(np.stack(sizes, axis=1) / UNIT)

    @table_property
    def centres(self) -> Tensor:
        """(eta, phi) of each cell in `UNIT`, (n, 2)."""
        both = np.stack([self.layer.eta, self.layer.phi], axis=1)
        return torch.as_tensor(both[self.order] / UNIT)

    @table_property
    def neighbours(self) -> Tensor:
        """Places on the spiral of what a cell sees, (n, (2 `WINDOW` + 1)^2 - 1 + `BEFORE`): its
        neighbours, then those before it; n where there is none or it comes later."""
        n, shape = len(self), np.array(self.layer.shape)[:, None]
        index = np.array(np.unravel_index(self.order, self.layer.shape))
        steps = range(-WINDOW, WINDOW + 1)
        columns = []
        for step in ((a, b) for a in steps for b in steps if a or b):
            there = index + np.array(step)[:, None]
            inside = ((there >= 0) & (there < shape)).all(axis=0)
            place = self.rank[np.ravel_multi_index(np.clip(there, 0, shape - 1), self.layer.shape)]
            columns.append(np.where(inside & (place < np.arange(n)), place, n))
        for back in range(1, BEFORE + 1):
            place = np.arange(n) - back
            columns.append(np.where(place >= 0, place, n))
        return torch.as_tensor(np.stack(columns, axis=1))

    @table_property
    def features(self) -> Tensor:
        """Numbers of each cell for a network with common weights, (n, F) float32: the logarithms of
        the sizes of its window's columns and rows, its place, which of its neighbours are known."""
        index = np.unravel_index(self.order, self.layer.shape)
        columns = []
        for edges, own in zip(self.layer.edges, index, strict=True):
            size = np.log(np.diff(edges) / UNIT)
            for step in range(-WINDOW, WINDOW + 1):
                columns.append(size[np.clip(own + step, 0, len(size) - 1)])
        eta, phi = self.centres.numpy().T
        columns += [np.arcsinh(2 * eta), np.arcsinh(2 * phi), np.arcsinh(2 * np.hypot(eta, phi))]
        known = (self.neighbours < len(self)).numpy()
        return torch.as_tensor(np.column_stack([*columns, known]), dtype=torch.float32)


FEATURES = 2 * (2 * WINDOW + 1) + 3 + (2 * WINDOW + 1) ** 2 - 1 + BEFORE
"""Of a cell (`Spiral.features`)."""

NEIGHBOURS = (2 * WINDOW + 1) ** 2 - 1 + BEFORE
"""Of a cell (`Spiral.neighbours`)."""
