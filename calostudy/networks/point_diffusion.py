"""The networks of CaloClouds II: a denoiser of points and a flow of a shower's numbers.

Buhmann et al., arXiv:2309.05704. Points do not see each other; what they share is a few conditions.
"""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WAVES, _SPREAD, _CONTEXT = 32, 16.0, 64
_SLOPE = 0.01  # of the leaky rectifiers


class _ConcatSquash(nn.Module):
    """A linear layer, gated and shifted by the context."""

    def __init__(self, inputs: int, outputs: int, context: int):
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)
        self.gate = nn.Linear(context, outputs)
        self.shift = nn.Linear(context, outputs, bias=False)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return torch.addcmul(self.shift(context), self.layer(x), self.gate(context).sigmoid())


class PointNetwork(nn.Module):
    """Points (B, P, 4), logarithms of the noise's deviation (B,) and conditions (B, K) to
    (B, P, 4)."""

    def __init__(self, widths: Sequence[int], conditions: int, features: int = 4):
        super().__init__()
        sizes = (features, *widths, features)
        self.register_buffer("frequencies", _SPREAD * torch.randn(_WAVES))
        self.time = nn.Linear(2 * _WAVES, _CONTEXT)
        self.layers = nn.ModuleList(
            _ConcatSquash(a, b, _CONTEXT + conditions) for a, b in itertools.pairwise(sizes)
        )

    def forward(self, x: Tensor, log_sigma: Tensor, conditions: Tensor) -> Tensor:
        angles = 2.0 * math.pi * 0.25 * log_sigma[:, None] * self.frequencies
        told = F.leaky_relu(self.time(torch.cat([angles.sin(), angles.cos()], dim=1)), _SLOPE)
        context = torch.cat([told, conditions], dim=1)[:, None]
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x, context), _SLOPE)
        return self.layers[-1](x, context)


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(hidden, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last
    )


class ShowerFlow(nn.Module):
    """Numbers of a shower (B, D) given conditions (B, 1): blocks of three affine couplings, a
    spline whose knots follow from the condition alone, and three more couplings."""

    def __init__(self, numbers: int, blocks: int, affine: int, spline: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.numbers, self.half = numbers, numbers // 2
        layers: list[nn.Module] = []
        for _ in range(blocks):
            couplings = [self._coupling(affine) for _ in range(6)]
            layers += [
                *couplings[:3],
                _perceptron(1, spline, numbers * _PER_SPLINE),
                *couplings[3:],
            ]
        self.layers = nn.ModuleList(layers)
        order = torch.stack(
            [torch.randperm(numbers, generator=generator) for _ in range(len(layers))]
        )
        self.register_buffer("orders", order, persistent=False)

    def _coupling(self, hidden: int) -> nn.Module:
        return _perceptron(self.half + 1, hidden, 2 * (self.numbers - self.half))

    def log_prob(self, x: Tensor, condition: Tensor) -> Tensor:
        """Log density (B,) of numbers (B, D)."""
        total = x.new_zeros(len(x))
        for i in reversed(range(len(self.layers))):
            x, change = self._undone(i, x[:, self.orders[i].argsort()], condition)
            total = total + change
        return total - 0.5 * (x.square() + math.log(2.0 * math.pi)).sum(dim=1)

    def forward(self, noise: Tensor, condition: Tensor) -> Tensor:
        """Numbers (B, D) of standard normal noise (B, D)."""
        x = noise
        for i, layer in enumerate(self.layers):
            if self._is_spline(i):
                x = spline(x, layer(condition).view(*x.shape, _PER_SPLINE))[0]
            else:
                seen, rest = x[:, : self.half], x[:, self.half :]
                scale, shift = self._affine(layer, seen, condition)
                x = torch.cat([seen, rest * scale.exp() + shift], dim=1)
            x = x[:, self.orders[i]]
        return x

    def _undone(self, i: int, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        layer = self.layers[i]
        if self._is_spline(i):
            x, change = spline(x, layer(condition).view(*x.shape, _PER_SPLINE), inverse=True)
            return x, change.sum(dim=1)
        seen, rest = x[:, : self.half], x[:, self.half :]
        scale, shift = self._affine(layer, seen, condition)
        return torch.cat([seen, (rest - shift) * (-scale).exp()], dim=1), -scale.sum(dim=1)

    @staticmethod
    def _affine(layer: nn.Module, seen: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = layer(torch.cat([seen, condition], dim=1)).chunk(2, dim=1)
        return 2.0 * (0.5 * scale).tanh(), shift

    @staticmethod
    def _is_spline(i: int) -> bool:
        return i % 7 == 3


_BINS, _BOUND, _LEAST = 8, 4.0, 1e-3
_PER_SPLINE = 4 * _BINS - 1


def spline(x: Tensor, parameters: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Monotone linear rational splines (Dolatabadi et al., arXiv:2001.05168), the identity beyond
    +- 4: x (..., ) and parameters (..., 31) to values and the logarithms of their slopes.

    Two fractions of first degree to a bin, which meet at lambda of its width.
    """
    inside = x.abs() < _BOUND
    x_in = torch.where(inside, x, 0.0)
    widths, heights, slopes, lambdas = parameters.split([_BINS, _BINS, _BINS - 1, _BINS], dim=-1)
    left, width = _bins(widths)
    low, height = _bins(heights)
    slopes = _LEAST + F.softplus(slopes + math.log(math.expm1(1.0 - _LEAST)))
    slopes = F.pad(slopes, (1, 1), value=1.0)
    lambdas = 0.025 + 0.95 * lambdas.sigmoid()

    edges = (low if inverse else left)[..., 1:]
    place = (x_in[..., None] >= edges).sum(dim=-1, keepdim=True)
    left, width, low, height, lam, slope, slope_after = (
        table.gather(-1, place)[..., 0]
        for table in (left, width, low, height, lambdas, slopes[..., :-1], slopes[..., 1:])
    )
    a, b = torch.ones_like(slope), (slope / slope_after).sqrt()
    delta = height / width
    c = (lam * slope * a + (1.0 - lam) * b * slope_after) / delta
    ya, yb = low, low + height
    yc = ((1.0 - lam) * a * ya + lam * b * yb) / ((1.0 - lam) * a + lam * b)
    if inverse:
        first = x_in <= yc
        top = torch.where(
            first, lam * a * (ya - x_in), (c - lam * b) * x_in + lam * b * yb - c * yc
        )
        bottom = torch.where(
            first, (c - a) * x_in + a * ya - c * yc, (c - b) * x_in + b * yb - c * yc
        )
        theta = top / bottom
    else:
        theta = (x_in - left) / width
        first = theta <= lam
    denominator = torch.where(
        first, a * (lam - theta) + c * theta, c * (1.0 - theta) + b * (theta - lam)
    )
    rise = torch.where(first, a * c * lam * (yc - ya), b * c * (1.0 - lam) * (yb - yc)) / width
    log_slope = rise.log() - 2.0 * denominator.abs().log()
    if inverse:
        found, log_slope = left + theta * width, -log_slope
    else:
        value = torch.where(
            first,
            a * ya * (lam - theta) + c * yc * theta,
            c * yc * (1.0 - theta) + b * yb * (theta - lam),
        )
        found = value / denominator
    return torch.where(inside, found, x), torch.where(inside, log_slope, 0.0)


def _bins(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Left ends and widths of the bins, together from - 4 to 4."""
    shares = _LEAST + (1.0 - _LEAST * _BINS) * parameters.softmax(dim=-1)
    widths = 2.0 * _BOUND * shares
    return F.pad(widths.cumsum(dim=-1)[..., :-1], (1, 0)) - _BOUND, widths
