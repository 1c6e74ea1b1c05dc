"""The networks of CaloScore, the same functions without what costs time.

What depends on the conditions alone is computed once for a shower, what depends on the time once
for all of them, and the shifts of all residual blocks in one product. On a grid, oneDNN is called
by name: torch itself takes a slow way for a single shower. A sequence is kept with its channels
behind its places, where a convolution is a product with a matrix. Several showers go through
together, and come out with the same bits as alone.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calostudy.networks.cylindrical import goes_by_mkldnn
from calostudy.networks.kept import OfTimes
from calostudy.networks.products import activation, by_products, product
from calostudy.networks.score_unet import (
    Attention,
    LayerNet,
    ResidualBlock,
    ScoreUNet,
    time_features,
)
from calostudy.networks.transformer import in_patches

Predict = Callable[[Tensor, float], Tensor]
"""x (B, D) and time to v (B, D)."""


def eager(
    network: nn.Module, precision: str, wrapped: Callable[[nn.Module], Any] = lambda net: net
) -> Callable[..., Predict]:
    """From conditions (B, C) of showers to their `Predict`, by plain torch; `wrapped` is done to
    the network."""
    network = wrapped(_copied(network, precision))

    def given(*conditions: Tensor) -> Predict:
        return lambda x, time: network(x, x.new_full((x.shape[0],), time), *conditions)

    return given


def fused(network: nn.Module, precision: str) -> Callable[..., Predict]:
    """The same as `eager`, to rounding, and faster."""
    network = by_products(_copied(network, precision))
    if isinstance(network, LayerNet):
        walk = network.conditioned
    else:
        walk = {1: _Sequence, 3: _Grid}[len(network.grid)](network)
    told = network.conditions
    of_times = OfTimes(lambda time: told.time(time_features(time)), next(network.parameters()))

    def given(*conditions: Tensor) -> Predict:
        others = told.of_others(*conditions)

        def predict(x: Tensor, time: float) -> Tensor:
            seen = of_times.one(time).expand(len(x), -1)
            return walk(x, told.together(torch.cat([seen, others], dim=1)))

        return predict

    return given


def _copied(network: nn.Module, precision: str) -> nn.Module:
    network = copy.deepcopy(network).to(getattr(torch, precision)).eval()
    return network.requires_grad_(False)


class _Walk:
    """Down and up through the levels of a U-Net, cells (B, V) and condition (B, E) to v (B, V)."""

    def __init__(self, network: ScoreUNet):
        blocks = [b for b in network.modules() if isinstance(b, ResidualBlock)]
        self.widths = [block.condition.weight.shape[0] for block in blocks]
        self.weight = torch.cat([block.condition.weight for block in blocks]).t().contiguous()
        # The first convolution's bias is one more shift.
        self.bias = torch.cat([block.condition.bias + block.first.bias for block in blocks])
        self.down, self.up = (
            [[self.prepared(block) for block in level] for level in levels]
            for levels in (network.down, network.up)
        )
        # The patches of the finest level, (places, numbers): what each sees, and what it says.
        stem, head, patch = network.stem, network.head, network.stem.kernel_size
        self.coarse = [n // p for n, p in zip(network.grid, patch, strict=True)]
        self.cell = in_patches(network.cell.view(network.grid), patch)
        order = in_patches(torch.arange(len(network.cell)).view(network.grid), patch).flatten()
        self.places = order.argsort()[network.places]
        self.stem = stem.weight.flatten(1).t().contiguous(), stem.bias
        self.place = 0.0 if network.place is None else network.place.flatten(1).t().contiguous()
        self.head = head.weight.flatten(1), head.bias.repeat(self.cell.shape[1])

    def __call__(self, cells: Tensor, condition: Tensor) -> Tensor:
        shifts = iter(product(condition, self.weight, self.bias).split(self.widths, dim=1))
        patches = F.pad(cells, (0, 1))[:, self.cell]
        x, kept = self.entered(product(patches, *self.stem) + self.place), []
        for level in self.down[:-1]:
            for block in level:
                x = self.through(block, x, next(shifts))
                kept.append(x)
            x = self.pooled(x)
        for block in self.down[-1]:
            x = self.through(block, x, next(shifts))
        for level in self.up:
            x = self.doubled(x)
            for block in level:
                x = self.through(block, self.joined(x, kept.pop()), next(shifts))
        return product(self.left(x), *self.head).flatten(1)[:, self.places]


class _Grid(_Walk):
    """Of a grid (B, C, D, H, W) in memory with the channels last."""

    def __init__(self, network: ScoreUNet):
        for module in network.modules():
            if isinstance(module, nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)
        super().__init__(network)

    def prepared(self, block: ResidualBlock) -> ResidualBlock:
        return block

    def entered(self, rows: Tensor) -> Tensor:
        return rows.unflatten(1, self.coarse).permute(0, 4, 1, 2, 3)

    def left(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 4, 1).flatten(1, 3)

    def pooled(self, x: Tensor) -> Tensor:
        return F.avg_pool3d(x, 2)

    def doubled(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")

    def joined(self, x: Tensor, kept: Tensor) -> Tensor:
        return torch.cat([x, kept], dim=1)

    def through(self, block: ResidualBlock, x: Tensor, shift: Tensor) -> Tensor:
        found = _convolve(activation(F.silu, x), block.first.weight, None, 1)
        found = activation(F.silu, found.add_(shift[:, :, None, None, None]))
        found = _convolve(found, block.second.weight, block.second.bias, 1)
        if isinstance(block.skip, nn.Identity):
            found += x
        else:
            found += _convolve(x, block.skip.weight, block.skip.bias, 0)
        return block.attention(found)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    if not goes_by_mkldnn(x):
        return F.conv3d(x, weight, bias, padding=padding)
    return torch.mkldnn_convolution(x, weight, bias, (padding,) * 3, (1,) * 3, (1,) * 3, 1)


class _Sequence(_Walk):
    """Of a sequence (B, L, C)."""

    def prepared(self, block: ResidualBlock) -> tuple:
        def matrix(convolution: nn.Conv1d) -> Tensor:
            return convolution.weight.permute(2, 1, 0).flatten(0, 1).contiguous()

        skip = attention = None
        if not isinstance(block.skip, nn.Identity):
            skip = matrix(block.skip), block.skip.bias
        if isinstance(block.attention, Attention):
            parts = [getattr(block.attention, name) for name in ("query", "key", "value")]
            weight = torch.cat([part.weight for part in parts]).t().contiguous()
            attention = weight, torch.cat([part.bias for part in parts]), block.attention.out
        return matrix(block.first), (matrix(block.second), block.second.bias), skip, attention

    def entered(self, rows: Tensor) -> Tensor:
        return rows

    def left(self, x: Tensor) -> Tensor:
        return x

    def pooled(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, 2)).mean(dim=2)

    def doubled(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, dim=1)

    def joined(self, x: Tensor, kept: Tensor) -> Tensor:
        return torch.cat([x, kept], dim=2)

    def through(self, block: tuple, x: Tensor, shift: Tensor) -> Tensor:
        first, second, skip, attention = block
        found = product(_neighbours(activation(F.silu, x)), first).add_(shift[:, None])
        found = product(_neighbours(activation(F.silu, found)), *second)
        found += x if skip is None else product(x, *skip)
        if attention is None:
            return found
        weight, bias, out = attention
        seen = F.layer_norm(found, found.shape[2:], eps=1e-6)
        asked = (part[:, None] for part in product(seen, weight, bias).chunk(3, dim=2))
        return found.add_(out(F.scaled_dot_product_attention(*asked)[:, 0]))


def _neighbours(x: Tensor) -> Tensor:
    """Each place of x (B, L, C) with the one before and the one behind: (B, L, 3 C)."""
    count, length, width = x.shape
    padded = F.pad(x, (0, 0, 1, 1))
    return padded.as_strided((count, length, 3 * width), (padded.stride(0), width, 1))
