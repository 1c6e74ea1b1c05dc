"""The networks of CaloScore v2: a U-Net for cells and a residual perceptron for layer energies.

Mikuni & Nachman, arXiv:2308.03847. Both say v of numbers with noise, given the time and other
conditions. The U-Net's residual blocks have no normalisation; every block's result is kept and
seen again on the way up. Cells are a sequence or a grid in three dimensions; a layout says which
cell is where on it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calostudy.networks.products import activation

FREQUENCIES = 32
"""Of the sines and cosines of a time."""

_CONVOLUTION = {1: nn.Conv1d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 3: nn.ConvTranspose3d}
_POOL = {1: F.avg_pool1d, 3: F.avg_pool3d}


@dataclass(frozen=True)
class UNetStructure:
    """widths, attention: of each level, from the finest; depth: residual blocks of a level, and
    again on its way up; stem: channels before the first; patch: cells by axis that share a place
    of the finest level; placed: whether the network learns what is special about each place."""

    widths: tuple[int, ...]
    attention: tuple[bool, ...]
    depth: int
    stem: int
    patch: tuple[int, ...]
    embedding: int = 64
    placed: bool = False


def time_features(time: Tensor) -> Tensor:
    """Sines and cosines (B, 2 * FREQUENCIES) of times (B,) in [0, 1]."""
    steps = torch.arange(FREQUENCIES, dtype=time.dtype) / (FREQUENCIES - 1)
    angle = 1e3 * time[:, None] * (-math.log(1e4) * steps).exp()
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class Conditions(nn.Module):
    """One vector (B, embedding) of a time and of other conditions, `sizes` numbers each."""

    def __init__(self, sizes: Sequence[int], embedding: int):
        super().__init__()
        self.time = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, 2 * embedding),
            nn.SiLU(),
            nn.Linear(2 * embedding, embedding),
        )
        self.others = nn.ModuleList(nn.Linear(size, embedding) for size in sizes)
        self.together = nn.Linear((1 + len(sizes)) * embedding, embedding)

    def forward(self, time: Tensor, *others: Tensor) -> Tensor:
        """Times (B,) and conditions (B, size) each."""
        seen = self.time(time_features(time))
        return self.together(torch.cat([seen, self.of_others(*others)], dim=1))

    def of_others(self, *others: Tensor) -> Tensor:
        """What is told of the other conditions, (B, embedding of each)."""
        pairs = zip(self.others, others, strict=True)
        return torch.cat([activation(F.silu, net(x)) for net, x in pairs], dim=1)


class Attention(nn.Module):
    """All places (B, C, ...) look at all others: one head, added to what was there.

    Before it, channels are normalised: at each place of a sequence, in four groups on a grid.
    """

    def __init__(self, width: int):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 3:
            seen = F.layer_norm(x.transpose(1, 2), x.shape[1:2], eps=1e-6)
        else:
            seen = F.group_norm(x, 4, eps=1e-3).flatten(2).transpose(1, 2)
        # With an axis for the one head, as ONNX wants it.
        asked = (part(seen)[:, None] for part in (self.query, self.key, self.value))
        found = F.scaled_dot_product_attention(*asked)[:, 0]
        return x + self.out(found).transpose(1, 2).reshape(x.shape)


class ResidualBlock(nn.Module):
    """Two convolutions over three places by axis, the condition added between them."""

    def __init__(self, inputs: int, width: int, embedding: int, attention: bool, dimensions: int):
        super().__init__()
        convolution = _CONVOLUTION[dimensions]
        self.skip = convolution(inputs, width, 1) if inputs != width else nn.Identity()
        self.condition = nn.Linear(embedding, width)
        self.first = convolution(inputs, width, 3, padding=1)
        self.second = convolution(width, width, 3, padding=1)
        self.attention = Attention(width) if attention else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, inputs, ...) and condition (B, embedding)."""
        shift = self.condition(condition)
        shift = shift.view(*shift.shape, *[1] * (x.ndim - 2))
        found = self.second(F.silu(self.first(F.silu(x)) + shift))
        return self.attention(self.skip(x) + found)


class ScoreUNet(nn.Module):
    """v (B, V) of cells with noise (B, V), given times (B,) and `conditions` numbers each.

    layout: for each place of the grid, the cell that is there, or -1 for none.
    """

    def __init__(self, layout: np.ndarray, conditions: Sequence[int], structure: UNetStructure):
        super().__init__()
        dimensions, patch = layout.ndim, structure.patch
        widths, depth, embedding = structure.widths, structure.depth, structure.embedding
        self.grid, cell = layout.shape, layout.ravel()
        filled = np.flatnonzero(cell >= 0)
        places = filled[np.argsort(cell[filled])]
        # What is outside sees the zero that is put behind the cells.
        self.register_buffer("cell", torch.as_tensor(cell), persistent=False)
        self.register_buffer("places", torch.as_tensor(places), persistent=False)

        def level(inputs: list[int], width: int, attention: bool) -> nn.ModuleList:
            return nn.ModuleList(
                ResidualBlock(i, width, embedding, attention, dimensions) for i in inputs
            )

        self.conditions = Conditions(conditions, embedding)
        self.stem = _CONVOLUTION[dimensions](1, structure.stem, patch, patch)
        coarse = [n // p for n, p in zip(self.grid, patch, strict=True)]
        self.place = (
            nn.Parameter(torch.zeros(structure.stem, *coarse)) if structure.placed else None
        )
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        above = structure.stem
        for width, attention in zip(widths, structure.attention, strict=True):
            self.down.append(level([above] + [width] * (depth - 1), width, attention))
            above = width
        for width, attention in list(zip(widths, structure.attention, strict=True))[-2::-1]:
            inputs = [above + width] + [2 * width] * (depth - 1)
            self.up.append(level(inputs, width, attention))
            above = width
        self.head = _TRANSPOSED[dimensions](above, 1, patch, patch)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, cells: Tensor, time: Tensor, *conditions: Tensor) -> Tensor:
        condition = self.conditions(time, *conditions)
        x = self.enter(cells)
        pool, kept = _POOL[len(self.grid)], []
        for blocks in self.down[:-1]:
            for block in blocks:
                x = block(x, condition)
                kept.append(x)
            x = pool(x, 2)
        for block in self.down[-1]:
            x = block(x, condition)
        for blocks in self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            for block in blocks:
                x = block(torch.cat([x, kept.pop()], dim=1), condition)
        return self.leave(x)

    def enter(self, cells: Tensor) -> Tensor:
        """Cells (B, V) as the channels (B, stem, ...) of the finest level."""
        x = self.stem(F.pad(cells, (0, 1))[:, self.cell].view(cells.shape[0], 1, *self.grid))
        return x if self.place is None else x + self.place

    def leave(self, x: Tensor) -> Tensor:
        """The finest level's channels (B, width, ...) as cells (B, V)."""
        return self.head(x).flatten(1)[:, self.places]


class _Block(nn.Module):
    """A residual block of `LayerNet`."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.skip, self.first, self.second = (nn.Linear(width, width) for _ in range(3))
        self.condition = nn.Linear(width, 2 * width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.condition(condition).chunk(2, dim=1)
        found = self.first(F.leaky_relu(x))
        found = self.dropout(F.leaky_relu((1.0 + scale) * found + shift))
        return self.skip(x) + self.second(found)


class LayerNet(nn.Module):
    """v (B, numbers) of numbers with noise (B, numbers), given times (B,) and conditions."""

    def __init__(
        self, numbers: int, conditions: Sequence[int], width: int, embedding: int, dropout: float
    ):
        super().__init__()
        self.conditions = Conditions(conditions, embedding)
        self.embed = nn.Linear(embedding, width)
        self.first = nn.Linear(numbers, width)
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(2))
        self.last = nn.Linear(width, numbers)

    def forward(self, numbers: Tensor, time: Tensor, *conditions: Tensor) -> Tensor:
        return self.conditioned(numbers, self.conditions(time, *conditions))

    def conditioned(self, numbers: Tensor, condition: Tensor) -> Tensor:
        """As `forward`, of what `conditions` say."""
        condition = F.leaky_relu(self.embed(condition))
        x = self.first(numbers)
        for block in self.blocks:
            x = block(x, condition)
        return self.last(x)
