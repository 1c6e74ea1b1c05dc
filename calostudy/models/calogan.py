"""CaloGAN: the first generative network of whole showers, adversarial, with an image per layer.

Paganini, de Oliveira & Nachman, arXiv:1712.10321; networks in `calostudy.networks.lagan`. Random
numbers times the incident energy become an image of each layer; what is in one layer helps to make
the next. The discriminator tells real showers from generated ones (Goodfellow et al.,
arXiv:1406.2661), the deposited energy of which is to be the incident one. Both networks learn in
the same step from losses of their own, the discriminator more slowly and in every other step only.

Size `paper` has the published structure: 29,726,376 numbers of the generator, of which 96 are
moving averages and not trained. Size `embedded` is trained in minutes and no published
configuration: the same steps in fewer channels; the incident energy is one more number that the
generator is given; what it makes, and the discriminator sees, are square roots, in which small
cells count, of energies in units of the incident one; the discriminator is told the energies of the
layers as if the incident one were the highest, and the incident one beside; no energy is asked for
but that of real showers. Showers are mirrored at random while training.

The epoch that is kept is that of the lowest energy score of the roots, as in
`calostudy.models.voxel_gan`.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from calostudy import preprocessing as pre
from calostudy.energies import GEV
from calostudy.models.one_pass import OnePass, precision_of
from calostudy.models.surrogate import TrainingRecipe
from calostudy.networks.adversarial import ENERGY_SCORE, Adversaries, energy_score
from calostudy.networks.lagan import Discriminator, Generator, Widths
from calostudy.samplers.noise import Noise
from calostudy.showers import Showers

GAN = "gan"
HIGHEST = 100.0
"""GeV, of incident energies."""

LATENT = {"paper": 1024, "embedded": 64}
"""Random numbers by size."""

WIDTHS: dict[str, Widths] = {
    "paper": Widths(LATENT["paper"], (36, 16, 6), (64, 16, 8, 8), 10, 10),
    "embedded": Widths(LATENT["embedded"] + 1, (8, 8, 6), (12, 8, 8, 8), 5, 5, 1),
}
"""By size."""

RECIPES: dict[str, TrainingRecipe] = {
    "paper": TrainingRecipe(
        50,
        256,
        2e-4,
        "multistep",
        {"milestones": (), "factor": 1.0},
        validation=0.1,
        beta=0.5,
        rates={"critic": 0.1},
    ),
    "embedded": TrainingRecipe(
        60,
        64,
        4e-4,
        "cosine",
        {"rise": 0.05, "end": 1e2},
        validation=0.1,
        average=0.999,
        beta=0.5,
        rates={"critic": 0.25},
    ),
}
"""By size."""

FAR = {"paper": 0.05, "embedded": 0.0}
"""What each GeV between deposited and incident energy adds to the generator's loss, by size."""


class CaloGAN(OnePass):
    """CaloGAN on the three particles of its own calorimeter."""

    name: ClassVar[str] = "calogan"
    datasets: ClassVar[tuple[str, ...]] = ("calogan-eplus", "calogan-gamma", "calogan-piplus")

    @property
    def storage(self) -> torch.dtype:
        return torch.int8 if self.embedded else super().storage

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size]

    def build_networks(self) -> dict[str, nn.Module]:
        sizes = [layer.shape for layer in self.dataset.calorimeter.layers]
        widths = WIDTHS[self.size]
        return {GAN: Adversaries(Generator(sizes, widths), Discriminator(sizes, widths))}

    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """Cells (N, V) and incident energies (N,), both in GeV; cells below the threshold are 0."""
        showers = showers.above_threshold(self.dataset.threshold)
        return {
            "cells": torch.as_tensor(np.asarray(showers.cells / GEV, np.float32)),
            "incident": torch.as_tensor(np.asarray(showers.incident_energy / GEV, np.float32)),
        }

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss (B,) of the generator, to which in every other step of a training that of the
        discriminator is added: neither's gradient reaches the other."""
        batch = self.turned(network, batch)
        nets, incident = self.networks[network], batch["incident"].to(self.precision)
        generated = self._generated(incident)
        fixed = {name: p.detach() for name, p in nets.critic.named_parameters()}
        seen = self._seen(generated, incident)
        found = softplus(-functional_call(nets.critic, fixed, seen))
        found = found + FAR[self.size] * (seen[1].sum(dim=1) - incident).abs()
        if nets.training and torch.rand(()) < 0.5:
            return found
        real = self._numbers(batch["cells"].to(self.precision), incident)
        told = nets.critic(*self._seen(generated.detach(), incident))
        return found + softplus(told) + softplus(-nets.critic(*self._seen(real, incident)))

    def monitor(self, network: str, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The energy score of square roots of energies in units of the incident one."""
        incident = batch["incident"].to(self.precision)
        shares = [self._cells(self._generated(incident), incident) for _ in range(2)]
        shares = [batch["cells"], *shares]
        real, one, other = ((cells / incident[:, None]).sqrt() for cells in shares)
        return {ENERGY_SCORE: energy_score(real, one, other)}

    def chosen_by(self, network: str) -> str:
        return ENERGY_SCORE

    @property
    def noise(self) -> tuple[Noise, ...]:
        return (Noise("noise", LATENT[self.size]),)

    def decoder(self, network: str) -> nn.Module:
        return self.networks[network].generator

    def cells_from(
        self, decoders: Mapping[str, nn.Module], incident: Tensor, noise: Tensor
    ) -> Tensor:
        dtype = precision_of(decoders[GAN])
        noise, incident = noise.to(dtype), (incident / GEV).to(dtype)
        return GEV * self._cells(decoders[GAN](self._inputs(noise, incident)), incident).double()

    def _inputs(self, noise: Tensor, incident: Tensor) -> Tensor:
        """What the generator is given, (N, inputs); incident (N,) in GeV."""
        if self.embedded:
            return torch.cat([noise, (incident / 10.0).log10()[:, None]], dim=1)
        return noise * (incident / HIGHEST)[:, None]

    def _generated(self, incident: Tensor) -> Tensor:
        noise = torch.randn(len(incident), LATENT[self.size]).to(incident)
        return self.networks[GAN].generator(self._inputs(noise, incident))

    def _cells(self, numbers: Tensor, incident: Tensor) -> Tensor:
        """Cells (N, V) in GeV of the generator's numbers; those below the threshold are 0."""
        if self.embedded:
            numbers = self._unit * numbers.square() * incident[:, None]
        return torch.where(numbers >= self.dataset.threshold / GEV, numbers, 0.0)

    def _numbers(self, cells: Tensor, incident: Tensor) -> Tensor:
        """The numbers that a generator would make of cells (N, V) in GeV."""
        return (cells / incident[:, None] / self._unit).sqrt() if self.embedded else cells

    @property
    def _unit(self) -> float:
        """In size `embedded`, the energy of a cell whose number is 1, in units of the incident one:
        untrained, the generator makes about the incident energy."""
        return 2.0 / self.dataset.calorimeter.cells

    def _seen(self, numbers: Tensor, incident: Tensor) -> tuple[Tensor, ...]:
        """What the discriminator is shown of numbers (N, V): in size `embedded`, energies as if the
        incident one were the highest, and its logarithm."""
        cells = self._cells(numbers, incident)
        numbers = torch.where(cells > 0, numbers, 0.0)
        energies = pre.layer_sums(cells, self.dataset.calorimeter.slices)
        if not self.embedded:
            return numbers, energies, incident, incident.new_zeros(len(incident), 0)
        scale = HIGHEST / incident
        told = (incident / 10.0).log10()[:, None]
        return numbers, energies * scale[:, None], incident * scale, told
