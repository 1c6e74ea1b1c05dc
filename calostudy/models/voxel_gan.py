"""Adversarial surrogates of cells: perceptrons that make a whole shower of a few random numbers.

A Wasserstein GAN with gradient penalty (Gulrajani et al., arXiv:1704.00028), conditioned on the
incident energy, in the line of ATLAS' FastCaloGAN (ATL-SOFT-PUB-2020-006). Generator and critic
learn in the same step from one loss, the generator in one of several steps only (`RATIO`). A loss
of which two parts pull at both ends says nothing about the showers: the epoch that is kept is that
of the lowest energy score of what the critic sees.

In size `paper` the critic sees what the generator makes and the numbers that the family makes of
real showers. In size `embedded`, which is trained in minutes and is no published configuration, it
sees the same of both, made of cells in MeV above the threshold: square roots, in which small cells
count, of the fractions of cells and of layers in the deposited energy; and the inverse hyperbolic
sine of how far the deposited energy is from its mean at this incident energy, in units of its width
there. Showers are turned and mirrored at random while training.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from calostudy import preprocessing as pre
from calostudy.models.one_pass import OnePass, precision_of
from calostudy.models.surrogate import TrainingRecipe
from calostudy.networks.adversarial import (
    ENERGY_SCORE,
    Adversaries,
    Reversed,
    energy_score,
    slope_error,
)
from calostudy.networks.vae import perceptron
from calostudy.samplers.noise import Noise
from calostudy.showers import Showers

RATIO = {"paper": 5, "embedded": 2}
"""Steps of the critic for each of the generator, by size."""

PENALTY = {"paper": 10.0, "embedded": 1.0}
"""Weight of the gradient penalty, by size."""

DEGREE = 3
"""Of the polynomials of the logarithm of the incident energy that say mean and width."""


@dataclass(frozen=True)
class Structure:
    """Hyperparameters: random numbers; widths of the generator's and the critic's hidden layers;
    the generator's activation; how many of its layers, from the first, have a batch normalisation;
    conditions, of which the first tells the energy and the rest are 0; whether the generator's
    last layer has an activation, too."""

    latent: int
    hidden: tuple[int, ...]
    critic: tuple[int, ...]
    activation: type[nn.Module] = nn.ReLU
    normed: int = 0
    conditions: int = 1
    positive: bool = True


def generator(structure: Structure, outputs: int) -> nn.Sequential:
    """Random numbers and conditions (N, latent + conditions) to numbers (N, outputs)."""
    sizes = structure.latent + structure.conditions, *structure.hidden, outputs
    steps: list[nn.Module] = []
    for i, (inputs, width) in enumerate(pairwise(sizes)):
        steps.append(nn.Linear(inputs, width))
        if i < structure.normed:
            steps.append(nn.BatchNorm1d(width, eps=1e-3, momentum=0.01))  # those of Keras
        if i < len(structure.hidden) or structure.positive:
            steps.append(structure.activation())
    return nn.Sequential(*steps)


class VoxelGAN(OnePass):
    """A family says its structures and recipe, and how the generator's numbers become cells."""

    @property
    def storage(self) -> torch.dtype:
        return torch.int8 if self.embedded else super().storage

    @property
    @abstractmethod
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """The networks and, of each, the lowest and the highest incident energy in MeV; where one
        ends the next begins."""

    @abstractmethod
    def structure(self, network: str) -> Structure:
        """Of a network, in this size."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Numbers that a generator makes."""

    @abstractmethod
    def numbers(self, cells: Tensor, incident: Tensor) -> Tensor:
        """What a generator of size `paper` is to make (N, outputs), of cells (N, V) and incident
        energies (N,), both in MeV."""

    @abstractmethod
    def cells(self, numbers: Tensor, incident: Tensor) -> Tensor:
        """Cells (N, V) in MeV of a generator's numbers, as they are before the threshold."""

    def build_networks(self) -> dict[str, nn.Module]:
        found = {}
        for name in self.ranges:
            structure = self.structure(name)
            seen = self._seen_by_critic + structure.conditions
            critic = perceptron(seen, *structure.critic, 1)
            found[name] = Adversaries(generator(structure, self.outputs), critic)
            for layer in found[name].modules():
                if isinstance(layer, nn.Linear):  # as the originals begin
                    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)
        return found

    @property
    def _seen_by_critic(self) -> int:
        calorimeter = self.dataset.calorimeter
        return calorimeter.cells + len(calorimeter.layers) + 1 if self.embedded else self.outputs

    def initial_constants(self) -> dict[str, Tensor]:
        """Of deposited / incident energy, polynomials of the logarithm of the incident energy that
        say the mean and the logarithm of the width."""
        return {"mean": torch.zeros(DEGREE + 1), "width": torch.zeros(DEGREE + 1)}

    def fit_constants(self, showers: Showers) -> None:
        response = showers.cells.sum(axis=1) / showers.incident_energy
        powers = _powers(torch.as_tensor(showers.incident_energy, dtype=torch.float64)).numpy()

        def fitted(values: np.ndarray) -> np.ndarray:
            return np.linalg.lstsq(powers, values, rcond=None)[0]

        mean = fitted(response)
        distance = np.abs(response - powers @ mean)
        # The mean logarithm of a normal number's distance from 0 is lower than that of its width.
        width = fitted(np.log(distance + 1e-4)) + np.array([0.635, *[0.0] * DEGREE])
        found = {"mean": mean, "width": width}
        self.constants = {k: torch.as_tensor(v, dtype=torch.float32) for k, v in found.items()}

    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """Cells (N, V) and incident energies (N,), both in MeV, of the showers in the network's
        range; cells below the threshold are 0."""
        lowest, highest = self.ranges[network]
        energy = np.asarray(showers.incident_energy, np.float64)
        inside = (energy >= lowest * (1 - 1e-9)) & (energy <= highest * (1 + 1e-9))
        cells = showers.above_threshold(self.dataset.threshold).cells[inside]
        return {
            "cells": torch.as_tensor(np.asarray(cells, np.float32)),
            "incident": torch.as_tensor(energy[inside]),
        }

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss (B,) of the critic: its score of generated showers, less that of real ones, and the
        gradient penalty. In most steps of a training the generator does not learn."""
        batch = self.turned(network, batch)
        nets, incident = self.networks[network], batch["incident"]
        learning = not nets.training or bool(torch.rand(()) < 1.0 / RATIO[self.size])
        with torch.set_grad_enabled(torch.is_grad_enabled() and learning):
            generated = self._generated(network, incident)
        real, condition = self._real(batch), self._condition(network, incident)

        def score(numbers: Tensor) -> Tensor:
            return nets.critic(torch.cat([numbers, condition.to(numbers)], dim=1))[:, 0]

        share = torch.rand(len(real), 1).to(real)
        between = share * real + (1.0 - share) * generated
        difference = score(Reversed.apply(generated)) - score(real)
        return difference + PENALTY[self.size] * slope_error(score, between)

    def monitor(self, network: str, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The energy score of what the critic sees."""
        one, other = (self._generated(network, batch["incident"]) for _ in range(2))
        return {ENERGY_SCORE: energy_score(self._real(batch), one, other)}

    def chosen_by(self, network: str) -> str:
        return ENERGY_SCORE

    @property
    def noise(self) -> tuple[Noise, ...]:
        (latent,) = {self.structure(name).latent for name in self.ranges}
        return (Noise("noise", latent),)

    def decoder(self, network: str) -> nn.Module:
        return self.networks[network].generator

    def cells_from(
        self, decoders: Mapping[str, nn.Module], incident: Tensor, noise: Tensor
    ) -> Tensor:
        """Each generator makes all showers, of which it keeps those of its range."""
        found = None
        for name, (lowest, _) in self.ranges.items():
            given = noise, self._condition(name, incident)
            given = self._inputs(*(each.to(precision_of(decoders[name])) for each in given))
            cells = self.cells(decoders[name](given).double(), incident)
            later = (incident >= lowest)[:, None]
            found = cells if found is None else torch.where(later, cells, found)
        return found

    def _inputs(self, noise: Tensor, condition: Tensor) -> Tensor:
        """What a generator is given: the originals' random numbers are 0.5 ± 0.5."""
        return torch.cat([0.5 + 0.5 * noise, condition], dim=1)

    def _condition(self, network: str, incident: Tensor) -> Tensor:
        """(N, conditions): where the logarithm of the incident energy is in the range, 0 to 1."""
        lowest, highest = self.ranges[network]
        place = ((incident / lowest).log() / np.log(highest / lowest))[:, None]
        rest = [torch.zeros_like(place)] * (self.structure(network).conditions - 1)
        return torch.cat([place, *rest], dim=1)

    def _generated(self, network: str, incident: Tensor) -> Tensor:
        noise = torch.randn(len(incident), self.structure(network).latent)
        condition = self._condition(network, incident).to(noise)
        numbers = self.networks[network].generator(self._inputs(noise, condition))
        if not self.embedded:
            return numbers
        return self._seen(self.cells(numbers.double(), incident), incident)

    def _real(self, batch: Mapping[str, Tensor]) -> Tensor:
        make = self._seen if self.embedded else self.numbers
        return make(batch["cells"].double(), batch["incident"]).to(self.precision)

    def _seen(self, cells: Tensor, incident: Tensor) -> Tensor:
        """What the critic of size `embedded` sees of cells (N, V) in MeV, (N, V + L + 1)."""
        cells = torch.where(cells >= self.dataset.threshold, cells, 0.0)
        layers = pre.layer_sums(cells, self.dataset.calorimeter.slices)
        total = layers.sum(dim=1, keepdim=True)
        middle, width = self._response(incident)
        # Of a generator that is far off, not more than the cells say.
        distance = ((total[:, 0] / incident - middle) / width).asinh()
        fractions = torch.cat([cells, layers], dim=1) / total.clamp_min(self.dataset.threshold)
        # The slope of a square root has no end at 0.
        roots = torch.where(fractions > 0, fractions.clamp_min(1e-12).sqrt(), 0.0)
        return torch.cat([roots, distance[:, None]], dim=1).to(self.precision)

    def _response(self, incident: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and width (N,) of deposited / incident energy."""
        powers = _powers(incident)
        mean, width = (self.constants[k].to(powers) for k in ("mean", "width"))
        return powers @ mean, (powers @ width).exp()


def _powers(incident: Tensor) -> Tensor:
    """Powers (N, DEGREE + 1) of the logarithm of energies (N,) in MeV, of which that of 4.096 GeV
    is 0."""
    return (incident / 4096.0).log()[:, None] ** torch.arange(DEGREE + 1)


def recipes(epochs: int, batch: int, beta: float) -> dict[str, TrainingRecipe]:
    """By size: the published one, whose learning rate stays as it is, and that of minutes."""
    constant = {"milestones": (), "factor": 1.0}
    falling = {"rise": 0.05, "end": 1e2}
    return {
        "paper": TrainingRecipe(
            epochs, batch, 1e-4, "multistep", constant, validation=0.1, beta=beta
        ),
        "embedded": TrainingRecipe(
            120, 32, 5e-4, "cosine", falling, validation=0.1, average=0.999, beta=0.5
        ),
    }
