"""iCaloFlow's teacher: a shower layer by layer, with three flows whatever the number of layers.

Flow-1 learns the layer energies given the incident energy, flow-2 the cells of the first layer
given its energy and the incident energy, flow-3 the cells of any other layer given the cells of the
layer before, the energies of both, the incident energy and the number of the layer (Buckley,
Krause, Pang & Shih, arXiv:2305.11934; CaloChallenge datasets 2 and 3). Applied to its own samples,
flow-3 makes a shower of any depth. All are masked autoregressive flows with rational-quadratic
splines.

Size `paper` has the published structure. Each shower gives flow-3 all of its pairs of neighbouring
layers at every epoch, as there.

Size `embedded` is small enough to be trained in a quarter of an hour on one processor core, and no
published configuration. Besides the sizes: flow-1 describes fractions of the energy that is left,
standardised; cells enter as logarithms of their energy and not of their fraction of the layer,
which leaves an empty cell where it is whatever the layer's energy; the conditions have no noise;
the splines begin as the identity, the degrees of the hidden units are spread over all cells,
showers are turned and mirrored at random while training, and each gives flow-3 a few of its pairs.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from nflows.flows import Flow
from torch import Tensor

from calostudy import preprocessing as pre
from calostudy.devices import table_property
from calostudy.models.caloflow import SAMPLERS, Inverse
from calostudy.models.surrogate import ON_CPU, Surrogate, TrainingRecipe
from calostudy.networks.flows import begin_at_identity, log_prob, maf_flow
from calostudy.samplers.noise import normal, uniform
from calostudy.showers import Showers

LAYERS, FIRST, NEXT = "flow-1", "flow-2", "flow-3"
_MOMENTS = (f"{LAYERS}.mean", f"{LAYERS}.deviation")
_BLUR = 1
"""Stream of the noise on flow-3's conditions."""

CHUNK = 256
"""Showers sampled at a time: bounds the memory."""


class Fractions:
    """The published maps: layer energies over a common maximum, cells over their layer's energy,
    all through a logit after noise. Energies in MeV."""

    noise = 5e-3
    maximum = 6.5e4

    def energies_to_flow(self, energies: Tensor, incident: Tensor) -> Tensor:
        """Layer energies (N, L) as logits."""
        noisy = pre.add_uniform_noise(energies, self.noise)
        return pre.logit((noisy / self.maximum).clamp_max(1.0))

    def energies_from_flow(self, values: Tensor, incident: Tensor) -> Tensor:
        return pre.inverse_logit(values) * self.maximum

    def cells_to_flow(self, cells: Tensor, uniform: Tensor) -> Tensor:
        """The cells (N, V) of a layer, and as many uniform numbers in [0, 1), as logits."""
        noisy = cells + self.noise * uniform
        return pre.logit(noisy / noisy.sum(dim=1, keepdim=True).clamp_min(1e-12))

    def cells_from_flow(self, values: Tensor) -> Tensor:
        """Relative energies of the cells of a layer."""
        return pre.inverse_logit(values)

    def energy_condition(self, energy: Tensor) -> Tensor:
        return pre.logit((energy / self.maximum).clamp_max(1.0))

    def cells_condition(self, cells: Tensor, uniform: Tensor) -> Tensor:
        return self.cells_to_flow(cells, uniform)


class Logarithms:
    """The maps of size `embedded`. Energies in MeV.

    A cell of energy e above the floor f is `edge` + `slope` log(e / f); a smaller one is empty, and
    drawn from what a normal distribution has below `edge`. A layer below its floor is empty, and
    is noise far below. Few of Geant4's cells and layers are that small.
    """

    response = 1.3
    layer_floor, layer_noise = 1.0, 0.05
    cell_floor, edge, slope, steepness = 0.1, 0.5, 0.4, 100.0

    def energies_to_flow(self, energies: Tensor, incident: Tensor) -> Tensor:
        """Layer energies (N, L) as logits of fractions."""
        empty = self.layer_noise * torch.rand_like(energies)
        filled = torch.where(energies < self.layer_floor, empty, energies)
        return pre.logit(pre.energy_fractions(filled, incident, self.response))

    def energies_from_flow(self, values: Tensor, incident: Tensor) -> Tensor:
        u = pre.inverse_logit(values)
        energies = pre.energies_from_fractions(u, incident, self.response)
        return torch.where(energies < self.layer_floor, 0.0, energies)

    def cells_to_flow(self, cells: Tensor, uniform: Tensor) -> Tensor:
        """The cells (N, V) of a layer, and as many uniform numbers in [0, 1), on the real line."""
        below = torch.special.ndtr(torch.full_like(uniform[:, :1], self.edge))
        empty = torch.special.ndtri(below * uniform.clamp_min(1e-6))
        hit = self.edge + self.slope * (cells / self.cell_floor).clamp_min(1.0).log()
        return torch.where(cells < self.cell_floor, empty, hit)

    def cells_from_flow(self, values: Tensor) -> Tensor:
        """Relative energies of the cells of a layer; where all are empty, the one that is nearest
        to a hit takes nearly all."""
        y = (values - self.edge) / self.slope
        return torch.where(y > 0.0, y, self.steepness * y - 20.0).exp()

    def energy_condition(self, energy: Tensor) -> Tensor:
        return torch.log1p(energy / self.cell_floor) / 4.0 - 1.0

    def cells_condition(self, cells: Tensor, uniform: Tensor) -> Tensor:
        return torch.log1p(cells / self.cell_floor) / 4.0


MAPS: dict[str, Fractions | Logarithms] = {"paper": Fractions(), "embedded": Logarithms()}
"""Between energies and the numbers of the flows, by size."""


@dataclass(frozen=True)
class Structure:
    """Hyperparameters of one flow; names as in `calostudy.networks.flows.maf_flow`."""

    blocks: int
    hidden: int
    hidden_blocks: int
    bins: int = 8
    tail_bound: float = 14.0
    degrees: str = "sequential"
    dropout: float = 0.0


def _small(blocks: int, hidden: int, bins: int, tail_bound: float) -> Structure:
    return Structure(blocks, hidden, 1, bins, tail_bound, "spread")


_PAPER = {LAYERS: Structure(8, 256, 1), FIRST: Structure(8, 256, 2)}

STRUCTURE: dict[str, dict[str, dict[str, Structure]]] = {
    "paper": {
        "ds2": _PAPER | {NEXT: Structure(8, 256, 2)},
        "ds3": _PAPER | {NEXT: Structure(8, 256, 1)},
    },
    "embedded": {
        "ds2": {
            LAYERS: replace(_small(4, 56, 8, 6.0), dropout=0.05),
            FIRST: _small(3, 24, 6, 5.0),
            NEXT: _small(3, 102, 6, 5.0),
        },
        "ds3": {
            LAYERS: replace(_small(4, 32, 8, 6.0), dropout=0.1),
            FIRST: _small(2, 6, 6, 5.0),
            NEXT: _small(3, 16, 6, 5.0),
        },
    },
}
"""By size, dataset and network."""

PAIRS = {"paper": 44, "embedded": 8}
"""Pairs of neighbouring layers that flow-3 sees of each shower at a time, by size."""


def _one_cycle(epochs: int, batch: int, rate: float) -> TrainingRecipe:
    options = {"rise": 0.4, "start": rate / 1e-5, "end": 1e4}
    return TrainingRecipe(epochs, batch, rate, "onecycle", options)


def _embedded(epochs: int, batch: int) -> TrainingRecipe:
    options = {"rise": 0.45, "start": 25, "end": 1e3}
    return TrainingRecipe(epochs, batch, 2e-3, "onecycle", options, validation=0.1, clip=50.0)


_PAPER_RECIPES = {
    LAYERS: _one_cycle(500, 1000, 1e-4),
    FIRST: _one_cycle(200, 1000, 1e-3),
    NEXT: _one_cycle(60, 23, 1e-3),  # 23 showers are 1,012 pairs
}

RECIPES = {
    "paper": {
        "ds2": _PAPER_RECIPES,
        "ds3": _PAPER_RECIPES | {NEXT: _one_cycle(20, 23, 1e-3)},
    },
    "embedded": {
        "ds2": {
            LAYERS: _embedded(60, 64),
            FIRST: _embedded(30, 64),
            NEXT: _embedded(60, 32),
        },
        "ds3": {
            LAYERS: _embedded(80, 16),
            FIRST: _embedded(40, 16),
            NEXT: _embedded(100, 16),
        },
    },
}
"""By size, dataset and network."""


class ICaloFlow(Surrogate):
    """What teacher and student share: data, conditions, flow-1, the way from noise to showers."""

    datasets: ClassVar[tuple[str, ...]] = ("ds2", "ds3")

    @property
    def storage(self) -> torch.dtype:
        return torch.int8 if self.embedded else super().storage

    @property
    def network_evaluations(self) -> int:
        """One of flow-2 or flow-3 for each layer."""
        return len(self.dataset.calorimeter.layers)

    @property
    def precision(self) -> torch.dtype:
        return {"paper": torch.float64, "embedded": torch.float32}[self.size]

    def structure(self, network: str) -> Structure:
        """The hyperparameters of one of the flows."""
        return STRUCTURE[self.size][self.dataset.name][network]

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][self.dataset.name][network]

    @abstractmethod
    def cell_flow(self, *sizes: int, **options) -> Flow:
        """A fresh flow-2 or flow-3; arguments as for `calostudy.networks.flows.maf_flow`."""

    @abstractmethod
    def samplers(self, network: str) -> Mapping[str, Callable[[Flow, str], Inverse]]:
        """Ways from noise to what a network describes, by name; the first is the default."""

    @property
    def maps(self) -> Fractions | Logarithms:
        """Between energies and the numbers of the flows."""
        return MAPS[self.size]

    @property
    def _layers(self) -> int:
        return len(self.dataset.calorimeter.layers)

    @property
    def _cells(self) -> int:
        """Cells of a layer; all layers have as many."""
        return self.dataset.calorimeter.layers[0].cells

    @table_property
    def symmetries(self) -> Tensor | None:
        """Those of a pair of neighbouring layers (S, 2 V)."""
        if not self.embedded:
            return None
        one = pre.symmetries(self.dataset.calorimeter)[:, : self._cells]
        return torch.cat([one, one + self._cells], dim=1)

    def build_networks(self) -> dict[str, Flow]:
        contexts = {LAYERS: 1, FIRST: 2, NEXT: 3 + self._cells + self._layers - 1}
        flows = {}
        for network, context in contexts.items():
            features = self._layers if network == LAYERS else self._cells
            build = maf_flow if network == LAYERS else self.cell_flow
            flows[network] = build(
                features,
                context,
                layer_sizes=[features],
                seed=self.seed,
                **vars(self.structure(network)),
            )
            if self.embedded:
                begin_at_identity(flows[network])
        return flows

    def initial_constants(self) -> dict[str, Tensor]:
        """Mean and standard deviation of flow-1's numbers; none in size `paper`."""
        values = zip(_MOMENTS, (0.0, 1.0), strict=True)
        return {key: torch.full((self._layers,), v) for key, v in values if self.embedded}

    def fit_constants(self, showers: Showers) -> None:
        if not self.embedded:
            return
        batch = self.prepare(LAYERS, showers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            values = self.maps.energies_to_flow(batch["energies"], batch["incident"])
        moments = values.mean(dim=0), values.std(dim=0).clamp_min(1e-3)
        self.constants = {k: v.float() for k, v in zip(_MOMENTS, moments, strict=True)}

    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """Cells (N, V) but for flow-1, layer energies (N, L) and incident energies (N,) in MeV."""
        rows = {
            "incident": torch.as_tensor(np.asarray(showers.incident_energy, np.float64)),
            "energies": torch.as_tensor(showers.layer_energies()),
        }
        if network != LAYERS:
            rows["cells"] = torch.as_tensor(np.asarray(showers.cells, np.float32))
        return rows

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Negative log-likelihood (B,) of a flow's numbers, with fresh noise on each.

        Of flow-3 the mean over `PAIRS` layers of each shower, drawn afresh. In training, size
        `embedded` turns and mirrors each of them at random.
        """
        values, context = self.inputs(network, batch)
        loss = -log_prob(self.networks[network], values, context)
        return loss.view(len(batch["incident"]), -1).mean(dim=1)

    def inputs(self, network: str, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Values (M, D) and conditions (M, C) of a flow for a batch of B showers, in the network's
        precision; M is a multiple of B, rows of the same shower are neighbours."""
        if network == LAYERS:
            values = self.maps.energies_to_flow(batch["energies"], batch["incident"])
            given = self._standardised(values), self._incident_condition(batch["incident"])
        else:
            given = self._cell_inputs(network, batch)
        values, context = (each.to(self.precision) for each in given)
        return values, context

    def _cell_inputs(self, network: str, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        energies = batch["energies"]
        chosen = self._chosen(network, energies)
        shower = torch.arange(len(energies)).repeat_interleave(chosen.shape[1])
        layer = chosen.flatten()
        cells = batch["cells"].view(len(energies), self._layers, -1)
        # Of layer 0 the layer before is itself, and is not used.
        pair = torch.cat([cells[shower, (layer - 1).clamp_min(0)], cells[shower, layer]], dim=1)
        pair = self.turned(network, {"cells": pair})["cells"]
        before, here = pair.double().split(self._cells, dim=1)
        noise = torch.rand(2, *here.shape, dtype=here.dtype)
        context = self._cell_condition(
            layer, batch["incident"][shower], energies[shower], before, noise[0]
        )
        return self.maps.cells_to_flow(here, noise[1]), context

    def _chosen(self, network: str, energies: Tensor) -> Tensor:
        """Numbers of the layers (B, K) that a flow learns of showers with these layer energies."""
        if network == FIRST:
            return torch.zeros(len(energies), 1, dtype=torch.int64)
        weights = torch.ones_like(energies[:, 1:])
        if self.embedded:  # an empty layer follows from its energy
            weights = (energies[:, 1:] > 0) + 1e-6
        return 1 + torch.multinomial(weights, min(PAIRS[self.size], weights.shape[1]))

    def _incident_condition(self, incident: Tensor) -> Tensor:
        return incident.log10()[:, None] - 4.5

    def _cell_condition(
        self, layer: Tensor, incident: Tensor, energies: Tensor, before: Tensor, noise: Tensor
    ) -> Tensor:
        """Conditions (M, C) of flow-2 where all numbers of layers (M,) are 0, else of flow-3.

        energies: of all layers (M, L); before: cells (M, V) of the layer before; noise: uniform
        numbers (M, V).
        """
        incident, here = self._incident_condition(incident), energies.gather(1, layer[:, None])
        here = self.maps.energy_condition(here)
        if not layer.any():
            return torch.cat([incident, here], dim=1)
        last = self.maps.energy_condition(energies.gather(1, layer[:, None] - 1))
        cells = self.maps.cells_condition(before, noise)
        number = torch.nn.functional.one_hot(layer - 1, self._layers - 1)
        return torch.cat([incident, here, last, cells, number.to(cells)], dim=1)

    def _standardised(self, values: Tensor) -> Tensor:
        if not self.embedded:
            return values
        return pre.standardise(values, *(self.constants[k].double() for k in _MOMENTS))

    def _unstandardised(self, values: Tensor) -> Tensor:
        if not self.embedded:
            return values
        return pre.unstandardise(values, *(self.constants[k].double() for k in _MOMENTS))

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

        The cells of a layer sum to the energy that flow-1 gave it, and none is below the data
        set's threshold but 0.

        `sampler` is one of `samplers`: by default the exact and fast one, or "nflows" (the same
        function by nflows itself, the yardstick: slow). `precision` of the networks is "float32"
        or "float64", by default that of torch, which a hardware target sets.

        Raises:
            UsageError: there is no such sampler or precision.
        """
        calorimeter = self.dataset.calorimeter
        energy = np.atleast_1d(np.asarray(incident_energy, np.float64))
        inverses = {n: self.inverse(n, sampler, precision) for n in self.networks}
        cells = np.empty((len(energy), calorimeter.cells), np.float32)
        for start in range(0, len(energy), CHUNK):
            rows = slice(start, start + CHUNK)
            cells[rows] = self._sampled(
                inverses, torch.as_tensor(energy[rows]), seed, first + start
            )
        return Showers(calorimeter, energy, cells)

    def _sampled(
        self, inverses: Mapping[str, Inverse], incident: Tensor, seed: int, first: int
    ) -> Tensor:
        """Cells (N, cells) in MeV for incident energies (N,)."""
        n, layers, width = len(incident), self._layers, self._cells
        noise = normal(seed, first, n, layers + layers * width)
        energies = self.layer_energies(inverses[LAYERS], noise[:, :layers], incident)
        blur = torch.as_tensor(uniform(seed, first, n, layers * width, _BLUR))
        cells = torch.zeros(n, layers, width, dtype=torch.float64)
        for layer in range(layers):
            (rows,) = energies[:, layer].nonzero(as_tuple=True)
            if not len(rows):
                continue
            here = slice(layer * width, (layer + 1) * width)
            context = self._cell_condition(
                torch.full((len(rows),), layer),
                incident[rows],
                energies[rows],
                cells[rows, max(layer - 1, 0)],
                blur[rows, here],
            )
            given = noise[rows.numpy(force=True), layers:][:, here]
            values = inverses[NEXT if layer else FIRST](given, context.numpy(force=True))
            shares = self.maps.cells_from_flow(torch.as_tensor(values).double())
            cells[rows, layer] = pre.share_out(
                shares, energies[rows, layer], self.dataset.threshold
            )
        return cells.flatten(1)

    def layer_energies(self, inverse: Inverse, noise: np.ndarray, incident: Tensor) -> Tensor:
        """Layer energies (N, L) in MeV by flow-1 from noise (N, L); below the threshold 0."""
        condition = self._incident_condition(incident)
        values = torch.as_tensor(inverse(noise, condition.numpy(force=True))).double()
        energies = self.maps.energies_from_flow(self._unstandardised(values), incident)
        return torch.where(energies < self.dataset.threshold, 0.0, energies)

    def inverse(self, network: str, sampler: str | None, precision: str | None) -> Inverse:
        """The inverse of one flow; arguments as for `sample`."""
        return self.inverse_of(network, self.samplers(network), sampler, precision)


class ICaloFlowTeacher(ICaloFlow):
    """iCaloFlow's teacher on CaloChallenge dataset 2 or 3."""

    name: ClassVar[str] = "icaloflow-teacher"
    runs_on: ClassVar[Mapping[str, tuple[str, ...]]] = ON_CPU

    def cell_flow(self, *sizes: int, **options) -> Flow:
        return maf_flow(*sizes, **options)

    def samplers(self, network: str) -> Mapping[str, Callable[[Flow, str], Inverse]]:
        return SAMPLERS
