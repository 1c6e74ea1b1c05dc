"""CaloScore v2: two diffusion models, of the energies of the layers and of their cells.

Mikuni & Nachman, arXiv:2308.03847. The fractions u of the energy in the layers
(`energy_fractions`) and the fractions of each layer's energy in its cells are shifted and scaled
to [0, 1], go through a logit and are standardised. A residual perceptron learns, given the
incident energy, what of the u's with noise is noise, and a U-Net the same of the cells, given the
u's too. Showers are made of noise in small steps, first the layers, then the cells.

Size `paper` has the published structure, and its recipe with these differences: the optimiser is
Adam (there Adamax), gradients are clipped together, not each tensor by itself, and the energies
that the showers are normalised with are those of this project's files. `ds1-pions` is not in the
authors' configuration; it has the structure of the photons, with three empty places behind the
cells.

Size `embedded` is small enough to be trained in minutes on one processor core, and no published
configuration. What is below the data set's threshold is a random number below it, so that empty
cells have a density, and cells are logarithms of energies, standardised by means and deviations
that depend on the energy of the layer and are the same for all cells that a symmetry of the
calorimeter exchanges. Several cells share a place of the U-Net, which has one level only and
knows what is special about each place: with as much to compute, this learned more in the first
minute than two levels of smaller patches. Showers are turned and mirrored at random while training.
Except for photons, standard normal numbers (`calostudy.normal_space`) take the place of these
logarithms: on dataset 2 the latter, drawn one by one, have an AUC of 0.995, the former of 0.5.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from calostudy import preprocessing as pre
from calostudy.energies import GEV
from calostudy.models.diffusion import Diffusion, ShowerNoise
from calostudy.models.in_normal_space import InNormalSpace
from calostudy.models.surrogate import TrainingRecipe
from calostudy.networks.products import each
from calostudy.networks.score_unet import LayerNet, ScoreUNet, UNetStructure
from calostudy.normal_space import NormalSpace
from calostudy.samplers.diffusion import Process, Sampling, cosine_path, spread_times
from calostudy.samplers.graphs import Graphed
from calostudy.samplers.score_unet import eager, fused
from calostudy.showers import Showers

LAYERS, VOXELS = "layers", "voxels"

PROCESS = Process(cosine_path(20.0), "v")
"""Of both networks."""

RESPONSE = {
    "paper": {"ds1-photons": 3.1, "ds1-pions": 6.93, "ds2": 2.0, "ds3": 2.0},
    "embedded": {"ds1-photons": 3.1, "ds1-pions": 10.0, "ds2": 2.0, "ds3": 2.0},
}
"""Largest deposited / incident energy; more is taken for this much."""

_DS1_RANGE, _DS23_RANGE = (0.256, 4194.304), (1.0, 100.0)
ENERGY_RANGE = {
    "ds1-photons": _DS1_RANGE,
    "ds1-pions": _DS1_RANGE,
    "ds2": _DS23_RANGE,
    "ds3": _DS23_RANGE,
}
"""GeV between which the logarithm of the incident energy goes from 0 to 1; as published 100 GeV
is 1 where energies go up to 1000 GeV."""

_DS1 = UNetStructure((32, 64, 96, 128), (False, True, True, True), 4, 16, (1,))
_DS23 = UNetStructure((32, 64, 96), (False, False, True), 3, 32, (1, 1, 1))
_DS1_SMALL = UNetStructure((64,), (True,), 4, 64, (8,), 32, placed=True)
_DS2_SMALL = UNetStructure((64,), (True,), 2, 64, (3, 4, 3), 32, placed=True)
_DS3_SMALL = replace(_DS2_SMALL, patch=(3, 5, 3))
STRUCTURE: dict[str, dict[str, UNetStructure]] = {
    "paper": {"ds1-photons": _DS1, "ds1-pions": _DS1, "ds2": _DS23, "ds3": _DS23},
    "embedded": {
        "ds1-photons": _DS1_SMALL,
        "ds1-pions": _DS1_SMALL,
        "ds2": _DS2_SMALL,
        "ds3": _DS3_SMALL,
    },
}
"""Of the U-Net, by size and dataset."""

PADDING = {
    "ds2": ((2, 1), (0, 0), (2, 1)),
    "ds3": ((2, 1), (1, 1), (2, 0)),
}
"""Empty places before and behind the cells by axis (depth, angle, radius) in size `paper`."""

LAYER_WIDTH = {
    "paper": {"ds1-photons": 128, "ds1-pions": 128, "ds2": 1024, "ds3": 1024},
    "embedded": {"ds1-photons": 96, "ds1-pions": 96, "ds2": 128, "ds3": 128},
}
"""Of the perceptron, by size and dataset."""

DROPOUT = {"paper": 0.1, "embedded": 0.0}
"""Of the perceptron, by size."""

SAMPLING = {
    "paper": dict.fromkeys((LAYERS, VOXELS), Sampling("ddim", 512)),
    "embedded": {LAYERS: Sampling("ddim", 64), VOXELS: Sampling("dpm++2m", 16)},
}
"""By size and network; `calostudy.evaluations` measures what others do."""

_PAPER = TrainingRecipe(
    300, 128, 3e-4, "cosine", {"rise": 0.0, "end": 1e4}, validation=0.2, clip=1.0, average=0.999
)
_SMALL = TrainingRecipe(
    100, 64, 2e-3, "cosine", {"rise": 0.1, "end": 1e2}, validation=0.1, clip=1.0, average=0.999
)


def _small(epochs: int, batch: int) -> dict[str, TrainingRecipe]:
    return {LAYERS: _SMALL, VOXELS: replace(_SMALL, epochs=epochs, batch=batch)}


RECIPES: dict[str, dict[str, dict[str, TrainingRecipe]]] = {
    "paper": {
        "ds1-photons": dict.fromkeys((LAYERS, VOXELS), _PAPER),
        "ds1-pions": dict.fromkeys((LAYERS, VOXELS), _PAPER),
        "ds2": dict.fromkeys((LAYERS, VOXELS), _PAPER),
        "ds3": dict.fromkeys((LAYERS, VOXELS), replace(_PAPER, epochs=200, batch=80)),
    },
    "embedded": {
        "ds1-photons": _small(180, 64),
        "ds1-pions": _small(95, 64),
        "ds2": _small(42, 32),
        "ds3": _small(45, 16),
    },
}
"""By size, dataset and network."""

IN_NORMAL_SPACE = ("ds1-pions", "ds2", "ds3")
"""Datasets that size `embedded` sees as standard normal numbers."""

_LEAST = 1e-8
"""How far the u's keep away from 0 and 1 in size `embedded`."""
_KNOTS = 12
"""Energies of a layer, in size `embedded`, at which the moments of its cells are known."""
SMALLEST = {"ds1-photons": 0.05, "ds1-pions": 0.05, "ds2": 1.0, "ds3": 1.0}
"""What counts as empty in size `embedded`, in units of the threshold: files of dataset 1 have
cells below their threshold, which tell empty ones from those above it."""


class CaloScore(InNormalSpace, Diffusion):
    """CaloScore v2 on the datasets of the CaloChallenge."""

    name: ClassVar[str] = "caloscore"
    datasets: ClassVar[tuple[str, ...]] = ("ds1-photons", "ds1-pions", "ds2", "ds3")
    VOXELS: ClassVar[str] = VOXELS
    SAMPLERS: ClassVar[Mapping[str, Callable[..., Any]]] = {"fused": fused, "eager": eager}

    @property
    def processes(self) -> Mapping[str, Process]:
        return dict.fromkeys((LAYERS, VOXELS), PROCESS)

    @property
    def samplings(self) -> Mapping[str, Sampling]:
        return SAMPLING[self.size]

    @property
    def structure(self) -> UNetStructure:
        """The hyperparameters of the U-Net."""
        return STRUCTURE[self.size][self.dataset.name]

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][self.dataset.name][network]

    def layout(self) -> np.ndarray:
        """For each place of the U-Net's grid, the cell that is there, or -1 for none."""
        calorimeter, structure = self.dataset.calorimeter, self.structure
        cells = np.arange(calorimeter.cells)
        if len(structure.patch) == 3:
            cells = cells.reshape(calorimeter.shape)
        elif self.embedded:
            # Cells of one place are of one layer and one angle.
            rows = zip(calorimeter.layers, calorimeter.slices, strict=True)
            rows = [_extended(cells[s].reshape(layer.shape), (1, *structure.patch))
                    for layer, s in rows]  # fmt: skip
            cells = np.concatenate([row.ravel() for row in rows])
        if not self.embedded and self.dataset.name in PADDING:
            return np.pad(cells, PADDING[self.dataset.name], constant_values=-1)
        return _extended(cells, np.multiply(structure.patch, 2 ** (len(structure.widths) - 1)))

    def build_networks(self) -> dict[str, nn.Module]:
        layers, structure = len(self.dataset.calorimeter.layers), self.structure
        numbers = self.numbers_of_layers
        width = LAYER_WIDTH[self.size][self.dataset.name]
        return {
            LAYERS: LayerNet(numbers, [1], width, structure.embedding, DROPOUT[self.size]),
            VOXELS: ScoreUNet(self.layout(), [layers, 1], structure),
        }

    # ---- numbers that the networks see --------------------------------------------------

    @property
    def normal(self) -> bool:
        return self.embedded and self.dataset.name in IN_NORMAL_SPACE

    @property
    def response(self) -> float:
        return RESPONSE[self.size][self.dataset.name]

    def initial_constants(self) -> dict[str, Tensor]:
        """`paper`: least, greatest, mean and deviation of each u and each cell. `embedded`: mean
        and deviation of each u and of the logarithm of each layer's energy; knots, and there mean
        and deviation of each cell. In normal space: its own, and those of the logarithms."""
        calorimeter = self.dataset.calorimeter
        layers, cells = len(calorimeter.layers), calorimeter.cells
        moments = {"mean": 0.0, "deviation": 1.0}
        if self.normal:
            shapes = {"energies": (layers,)}
        elif not self.embedded:
            shapes, keys = {LAYERS: (layers,), VOXELS: (cells,)}, {"least": 0.0, "greatest": 1.0}
            moments |= keys
        else:
            shapes = {LAYERS: (layers,), "energies": (layers,), VOXELS: (_KNOTS, cells)}
        constants = {
            f"{name}.{key}": torch.full(shape, value)
            for name, shape in shapes.items()
            for key, value in moments.items()
        }
        if self.normal:
            constants |= NormalSpace.untrained(*self.geometry).constants()
        elif self.embedded:
            knots = torch.linspace(0.0, 10.0, _KNOTS)[:, None].repeat(1, layers)
            constants["knots"] = knots
        return constants

    def fit_constants(self, showers: Showers) -> None:
        batch = self.prepare(VOXELS, showers)
        energies = batch["energies"]
        generator = torch.Generator().manual_seed(0)
        if self.normal:
            self._set_moments("energies", self._log_energies(energies), 1e-2)
            counted = torch.where(batch["cells"] < self.dataset.threshold, 0.0, batch["cells"])
            self.constants.update(self.space_of({**batch, "cells": counted}).constants())
            return
        if self.embedded:
            self._fit_embedded(batch, energies, generator)
            return
        found = {
            LAYERS: pre.energy_fractions(energies, batch["incident"], self.response),
            VOXELS: pre.normalise_layers(batch["cells"].double(), self._slices),
        }
        for name, fractions in found.items():
            least, greatest = fractions.amin(0), fractions.amax(0)
            self.constants[f"{name}.least"] = least.float()
            self.constants[f"{name}.greatest"] = greatest.float()
            self._set_moments(name, self._logit(name, fractions), 1e-6)

    def _set_moments(self, name: str, values: Tensor, floor: float) -> None:
        self.constants[f"{name}.mean"] = values.mean(0).float()
        self.constants[f"{name}.deviation"] = values.std(0, unbiased=False).clamp_min(floor).float()

    def _fit_embedded(self, batch, energies: Tensor, generator: torch.Generator) -> None:
        self._set_moments(LAYERS, self._spread_u(energies, batch["incident"], generator), 1e-2)
        logs = self._log_energies(energies)
        self._set_moments("energies", logs, 1e-2)
        ends = logs.amin(0), logs.amax(0).maximum(logs.amin(0) + 1.0)
        steps = torch.linspace(0.0, 1.0, _KNOTS).double()[:, None]
        self.constants["knots"] = (ends[0] + steps * (ends[1] - ends[0])).float()
        values = self._spread_cells(batch["cells"].double(), generator)
        weights = self._weights(energies)  # (N, L, K)
        moments = torch.empty(3, _KNOTS, values.shape[1]).double()
        for layer, s in enumerate(self._slices):
            weight = weights[:, layer].T
            for power in range(3):
                moments[power, :, s] = weight @ values[:, s] ** power
        moments = moments[:, :, self.symmetries].mean(2)
        # A knot that few showers are near leans on the others.
        count, first, second = moments + 3.0 * moments.sum(1, keepdim=True) / len(values)
        mean = first / count
        deviation = (second / count - mean.square()).clamp_min(0.0).sqrt()
        self.constants[f"{VOXELS}.mean"] = mean.float()
        self.constants[f"{VOXELS}.deviation"] = deviation.clamp_min(0.3).float()

    @property
    def _slices(self) -> list[slice]:
        return self.dataset.calorimeter.slices

    def _incident(self, incident: Tensor) -> Tensor:
        """The condition (B, 1) of incident energies (B,) in MeV."""
        low, high = np.log10(ENERGY_RANGE[self.dataset.name])
        return (((incident / GEV).log10() - low) / (high - low))[:, None]

    def _constant(self, name: str) -> Tensor:
        return self.constants[name].double()

    def _moments(self, name: str) -> tuple[Tensor, Tensor]:
        return self._constant(f"{name}.mean"), self._constant(f"{name}.deviation")

    def _logit(self, name: str, fractions: Tensor) -> Tensor:
        least, greatest = self._constant(f"{name}.least"), self._constant(f"{name}.greatest")
        within = (fractions - least) / (greatest - least).clamp_min(1e-12)
        return pre.logit(within.clamp(0.0, 1.0))

    def _fractions(self, name: str, values: Tensor) -> Tensor:
        """The inverse of the standardised `_logit`."""
        values = pre.unstandardise(values, *self._moments(name))
        least, greatest = self._constant(f"{name}.least"), self._constant(f"{name}.greatest")
        return least + (greatest - least) * pre.inverse_logit(values)

    def _log_energies(self, energies: Tensor) -> Tensor:
        """Logarithms (B, L) of layer energies in units of the threshold, from 0 for an empty
        layer."""
        return (1.0 + energies / self.dataset.threshold).log()

    def _weights(self, energies: Tensor) -> Tensor:
        """How near the knots layer energies (B, L) are: (B, L, K), each sum 1."""
        knots = self._constant("knots")
        place = (self._log_energies(energies) - knots[0]) / (knots[1] - knots[0])
        place = place.clamp(0.0, _KNOTS - 1.0)[:, :, None]
        return (1.0 - (place - torch.arange(_KNOTS)).abs()).clamp_min(0.0)

    def _cell_moments(self, energies: Tensor) -> list[Tensor]:
        """Mean and deviation (B, V) of cells, given their layers' energies (B, L)."""
        weights = self._weights(energies)
        return [
            torch.cat([weights[:, i] @ table[:, s] for i, s in enumerate(self._slices)], dim=1)
            for table in self._moments(VOXELS)
        ]

    def _spread_u(
        self, energies: Tensor, incident: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Logits (B, L) of the u's; an empty layer has random energy below the threshold."""
        noise = torch.rand(energies.shape, generator=generator, dtype=torch.float64)
        empty = self.dataset.threshold * (-3.0 * noise).exp()
        energies = torch.where(energies > 0, energies, empty)
        return pre.logit(pre.energy_fractions(energies, incident, self.response), _LEAST)

    def _spread_cells(self, cells: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Logarithms (B, V) of cells in units of the threshold; an empty one is at random below
        the smallest."""
        noise = torch.randn(cells.shape, generator=generator, dtype=cells.dtype)
        smallest = SMALLEST[self.dataset.name]
        shares = cells / self.dataset.threshold
        logs = shares.clamp_min(smallest).log()
        return torch.where(shares < smallest, math.log(smallest) - noise.abs(), logs)

    def _layer_numbers(self, energies: Tensor, incident: Tensor) -> Tensor:
        """The numbers (B, L) that `LAYERS` describes."""
        if self.normal:
            layers = self.space.layers
            uniform = torch.rand(len(energies), layers.numbers)
            return layers.forward(energies, incident, uniform)
        if self.embedded:
            values = self._spread_u(energies, incident)
        else:
            u = pre.energy_fractions(energies, incident, self.response)
            values = self._logit(LAYERS, u)
        return pre.standardise(values, *self._moments(LAYERS))

    def _layer_energies(self, numbers: Tensor, incident: Tensor) -> Tensor:
        """Layer energies (B, L) in MeV: the inverse of `_layer_numbers`."""
        if self.normal:
            return self.space.layers.inverse(numbers, incident)
        if self.embedded:
            u = pre.inverse_logit(pre.unstandardise(numbers, *self._moments(LAYERS)), _LEAST)
            energies = pre.energies_from_fractions(u, incident, self.response)
            return torch.where(energies < self.dataset.threshold, 0.0, energies)
        u = self._fractions(LAYERS, numbers)
        return pre.energies_from_fractions(u, incident, self.response)

    def _layer_condition(self, energies: Tensor, incident: Tensor) -> Tensor:
        """What `VOXELS` is told of the layers, (B, L)."""
        if self.embedded:
            return pre.standardise(self._log_energies(energies), *self._moments("energies"))
        return self._layer_numbers(energies, incident)

    def _cell_numbers(self, cells: Tensor, energies: Tensor) -> Tensor:
        """The numbers (B, V) that `VOXELS` describes."""
        if self.normal:
            return self.space.cells.forward(cells, energies, torch.rand_like(cells))
        if self.embedded:
            mean, deviation = self._cell_moments(energies)
            return (self._spread_cells(cells) - mean) / deviation
        fractions = pre.normalise_layers(cells, self._slices)
        return pre.standardise(self._logit(VOXELS, fractions), *self._moments(VOXELS))

    def _to_cells(self, numbers: Tensor, energies: Tensor) -> Tensor:
        """Cells (B, V) in MeV: the inverse of `_cell_numbers`."""
        if self.normal:
            return self.space.cells.inverse(numbers, energies)
        if not self.embedded:
            fractions = self._fractions(VOXELS, numbers).clamp_min(0.0)
            return pre.scale_layers(fractions, energies, self._slices)
        mean, deviation = self._cell_moments(energies)
        logs = (numbers * deviation + mean).clamp_max(20.0)
        shares = logs.exp() * torch.where(logs >= 0, 1.0, 1e-9)  # empty, if any other is hit
        return torch.cat(
            [
                pre.share_out(shares[:, s], energies[:, i], self.dataset.threshold)
                for i, s in enumerate(self._slices)
            ],
            dim=1,
        )

    # ---- training and sampling ----------------------------------------------------------

    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """Energies of the layers (N, L), incident energies (N,) and for `VOXELS` cells (N, V), all
        in MeV; in size `embedded`, energies of layers are without cells below the threshold."""
        cells = torch.as_tensor(np.asarray(showers.cells, np.float32))
        counted = cells.double()
        if self.embedded:
            counted = torch.where(counted < self.dataset.threshold, 0.0, counted)
        batch = {
            "energies": pre.layer_sums(counted, self._slices),
            "incident": torch.as_tensor(np.asarray(showers.incident_energy, np.float64)),
        }
        return batch | {"cells": cells} if network == VOXELS else batch

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean squared error (B,) of v at random times.

        In training, size `embedded` turns and mirrors the showers at random.
        """
        numbers, conditions = self.seen(network, batch)
        net = self.networks[network]
        return self.processes[network].loss(
            lambda x, time: net(x, time, *conditions),
            numbers,
            spread_times(len(numbers)),
            torch.randn_like(numbers),
        )

    def seen(self, network: str, batch: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """As `described`, of showers turned at random while the network is in training."""
        return self.described(network, self.turned(network, batch) if network == VOXELS else batch)

    def described(self, network: str, batch: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The numbers (B, D) of showers that a network describes, and its conditions."""
        energies, incident = batch["energies"], batch["incident"]
        condition = self._incident(incident)
        if network == LAYERS:
            numbers, conditions = self._layer_numbers(energies, incident), [condition]
        else:
            numbers = self._cell_numbers(batch["cells"].double(), energies)
            conditions = [self._layer_condition(energies, incident), condition]
        return numbers.to(self.precision), [c.to(self.precision) for c in conditions]

    def graphed(self, make: Callable[..., Any]) -> Callable[..., Any]:
        return lambda network, precision: make(network, precision, Graphed)

    def cells(
        self,
        incident: Tensor,
        networks: Mapping[str, Any],
        samplings: Mapping[str, Sampling],
        noise: ShowerNoise,
    ) -> Tensor:
        def drawn(index: int, name: str, numbers: int, *conditions: Tensor) -> Tensor:
            given = [condition.to(noise.dtype) for condition in conditions]
            predict = networks[name](*given)
            denoise = PROCESS.denoiser(predict)
            found = samplings[name].solve(denoise, PROCESS.path, noise.of(index, (numbers,)))
            return found.double()

        calorimeter, condition = self.dataset.calorimeter, each(self._incident, incident)
        numbers = drawn(0, LAYERS, self.numbers_of_layers, condition)
        energies = each(self._layer_energies, numbers, incident)
        seen = each(self._layer_condition, energies, incident) if self.embedded else numbers
        values = drawn(1, VOXELS, calorimeter.cells, seen, condition)
        return each(self._to_cells, values, energies)


def _extended(cells: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """The same with empty places behind, so that each axis is a multiple of its step."""
    behind = [(0, -n % step) for n, step in zip(cells.shape, steps, strict=True)]
    return np.pad(cells, behind, constant_values=-1)
