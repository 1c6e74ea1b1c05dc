"""Coupling flows: half of the numbers bend the other half by splines, block after block.

One block: each number is shifted and scaled (ActNorm, Kingma & Dhariwal, arXiv:1807.03039); the
first half and the context go through a network whose output are the splines of the second half
(Dinh et al., arXiv:1605.08803; splines: `spline`, `cubic_spline`); all numbers are permuted.
Both directions take one evaluation of each network. Numbers live in columns, (features, samples).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calostudy.errors import UsageError
from calostudy.networks.cubic_spline import CubicSettings, cubic_spline
from calostudy.networks.flows import random_permutations
from calostudy.networks.spline import SplineSettings, rational_quadratic_spline

Settings = SplineSettings | CubicSettings

SLOPE = 0.01
"""Of the leaky ReLU below zero."""


@dataclass(frozen=True)
class CouplingStructure:
    """Hyperparameters: `layers` linear layers per block, all but the last of `hidden` outputs.

    by_shower: a shower of which any of the numbers to be bent is outside the spline's bound goes
    through the block unbent, as in CaloINN; else each number outside stays as it is, by itself.
    act_norm: whether the blocks shift and scale.
    """

    blocks: int
    hidden: int
    layers: int
    spline: Settings
    by_shower: bool
    act_norm: bool = True


class CouplingBlock(nn.Module):
    """ActNorm, coupling, permutation (an index, (features,)) of `features` numbers."""

    def __init__(self, features, context, structure: CouplingStructure, permutation: np.ndarray):
        super().__init__()
        self.active = features // 2
        self.passive = features - self.active
        self.spline, self.by_shower = structure.spline, structure.by_shower
        for name in ("log_scale", "shift"):
            if structure.act_norm:
                self.register_parameter(name, nn.Parameter(torch.zeros(features)))
            else:
                self.register_buffer(name, torch.zeros(features), persistent=False)
        sizes = [self.passive + context] + [structure.hidden] * (structure.layers - 1)
        sizes.append(self.active * self.spline.parameters)
        self.network = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))
        # Every spline begins as the identity.
        identity = torch.as_tensor(_identity(self.spline)).repeat(self.active)
        with torch.no_grad():
            self.network[-1].weight.zero_()
            self.network[-1].bias.copy_(identity.to(self.network[-1].bias.device))
        self.register_buffer("permutation", torch.from_numpy(permutation.copy()))

    def parameters_of_splines(self, passive: Tensor, context: Tensor) -> Tensor:
        """passive (P, N), context (C, N) -> (active * settings.parameters, N)."""
        hidden = torch.cat([passive, context])
        for i, layer in enumerate(self.network):
            hidden = F.leaky_relu(hidden, SLOPE) if i else hidden
            hidden = torch.addmm(layer.bias[:, None], layer.weight, hidden)
        return hidden

    def normalised(self, columns: Tensor) -> Tensor:
        """ActNorm of columns (D, N)."""
        return columns * self.log_scale.exp()[:, None] + self.shift[:, None]

    def couple(self, columns: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """The block after its ActNorm: columns (D, N) and the log determinants (N,)."""
        passive, active = columns.split([self.passive, self.active])
        raw = self.parameters_of_splines(passive, context)
        bent, logs = SPLINES[type(self.spline)](active, raw, self.spline)
        if self.by_shower:
            inside = self.within_bound(active)
            bent, logs = torch.where(inside, bent, active), torch.where(inside, logs, 0.0)
        return torch.cat([passive, bent]).index_select(0, self.permutation), logs

    def within_bound(self, active: Tensor) -> Tensor:
        """Of which columns all numbers are within the spline's bound: (N,)."""
        return (active.abs() <= self.spline.tail_bound).all(dim=0)


SPLINES = {SplineSettings: rational_quadratic_spline, CubicSettings: cubic_spline}


class CouplingFlow(nn.Module):
    """A density of `features` numbers given `context` numbers; the base is standard normal.

    seed: of the permutations; the weights come from torch's global generator.

    Raises UsageError for fewer than two features.
    """

    def __init__(self, features: int, context: int, structure: CouplingStructure, seed: int = 0):
        super().__init__()
        if features < 2:
            raise UsageError(f"{features} feature: a coupling flow needs two, one to bend another")
        self.features, self.context, self.structure = features, context, structure
        permutations = random_permutations(features, structure.blocks, seed)
        self.blocks = nn.ModuleList(
            CouplingBlock(features, context, structure, order) for order in permutations
        )

    def forward(self, inputs: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Data to noise: inputs (N, D), context (N, C) -> noise (N, D), logabsdet (N,)."""
        columns, context = inputs.t().contiguous(), context.t().contiguous()
        logabsdet = sum(block.log_scale.sum() for block in self.blocks)
        for block in self.blocks:
            columns, logs = block.couple(block.normalised(columns), context)
            logabsdet = logabsdet + logs
        return columns.t(), logabsdet

    def log_prob(self, inputs: Tensor, context: Tensor) -> Tensor:
        """Log density of inputs (N, D) given context (N, C): (N,), differentiable."""
        noise, logabsdet = self(inputs, context)
        normal = -0.5 * noise.square().sum(dim=1) - 0.5 * self.features * math.log(2.0 * math.pi)
        return normal + logabsdet

    @torch.no_grad()
    def initialise(self, inputs: Tensor, context: Tensor) -> None:
        """Set every ActNorm so that what it puts out on these data has mean 0 and variance 1.

        Numbers that do not vary are shifted only.
        """
        columns, context = inputs.t().contiguous(), context.t().contiguous()
        for block in self.blocks:
            deviation = columns.std(dim=1)
            block.log_scale.copy_(-torch.where(deviation > 1e-3, deviation, 1.0).log())
            block.shift.copy_(-columns.mean(dim=1) * block.log_scale.exp())
            columns, _ = block.couple(block.normalised(columns), context)


def _identity(settings: Settings) -> np.ndarray:
    """Unnormalised parameters (settings.parameters,) of the identity."""
    if isinstance(settings, CubicSettings):
        return settings.identity
    return np.append(np.zeros(2 * settings.bins), np.full(settings.bins - 1, settings.edge))
