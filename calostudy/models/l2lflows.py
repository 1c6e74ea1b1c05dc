"""L2LFlows with convolutions: a flow for the layer energies, then image after image in depth.

Buss, Gaede, Kasieczka, Krause & Shih, arXiv:2405.20407. A masked autoregressive flow describes the
energies of all layers given the incident energy. The cells of each layer are an image, described by
a flow (`calostudy.networks.glow`) given the images of up to five layers before it, the layer's
energy and the incident energy. A shower takes one evaluation of each flow, layer after layer.

Size `paper` has the published structure, one flow per layer, and the published recipe, with these
differences: permutations stand behind the blocks of the energy flow, not before them; the learning
rate of the layers rises for 30 % of the training and falls as long; there is no weight decay (0.1
for `ild-photons` there) and no map of cell energies fitted after the training to the reference's
spectrum. The structure for dataset 2 is not public. Ours squeezes three rings of cells
into channels, which divides its 9 x 16 cells, and goes down by strides (1, 4) and (3, 4) to one
pixel; it has the published number of parameters.

Size `embedded` is small enough to be trained in minutes on one processor core and no published
configuration. One flow is shared by all layers; it is told the layer and sees its average image
in the training sample. Layer energies are fractions as in CaloFlow. An empty cell is
drawn from a wide distribution below the smallest cell that counts, and images that serve as
conditions are without that noise, normalised to their layers' energies. Showers are
turned and mirrored at random while training.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calostudy import preprocessing as pre
from calostudy.devices import table_property
from calostudy.energies import GEV
from calostudy.models.caloflow import SAMPLERS as ENERGY_SAMPLERS
from calostudy.models.l2lflows_maps import SMALLEST_GEV, Censored, Published
from calostudy.models.surrogate import Surrogate, TrainingRecipe
from calostudy.networks.flows import begin_at_identity, log_prob, maf_flow
from calostudy.networks.glow import GlowStructure, ImageFlow
from calostudy.networks.spline import SplineSettings
from calostudy.samplers.compiled import checked_precision
from calostudy.samplers.glow import eager, folded
from calostudy.samplers.noise import normal
from calostudy.samplers.tiles import in_tiles
from calostudy.showers import Showers

ENERGIES, IMAGES = "energies", "images"
BEFORE = 5
"""How many layers before it a layer depends on."""
TILE = 8
"""Showers that go through the networks together."""

SMALLEST_QUANTILE = 2e-3
"""Of the cells hit, this fraction has less energy than the smallest of `Censored`."""

_LEAST = 1e-8  # how far fractions keep away from 0 and 1 in size `embedded`

VETO = 2.6
"""Showers of dataset 2 and 3 with more deposited / incident energy are drawn again."""
DRAWS = 10
"""At most so often."""

LARGEST_LAYER = {"ds2": 63.6065, "ds3": 63.6065, "ild-photons": 1.0}
"""GeV, the unit of layer energies in size `paper`."""

RESPONSE = {"ds2": 2.0, "ds3": 2.0, "ild-photons": 0.05}
"""Largest deposited / incident energy in size `embedded`."""


_SPLINE = SplineSettings(10, 15.0, 1e-3, 1e-3, 1e-3)
_ILD = GlowStructure((2, 2), 8, (32, 64, 128), ((3, 3), (5, 5)), 8, _SPLINE, circular=False)
_DS3 = replace(_ILD, strides=((3, 5), (3, 5)), circular=True)
_DS2 = replace(_DS3, squeeze=(3, 1), strides=((1, 4), (3, 4)))
_SMALL = {"blocks": 5, "widths": (16, 24, 32), "spline": SplineSettings(8, 8.0, 1e-3, 1e-3, 1e-3)}

STRUCTURE: dict[str, dict[str, GlowStructure]] = {
    "paper": {"ds2": _DS2, "ds3": _DS3, "ild-photons": _ILD},
    "embedded": {
        "ds2": replace(_DS2, **_SMALL, squeeze=(3, 2), strides=((1, 2), (3, 4))),
        "ds3": replace(_DS3, **_SMALL),
        "ild-photons": replace(_ILD, **_SMALL),
    },
}
"""Of the images, by size and dataset."""

_SMALLEST_BIN = 1e-6
ENERGY_FLOW = {
    "paper": {
        "blocks": 6,
        "hidden": 64,
        "hidden_blocks": 1,
        "tail_bound": -math.log(pre.ALPHA),
    },
    "embedded": {
        "blocks": 4,
        "hidden": 48,
        "hidden_blocks": 1,
        "tail_bound": 6.0,
        "dropout": 0.2,
    },
}
"""Arguments of `maf_flow`, by size."""


def _exponential(epochs: int) -> TrainingRecipe:
    """The learning rate falls to 0.003 of the first, a little after each epoch."""
    options = {"milestones": tuple(range(1, epochs)), "factor": 3e-3 ** (1 / epochs)}
    return TrainingRecipe(epochs, 1024, 1e-3, "multistep", options, validation=0.1)


_CYCLE = {"rise": 0.3, "start": 25, "end": 1e4}
_IMAGES = TrainingRecipe(800, 1024, 6e-4, "onecycle", _CYCLE, validation=0.1, clip=100.0)
_SMALL_CYCLE = {"rise": 0.3, "start": 10, "end": 1e2}
_SMALL_ENERGIES = TrainingRecipe(60, 32, 1e-3, "onecycle", _SMALL_CYCLE, validation=0.1, clip=20.0)
_SMALL_IMAGES = replace(_SMALL_ENERGIES, epochs=70, batch=16, learning_rate=2e-3, clip=1e4)

RECIPES: dict[str, dict[str, dict[str, TrainingRecipe]]] = {
    "paper": {
        "ds2": {ENERGIES: _exponential(2000), IMAGES: _IMAGES},
        "ds3": {ENERGIES: _exponential(2000), IMAGES: _IMAGES},
        "ild-photons": {
            ENERGIES: _exponential(200),
            IMAGES: replace(_IMAGES, epochs=200, learning_rate=1e-4, clip=800.0),
        },
    },
    "embedded": {
        "ds2": {
            ENERGIES: replace(_SMALL_ENERGIES, epochs=40),
            IMAGES: replace(_SMALL_IMAGES, epochs=40),
        },
        "ds3": {ENERGIES: _SMALL_ENERGIES, IMAGES: _SMALL_IMAGES},
        "ild-photons": {ENERGIES: _SMALL_ENERGIES, IMAGES: _SMALL_IMAGES},
    },
}
"""By size, dataset and kind of network."""

IMAGES_PER_SHOWER = {True: 2, False: 6}
"""Of how many of its layers a shower shows the images in one step of the training and of the
validation, in size `embedded`."""
INITIAL_SHOWERS = 200
"""How many showers initialise the shifts and scales of the blocks."""


class L2LFlows(Surrogate):
    """L2LFlows on CaloChallenge dataset 2 or 3 or on the ILD photons."""

    name: ClassVar[str] = "l2lflows"
    datasets: ClassVar[tuple[str, ...]] = ("ds2", "ds3", "ild-photons")
    # Of the energy flow and of the images, by name; the first is the default.
    samplers: ClassVar[dict[str, tuple[Callable, Callable]]] = {
        "folded": (ENERGY_SAMPLERS["incremental"], folded),
        "eager": (ENERGY_SAMPLERS["nflows"], eager),
    }

    @property
    def network_evaluations(self) -> int:
        """One pass through a flow for each layer."""
        return self._shape[0]

    @property
    def structure(self) -> GlowStructure:
        """The hyperparameters of the flows of the images."""
        return STRUCTURE[self.size][self.dataset.name]

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][self.dataset.name][network.partition("-")[0]]

    @property
    def _shape(self) -> tuple[int, int, int]:
        """Layers, rows and columns of the images; the last axis of a cylinder goes around."""
        layers, slow, fast = self.dataset.calorimeter.shape
        return (layers, fast, slow) if self._cylinder else (layers, slow, fast)

    @property
    def _cylinder(self) -> bool:
        return self.dataset.calorimeter.layers[0].view == "cylindrical"

    @table_property
    def _turns(self) -> Tensor | None:
        """Symmetries that are used in training; in size `paper`, turns of a cylinder."""
        table = pre.symmetries(self.dataset.calorimeter)
        if self.embedded:
            return table
        return table[: len(table) // 2] if self._cylinder else None

    def build_networks(self, count: int | None = None) -> dict[str, nn.Module]:
        """In size `paper`, `count` image flows, by default one per layer."""
        layers, *shape = self._shape
        options = ENERGY_FLOW[self.size]
        energies = maf_flow(layers, 1, seed=self.seed, minimum=_SMALLEST_BIN, **options)
        if self.embedded:
            begin_at_identity(energies)
            return {ENERGIES: energies, IMAGES: self.image_flow(shape, BEFORE + 4 + layers)}
        flows = {
            _of_layer(i): ImageFlow(
                shape, min(i, BEFORE) + 2, self.structure, embed=i > 0, seed=self.seed + i
            )
            for i in range(count or layers)
        }
        return {ENERGIES: energies, **flows}

    def image_flow(self, shape, context: int) -> nn.Module:
        """The flow of size `embedded` of images (H, W) with `context` channels of condition."""
        # So few permutations had better bend all channels alike: those of seed 0 do.
        return ImageFlow(shape, context, self.structure)

    def parameters_by_network(self) -> dict[str, int]:
        """Trainable parameters of the energy flow and of all image flows together.

        Of layers that see as many before them, one flow is counted.
        """
        if self.embedded:
            return super().parameters_by_network()
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            networks = self.build_networks(BEFORE + 1)
        counts = {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items()}
        layers = (counts[_of_layer(min(i, BEFORE))] for i in range(self._shape[0]))
        return {ENERGIES: counts[ENERGIES], IMAGES: sum(layers)}

    def initial_constants(self) -> dict[str, Tensor]:
        """`paper`: the largest cell of each layer (MeV). `embedded`: mean and deviation of the
        energy flow's numbers, smallest cell (MeV) and spread of `Censored`, average image."""
        layers = self._shape[0]
        if not self.embedded:
            return {"largest": torch.ones(layers)}
        return {
            "mean": torch.zeros(layers),
            "deviation": torch.ones(layers),
            "scale": torch.ones(2),
            "average": torch.zeros(self.dataset.calorimeter.cells),
        }

    def fit_constants(self, showers: Showers) -> None:
        """Set the constants and initialise the shifts and scales of the blocks."""
        cells = self._cells(showers)
        if self.embedded:
            self._fit_cells(cells)
            self._fit_energies(showers)
        else:
            largest = cells.unflatten(1, (self._shape[0], -1)).amax(dim=(0, 2))
            self.constants["largest"] = largest
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for name, network in self.networks.items():
                if name != ENERGIES:
                    batch = self.prepare(name, showers[:INITIAL_SHOWERS])
                    network.initialise(*self._images_to_flow(name, batch))

    def _fit_cells(self, cells: Tensor) -> None:
        """The scale of `Censored` and the average image, of cells (N, V) in MeV."""
        hits = cells[cells > 0].double()
        smallest = np.quantile(hits.numpy(force=True), SMALLEST_QUANTILE)
        spread = (hits / smallest).log().std()
        self.constants["scale"] = torch.tensor([smallest, spread]).float()
        average = Censored().without_noise(cells, self.constants["scale"]).mean(dim=0)
        self.constants["average"] = average[self._turns].mean(dim=0)

    def _fit_energies(self, showers: Showers) -> None:
        """Mean and deviation of the energy flow's numbers, for which the scale is needed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            values, _ = self._energies_to_flow(self.prepare(ENERGIES, showers))
        self.constants["mean"] = values.mean(dim=0).float()
        self.constants["deviation"] = values.std(dim=0).clamp_min(1e-3).float()

    def _cells(self, showers: Showers) -> Tensor:
        cells = showers.above_threshold(self.dataset.threshold).cells
        return torch.as_tensor(np.asarray(cells, np.float32))

    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """Layer energies (N, L) and incident energies (N,), and for an image flow the cells
        (N, V) of the layers that it sees, all in MeV."""
        cells, slices = self._cells(showers), self.dataset.calorimeter.slices
        batch = {
            "energies": pre.layer_sums(cells.double(), slices).float(),
            "incident": torch.as_tensor(np.asarray(showers.incident_energy, np.float64)),
        }
        return batch if network == ENERGIES else batch | {"cells": cells[:, self._seen(network)]}

    def _seen(self, network: str) -> slice:
        """The cells that the image flow sees: all, or its layer's and those of the ones before."""
        slices = self.dataset.calorimeter.slices
        if self.embedded:
            return slice(0, slices[-1].stop)
        layer = _layer_of(network)
        return slice(slices[max(0, layer - BEFORE)].start, slices[layer].stop)

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Negative log-likelihood (B,) of the flow's numbers, with fresh noise on each.

        In size `embedded`, that of all images is estimated from `IMAGES_PER_SHOWER` of them.
        """
        if network == ENERGIES:
            return self._energy_loss(batch)
        flow = self.networks[network]
        if self._turns is not None and flow.training:
            seen = self._seen(network)
            table = self._turns[:, seen] - seen.start
            batch = {**batch, "cells": pre.turn_at_random(batch["cells"], table)}
        loss = -flow.log_prob(*self._images_to_flow(network, batch))
        images = loss.view(len(batch["incident"]), -1)
        return images.mean(dim=1) * (self._shape[0] if self.embedded else 1)

    def _energy_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        values, context = self._energies_to_flow(batch)
        log_deviation = 0.0
        if self.embedded:
            mean, deviation = self._energy_moments
            values, log_deviation = pre.standardise(values, mean, deviation), deviation.log().sum()
        values, context = values.to(self.precision), context.to(self.precision)
        return log_deviation - log_prob(self.networks[ENERGIES], values, context)

    @property
    def _energy_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation (L,) of the energy flow's numbers in size `embedded`."""
        return self.constants["mean"].double(), self.constants["deviation"].double()

    def _energies_to_flow(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The energy flow's numbers (B, L) and its condition (B, 1), both float64."""
        energies, incident = batch["energies"].double(), batch["incident"]
        if self.embedded:
            smallest = self.constants["scale"][0].double()
            empty = smallest * 10.0 ** (-1.0 + 0.3 * torch.randn_like(energies))
            energies = torch.where(energies > 0, energies, empty)
            u = pre.energy_fractions(energies, incident, RESPONSE[self.dataset.name])
            return pre.logit(u, _LEAST), self._incident(incident)[:, None]
        noise = SMALLEST_GEV * (1.0 + 0.2 * torch.randn_like(energies))
        x = (energies / GEV + noise) / LARGEST_LAYER[self.dataset.name]
        return pre.logit(x.clamp(0.0, 1.0)), self._incident(incident)[:, None]

    def _energies_from_flow(self, values: Tensor, incident: Tensor) -> Tensor:
        """Layer energies (N, L) in MeV of the energy flow's numbers (N, L), float64."""
        if self.embedded:
            u = pre.inverse_logit(pre.unstandardise(values, *self._energy_moments), _LEAST)
            return pre.energies_from_fractions(u, incident, RESPONSE[self.dataset.name])
        return pre.inverse_logit(values) * LARGEST_LAYER[self.dataset.name] * GEV

    def _images_to_flow(self, network: str, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The images (B, 1, H, W) that a flow describes and their context (B, C, H, W)."""
        if self.embedded:
            return self._images_of_any_layers(network, batch)
        images, layer = self._as_images(batch["cells"]), _layer_of(network)
        largest = self.constants["largest"][layer + 1 - images.shape[1] : layer + 1]
        numbers = Published().forward(images, largest, self.dataset.threshold)
        energies = batch["energies"][:, layer]
        return numbers[:, -1:], self._context(numbers[:, :-1], energies, batch["incident"])

    def _images_of_any_layers(
        self, network: str, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The same of the flow that all layers share: `IMAGES_PER_SHOWER` of each, drawn anew."""
        images = self._as_images(batch["cells"])
        incident, energies = batch["incident"], batch["energies"]
        chosen = torch.rand(len(images), self._shape[0]).argsort(dim=1)
        chosen = chosen[:, : IMAGES_PER_SHOWER[self.networks[network].training]]
        rows = torch.arange(len(images))[:, None].expand_as(chosen)
        windows = F.pad(images, (0, 0, 0, 0, BEFORE, 0)).unfold(1, BEFORE + 1, 1)
        windows = windows[rows, chosen].flatten(0, 1).movedim(-1, 1)
        rows, chosen = rows.flatten(), chosen.flatten()
        scale, kind = self.constants["scale"], Censored()
        before = kind.without_noise(windows[:, :-1], scale)
        context = self._context(before, energies[rows, chosen], incident[rows], chosen)
        return kind.forward(windows[:, -1:], scale), context

    def _context(
        self, before: Tensor, energies: Tensor, incident: Tensor, layers: Tensor | None = None
    ) -> Tensor:
        """The condition (B, C, H, W) of images: the ones before them (B, n, H, W), the energies of
        their layers and of the particles in MeV (B,), and in size `embedded` which `layers` (B,)
        they are."""
        numbers = [(energies / GEV + SMALLEST_GEV).log10() + 1.0, self._incident(incident)]
        planes = [before]
        if self.embedded:
            numbers.append(2.0 * layers / self._shape[0] - 1.0)
            numbers.extend(F.one_hot(layers, self._shape[0]).unbind(dim=1))
            planes.append(self._as_images(self.constants["average"][None])[0, layers, None])
        numbers = torch.stack([n.to(before.dtype) for n in numbers], dim=1)
        planes.append(numbers[:, :, None, None].expand(-1, -1, *before.shape[2:]))
        return torch.cat([plane.to(before.dtype) for plane in planes], dim=1)

    def _incident(self, incident: Tensor) -> Tensor:
        return 2.0 * (incident / GEV + SMALLEST_GEV).log10() - 3.0

    def _as_images(self, cells: Tensor) -> Tensor:
        """Cells (B, V) of some layers as (B, n, H, W)."""
        _, *shape = self.dataset.calorimeter.shape
        images = cells.view(len(cells), -1, *shape)
        return images.transpose(2, 3) if self._cylinder else images

    def _as_cells(self, images: Tensor) -> Tensor:
        """The inverse of `_as_images`."""
        return (images.transpose(2, 3) if self._cylinder else images).flatten(1)

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

        Cells below the data set's threshold are 0. In size `embedded` and for `ild-photons`, the
        cells of a layer sum to its energy.

        `sampler` is one of `samplers`: by default the first; the last is the same function without
        any preparation, the yardstick. `precision` of the networks is "float32" or "float64", by
        default that of torch, which a hardware target sets.

        Raises:
            UsageError: there is no such sampler or precision.
        """
        precision = checked_precision(precision)
        incident = np.atleast_1d(np.asarray(incident_energy, np.float64))
        energies = self._layer_energies(incident, seed, first, sampler, precision)

        def of_tile(indices, energies, incident):
            tensors = torch.as_tensor(energies), torch.as_tensor(incident)
            cells = self._layer_by_layer(seed, indices, *tensors, sampler, precision)
            return cells.numpy(force=True).astype(np.float32)

        indices = np.arange(first, first + len(incident))
        cells = in_tiles(of_tile, first, indices, energies, incident, tile=TILE)
        showers = Showers(self.dataset.calorimeter, incident, cells)
        return showers.above_threshold(self.dataset.threshold)

    def _layer_energies(self, incident, seed, first, sampler, precision) -> np.ndarray:
        """Layer energies (N, L) in MeV by the energy flow."""
        inverse = self._inverse(ENERGIES, sampler, precision)
        tensor = torch.as_tensor(incident)
        context = self._incident(tensor)[:, None].numpy(force=True)
        vetoed = not self.embedded and self.dataset.name != "ild-photons"
        energies = np.empty((len(incident), self._shape[0]))
        again = np.ones(len(incident), bool)
        for draw in range(DRAWS if vetoed else 1):
            noise = normal(seed, first, *energies.shape, stream=draw)
            values = torch.as_tensor(inverse(noise[again], context[again])).double()
            energies[again] = self._energies_from_flow(values, tensor[again]).numpy(force=True)
            again = energies.sum(axis=1) > VETO * incident
            if not again.any():
                break
        return energies

    def _layer_by_layer(self, seed, indices, energies, incident, sampler, precision) -> Tensor:
        """Cells (T, V) in MeV of the showers `indices`, with energies (T, L) and (T,) in MeV."""
        layers, *shape = self._shape
        size = layers * math.prod(shape)
        # By shower, so that the fillings of a tile cost no more than it does.
        noise = np.concatenate([normal(seed, int(i), 1, size, stream=DRAWS) for i in indices])
        noise = torch.as_tensor(noise).to(getattr(torch, precision)).view(len(indices), layers, -1)
        # The shared flow of size `embedded` sees empty layers before the first.
        before = noise.new_zeros(len(indices), BEFORE if self.embedded else 0, *shape)
        cells = []
        for layer in range(layers):
            network = IMAGES if self.embedded else _of_layer(layer)
            number = torch.full((len(indices),), layer)
            context = self._context(before[:, -BEFORE:], energies[:, layer], incident, number)
            given = noise[:, layer].reshape(-1, *self.networks[network].noise_shape)
            numbers = self._inverse(network, sampler, precision)(given, context)
            found, seen = self._layer_from_flow(numbers.double(), layer, energies[:, layer])
            cells.append(found)
            before = torch.cat([before, seen.to(before)], dim=1)
        return torch.cat(cells, dim=1)

    def _layer_from_flow(
        self, numbers: Tensor, layer: int, energy: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cells (T, v) in MeV of a layer of energy (T,) from its flow's numbers (T, 1, H, W), and
        the image (T, 1, H, W) that the layers behind it see."""
        if self.embedded:
            scale = self.constants["scale"].double()
            cells = self._as_cells(Censored().inverse(numbers, scale))
            cells = pre.share_out(cells, energy, scale[0].item())
            return cells, Censored().without_noise(self._as_images(cells), scale)
        largest = self.constants["largest"][layer : layer + 1].double()
        cells = self._as_cells(Published().inverse(numbers, largest))
        if self.dataset.name == "ild-photons":
            cells = pre.share_out(cells, energy, self.dataset.threshold)
        return cells, numbers

    def _inverse(self, network: str, sampler: str | None, precision: str) -> Callable:
        kind = int(network != ENERGIES)
        samplers = {name: pair[kind] for name, pair in self.samplers.items()}
        return self.inverse_of(network, samplers, sampler, precision)


def _of_layer(layer: int) -> str:
    return f"{IMAGES}-{layer:02d}"


def _layer_of(network: str) -> int:
    return int(network.rpartition("-")[2])
