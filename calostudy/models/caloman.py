"""CaloMan: a density on the manifold that an autoencoder has found.

Cresswell, Ross, Loaiza-Ganem, Reyes-Gonzalez, Letizia & Caterini (arXiv:2211.15380), on dataset 1.
Showers fill few of the dimensions that their cells have. In a first step a variational autoencoder
learns the manifold they are on, given the incident energy and that of the layers: how each layer's
energy is spread over its cells. In a second step a flow learns the latent numbers that the encoder
finds, given the same; another flow learns the energies of the layers, given the incident energy. A
shower is one pass of both flows backwards and one of the decoder.

Size `paper` has the published autoencoder: its encoder has as many parameters as the published
totals to train and to generate differ by, for both particles. The sizes of its flows are not
published; here they are spline couplings, so large that the total to generate is the published one
within one per cent.

Size `embedded` is small enough to be trained in minutes on one processor core, and no published
configuration. The published decoder says the mean fraction of each cell, with one width for all,
and means are what is sampled; here it says how each cell is distributed, and cells are drawn
(`calostudy.models.calovae_decoders.Hits`). Showers are turned and mirrored at random while
training.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from calostudy import preprocessing as pre
from calostudy.models.caloinn import Logit
from calostudy.models.calovae_decoders import EMPTY, Hits, ring_moments
from calostudy.models.surrogate import ON_CPU, Surrogate, TrainingRecipe
from calostudy.networks.coupling import CouplingFlow, CouplingStructure
from calostudy.networks.spline import SplineSettings
from calostudy.networks.vae import divergence, draw
from calostudy.samplers.compiled import checked_precision
from calostudy.samplers.coupling import Inverse, eager, fused
from calostudy.samplers.noise import normal, uniform
from calostudy.samplers.tiles import in_tiles
from calostudy.showers import Showers

AUTOENCODER, ENERGIES, LATENT = "vae", "energies", "latent"

RESPONSE = {"ds1-photons": 3.1, "ds1-pions": 7.0}
"""Largest deposited / incident energy; more is taken for this much."""

SPREAD = Logit(1e-6)
"""Between the u's and the flow's numbers; its noise makes a density of what is 0 or 1."""

_MOMENTS = ("mean", "deviation")
_BATCH = 500  # showers that are encoded at a time


@dataclass(frozen=True)
class Normal:
    """The published decoder: a mean for each cell; one width for all, the last number.

    Methods as `Hits` has them.
    """

    outputs: ClassVar[int] = 1
    beta: float = 1.0

    def values(self, fractions: Tensor) -> tuple[Tensor, Tensor]:
        return fractions, torch.ones_like(fractions)

    def norm(self, weight: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(mean)[:, None], torch.ones_like(mean)[:, None]

    def seen(self, fractions: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
        return fractions

    def loss(
        self, said: Tensor, width: Tensor, fractions: Tensor, lowest: Tensor, slices: pre.Slices
    ) -> Tensor:
        """Minus the log-likelihood (B,); width (B,): the logarithm."""
        width = width.clamp_min(-7.0)
        pulls = (fractions - said[..., 0]) * (-width).exp()[:, None]
        return 0.5 * pulls.square().sum(dim=1) + fractions.shape[1] * width

    def drawn(self, said: Tensor, random: Tensor, lowest: Tensor, slices: pre.Slices) -> Tensor:
        return said[..., 0].clamp(0.0, 1.0)


@dataclass(frozen=True)
class Cells(Hits):
    """`Hits`, beside a width that is not needed."""

    outputs: ClassVar[int] = 3
    beta: float = 0.3

    def loss(
        self, said: Tensor, width: Tensor, fractions: Tensor, lowest: Tensor, slices: pre.Slices
    ) -> Tensor:
        return super().loss(said, fractions, lowest, slices)


@dataclass(frozen=True)
class Structure:
    """Hyperparameters: of the autoencoder's perceptrons, their latent numbers, what the decoder's
    numbers are, the two flows."""

    hidden: tuple[int, ...]
    latent: int
    decoder: Normal | Cells
    energies: CouplingStructure
    flow: CouplingStructure


def _flow(blocks: int, hidden: int, layers: int) -> CouplingStructure:
    splines = SplineSettings(8, 6.0, 1e-3, 1e-3, 1e-3)
    return CouplingStructure(blocks, hidden, layers, splines, by_shower=False, act_norm=False)


_SMALL = Structure((64, 84), 10, Cells(), _flow(8, 32, 3), _flow(6, 40, 3))
STRUCTURE: dict[str, dict[str, Structure]] = {
    "paper": {
        "ds1-photons": Structure((512,) * 3, 35, Normal(), _flow(4, 128, 4), _flow(20, 512, 4)),
        "ds1-pions": Structure((512,) * 3, 10, Normal(), _flow(4, 128, 4), _flow(23, 512, 4)),
    },
    "embedded": dict.fromkeys(RESPONSE, _SMALL),
}
"""By size and dataset."""


def _small(epochs: int, clip: float) -> TrainingRecipe:
    options = {"rise": 0.4, "start": 10, "end": 1e3}
    return TrainingRecipe(epochs, 64, 2e-3, "onecycle", options, validation=0.1, clip=clip)


_COSINE = {"rise": 0.01, "end": 1e3}
RECIPES: dict[str, dict[str, TrainingRecipe]] = {
    "paper": {
        AUTOENCODER: TrainingRecipe(300, 512, 1e-3, "cosine", _COSINE, validation=0.1, clip=10.0),
        ENERGIES: TrainingRecipe(300, 512, 1e-3, "cosine", _COSINE, validation=0.1, clip=10.0),
        LATENT: TrainingRecipe(200, 512, 1e-3, "cosine", _COSINE, validation=0.1, clip=10.0),
    },
    "embedded": {
        AUTOENCODER: _small(36, 500.0),
        ENERGIES: _small(24, 50.0),
        LATENT: _small(16, 50.0),
    },
}
"""By size and network."""


class Parallel(nn.Module):
    """Two perceptrons side by side: that of the conditions (N, told) first widens them to the
    inputs (N, inputs), and each of its layers is given to the other's next one."""

    def __init__(self, inputs: int, told: int, hidden: tuple[int, ...], outputs: int):
        super().__init__()
        self.beside = nn.ModuleList(
            map(nn.Linear, *zip(*pairwise([told, inputs, *hidden]), strict=True))
        )
        ends = [*hidden, outputs]
        self.main = nn.ModuleList(
            nn.Linear(2 * before, after) for before, after in pairwise([inputs, *ends])
        )

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        last = len(self.main) - 1
        for i, (beside, main) in enumerate(zip(self.beside, self.main, strict=True)):
            told = beside(told).relu()
            x = main(torch.cat([x, told], dim=1))
            x = x if i == last else x.relu()
        return x


class ManifoldVAE(nn.Module):
    """Encoder and decoder of `cells` numbers, conditions (N, told), `outputs` numbers per cell."""

    def __init__(self, cells: int, told: int, structure: Structure):
        super().__init__()
        hidden, latent, self.outputs = structure.hidden, structure.latent, structure.decoder.outputs
        self.encoder = Parallel(cells, told, hidden, 2 * latent)
        self.decoder = Parallel(latent, told, hidden, cells * self.outputs + 1)

    def encode(self, values: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (N, latent)."""
        return self.encoder(values, told).chunk(2, dim=1)

    def decode(self, latent: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of the cells (N, V, outputs) and one more (N,)."""
        said = self.decoder(latent, told)
        return said[:, :-1].unflatten(1, (-1, self.outputs)), said[:, -1]


class CaloMan(Surrogate):
    """CaloMan on dataset 1 of the CaloChallenge."""

    name: ClassVar[str] = "caloman"
    runs_on: ClassVar[Mapping[str, tuple[str, ...]]] = ON_CPU
    datasets: ClassVar[tuple[str, ...]] = tuple(RESPONSE)

    @property
    def network_evaluations(self) -> int:
        """One pass of the decoder."""
        return 1

    @property
    def structure(self) -> Structure:
        """The hyperparameters."""
        return STRUCTURE[self.size][self.dataset.name]

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][network]

    def build_networks(self) -> dict[str, nn.Module]:
        calorimeter, structure = self.dataset.calorimeter, self.structure
        layers = len(calorimeter.layers)
        return {
            AUTOENCODER: ManifoldVAE(calorimeter.cells, 1 + layers, structure),
            ENERGIES: CouplingFlow(layers, 1, structure.energies, self.seed),
            LATENT: CouplingFlow(structure.latent, 1 + layers, structure.flow, self.seed),
        }

    def initial_constants(self) -> dict[str, Tensor]:
        """Mean and deviation of the flows' numbers and of the conditions; where the decoder's
        numbers begin and their spread in each ring of cells."""
        calorimeter = self.dataset.calorimeter
        layers = len(calorimeter.layers)
        rings = int(calorimeter.rings.max()) + 1, self.structure.decoder.outputs
        sizes = {
            **{ENERGIES: (layers,), LATENT: (self.structure.latent,)},
            **{"told": (1 + layers,), "cells": rings},
        }
        return {
            f"{name}.{key}": torch.full(shape, value)
            for name, shape in sizes.items()
            for key, value in zip(_MOMENTS, (0.0, 1.0), strict=True)
        }

    def fit_constants(self, showers: Showers) -> None:
        """All moments but those of the latent numbers, which need the trained autoencoder and are
        set when the training of their flow is prepared."""
        batches, generator = list(self._batches(showers)), torch.Generator().manual_seed(0)
        u = torch.cat([self._u(batch, generator) for batch in batches])
        told = torch.cat([self._conditions(batch) for batch in batches])
        parts = (self._fractions(batch).double() for batch in batches)
        cells = ring_moments(self.structure.decoder, parts, self.dataset.calorimeter.rings)
        found = {ENERGIES: (u.mean(0), u.std(0)), "told": (told.mean(0), told.std(0))}
        for name, moments in {**found, "cells": cells}.items():
            self._set_moments(name, *moments)

    def _set_moments(self, name: str, mean: Tensor, deviation: Tensor) -> None:
        self.constants[f"{name}.mean"] = mean.float()
        self.constants[f"{name}.deviation"] = deviation.clamp_min(1e-2).float()

    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """Cells (N, V) and incident energies (N,), both in MeV; cells below the threshold are 0.

        For the flow of the latent numbers, it sets the constants that standardise them.
        """
        if network == LATENT:
            with torch.no_grad():
                found = [self._encoded(batch) for batch in self._batches(showers)]
            mean, log_variance = (torch.cat(parts) for parts in zip(*found, strict=True))
            variance = mean.var(dim=0) + log_variance.exp().mean(dim=0)
            self._set_moments(LATENT, mean.mean(dim=0), variance.sqrt())
        showers = showers.above_threshold(self.dataset.threshold)
        return {
            "cells": torch.as_tensor(np.asarray(showers.cells, np.float32)),
            "incident": torch.as_tensor(np.asarray(showers.incident_energy, np.float64)),
        }

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss (B,): of the autoencoder minus the log-likelihood, and the divergence; of the flows
        minus the log-likelihood of the u's, and of what the encoder finds.

        In training, size `embedded` turns and mirrors the showers at random.
        """
        batch = self.turned(network, batch)
        told = self._told(batch)
        if network == ENERGIES:
            return self._flow_loss(network, self._u(batch), told[:, :1])
        with torch.set_grad_enabled(network == AUTOENCODER and torch.is_grad_enabled()):
            mean, log_variance = self._encoded(batch)
            latent = draw(mean, log_variance, torch.randn_like(mean))
        if network == LATENT:
            return self._flow_loss(network, latent, told)
        said, width = self._said(self.networks[AUTOENCODER], latent, told)
        lowest, decoder = self._lowest(self._energies(batch)).to(said), self.structure.decoder
        slices = self.dataset.calorimeter.slices
        found = decoder.loss(said, width, self._fractions(batch), lowest, slices)
        return found + decoder.beta * divergence(mean, log_variance)

    def _flow_loss(self, network: str, values: Tensor, given: Tensor) -> Tensor:
        values = pre.standardise(values, *self._moments(network)).to(self.precision)
        return -self.networks[network].log_prob(values, given)

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

        Cells below the data set's threshold are 0. `sampler` of the flows is one of `SAMPLERS`: by
        default "fused", compiled for the purpose; "eager" is the same function by plain torch, the
        yardstick. `precision` of the networks is "float32" or "float64", by default that of torch,
        which a hardware target sets.

        Raises:
            UsageError: there is no such sampler or precision.
        """
        precision, calorimeter = checked_precision(precision), self.dataset.calorimeter
        energy = np.atleast_1d(np.asarray(incident_energy, np.float64))
        inverses = {
            name: self.inverse_of(name, SAMPLERS, sampler, precision) for name in (ENERGIES, LATENT)
        }
        noise = [
            normal(seed, first, len(energy), self.networks[name].features, stream=stream)
            for stream, name in enumerate(inverses)
        ]
        incident = torch.as_tensor(energy)
        given = self._standard_told(incident, torch.zeros(len(energy), len(calorimeter.layers)))
        u = self._restored(ENERGIES, inverses[ENERGIES](noise[0], given[:, :1].numpy(force=True)))
        u = SPREAD.inverse(u)
        energies = pre.energies_from_fractions(u, incident, RESPONSE[self.dataset.name])
        told = self._standard_told(incident, energies)
        latent = self._restored(LATENT, inverses[LATENT](noise[1], told.numpy(force=True)))
        random = uniform(seed, first, len(energy), calorimeter.cells, stream=2)
        decode = self.compiled.of(self.networks[AUTOENCODER], precision, self._decoder(precision))
        rows = latent.numpy(force=True), random, told.numpy(force=True), energies.numpy(force=True)
        cells = in_tiles(decode, first, *rows)
        showers = Showers(calorimeter, energy, cells.astype(np.float32))
        return showers.above_threshold(self.dataset.threshold)

    def _decoder(self, precision: str) -> Callable[[nn.Module], Callable[..., np.ndarray]]:
        """What makes, of the autoencoder, the way from latent numbers to cells in MeV."""
        dtype, slices = getattr(torch, precision), self.dataset.calorimeter.slices

        def made(network: ManifoldVAE) -> Callable[..., np.ndarray]:
            network = copy.deepcopy(network).to(dtype)

            @torch.no_grad()
            def decode(latent, random, told, energies):
                latent, random, told = (
                    torch.as_tensor(t).to(dtype) for t in (latent, random, told)
                )
                energies = torch.as_tensor(energies)
                said, _ = self._said(network, latent, told)
                lowest = self._lowest(energies).to(dtype)
                found = self.structure.decoder.drawn(said, random, lowest, slices)
                return pre.scale_layers(found.double(), energies, slices).numpy(force=True)

            return decode

        return made

    # ---- energies, fractions, conditions ----------------------------------------------

    def _batches(self, showers: Showers) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(showers), _BATCH):
            yield self.prepare(AUTOENCODER, showers[start : start + _BATCH])

    def _energies(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Of the layers, (B, L) in MeV, float64."""
        return pre.layer_sums(batch["cells"].double(), self.dataset.calorimeter.slices)

    def _fractions(self, batch: Mapping[str, Tensor]) -> Tensor:
        return pre.normalise_layers(batch["cells"], self.dataset.calorimeter.slices)

    def _u(self, batch: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """The numbers (B, L) of the energies' flow, not standardised."""
        energies, response = self._energies(batch), RESPONSE[self.dataset.name]
        u = pre.energy_fractions(energies, batch["incident"], response)
        # Behind the end of a shower each layer takes all there is, which is nothing.
        behind = energies.flip(1).cumsum(1).flip(1)[:, :-1] > 0
        u[:, 1:] = torch.where(behind, u[:, 1:], 1.0)
        return SPREAD.forward(u, torch.rand(u.shape, generator=generator, dtype=u.dtype))

    def _conditions(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self._logs(batch["incident"], self._energies(batch))

    def _logs(self, incident: Tensor, energies: Tensor) -> Tensor:
        """Conditions (B, 1 + L), not standardised, of energies in MeV."""
        layers = pre.log_layers(pre.to_units(energies.double()), 0.0)
        return torch.cat([pre.log_incident(incident, 1.0)[:, None], layers], dim=1)

    def _standard_told(self, incident: Tensor, energies: Tensor) -> Tensor:
        return pre.standardise(self._logs(incident, energies), *self._moments("told"))

    def _told(self, batch: Mapping[str, Tensor]) -> Tensor:
        told = self._standard_told(batch["incident"], self._energies(batch))
        return told.to(self.precision)

    def _moments(self, name: str) -> tuple[Tensor, Tensor]:
        return self.constants[f"{name}.mean"], self.constants[f"{name}.deviation"]

    def _restored(self, name: str, values: np.ndarray) -> Tensor:
        mean, deviation = (each.double() for each in self._moments(name))
        return pre.unstandardise(torch.as_tensor(values).double(), mean, deviation)

    def _encoded(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What the encoder finds: mean and log variance (B, latent)."""
        seen = self.structure.decoder.seen(self._fractions(batch), *self._cell_norm())
        return self.networks[AUTOENCODER].encode(seen.to(self.precision), self._told(batch))

    def _said(self, network: ManifoldVAE, latent: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        centre, spread = (each.to(latent) for each in self._cell_norm())
        said, width = network.decode(latent, told)
        return said * spread + centre, width

    def _cell_norm(self) -> tuple[Tensor, Tensor]:
        rings = torch.tensor(self.dataset.calorimeter.rings)
        centre, spread = self._moments("cells")
        return centre[rings], spread[rings]

    def _lowest(self, energies: Tensor) -> Tensor:
        """Log fraction (B, V) that a cell at the threshold has; positive in empty layers."""
        lowest = (self.dataset.threshold / energies).log().clamp(max=EMPTY)
        return lowest[:, torch.tensor(self.dataset.calorimeter.layer_index)]


SAMPLERS: dict[str, Callable[[CouplingFlow, str], Inverse]] = {"fused": fused, "eager": eager}
