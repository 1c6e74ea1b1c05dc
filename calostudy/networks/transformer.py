"""A transformer over patches of a calorimeter: the velocity of a shower between noise and data.

The network of CaloDREAM's shapes (Favaro, Ore, Palacios Schweitzer & Plehn, arXiv:2405.09629;
after the diffusion transformer of Peebles & Xie, arXiv:2212.09748): each patch of cells is a token,
whose place is told by learnt Fourier features; time and condition shift, scale and gate every
block.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calostudy.calorimeter import Calorimeter
from calostudy.networks.products import activation

_TIME_FEATURES = 256
_EPSILON = 1e-6

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class TransformerStructure:
    """hidden: width of a token; ratio: of a block's inner width to it."""

    hidden: int
    blocks: int
    heads: int
    ratio: int


@dataclass(frozen=True)
class Patches:
    """How the numbers of a shower are grouped into tokens.

    order: of the numbers (V,), so that the patches follow each other. sizes: numbers in a token,
    one for each group of like tokens. places: of each group the places (T, 3) of its tokens, each
    coordinate in [0, 1).
    """

    order: Tensor
    sizes: tuple[int, ...]
    places: tuple[Tensor, ...]

    @classmethod
    def of(cls, calorimeter: Calorimeter, patch: Mapping[tuple[int, int], Shape]) -> "Patches":
        """Patches (layers, slow axis, fast axis) by the shape of a layer; neighbouring layers of
        one shape form a volume that is cut into them.

        >>> from calostudy.calorimeter import calorimeter
        >>> patches = Patches.of(calorimeter("ds2"), {(16, 9): (3, 16, 1)})
        >>> [len(places) for places in patches.places], patches.sizes
        ([135], (48,))
        """
        layers, groups = calorimeter.layers, []
        for i, layer in enumerate(layers):
            if not groups or layers[groups[-1][-1]].shape != layer.shape:
                groups.append([])
            groups[-1].append(i)
        order, sizes, places = [], [], []
        for group in groups:
            shape = len(group), *layers[group[0]].shape
            begin, end = calorimeter.slices[group[0]].start, calorimeter.slices[group[-1]].stop
            size = patch[shape[1:]]
            order.append(in_patches(torch.arange(begin, end).view(shape), size).flatten())
            sizes.append(math.prod(size))
            counts = torch.tensor([len(layers), *shape[1:]])
            corner = torch.cartesian_prod(
                *(torch.arange(0, n, p) for n, p in zip(shape, size, strict=True))
            )
            corner[:, 0] += group[0]
            places.append((corner / counts).float())
        return cls(torch.cat(order), tuple(sizes), tuple(places))

    @classmethod
    def single(cls, numbers: int) -> "Patches":
        """Each number a token by itself."""
        place = torch.arange(numbers) / numbers
        return cls(torch.arange(numbers), (1,), (torch.stack([place] * 3, dim=1),))


def in_patches(volume: Tensor, patch: Sequence[int]) -> Tensor:
    """A volume, such as (Z, A, R), as patches (T, numbers in a patch)."""
    for axis, size in enumerate(patch):
        volume = volume.unfold(axis, size, size)
    return volume.reshape(-1, math.prod(patch))


class ShowerTransformer(nn.Module):
    """Numbers (B, V), times (B,) and conditions (B, C) to numbers (B, V)."""

    def __init__(self, patches: Patches, structure: TransformerStructure, conditions: int):
        super().__init__()
        hidden = structure.hidden
        self.sizes, self.counts = patches.sizes, tuple(len(p) for p in patches.places)
        self.register_buffer("order", patches.order, persistent=False)
        self.register_buffer("back", patches.order.argsort(), persistent=False)
        self.register_buffer("places", torch.cat(patches.places), persistent=False)
        self.embed = nn.ModuleList(nn.Linear(size, hidden) for size in self.sizes)
        self.frequencies = nn.Parameter(torch.randn(hidden // 2))
        self.time = _perceptron(_TIME_FEATURES, hidden)
        self.condition = _perceptron(conditions, hidden)
        self.blocks = nn.ModuleList(_Block(structure) for _ in range(structure.blocks))
        self.modulate = nn.Linear(hidden, 2 * hidden)
        self.read = nn.ModuleList(nn.Linear(hidden, size) for size in self.sizes)
        for layer in (self.modulate, *self.read, *(block.modulate for block in self.blocks)):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        given = F.silu(self.of_time(time) + self.condition(condition))
        modulations = [part.modulate(given) for part in (*self.blocks, self)]
        return self.modulated(x, modulations, self.positions())

    def of_time(self, time: Tensor) -> Tensor:
        """What tokens are told of times (B,): (B, hidden)."""
        return self.time(_waves(time))

    def modulated(self, x: Tensor, modulations: Sequence[Tensor], positions: Tensor) -> Tensor:
        """As `forward`, of what time and condition do to the blocks, (B, 6 hidden) each, and to
        what comes out of them, (B, 2 hidden)."""
        pieces = x[:, self.order].split(
            [size * count for size, count in zip(self.sizes, self.counts, strict=True)], dim=1
        )
        tokens = torch.cat(
            [
                embed(piece.unflatten(1, (count, size)))
                for embed, piece, count, size in zip(
                    self.embed, pieces, self.counts, self.sizes, strict=True
                )
            ],
            dim=1,
        )
        tokens = tokens + positions
        for block, modulation in zip(self.blocks, modulations, strict=False):
            tokens = block(tokens, modulation)
        shift, scale = modulations[-1][:, None].chunk(2, dim=-1)
        tokens = _modulated(tokens, shift, scale)
        said = [
            read(piece).flatten(1)
            for read, piece in zip(self.read, tokens.split(self.counts, dim=1), strict=True)
        ]
        return torch.cat(said, dim=1)[:, self.back]

    def positions(self) -> Tensor:
        """Of all tokens, (T, hidden): sines and cosines of the coordinates, at learnt
        frequencies."""
        angles = [
            2.0 * math.pi * place[:, None] * frequencies
            for place, frequencies in zip(
                self.places.to(self.frequencies).T, self.frequencies.tensor_split(3), strict=True
            )
        ]
        angles = torch.cat(angles, dim=1)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class _Block(nn.Module):
    """Attention between the tokens, then a perceptron on each; both modulated and gated."""

    def __init__(self, structure: TransformerStructure):
        super().__init__()
        hidden, inner = structure.hidden, structure.ratio * structure.hidden
        self.heads = structure.heads
        self.modulate = nn.Linear(hidden, 6 * hidden)
        self.attend, self.join = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.widen, self.narrow = nn.Linear(hidden, inner), nn.Linear(inner, hidden)

    def forward(self, tokens: Tensor, modulation: Tensor) -> Tensor:
        shifts = modulation[:, None].chunk(6, dim=-1)
        seen = _modulated(tokens, shifts[0], shifts[1])
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attend(seen).chunk(3, dim=-1)
        )
        found = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        tokens = tokens + shifts[2] * self.join(found)
        seen = _modulated(tokens, shifts[3], shifts[4])
        found = self.narrow(activation(_gelu, self.widen(seen)))
        return tokens + shifts[5] * found


def _perceptron(inputs: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden))


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    normal = F.layer_norm(tokens, tokens.shape[-1:], eps=_EPSILON)
    return torch.addcmul(shift, normal, 1.0 + scale)


def _waves(time: Tensor) -> Tensor:
    """Sines and cosines (B, 256) of times (B,) in [0, 1], of periods from 0.006 to 60."""
    half = _TIME_FEATURES // 2
    steps = torch.arange(half, dtype=time.dtype, device=time.device) / half
    angles = 1e3 * time[:, None] * (-math.log(1e4) * steps).exp()
    return torch.cat([angles.cos(), angles.sin()], dim=1)
