"""Distributions as lines: quantiles at normal numbers, weighted, and read both ways.

A distribution is a line, its value at each of some normal numbers `nodes`: at 0 the median. A
normal number becomes a value of the distribution by following the line, a value the normal number
by going back. Beyond the first and the last node lines do not go.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from calostudy import devices

KNOTS = 20
"""Places at which the distributions of `ConditionalQuantiles` are known."""

FINE_NODES = torch.linspace(-4.5, 4.5, 91, dtype=torch.float64)
"""Normal numbers at which they are."""

_ENOUGH = 10.0  # rows of a knot; one with fewer leans on all of them


@dataclass(frozen=True)
class ConditionalQuantiles:
    """Values (N, D) to numbers (N, D) that are standard normal one by one given a number (N,), and
    back; all float64.

    knots: (K,), increasing, evenly spread. lines: (K, D, Q), values at `FINE_NODES`, increasing.
    """

    knots: Tensor
    lines: Tensor

    @classmethod
    def untrained(cls, dimensions: int) -> "ConditionalQuantiles":
        """Of no values in particular."""
        lines = 0.5 * FINE_NODES.float().repeat(KNOTS, dimensions, 1)
        return cls(torch.linspace(5.0, 15.0, KNOTS), lines)

    @classmethod
    def fitted(cls, values: Tensor, given: Tensor) -> "ConditionalQuantiles":
        """Of values (N, D) given numbers (N,)."""
        given = given.double()
        places = torch.linspace(0.0, 1.0, KNOTS, dtype=torch.float64)
        knots = given.amin() + places * (given.amax() - given.amin()).clamp_min(1e-3)
        weights = nearness(knots, given)
        weights = weights + (_ENOUGH - weights.sum(dim=0)).clamp_min(0.0) / len(given)
        lines = [fitted_line(column, weights, FINE_NODES) for column in values.double().T]
        return cls(knots.float(), torch.stack(lines, dim=1).float())

    @classmethod
    def of_constants(cls, constants: Mapping[str, Tensor], name: str) -> "ConditionalQuantiles":
        """The inverse of `constants`."""
        return cls(constants[f"{name}.knots"], constants[f"{name}.lines"])

    def constants(self, name: str) -> dict[str, Tensor]:
        """What a surrogate stores, float32."""
        return {f"{name}.knots": self.knots, f"{name}.lines": self.lines}

    def forward(self, values: Tensor, given: Tensor) -> Tensor:
        """Normal numbers of values."""
        return self._by_column(go_back, values, given)

    def inverse(self, numbers: Tensor, given: Tensor) -> Tensor:
        """Values of normal numbers."""
        return self._by_column(follow, numbers, given)

    def _by_column(self, read, values: Tensor, given: Tensor) -> Tensor:
        weights = nearness(self.knots.double(), given.double())
        lines = torch.einsum("nk,kdq->ndq", weights, self.lines.double())
        return read(lines.flatten(0, 1), FINE_NODES, values.double().flatten()).view(values.shape)


def fitted_line(values: Tensor, weights: Tensor, nodes: Tensor, step: float = 1e-5) -> Tensor:
    """Lines (K, Q) of values (n,), for each column of weights (n, K); all are float64.

    Each rises by `step` at least from node to node, so that it can be read both ways.
    """
    values, order = values.sort()
    each = weights[order]
    middle = (each.cumsum(dim=0) - 0.5 * each) / each.sum(dim=0)
    level = torch.special.ndtr(nodes)
    found = torch.stack([_interpolated(level, column, values) for column in middle.T])
    rises = found.diff(dim=1).clamp_min(step)
    return torch.cat([found[:, :1], found[:, :1] + rises.cumsum(dim=1)], dim=1)


def follow(lines: Tensor, nodes: Tensor, numbers: Tensor) -> Tensor:
    """Values (n,) at normal numbers (n,) of lines (n, Q) through evenly spread nodes.

    >>> nodes = torch.tensor([-1.0, 0.0, 1.0])
    >>> follow(torch.tensor([[10.0, 20.0, 40.0]] * 2), nodes, torch.tensor([-0.5, 7.0]))
    tensor([15., 40.])
    """
    nodes = devices.moved(nodes, lines.device)
    numbers = numbers.clamp(nodes[0], nodes[-1])
    step = nodes[1] - nodes[0]
    lower = ((numbers - nodes[0]) / step).floor().long().clamp(0, len(nodes) - 2)
    low, high = (lines.gather(1, i[:, None])[:, 0] for i in (lower, lower + 1))
    return low + (numbers - nodes[lower]) / step * (high - low)


def go_back(lines: Tensor, nodes: Tensor, values: Tensor) -> Tensor:
    """Normal numbers (n,) of values (n,): the inverse of `follow`.

    >>> nodes = torch.tensor([-1.0, 0.0, 1.0])
    >>> go_back(torch.tensor([[10.0, 20.0, 40.0]] * 2), nodes, torch.tensor([15.0, 41.0]))
    tensor([-0.5000,  1.0000])
    """
    nodes = devices.moved(nodes, lines.device)
    lower = torch.searchsorted(lines.contiguous(), values[:, None].contiguous())[:, 0] - 1
    lower = lower.clamp(0, len(nodes) - 2)
    low, high = (lines.gather(1, i[:, None])[:, 0] for i in (lower, lower + 1))
    numbers = nodes[lower] + (values - low) / (high - low) * (nodes[1] - nodes[0])
    return numbers.clamp(nodes[0], nodes[-1])


def nearness(knots: Tensor, at: Tensor) -> Tensor:
    """How near increasing knots (..., K) are to numbers (..., n): (..., n, K), each row sums to 1
    and has two neighbours at most; beyond the ends the last knot alone.

    >>> nearness(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.25, 2.0, 9.0]))
    tensor([[0.7500, 0.2500, 0.0000],
            [0.0000, 0.5000, 0.5000],
            [0.0000, 0.0000, 1.0000]])
    """
    count = knots.shape[-1]
    at = at.clamp(knots[..., :1], knots[..., -1:]).contiguous()
    upper = torch.searchsorted(knots.contiguous(), at, right=True).clamp(1, count - 1)
    below, above = (knots.gather(-1, i) for i in (upper - 1, upper))
    share = (at - below) / (above - below)
    weights = torch.zeros(*at.shape, count, dtype=at.dtype, device=at.device)
    weights.scatter_(-1, (upper - 1)[..., None], (1.0 - share)[..., None])
    return weights.scatter_(-1, upper[..., None], share[..., None])


def between(lines: Tensor, weights: Tensor) -> Tensor:
    """Lines (n, Q) between those of knots (n, K, Q) or (K, Q), by the weights (n, K) of
    `nearness`."""
    return (weights[..., None] * lines).sum(dim=1)


def _interpolated(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """y at the places `at`, linear between the points (x, y), constant beyond them."""
    if len(x) == 1:
        return y.expand(len(at))
    upper = torch.searchsorted(x.contiguous(), at).clamp(1, len(x) - 1)
    share = (at - x[upper - 1]) / (x[upper] - x[upper - 1]).clamp_min(1e-300)
    return y[upper - 1] + share.clamp(0.0, 1.0) * (y[upper] - y[upper - 1])
