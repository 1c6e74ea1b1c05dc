"""DeepTree: a GAN of point sets whose points are the leaves of a tree that grows from noise.

Scham, Krücker & Borras, arXiv:2311.12616. The generator is a `TreeGenerator`, what a point is to
it is said in `point_surrogate`, the training in `point_gan`.

Size `paper` has the authors' tree of six levels with 6,000 leaves; it has 557,107 parameters of the
published 527,676. The critic is MDMA's, not the
authors' pyramid of poolings. Other differences: three numbers per point, no angle; conditions are
the energy, the number of points and the sum of their energies, not the energies of all layers; no
normalisation of batches.

Size `embedded` is small enough to be trained in minutes on one processor core, and no published
configuration; its tree has 1,920 leaves, more than any shower of its training data has hits.
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from calostudy.models.mdma import CRITICS, FLOWS, RECIPES
from calostudy.models.point_gan import MeanFieldStructure, PointGAN
from calostudy.models.point_surrogate import FEATURES, GIVEN, Sets
from calostudy.models.surrogate import TrainingRecipe
from calostudy.networks.coupling import CouplingStructure
from calostudy.networks.tree import TreeGenerator, TreeStructure
from calostudy.samplers.noise import normal

TREES = {
    "paper": TreeStructure((2, 3, 4, 5, 5, 10), (64, 25, 15, 10, 8, 6, FEATURES), 100),
    "embedded": TreeStructure((2, 3, 4, 4, 4, 5), (32, 16, 12, 10, 8, 6, FEATURES), 32),
}
"""By size."""


class DeepTree(PointGAN):
    """DeepTree on dataset 2 of the CaloChallenge."""

    name: ClassVar[str] = "deeptree"
    datasets: ClassVar[tuple[str, ...]] = ("ds2",)

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][network]

    @property
    def critic(self) -> MeanFieldStructure:
        return CRITICS[self.size]

    @property
    def numbers(self) -> CouplingStructure:
        return FLOWS[self.size]

    @property
    def most_points(self) -> int:
        """As many as the tree has leaves."""
        return TREES[self.size].leaves

    def fresh_generator(self) -> TreeGenerator:
        return TreeGenerator(TREES[self.size], GIVEN)

    def noise_like(self, sets: Sets) -> Tensor:
        return torch.randn(len(sets.counts), TREES[self.size].features[0])

    def noise_of(self, seed: int, shower: int, count: int) -> np.ndarray:
        return normal(seed, shower, 1, TREES[self.size].features[0], stream=1)

    def points_from(self, generator, noise, given, shower, counts) -> Tensor:
        """The first leaves, as many as each set has points."""
        leaves = generator(noise, given)
        place = torch.arange(len(shower)) - (counts.cumsum(0) - counts)[shower]
        return leaves[shower, place.clamp_max(leaves.shape[1] - 1)]
