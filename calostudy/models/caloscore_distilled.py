"""CaloScore v2 in eight steps and in one, distilled from the model that takes many.

Progressive distillation (Salimans & Ho, arXiv:2202.00512; for CaloScore v2 arXiv:2308.03847): a
student with the structure of its teacher begins with the teacher's weights and learns to get in
one step where the teacher gets in several. Between two of the student's times the teacher takes
its deterministic steps; the student's target is the one shower from which its own step leads to
the same place.

The authors halve the number of steps again and again, in six trainings from 512 to 8 and in three
more to 1. Here there are two trainings: from the teacher to 8 steps, and from these to 1. In size
`embedded`, the teacher of 8 steps takes fewer of its own than it has.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from calostudy.models.caloscore import LAYERS, PROCESS, VOXELS, CaloScore
from calostudy.models.student import Twin
from calostudy.models.surrogate import TrainingRecipe
from calostudy.samplers.diffusion import PREDICTIONS, Path, Process, Sampling

TEACHER_STEPS = {
    "caloscore-distilled": {"paper": 64, "embedded": 4},
    "caloscore-single-shot": {"paper": 8, "embedded": 8},
}
"""Of the teacher for one of the student, by model and size."""

SHARE = {
    "caloscore-distilled": {"paper": 1.0, "embedded": 0.4},
    "caloscore-single-shot": {"paper": 1.0, "embedded": 0.25},
}
"""Of the epochs in which `caloscore` is trained, by model and size."""

RATE = {"paper": 1.0, "embedded": 0.25}
"""Of its highest learning rate, by size."""

AVERAGE = {"paper": 0.999, "embedded": 0.99}
"""Decay of the moving average of the weights, by size. A longer one than the trainings are would
keep some of the teacher's weights, which say the mean of all showers where one step is to be made.
"""


class CaloScoreDistilled(Twin, CaloScore):
    """CaloScore v2 in eight steps."""

    name: ClassVar[str] = "caloscore-distilled"
    teacher_name: ClassVar[str] = CaloScore.name
    steps: ClassVar[int] = 8

    @property
    def samplings(self) -> Mapping[str, Sampling]:
        return dict.fromkeys((LAYERS, VOXELS), Sampling("ddim", self.steps))

    def recipe(self, network: str) -> TrainingRecipe:
        recipe = super().recipe(network)
        epochs = max(1, round(SHARE[self.name][self.size] * recipe.epochs))
        rate = RATE[self.size] * recipe.learning_rate
        return replace(recipe, epochs=epochs, learning_rate=rate, average=AVERAGE[self.size])

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean squared error (B,) of v, its target made by several steps of the teacher."""
        numbers, conditions = self.seen(network, batch)
        shape = (-1,) + (1,) * (numbers.ndim - 1)
        step = torch.randint(self.steps, (len(numbers),)).view(shape)
        noise = torch.randn_like(numbers)
        now, after = (step + 1.0) / self.steps, step / self.steps

        def predict(net: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
            return lambda x, time: net(x, time.flatten().to(x), *conditions)

        start = noised(PROCESS.path, numbers, noise, now)
        teacher = predict(self.teacher.networks[network])
        with torch.no_grad():
            data = target(teacher, start, now, after, TEACHER_STEPS[self.name][self.size], PROCESS)
            wanted = said_for(PROCESS, data, start, now)
        said = predict(self.networks[network])(start, now)
        return (said - wanted).square().flatten(1).mean(1)


class CaloScoreSingleShot(CaloScoreDistilled):
    """CaloScore v2 in one step."""

    name: ClassVar[str] = "caloscore-single-shot"
    teacher_name: ClassVar[str] = CaloScoreDistilled.name
    steps: ClassVar[int] = 1


def _at(path: Path, time: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    return path.alpha(time.double()).to(like), path.sigma(time.double()).to(like)


def noised(path: Path, data: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Data and noise (B, ...) mixed for times (B, 1, ...)."""
    alpha, sigma = _at(path, time, data)
    return alpha * data + sigma * noise


def said_for(process: Process, data: Tensor, mixed: Tensor, time: Tensor) -> Tensor:
    """What a network should say of numbers (B, ...) at times (B, 1, ...) that takes `data` for the
    data in them."""
    alpha, sigma = _at(process.path, time, data)
    noise = (mixed - alpha * data) / sigma
    return PREDICTIONS[process.prediction].target(data, noise, alpha, sigma)


def target(
    teacher: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    now: Tensor,
    after: Tensor,
    steps: int,
    process: Process,
) -> Tensor:
    """The data (B, ...) from which one step of DDIM from `start` (B, ...) at times `now`
    (B, 1, ...) leads to where the teacher gets at times `after` in so many steps.

    Where `after` is 0, what the teacher takes for the data there.
    """
    x, data, path = start, start, process.path
    read = PREDICTIONS[process.prediction].read
    for k in range(steps):
        here, there = (now + (after - now) * (j / steps) for j in (k, k + 1))
        alpha, sigma = _at(path, here, x)
        data, error = read(teacher(x, here), x, alpha, sigma)
        alpha, sigma = _at(path, there, x)
        x = alpha * data + sigma * error
    (alpha, sigma), (alpha_after, sigma_after) = (_at(path, t, x) for t in (now, after))
    ratio = sigma_after / sigma
    led = (x - ratio * start) / (alpha_after - ratio * alpha)
    return torch.where(after > 0, led, data)
