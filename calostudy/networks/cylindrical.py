"""A U-Net on a grid of layers, angles and radii whose angles are a circle.

The network of CaloDiffusion (Amram & Pedro, arXiv:2308.03876). Tensors are (B, channels, Z, phi,
R); convolutions pad Z and R with zeros and phi with what lies on the other side of the circle.

PyTorch has two ways to convolve in three dimensions on a processor, and takes the slow one for few
images. Here it is told to take oneDNN's, on tensors whose channels are next to each other in
memory; `plain` goes back to what PyTorch does by itself.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calostudy.networks.products import activation, product

Sizes = tuple[int, int, int]


@dataclass(frozen=True)
class UNetStructure:
    """Hyperparameters of a cylindrical U-Net.

    widths: channels behind the first convolution, then of each resolution; groups: of the group
    normalisations; embedding: numbers that tell of time and conditions, half of each; attention:
    numbers per key.
    """

    widths: tuple[int, ...]
    groups: int = 8
    embedding: int = 128
    attention: int = 32


def _wrapped(x: Tensor) -> Tensor:
    """x with one more angle on either side, from the other side."""
    return torch.cat([x[:, :, :, -1:], x, x[:, :, :, :1]], dim=3)


def goes_by_mkldnn(x: Tensor) -> bool:
    """Whether PyTorch's library of fast convolutions on the CPU takes a tensor."""
    on_cpu = x.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return on_cpu and x.dtype == torch.float32


class CylindricalConv(nn.Conv3d):
    """A convolution of odd kernel or of stride 2 that pads each axis by one, phi by the circle.

    plain: whether to do it as PyTorch would by itself.
    """

    def __init__(self, inputs: int, outputs: int, kernel: Sizes, stride: Sizes, periodic: bool):
        super().__init__(inputs, outputs, kernel, stride, padding=(1, 0 if periodic else 1, 1))
        self.periodic, self.plain = periodic, False

    def forward(self, x: Tensor) -> Tensor:
        return self.convolved(x, self.weight, self.bias)

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As `forward`, with other weights."""
        if self.plain:
            if self.periodic:
                x = F.pad(x, (0, 0, 1, 1, 0, 0), mode="circular")
            return F.conv3d(x, weight, bias, self.stride, self.padding)
        x = _wrapped(x) if self.periodic else x
        if not goes_by_mkldnn(x):
            return F.conv3d(x, weight, bias, self.stride, self.padding)
        weight = weight.contiguous(memory_format=torch.channels_last_3d)
        return torch.mkldnn_convolution(x, weight, bias, self.padding, self.stride, (1, 1, 1), 1)


class Up(nn.ConvTranspose3d):
    """From one resolution to the next finer one, of `sizes` (Z, phi, R)."""

    def __init__(self, channels: int, sizes: Sizes, periodic: bool):
        odd = [size % 2 for size in sizes]
        super().__init__(
            channels,
            channels,
            (3 if odd[0] else 4, 4, 4),
            2,
            padding=(1, 3 if periodic else 1, 1),
            output_padding=(0, odd[1], odd[2]),
        )
        self.periodic, self.plain = periodic, False

    def forward(self, x: Tensor) -> Tensor:
        if self.periodic:
            x = F.pad(x, (0, 0, 1, 1, 0, 0), mode="circular") if self.plain else _wrapped(x)
        return super().forward(x)


class Pointwise(nn.Conv3d):
    """A convolution of kernel 1: where channels are next to each other, a product of matrices."""

    plain = False

    def forward(self, x: Tensor) -> Tensor:
        if self.plain:
            return super().forward(x)
        rows = x.permute(0, 2, 3, 4, 1)
        return product(rows, self.weight.flatten(1).t(), self.bias).permute(0, 4, 1, 2, 3)


class Block(nn.Module):
    """Convolution, group normalisation, SiLU."""

    def __init__(self, inputs: int, outputs: int, groups: int, periodic: bool):
        super().__init__()
        self.convolution = CylindricalConv(inputs, outputs, (3, 3, 3), (1, 1, 1), periodic)
        self.norm = nn.GroupNorm(groups, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return activation(F.silu, self.norm(self.convolution(x)))


class Residual(nn.Module):
    """Two blocks beside a shortcut; something of the embedding is added between them."""

    def __init__(
        self, inputs: int, outputs: int, structure: UNetStructure, periodic: bool, told=True
    ):
        super().__init__()
        self.tell = nn.Linear(structure.embedding, outputs) if told else None
        self.first = Block(inputs, outputs, structure.groups, periodic)
        self.second = Block(outputs, outputs, structure.groups, periodic)
        self.shortcut = Pointwise(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, told: Tensor | None = None) -> Tensor:
        """told (B, outputs): what `tell` makes of the embedding."""
        found = self.first(x)
        if told is not None:
            found = found + told[:, :, None, None, None]
        return self.second(found) + self.shortcut(x)


class LinearAttention(nn.Module):
    """Attention of linear cost (Shen et al., arXiv:1812.01243) with one head, beside a shortcut."""

    def __init__(self, channels: int, size: int):
        super().__init__()
        self.before = nn.GroupNorm(1, channels)
        self.ask = Pointwise(channels, 3 * size, 1, bias=False)
        self.answer = Pointwise(size, channels, 1)
        self.after = nn.GroupNorm(1, channels)
        self.plain = False

    def forward(self, x: Tensor) -> Tensor:
        asked = self.ask(self.before(x))
        return x + self.after(self._by_images(asked) if self.plain else self._by_places(asked))

    def _by_images(self, asked: Tensor) -> Tensor:
        query, key, value = asked.flatten(2).chunk(3, dim=1)
        query = query.softmax(dim=1) * query.shape[1] ** -0.5
        context = key.softmax(dim=2) @ value.transpose(1, 2)
        found = context.transpose(1, 2) @ query
        return self.answer(found.view(*query.shape[:2], *asked.shape[2:]))

    def _by_places(self, asked: Tensor) -> Tensor:
        """The same where channels are next to each other; what `answer` does is done to the few
        numbers of the context, not to those of all places."""
        rows = asked.permute(0, 2, 3, 4, 1)
        query, key, value = rows.flatten(1, 3).chunk(3, dim=2)
        key = activation(torch.exp, key - key.amax(dim=1, keepdim=True))
        context = key.transpose(1, 2) @ value / key.sum(dim=1)[:, :, None]
        context = product(context, self.answer.weight.flatten(1).t()) * query.shape[2] ** -0.5
        found = query.softmax(dim=2) @ context + self.answer.bias
        return found.view(*rows.shape[:4], -1).permute(0, 4, 1, 2, 3)


def _embedder(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, outputs // 2),
        nn.GELU(),
        nn.Linear(outputs // 2, outputs),
        nn.GELU(),
        nn.Linear(outputs, outputs),
    )


class _Level(nn.Module):
    """Two residual blocks and an attention on one resolution, and what leads to the next."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        structure: UNetStructure,
        periodic: bool,
        resample: nn.Module,
    ):
        super().__init__()
        self.first = Residual(inputs, outputs, structure, periodic)
        self.second = Residual(outputs, outputs, structure, periodic)
        self.attention = LinearAttention(outputs, structure.attention)
        self.resample = resample

    def forward(self, x: Tensor, told: Iterator[Tensor]) -> Tensor:
        return self.attention(self.second(self.first(x, next(told)), next(told)))


class _Middle(_Level):
    """The coarsest resolution: the attention is between the blocks."""

    def forward(self, x: Tensor, told: Iterator[Tensor]) -> Tensor:
        return self.second(self.attention(self.first(x, next(told))), next(told))


class CylindricalUNet(nn.Module):
    """A U-Net from (B, inputs, Z, phi, R) to (B, outputs, Z, phi, R), told a time and conditions.

    sizes: (Z, phi, R); periodic: whether phi is a circle.
    """

    def __init__(
        self,
        sizes: Sizes,
        inputs: int,
        outputs: int,
        conditions: int,
        structure: UNetStructure,
        periodic: bool = True,
    ):
        super().__init__()
        half, widths = structure.embedding // 2, structure.widths
        self.time, self.condition = _embedder(1, half), _embedder(conditions, half)
        self.begin = CylindricalConv(inputs, widths[0], (3, 3, 3), (1, 1, 1), periodic)
        pairs = list(itertools.pairwise(widths))
        resolutions = [sizes]
        for _ in pairs[1:]:
            resolutions.append(_coarser(resolutions[-1]))
        down, up = [nn.Identity()], [nn.Identity()]  # between a resolution and the next coarser one
        for (_, wide), finer in zip(pairs[:-1], resolutions[:-1], strict=True):
            down.insert(-1, CylindricalConv(wide, wide, (3, 4, 4), (2, 2, 2), periodic))
            up.append(Up(wide, finer, periodic))
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for (narrow, wide), resample in zip(pairs, down, strict=True):
            self.down.append(_Level(narrow, wide, structure, periodic, resample))
        self.middle = _Middle(widths[-1], widths[-1], structure, periodic, nn.Identity())
        for (narrow, wide), resample in zip(pairs[::-1], up[::-1], strict=True):
            self.up.append(_Level(2 * wide, narrow, structure, periodic, resample))
        self.last = Residual(widths[0], widths[0], structure, periodic, told=False)
        self.end = Pointwise(widths[0], outputs, 1)

    def embedding(self, time: Tensor, conditions: Tensor) -> Tensor:
        """What residual blocks are told of, (B, E), of times (B,) and conditions (B, K)."""
        return F.silu(torch.cat([self.time(time[:, None]), self.condition(conditions)], dim=1))

    def tells(self) -> list[nn.Linear]:
        """What tells the residual blocks of the embedding, in the order of use."""
        levels = (*self.down, self.middle, *self.up)
        return [block.tell for level in levels for block in (level.first, level.second)]

    def forward(self, x: Tensor, time: Tensor, conditions: Tensor) -> Tensor:
        embedding = self.embedding(time, conditions)
        return self.behind(self.begin(x), (tell(embedding) for tell in self.tells()))

    def behind(self, x: Tensor, told: Iterator[Tensor]) -> Tensor:
        """What is behind the first convolution; told: (B, channels) of each residual block."""
        skipped = []
        for level in self.down:
            x = level(x, told)
            skipped.append(x)
            x = level.resample(x)
        x = self.middle(x, told)
        for level in self.up:
            x = level.resample(level(torch.cat([x, skipped.pop()], dim=1), told))
        return self.end(self.last(x))


def _coarser(sizes: Sizes) -> Sizes:
    """Behind a convolution of stride 2."""
    layers, angles, radii = sizes
    return (layers + 1) // 2, angles // 2, radii // 2


def set_plain(modules: Iterable[nn.Module], plain: bool) -> None:
    """Whether convolutions are those that PyTorch chooses."""
    for module in modules:
        if hasattr(module, "plain"):
            module.plain = plain
