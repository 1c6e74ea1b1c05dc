"""DNN CaloSim: one autoencoder for the whole shower, layers and cells together.

ATLAS' variational autoencoder in the CaloChallenge (D. Salamani, DalilaSalamani/ATLASDNNCaloSim;
arXiv:2410.21611). A shower is a list of fractions, each in [0, 1]: of every cell in its layer, of
the deposited in the largest energy, of every layer in the deposited energy. Given the incident
energy, perceptrons turn the list into a few latent numbers and back. A shower is one pass of the
decoder.

Size `paper` has the published structure and numbers of parameters (`Means`): softmaxes make the
fractions of each layer, and of the layers, sum to 1; the loss is their cross entropy and a very
small divergence; nothing is drawn after the decoder. The learning rate falls tenfold from stage to
stage, as published; there each stage also has its own batch (1000, 500, 250, then 1000) and ends
when the validation loss does.

Size `embedded` is small enough to be trained in a minute on one processor core, and no published
configuration (`Draws`). A decoder of mean fractions blurs: all cells are hit a little. Here it says
how layers and cells are distributed, as `calostudy.models.calovae_decoders.Hits` has it, and they
are drawn: first the deposited energy and that of the layers, then, given these, the cells. The loss
is the likelihood of just this, with the divergence in full. The condition is the logarithm of the
incident energy; showers are turned and mirrored at random while training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.special import ndtri

from calostudy import preprocessing as pre
from calostudy.models.calovae_decoders import EMPTY, Hits
from calostudy.models.one_pass import OnePass, precision_of
from calostudy.models.surrogate import TrainingRecipe
from calostudy.networks.vae import divergence, draw, perceptron
from calostudy.samplers.noise import Noise
from calostudy.showers import Showers

AUTOENCODER = "vae"

RESPONSE = {"ds1-photons": 3.1, "ds1-pions": 6.0}
"""Largest deposited / incident energy; more is taken for this much (there such showers are left
out)."""

HIGHEST = 2.0**22
"""MeV: the largest incident energy of the public data sets, where the published condition is 1."""


@dataclass(frozen=True)
class Structure:
    """Hyperparameters: widths of the encoder, the decoder's in reverse order; latent numbers."""

    hidden: tuple[int, ...]
    latent: int


STRUCTURE: dict[str, Structure] = {
    "paper": Structure((1500, 1000, 500, 100), 50),
    "embedded": Structure((160, 80), 12),
}
"""By size."""

RECIPES: dict[str, TrainingRecipe] = {
    "paper": TrainingRecipe(
        400,
        1000,
        1e-2,
        "multistep",
        {"milestones": tuple(range(50, 400, 50)), "factor": 0.1},
        validation=0.15,
    ),
    "embedded": TrainingRecipe(
        80,
        64,
        2e-3,
        "onecycle",
        {"rise": 0.3, "start": 10, "end": 1e3},
        validation=0.1,
        clip=500.0,
    ),
}
"""By size."""


class Means(nn.Module):
    """The published autoencoder of fractions (N, V + 1 + L), for layers of `cells` cells."""

    beta = 1e-3  # the published divergence is a mean over the batch of 1000, the rest a sum

    def __init__(self, cells: Sequence[int], structure: Structure):
        super().__init__()
        hidden, latent = structure.hidden, structure.latent
        self.sizes = [*cells, 1, len(cells)]
        fractions = sum(self.sizes)
        self.gather = nn.Sequential(
            *_normed(fractions + 1, *hidden), nn.Linear(hidden[-1], 2 * latent)
        )
        self.spread = nn.Sequential(
            *_normed(latent + 1, *hidden[::-1]),
            nn.Linear(hidden[0], fractions),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(fractions, fractions),
        )

    def loss(self, fractions: Tensor, condition: Tensor, unit: Tensor) -> Tensor:
        """Cross entropy and divergence (N,); condition (N, 1); unit (N, 1): the threshold as a
        fraction of the largest energy."""
        mean, log_variance = self.gather(torch.cat([fractions, condition], 1)).chunk(2, dim=1)
        found = self.shower(draw(mean, log_variance, torch.randn_like(mean)), None, condition, unit)
        crossed = F.binary_cross_entropy(found, fractions, reduction="none").sum(dim=1)
        return crossed + self.beta * divergence(mean, log_variance)

    def shower(
        self, latent: Tensor, random: Tensor | None, condition: Tensor, unit: Tensor
    ) -> Tensor:
        """Fractions (N, V + 1 + L) of latent numbers (N, latent); random (N, V + 1 + L) are uniform
        numbers, not needed here; the rest as for `loss`."""
        said = self.spread(torch.cat([latent, condition], dim=1))
        *cells, total, layers = said.split(self.sizes, dim=1)
        shares = [part.softmax(dim=1) for part in (*cells, layers)]
        return torch.cat([*shares[:-1], total.sigmoid(), shares[-1]], dim=1)


_SLOPE = 0.3  # of Keras' leaky ReLU below zero


def _normed(*sizes: int) -> list[nn.Module]:
    """Linear layers, each with a leaky ReLU and a batch normalisation as Keras has it."""
    steps: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        norm = nn.BatchNorm1d(outputs, eps=1e-3, momentum=0.01)
        steps += [nn.Linear(inputs, outputs), nn.LeakyReLU(_SLOPE), norm]
    return steps


class Draws(nn.Module):
    """The same whose decoder says distributions; methods as `Means` has them.

    Where the numbers of each cell begin and their spread are buffers (V, 3).
    """

    def __init__(self, cells: Sequence[int], structure: Structure):
        super().__init__()
        hidden, latent, layers = structure.hidden, structure.latent, len(cells)
        self.sizes = [sum(cells), 1, layers]
        self.slices = [slice(*ends) for ends in pairwise([0, *accumulate(cells)])]
        self.gather = perceptron(sum(self.sizes) + 1, *hidden, 2 * latent)
        self.energies = perceptron(latent + 1, *hidden[::-1], 2 + 3 * layers)
        self.cells = perceptron(latent + 2 + layers, *hidden[::-1], 3 * sum(cells))
        self.hits = Hits()
        self.register_buffer("centre", torch.zeros(sum(cells), 3))
        self.register_buffer("spread", torch.ones(sum(cells), 3))
        index = [i for i, count in enumerate(cells) for _ in range(count)]
        self.register_buffer("layer", torch.tensor(index), persistent=False)

    def fit(self, fractions: Tensor) -> None:
        """Set the buffers from cells (N, V)."""
        values, hit = self.hits.values(fractions.double())
        count = hit.sum(dim=0).clamp_min(1.0)
        mean = values.sum(dim=0) / count
        deviation = (values.square().sum(dim=0) / count - mean.square()).clamp_min(0.04).sqrt()
        centre, spread = self.hits.norm(hit.mean(dim=0), mean, deviation)
        self.centre.copy_(centre)
        self.spread.copy_(spread)

    def loss(self, fractions: Tensor, condition: Tensor, unit: Tensor) -> Tensor:
        """Minus the log-likelihood, and the divergence, (N,)."""
        cells, total, layers = fractions.split(self.sizes, dim=1)
        seen = self.hits.seen(cells, self.centre, self.spread)
        told = self._told(total, layers, condition)
        mean, log_variance = self.gather(torch.cat([seen, told], dim=1)).chunk(2, dim=1)
        latent = draw(mean, log_variance, torch.randn_like(mean))
        (middle, width), of_layers = self._energies(latent, condition)
        lowest_layers, lowest_cells = self._lowest(total, layers, unit)
        found = 0.5 * ((_log(total[:, 0]) - middle) / width).square() + width.log()
        found = found + self.hits.loss(of_layers, layers, lowest_layers, [])
        found = found + self.hits.loss(self._cells(latent, told), cells, lowest_cells, [])
        return found + divergence(mean, log_variance)

    def shower(self, latent: Tensor, random: Tensor, condition: Tensor, unit: Tensor) -> Tensor:
        """Fractions that the distributions have at the uniform random numbers."""
        random, first, between = random.split(self.sizes, dim=1)
        (middle, width), of_layers = self._energies(latent, condition)
        total = (middle[:, None] + width[:, None] * ndtri(first)).clamp(max=0.0).exp()
        lowest, _ = self._lowest(total, torch.ones_like(between), unit)
        layers = self.hits.drawn(of_layers, between, lowest, [slice(0, between.shape[1])])
        said = self._cells(latent, self._told(total, layers, condition))
        _, lowest = self._lowest(total, layers, unit)
        cells = self.hits.drawn(said, random, lowest, self.slices)
        return torch.cat([cells, total, layers], dim=1)

    def _told(self, total: Tensor, layers: Tensor, condition: Tensor) -> Tensor:
        """What the cells are given besides the latent numbers, (N, 2 + L)."""
        return torch.cat([condition, _log(total), 0.5 * _log(total * layers) + 3.0], dim=1)

    def _energies(self, latent: Tensor, condition: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Mean and width (N,) of the log of the deposited energy; numbers (N, L, 3) of layers."""
        said = self.energies(torch.cat([latent, condition], dim=1))
        middle, width = said[:, 0], said[:, 1].clamp(-5.0, 2.0).exp()
        return (middle - 1.0, width), said[:, 2:].unflatten(1, (-1, 3))

    def _cells(self, latent: Tensor, told: Tensor) -> Tensor:
        said = self.cells(torch.cat([latent, told], dim=1)).unflatten(1, (-1, 3))
        return said * self.spread + self.centre

    def _lowest(self, total: Tensor, layers: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Log fractions at the threshold, of layers (N, L) and cells (N, V)."""
        lowest = _log(unit) - _log(total)
        cells = (lowest - _log(layers))[:, self.layer]
        return lowest.clamp(max=EMPTY).expand_as(layers), cells.clamp(max=EMPTY)


def _log(fractions: Tensor) -> Tensor:
    return fractions.clamp_min(1e-9).log()


class DNNCaloSim(OnePass):
    """DNN CaloSim on dataset 1 of the CaloChallenge; published for its pions."""

    name: ClassVar[str] = "dnn-calosim"
    datasets: ClassVar[tuple[str, ...]] = tuple(RESPONSE)

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size]

    def build_networks(self) -> dict[str, Means | Draws]:
        cells = [layer.cells for layer in self.dataset.calorimeter.layers]
        kind = Draws if self.embedded else Means
        return {AUTOENCODER: kind(cells, STRUCTURE[self.size])}

    def fit_constants(self, showers: Showers) -> None:
        """In size `embedded`, where the numbers of each cell begin and their spread."""
        if self.embedded:
            cells = self._fractions(self.prepare(AUTOENCODER, showers))
            self.networks[AUTOENCODER].fit(cells[:, : self.dataset.calorimeter.cells])

    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """Cells (N, V) and incident energies (N,), both in MeV; cells below the threshold are 0."""
        showers = showers.above_threshold(self.dataset.threshold)
        return {
            "cells": torch.as_tensor(np.asarray(showers.cells, np.float32)),
            "incident": torch.as_tensor(np.asarray(showers.incident_energy, np.float64)),
        }

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss (B,) of the fractions, as the network has it.

        In training, size `embedded` turns and mirrors the showers at random.
        """
        batch = self.turned(network, batch)
        given = self._fractions(batch), *self._given(batch["incident"])
        return self.networks[network].loss(*(each.to(self.precision) for each in given))

    @property
    def noise(self) -> tuple[Noise, ...]:
        calorimeter = self.dataset.calorimeter
        fractions = calorimeter.cells + 1 + len(calorimeter.layers)
        return (
            Noise("noise", STRUCTURE[self.size].latent),
            Noise("hits", fractions, "uniform", stream=1),
        )

    def cells_from(
        self, decoders: Mapping[str, Means | Draws], incident: Tensor, *numbers: Tensor
    ) -> Tensor:
        calorimeter, decoder = self.dataset.calorimeter, decoders[AUTOENCODER]
        given = (each.to(precision_of(decoder)) for each in (*numbers, *self._given(incident)))
        found = decoder.shower(*given).double()
        cells, total, layers = found.split([calorimeter.cells, 1, len(calorimeter.layers)], dim=1)
        deposited = total * RESPONSE[self.dataset.name] * incident[:, None]
        return pre.scale_layers(cells, layers * deposited, calorimeter.slices)

    def _fractions(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What the autoencoder sees, (B, V + 1 + L), float64."""
        cells, slices = batch["cells"].double(), self.dataset.calorimeter.slices
        layers = pre.layer_sums(cells, slices)
        total = layers.sum(dim=1, keepdim=True)
        response = total / (RESPONSE[self.dataset.name] * batch["incident"][:, None])
        shares = pre.normalise_layers(layers, [slice(0, len(slices))])
        return torch.cat([pre.normalise_layers(cells, slices), response.clamp(max=1.0), shares], 1)

    def _given(self, incident: Tensor) -> tuple[Tensor, Tensor]:
        """Conditions and units (B, 1) of incident energies (B,) in MeV."""
        unit = self.dataset.threshold / (RESPONSE[self.dataset.name] * incident)
        condition = incident.log10() - 3.6 if self.embedded else incident / HIGHEST
        return condition[:, None], unit[:, None]
