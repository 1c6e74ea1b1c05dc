"""MDMA: a GAN of point sets whose points know of each other through the mean field alone.

Käch & Melzer-Pellmann, arXiv:2305.15254. Generator and critic are `MeanFieldGenerator` and
`MeanFieldCritic`, what a point is to them is said in `point_surrogate`, the training in
`point_gan`. The generator adds to its noise, which in that space has the right distribution of
every number already; it learns how they depend on each other and on the shower.

Size `paper` has the structure of the authors' code with the widths that come nearest to the
published numbers of parameters, 66,416 and 42,240 for generator and critic: 60,787 and 39,329; no
description gives the published numbers themselves. Other differences: three numbers per point, no
angle; the numbers of points come from a flow; layer normalisation but no spectral one; the critic's
mean field is not matched besides; both learn in every step.

Size `embedded` is small enough to be trained in minutes on one processor core, and no published
configuration.
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from calostudy.models.point_gan import MeanFieldStructure, PointGAN
from calostudy.models.point_surrogate import (
    FEATURES,
    NUMBERS,
    POINTS,
    Sets,
    couplings,
    point_noise,
)
from calostudy.models.surrogate import TrainingRecipe
from calostudy.networks.coupling import CouplingStructure
from calostudy.networks.mean_field import MeanFieldGenerator

SLOWNESS = 0.1
"""Of the generator beside the critic, whose steps are of one size: else it runs away from it."""

GENERATORS = {
    "paper": MeanFieldStructure(16, 48, 16, 4),
    "embedded": MeanFieldStructure(16, 16, 4, 3),
}
CRITICS = {
    "paper": MeanFieldStructure(16, 32, 8, 5),
    "embedded": MeanFieldStructure(16, 16, 4, 2),
}
FLOWS = {"paper": couplings(12, 128, 12), "embedded": couplings(6, 32, 8)}
"""By size."""

_COSINE = {"rise": 0.05, "end": 1e2}
RECIPES: dict[str, dict[str, TrainingRecipe]] = {
    "paper": {
        NUMBERS: TrainingRecipe(100, 256, 1e-3, "cosine", _COSINE, validation=0.05),
        POINTS: TrainingRecipe(2000, 64, 1e-4, "cosine", _COSINE, validation=0.05, average=0.999),
    },
    "embedded": {
        NUMBERS: TrainingRecipe(25, 64, 2e-3, "cosine", _COSINE, validation=0.1, clip=10.0),
        POINTS: TrainingRecipe(24, 16, 1e-3, "cosine", _COSINE, validation=0.1, average=0.99),
    },
}
"""By size and network."""


class MDMA(PointGAN):
    """MDMA on datasets 2 and 3 of the CaloChallenge."""

    name: ClassVar[str] = "mdma"

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][network]

    @property
    def critic(self) -> MeanFieldStructure:
        return CRITICS[self.size]

    @property
    def numbers(self) -> CouplingStructure:
        return FLOWS[self.size]

    def fresh_generator(self) -> MeanFieldGenerator:
        return MeanFieldGenerator(*GENERATORS[self.size].arguments)

    def noise_like(self, sets: Sets) -> Tensor:
        return torch.randn(len(sets.shower), FEATURES)

    def noise_of(self, seed: int, shower: int, count: int) -> np.ndarray:
        return point_noise(seed, shower, count, FEATURES)

    def points_from(self, generator, noise, given, shower, counts) -> Tensor:
        return noise + SLOWNESS * generator(noise, given, shower, counts)
