"""CaloClouds II in one evaluation: a consistency model, distilled from the one that takes 25.

Buhmann et al., arXiv:2309.05704; Song et al., arXiv:2303.01469. The student says for every noise
level where the teacher's path ends. It learns to say the same at two neighbouring levels of one
path, of which the teacher finds the lower by a step of Heun's method; at the lowest level it says
what it sees. The authors' target is a moving average of the student, here it is the student itself.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from calostudy.models.caloclouds import PATH, POINTS, CaloClouds
from calostudy.models.student import Twin
from calostudy.models.surrogate import TrainingRecipe
from calostudy.samplers.diffusion import LEAST, Process, Sampling, preconditioned

SCALES = 18
"""Noise levels, the lowest included."""


class CaloCloudsCM(Twin, CaloClouds):
    """The consistency model of CaloClouds II."""

    name: ClassVar[str] = "caloclouds-cm"
    teacher_name: ClassVar[str] = CaloClouds.name

    @property
    def trained_networks(self) -> tuple[str, ...]:
        return (POINTS,)

    @property
    def processes(self) -> Mapping[str, Process]:
        return {POINTS: Process(PATH, "consistency")}

    @property
    def samplings(self) -> Mapping[str, Sampling]:
        return {POINTS: Sampling("consistency", 1)}

    def recipe(self, network: str) -> TrainingRecipe:
        recipe = super().recipe(network)
        return replace(recipe, epochs=recipe.epochs // 2, learning_rate=0.5 * recipe.learning_rate)

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Squared distance (B,), relative to the noise level, of what the student says at two
        levels of one path."""
        data, conditions = self._some_points(batch)
        step = torch.randint(1, SCALES, (len(data),))
        above, below = (
            _level(k.double() / (SCALES - 1))[:, None, None].float() for k in (step, step - 1)
        )
        noisy = data + above * torch.randn_like(data)
        with torch.no_grad():
            slope = (noisy - self._teachers(noisy, above, conditions)) / above
            there = noisy + (below - above) * slope
            after = (there - self._teachers(there, below, conditions)) / below
            there = noisy + (below - above) * 0.5 * (slope + after)
            wanted = self._says(there, below, conditions)
        return (self._says(noisy, above, conditions) - wanted).square().flatten(1).mean(1)

    def _teachers(self, noisy: Tensor, level: Tensor, conditions: Tensor) -> Tensor:
        skip, out = preconditioned(level)
        network = self.teacher.networks[POINTS]
        return skip * noisy + out * self._say(network, noisy, level, conditions)

    def _says(self, noisy: Tensor, level: Tensor, conditions: Tensor) -> Tensor:
        skip, out = preconditioned(level, LEAST)
        return skip * noisy + out * self._say(self.networks[POINTS], noisy, level, conditions)


def _level(time: Tensor) -> Tensor:
    """Noise levels of times: deviation over amplitude."""
    return PATH.sigma(time) / PATH.alpha(time)
