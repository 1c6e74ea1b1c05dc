"""The flow-matching transformer in one evaluation, distilled from the one of several.

A consistency model (Song et al., arXiv:2303.01469), distilled directly: from noise of one of four
levels the teacher goes all the way to a shower, and the student learns to say at once where that
ends. With two or four evaluations it puts fresh noise on its shower, less each time, and says again
what is behind it. The energies of the layers and what the modes say are the teacher's; the energies
are made in a quarter of its evaluations, which are as good (`book/evaluations.md`).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from calostudy.models.caloscore_distilled import noised, said_for
from calostudy.models.flow_matching import ENERGIES, VOXELS, FlowMatching
from calostudy.models.student import Twin
from calostudy.models.surrogate import TrainingRecipe
from calostudy.samplers.diffusion import PREDICTIONS, Process, Sampling

LEVELS = 4
"""The student knows the end from the times k / LEVELS: it takes 1, 2 or 4 evaluations."""

TEACHER_STEPS = 4
"""Of the midpoint method from each of these times."""

SHARE, RATE, AVERAGE = 0.25, 0.25, 0.99
"""Of the teacher's epochs and of its learning rate; decay of the moving average of the weights."""


class FlowMatchingDistilled(Twin, FlowMatching):
    """A consistency model of the cells of showers."""

    name: ClassVar[str] = "flow-matching-distilled"
    teacher_name: ClassVar[str] = FlowMatching.name

    @property
    def trained_networks(self) -> tuple[str, ...]:
        return (VOXELS,)

    @property
    def samplings(self) -> Mapping[str, Sampling]:
        layers = Sampling("midpoint", 8)
        return {**super().samplings, ENERGIES: layers, VOXELS: Sampling("consistency", 1)}

    def recipe(self, network: str) -> TrainingRecipe:
        recipe = super().recipe(network)
        epochs, rate = max(1, round(SHARE * recipe.epochs)), RATE * recipe.learning_rate
        return replace(recipe, epochs=epochs, learning_rate=rate, average=AVERAGE)

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Squared distance (B,) of what the student says from what leads to the teacher's end."""
        data, condition = self.seen(network, batch)
        process = self.processes[network]
        now = torch.randint(1, LEVELS + 1, (len(data), 1)) / LEVELS
        start = noised(process.path, data, torch.randn_like(data), now)

        def says(surrogate: FlowMatching):
            predict = surrogate.predictor(network, condition)
            return lambda x, time: predict(x, time.flatten().to(x))

        with torch.no_grad():
            end = led(says(self.teacher), start, now, process)
            wanted = said_for(process, end, start, now)
        return (says(self)(start, now) - wanted).square().mean(1)


def led(
    says: Callable[[Tensor, Tensor], Tensor], start: Tensor, now: Tensor, process: Process
) -> Tensor:
    """Where the midpoint method leads from `start` (B, ...) at times `now` (B, 1, ...) of the
    straight path: data (B, ...)."""
    read, step = PREDICTIONS[process.prediction].read, now / TEACHER_STEPS

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        data, noise = read(says(x, time), x, 1.0 - time, time)
        return noise - data

    x = start
    for k in range(TEACHER_STEPS):
        here = now - k * step
        middle = x - 0.5 * step * velocity(x, here)
        x = x - step * velocity(middle, here - 0.5 * step)
    return x
