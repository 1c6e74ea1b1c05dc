"""Flow matching with a transformer: the study's own surrogate, in the line of CaloDREAM.

Networks are trained to say the velocity between noise and showers (Lipman et al.,
arXiv:2210.02747): one makes the fractions u of the energy in the layers (`energy_fractions`), all
at once; one makes the cells, given the incident energy and the layers'. Size `paper` has the
network of CaloDREAM's shapes (arXiv:2405.09629) on datasets 2 and 3, with its numbers of
parameters; its sequential energy network is replaced by a small transformer over the layers, as in
vit4hep (arXiv:2509.25169). Size `embedded` is small enough to be trained within an hour on one
processor core.

What is ours in both sizes is what the networks see (`calostudy.normal_space`): numbers that are
standard normal one by one, of the layers given the incident energy and of the cells given the
energy of their layer. Networks say v, the velocity less what it is for normal numbers: those that
say 0 make showers that are right one number at a time. What many cells do together a perceptron
says, which is trained before the network of the cells.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from calostudy import preprocessing as pre
from calostudy.energies import GEV
from calostudy.models.diffusion import NormalDiffusion, ShowerNoise
from calostudy.models.surrogate import TrainingRecipe
from calostudy.modes import number_of_modes
from calostudy.networks.products import by_products, each
from calostudy.networks.residual_mlp import ResidualMLP
from calostudy.networks.transformer import (
    Patches,
    Shape,
    ShowerTransformer,
    TransformerStructure,
)
from calostudy.normal_space import NormalSpace, layer_numbers
from calostudy.samplers.diffusion import STRAIGHT, Process, Sampling, spread_times
from calostudy.samplers.transformer import Fused
from calostudy.showers import Showers

ENERGIES, MODES, VOXELS = "energies", "modes", "voxels"

RESPONSE = {
    **{"ds1-photons": 3.1, "ds1-pions": 6.93, "ds2": 2.0, "ds3": 2.0},
    **{"calogan-eplus": 1.0, "calogan-gamma": 1.0, "calogan-piplus": 1.0},
}
"""Largest deposited / incident energy by dataset; more is taken for this much."""

_DS1 = {(1, 8): (1, 1, 8), (1, 5): (1, 1, 5), (1, 10): (1, 1, 10)}
_RINGS = {(10, n): (1, 5, 1) for n in (10, 15, 16, 19)}
_CALOGAN = {(3, 96): (1, 3, 4), (12, 12): (1, 3, 4), (12, 6): (1, 3, 3)}
PATCHES: dict[str, dict[str, Mapping[tuple[int, int], Shape]]] = {
    "paper": {
        **dict.fromkeys(("ds1-photons", "ds1-pions"), _DS1 | _RINGS),
        "ds2": {(16, 9): (3, 16, 1)},
        "ds3": {(50, 18): (3, 5, 2)},
        **dict.fromkeys(("calogan-eplus", "calogan-gamma", "calogan-piplus"), _CALOGAN),
    },
    "embedded": {
        **dict.fromkeys(("ds1-photons", "ds1-pions"), _DS1 | _RINGS),
        "ds2": {(16, 9): (3, 16, 1)},
        "ds3": {(50, 18): (3, 25, 3)},
        **dict.fromkeys(("calogan-eplus", "calogan-gamma", "calogan-piplus"), _CALOGAN),
    },
}
"""Layers, slow and fast axis of a patch, by the shape of a layer."""

_DREAM = TransformerStructure(480, 6, 6, 4)
_SMALL = TransformerStructure(96, 4, 4, 3)
STRUCTURE: dict[str, dict[str, TransformerStructure]] = {
    "paper": dict.fromkeys(RESPONSE, _DREAM) | {"ds3": TransformerStructure(240, 6, 6, 3)},
    "embedded": dict.fromkeys(RESPONSE, _SMALL),
}
"""Of the voxel network, by size and dataset."""

ENERGY_STRUCTURE = {
    "paper": TransformerStructure(64, 8, 4, 8),
    "embedded": TransformerStructure(32, 3, 4, 2),
}
"""Of the energy network, by size."""

PERCEPTRON = 128, 3
"""Width and blocks of the network of the collective modes."""

_PUBLISHED = TrainingRecipe(
    800, 64, 1e-3, "cosine", {"rise": 0.01, "end": 1e3}, validation=0.1, clip=100.0, average=0.9999
)
_EMBEDDED = TrainingRecipe(
    60, 32, 1.5e-3, "cosine", {"rise": 0.05, "end": 1e2}, validation=0.1, clip=1.0, average=0.998
)
_LAYERWISE = replace(_EMBEDDED, epochs=100, batch=64)
EPOCHS = {
    **{"ds1-photons": 40, "ds1-pions": 40, "ds2": 16, "ds3": 30},
    **{"calogan-eplus": 16, "calogan-gamma": 30, "calogan-piplus": 30},
}
"""Of the voxel network in size `embedded`."""
_LARGE = {ENERGIES: replace(_PUBLISHED, batch=256), MODES: _PUBLISHED, VOXELS: _PUBLISHED}
RECIPES: dict[str, dict[str, dict[str, TrainingRecipe]]] = {
    "paper": dict.fromkeys(RESPONSE, _LARGE),
    "embedded": {
        name: {ENERGIES: _LAYERWISE, MODES: _LAYERWISE, VOXELS: replace(_EMBEDDED, epochs=epochs)}
        for name, epochs in EPOCHS.items()
    },
}
"""By size, dataset and network."""

SAMPLINGS = {
    "paper": {ENERGIES: Sampling("midpoint", 32), VOXELS: Sampling("midpoint", 16)},
    "embedded": {ENERGIES: Sampling("midpoint", 32), VOXELS: Sampling("midpoint", 8)},
}
"""By size and network; `calostudy.evaluations` measures what others do."""


def _eager(network: nn.Module, precision: str) -> nn.Module:
    """A copy of the network in a precision."""
    return copy.deepcopy(network).to(getattr(torch, precision))


def _fused(network: nn.Module, precision: str) -> Callable[..., Tensor]:
    if isinstance(network, ShowerTransformer):
        return Fused(network, precision)
    return by_products(_eager(network, precision))


class FlowMatching(NormalDiffusion):
    """A flow-matching transformer on any dataset of the CaloChallenge or of CaloGAN."""

    name: ClassVar[str] = "flow-matching"
    datasets: ClassVar[tuple[str, ...]] = tuple(RESPONSE)
    VOXELS: ClassVar[str] = VOXELS
    RESPONSE: ClassVar[Mapping[str, float]] = RESPONSE
    SAMPLERS: ClassVar[Mapping[str, Callable[[nn.Module, str], Any]]] = {
        "fused": _fused,
        "eager": _eager,
    }

    @property
    def normal(self) -> bool:
        return True

    @property
    def processes(self) -> Mapping[str, Process]:
        return dict.fromkeys((ENERGIES, MODES, VOXELS), Process(STRAIGHT, "v"))

    @property
    def samplings(self) -> Mapping[str, Sampling]:
        return SAMPLINGS[self.size]

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][self.dataset.name][network]

    def build_networks(self) -> dict[str, nn.Module]:
        calorimeter, name = self.dataset.calorimeter, self.dataset.name
        layers, numbers = len(calorimeter.layers), layer_numbers(calorimeter)
        patches = Patches.of(calorimeter, PATCHES[self.size][name])
        return {
            ENERGIES: ShowerTransformer(Patches.single(numbers), ENERGY_STRUCTURE[self.size], 1),
            MODES: ResidualMLP(number_of_modes(calorimeter), 1 + layers, *PERCEPTRON),
            VOXELS: ShowerTransformer(patches, STRUCTURE[self.size][name], 1 + layers),
        }

    # ---- training -----------------------------------------------------------------------

    def initial_constants(self) -> dict[str, Tensor]:
        return NormalSpace.untrained(*self.geometry).constants()

    def fit_constants(self, showers: Showers) -> None:
        batch = self.prepare(VOXELS, showers)
        self.constants.update(self.space_of(batch).constants())

    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """Cells (N, V) and incident energies (N,), both in MeV; cells below the threshold are 0."""
        showers = showers.above_threshold(self.dataset.threshold)
        return {
            "cells": torch.as_tensor(np.asarray(showers.cells, np.float32)),
            "incident": torch.as_tensor(np.asarray(showers.incident_energy, np.float64)),
        }

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean squared error (B,) of what the network says at random times.

        In training, size `embedded` turns and mirrors the showers at random.
        """
        data, condition = self.seen(network, batch)
        predict = self.predictor(network, condition)
        times = spread_times(len(data))
        return self.processes[network].loss(predict, data, times, torch.randn_like(data))

    def seen(self, network: str, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The numbers (B, D) of a batch for a network, and its condition (B, C)."""
        batch = batch if network == ENERGIES else self.turned(network, batch)
        space, (cells, incident) = self.space, (batch["cells"], batch["incident"])
        energies = pre.layer_sums(cells.double(), self.dataset.calorimeter.slices)
        if network == ENERGIES:
            uniform = torch.rand(len(energies), space.layers.numbers)
            data = space.layers.forward(energies, incident, uniform)
            condition = self._incident(incident)
        else:
            data = space.cells.forward(cells, energies, torch.rand_like(cells))
            data = data @ space.modes.matrix.double() if network == MODES else data
            condition = self._condition(incident, energies)
        return data.to(self.precision), condition.to(self.precision)

    def predictor(self, network: str, condition: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """What the networks say of numbers (B, D) at times (B,); of the cells, together with the
        network of the modes, which is not trained with them."""
        net = self.in_training(network)
        return lambda x, time: net(x, time, condition)

    # ---- sampling -----------------------------------------------------------------------

    def cells(
        self,
        incident: Tensor,
        networks: Mapping[str, Any],
        samplings: Mapping[str, Sampling],
        noise: ShowerNoise,
    ) -> Tensor:
        calorimeter, space = self.dataset.calorimeter, self.space
        networks = self.with_modes(networks)

        def made(network: str, stream: int, numbers: int, condition: Tensor) -> Tensor:
            process, condition = self.processes[network], condition.to(noise.dtype)

            def predict(x: Tensor, time: float) -> Tensor:
                return networks[network](x, x.new_full((x.shape[0],), time), condition)

            draw = noise.of(stream, (numbers,))
            return samplings[network].solve(process.denoiser(predict), process.path, draw).double()

        numbers = made(ENERGIES, 0, space.layers.numbers, each(self._incident, incident))
        energies = each(space.layers.inverse, numbers, incident)
        condition = each(self._condition, incident, energies)
        return each(space.cells.inverse, made(VOXELS, 1, calorimeter.cells, condition), energies)

    # ---- what the networks see ------------------------------------------------------------

    def _incident(self, incident: Tensor) -> Tensor:
        """The incident energy (B,) in MeV as a condition (B, 1) of order 1."""
        return (incident / GEV).log10()[:, None] - 1.0

    def _condition(self, incident: Tensor, energies: Tensor) -> Tensor:
        """Incident energy and normal numbers of the layers, (B, 1 + L)."""
        told = self.space.layers.told(energies, incident)
        return torch.cat([self._incident(incident), told], dim=1)
