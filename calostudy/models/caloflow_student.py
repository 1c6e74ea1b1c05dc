"""CaloFlow's student: an inverse autoregressive flow distilled from the teacher.

Flow-II is replaced by a flow whose fast direction is the other one: a shower takes one pass through
each block (Krause & Shih, arXiv:2110.11377; CaloChallenge dataset 1: Krause, Pang & Shih,
arXiv:2210.14245). Flow-I, the preparation of the showers and the permutations between the blocks
are the teacher's.

The student does not see the likelihood, whose evaluation takes it as many passes as there are
voxels. It learns by probability density distillation: it is to undo what the teacher does to
showers (x-loss), and the teacher is to undo what it does to noise (z-loss). It is guided: all
states between the blocks have to agree as well, and all spline parameters, which a student's
block has to find from the noise side as the teacher's from the data side.

As there, the best epoch is the one of the lowest Kullback-Leibler divergence from the teacher, here
on held-out conditions. One thing differs from the authors' code: each batch is one step of the
optimiser (there, the gradients of 2 to 16 batches are added up for CaloGAN). Size `embedded`
starts from the biases of the teacher's spline parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from nflows.flows import Flow
from torch import Tensor

from calostudy.models.caloflow import (
    LAYERS,
    VOXELS,
    CaloFlow,
    CaloFlowTeacher,
    Inverse,
    Structure,
    graph,
    incremental,
    plain,
)
from calostudy.models.student import X_SHARE, Student
from calostudy.models.surrogate import TrainingRecipe
from calostudy.networks import distillation
from calostudy.networks.iaf import Trace, iaf_flow, trace_to_data
from calostudy.samplers.iaf import OnePassSampler
from calostudy.showers import Showers

HIDDEN = {
    "paper": {"calogan": 504, "ds1-photons": 736, "ds1-pions": 500},
    "embedded": {"calogan": 128, "ds1-photons": 128, "ds1-pions": 128},
}
"""Hidden units by size and calorimeter; all else of the structure is the teacher's."""

DROPOUT = 0.05


def _one_cycle(epochs: int, start: float) -> TrainingRecipe:
    options = {"rise": 0.4, "start": start, "end": 1e4}
    return TrainingRecipe(epochs, 175, 1e-3, "onecycle", options)


_EMBEDDED = TrainingRecipe(
    40, 64, 1e-3, "onecycle", {"rise": 0.3, "start": 25, "end": 1e3}, validation=0.1
)

RECIPES = {
    "paper": {
        "calogan": TrainingRecipe(
            100, 175, 1e-4, "multistep", {"milestones": (10, 40, 70), "factor": 0.5}
        ),
        "ds1-photons": _one_cycle(100, 25),
        "ds1-pions": _one_cycle(150, 50),
    },
    "embedded": dict.fromkeys(HIDDEN["embedded"], _EMBEDDED),
}
"""Of the distillation, by size and calorimeter."""


def _uniform(incident: Tensor, bounds: tuple[float, float]) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand_like(incident)


def _shuffled(incident: Tensor, bounds: tuple[float, float]) -> Tensor:
    return incident[torch.randperm(len(incident))]


NOISE_ENERGIES: dict[str, Callable[[Tensor, tuple[float, float]], Tensor]] = {
    "calogan": _uniform,
    "ds1-photons": _shuffled,
    "ds1-pions": _uniform,
}
"""Incident energies of the z-loss by calorimeter, from those of the batch and their bounds in the
training sample."""


class CaloFlowStudent(Student, CaloFlow):
    """CaloFlow's student on the CaloGAN calorimeter or CaloChallenge dataset 1."""

    name: ClassVar[str] = "caloflow-student"
    teacher_name: ClassVar[str] = CaloFlowTeacher.name
    _bounds: tuple[float, float] = (0.0, 0.0)

    @property
    def network_evaluations(self) -> int:
        """One pass through each block."""
        return 1

    @property
    def trained_networks(self) -> tuple[str, ...]:
        """Flow-II: flow-I is the teacher's."""
        return (VOXELS,)

    def structure(self, network: str) -> Structure:
        teacher = super().structure(network)
        if network == LAYERS:
            return teacher
        hidden = HIDDEN[self.size][self.dataset.calorimeter.name]
        return replace(teacher, hidden=hidden, dropout=DROPOUT)

    def recipe(self, network: str) -> TrainingRecipe:
        if network == LAYERS:
            return super().recipe(network)
        return RECIPES[self.size][self.dataset.calorimeter.name]

    def voxel_flow(self, *sizes: int, **options) -> Flow:
        return iaf_flow(*sizes, **options)

    def samplers(self, network: str) -> Mapping[str, Callable[[Flow, str], Inverse]]:
        return SAMPLERS[network]

    def fit_constants(self, showers: Showers) -> None:
        """The constants are the teacher's; remembers the range of incident energies."""
        incident = self.prepare(VOXELS, showers)["incident"]
        self._bounds = incident.min().item(), incident.max().item()

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Of flow-II the distillation loss (B,); of flow-I as for the teacher."""
        if network == LAYERS:
            return super().loss(network, batch)
        return X_SHARE * self.x_loss(batch) + (1.0 - X_SHARE) * self.z_loss(batch)

    def monitor(self, network: str, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"divergence": self.divergence(batch)} if network == VOXELS else {}

    def x_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """How well the student undoes what the teacher does to showers: (B,)."""
        values, context, _ = self._inputs(VOXELS, batch)
        return distillation.x_loss(*self._flows, values, context)

    def z_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """How well the teacher undoes what the student does to noise: (B,)."""
        student, context = self._from_noise(batch["incident"])
        return distillation.z_loss(student, self._flows[1], context)

    def divergence(self, batch: Mapping[str, Tensor]) -> Tensor:
        """log q(x) - log p(x) (B,) of showers x of the student q, p the teacher: its mean is the
        Kullback-Leibler divergence of flow-II. No gradients."""
        with torch.no_grad():
            student, context = self._from_noise(batch["incident"])
            return distillation.divergence(student, self._flows[1], context)

    @property
    def _flows(self) -> tuple[Flow, Flow]:
        """Flow-II of student and teacher."""
        return self.networks[VOXELS], self.teacher.networks[VOXELS]

    def _from_noise(self, incident: Tensor) -> tuple[Trace, Tensor]:
        """Showers of the student for as many incident energies, with layer energies of flow-I:
        their way through flow-II, and its conditions (B, C)."""
        incident = NOISE_ENERGIES[self.dataset.calorimeter.name](incident, self._bounds)
        layers, cells = len(self.dataset.calorimeter.layers), self.dataset.calorimeter.cells
        noise = torch.randn(len(incident), layers + cells, dtype=torch.float64)
        precision = str(self.precision).removeprefix("torch.")
        energies = self._layer_energies(
            noise[:, :layers].numpy(force=True), incident, None, precision
        )
        context = self._voxel_condition(incident, energies).to(self.precision)
        voxels = noise[:, layers:].to(self.precision)
        return trace_to_data(self.networks[VOXELS], voxels, context), context


def one_pass(flow: Flow, precision: str) -> Inverse:
    """The exact inverse of an inverse autoregressive flow: one pass through each block."""
    sampler = OnePassSampler(flow, precision)

    def inverse(noise, context):
        return sampler.inverse(noise, context, threads=torch.get_num_threads())

    return inverse


SAMPLERS: dict[str, dict[str, Callable[[Flow, str], Inverse]]] = {
    LAYERS: {"one-pass": incremental, "nflows": plain, "graph": graph},
    VOXELS: {"one-pass": one_pass, "nflows": plain},
}
"""By network: the exact fast ones, and nflows itself."""
