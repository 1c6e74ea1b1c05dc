"""CaloFlow's teacher: two masked autoregressive flows with rational-quadratic splines.

Flow-I learns the layer energies given the incident energy, flow-II the voxels, each as a fraction
of its layer, given layer energies and incident energy (Krause & Shih, arXiv:2106.05285;
CaloChallenge dataset 1: Krause, Pang & Shih, arXiv:2210.14245). Size `paper` has the published
structure and recipe.

Size `embedded` is the same model made small enough to be trained in half an hour on one processor
core and ten thousand showers, and no published configuration. Five changes make that possible: what
a flow sees is standardised with the mean and the standard deviation of each number in the training
sample, the splines begin as the identity, showers are turned and mirrored at random while training,
as the calorimeter allows, the degrees of flow-II's hidden units are spread over all voxels (with
fewer units than voxels, nflows' own numbering would look at the first layer only; on dataset 1,
some see the conditions alone, of which the first voxels would else hardly be told), and the
fraction of a voxel that flow-II samples is cut at the largest one in the training sample, however
turned: so few showers do not teach a flow where its tails end.

The overflow of the CaloGAN calorimeter (energy that missed the cells) is not modelled: generated
showers have zeros there.
"""

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from nflows.flows import Flow
from torch import Tensor

from calostudy import preprocessing as pre
from calostudy.models.surrogate import Surrogate, TrainingRecipe
from calostudy.networks.flows import begin_at_identity, log_prob, maf_flow
from calostudy.samplers.maf import IncrementalSampler
from calostudy.samplers.maf_torch import TriangularSampler
from calostudy.samplers.noise import normal
from calostudy.showers import Showers

LAYERS, VOXELS = "flow-I", "flow-II"
_MOMENTS = ("mean", "deviation")
LARGEST = f"{VOXELS}.largest"


SMALLEST_CELL = 0.01
"""MeV; what a flow samples below it is noise, and becomes 0 as in the authors' code."""


@dataclass(frozen=True)
class Preparation:
    """How showers are brought into the flows' space; energies in units of 100 GeV."""

    response: float  # largest deposited / incident energy: c in u_0
    incident_factor: float  # condition log10(factor * E_inc)
    layer_offset: float  # condition log10(E_i + 1 keV) + offset
    noise: Mapping[str, float]  # width in keV of the uniform noise on each voxel, by network


PREPARATION = {
    "calogan": Preparation(1.0, 10.0, 2.0, {LAYERS: 1.0, VOXELS: 1.0}),
    "ds1-photons": Preparation(2.42, 3.0, -1.0, {LAYERS: 1.0, VOXELS: 1.0}),
    # 6.93 is the authors' code; the paper says 7.0.
    "ds1-pions": Preparation(6.93, 3.0, -1.0, {LAYERS: 0.1, VOXELS: 1.0}),
}
"""By calorimeter."""


@dataclass(frozen=True)
class Structure:
    """Hyperparameters of one flow; `degrees` as in `calostudy.networks.flows.maf_flow`."""

    blocks: int
    hidden: int
    hidden_blocks: int
    dropout: float
    degrees: str = "sequential"
    tail_bound: float = 14.0


_FLOW_I = Structure(blocks=6, hidden=64, hidden_blocks=2, dropout=0.0)
_SMALL_I = Structure(6, 64, 2, 0.0, tail_bound=6.0)
_SMALL_II = Structure(4, 128, 1, 0.05, degrees="spread", tail_bound=4.0)

STRUCTURE = {
    "paper": {
        "calogan": {LAYERS: _FLOW_I, VOXELS: Structure(8, 378, 1, 0.05)},
        "ds1-photons": {LAYERS: _FLOW_I, VOXELS: Structure(8, 378, 1, 0.05)},
        "ds1-pions": {LAYERS: _FLOW_I, VOXELS: Structure(8, 533, 1, 0.10)},
    },
    "embedded": {
        "calogan": {LAYERS: _SMALL_I, VOXELS: _SMALL_II},
        # The first layer has few cells, which would see few hidden units.
        "ds1-photons": {LAYERS: _SMALL_I, VOXELS: replace(_SMALL_II, degrees="conditioned")},
        "ds1-pions": {LAYERS: _SMALL_I, VOXELS: replace(_SMALL_II, degrees="conditioned")},
    },
}
"""By size, calorimeter and network."""


def _multistep(epochs: int, *halve_at: int) -> TrainingRecipe:
    options = {"milestones": halve_at, "factor": 0.5}
    return TrainingRecipe(epochs, 200, 1e-4, "multistep", options)


def _one_cycle(batch: int, rise: float) -> TrainingRecipe:
    return TrainingRecipe(100, batch, 1e-3, "onecycle", {"rise": rise, "start": 25, "end": 1e4})


_CYCLE = {"rise": 0.4, "start": 25, "end": 1e3}
_EMBEDDED = {
    LAYERS: TrainingRecipe(60, 128, 1e-3, "onecycle", _CYCLE, validation=0.1, clip=10.0),
    VOXELS: TrainingRecipe(70, 64, 2e-3, "onecycle", _CYCLE, validation=0.1, clip=50.0),
}

RECIPES = {
    "paper": {
        "calogan": {LAYERS: _multistep(75, 5, 15, 40, 60), VOXELS: _multistep(100, 50)},
        "ds1-photons": {
            LAYERS: _one_cycle(200, 0.4),
            # Half a cycle is 5 epochs in the paper, 850 batches (2 epochs) in the authors' code.
            VOXELS: TrainingRecipe(100, 200, 2e-3, "triangular2", {"base": 5e-5, "rise_epochs": 5}),
        },
        "ds1-pions": {LAYERS: _one_cycle(200, 0.4), VOXELS: _one_cycle(500, 0.45)},
    },
    "embedded": dict.fromkeys(PREPARATION, _EMBEDDED),
}
"""By size, calorimeter and network."""


class CaloFlow(Surrogate):
    """What teacher and student share: data, conditions, flow-I, the way from noise to showers."""

    datasets: ClassVar[tuple[str, ...]] = (
        "calogan-eplus",
        "calogan-gamma",
        "calogan-piplus",
        "ds1-photons",
        "ds1-pions",
    )

    @property
    def precision(self) -> torch.dtype:
        return {"paper": torch.float64, "embedded": torch.float32}[self.size]

    @property
    def storage(self) -> torch.dtype:
        return torch.int8 if self.embedded else super().storage

    @property
    def preparation(self) -> Preparation:
        return PREPARATION[self.dataset.calorimeter.name]

    def structure(self, network: str) -> Structure:
        """The hyperparameters of one of the two flows."""
        return STRUCTURE[self.size][self.dataset.calorimeter.name][network]

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][self.dataset.calorimeter.name][network]

    @abstractmethod
    def voxel_flow(self, *sizes: int, **options) -> Flow:
        """A fresh flow-II; arguments as for `calostudy.networks.flows.maf_flow`."""

    @abstractmethod
    def samplers(self, network: str) -> "Mapping[str, Callable[[Flow, str], Inverse]]":
        """Ways from noise to what a network describes, by name; the first is the default."""

    def initial_constants(self) -> dict[str, Tensor]:
        """Mean and standard deviation of what each flow sees, and the largest fraction of its
        layer's energy that each voxel has; none in size `paper`."""
        if not self.embedded:
            return {}
        calorimeter = self.dataset.calorimeter
        features = {LAYERS: len(calorimeter.layers), VOXELS: calorimeter.cells}
        constants = {
            f"{network}.{key}": torch.full((n,), value, dtype=torch.float32)
            for network, n in features.items()
            for key, value in zip(_MOMENTS, (0.0, 1.0), strict=True)
        }
        return constants | {LARGEST: torch.ones(calorimeter.cells, dtype=torch.float32)}

    def fit_constants(self, showers: Showers) -> None:
        if not self.embedded:
            return
        for network in self.networks:
            generator = torch.Generator().manual_seed(0)
            values, _ = self._to_flow(network, self.prepare(network, showers[:20000]), generator)
            self.constants[f"{network}.mean"] = values.mean(dim=0).float()
            # A voxel that is empty in every shower has no spread to divide by.
            self.constants[f"{network}.deviation"] = values.std(dim=0).clamp_min(1e-3).float()
        self.constants[LARGEST] = self._largest_fractions(showers)

    def _largest_fractions(self, showers: Showers) -> Tensor:
        """The largest fraction (V,) of a layer's energy that each voxel has in any of the showers,
        however they are turned."""
        cells = torch.as_tensor(np.asarray(showers.cells, np.float32))
        largest = pre.normalise_layers(cells, self.dataset.calorimeter.slices).amax(dim=0)
        return largest if self.symmetries is None else largest[self.symmetries].amax(dim=0)

    def build_networks(self) -> dict[str, Flow]:
        calorimeter = self.dataset.calorimeter
        layers = [layer.cells for layer in calorimeter.layers]
        flows = {
            LAYERS: maf_flow(len(layers), 1, seed=self.seed, **vars(self.structure(LAYERS))),
            VOXELS: self.voxel_flow(
                calorimeter.cells,
                1 + len(layers),
                layer_sizes=layers,
                seed=self.seed,
                **vars(self.structure(VOXELS)),
            ),
        }
        if self.embedded:
            for flow in flows.values():
                begin_at_identity(flow)
        return flows

    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """Voxels (N, V) and incident energies (N,), both in units of 100 GeV."""
        return {
            "cells": pre.to_units(torch.as_tensor(np.asarray(showers.cells, np.float32))),
            "incident": pre.to_units(
                torch.as_tensor(np.asarray(showers.incident_energy, np.float64))
            ),
        }

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Negative log-likelihood (B,) of the logits, with fresh noise on every voxel.

        In training, size `embedded` turns and mirrors the showers at random.
        """
        values, context, log_deviation = self._inputs(network, batch)
        return log_deviation - log_prob(self.networks[network], values, context)

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

        Cells below the data set's threshold, at least `SMALLEST_CELL`, are 0.

        `sampler` is one of `samplers`: by default the exact and fast one, or "nflows" (the same
        function by nflows itself, the yardstick: slow). `precision` of the networks is "float32"
        or "float64", by default that of torch, which a hardware target sets.

        Raises:
            UsageError: there is no such sampler or precision.
        """
        calorimeter = self.dataset.calorimeter
        energy = np.atleast_1d(np.asarray(incident_energy, np.float64))
        layers = len(calorimeter.layers)
        noise = normal(seed, first, len(energy), layers + calorimeter.cells)
        incident = pre.to_units(torch.as_tensor(energy))
        energies = self._layer_energies(noise[:, :layers], incident, sampler, precision)
        condition = self._voxel_condition(incident, energies)
        voxels = self._fractions(VOXELS, noise[:, layers:], condition, sampler, precision)
        if self.embedded:
            voxels = torch.minimum(voxels, self.constants[LARGEST].double())
        cells = pre.to_mev(pre.scale_layers(voxels, energies, calorimeter.slices))
        overflow = np.zeros((len(energy), layers)) if calorimeter.name == "calogan" else None
        showers = Showers(calorimeter, energy, cells.numpy(force=True).astype(np.float32), overflow)
        return showers.above_threshold(max(self.dataset.threshold, SMALLEST_CELL))

    def conditions(self, incident_energy: np.ndarray, noise: np.ndarray) -> dict[str, np.ndarray]:
        """What the flows are given, (N, C) each, for incident energies (N,) in MeV and the noise
        (N, L) of flow-I."""
        incident = pre.to_units(torch.as_tensor(incident_energy))
        energies = self._layer_energies(noise, incident, None, None)
        found = {LAYERS: self._incident_condition(incident)}
        found[VOXELS] = self._voxel_condition(incident, energies)
        return {network: condition.numpy(force=True) for network, condition in found.items()}

    def _layer_energies(self, noise, incident, sampler, precision) -> Tensor:
        """Layer energies (N, L) by flow-I from noise (N, L), in units of 100 GeV."""
        condition = self._incident_condition(incident)
        fractions = self._fractions(LAYERS, noise, condition, sampler, precision)
        return pre.energies_from_fractions(fractions, incident, self.preparation.response)

    def _fractions(self, network, noise, condition, sampler, precision) -> Tensor:
        """What a flow makes of noise, in [0, 1]."""
        values = self.inverse(network, sampler, precision)(noise, condition.numpy(force=True))
        return pre.inverse_logit(self._unstandardised(network, torch.as_tensor(values).double()))

    def _inputs(
        self, network: str, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        """A flow's values and conditions of a batch in the network's precision, and the logarithm
        of what the values were divided by."""
        values, context = self._to_flow(network, self.turned(network, batch))
        values, log_deviation = self._standardised(network, values)
        return values.to(self.precision), context.to(self.precision), log_deviation

    def _to_flow(
        self, network: str, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The logits (B, D) that a flow describes and its conditions (B, C), both float64."""
        slices, preparation = self.dataset.calorimeter.slices, self.preparation
        noise = preparation.noise[network] * pre.KEV
        cells = pre.add_uniform_noise(batch["cells"].double(), noise, generator)
        energies, incident = pre.layer_sums(cells, slices), batch["incident"]
        if network == LAYERS:
            fractions = pre.energy_fractions(energies, incident, preparation.response)
            return pre.logit(fractions), self._incident_condition(incident)
        fractions = pre.normalise_layers(cells, slices)
        return pre.logit(fractions), self._voxel_condition(incident, energies)

    def _standardised(self, network: str, values: Tensor) -> tuple[Tensor, Tensor | float]:
        """Standardised values and the logarithm of what they were divided by, summed."""
        if not self.embedded:
            return values, 0.0
        mean, deviation = (self.constants[f"{network}.{k}"].double() for k in _MOMENTS)
        return pre.standardise(values, mean, deviation), deviation.log().sum()

    def _unstandardised(self, network: str, values: Tensor) -> Tensor:
        if not self.embedded:
            return values
        mean, deviation = (self.constants[f"{network}.{k}"].double() for k in _MOMENTS)
        return pre.unstandardise(values, mean, deviation)

    def _incident_condition(self, incident: Tensor) -> Tensor:
        return pre.log_incident(incident, self.preparation.incident_factor)[:, None]

    def _voxel_condition(self, incident: Tensor, energies: Tensor) -> Tensor:
        layers = pre.log_layers(energies, self.preparation.layer_offset)
        return torch.cat([self._incident_condition(incident), layers], dim=1)

    def inverse(self, network: str, sampler: str | None, precision: str | None) -> "Inverse":
        """The inverse of one flow; arguments as for `sample`."""
        return self.inverse_of(network, self.samplers(network), sampler, precision)


class CaloFlowTeacher(CaloFlow):
    """CaloFlow's teacher on the CaloGAN calorimeter or CaloChallenge dataset 1."""

    name: ClassVar[str] = "caloflow-teacher"

    @property
    def network_evaluations(self) -> int:
        """One: the exact incremental inverse does the work of one pass through each block."""
        return 1

    def voxel_flow(self, *sizes: int, **options) -> Flow:
        return maf_flow(*sizes, **options)

    def samplers(self, network: str) -> "Mapping[str, Callable[[Flow, str], Inverse]]":
        return SAMPLERS


Inverse = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(noise (N, D), context (N, C)) to samples (N, D)."""


def incremental(flow: Flow, precision: str) -> Inverse:
    """The exact inverse of a masked autoregressive flow at the cost of one pass."""
    sampler = IncrementalSampler(flow, precision)

    def inverse(noise, context):
        return sampler.inverse(noise, context, threads=torch.get_num_threads())

    return inverse


def graph(flow: Flow, precision: str) -> Inverse:
    """The same in plain torch, on a GPU by a CUDA graph."""
    return TriangularSampler(flow, precision).inverse


def plain(flow: Flow, precision: str) -> Inverse:
    """nflows' own inverse."""
    dtype = getattr(torch, precision)
    transform = copy.deepcopy(flow._transform).to(dtype).eval()

    def inverse(noise, context):
        with torch.no_grad():
            columns = (torch.as_tensor(array).to(dtype) for array in (noise, context))
            return transform.inverse(*columns)[0].numpy(force=True)

    return inverse


SAMPLERS: dict[str, Callable[[Flow, str], Inverse]] = {
    "incremental": incremental,
    "nflows": plain,
    "graph": graph,
}
