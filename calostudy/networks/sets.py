"""Networks of sets: the points of all showers in rows, one shower after the other.

What a set says of itself is a mean over its points (DeepSets, Zaheer et al., arXiv:1703.06114),
so that the order of its points does not matter and their number may be any.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from calostudy.networks.spline import SplineSettings, rational_quadratic_spline
from calostudy.networks.spline_inverse import inverse_rational_quadratic_spline
from calostudy.networks.vae import perceptron


def mean_over_sets(values: Tensor, shower: Tensor, counts: Tensor) -> Tensor:
    """Means (N, F) of the rows (M, F) of each of N showers; 0 for one without points."""
    sums = values.new_zeros(len(counts), values.shape[1]).index_add(0, shower, values)
    return sums / counts.clamp_min(1)[:, None]


class DeepSet(nn.Module):
    """A perceptron of each point, the mean over the set, a perceptron of that: sizes of both."""

    def __init__(self, points: tuple[int, ...], reduce: tuple[int, ...]):
        super().__init__()
        self.points, self.reduce = perceptron(*points), perceptron(*reduce)

    def forward(self, points: Tensor, shower: Tensor, counts: Tensor) -> Tensor:
        """Points (M, F), their showers (M,), points of each (N,): numbers (N, G)."""
        return self.reduce(mean_over_sets(self.points(points), shower, counts))


@dataclass(frozen=True)
class SetFlowStructure:
    """Hyperparameters: perceptrons of `hidden` nodes for the splines, of the points (`points`) and
    of their mean (`reduce`) for what a block knows of the whole set."""

    blocks: int
    hidden: tuple[int, ...]
    points: tuple[int, ...]
    reduce: tuple[int, ...]
    spline: SplineSettings


class SetCoupling(nn.Module):
    """Some features of each point bend the others, which also depend on the whole set."""

    def __init__(self, kept: list[int], bent: list[int], context: int, structure: SetFlowStructure):
        super().__init__()
        self.kept, self.bent, self.spline = kept, bent, structure.spline
        self.set = DeepSet(
            (len(kept), *structure.points), (structure.points[-1], *structure.reduce)
        )
        given = len(kept) + context + structure.reduce[-1]
        outputs = len(bent) * structure.spline.parameters
        self.network = perceptron(given, *structure.hidden, outputs)
        # Every spline begins as the identity.
        identity = torch.zeros(structure.spline.parameters)
        identity[2 * structure.spline.bins :] = structure.spline.edge
        with torch.no_grad():
            last = self.network[-1]
            last.weight.zero_()
            last.bias.copy_(identity.repeat(len(bent)).to(last.bias.device))

    def splines(self, points: Tensor, context: Tensor, shower: Tensor, counts: Tensor) -> Tensor:
        """Parameters of the splines in columns, (bent * parameters, M)."""
        kept = points[:, self.kept]
        given = torch.cat([context, self.set(kept, shower, counts)], dim=1)
        first, *between, last = self.network
        # The part of the first layer that is the same for all points of a shower, once for each.
        weight = first.weight[:, len(self.kept) :]
        shared = torch.addmm(first.bias, given, weight.t())
        hidden = kept @ first.weight[:, : len(self.kept)].t() + shared[shower]
        for layer in between:
            hidden = layer(hidden)
        return torch.addmm(last.bias[:, None], last.weight, hidden.t())

    def forward(self, points: Tensor, *given: Tensor, inverse: bool = False):
        """Points (M, F) bent or, inversely, unbent, and their log determinants (M,)."""
        function = inverse_rational_quadratic_spline if inverse else rational_quadratic_spline
        parameters = self.splines(points, *given)
        columns, logs = function(points[:, self.bent].t().contiguous(), parameters, self.spline)
        return points.index_copy(1, torch.tensor(self.bent), columns.t()), logs


class SetFlow(nn.Module):
    """A density of the points of a set given numbers of the set; the base is standard normal.

    Blocks bend in turn one feature given all others and all others given one.
    """

    def __init__(self, features: int, context: int, structure: SetFlowStructure):
        super().__init__()
        self.features = features
        self.blocks = nn.ModuleList()
        for i in range(structure.blocks):
            one = [(i // 2) % features]
            others = [f for f in range(features) if f not in one]
            kept, bent = (others, one) if i % 2 == 0 else (one, others)
            self.blocks.append(SetCoupling(kept, bent, context, structure))

    def log_prob(self, points: Tensor, context: Tensor, shower: Tensor, counts: Tensor) -> Tensor:
        """Log density of each point, (M,), of points (M, F) of N showers given (N, C)."""
        total = 0.0
        for block in self.blocks:
            points, logs = block(points, context, shower, counts)
            total = total + logs
        normal = points.square().sum(dim=1) + self.features * math.log(2.0 * math.pi)
        return total - 0.5 * normal

    def inverse(self, noise: Tensor, context: Tensor, shower: Tensor, counts: Tensor) -> Tensor:
        """Standard normal noise (M, F) to points (M, F)."""
        for block in reversed(self.blocks):
            noise, _ = block(noise, context, shower, counts, inverse=True)
        return noise
