"""Adversarial surrogates of point sets: a generator of points, a critic of sets.

The two numbers of a set come from the flow of `point_surrogate`. Generator and critic are trained
against each other as a Wasserstein GAN with gradient penalty (Gulrajani et al., arXiv:1704.00028):
the critic's score of real sets is to exceed that of generated ones, its gradient along the lines
between them is to be 1; real and generated sets have the same numbers of points. Both learn in the
same step from one loss: what goes back from it into the generator is reversed in sign, as the
generator wants the contrary.

A loss of which two parts pull at both ends says nothing about the showers. The epoch that is kept
is that of the lowest energy score (Gneiting & Raftery, 2007) of what sets are like on average: in
expectation it is lowest for the right distribution, given the energy and the two numbers.
"""

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from calostudy.models.point_surrogate import (
    FEATURES,
    GIVEN,
    NUMBERS,
    POINTS,
    PointSurrogate,
    Sets,
)
from calostudy.networks.adversarial import (
    ENERGY_SCORE,
    Adversaries,
    Reversed,
    energy_score,
    slope_error,
)
from calostudy.networks.mean_field import MeanFieldCritic
from calostudy.networks.sets import mean_over_sets
from calostudy.samplers.compiled import checked_precision


@dataclass(frozen=True)
class MeanFieldStructure:
    """Hyperparameters: numbers of a point between the blocks and within them, heads, blocks."""

    width: int
    hidden: int
    heads: int
    blocks: int

    @property
    def arguments(self) -> tuple[int, ...]:
        """As the networks of `mean_field` take them."""
        return FEATURES, self.width, self.hidden, self.heads, self.blocks, GIVEN


class PointGAN(PointSurrogate):
    """A family says its structures, a fresh generator, and how noise becomes points."""

    penalty: float = 10.0
    """Weight of the gradient penalty."""

    @property
    @abstractmethod
    def critic(self) -> MeanFieldStructure:
        """The critic's."""

    @abstractmethod
    def fresh_generator(self) -> nn.Module:
        """With random weights."""

    @abstractmethod
    def noise_like(self, sets: Sets) -> Tensor:
        """Noise for sets of these sizes, from torch's generator."""

    @abstractmethod
    def noise_of(self, seed: int, shower: int, count: int) -> np.ndarray:
        """Noise for the set of one shower."""

    @abstractmethod
    def points_from(
        self, generator: nn.Module, noise: Tensor, given: Tensor, shower: Tensor, counts: Tensor
    ) -> Tensor:
        """Values (M, 3) of the points."""

    def build_networks(self) -> dict[str, nn.Module]:
        critic = MeanFieldCritic(*self.critic.arguments)
        return {NUMBERS: self.numbers_flow(), POINTS: Adversaries(self.fresh_generator(), critic)}

    def generated(self, sets: Sets) -> Tensor:
        """Points (M, 3) of the generator for sets of these numbers."""
        noise = self.noise_like(sets).to(self.precision)
        of_sets = sets.given, sets.shower, sets.counts
        return self.points_from(self.networks[POINTS].generator, noise, *of_sets)

    def score(self, values: Tensor, sets: Sets) -> Tensor:
        """The critic's score of each set, (N,)."""
        return self.networks[POINTS].critic(values, sets.given, sets.shower, sets.counts)

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss (B,): of the two numbers as `numbers_loss`; of the adversaries, the critic's: its
        score of generated sets, less that of real ones, and the gradient penalty."""
        sets = self.sets(batch)
        if network == NUMBERS:
            return self.numbers_loss(sets.given)
        generated = self.generated(sets)
        difference = self.score(Reversed.apply(generated), sets) - self.score(sets.values, sets)
        return difference + self.penalty * self.slope_error(generated.detach(), sets)

    def slope_error(self, generated: Tensor, sets: Sets) -> Tensor:
        """`adversarial.slope_error` at a random place between each real set and a generated one."""
        share = torch.rand(len(sets.counts)).to(generated)[sets.shower][:, None]
        between = share * sets.values + (1.0 - share) * generated

        def of_sets(square: Tensor) -> Tensor:
            total = square.new_zeros(len(sets.counts))
            return total.index_add(0, sets.shower, square.sum(dim=1))

        return slope_error(lambda values: self.score(values, sets), between, of_sets)

    def monitor(self, network: str, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The energy score of each set's moments."""
        if network == NUMBERS:
            return {}
        sets = self.sets(batch)
        real, one, other = (
            _moments(values, sets)
            for values in (sets.values, self.generated(sets), self.generated(sets))
        )
        return {ENERGY_SCORE: energy_score(real, one, other)}

    def chosen_by(self, network: str) -> str:
        return "validation_loss" if network == NUMBERS else ENERGY_SCORE

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
        dtype = getattr(torch, precision)
        generator = self.compiled.of(
            self.networks[POINTS].generator,
            precision,
            lambda net: copy.deepcopy(net).to(dtype).eval(),
        )
        known = torch.as_tensor(given).to(dtype)
        for i, count in enumerate(counts):
            noise = torch.as_tensor(self.noise_of(seed, first + i, count)).to(dtype)
            shower, own = torch.zeros(count, dtype=torch.long), torch.tensor([count])
            with torch.no_grad():
                yield self.points_from(generator, noise, known[i : i + 1], shower, own)


def _moments(values: Tensor, sets: Sets) -> Tensor:
    """Of each set, the means of its points' numbers and of their products, (N, 9)."""
    products = [values[:, i] * values[:, j] for i in range(FEATURES) for j in range(i, FEATURES)]
    return mean_over_sets(
        torch.cat([values, torch.stack(products, dim=1)], dim=1), sets.shower, sets.counts
    )
