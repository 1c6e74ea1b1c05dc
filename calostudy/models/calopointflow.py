"""CaloPointFlow: showers as sets of points, each set told by a few latent numbers.

Schnake, Krücker & Borras, arXiv:2403.15782 (CaloPointFlow II). A shower is its hit voxels. Three
flows describe it: one the number of points and the sum of their energies given the incident
energy, one the latent numbers that an encoder finds in a set of points, one the points given all
of these. The last is a coupling flow of the points in which every block also knows the mean of the
set (`SetFlow`). Layer and radius are whole numbers and are spread over the real line by their
frequencies (`Dequantiser`); the angle is not modelled: showers are symmetric about their axis, and
the points of a ring take its cells in random order, each cell once. So two points never meet in
one voxel before the ring is full, and the position of a shower across the axis is chance alone.

Size `paper` has the published structure and number of parameters, but for the flow of two numbers,
here of couplings, there autoregressive (55,716 parameters more). The published number counts one
block of the latent flow; the authors' configuration asks for eight, which would be 40 million.
Other differences: the threshold is taken off the energies first, an option of the authors' code; a
point's energy is a logarithm, not a logit; the flow of two numbers, whose loss is a term of its
own, is trained by itself; Adam without weight decay.

Size `embedded` is small enough to be trained in minutes on one processor core, and no published
configuration.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from calostudy.models.surrogate import Surrogate, TrainingRecipe
from calostudy.networks.coupling import CouplingFlow, CouplingStructure
from calostudy.networks.sets import DeepSet, SetFlow, SetFlowStructure
from calostudy.networks.spline import SplineSettings
from calostudy.networks.vae import draw
from calostudy.pointsets import Dequantiser, in_rings, points_of
from calostudy.samplers.compiled import checked_precision
from calostudy.samplers.coupling import eager, fused
from calostudy.samplers.noise import normal, uniform
from calostudy.showers import Showers

NUMBERS, POINTS = "numbers", "points"

_COLUMNS = ("layers", 0), ("radii", 2)  # constants that spread them, where they are in a place
_FEATURES = 3  # layer, radius, energy
_GIVEN = 3  # incident energy, number of points, sum of the energies
_LEAST = 1e-6  # MeV above the threshold, where there is nothing
_POINT_STREAM = 3  # of the noise of the points of shower 0; one for each shower


def _spline(bins: int) -> SplineSettings:
    return SplineSettings(bins, 5.0, 1e-3, 1e-3, 1e-3)


def _couplings(blocks: int, hidden: int, bins: int) -> CouplingStructure:
    return CouplingStructure(blocks, hidden, 4, _spline(bins), by_shower=False, act_norm=False)


@dataclass(frozen=True)
class Structure:
    """Hyperparameters: how many latent numbers, the flow of two numbers, the encoder (perceptrons
    of the points and of their mean), the latent flow and the point flow."""

    latent: int
    numbers: CouplingStructure
    encoder: tuple[tuple[int, ...], tuple[int, ...]]
    latent_flow: CouplingStructure
    point_flow: SetFlowStructure


class PointModel(nn.Module):
    """Encoder of a set, flow of what it finds, flow of the points."""

    def __init__(self, structure: Structure, seed: int):
        super().__init__()
        latent = structure.latent
        points, reduce = structure.encoder
        self.encoder = DeepSet((_FEATURES, *points), (points[-1], *reduce, 2 * latent))
        self.latent = CouplingFlow(latent, _GIVEN, structure.latent_flow, seed)
        self.points = SetFlow(_FEATURES, _GIVEN + latent, structure.point_flow)


STRUCTURE: dict[str, Structure] = {
    "paper": Structure(
        128,
        _couplings(12, 128, 12),
        ((64, 128, 1024, 1024), (1024, 512, 512)),
        _couplings(1, 1024, 8),
        SetFlowStructure(12, (128, 128, 128), (64, 128, 512), (512, 256, 128), _spline(8)),
    ),
    "embedded": Structure(
        8,
        _couplings(6, 32, 8),
        ((32, 64, 64), (64,)),
        _couplings(4, 48, 8),
        SetFlowStructure(6, (64, 64), (24, 32), (32, 8), _spline(8)),
    ),
}
"""By size; the same for both datasets."""

WEIGHT = {"paper": 1 / 128, "embedded": 1 / 1000}
"""Of the latent numbers' divergence beside the mean log density of a point, by size."""

_COSINE = {"rise": 0.05, "end": 1e3}
RECIPES: dict[str, dict[str, TrainingRecipe]] = {
    "paper": dict.fromkeys(
        (NUMBERS, POINTS), TrainingRecipe(100, 256, 1e-3, "cosine", _COSINE, validation=0.05)
    ),
    "embedded": {
        NUMBERS: TrainingRecipe(60, 64, 2e-3, "cosine", _COSINE, validation=0.1, clip=10.0),
        POINTS: TrainingRecipe(15, 16, 3e-3, "cosine", _COSINE, validation=0.1, clip=10.0),
    },
}
"""By size and network."""


class CaloPointFlow(Surrogate):
    """CaloPointFlow on datasets 2 and 3 of the CaloChallenge."""

    name: ClassVar[str] = "calopointflow"
    datasets: ClassVar[tuple[str, ...]] = ("ds2", "ds3")

    @property
    def network_evaluations(self) -> int:
        """One pass through each block."""
        return 1

    @property
    def structure(self) -> Structure:
        """The hyperparameters."""
        return STRUCTURE[self.size]

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][network]

    def build_networks(self) -> dict[str, nn.Module]:
        return {
            NUMBERS: CouplingFlow(2, 1, self.structure.numbers, self.seed),
            POINTS: PointModel(self.structure, self.seed),
        }

    # ---- what the networks see --------------------------------------------------------

    def initial_constants(self) -> dict[str, Tensor]:
        """Shares of the points in layers and radii; mean and deviation of the conditions (the
        logarithms of incident energy, number of points, sum) and of the points' energies."""
        layers, _, radii = self.dataset.calorimeter.shape
        moments = torch.tensor([[0.0], [1.0]])
        return {
            "layers": torch.full((layers,), 1.0 / layers),
            "radii": torch.full((radii,), 1.0 / radii),
            "given": moments.repeat(1, _GIVEN),
            "energy": moments.repeat(1, 1),
        }

    def fit_constants(self, showers: Showers) -> None:
        """Count the points of the training showers."""
        batch = self.prepare(POINTS, showers)
        points = points_of(batch["cells"], self.dataset.calorimeter)
        for name, column in (("layers", 0), ("radii", 2)):
            count = torch.bincount(points.place[:, column], minlength=len(self.constants[name]))
            self.constants[name] = count.float() / count.sum().clamp_min(1)
        given, energy = self._given(batch["incident"], *self._sums(points), 0.5), self._logs(points)
        for name, values in (("given", given), ("energy", energy[:, None])):
            found = torch.stack([values.mean(dim=0), values.std(dim=0).clamp_min(1e-2)])
            self.constants[name] = found.float()

    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """Cells (N, V) and incident energies (N,), both in MeV; cells below the threshold are 0."""
        showers = showers.above_threshold(self.dataset.threshold)
        return {
            "cells": torch.as_tensor(np.asarray(showers.cells, np.float32)),
            "incident": torch.as_tensor(np.asarray(showers.incident_energy, np.float64)),
        }

    def _above(self, points) -> Tensor:
        """Energies of points above the threshold, MeV, float64."""
        return (points.energy.double() - self.dataset.threshold).clamp_min(_LEAST)

    def _sums(self, points) -> tuple[Tensor, Tensor]:
        """Points of each shower and the sum of their energies above the threshold, (N,) each."""
        sums = torch.zeros(points.showers, dtype=torch.float64)
        return points.counts, sums.index_add(0, points.shower, self._above(points))

    def _logs(self, points) -> Tensor:
        """Logarithm of each point's part of the sum, (M,)."""
        _, sums = self._sums(points)
        return (self._above(points) / sums[points.shower]).log()

    def _given(self, incident: Tensor, counts: Tensor, sums: Tensor, uniform) -> Tensor:
        """The logarithms of the incident energy, of the number of points over its root and of the
        response, (N, 3); a uniform number makes a density of whole numbers."""
        many = (counts + uniform).clamp_min(1e-2).log() - 0.5 * incident.log()
        return torch.stack([incident.log(), many, (sums.clamp_min(_LEAST) / incident).log()], dim=1)

    def _standard(self, name: str, values: Tensor) -> Tensor:
        mean, deviation = self.constants[name].double()
        return (values - mean) / deviation

    def _raw(self, name: str, values: Tensor) -> Tensor:
        mean, deviation = self.constants[name].double()
        return values.double() * deviation + mean

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss (B,): negative log density of the two numbers, over 2; or of the points, mean over
        the points over 3, and the divergence of the latent numbers, weighted."""
        points = points_of(batch["cells"], self.dataset.calorimeter)
        counts, sums = self._sums(points)
        uniform = torch.rand(len(counts), dtype=torch.float64)
        given = self._standard("given", self._given(batch["incident"], counts, sums, uniform))
        given = given.to(self.precision)
        if network == NUMBERS:
            return -self.networks[NUMBERS].log_prob(given[:, 1:], given[:, :1]) / 2
        model, shower = self.networks[POINTS], points.shower
        spread = [
            Dequantiser(self.constants[name]).forward(
                points.place[:, column], torch.rand(len(shower), dtype=torch.float64)
            )
            for name, column in _COLUMNS
        ]
        spread.append(self._standard("energy", self._logs(points)))
        values = torch.stack(spread, dim=1).to(self.precision)
        mean, log_variance = model.encoder(values, shower, counts).chunk(2, dim=1)
        latent = draw(mean, log_variance, torch.randn_like(mean))
        entropy = 0.5 * (log_variance + 1.0 + math.log(2.0 * math.pi)).sum(dim=1)
        divergence = -model.latent.log_prob(latent, given) - entropy
        context = torch.cat([given, latent], dim=1)
        density = model.points.log_prob(values, context, shower, counts)
        mean_density = density.new_zeros(len(counts)).index_add(0, shower, density)
        mean_density = mean_density / (_FEATURES * counts.clamp_min(1))
        return WEIGHT[self.size] * divergence - mean_density

    # ---- sampling ---------------------------------------------------------------------

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

        `sampler` of the flows of numbers is one of `SAMPLERS`: by default "fused", compiled for
        the purpose; "eager" is the same function by plain torch, the yardstick. `precision` of the
        networks is "float32" or "float64", by default that of torch, which a hardware target sets.

        Raises:
            UsageError: there is no such sampler or precision.
        """
        precision = checked_precision(precision)
        energy = np.atleast_1d(np.asarray(incident_energy, np.float64))
        n, calorimeter = len(energy), self.dataset.calorimeter
        of_numbers = self.inverse_of(NUMBERS, SAMPLERS, sampler, precision)
        make = SAMPLERS[sampler or next(iter(SAMPLERS))]
        points = self.networks[POINTS]
        key = sampler, precision
        of_latent = self.compiled.of(points.latent, key, lambda net: make(net, precision))
        set_flow = self.compiled.of(points.points, precision, _in_precision(precision))

        ones = torch.ones(n, dtype=torch.float64)
        incident = torch.as_tensor(energy)
        given = self._standard("given", self._given(incident, ones, ones, 0.0))[:, :1].numpy()
        numbers = of_numbers(normal(seed, first, n, 2), given)
        given = np.concatenate([given, numbers], axis=1)
        noise = normal(seed, first, n, self.structure.latent, stream=1)
        context = torch.as_tensor(np.concatenate([given, of_latent(noise, given)], axis=1))
        random = uniform(seed, first, n, calorimeter.cells, stream=2)

        raw = self._raw("given", torch.as_tensor(given))
        counts = (raw[:, 1] + 0.5 * raw[:, 0]).exp().clamp(1, calorimeter.cells).long().tolist()
        sums = (raw[:, 2].exp() * incident).numpy()
        cells = np.zeros((n, calorimeter.cells))
        # One set at a time: a product of matrices may round differently in another batch.
        for i, count in enumerate(counts):
            noise = normal(seed, 0, 1, _FEATURES * count, stream=_POINT_STREAM + first + i)
            values = set_flow(noise.reshape(count, _FEATURES), context[i : i + 1])
            ring, share = self._to_points(values)
            at = in_rings(ring, calorimeter.rings, random[i])
            deposited = share * (sums[i] / share.sum()) + self.dataset.threshold
            np.add.at(cells[i], at, deposited)
        showers = Showers(calorimeter, energy, cells.astype(np.float32))
        return showers.above_threshold(self.dataset.threshold)

    def _to_points(self, values: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The rings (M,) and the parts of the sum (M,) of what the flow draws, (M, 3)."""
        layer, radius = (
            Dequantiser(self.constants[name]).inverse(values[:, i])
            for i, (name, _) in enumerate(_COLUMNS)
        )
        share = self._raw("energy", values[:, 2:]).squeeze(1).clamp(max=0.0).exp()
        return (layer * len(self.constants["radii"]) + radius).numpy(), share.numpy()


def _in_precision(precision: str):
    """What makes of a flow of sets a function of noise (M, F) and one set's context (1, C)."""

    def make(flow: SetFlow):
        dtype = getattr(torch, precision)
        flow = copy.deepcopy(flow).to(dtype).eval()

        @torch.no_grad()
        def inverse(noise: np.ndarray, context: Tensor) -> Tensor:
            shower = torch.zeros(len(noise), dtype=torch.long)
            counts = torch.tensor([len(noise)])
            return flow.inverse(torch.as_tensor(noise).to(dtype), context.to(dtype), shower, counts)

        return inverse

    return make


SAMPLERS = {"fused": fused, "eager": eager}
