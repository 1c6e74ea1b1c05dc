"""CaloINN: one coupling flow for layer energies and cells together.

Ernst, Favaro, Krause, Plehn & Shih, arXiv:2312.09290. A shower is the fractions of its layers'
energies in the cells, and the fractions u of the energy in the layers (`energy_fractions`): one
number per cell and one per layer. A flow of coupling blocks describes them all given the incident
energy, with rational-quadratic splines on dataset 1 and cubic splines on dataset 2. One
evaluation of each block gives a likelihood, and one gives a shower.

Size `paper` has the structure and the recipe of the published configuration, with three
differences that leave the density as it is or nearly: permutations are indices, not matrices; the
splines begin as the identity; the optimiser has no weight decay (there 0.01).

Size `embedded` is small enough to be trained in minutes on one processor core, and no
published configuration. Besides the sizes, the fractions go through a logit, which resolves what
is next to 1 as finely as what is next to 0; showers are turned and mirrored at random while
training; numbers outside a spline's bound do not keep the others of their shower from being bent.
Pions, and dataset 2, where nine in ten cells are empty, the flow sees as standard normal numbers of
the layers and the cells instead (`calostudy.normal_space`): before it has learnt anything, each of
them is distributed as in the training showers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from calostudy import preprocessing as pre
from calostudy.energies import GEV
from calostudy.models.in_normal_space import InNormalSpace
from calostudy.models.surrogate import TrainingRecipe
from calostudy.networks.coupling import CouplingFlow, CouplingStructure
from calostudy.networks.cubic_spline import CubicSettings
from calostudy.networks.spline import SplineSettings
from calostudy.normal_space import NormalSpace
from calostudy.samplers.coupling import Inverse, eager, fused, int8
from calostudy.samplers.noise import normal
from calostudy.showers import Showers

FLOW = "flow"
INITIAL_SHOWERS = 2000
"""How many showers initialise the shifts and scales of the blocks."""


@dataclass(frozen=True)
class Logarithm:
    """y = log(x + noise + alpha), the published map."""

    noise: float
    alpha: float = 1e-8

    def forward(self, x: Tensor, uniform: Tensor) -> Tensor:
        """Fractions x >= 0 and as many uniform numbers in [0, 1) to the real line."""
        return (x + self.noise * uniform + self.alpha).log()

    def inverse(self, y: Tensor) -> Tensor:
        """Fractions; what is lost in the noise is 0."""
        x = y.exp() - self.alpha - self.noise
        return torch.where(x < self.noise, 0.0, x)


@dataclass(frozen=True)
class Logit:
    """y = logit((x + noise) / (1 + width of the noise)): 0 and 1 are blurred alike."""

    noise: float
    alpha: float = 1e-8

    def forward(self, x: Tensor, uniform: Tensor) -> Tensor:
        """Fractions x in [0, 1] and as many uniform numbers in [0, 1) to the real line."""
        return pre.logit((x + self.noise * uniform) / (1.0 + self.noise), self.alpha)

    def inverse(self, y: Tensor) -> Tensor:
        """Fractions; what is lost in the noise is 0 or 1."""
        half = 0.5 * self.noise
        x = (1.0 + self.noise) * pre.inverse_logit(y, self.alpha) - half
        return torch.where(x < half, 0.0, torch.where(x > 1.0 - half, 1.0, x))


# A shower with more than 3.5 times its incident energy is cut in the authors' training.
_CUT = {"ds1-photons": 3.5, "ds1-pions": 3.5, "ds2": 3.5}
RESPONSE = {"paper": _CUT, "embedded": {"ds1-photons": 3.1, "ds1-pions": 6.93, "ds2": 2.0}}
"""Largest deposited / incident energy, by size and dataset; more is taken for this much."""

MAPS: dict[str, dict[str, Logarithm | Logit]] = {
    "paper": {
        "ds1-photons": Logarithm(5e-6),
        "ds1-pions": Logarithm(5e-6),
        "ds2": Logarithm(1e-6),
    },
    "embedded": {"ds1-photons": Logit(1e-6)},
}
"""Between fractions and the flow's numbers, by size and dataset."""

IN_NORMAL_SPACE = ("ds1-pions", "ds2")
"""Datasets that size `embedded` sees as standard normal numbers."""

_DS1 = CouplingStructure(12, 256, 4, SplineSettings(10, 18.0, 1e-3, 1e-3, 1e-3), by_shower=True)
# The authors' example; their showers in the CaloChallenge are of 14 blocks and bound 15.
_DS2 = CouplingStructure(10, 256, 3, CubicSettings(10, 20.0, 1e-3, 1e-3), by_shower=True)
_SMALL = CouplingStructure(8, 96, 3, SplineSettings(8, 6.0, 1e-3, 1e-3, 1e-3), by_shower=False)
_SMALL_DS2 = CouplingStructure(4, 16, 3, CubicSettings(4, 6.0, 1e-3, 1e-3), by_shower=False)

STRUCTURE: dict[str, dict[str, CouplingStructure]] = {
    "paper": {"ds1-photons": _DS1, "ds1-pions": _DS1, "ds2": _DS2},
    "embedded": {
        "ds1-photons": _SMALL,
        "ds1-pions": replace(_SMALL, blocks=6, hidden=48),
        "ds2": _SMALL_DS2,
    },
}
"""By size and dataset."""

_CYCLE = {"rise": 0.4, "start": 10, "end": 1e4}
_DS1_RECIPE = TrainingRecipe(450, 512, 1e-4, "onecycle", _CYCLE, validation=0.01)
_EMBEDDED = TrainingRecipe(
    110, 64, 2e-3, "onecycle", {"rise": 0.45, "start": 25, "end": 1e3}, validation=0.1, clip=50.0
)

RECIPES = {
    "paper": {
        "ds1-photons": _DS1_RECIPE,
        "ds1-pions": _DS1_RECIPE,
        "ds2": TrainingRecipe(400, 256, 1e-4, "onecycle", _CYCLE, validation=0.1),
    },
    "embedded": {
        "ds1-photons": _EMBEDDED,
        "ds1-pions": _EMBEDDED,
        "ds2": replace(_EMBEDDED, epochs=30, learning_rate=7e-4),
    },
}
"""By size and dataset."""


class CaloINN(InNormalSpace):
    """CaloINN on CaloChallenge dataset 1 (photons or pions) or dataset 2."""

    name: ClassVar[str] = "caloinn"
    datasets: ClassVar[tuple[str, ...]] = ("ds1-photons", "ds1-pions", "ds2")

    @property
    def network_evaluations(self) -> int:
        """One pass through each block."""
        return 1

    @property
    def storage(self) -> torch.dtype:
        return torch.int8 if self.embedded else super().storage

    @property
    def structure(self) -> CouplingStructure:
        """The hyperparameters of the flow."""
        return STRUCTURE[self.size][self.dataset.name]

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][self.dataset.name]

    @property
    def _map(self) -> Logarithm | Logit:
        return MAPS[self.size][self.dataset.name]

    @property
    def response(self) -> float:
        return RESPONSE[self.size][self.dataset.name]

    @property
    def normal(self) -> bool:
        return self.embedded and self.dataset.name in IN_NORMAL_SPACE

    def build_networks(self) -> dict[str, CouplingFlow]:
        numbers = self.dataset.calorimeter.cells + self.numbers_of_layers
        return {FLOW: CouplingFlow(numbers, 1, self.structure, self.seed)}

    def initial_constants(self) -> dict[str, Tensor]:
        return NormalSpace.untrained(*self.geometry).constants() if self.normal else {}

    def fit_constants(self, showers: Showers) -> None:
        """Those of the normal numbers; and the shifts and scales of the blocks are initialised."""
        if self.normal:
            self.constants.update(self.space_of(self.prepare(FLOW, showers)).constants())
        generator = torch.Generator().manual_seed(0)
        batch = self.prepare(FLOW, showers[:INITIAL_SHOWERS])
        values, context = self._to_flow(batch, generator)
        self.networks[FLOW].initialise(values.to(self.precision), context.to(self.precision))

    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """Cells (N, V) and incident energies (N,), both in MeV; in normal space, cells below the
        threshold are 0."""
        if self.normal:
            showers = showers.above_threshold(self.dataset.threshold)
        return {
            "cells": torch.as_tensor(np.asarray(showers.cells, np.float32)),
            "incident": torch.as_tensor(np.asarray(showers.incident_energy, np.float64)),
        }

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Negative log-likelihood (B,) of the flow's numbers, with fresh noise on each.

        In training, size `embedded` turns and mirrors the showers at random.
        """
        values, context = self._to_flow(self.turned(network, batch))
        values, context = values.to(self.precision), context.to(self.precision)
        return -self.networks[network].log_prob(values, context)

    def sample(
        self,
        incident_energy: np.ndarray,
        seed: int = 0,
        first: int = 0,
        *,
        sampler: str | None = None,
        precision: str | None = None,
    ) -> Showers:
        """Showers (cells float32) for incident energies (N,) in MeV.

        Cells below the data set's threshold are 0.

        `sampler` is one of `SAMPLERS`: by default "fused", compiled for the purpose; "eager" is
        the same function by plain torch, the yardstick; "int8" is nearly the same, with weights
        rounded to eight bits. `precision` of the network is "float32" or "float64", by default
        that of torch, which a hardware target sets.

        Raises:
            UsageError: there is no such sampler or precision.
        """
        energy = np.atleast_1d(np.asarray(incident_energy, np.float64))
        noise = normal(seed, first, len(energy), self.networks[FLOW].features)
        condition = self.condition(torch.as_tensor(energy)).numpy(force=True)
        values = self.inverse_of(FLOW, SAMPLERS, sampler, precision)(noise, condition)
        return self._to_showers(torch.as_tensor(values), energy)

    def _to_showers(self, values: Tensor, energy: np.ndarray) -> Showers:
        """The showers of the numbers (N, D) that the flow describes: the inverse of `_to_flow`."""
        cells = self.to_cells(values, torch.as_tensor(energy)).numpy(force=True)
        showers = Showers(self.dataset.calorimeter, energy, cells.astype(np.float32))
        return showers.above_threshold(self.dataset.threshold)

    def to_cells(self, values: Tensor, incident: Tensor) -> Tensor:
        """Cells (N, V) in MeV, float64, of what the flow describes, (N, D), at incident energies
        (N,) in MeV."""
        calorimeter = self.dataset.calorimeter
        if self.normal:
            cells, layers = values.double().tensor_split([calorimeter.cells], dim=1)
            space = self.space
            return space.cells.inverse(cells, space.layers.inverse(layers, incident))
        fractions = self._map.inverse(values.double())
        voxels, u = fractions.split([calorimeter.cells, len(calorimeter.layers)], dim=1)
        u = torch.cat([u[:, :1] / self._scale, u[:, 1:]], dim=1)
        energies = pre.energies_from_fractions(u, incident, self.response)
        return pre.scale_layers(voxels, energies, calorimeter.slices)

    @property
    def _scale(self) -> float:
        """Of u_0: the logarithm sees deposited / incident energy, the logit has to stay below 1."""
        return self.response if isinstance(self._map, Logarithm) else 1.0

    def _to_flow(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The numbers (B, D) that the flow describes and its condition (B, 1), both float64."""
        slices, cells = self.dataset.calorimeter.slices, batch["cells"].double()
        sums, condition = pre.layer_sums(cells, slices), self.condition(batch["incident"])
        if self.normal:
            return self._normal_numbers(cells, sums, batch["incident"], generator), condition
        u = pre.energy_fractions(sums, batch["incident"], self.response)
        u = torch.cat([u[:, :1] * self._scale, u[:, 1:]], dim=1)
        fractions = torch.cat([pre.normalise_layers(cells, slices), u], dim=1)
        uniform = torch.rand(fractions.shape, generator=generator, dtype=fractions.dtype)
        return self._map.forward(fractions, uniform), condition

    def _normal_numbers(
        self,
        cells: Tensor,
        energies: Tensor,
        incident: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        space = self.space
        uniform = torch.rand(len(cells), self.networks[FLOW].features, generator=generator)
        of_cells, of_layers = uniform.tensor_split([cells.shape[1]], dim=1)
        cells = space.cells.forward(cells, energies, of_cells)
        return torch.cat([cells, space.layers.forward(energies, incident, of_layers)], dim=1)

    def condition(self, incident: Tensor) -> Tensor:
        """What the flow is told of incident energies (N,) in MeV: (N, 1)."""
        return (incident / GEV).log2()[:, None]


SAMPLERS: dict[str, Callable[[CouplingFlow, str], Inverse]] = {
    "fused": fused,
    "eager": eager,
    "int8": int8,
}
