"""What surrogates of point sets share: two numbers of each set, and points between cells and the
space that a network sees.

A coupling flow describes the number of points and the sum of their energies given the incident
energy. A point is three numbers: its layer and its radius, whole numbers spread over the real line
by their frequencies (`Dequantiser`), and the logarithm of its part of the sum, standardised. The
angle is not described: showers are symmetric about their axis, and the points of a ring take its
cells in random order, each cell once (`in_rings`). So two points never meet in one voxel before
the ring is full, and where a shower is across the axis is chance alone.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from calostudy.models.surrogate import Surrogate
from calostudy.networks.coupling import CouplingFlow, CouplingStructure
from calostudy.networks.spline import SplineSettings
from calostudy.pointsets import Dequantiser, PointSets, in_rings, points_of
from calostudy.samplers.coupling import Inverse, eager, fused
from calostudy.samplers.noise import normal, uniform
from calostudy.showers import Showers

NUMBERS, POINTS = "numbers", "points"
FEATURES = 3  # of a point: layer, radius, energy
GIVEN = 3  # of a set: incident energy, number of points, sum of their energies

_COLUMNS = ("layers", 0), ("radii", 2)  # constants that spread them, where they are in a place
_LEAST = 1e-6  # MeV above the threshold, where there is nothing


def couplings(blocks: int, hidden: int, bins: int) -> CouplingStructure:
    """Coupling blocks as the flows of these models have them."""
    return CouplingStructure(blocks, hidden, 4, spline(bins), by_shower=False, act_norm=False)


def spline(bins: int) -> SplineSettings:
    """Splines of so many bins between -5 and 5."""
    return SplineSettings(bins, 5.0, 1e-3, 1e-3, 1e-3)


@dataclass(frozen=True)
class Sets:
    """Sets as a network sees them: `given` (N, 3) of each set, `values` (M, 3) of each point,
    `shower` (M,) and `counts` (N,) as in `PointSets`."""

    given: Tensor
    values: Tensor
    shower: Tensor
    counts: Tensor


class PointSurrogate(Surrogate):
    """A surrogate of point sets on datasets 2 and 3 of the CaloChallenge.

    A family says what networks there are beside the flow of two numbers, their losses, and how
    sets are drawn.
    """

    datasets: ClassVar[tuple[str, ...]] = ("ds2", "ds3")

    @property
    def network_evaluations(self) -> int:
        """One pass."""
        return 1

    @property
    def most_points(self) -> int:
        """More points than this are never drawn."""
        return self.dataset.calorimeter.cells

    @property
    @abstractmethod
    def numbers(self) -> CouplingStructure:
        """The flow of two numbers."""

    def numbers_flow(self) -> CouplingFlow:
        """A fresh one."""
        return CouplingFlow(2, 1, self.numbers, self.seed)

    @abstractmethod
    def draw_sets(
        self, given: np.ndarray, counts: list[int], seed: int, first: int, **how
    ) -> Iterator[Tensor]:
        """The values (M, 3) of one set after the other, float32 or float64.

        given (N, 3), float64: what is known of each set. Set i depends on its own row of `given`,
        its number of points, the seed and `first` + i alone. how: the sampler and precision asked
        for, or None.
        """

    # ---- what the networks see --------------------------------------------------------

    def initial_constants(self) -> dict[str, Tensor]:
        """Shares of the points in layers and radii; mean and deviation of the conditions (the
        logarithms of incident energy, number of points, sum) and of the points' energies."""
        layers, _, radii = self.dataset.calorimeter.shape
        moments = torch.tensor([[0.0], [1.0]])
        return {
            "layers": torch.full((layers,), 1.0 / layers),
            "radii": torch.full((radii,), 1.0 / radii),
            "given": moments.repeat(1, GIVEN),
            "energy": moments.repeat(1, 1),
        }

    def fit_constants(self, showers: Showers) -> None:
        """Count the points of the training showers."""
        batch = self.prepare(POINTS, showers)
        points = points_of(batch["cells"], self.dataset.calorimeter)
        for name, column in _COLUMNS:
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

    def sets(self, batch: Mapping[str, Tensor]) -> Sets:
        """The sets of a batch; what is discrete is spread by random numbers of torch's."""
        points = points_of(batch["cells"], self.dataset.calorimeter)
        counts, sums = self._sums(points)
        uniform = torch.rand(len(counts), dtype=torch.float64)
        given = self._standard("given", self._given(batch["incident"], counts, sums, uniform))
        values = [
            Dequantiser(self.constants[name]).forward(
                points.place[:, column], torch.rand(len(points.shower), dtype=torch.float64)
            )
            for name, column in _COLUMNS
        ]
        values.append(self._standard("energy", self._logs(points)))
        return Sets(
            given.to(self.precision),
            torch.stack(values, dim=1).to(self.precision),
            points.shower,
            counts,
        )

    def numbers_loss(self, given: Tensor) -> Tensor:
        """Negative log density of the two numbers, over 2: (B,)."""
        return -self.networks[NUMBERS].log_prob(given[:, 1:], given[:, :1]) / 2

    def _above(self, points: PointSets) -> Tensor:
        """Energies of points above the threshold, MeV, float64."""
        return (points.energy.double() - self.dataset.threshold).clamp_min(_LEAST)

    def _sums(self, points: PointSets) -> tuple[Tensor, Tensor]:
        """Points of each shower and the sum of their energies above the threshold, (N,) each."""
        sums = torch.zeros(points.showers, dtype=torch.float64)
        return points.counts, sums.index_add(0, points.shower, self._above(points))

    def _logs(self, points: PointSets) -> Tensor:
        """Logarithm of each point's part of the sum, (M,)."""
        _, sums = self._sums(points)
        return (self._above(points) / sums[points.shower]).log()

    def _given(self, incident: Tensor, counts: Tensor, sums: Tensor, uniform) -> Tensor:
        """The logarithms of the incident energy, of the number of points over its root and of the
        response, (N, 3); a uniform number makes a density of whole numbers."""
        many = (counts + uniform).clamp_min(1e-2).log() - 0.5 * incident.log()
        response = (sums.clamp_min(_LEAST) / incident).log()
        return torch.stack([incident.log(), many, response], dim=1)

    def _standard(self, name: str, values: Tensor) -> Tensor:
        mean, deviation = self.constants[name].double()
        return (values - mean) / deviation

    def _raw(self, name: str, values: Tensor) -> Tensor:
        mean, deviation = self.constants[name].double()
        return values.double() * deviation + mean

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
        energy = np.atleast_1d(np.asarray(incident_energy, np.float64))
        n, calorimeter = len(energy), self.dataset.calorimeter
        of_numbers = self.inverse_of(NUMBERS, SAMPLERS, sampler, precision)
        ones, incident = torch.ones(n, dtype=torch.float64), torch.as_tensor(energy)
        condition = self._standard("given", self._given(incident, ones, ones, 0.0))[:, :1].numpy(
            force=True
        )
        numbers = of_numbers(normal(seed, first, n, 2), condition)
        given = np.concatenate([condition, numbers], axis=1)
        raw = self._raw("given", torch.as_tensor(given))
        counts = (raw[:, 1] + 0.5 * raw[:, 0]).exp().clamp(1, self.most_points).long().tolist()
        sums = (raw[:, 2].exp() * incident).numpy(force=True)
        random = uniform(seed, first, n, calorimeter.cells, stream=2)
        cells = np.zeros((n, calorimeter.cells))
        how = {"sampler": sampler, "precision": precision}
        for i, values in enumerate(self.draw_sets(given, counts, seed, first, **how)):
            ring, share = self._to_points(values)
            at = in_rings(ring, calorimeter.rings, random[i])
            np.add.at(cells[i], at, share * (sums[i] / share.sum()) + self.dataset.threshold)
        showers = Showers(calorimeter, energy, cells.astype(np.float32))
        return showers.above_threshold(self.dataset.threshold)

    def _to_points(self, values: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The rings (M,) and the parts of the sum (M,) of what was drawn, (M, 3)."""
        layer, radius = (
            Dequantiser(self.constants[name]).inverse(values[:, i])
            for i, (name, _) in enumerate(_COLUMNS)
        )
        share = self._raw("energy", values[:, 2:]).squeeze(1).clamp(max=0.0).exp()
        return (layer * len(self.constants["radii"]) + radius).numpy(force=True), share.numpy(
            force=True
        )


def point_noise(seed: int, shower: int, count: int, features: int) -> np.ndarray:
    """Standard normal noise (count, features) of the points of one shower: a stream of its own, of
    which a smaller set has the beginning."""
    return normal(seed, 0, 1, features * count, stream=_POINT_STREAM + shower).reshape(count, -1)


_POINT_STREAM = 3  # of shower 0

SAMPLERS: dict[str, Callable[[CouplingFlow, str], Inverse]] = {"fused": fused, "eager": eager}
