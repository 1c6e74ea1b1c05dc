"""Monotone cubic splines (Durkan et al., arXiv:1906.02145; Steffen, A&A 239 (1990) 443).

An element has `bins` unnormalised widths, `bins` unnormalised heights and the unnormalised
derivatives at the left and the right end; the inner derivatives follow from widths and heights by
Steffen's rule, which keeps the curve monotone. Conventions and values are those of nflows'
`unconstrained_cubic_spline`: identity outside [-tail_bound, tail_bound].

The inverse is not nflows' formula, which drops the cubic term where it is small, but Newton's
method inside a bracket: exact to rounding. Elements live in columns, as in `spline`.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ITERATIONS = 30
"""Of the inverse: Newton's method needs few; a bracket that only halves shrinks to 1e-9."""


@dataclass(frozen=True)
class CubicSettings:
    """Number of bins, tail bound and smallest bin width and bin height."""

    bins: int
    tail_bound: float
    min_bin_width: float
    min_bin_height: float

    @property
    def parameters(self) -> int:
        """Unnormalised parameters per element."""
        return 2 * self.bins + 2

    @property
    def identity(self) -> np.ndarray:
        """Unnormalised parameters of the identity: sigmoid(-log 2) = 1/3 gives slope 1."""
        return np.append(np.zeros(2 * self.bins), np.full(2, -math.log(2.0)))

    def numbers(self, dtype) -> np.ndarray:
        """What the sampler's kernels read: bound, smallest width and height."""
        return np.array([self.tail_bound, self.min_bin_width, self.min_bin_height, 0, 0], dtype)

    @property
    def marker(self) -> tuple:
        """A tuple of length `bins`: numba compiles the kernels for its type."""
        return (0,) * self.bins


def cubic_spline(inputs: Tensor, parameters: Tensor, settings: CubicSettings):
    """Spline of each element, and the sum over features of the log derivatives.

    inputs: (features, samples); parameters: (features * settings.parameters, samples), the
    parameters of one feature in consecutive rows (widths, heights, left and right derivative).
    Returns outputs (features, samples) and logabsdet (samples,), differentiable.
    """
    inside, position, (left, width, low, height, p, q) = _located(inputs, parameters, settings)
    t = (position - left) / width
    rise, slope = _curve(t, p, q)
    logs = torch.log(slope * height / width)
    outputs = torch.where(inside, low + height * rise, inputs)
    return outputs, torch.where(inside, logs, 0.0).sum(dim=0)


def inverse_cubic_spline(inputs: Tensor, parameters: Tensor, settings: CubicSettings) -> Tensor:
    """x with cubic_spline(x) = inputs, arguments as there; carries no gradient."""
    with torch.no_grad():
        inside, position, chosen = _located(inputs, parameters, settings, inverse=True)
        left, width, low, height, p, q = chosen
        target = ((position - low) / height).clamp(0.0, 1.0)
        t, below, above = target, torch.zeros_like(target), torch.ones_like(target)
        for _ in range(ITERATIONS):
            rise, slope = _curve(t, p, q)
            below = torch.where(rise <= target, t, below)
            above = torch.where(rise >= target, t, above)
            step = t - (rise - target) / slope
            t = torch.where((step >= below) & (step <= above), step, 0.5 * (below + above))
        return torch.where(inside, left + width * t, inputs)


def _curve(t: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """The cubic from (0, 0) to (1, 1) with slopes p and q there, and its slope, at t."""
    a, b = p + q - 2.0, 3.0 - 2.0 * p - q
    return t * (p + t * (b + t * a)), p + t * (2.0 * b + 3.0 * a * t)


def _located(inputs, parameters, settings, inverse=False):
    """Which elements are inside, where, and of the bins that hold them left edge, width, lower
    edge, height and the slopes at both ends in units of height / width."""
    bins, bound = settings.bins, settings.tail_bound
    inside, position = inputs.abs() <= bound, inputs.clamp(-bound, bound)
    raw = parameters.view(len(inputs), settings.parameters, -1)

    def axis(unnormalised, minimum):
        shares = minimum + (1.0 - minimum * bins) * torch.softmax(unnormalised, dim=1)
        inner = 2.0 * bound * torch.cumsum(shares, dim=1)[:, :-1] - bound
        knots = F.pad(F.pad(inner, (0, 0, 1, 0), value=-bound), (0, 0, 0, 1), value=bound)
        return knots, knots.diff(dim=1)

    x_knots, widths = axis(raw[:, :bins], settings.min_bin_width)
    y_knots, heights = axis(raw[:, bins : 2 * bins], settings.min_bin_height)
    slopes = heights / widths
    before, after, narrow, wide = slopes[:, :-1], slopes[:, 1:], widths[:, :-1], widths[:, 1:]
    mean = (wide * before + narrow * after) / (narrow + wide)
    inner = torch.minimum(2.0 * torch.minimum(before, after), mean)
    ends = 3.0 * torch.sigmoid(raw[:, 2 * bins :]) * slopes[:, [0, -1]]
    derivatives = torch.cat([ends[:, :1], inner, ends[:, 1:]], dim=1)
    search = y_knots if inverse else x_knots
    chosen = (position.unsqueeze(1) >= search[:, 1:-1]).sum(dim=1, keepdim=True)

    def at(values, step=0):
        return values.gather(1, chosen + step).squeeze(1)

    slope = at(slopes)
    p, q = at(derivatives) / slope, at(derivatives, 1) / slope
    return inside, position, (at(x_knots), at(widths), at(y_knots), at(heights), p, q)
