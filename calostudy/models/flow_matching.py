"""Flow matching with a transformer: the study's own surrogate, in the line of CaloDREAM.

Networks are trained to say the velocity between noise and showers (Lipman et al.,
arXiv:2210.02747): one makes the fractions u of the energy in the layers (`energy_fractions`), all
at once; one makes the cells, given the incident energy and the layers'. Size `paper` has the
network of CaloDREAM's shapes (arXiv:2405.09629) on datasets 2 and 3, with its numbers of
parameters; its sequential energy network is replaced by a small transformer over the layers, as in
vit4hep (arXiv:2509.25169). Size `embedded` is small enough to be trained within an hour on one
processor core.

What is ours in both sizes is how the second network sees a cell: as a number that is standard
normal by itself, given the energy of its layer (`calostudy.marginals`), and a cell without a hit
as a random one of those that stand for none. It says v, the velocity less what it is for normal
numbers: a network that says 0 makes showers whose cells are right one by one. What many cells do
together (`calostudy.modes`) a perceptron says, which is trained first.
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
from calostudy.marginals import Marginals
from calostudy.models.caloinn import Logit
from calostudy.models.diffusion import Diffusion, ShowerNoise
from calostudy.models.surrogate import TrainingRecipe
from calostudy.modes import Modes, number_of_modes
from calostudy.networks.residual_mlp import ResidualMLP
from calostudy.networks.transformer import (
    Patches,
    Shape,
    ShowerTransformer,
    TransformerStructure,
)
from calostudy.samplers.diffusion import STRAIGHT, Process, Sampling, spread_times
from calostudy.showers import Showers

ENERGIES, MODES, VOXELS = "energies", "modes", "voxels"

RESPONSE = {
    **{"ds1-photons": 3.1, "ds1-pions": 6.93, "ds2": 2.0, "ds3": 2.0},
    **{"calogan-eplus": 1.0, "calogan-gamma": 1.0, "calogan-piplus": 1.0},
}
"""Largest deposited / incident energy by dataset; more is taken for this much."""

SPREAD = Logit(1e-6)
"""Between the u's and what the network sees; its noise makes a density of what is 0 or 1."""

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

_ENOUGH = 10_000
"""Showers in which the collective modes are looked for."""

SAMPLINGS = {
    "paper": {ENERGIES: Sampling("midpoint", 32), VOXELS: Sampling("midpoint", 16)},
    "embedded": {ENERGIES: Sampling("midpoint", 32), VOXELS: Sampling("midpoint", 8)},
}
"""By size and network; `calostudy.evaluations` measures what others do."""


def _eager(network: nn.Module, precision: str) -> nn.Module:
    """A copy of the network in a precision."""
    return copy.deepcopy(network).to(getattr(torch, precision))


class FlowMatching(Diffusion):
    """A flow-matching transformer on any dataset of the CaloChallenge or of CaloGAN."""

    name: ClassVar[str] = "flow-matching"
    datasets: ClassVar[tuple[str, ...]] = tuple(RESPONSE)
    VOXELS: ClassVar[str] = VOXELS
    SAMPLERS: ClassVar[Mapping[str, Callable[[nn.Module, str], Any]]] = {"eager": _eager}

    @property
    def processes(self) -> Mapping[str, Process]:
        v = Process(STRAIGHT, "v")
        return {ENERGIES: Process(STRAIGHT, "velocity"), MODES: v, VOXELS: v}

    @property
    def samplings(self) -> Mapping[str, Sampling]:
        return SAMPLINGS[self.size]

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][self.dataset.name][network]

    def build_networks(self) -> dict[str, nn.Module]:
        calorimeter, name = self.dataset.calorimeter, self.dataset.name
        layers = len(calorimeter.layers)
        patches = Patches.of(calorimeter, PATCHES[self.size][name])
        return {
            ENERGIES: ShowerTransformer(Patches.single(layers), ENERGY_STRUCTURE[self.size], 1),
            MODES: ResidualMLP(number_of_modes(calorimeter), 1 + layers, *PERCEPTRON),
            VOXELS: ShowerTransformer(patches, STRUCTURE[self.size][name], 1 + layers),
        }

    # ---- training -----------------------------------------------------------------------

    def initial_constants(self) -> dict[str, Tensor]:
        calorimeter = self.dataset.calorimeter
        layers = len(calorimeter.layers)
        untrained = Marginals.untrained(calorimeter, self.dataset.threshold)
        return {
            "u.mean": torch.zeros(layers),
            "u.deviation": torch.ones(layers),
            **untrained.constants(),
            **Modes.untrained(calorimeter).constants(),
        }

    def fit_constants(self, showers: Showers) -> None:
        """Mean and deviation of each u, the distributions of the cells and their modes."""
        batch, calorimeter = self.prepare(VOXELS, showers), self.dataset.calorimeter
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(len(showers), len(calorimeter.layers), generator=generator)
        seen = SPREAD.forward(self._fractions(batch, self._energies(batch)), noise.double())
        self.constants["u.mean"] = seen.mean(0).float()
        self.constants["u.deviation"] = seen.std(0).clamp_min(1e-2).float()
        fitted = Marginals.fitted(calorimeter, self.dataset.threshold, batch["cells"])
        self.constants.update(fitted.constants())
        energies, cells = (t[:_ENOUGH] for t in (self._energies(batch), batch["cells"]))
        numbers = fitted.forward(cells, energies, torch.rand(cells.shape, generator=generator))
        self.constants.update(Modes.fitted(calorimeter, numbers).constants())

    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """Cells (N, V) and incident energies (N,), both in MeV; cells below the threshold are 0."""
        showers = showers.above_threshold(self.dataset.threshold)
        return {
            "cells": torch.as_tensor(np.asarray(showers.cells, np.float32)),
            "incident": torch.as_tensor(np.asarray(showers.incident_energy, np.float64)),
        }

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean squared error (B,) of the velocity at random times.

        In training, size `embedded` turns and mirrors the showers at random.
        """
        batch = batch if network == ENERGIES else self.turned(network, batch)
        energies = self._energies(batch)
        fractions = self._fractions(batch, energies)
        if network == ENERGIES:
            values = SPREAD.forward(fractions, torch.rand_like(fractions))
            data, condition = self._standard(values), self._incident(batch["incident"])
        else:
            cells = batch["cells"]
            data = self._marginals.forward(cells, energies, torch.rand_like(cells))
            condition = self._condition(batch["incident"], fractions)
            data = data @ self._modes.matrix.double() if network == MODES else data
        data, condition = data.to(self.precision), condition.to(self.precision)
        net = self.networks[network]
        if network == VOXELS:
            frozen = torch.no_grad()(lambda *given: self.networks[MODES](*given))
            net = self._modes.joined(net, frozen)
        return self.processes[network].loss(
            lambda x, time: net(x, time, condition),
            data,
            spread_times(len(data)),
            torch.randn_like(data),
        )

    # ---- sampling -----------------------------------------------------------------------

    def shower(
        self,
        energy: float,
        networks: Mapping[str, Any],
        samplings: Mapping[str, Sampling],
        noise: ShowerNoise,
    ) -> Tensor:
        calorimeter, incident = self.dataset.calorimeter, torch.tensor([energy]).double()

        networks = {**networks, VOXELS: self._modes.joined(networks[VOXELS], networks[MODES])}

        def made(network: str, stream: int, numbers: int, condition: Tensor) -> Tensor:
            process, condition = self.processes[network], condition.to(noise.dtype)

            def predict(x: Tensor, time: float) -> Tensor:
                return networks[network](x, x.new_full((1,), time), condition)

            draw = noise.of(stream, (numbers,))
            return samplings[network].solve(process.denoiser(predict), process.path, draw).double()

        seen = made(ENERGIES, 0, len(calorimeter.layers), self._incident(incident))
        fractions = SPREAD.inverse(pre.unstandardise(seen, *self._moments))
        layers = pre.energies_from_fractions(fractions, incident, RESPONSE[self.dataset.name])
        condition = self._condition(incident, fractions)
        numbers = made(VOXELS, 1, calorimeter.cells, condition)
        shares = self._marginals.inverse(numbers, layers)
        # Where there is no hit in a layer with energy, its highest cell takes it.
        shares = torch.where(shares > 0.0, shares, 1e-12 * numbers.exp())
        threshold = self.dataset.threshold
        cells = [
            pre.share_out(shares[:, place], layers[:, i], threshold)
            for i, place in enumerate(calorimeter.slices)
        ]
        return torch.cat(cells, dim=1)[0]

    # ---- what the networks see ------------------------------------------------------------

    @property
    def _marginals(self) -> Marginals:
        calorimeter, threshold = self.dataset.calorimeter, self.dataset.threshold
        return Marginals.of_constants(calorimeter, threshold, self.constants)

    @property
    def _modes(self) -> Modes:
        return Modes.of_constants(self.dataset.calorimeter, self.constants)

    def _energies(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The energies (B, L) of layers in MeV, float64."""
        return pre.layer_sums(batch["cells"].double(), self.dataset.calorimeter.slices)

    def _fractions(self, batch: Mapping[str, Tensor], energies: Tensor) -> Tensor:
        """The u's (B, L) of showers, float64."""
        u = pre.energy_fractions(energies, batch["incident"], RESPONSE[self.dataset.name])
        # Behind the end of a shower each layer takes all there is, which is nothing: a little too
        # much energy then ends up in the next layer and not in the last one.
        behind = energies.flip(1).cumsum(1).flip(1)[:, :-1] > 0
        return torch.cat([u[:, :1], torch.where(behind, u[:, 1:], 1.0)], dim=1)

    def _incident(self, incident: Tensor) -> Tensor:
        """The incident energy (B,) in MeV as a condition (B, 1) of order 1."""
        return (incident / GEV).log10()[:, None] - 1.0

    def _condition(self, incident: Tensor, fractions: Tensor) -> Tensor:
        """Incident energy and u's, (B, 1 + L)."""
        middle = SPREAD.forward(fractions, torch.full_like(fractions, 0.5))
        return torch.cat([self._incident(incident), self._standard(middle)], dim=1)

    @property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation (L,) of the u's as the network sees them."""
        return self.constants["u.mean"].double(), self.constants["u.deviation"].double()

    def _standard(self, values: Tensor) -> Tensor:
        return pre.standardise(values, *self._moments)
