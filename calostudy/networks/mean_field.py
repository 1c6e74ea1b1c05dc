"""Sets in which points know of each other through one token: attention to the mean field.

Käch & Melzer-Pellmann, arXiv:2305.15254 (MDMA). In each block a token of the set attends to all of
its points, and then every point is told the token: the cost grows with the number of points, not
with its square. Points are in rows, one set after the other (`sets`).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calostudy.networks.sets import mean_over_sets

_SLOPE = 0.01


def attend(query: Tensor, keys: Tensor, values: Tensor, shower: Tensor, heads: int) -> Tensor:
    """What the tokens (N, H) of N sets find in the points (M, H) of their own sets: (N, H).

    Softmax over the points of a set, in each of the heads; 0 for a set without points.
    """
    size = query.shape[1] // heads
    scores = (query[shower] * keys).unflatten(1, (heads, size)).sum(dim=2) / math.sqrt(size)
    highest = scores.new_full((len(query), heads), -math.inf)
    rows = shower[:, None].expand(-1, heads)
    highest = highest.scatter_reduce(0, rows, scores.detach(), "amax")
    weights = (scores - highest[shower]).exp()
    total = weights.new_zeros(len(query), heads).index_add(0, shower, weights)
    found = (weights[:, :, None] * values.unflatten(1, (heads, size))).flatten(1)
    found = found.new_zeros(query.shape).index_add(0, shower, found)
    return (found.unflatten(1, (heads, size)) / total.clamp_min(1e-30)[:, :, None]).flatten(1)


class MeanFieldBlock(nn.Module):
    """Points (M, D), token (N, D), conditions (N, C): both renewed."""

    def __init__(self, width: int, hidden: int, heads: int, conditions: int):
        super().__init__()
        self.heads = heads
        self.widen = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.query, self.key, self.value, self.mix = (nn.Linear(hidden, hidden) for _ in range(4))
        self.tell = nn.Linear(hidden + conditions, hidden)
        self.to_points = nn.Linear(2 * hidden, width)
        self.to_token = nn.Linear(hidden, width)

    def forward(self, points: Tensor, token: Tensor, conditions: Tensor, shower: Tensor):
        wide = self.widen(F.leaky_relu(points, _SLOPE))
        query = self.query(self.norm(self.widen(F.leaky_relu(token, _SLOPE))))
        found = self.mix(attend(query, self.key(wide), self.value(wide), shower, self.heads))
        told = self.tell(torch.cat([found, conditions], dim=1))
        points = points + self.to_points(torch.cat([wide, told[shower]], dim=1))
        return points, F.leaky_relu(self.to_token(told), _SLOPE)


class MeanFieldGenerator(nn.Module):
    """Noise of points (M, F) to points (M, F), given conditions of each set (N, C)."""

    def __init__(self, features, width, hidden, heads, blocks, conditions):
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.condition = nn.Linear(conditions, width)
        self.blocks = nn.ModuleList(
            MeanFieldBlock(width, hidden, heads, conditions) for _ in range(blocks)
        )
        self.out = nn.Linear(width, features)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, noise: Tensor, conditions: Tensor, shower: Tensor, counts: Tensor) -> Tensor:
        points = F.leaky_relu(self.embed(noise), _SLOPE)
        points = points * torch.sigmoid(self.condition(conditions))[shower]
        token = mean_over_sets(points, shower, counts)
        for block in self.blocks:
            points, token = block(points, token, conditions, shower)
        return self.out(F.leaky_relu(points, _SLOPE))


class MeanFieldCritic(nn.Module):
    """Points (M, F) and conditions (N, C) to a score of each set, (N,)."""

    def __init__(self, features, width, hidden, heads, blocks, conditions):
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.begin = nn.Linear(width + conditions, width)
        self.blocks = nn.ModuleList(
            MeanFieldBlock(width, hidden, heads, conditions) for _ in range(blocks)
        )
        self.widen = nn.Linear(width + conditions, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.out = nn.Linear(width, 1)

    def forward(self, points: Tensor, conditions: Tensor, shower: Tensor, counts: Tensor) -> Tensor:
        points = F.leaky_relu(self.embed(points), _SLOPE)
        token = mean_over_sets(points, shower, counts)
        token = F.leaky_relu(self.begin(torch.cat([token, conditions], dim=1)), _SLOPE)
        for block in self.blocks:
            points, token = block(points, token, conditions, shower)
        token = F.leaky_relu(self.widen(torch.cat([token, conditions], dim=1)), _SLOPE)
        return self.out(F.leaky_relu(self.narrow(token), _SLOPE)).squeeze(1)
