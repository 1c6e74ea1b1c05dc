"""iCaloFlow's student: flows 2 and 3 as inverse autoregressive flows, distilled from the teacher.

A layer takes one pass through each block instead of one per cell; flow-1 is the teacher's (Buckley,
Krause, Pang & Shih, arXiv:2305.11934). The distillation is the one of CaloFlow's student
(`calostudy.networks.distillation`). The conditions of both losses are those of the showers of the
batch, and the best epoch is the one of the lowest Kullback-Leibler divergence from the teacher.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from nflows.flows import Flow
from torch import Tensor

from calostudy.models import caloflow, caloflow_student
from calostudy.models.caloflow import Inverse
from calostudy.models.icaloflow import FIRST, LAYERS, NEXT, ICaloFlow, ICaloFlowTeacher, Structure
from calostudy.models.student import X_SHARE, Student
from calostudy.models.surrogate import TrainingRecipe
from calostudy.networks import distillation
from calostudy.networks.iaf import Trace, iaf_flow, trace_to_data

HIDDEN = {"paper": {"ds2": {NEXT: 384}}}
"""Hidden units by size, dataset and network, where they are not as many as the teacher's."""


def _one_cycle(epochs: int, batch: int) -> TrainingRecipe:
    options = {"rise": 0.4, "start": 25, "end": 1e4}
    return TrainingRecipe(epochs, batch, 1e-3, "onecycle", options)


def _embedded(epochs: int, batch: int) -> TrainingRecipe:
    options = {"rise": 0.4, "start": 25, "end": 1e3}
    return TrainingRecipe(epochs, batch, 1e-3, "onecycle", options, validation=0.1, clip=100.0)


_EMBEDDED_RECIPES = {FIRST: _embedded(8, 32), NEXT: _embedded(8, 16)}

RECIPES = {
    "paper": {
        "ds2": {FIRST: _one_cycle(400, 1000), NEXT: _one_cycle(100, 23)},
        "ds3": {FIRST: _one_cycle(400, 1000), NEXT: _one_cycle(15, 23)},
    },
    "embedded": {"ds2": _EMBEDDED_RECIPES, "ds3": _EMBEDDED_RECIPES},
}
"""Of the distillation, by size, dataset and network."""


class ICaloFlowStudent(Student, ICaloFlow):
    """iCaloFlow's student on CaloChallenge dataset 2 or 3."""

    name: ClassVar[str] = "icaloflow-student"
    teacher_name: ClassVar[str] = ICaloFlowTeacher.name

    @property
    def trained_networks(self) -> tuple[str, ...]:
        """Flows 2 and 3: flow-1 is the teacher's."""
        return FIRST, NEXT

    def structure(self, network: str) -> Structure:
        teacher = super().structure(network)
        hidden = HIDDEN.get(self.size, {}).get(self.dataset.name, {})
        return replace(teacher, hidden=hidden.get(network, teacher.hidden))

    def recipe(self, network: str) -> TrainingRecipe:
        if network == LAYERS:
            return super().recipe(network)
        return RECIPES[self.size][self.dataset.name][network]

    def cell_flow(self, *sizes: int, **options) -> Flow:
        return iaf_flow(*sizes, **options)

    def samplers(self, network: str) -> Mapping[str, Callable[[Flow, str], Inverse]]:
        kind = caloflow.LAYERS if network == LAYERS else caloflow.VOXELS
        return caloflow_student.SAMPLERS[kind]

    def fit_constants(self, showers) -> None:
        """The constants are the teacher's."""

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Of flows 2 and 3 the distillation loss (B,); of flow-1 as for the teacher."""
        if network == LAYERS:
            return super().loss(network, batch)
        values, context = self.inputs(network, batch)
        flows = self._flows(network)
        x_loss = distillation.x_loss(*flows, values, context)
        z_loss = distillation.z_loss(self._from_noise(network, context), flows[1], context)
        loss = X_SHARE * x_loss + (1.0 - X_SHARE) * z_loss
        return loss.view(len(batch["incident"]), -1).mean(dim=1)

    def monitor(self, network: str, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """log q(x) - log p(x) (B,) of cells x of the student q, p the teacher: its mean is the
        Kullback-Leibler divergence of flow-2, or of flow-3 for one layer."""
        with torch.no_grad():
            _, context = self.inputs(network, batch)
            own = self._from_noise(network, context)
            found = distillation.divergence(own, self._flows(network)[1], context)
        return {"divergence": found.view(len(batch["incident"]), -1).mean(dim=1)}

    def _flows(self, network: str) -> tuple[Flow, Flow]:
        """A flow of student and teacher."""
        return self.networks[network], self.teacher.networks[network]

    def _from_noise(self, network: str, context: Tensor) -> Trace:
        """The way of as much fresh noise as there are conditions (N, C) through a flow."""
        return trace_to_data(
            self.networks[network], torch.randn(len(context), self._cells).to(context), context
        )
