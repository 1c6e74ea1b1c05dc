"""CaloVAE+INN: a coupling flow for the few numbers that an autoencoder makes of a shower.

Ernst, Favaro, Krause, Plehn & Shih, arXiv:2312.09290: the way to datasets too large for CaloINN.
A variational autoencoder is given the incident energy and the fractions u of the energy in the
layers (`energy_fractions`) and learns how each layer's energy is spread over its cells. Then a
flow of coupling blocks learns, given the incident energy, the u's together with the mean and the
log variance that the encoder found. A shower is one pass of the flow backwards, latent numbers
drawn from that mean and variance, one pass of the decoder; each layer is scaled to its energy.

Size `paper` has the structure and the recipe of the published configuration. The decoder says a
fraction for each cell, the loss is the cross entropy of the fractions plus a very small
divergence. Parameters to train are as many as published for all datasets, and so are those to
generate (decoder, trainable scale, flow) but for dataset 3: there the published 93,935,070 lack
the 10,942,700 of one perceptron of seven layers, which are in the published total. Of the last
layer of dataset 3 no group of the decoder knows anything, as published: its shape is a constant.
Differences that leave the counts as they are: perceptrons of the decoder's groups see the
conditions, not the last numbers of the layer before; u_0 is relative to the largest response, not
to 1.15; the decoder's conditions are standardised like the encoder's; moments are those of rings
of cells, not of single cells; cells below the data set's threshold are empty from the start; the
optimiser has no weight decay (there 1e-7).

Size `embedded` is small enough to be trained in minutes on one processor core, and no published
configuration. A decoder of mean fractions blurs: all cells are hit a little. Here it says how
probable a hit is, and the mean and the width of the hit's logarithm, and cells are drawn from
that (`Hits`); the loss is the likelihood of just this, with the divergence in full. Conditions
are the logarithms of the layers' energies, on datasets 2 and 3 one perceptron serves all layers,
and showers are turned and mirrored at random while training.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from calostudy import preprocessing as pre
from calostudy.devices import table_property
from calostudy.energies import GEV
from calostudy.models.caloinn import Logit
from calostudy.models.calovae_decoders import EMPTY, Fractions, Hits, Limits, ring_moments
from calostudy.models.surrogate import Surrogate, TrainingRecipe
from calostudy.networks.coupling import CouplingFlow, CouplingStructure
from calostudy.networks.spline import SplineSettings
from calostudy.networks.vae import VAE, Kernels, VAEStructure, divergence, draw
from calostudy.samplers.compiled import checked_precision
from calostudy.samplers.coupling import Inverse, eager, fused
from calostudy.samplers.noise import normal, uniform
from calostudy.samplers.tiles import in_tiles
from calostudy.showers import Showers

AUTOENCODER, FLOW = "vae", "inn"

_MOMENTS = ("mean", "deviation")
_BATCH = 500  # showers that are encoded at a time


LIMITS = {
    "ds1-photons": Limits(4194304.0, 3.1),
    "ds1-pions": Limits(4194304.0, 6.93),
    "ds2": Limits(1e6, 2.0),
    "ds3": Limits(1e6, 2.0),
}
"""Of the public data sets; more energy than the largest response is taken for this much."""

SPREAD = Logit(1e-6)
"""Between the u's and the flow's numbers; its noise makes a density of what is 0 or 1."""

_MLP = VAEStructure((5000, 1000, 500), 50)
_WIDE = Kernels(7, 3, (1500, 800, 300), 50)
_LAYERWISE = Kernels(1, 1, (128, 64), 12, shared=True)

STRUCTURE: dict[str, dict[str, VAEStructure]] = {
    "paper": {
        "ds1-photons": _MLP,
        "ds1-pions": _MLP,
        "ds2": VAEStructure((1500, 1000, 500), 50, _WIDE, scaled=True),
        "ds3": VAEStructure(
            (2000, 1000, 600), 300, replace(_WIDE, stride=5, latent=100), scaled=True
        ),
    },
    "embedded": {
        "ds1-photons": VAEStructure((128, 64), 8, outputs=3),
        "ds1-pions": VAEStructure((128, 64), 8, outputs=3),
        "ds2": VAEStructure((128, 64), 12, _LAYERWISE, outputs=3),
        "ds3": VAEStructure((128, 64), 12, replace(_LAYERWISE, hidden=(64, 64)), outputs=3),
    },
}
"""Of the autoencoder, by size and dataset."""

_PUBLISHED_FLOW = CouplingStructure(
    18, 32, 3, SplineSettings(10, 20.0, 1e-3, 1e-3, 1e-3), by_shower=True, act_norm=False
)
_SMALL_FLOW = CouplingStructure(
    8, 48, 3, SplineSettings(8, 6.0, 1e-3, 1e-3, 1e-3), by_shower=False, act_norm=False
)
FLOWS: dict[str, dict[str, CouplingStructure]] = {
    "paper": dict.fromkeys(LIMITS, _PUBLISHED_FLOW),
    "embedded": {
        "ds1-photons": _SMALL_FLOW,
        "ds1-pions": _SMALL_FLOW,
        "ds2": replace(_SMALL_FLOW, hidden=32),
        "ds3": replace(_SMALL_FLOW, blocks=6, hidden=24),
    },
}
"""Of the flow, by size and dataset."""

DECODERS: dict[str, dict[str, Fractions | Hits]] = {
    "paper": {name: Fractions(1e-6 if "ds1" in name else 1e-8) for name in LIMITS},
    "embedded": dict.fromkeys(LIMITS, Hits()),
}
"""What the decoder's numbers are, by size and dataset."""

_CYCLE = {"rise": 0.4, "start": 10, "end": 1e3}
_PAPER = {
    AUTOENCODER: TrainingRecipe(
        1000, 256, 1e-4, "multistep", {"milestones": (), "factor": 1.0}, validation=0.2
    ),
    FLOW: TrainingRecipe(200, 256, 5e-4, "onecycle", _CYCLE, validation=0.2),
}


def _embedded(epochs: int, flow_epochs: int, batch: int) -> dict[str, TrainingRecipe]:
    recipe = TrainingRecipe(epochs, batch, 2e-3, "onecycle", _CYCLE, validation=0.1, clip=500.0)
    return {AUTOENCODER: recipe, FLOW: replace(recipe, epochs=flow_epochs, clip=50.0)}


RECIPES: dict[str, dict[str, dict[str, TrainingRecipe]]] = {
    "paper": dict.fromkeys(LIMITS, _PAPER),
    "embedded": {
        "ds1-photons": _embedded(60, 60, 64),
        "ds1-pions": _embedded(60, 60, 64),
        "ds2": _embedded(36, 30, 64),
        "ds3": _embedded(45, 24, 32),
    },
}
"""By size, dataset and network."""


class CaloVAEINN(Surrogate):
    """CaloVAE+INN on the datasets of the CaloChallenge."""

    name: ClassVar[str] = "calovae-inn"
    datasets: ClassVar[tuple[str, ...]] = tuple(LIMITS)

    @property
    def network_evaluations(self) -> int:
        """One pass of the decoder."""
        return 1

    @property
    def structure(self) -> VAEStructure:
        """The hyperparameters of the autoencoder."""
        return STRUCTURE[self.size][self.dataset.name]

    @property
    def limits(self) -> Limits:
        """The largest energies of the data set."""
        return LIMITS[self.dataset.name]

    @property
    def decoder(self) -> Fractions | Hits:
        """What the decoder's numbers are."""
        return DECODERS[self.size][self.dataset.name]

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][self.dataset.name][network]

    def build_networks(self) -> dict[str, VAE | CouplingFlow]:
        layers = self.dataset.calorimeter.layers
        numbers = 2 * self.structure.latent + len(layers)
        return {
            AUTOENCODER: VAE([layer.cells for layer in layers], self.structure),
            FLOW: CouplingFlow(numbers, 1, FLOWS[self.size][self.dataset.name], self.seed),
        }

    def initial_constants(self) -> dict[str, Tensor]:
        """Where the decoder's numbers begin and their spread in each ring of cells, mean and
        deviation of the conditions and of the flow's numbers."""
        layers, structure = len(self.dataset.calorimeter.layers), self.structure
        sizes = {"flow": (2 * structure.latent + layers,)}
        if not structure.scaled:
            sizes |= {"conditions": (layers,), "cells": (self._rings.max() + 1, structure.outputs)}
        return {
            f"{name}.{key}": torch.full(shape, value)
            for name, shape in sizes.items()
            for key, value in (("mean", 0.0), ("deviation", 1.0))
        }

    def fit_constants(self, showers: Showers) -> None:
        """Moments of the cells and of the conditions; those of the flow's numbers need the trained
        autoencoder and are set when the flow's training is prepared."""
        if self.structure.scaled:
            return
        given = torch.cat(
            [
                self._conditions(batch["incident"], self._energies(batch))[:, 1:]
                for batch in self._batches(showers)
            ]
        )
        parts = (self._fractions(batch).double() for batch in self._batches(showers))
        cells = ring_moments(self.decoder, parts, self._rings)
        found = {"cells": cells, "conditions": (given.mean(0), given.std(0))}
        self._set_constants(found)

    def _set_constants(self, found: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        for name, (mean, deviation) in found.items():
            self.constants[f"{name}.mean"] = mean.float()
            self.constants[f"{name}.deviation"] = deviation.clamp_min(1e-2).float()

    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """Cells (N, V) and incident energies (N,), both in MeV; cells below the threshold are 0.

        For the flow, it sets the constants that standardise what the trained encoder finds.
        """
        if network == FLOW:
            generator = torch.Generator().manual_seed(0)
            values = torch.cat([self._to_flow(b, generator) for b in self._batches(showers)])
            self._set_constants({"flow": (values.mean(dim=0), values.std(dim=0))})
        return self._tensors(showers)

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss (B,). Of the autoencoder: reconstruction and divergence; of the flow: negative
        log-likelihood of what the encoder makes of the showers, and of the u's.

        In training, size `embedded` turns and mirrors the showers at random.
        """
        batch = self.turned(network, batch)
        if network == FLOW:
            moments = (self.constants[f"flow.{key}"].double() for key in _MOMENTS)
            values = pre.standardise(self._to_flow(batch), *moments)
            given = self.flow_condition(batch["incident"])
            return -self.networks[FLOW].log_prob(*(t.to(self.precision) for t in (values, given)))
        autoencoder, fractions = self.networks[AUTOENCODER], self._fractions(batch)
        energies, (centre, spread) = self._energies(batch), self._cell_norm()
        conditions = self._normalised(self._conditions(batch["incident"], energies))
        conditions = conditions.to(self.precision)
        seen = self.decoder.seen(fractions, centre, spread)
        mean, log_variance = autoencoder.encode(seen, conditions)
        latent = draw(mean, log_variance, torch.randn_like(mean))
        said = autoencoder.decode(latent, conditions) * spread + centre
        lowest, slices = self._lowest(energies).to(said), self.dataset.calorimeter.slices
        found = self.decoder.loss(said, fractions, lowest, slices)
        return found + self.decoder.beta * divergence(mean, log_variance)

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

        `sampler` is one of `SAMPLERS`: by default "fused", the flow compiled for the purpose;
        "eager" is the same function by plain torch, the yardstick. `precision` of the networks is
        "float32" or "float64", by default that of torch, which a hardware target sets.

        Raises:
            UsageError: there is no such sampler or precision.
        """
        precision = checked_precision(precision)
        energy = np.atleast_1d(np.asarray(incident_energy, np.float64))
        inverse = self.inverse_of(FLOW, SAMPLERS, sampler, precision)
        make = partial(self.decoder_in, precision=precision)
        decode = self.compiled.of(self.networks[AUTOENCODER], precision, make)
        numbers = normal(seed, first, len(energy), self.networks[FLOW].features)
        values = inverse(numbers, self.flow_condition(torch.as_tensor(energy)).numpy(force=True))
        noise = normal(seed, first, len(energy), self.structure.latent, stream=1)
        hits = uniform(seed, first, len(energy), self.dataset.calorimeter.cells, stream=2)
        cells = in_tiles(decode, first, values, noise, hits, energy)
        showers = Showers(self.dataset.calorimeter, energy, cells.astype(np.float32))
        return showers.above_threshold(self.dataset.threshold)

    # ---- energies, fractions, conditions ----------------------------------------------

    @cached_property
    def _rings(self) -> np.ndarray:
        """Of each cell, which ring of its layer it is in: (V,), counted through all layers."""
        rings, count = [], 0
        for layer in self.dataset.calorimeter.layers:
            rings.append(np.indices(layer.shape)[1].ravel() + count)
            count += layer.shape[1]
        return np.concatenate(rings)

    @table_property
    def _layers(self) -> Tensor:
        """Of each cell, its layer: (V,)."""
        return torch.tensor(self.dataset.calorimeter.layer_index)

    def _tensors(self, showers: Showers) -> dict[str, Tensor]:
        showers = showers.above_threshold(self.dataset.threshold)
        return {
            "cells": torch.as_tensor(np.asarray(showers.cells, np.float32)),
            "incident": torch.as_tensor(np.asarray(showers.incident_energy, np.float64)),
        }

    def _batches(self, showers: Showers) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(showers), _BATCH):
            yield self._tensors(showers[start : start + _BATCH])

    def _fractions(self, batch: Mapping[str, Tensor]) -> Tensor:
        return pre.normalise_layers(batch["cells"], self.dataset.calorimeter.slices)

    def _energies(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Of the layers, (B, L) in MeV, float64."""
        return pre.layer_sums(batch["cells"].double(), self.dataset.calorimeter.slices)

    def _conditions(self, incident: Tensor, energies: Tensor) -> Tensor:
        """Incident energy and one number of each layer, (B, 1 + L), not standardised."""
        return self.decoder.conditions(incident, energies, self.limits)

    def _normalised(self, conditions: Tensor) -> Tensor:
        """Conditions (B, 1 + L) of which all but the first are shifted and scaled."""
        incident, layers = conditions[:, :1], conditions[:, 1:]
        if self.structure.scaled:
            autoencoder, cells = self.networks[AUTOENCODER], len(self._rings)
            factor, shift = autoencoder.factor[cells:], autoencoder.shift[cells:]
            return torch.cat([incident, layers * factor + shift], dim=1)
        moments = (self.constants[f"conditions.{key}"].to(layers) for key in _MOMENTS)
        return torch.cat([incident, pre.standardise(layers, *moments)], dim=1)

    def _cell_norm(self) -> tuple[Tensor, Tensor]:
        """Where the decoder's numbers begin and their spread, both (V, outputs)."""
        if self.structure.scaled:
            autoencoder, cells = self.networks[AUTOENCODER], len(self._rings)
            factor, shift = autoencoder.factor[:cells, None], autoencoder.shift[:cells, None]
            return -shift / factor, 1.0 / factor
        centre, spread = (self.constants[f"cells.{key}"][self._rings] for key in _MOMENTS)
        return centre, spread

    def _lowest(self, energies: Tensor) -> Tensor:
        """Log fraction (B, V) that a cell at the threshold has; positive in empty layers."""
        lowest = (self.dataset.threshold / energies).log().clamp(max=EMPTY)
        return lowest[:, self._layers]

    def flow_condition(self, incident: Tensor) -> Tensor:
        """What the flow is told, (N, 1), of incident energies (N,) in MeV."""
        return (incident / GEV).log()[:, None]

    @torch.no_grad()
    def _to_flow(
        self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> Tensor:
        """The numbers (B, D) that the flow describes, not standardised, float64."""
        energies, incident = self._energies(batch), batch["incident"]
        conditions = self._normalised(self._conditions(incident, energies)).to(self.precision)
        seen = self.decoder.seen(self._fractions(batch), *self._cell_norm())
        found = self.networks[AUTOENCODER].encode(seen, conditions)
        u = pre.energy_fractions(energies, incident, self.limits.response)
        # Behind the end of a shower each layer takes all there is, which is nothing: a little too
        # much energy then ends up in the next layer and not in the last one.
        behind = energies.flip(1).cumsum(1).flip(1)[:, :-1] > 0
        u[:, 1:] = torch.where(behind, u[:, 1:], 1.0)
        noise = torch.rand(u.shape, generator=generator, dtype=u.dtype)
        return torch.cat([*(f.double() for f in found), SPREAD.forward(u, noise)], dim=1)

    # ---- sampling ---------------------------------------------------------------------

    def decoder_in(self, autoencoder: VAE, precision: str) -> "Decode":
        """The way from the flow's numbers to cells, in a precision."""
        autoencoder = copy.deepcopy(autoencoder).to(getattr(torch, precision))

        @torch.no_grad()
        def decode(*given: np.ndarray) -> np.ndarray:
            given = map(torch.as_tensor, given)
            return self.decoded(autoencoder, *given).numpy(force=True)

        return decode

    def decoded(
        self, autoencoder: VAE, values: Tensor, noise: Tensor, random: Tensor, energy: Tensor
    ) -> Tensor:
        """Cells (N, V) in MeV, before the threshold: of the flow's numbers (N, D), normal noise
        (N, latent), uniform random numbers (N, V) and incident energies (N,) in MeV, by an
        autoencoder in its precision."""
        dtype, slices = next(autoencoder.parameters()).dtype, self.dataset.calorimeter.slices
        latent = self.structure.latent
        moments = (self.constants[f"flow.{key}"].double() for key in _MOMENTS)
        values = pre.unstandardise(values.double(), *moments)
        mean, log_variance, u = values.split([latent, latent, len(slices)], dim=1)
        energies = pre.energies_from_fractions(SPREAD.inverse(u), energy, self.limits.response)
        conditions = self._normalised(self._conditions(energy, energies))
        numbers = draw(mean, log_variance, noise)
        said = autoencoder.decode(numbers.to(dtype), conditions.to(dtype))
        centre, spread = (each.to(dtype) for each in self._cell_norm())
        lowest = self._lowest(energies).to(dtype)
        found = self.decoder.drawn(said * spread + centre, random.to(dtype), lowest, slices)
        return pre.scale_layers(found, energies.to(dtype), slices)


Decode = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""The flow's numbers (N, D), noise (N, latent) and (N, V), incident energies (N,): cells (N, V)."""

SAMPLERS: dict[str, Callable[[CouplingFlow, str], Inverse]] = {"fused": fused, "eager": eager}
