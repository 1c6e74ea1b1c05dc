"""CaloPointFlow: showers as sets of points, each set told by a few latent numbers.

Schnake, Krücker & Borras, arXiv:2403.15782 (CaloPointFlow II). A shower is its hit voxels. Three
flows describe it: one the number of points and the sum of their energies given the incident
energy, one the latent numbers that an encoder finds in a set of points, one the points given all
of these. The last is a coupling flow of the points in which every block also knows the mean of the
set (`SetFlow`). What a point is to the flows, and how points become cells again, is said in
`point_surrogate`.

Size `paper` has the published structure and number of parameters, but for the flow of two numbers,
here of couplings, there autoregressive (55,716 parameters more). The published number counts one
block of the latent flow; the authors' configuration asks for eight, which would be 40 million.
Other differences: the threshold is taken off the energies first, an option of the authors' code; a
point's energy is a logarithm, not a logit; the flow of two numbers, whose loss is a term of its
own, is trained by itself; Adam without weight decay.

Size `embedded` is small enough to be trained in minutes on one processor core, and no published
configuration.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from calostudy.models.point_surrogate import (
    FEATURES,
    GIVEN,
    NUMBERS,
    POINTS,
    SAMPLERS,
    PointSurrogate,
    couplings,
    point_noise,
    spline,
)
from calostudy.models.surrogate import TrainingRecipe
from calostudy.networks.coupling import CouplingFlow, CouplingStructure
from calostudy.networks.sets import DeepSet, SetFlow, SetFlowStructure, mean_over_sets
from calostudy.networks.vae import draw
from calostudy.samplers.compiled import checked_precision, here
from calostudy.samplers.noise import normal


@dataclass(frozen=True)
class Structure:
    """Hyperparameters: how many latent numbers, the flow of two numbers, the encoder (perceptrons
    of the points and of their mean), the latent flow and the point flow."""

    latent: int
    numbers: CouplingStructure
    encoder: tuple[tuple[int, ...], tuple[int, ...]]
    latent_flow: CouplingStructure
    point_flow: SetFlowStructure


class PointModel(nn.Module):
    """Encoder of a set, flow of what it finds, flow of the points."""

    def __init__(self, structure: Structure, seed: int):
        super().__init__()
        latent = structure.latent
        points, reduce = structure.encoder
        self.encoder = DeepSet((FEATURES, *points), (points[-1], *reduce, 2 * latent))
        self.latent = CouplingFlow(latent, GIVEN, structure.latent_flow, seed)
        self.points = SetFlow(FEATURES, GIVEN + latent, structure.point_flow)


STRUCTURE: dict[str, Structure] = {
    "paper": Structure(
        128,
        couplings(12, 128, 12),
        ((64, 128, 1024, 1024), (1024, 512, 512)),
        couplings(1, 1024, 8),
        SetFlowStructure(12, (128, 128, 128), (64, 128, 512), (512, 256, 128), spline(8)),
    ),
    "embedded": Structure(
        8,
        couplings(6, 32, 8),
        ((32, 64, 64), (64,)),
        couplings(4, 48, 8),
        SetFlowStructure(6, (64, 64), (24, 32), (32, 8), spline(8)),
    ),
}
"""By size; the same for both datasets."""

WEIGHT = {"paper": 1 / 128, "embedded": 1 / 1000}
"""Of the latent numbers' divergence beside the mean log density of a point, by size."""

_COSINE = {"rise": 0.05, "end": 1e3}
RECIPES: dict[str, dict[str, TrainingRecipe]] = {
    "paper": dict.fromkeys(
        (NUMBERS, POINTS), TrainingRecipe(100, 256, 1e-3, "cosine", _COSINE, validation=0.05)
    ),
    "embedded": {
        NUMBERS: TrainingRecipe(60, 64, 2e-3, "cosine", _COSINE, validation=0.1, clip=10.0),
        POINTS: TrainingRecipe(15, 16, 3e-3, "cosine", _COSINE, validation=0.1, clip=10.0),
    },
}
"""By size and network."""


class CaloPointFlow(PointSurrogate):
    """CaloPointFlow on datasets 2 and 3 of the CaloChallenge."""

    name: ClassVar[str] = "calopointflow"

    @property
    def structure(self) -> Structure:
        """The hyperparameters."""
        return STRUCTURE[self.size]

    @property
    def numbers(self) -> CouplingStructure:
        return self.structure.numbers

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][network]

    def build_networks(self) -> dict[str, nn.Module]:
        return {NUMBERS: self.numbers_flow(), POINTS: PointModel(self.structure, self.seed)}

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss (B,): of the two numbers as `numbers_loss`; of the points, the negative log density,
        mean over the points over 3, and the divergence of the latent numbers, weighted."""
        sets = self.sets(batch)
        if network == NUMBERS:
            return self.numbers_loss(sets.given)
        model, of_sets = self.networks[POINTS], (sets.shower, sets.counts)
        mean, log_variance = model.encoder(sets.values, *of_sets).chunk(2, dim=1)
        latent = draw(mean, log_variance, torch.randn_like(mean))
        entropy = 0.5 * (log_variance + 1.0 + math.log(2.0 * math.pi)).sum(dim=1)
        divergence = -model.latent.log_prob(latent, sets.given) - entropy
        context = torch.cat([sets.given, latent], dim=1)
        density = model.points.log_prob(sets.values, context, *of_sets)
        density = mean_over_sets(density[:, None], *of_sets).squeeze(1)
        return WEIGHT[self.size] * divergence - density / FEATURES

    def draw_sets(
        self,
        given: np.ndarray,
        counts: list[int],
        seed: int,
        first: int,
        sampler: str | None,
        precision: str | None,
    ) -> Iterator[Tensor]:
        """One set at a time: a product of matrices may round differently in another batch."""
        precision = checked_precision(precision)
        sampler = sampler or next(iter(here(SAMPLERS)))
        model = self.networks[POINTS]
        make = partial(SAMPLERS[sampler], precision=precision)
        of_latent = self.compiled.of(model.latent, (sampler, precision), make)
        dtype = getattr(torch, precision)
        flow = self.compiled.of(
            model.points, precision, lambda net: copy.deepcopy(net).to(dtype).eval()
        )
        noise = normal(seed, first, len(counts), self.structure.latent, stream=1)
        context = np.concatenate([given, of_latent(noise, given)], axis=1)
        context = torch.as_tensor(context).to(dtype)
        for i, count in enumerate(counts):
            noise = torch.as_tensor(point_noise(seed, first + i, count, FEATURES)).to(dtype)
            shower, own = torch.zeros(count, dtype=torch.long), torch.tensor([count])
            with torch.no_grad():
                yield flow.inverse(noise, context[i : i + 1], shower, own)
