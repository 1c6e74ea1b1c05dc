"""The U-Net of CaloScore for one shower at a time, the same function without what costs time.

What depends on the conditions alone is computed once for a shower, and the shifts of all residual
blocks in one product. On a grid, oneDNN is called by name: torch itself takes a slow way for a
single shower. A sequence is kept with its channels behind its places, where a convolution is a
product with a matrix that needs no copy of its neighbours.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calostudy.networks.cylindrical import goes_by_mkldnn
from calostudy.networks.score_unet import (
    Attention,
    LayerNet,
    ResidualBlock,
    ScoreUNet,
    time_features,
)

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
    if isinstance(network, LayerNet):
        return eager(network, precision)
    network = _copied(network, precision)
    walk = {1: _Sequence, 3: _Grid}[len(network.grid)](network)

    def given(*conditions: Tensor) -> Predict:
        conditioned = network.conditions
        pairs = zip(conditioned.others, conditions, strict=True)
        others = torch.cat([F.silu(net(x)) for net, x in pairs], dim=1)

        def predict(x: Tensor, time: float) -> Tensor:
            seen = conditioned.time(time_features(x.new_tensor([time])))
            return walk(x, conditioned.together(torch.cat([seen, others], dim=1)))

        return predict

    return given


def _copied(network: nn.Module, precision: str) -> nn.Module:
    network = copy.deepcopy(network).to(getattr(torch, precision)).eval()
    return network.requires_grad_(False)


class _Walk:
    """Down and up through the levels of a U-Net, cells (1, V) and condition (1, E) to v (1, V)."""

    def __init__(self, network: ScoreUNet):
        self.network = network
        blocks = [b for b in network.modules() if isinstance(b, ResidualBlock)]
        self.widths = [block.condition.out_features for block in blocks]
        self.weight = torch.cat([block.condition.weight for block in blocks])
        # The first convolution's bias is one more shift.
        self.bias = torch.cat([block.condition.bias + block.first.bias for block in blocks])
        self.down, self.up = (
            [[self.prepared(block) for block in level] for level in levels]
            for levels in (network.down, network.up)
        )

    def __call__(self, cells: Tensor, condition: Tensor) -> Tensor:
        shifts = iter(F.linear(condition, self.weight, self.bias)[0].split(self.widths))
        x, kept = self.entered(cells), []
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
        return self.left(x)


class _Grid(_Walk):
    """Of a grid (1, C, D, H, W) in memory with the channels last."""

    def __init__(self, network: ScoreUNet):
        for module in network.modules():
            if isinstance(module, nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)
        super().__init__(network)

    def prepared(self, block: ResidualBlock) -> ResidualBlock:
        return block

    def entered(self, cells: Tensor) -> Tensor:
        x = self.network.enter(cells)
        return x.contiguous(memory_format=torch.channels_last_3d)

    def left(self, x: Tensor) -> Tensor:
        return self.network.leave(x)

    def pooled(self, x: Tensor) -> Tensor:
        return F.avg_pool3d(x, 2)

    def doubled(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")

    def joined(self, x: Tensor, kept: Tensor) -> Tensor:
        return torch.cat([x, kept], dim=1)

    def through(self, block: ResidualBlock, x: Tensor, shift: Tensor) -> Tensor:
        found = _convolve(F.silu(x), block.first.weight, shift, 1)
        found = _convolve(F.silu(found, inplace=True), block.second.weight, block.second.bias, 1)
        if isinstance(block.skip, nn.Identity):
            found += x
        else:
            found += _convolve(x, block.skip.weight, block.skip.bias, 0)
        return block.attention(found)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    if not goes_by_mkldnn(x):
        return F.conv3d(x, weight, bias, padding=padding)
    return torch.mkldnn_convolution(x, weight, bias, (padding,) * 3, (1,) * 3, (1,) * 3, 1)


class _Sequence(_Walk):
    """Of a sequence (L, C)."""

    def prepared(self, block: ResidualBlock) -> tuple:
        def matrix(convolution: nn.Conv1d) -> Tensor:
            return convolution.weight.permute(2, 1, 0).flatten(0, 1).contiguous()

        skip = attention = None
        if not isinstance(block.skip, nn.Identity):
            skip = matrix(block.skip), block.skip.bias
        if isinstance(block.attention, Attention):
            parts = [getattr(block.attention, name) for name in ("query", "key", "value")]
            scale = len(parts[0].bias) ** -0.5
            factors = (scale, 1.0, 1.0)
            weight = torch.cat([f * p.weight for f, p in zip(factors, parts, strict=True)])
            bias = torch.cat([f * p.bias for f, p in zip(factors, parts, strict=True)])
            out = block.attention.out
            attention = weight.T.contiguous(), bias, out.weight.T.contiguous(), out.bias
        second = matrix(block.second), block.second.bias
        return matrix(block.first), second, skip, attention

    def entered(self, cells: Tensor) -> Tensor:
        return self.network.enter(cells)[0].T.contiguous()

    def left(self, x: Tensor) -> Tensor:
        return self.network.leave(x.T[None])

    def pooled(self, x: Tensor) -> Tensor:
        return x.view(len(x) // 2, 2, -1).mean(dim=1)

    def doubled(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, dim=0)

    def joined(self, x: Tensor, kept: Tensor) -> Tensor:
        return torch.cat([x, kept], dim=1)

    def through(self, block: tuple, x: Tensor, shift: Tensor) -> Tensor:
        first, (second, bias), skip, attention = block
        found = torch.addmm(shift, _neighbours(F.silu(x)), first)
        found = torch.addmm(bias, _neighbours(F.silu(found, inplace=True)), second)
        found += x if skip is None else torch.addmm(skip[1], x, skip[0])
        if attention is None:
            return found
        weight, bias, out, out_bias = attention
        seen = F.layer_norm(found, found.shape[1:], eps=1e-6)
        query, key, value = torch.addmm(bias, seen, weight).chunk(3, dim=1)
        mixed = torch.softmax(query @ key.T, dim=1) @ value
        return found.add_(torch.addmm(out_bias, mixed, out))


def _neighbours(x: Tensor) -> Tensor:
    """Each place of x (L, C) with the one before and the one behind: (L, 3 C), without a copy
    of more than x."""
    length, width = x.shape
    padded = F.pad(x, (0, 0, 1, 1))
    return padded.as_strided((length, 3 * width), (width, 1))
