"""CaloDiffusion: a cylindrical U-Net that takes noise out of showers step by step.

Amram & Pedro, arXiv:2308.03876. A shower is the logits of its cells' energies over the incident
energy. The U-Net (`ShowerUNet`) knows of geometry by its circular convolutions and by images of
radius and layer; on dataset 1 a trainable map leads to a common grid and back at every step.

Size `paper` has the structure, the preprocessing and the recipe of the published configuration,
without its stop of the training by the losses and without the plateau schedule of its rate.

Size `embedded` is small enough to be trained in minutes on one processor core, and no published
configuration. A perceptron first makes the energies of the layers, as in the authors' later
versions; the U-Net is told and its cells are scaled to them. Numbers that are standard normal one
by one take the place of logits (`calostudy.normal_space`). What many cells do together another
perceptron says, which is trained before the U-Net. Neighbouring cells share a place of the grid.
The networks say v, at first 0: showers that are right one number at a time. Showers are turned and
mirrored at random while training. There, CaloGAN's calorimeter is possible too: its phi is no
circle.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from calostudy import preprocessing as pre
from calostudy.models.diffusion import NormalDiffusion, ShowerNoise
from calostudy.models.surrogate import TrainingRecipe
from calostudy.modes import number_of_modes
from calostudy.networks import shower_unet
from calostudy.networks.cylindrical import UNetStructure
from calostudy.networks.products import by_products, each
from calostudy.networks.residual_mlp import ResidualMLP
from calostudy.networks.shower_unet import ShowerStructure, ShowerUNet
from calostudy.normal_space import NormalSpace, layer_numbers
from calostudy.samplers.diffusion import (
    STRAIGHT,
    Process,
    Sampling,
    discrete_cosine_path,
    spread_times,
)
from calostudy.showers import Showers

LAYERS, MODES, VOXELS = "layers", "modes", "voxels"
STEPS = 400
"""Of the published path."""

_DS1, _CALOGAN = ("ds1-photons", "ds1-pions"), ("calogan-eplus", "calogan-gamma", "calogan-piplus")


@dataclass(frozen=True)
class Published:
    """Preprocessing of size `paper`: the largest response, mean and deviation of the logits."""

    response: float
    mean: float
    deviation: float


PUBLISHED: dict[str, Published] = {
    "ds1-photons": Published(3.1, -9.9807, 3.14168),
    "ds1-pions": Published(3.1, -11.7610, 2.84317),
    "ds2": Published(2.0, -12.8564, 1.9123),
    "ds3": Published(2.0, -13.4753, 1.1070),
}

RANGE = {
    **dict.fromkeys(_DS1, (256.0, 4194304.0)),
    **dict.fromkeys(("ds2", "ds3"), (1e3, 1e6)),
    **dict.fromkeys(_CALOGAN, (1e3, 1e5)),
}
"""Lowest and highest incident energy in MeV, which the condition 0 and 1 stand for."""

RESPONSE = {"ds1-photons": 3.1, "ds1-pions": 6.99, "ds2": 2.0, "ds3": 2.0} | dict.fromkeys(
    _CALOGAN, 1.1
)
"""Largest deposited / incident energy in size `embedded`; more is taken for this much."""

_PAPER = UNetStructure((16, 16, 16, 32))
_SMALL = ShowerStructure(UNetStructure((16, 16, 32)), split=False, layers=True)

STRUCTURE: dict[str, dict[str, ShowerStructure]] = {
    "paper": {
        **dict.fromkeys((*_DS1, *_CALOGAN), ShowerStructure(_PAPER, angle=True)),
        "ds2": ShowerStructure(_PAPER),
        "ds3": ShowerStructure(UNetStructure((32, 32, 32, 32))),
    },
    "embedded": {
        **dict.fromkeys(_DS1, replace(_SMALL, patch=(1, 2, 3))),
        "ds2": replace(_SMALL, patch=(3, 4, 1)),
        "ds3": replace(_SMALL, patch=(3, 5, 2)),
        **dict.fromkeys(_CALOGAN, replace(_SMALL, patch=(1, 2, 4))),
    },
}
"""By size and dataset."""

PERCEPTRON = 128, 3
"""Width and blocks of the networks of the layers' energies and of the collective modes."""

_PATH = discrete_cosine_path(STEPS)
PROCESSES: dict[str, Callable[[str], dict[str, Process]]] = {
    "paper": lambda name: {VOXELS: Process(_PATH, "hybrid" if name == "ds3" else "noise")},
    "embedded": lambda name: {
        LAYERS: Process(STRAIGHT, "v"),
        **dict.fromkeys((MODES, VOXELS), Process(_PATH, "v")),
    },
}
"""By size and dataset."""


def _published_sampling(name: str) -> dict[str, Sampling]:
    steps = STEPS if name == "ds3" else STEPS - 2  # the noisiest two are left out
    return {VOXELS: Sampling("ddpm", steps, start=steps / STEPS)}


SAMPLINGS: dict[str, Callable[[str], dict[str, Sampling]]] = {
    "paper": _published_sampling,
    "embedded": lambda name: {LAYERS: Sampling("midpoint", 40), VOXELS: Sampling("dpm++2m", 16)},
}
"""By size and dataset."""

_CONSTANT = {"milestones": (), "factor": 1.0}
_PUBLISHED_RECIPE = TrainingRecipe(1000, 128, 4e-4, "multistep", _CONSTANT, validation=0.15)
_CYCLE = {"rise": 0.1, "end": 1e2}
_VOXEL_RECIPE = TrainingRecipe(
    60, 32, 2e-3, "cosine", _CYCLE, validation=0.05, clip=1.0, average=0.999
)
_LAYER_RECIPE = replace(_VOXEL_RECIPE, epochs=150, batch=64)


def _embedded(epochs: int) -> dict[str, TrainingRecipe]:
    voxels = replace(_VOXEL_RECIPE, epochs=epochs)
    return {LAYERS: _LAYER_RECIPE, MODES: replace(_LAYER_RECIPE, epochs=50), VOXELS: voxels}


RECIPES: dict[str, dict[str, dict[str, TrainingRecipe]]] = {
    "paper": {
        **{name: {VOXELS: _PUBLISHED_RECIPE} for name in (*_DS1, *_CALOGAN, "ds2")},
        "ds3": {VOXELS: replace(_PUBLISHED_RECIPE, batch=64, learning_rate=1e-4)},
    },
    "embedded": {
        **{name: _embedded(24) for name in _DS1},
        **{name: _embedded(12) for name in ("ds2", "ds3", *_CALOGAN)},
    },
}
"""By size, dataset and network."""


def _eager(network: nn.Module, precision: str) -> Callable[..., Tensor]:
    if isinstance(network, ShowerUNet):
        return shower_unet.eager(network, precision)
    return copy.deepcopy(network).to(getattr(torch, precision)).eval()


def _fused(network: nn.Module, precision: str) -> Callable[..., Tensor]:
    if isinstance(network, ShowerUNet):
        return shower_unet.Fused(network, precision)
    return by_products(_eager(network, precision))


class CaloDiffusion(NormalDiffusion):
    """CaloDiffusion on the datasets of the CaloChallenge; in size `embedded` on CaloGAN's too."""

    name: ClassVar[str] = "calodiffusion"
    datasets: ClassVar[tuple[str, ...]] = tuple(RANGE)
    VOXELS: ClassVar[str] = VOXELS
    RESPONSE: ClassVar[Mapping[str, float]] = RESPONSE
    SAMPLERS: ClassVar[Mapping[str, Callable[[nn.Module, str], Any]]] = {
        "fused": _fused,
        "eager": _eager,
    }

    @property
    def processes(self) -> Mapping[str, Process]:
        return PROCESSES[self.size](self.dataset.name)

    @property
    def samplings(self) -> Mapping[str, Sampling]:
        return SAMPLINGS[self.size](self.dataset.name)

    @property
    def structure(self) -> ShowerStructure:
        """The hyperparameters of the voxel network."""
        return STRUCTURE[self.size][self.dataset.name]

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][self.dataset.name][network]

    def build_networks(self) -> dict[str, nn.Module]:
        calorimeter = self.dataset.calorimeter
        voxels = ShowerUNet(calorimeter, self.structure)
        if not self.embedded:
            return {VOXELS: voxels}
        nn.init.zeros_(voxels.unet.end.weight)
        nn.init.zeros_(voxels.unet.end.bias)
        layers, modes = len(calorimeter.layers), number_of_modes(calorimeter)
        return {
            LAYERS: ResidualMLP(layer_numbers(calorimeter), 1, *PERCEPTRON),
            MODES: ResidualMLP(modes, 1 + layers, *PERCEPTRON),
            VOXELS: voxels,
        }

    # ---- constants ----------------------------------------------------------------------

    def initial_constants(self) -> dict[str, Tensor]:
        """In size `embedded` those of its `NormalSpace`. In `paper`, mean and deviation of the
        logits, and on datasets 2 and 3 which cells were ever hit."""
        if self.embedded:
            return NormalSpace.untrained(*self.geometry).constants()
        name = self.dataset.name
        known = PUBLISHED.get(name, Published(RESPONSE[name], 0.0, 1.0))
        constants = {"logits": torch.tensor([known.mean, known.deviation])}
        if name in ("ds2", "ds3"):
            constants["hit"] = torch.ones(self.dataset.calorimeter.cells)
        return constants

    def fit_constants(self, showers: Showers) -> None:
        batch = self.prepare(VOXELS, showers)
        if self.embedded:
            self.constants.update(self.space_of(batch).constants())
        elif "hit" in self.constants:
            self.constants["hit"] = (batch["cells"] > 0).any(dim=0).float()
        elif self.dataset.name not in PUBLISHED:
            logits = [
                self._logits(cells, incident)
                for cells, incident in zip(
                    batch["cells"].split(250), batch["incident"].split(250), strict=True
                )
            ]
            logits = torch.cat(logits).double()
            self.constants["logits"] = torch.stack([logits.mean(), logits.std()]).float()

    # ---- between showers and numbers ----------------------------------------------------

    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """Cells (N, V) and incident energies (N,), both in MeV; in size `embedded` cells below
        the threshold are 0."""
        if self.embedded:
            showers = showers.above_threshold(self.dataset.threshold)
        return {
            "cells": torch.as_tensor(np.asarray(showers.cells, np.float32)),
            "incident": torch.as_tensor(np.asarray(showers.incident_energy, np.float64)),
        }

    def _place(self, incident: Tensor) -> Tensor:
        """Incident energies (B,) in MeV, their logarithm from 0 to 1: (B,)."""
        low, high = RANGE[self.dataset.name]
        return (incident / low).log() / np.log(high / low)

    def _layers(self, cells: Tensor) -> Tensor:
        """Energies (B, L) in MeV of layers, in float64."""
        return pre.layer_sums(cells.double(), self.dataset.calorimeter.slices)

    def _conditions(self, incident: Tensor, energies: Tensor | None = None) -> Tensor:
        """What the networks are told: (B, 1), or (B, 1 + L) with energies (B, L) of layers."""
        place = self._place(incident)[:, None]
        if energies is None:
            return place
        logs = (energies / self.dataset.threshold).clamp_min(1e-3).log()
        return torch.cat([place, 0.25 * logs - 1.0], dim=1)

    def _logits(self, cells: Tensor, incident: Tensor) -> Tensor:
        return pre.logit(cells / (self._response * incident[:, None].to(cells)))

    @property
    def _response(self) -> float:
        known = PUBLISHED.get(self.dataset.name)
        return known.response if known else RESPONSE[self.dataset.name]

    def _to_numbers(self, cells: Tensor, incident: Tensor) -> Tensor:
        """What the voxel network sees of cells (B, V) without noise."""
        if self.embedded:
            uniform = torch.rand_like(cells)
            return self.space.cells.forward(cells, self._layers(cells), uniform).to(cells)
        return pre.standardise(self._logits(cells, incident), *self.constants["logits"])

    def _to_cells(self, values: Tensor, incident: Tensor, energies: Tensor | None = None) -> Tensor:
        """Cells (B, V) in MeV; energies (B, L) are those of the layers in size `embedded`."""
        if self.embedded:
            return self.space.cells.inverse(values, energies)
        logits = pre.unstandardise(values.double(), *self.constants["logits"].double())
        cells = pre.inverse_logit(logits) * (self._response * incident[:, None])
        return cells * self.constants.get("hit", 1.0)

    # ---- training -----------------------------------------------------------------------

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean squared error (B,) of what the network says at random times.

        In training, size `embedded` turns and mirrors the showers at random.
        """
        batch = batch if network == LAYERS else self.turned(network, batch)
        process, (cells, incident) = self.processes[network], (batch["cells"], batch["incident"])
        time, energies = spread_times(len(incident)), self._layers(cells)
        if network == LAYERS:
            layers = self.space.layers
            uniform = torch.rand(len(energies), layers.numbers)
            data = layers.forward(energies, incident, uniform)
            conditions = self._conditions(incident)
        else:
            time = (time * STEPS).ceil() / STEPS
            data = self._to_numbers(cells, incident)
            data = data @ self.space.modes.matrix if network == MODES else data
            conditions = self._conditions(incident, energies if self.embedded else None)
        data, conditions = data.to(self.precision), conditions.to(self.precision)
        net = self.in_training(network) if self.embedded else self.networks[network]

        def predict(x: Tensor, time: Tensor) -> Tensor:
            return net(x, process.path.sigma(time).to(x), conditions)

        return process.loss(predict, data, time, torch.randn_like(data))

    # ---- sampling -----------------------------------------------------------------------

    def cells(
        self,
        incident: Tensor,
        networks: Mapping[str, Any],
        samplings: Mapping[str, Sampling],
        noise: ShowerNoise,
    ) -> Tensor:
        streams = list(networks)
        networks = self.with_modes(networks) if self.embedded else networks

        def drawn(network: str, size: int, conditions: Tensor) -> Tensor:
            process, conditions = self.processes[network], conditions.to(noise.dtype)

            def predict(x: Tensor, time: float) -> Tensor:
                told = x.new_full((x.shape[0],), process.path.at(time)[1])
                return networks[network](x, told, conditions)

            numbers = noise.of(streams.index(network), (size,))
            return samplings[network].solve(process.denoiser(predict), process.path, numbers)

        calorimeter, energies = self.dataset.calorimeter, None
        if self.embedded:
            conditions = each(self._conditions, incident)
            numbers = drawn(LAYERS, layer_numbers(calorimeter), conditions)
            energies = each(self.space.layers.inverse, numbers, incident)
        known = (incident,) if energies is None else (incident, energies)
        values = drawn(VOXELS, calorimeter.cells, each(self._conditions, *known))
        return each(self._to_cells, values, *known)
