"""A perceptron with shortcuts that is told a time and conditions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calostudy.networks.products import activation, each


class ResidualMLP(nn.Module):
    """(x (B, D), time (B,), conditions (B, K)) to (B, D); its last layer begins with zeros."""

    def __init__(self, numbers: int, conditions: int, hidden: int, blocks: int):
        super().__init__()
        self.begin = nn.Linear(numbers + conditions, hidden)
        self.time = nn.Sequential(nn.Linear(3, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
            for _ in range(blocks)
        )
        self.end = nn.Linear(hidden, numbers)
        nn.init.zeros_(self.end.weight)
        nn.init.zeros_(self.end.bias)

    def forward(self, x: Tensor, time: Tensor, conditions: Tensor) -> Tensor:
        told = each(self.of_time, time)
        found = self.begin(torch.cat([x, conditions], dim=1))
        for block in self.blocks:
            first, _, second = block
            inner = first(activation(F.silu, found + told))
            found = found + second(activation(F.silu, inner))
        return self.end(activation(F.silu, found))

    def of_time(self, time: Tensor) -> Tensor:
        """What the blocks are told of times (B,): (B, hidden)."""
        angle = 0.5 * torch.pi * time
        return self.time(torch.stack([time, angle.sin(), angle.cos()], dim=1))
