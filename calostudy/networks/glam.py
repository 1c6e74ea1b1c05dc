"""From layers that are binned each in its own way to one common grid, and back.

The geometry map of CaloDiffusion (Amram & Pedro, arXiv:2308.03876): for each layer one trainable
matrix from its bins to those of the grid, one back. They begin as what geometry says, and change.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calostudy.calorimeter import Calorimeter, Layer
from calostudy.networks.products import each

NOISE = 1e-5
"""Standard deviation of what is added to the matrices at the beginning."""


def common_edges(layers: tuple[Layer, ...]) -> np.ndarray:
    """The edges of the fast axis (r, or phi across) of all layers together."""
    return np.unique(np.concatenate([layer.edges[1] for layer in layers]).round(6))


def overlap(layer: Layer, edges: np.ndarray, split: bool) -> np.ndarray:
    """Of each bin of the grid, which part of a layer's bin it is: (grid bins, bins of the layer).

    split: by area, so that sums stay; else 1 where it is inside, so that values stay.
    """
    own = layer.edges[1]
    low, high = edges[:-1, None], edges[1:, None]
    inside = (low > own[:-1] - 1e-6) & (high < own[1:] + 1e-6)
    if not split:
        return inside.astype(np.float64)
    power = 2 if layer.view == "cylindrical" else 1
    area = (high**power - low**power) / (own[1:] ** power - own[:-1] ** power)
    return np.where(inside, area, 0.0)


class GeometryMap(nn.Module):
    """Cells (B, V) to images (B, 1, Z, A, R) and back.

    A and R are as many as the finest layer has on the slow axis and as all together on the fast
    one. A bin of the slow axis is cut into equal parts. split: whether cells are shared out over
    the bins of the grid by area, as published, or copied to each.
    """

    def __init__(self, calorimeter: Calorimeter, split: bool = True):
        super().__init__()
        layers, cells = calorimeter.layers, calorimeter.cells
        edges = common_edges(layers)
        slow = max(layer.shape[0] for layer in layers)
        widest = max(layer.shape[1] for layer in layers)
        self.cells, self.sizes = cells, (len(layers), slow, len(edges) - 1)
        index = np.full((len(layers), slow, widest), cells)  # `cells` stands for none
        parts = np.ones((len(layers), 1, 1), np.float32)
        self.encoders, self.decoders = nn.ParameterList(), nn.ParameterList()
        for i, (layer, place) in enumerate(zip(layers, calorimeter.slices, strict=True)):
            own = np.arange(place.start, place.stop).reshape(layer.shape)
            parts[i] = slow // layer.shape[0]
            index[i, :, : layer.shape[1]] = own.repeat(slow // layer.shape[0], axis=0)
            there = overlap(layer, edges, split)
            back = np.linalg.pinv(there)
            for matrices, begin in ((self.encoders, there), (self.decoders, back)):
                noise = NOISE * torch.randn(begin.shape)
                matrices.append(nn.Parameter(noise + torch.as_tensor(begin, dtype=noise.dtype)))
        one, shared = torch.ones(parts.shape), torch.as_tensor(1.0 / parts)
        self.register_buffer("index", torch.as_tensor(index), persistent=False)
        self.register_buffer("before", shared if split else one, persistent=False)
        self.register_buffer("behind", one if split else shared, persistent=False)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Those of all layers at once: (Z, bins of a layer, R) and (Z, R, bins of a layer)."""
        widest = self.index.shape[2]
        there = [F.pad(m.t(), (0, 0, 0, widest - m.shape[1])) for m in self.encoders]
        back = [F.pad(m.t(), (0, widest - m.shape[0])) for m in self.decoders]
        return torch.stack(there) * self.before, torch.stack(back) * self.behind

    def encode(self, cells: Tensor, matrix: Tensor | None = None) -> Tensor:
        """Images (B, 1, Z, A, R) of cells (B, V)."""
        matrix = self.matrices()[0] if matrix is None else matrix
        return each(lambda own: (F.pad(own, (0, 1))[:, self.index] @ matrix)[:, None], cells)

    def decode(self, images: Tensor, matrix: Tensor | None = None) -> Tensor:
        """Cells (B, V) of images (B, 1, Z, A, R); parts of a cell are added up."""
        matrix = self.matrices()[1] if matrix is None else matrix
        parts = each(lambda own: (own @ matrix).flatten(1), images[:, 0])
        cells = parts.new_zeros(parts.shape[0], self.cells + 1)
        return cells.index_add(1, self.index.flatten(), parts)[:, :-1]


class Grid(nn.Module):
    """The map of a calorimeter that is a grid: cells (B, V) to images (B, 1, Z, A, R) and back."""

    def __init__(self, calorimeter: Calorimeter):
        super().__init__()
        self.sizes = calorimeter.shape

    def matrices(self) -> tuple[None, None]:
        """There are none."""
        return None, None

    def encode(self, cells: Tensor, matrix: None = None) -> Tensor:
        return cells.view(-1, 1, *self.sizes)

    def decode(self, images: Tensor, matrix: None = None) -> Tensor:
        return images.flatten(1)
