"""Calo-VQ: showers as sequences of codes.

Liu, Shimmin, Liu, Shlizerman, Li & Hsu (arXiv:2405.06605), on dataset 2. A convolutional
autoencoder on the cylinder turns a shower into a few vectors, each of which the nearest of a
codebook stands for (`calostudy.networks.codes`). A small transformer then learns, given the
incident energy, the sequence of the response, in bins, and of the codes. A shower is a sequence,
code by code, and one pass of the decoder.

Size `paper` has the published structure: as many parameters to generate as published, and with the
discriminator (1,623,505) as many to train. The decoder's numbers become shares of the deposited
energy by a softmax over all cells; the loss is their squared error and the distance from the
codebook. What is left out of its training is the adversarial part, and the very small losses of
centres and widths. The response is drawn within its bin of 0.0013.

Size `embedded` is small enough to be trained in minutes on one processor core, and no published
configuration. A decoder of shares blurs: here it says how each cell is distributed, and cells are
drawn (`calostudy.models.calovae_decoders.Hits`); bins of the response have as many showers each;
showers are turned and mirrored at random while training.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from calostudy import preprocessing as pre
from calostudy.energies import GEV
from calostudy.models.calovae_decoders import EMPTY, Hits, ring_moments
from calostudy.models.surrogate import Surrogate, TrainingRecipe
from calostudy.networks.code_transformer import CodeTransformer, SequenceStructure
from calostudy.networks.codes import CodeAutoencoder, CodeStructure
from calostudy.samplers.codes import SAMPLERS
from calostudy.samplers.compiled import checked_precision
from calostudy.samplers.noise import uniform
from calostudy.samplers.tiles import in_tiles
from calostudy.showers import Showers

AUTOENCODER, PRIOR = "vqvae", "gpt"

_BATCH = 500  # showers that are prepared at a time


@dataclass(frozen=True)
class Shares:
    """The published decoder: one number per cell, the logarithm of its share up to a constant.

    Methods as `Hits` has them; nothing is drawn.
    """

    def values(self, fractions: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(fractions), torch.ones_like(fractions)

    def norm(self, weight: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(mean)[:, None], torch.ones_like(mean)[:, None]

    def seen(self, fractions: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
        return torch.log1p(3e3 * fractions) / 7.0

    def loss(self, said: Tensor, fractions: Tensor, lowest: Tensor, slices: pre.Slices) -> Tensor:
        return (self.drawn(said, None, lowest, slices) - fractions).square().sum(dim=1)

    def drawn(
        self, said: Tensor, random: Tensor | None, lowest: Tensor, slices: pre.Slices
    ) -> Tensor:
        return torch.cat([said[:, place, 0].softmax(dim=1) for place in slices], dim=1)


@dataclass(frozen=True)
class Structure:
    """Hyperparameters of one size: of the autoencoder and of the transformer; `bins` of each number
    that says the energies; what the decoder's numbers are; weight of the codebook's loss."""

    autoencoder: CodeStructure
    prior: SequenceStructure
    bins: int
    decoder: Shares | Hits
    pull: float


STRUCTURE: dict[str, Structure] = {
    "paper": Structure(
        CodeStructure((16, 32, 64, 128, 256), 128, 1024, 256),
        SequenceStructure(64, 2, 2),
        1024,
        Shares(),
        1.0,
    ),
    "embedded": Structure(
        CodeStructure((12, 24, 32, 48, 64), 32, 128, 16, outputs=3, patience=30),
        SequenceStructure(64, 2, 4, dropout=0.05),
        64,
        Hits(),
        100.0,
    ),
}
"""By size."""

RESPONSE = 1.3
"""Largest deposited / incident energy; more is taken for this much."""

_CONSTANT = {"milestones": (), "factor": 1.0}


def brief(epochs: int, rate: float) -> TrainingRecipe:
    """How a small network is trained."""
    options = {"rise": 0.3, "start": 10, "end": 1e3}
    return TrainingRecipe(epochs, 64, rate, "onecycle", options, validation=0.1, clip=500.0)


RECIPES: dict[str, dict[str, TrainingRecipe]] = {
    "paper": {
        AUTOENCODER: TrainingRecipe(600, 256, 5e-4, "multistep", _CONSTANT, validation=0.1),
        PRIOR: TrainingRecipe(600, 256, 8e-4, "multistep", _CONSTANT, validation=0.1),
    },
    "embedded": {AUTOENCODER: brief(24, 2e-3), PRIOR: brief(30, 3e-3)},
}
"""By size and network."""


class CaloVQ(Surrogate):
    """Calo-VQ on dataset 2 of the CaloChallenge."""

    name: ClassVar[str] = "calo-vq"
    datasets: ClassVar[tuple[str, ...]] = ("ds2",)
    layerwise: ClassVar[bool] = False  # whether the energies of the layers have codes of their own

    @property
    def network_evaluations(self) -> int:
        """One pass of the decoder."""
        return 1

    @property
    def structure(self) -> Structure:
        """The hyperparameters."""
        return STRUCTURE[self.size]

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][network]

    @property
    def _numbers(self) -> int:
        """How many numbers say the energies: the response, or as many as there are layers."""
        return len(self.dataset.calorimeter.layers) if self.layerwise else 1

    @property
    def _slices(self) -> pre.Slices:
        """The cells whose fractions sum to 1."""
        calorimeter = self.dataset.calorimeter
        return calorimeter.slices if self.layerwise else [slice(0, calorimeter.cells)]

    def build_networks(self) -> dict[str, nn.Module]:
        structure = self.structure
        autoencoder = CodeAutoencoder(
            self.dataset.calorimeter.shape, structure.autoencoder, int(self.layerwise)
        )
        along, around = autoencoder.places
        vocabulary = max(structure.autoencoder.codes, structure.bins)
        length = self._numbers + along * around
        prior = CodeTransformer(vocabulary, length, structure.prior)
        return {AUTOENCODER: autoencoder, PRIOR: prior}

    def initial_constants(self) -> dict[str, Tensor]:
        """Edges of the bins; where the decoder's numbers begin and their spread in each ring."""
        rings = int(self.dataset.calorimeter.rings.max()) + 1, self.structure.autoencoder.outputs
        edges = torch.linspace(0.0, 1.0, self.structure.bins + 1)
        return {
            "edges": edges.repeat(self._numbers, 1),
            "cells.centre": torch.zeros(rings),
            "cells.spread": torch.ones(rings),
        }

    def fit_constants(self, showers: Showers) -> None:
        if not self.embedded:
            return
        rings = self.dataset.calorimeter.rings
        parts = (self._fractions(batch).double() for batch in self._batches(showers))
        centre, spread = ring_moments(self.structure.decoder, parts, rings)
        self.constants["cells.centre"] = centre.float()
        self.constants["cells.spread"] = spread.clamp_min(1e-2).float()
        numbers = torch.cat([self._to_numbers(batch) for batch in self._batches(showers)])
        places = torch.linspace(0.0, 1.0, self.structure.bins + 1, dtype=numbers.dtype)
        self.constants["edges"] = numbers.quantile(places, dim=0).t().float().contiguous()

    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """Cells (N, V) and incident energies (N,), both in MeV; cells below the threshold are 0."""
        showers = showers.above_threshold(self.dataset.threshold)
        return {
            "cells": torch.as_tensor(np.asarray(showers.cells, np.float32)),
            "incident": torch.as_tensor(np.asarray(showers.incident_energy, np.float64)),
        }

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss (B,): of the autoencoder that of its decoder and of the codebook; of the transformer
        minus the log-probability of the sequence.

        In training, size `embedded` turns and mirrors the showers at random.
        """
        batch = self.turned(network, batch)
        if network == PRIOR:
            codes, condition = self.sequence(batch), self._condition(batch["incident"])
            said = self.networks[PRIOR](codes[:, :-1], condition.to(self.precision))
            return nn.functional.cross_entropy(said.mT, codes, reduction="none").sum(dim=1)
        autoencoder, given = self.networks[AUTOENCODER], self._given(batch)
        found = autoencoder.encode(self._seen(batch), *given)
        vectors, distance = autoencoder.codebook(found)
        said = self._said(autoencoder, vectors, *given)
        lowest = self._lowest(self._energies(batch)).to(said)
        decoder, fractions = self.structure.decoder, self._fractions(batch)
        found = decoder.loss(said, fractions, lowest, self._slices)
        return found + self.structure.pull * distance

    def monitor(self, network: str, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of the autoencoder, how many different codes a shower has."""
        if network == PRIOR:
            return {}
        codes = self.sequence(batch)[:, self._numbers :].sort(dim=1).values
        return {"codes": (codes.diff(dim=1) > 0).sum(dim=1) + 1.0}

    @torch.no_grad()
    def sequence(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The codes (B, T) of showers: of their energies, then of all else."""
        autoencoder, edges = self.networks[AUTOENCODER], self.constants["edges"]
        inner = edges[:, 1:-1].contiguous()
        numbers = self._to_numbers(batch).float().t().contiguous()
        energies = torch.searchsorted(inner, numbers).t()
        found = autoencoder.encode(self._seen(batch), *self._given(batch))
        return torch.cat([energies, autoencoder.codebook.nearest(found).flatten(1)], dim=1)

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

        `sampler` is one of `calostudy.samplers.codes.SAMPLERS`: by default "cached"; "plain" is the
        same function, the yardstick. `precision` of the networks is "float32" or "float64", by
        default that of torch, which a hardware target sets.

        Raises:
            UsageError: there is no such sampler or precision.
        """
        precision = checked_precision(precision)
        energy = np.atleast_1d(np.asarray(incident_energy, np.float64))
        n, calorimeter = len(energy), self.dataset.calorimeter
        draw = self.inverse_of(PRIOR, SAMPLERS, sampler, precision)
        decode = self.compiled.of(self.networks[AUTOENCODER], precision, self._decoder(precision))
        condition = self._condition(torch.as_tensor(energy)).numpy(force=True)
        random = uniform(seed, first, n, self.networks[PRIOR].length)
        codes = in_tiles(draw, first, condition, random)
        inside = uniform(seed, first, n, self._numbers, stream=1)
        cells = np.empty((n, calorimeter.cells), np.float32)
        for start in range(0, n, _BATCH):  # bounds the memory
            part = slice(start, start + _BATCH)
            hits = uniform(seed, first + start, len(energy[part]), calorimeter.cells, stream=2)
            rows = codes[part], inside[part], hits, energy[part]
            cells[part] = in_tiles(decode, first + start, *rows)
        showers = Showers(calorimeter, energy, cells)
        return showers.above_threshold(self.dataset.threshold)

    def _decoder(self, precision: str) -> Callable[[nn.Module], Callable[..., np.ndarray]]:
        """What makes, of the autoencoder, the way from codes to cells in MeV."""
        dtype, slices = getattr(torch, precision), self._slices

        def made(network: CodeAutoencoder) -> Callable[..., np.ndarray]:
            network = copy.deepcopy(network).to(dtype)

            @torch.no_grad()
            def decode(codes, inside, hits, energy):
                codes, inside, hits, energy = map(torch.as_tensor, (codes, inside, hits, energy))
                numbers, rest = codes.split([self._numbers, codes.shape[1] - self._numbers], dim=1)
                edges = self.constants["edges"].double()
                # A transformer may say a code of the other kind.
                numbers = numbers.clamp(max=self.structure.bins - 1)
                rest = rest.clamp(max=self.structure.autoencoder.codes - 1)
                place = torch.arange(self._numbers), numbers
                low, high = edges[place], edges[place[0], place[1] + 1]
                energies = self._from_numbers(low + inside * (high - low), energy)
                vectors = network.codebook.of(rest.unflatten(1, network.places))
                told = self._told(energy, energies)
                said = self._said(network, vectors, *(each.to(dtype) for each in told))
                lowest = self._lowest(energies).to(dtype)
                found = self.structure.decoder.drawn(said, hits.to(dtype), lowest, slices)
                return pre.scale_layers(found, energies.to(dtype), slices).numpy(force=True)

            return decode

        return made

    # ---- energies, fractions, conditions ----------------------------------------------

    def _batches(self, showers: Showers) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(showers), _BATCH):
            yield self.prepare(AUTOENCODER, showers[start : start + _BATCH])

    def _energies(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What the fractions are of, in MeV, float64: the deposited energy (B, 1) or the layers'
        (B, L)."""
        return pre.layer_sums(batch["cells"].double(), self._slices)

    def _fractions(self, batch: Mapping[str, Tensor]) -> Tensor:
        return pre.normalise_layers(batch["cells"], self._slices)

    def _to_numbers(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Numbers in [0, 1] that say the energies, (B, K): the u's, of which the first is the
        response."""
        energies = self._energies(batch)
        u = pre.energy_fractions(energies, batch["incident"], RESPONSE)
        # Behind the end of a shower each layer takes all there is, which is nothing.
        behind = energies.flip(1).cumsum(1).flip(1)[:, :-1] > 0
        u[:, 1:] = torch.where(behind, u[:, 1:], 1.0)
        return u

    def _from_numbers(self, numbers: Tensor, incident: Tensor) -> Tensor:
        """The inverse of `_to_numbers`: energies (B, K) in MeV."""
        return pre.energies_from_fractions(numbers, incident, RESPONSE)

    def _condition(self, incident: Tensor) -> Tensor:
        """Incident energies (B,) in MeV as (B, 1): from -1 at 1 GeV to 1 at 1 TeV."""
        return 2.0 / 3.0 * (incident / GEV).log10()[:, None] - 1.0

    def _told(self, incident: Tensor, energies: Tensor) -> tuple[Tensor, Tensor]:
        """What encoder and decoder are told of showers (B, 1) and of layers (B, told, L)."""
        layers = 0.5 * pre.log_layers(pre.to_units(energies), 4.0)
        count = len(self.dataset.calorimeter.layers)
        layers = layers[:, None] if self.layerwise else layers.new_zeros(len(layers), 0, count)
        return self._condition(incident), layers

    def _given(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        shower, layers = self._told(batch["incident"], self._energies(batch))
        return shower.to(self.precision), layers.to(self.precision)

    def _cell_norm(self) -> tuple[Tensor, Tensor]:
        rings = torch.tensor(self.dataset.calorimeter.rings)
        return self.constants["cells.centre"][rings], self.constants["cells.spread"][rings]

    def _seen(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What the encoder sees of each cell, (B, Z, A, R)."""
        seen = self.structure.decoder.seen(self._fractions(batch), *self._cell_norm())
        return seen.to(self.precision).unflatten(1, self.dataset.calorimeter.shape)

    def _said(self, network: CodeAutoencoder, vectors, shower, layers) -> Tensor:
        """What the decoder says of each cell, (B, V, outputs)."""
        centre, spread = (each.to(vectors) for each in self._cell_norm())
        return network.decode(vectors, shower, layers).flatten(1, 3) * spread + centre

    def _lowest(self, energies: Tensor) -> Tensor:
        """Log fraction (B, V) that a cell at the threshold has; positive where all is empty."""
        lowest = (self.dataset.threshold / energies).log().clamp(max=EMPTY)
        counts = torch.tensor([place.stop - place.start for place in self._slices])
        return lowest.repeat_interleave(counts, dim=1)
