"""What every student has: a teacher, of which it takes over all that it does not learn.

Students are distilled (`calostudy.networks.distillation`) by the training loop of all surrogates.
"""

from typing import ClassVar

import torch

from calostudy.errors import UsageError
from calostudy.models.surrogate import Surrogate
from calostudy.networks.distillation import take_over
from calostudy.showers import Showers

X_SHARE = 0.5
"""Weight of the x-loss in a distillation; the z-loss has the rest (arXiv:2110.11377)."""


class Student(Surrogate):
    """A surrogate whose `trained_networks` are distilled from those of another of its kind.

    Comes before the surrogate's own class among the bases. `learn_from` gives it a teacher,
    `calostudy.training.train` distils it.
    """

    teacher_name: ClassVar[str]
    _teacher: Surrogate | None = None

    def learn_from(self, teacher: Surrogate) -> None:
        """Take over what is not learned, permutations and constants of a teacher, and learn from
        it. The teacher's weights are frozen.

        Raises:
            UsageError: it is not a teacher of the same dataset and size.
        """
        self._recognise(teacher)
        for name, given in teacher.networks.items():
            given.requires_grad_(False)
            if name in self.trained_networks:
                take_over(self.networks[name], given, biases=self.embedded)
            else:
                self.networks[name].load_state_dict(given.state_dict())
                self.round_weights(name)
        self.constants = {key: tensor.clone() for key, tensor in teacher.constants.items()}
        self._teacher = teacher

    def _recognise(self, teacher: Surrogate) -> None:
        wanted = self.teacher_name, self.dataset.name, self.size
        if (teacher.name, teacher.dataset.name, teacher.size) != wanted:
            raise UsageError(f"{self} learns from {' '.join(wanted)}, not from {teacher}")

    @property
    def teacher(self) -> Surrogate:
        """The teacher, or UsageError before `learn_from`."""
        if self._teacher is None:
            raise UsageError(
                f"{self.name} learns from a teacher: `calostudy distill {self.name} "
                f"{self.dataset.name} --teacher DIR --out DIR`"
            )
        return self._teacher

    def to(self, device: str | torch.device) -> Surrogate:
        if self._teacher is not None:
            self._teacher.to(device)
        return super().to(device)

    def training_origin(self) -> dict[str, str]:
        return {"teacher": self.teacher.fingerprint()}

    def chosen_by(self, network: str) -> str:
        return "divergence" if network in self.trained_networks else "validation_loss"


class Twin(Student):
    """A student with the structure of its teacher, which begins with all its weights."""

    def learn_from(self, teacher: Surrogate) -> None:
        """Begin with the weights of a teacher, which are frozen, and learn from it.

        Raises:
            UsageError: it is not a teacher of the same dataset and size.
        """
        self._recognise(teacher)
        for name, network in self.networks.items():
            network.load_state_dict(teacher.networks[name].requires_grad_(False).state_dict())
            if name not in self.trained_networks:
                self.round_weights(name)
        self.constants = {key: tensor.clone() for key, tensor in teacher.constants.items()}
        self._teacher = teacher

    def fit_constants(self, showers: Showers) -> None:
        """The constants are the teacher's."""

    def chosen_by(self, network: str) -> str:
        return "validation_loss"
