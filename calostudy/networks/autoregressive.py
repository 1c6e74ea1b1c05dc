"""Autoregressive networks of the cells of a layer: the probability of each cell's energy category,
given the cells before it on the spiral and the sizes of the cells.

Both are called with a `Spiral`, categories (B, n) (whole numbers, in the order of the spiral),
conditions (B, C) and, optionally, the places of the cells that are wanted; they return
logits (B, wanted, N). What is said of cell i depends on the categories of cells before i only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calostudy.networks.spiral import FEATURES, NEIGHBOURS, Spiral

SUMS = 4
"""Numbers that a cell is told of all cells before it (`running_sums`)."""

MOMENTS = 5
"""Numbers that `moments` makes of a layer."""


class MaskedLinear(nn.Module):
    """A linear layer of blocks: outputs of cell i see the inputs of the cells up to i."""

    def __init__(self, cells: int, inputs: int, outputs: int):
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        # Half of the inputs take part, on average.
        bound = math.sqrt(6.0 / max(1.0, cells * inputs / 2.0))
        self.weight = nn.Parameter(torch.empty(cells * outputs, cells * inputs))
        nn.init.uniform_(self.weight, -bound, bound)
        self.bias = nn.Parameter(torch.zeros(cells * outputs))
        owner = torch.arange(cells * outputs)[:, None] // outputs
        self.register_buffer("mask", owner >= torch.arange(cells * inputs) // inputs, False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, n, inputs) of the first n cells to (B, n, outputs)."""
        n = x.shape[1]
        rows, columns = slice(0, n * self.outputs), slice(0, n * self.inputs)
        weight = self.weight[rows, columns] * self.mask[rows, columns]
        return F.linear(x.flatten(1), weight, self.bias[rows]).view(len(x), n, self.outputs)


class MaskedCells(nn.Module):
    """The published network: masked fully connected layers over all cells, then a 1-D convolution
    to the categories (arXiv:2212.08233, figure 1 and section 3).

    Each cell has inputs of its own: its size in eta and phi, and the category before it (figure
    2a); weights belong to places on the spiral. A layer with fewer than `cells` cells uses the
    first places. Conditions are not used.
    """

    def __init__(self, cells: int, layers: int, latent: int, categories: int):
        super().__init__()
        widths = [3] + [latent] * layers
        self.hidden = nn.ModuleList(MaskedLinear(cells, a, b) for a, b in pairwise(widths))
        self.head = nn.Conv1d(latent, categories, 1)

    def inputs(self, spiral: Spiral, categories: Tensor) -> Tensor:
        """(B, n, 3): sizes and the category before."""
        before = F.pad(categories[:, :-1], (1, 0)).to(self.head.weight) / 16.0
        sizes = spiral.sizes.to(before).expand(len(before), -1, -1)
        return torch.cat([sizes, before.unsqueeze(2)], dim=2)

    def forward(self, spiral, categories, conditions=None, wanted=None) -> Tensor:
        found = self.inputs(spiral, categories)
        for layer in self.hidden:
            found = F.gelu(layer(found))
        logits = self.head(found.transpose(1, 2)).transpose(1, 2)
        return logits if wanted is None else logits[:, wanted]


@dataclass(frozen=True)
class SharedStructure:
    """Hyperparameters of a `SharedCells`."""

    layers: int
    hidden: int


class SharedCells(nn.Module):
    """A small network whose weights all cells share, so that it has no largest number of cells.

    It is the masked convolution that the published layers become when they may look at few cells:
    a cell sees its neighbours that are known, those before it on the spiral, sums over all cells
    before it, its place and the sizes around it. Logits are those of a softmax, to which a `trend`
    adds smooth functions of the category.
    """

    def __init__(self, structure: SharedStructure, conditions: int, categories: int):
        super().__init__()
        width = structure.hidden
        self.first = nn.Linear(FEATURES + 2 * NEIGHBOURS + SUMS + conditions, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(structure.layers - 1))
        self.head = nn.Linear(width, categories)
        self.trend = nn.Linear(width, 3, bias=False)
        nn.init.zeros_(self.trend.weight)

    @staticmethod
    def scales(categories: Tensor) -> Tensor:
        """Two numbers for each category, one that resolves the small and one the large: (2, ...)
        float64."""
        return torch.stack([categories.double().log1p(), categories / 8.0])

    def head_weight(self) -> Tensor:
        """Weight of the logits, trend included: (categories, hidden)."""
        category = torch.arange(self.head.out_features).to(self.trend.weight)
        basis = torch.stack([2 * category.log1p(), category / 8, (category / 16).square()], dim=1)
        return self.head.weight + basis @ self.trend.weight

    def forward(self, spiral, categories, conditions, wanted=None) -> Tensor:
        wanted = slice(None) if wanted is None else wanted
        kind, batch = self.first.weight, len(categories)
        scales = F.pad(self.scales(categories), (0, 1)).to(kind)
        seen = torch.cat([*scales[:, :, spiral.neighbours[wanted]]], dim=2)
        sums = running_sums(spiral, categories)[:, wanted].to(kind)
        cells = seen.shape[1]
        features = spiral.features[wanted].to(kind).expand(batch, -1, -1)
        given = conditions.to(kind)[:, None].expand(-1, cells, -1)
        found = self.first(torch.cat([features, seen, sums, given], dim=2))
        for layer in self.hidden:
            found = layer(gelu(found))
        return F.linear(gelu(found), self.head_weight(), self.head.bias)


def gelu(x: Tensor) -> Tensor:
    """GELU by its authors' approximation with tanh."""
    return F.gelu(x, approximate="tanh")


def running_sums(spiral: Spiral, categories: Tensor) -> Tensor:
    """Of all cells before each, (B, n, `SUMS`) float64: logarithms of their energy and of the
    number of them that are hit, and the mean of their places in eta and phi, weighted by energy."""
    energy = categories.double().square()
    eta, phi = spiral.centres.T
    terms = (energy, (categories > 0).double(), energy * eta, energy * phi)
    total, hits, first, second = (F.pad(term.cumsum(dim=1)[:, :-1], (1, 0)) for term in terms)
    eta, phi = (20 * each / total.clamp_min(1e-6) for each in (first, second))
    return torch.stack([2 * total.log1p(), 2 * hits.log1p(), eta.asinh(), phi.asinh()], dim=2)


def moments(spiral: Spiral, categories: Tensor) -> Tensor:
    """What the next layer is told of a layer, (B, `MOMENTS`) float64: the logarithm of its energy,
    the means and the widths in eta and phi."""
    energy = categories.double().square()
    total = energy.sum(dim=1, keepdim=True)
    share = energy / total.clamp_min(1e-6)
    mean = share @ spiral.centres
    square = share @ spiral.centres.square() - mean.square()
    width = square.clamp_min(0.0).sqrt().log1p()
    return torch.cat([2 * total.log1p(), (20 * mean).asinh(), 5 * width], dim=1)


def drawn(logits: Tensor, random: Tensor) -> Tensor:
    """Categories (B,) from logits (B, N) and uniform numbers (B,), by the inverse of the cumulative
    distribution."""
    weight = (logits - logits.max(dim=1, keepdim=True).values).exp().cumsum(dim=1)
    found = (weight <= random[:, None] * weight[:, -1:]).sum(dim=1)
    return found.clamp_max(logits.shape[1] - 1)
