"""CaloClouds II: showers as clouds of points, independent of the cells that they will end up in.

Buhmann et al., arXiv:2309.05704. A flow makes the numbers of a shower from its incident energy:
how many points, the visible energy, where the centre of the energy is, and the shares of the
layers in points and energy. A diffusion in the manner of Karras et al. (arXiv:2206.00364) makes so
many points, each by itself. They are sorted by depth, given to the layers as the first flow says,
and their energies and places are brought to its numbers. `sample` sums the points into the cells of
the calorimeter, `sample_clouds` gives the points.

Size `paper` has the published networks. Differences: positions of points are blurred within their
lattice and energies are logarithms; all numbers are standardised; the number of points is not
corrected afterwards; Adam, a fixed number of epochs.

Size `embedded` has narrow networks, and the numbers of a shower enter its flow as normal numbers,
given the incident energy (`calostudy.quantiles`); it is trained on 600 showers.

A training needs the points of its showers. They are those of the data set's training clouds, found
by their incident energies.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from calostudy.clouds import FACTOR, MAXIMUM, PointClouds
from calostudy.datasets import load_clouds
from calostudy.energies import GEV
from calostudy.errors import DataError
from calostudy.models.diffusion import Diffusion, ShowerNoise
from calostudy.models.surrogate import TrainingRecipe
from calostudy.networks.point_diffusion import PointNetwork, ShowerFlow
from calostudy.quantiles import ConditionalQuantiles
from calostudy.samplers.diffusion import (
    DEVIATION,
    Process,
    Sampling,
    karras_path,
    preconditioned,
)
from calostudy.showers import Showers

SHOWER, POINTS = "shower", "points"

PATH = karras_path()

WIDTHS = {"paper": (128, 256, 512, 256, 128), "embedded": (64, 96, 96, 64)}
"""Of the network of the points, by size."""

FLOW = {"paper": (10, 650, 260), "embedded": (2, 48, 16)}
"""Blocks, and widths of the couplings and of the splines of the flow, by size."""

SUBSET = 1024
"""Points of a shower in a step of the training."""

_LEVEL = -1.2, 1.2
"""Mean and deviation of the logarithm of the noise level in training."""

RECIPES: dict[str, dict[str, TrainingRecipe]] = {
    "paper": {
        SHOWER: TrainingRecipe(350, 256, 1e-4, "cosine", {"rise": 0.1, "end": 1e1}, 0.1, 10.0),
        POINTS: TrainingRecipe(
            4000, 128, 1e-4, "cosine", {"rise": 0.01, "end": 1e0}, 0.05, average=0.9999
        ),
    },
    "embedded": {
        SHOWER: TrainingRecipe(
            120, 64, 1e-3, "cosine", {"rise": 0.1, "end": 1e2}, 0.15, 10.0, average=0.99
        ),
        POINTS: TrainingRecipe(
            60, 16, 2e-3, "cosine", {"rise": 0.1, "end": 1e2}, 0.1, 10.0, average=0.998
        ),
    },
}
"""By size and network."""

_COUNT, _VISIBLE, _CENTRE = 0, 1, slice(2, 5)


def _eager(network: nn.Module, precision: str) -> nn.Module:
    """A copy of the network in a precision."""
    return copy.deepcopy(network).to(getattr(torch, precision))


class CaloClouds(Diffusion):
    """CaloClouds II on the photons of ILD."""

    name: ClassVar[str] = "caloclouds"
    datasets: ClassVar[tuple[str, ...]] = ("ild-photons",)
    VOXELS: ClassVar[str] = POINTS
    SAMPLERS: ClassVar[Mapping[str, Callable[[nn.Module, str], Any]]] = {"eager": _eager}

    @property
    def samplers(self) -> Mapping[str, Callable[[nn.Module, str], Any]]:
        # No two showers have as many points.
        return self.SAMPLERS

    @property
    def at_once(self) -> int:
        return 1

    @property
    def processes(self) -> Mapping[str, Process]:
        return {POINTS: Process(PATH, "edm")}

    @property
    def samplings(self) -> Mapping[str, Sampling]:
        return {POINTS: Sampling("heun", 25)}

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][network]

    @property
    def layers(self) -> int:
        return len(self.dataset.calorimeter.layers)

    def build_networks(self) -> dict[str, nn.Module]:
        return {
            SHOWER: ShowerFlow(5 + 2 * self.layers, *FLOW[self.size], seed=self.seed),
            POINTS: PointNetwork(WIDTHS[self.size], conditions=2),
        }

    # ---- what the networks see ------------------------------------------------------------

    def initial_constants(self) -> dict[str, Tensor]:
        """The distributions of a shower's numbers, given its energy; mean and deviation of the
        points' numbers."""
        untrained = ConditionalQuantiles.untrained(5 + 2 * self.layers)
        return {
            **untrained.constants("shower"),
            "points.mean": torch.zeros(4),
            "points.deviation": torch.ones(4),
        }

    def fit_constants(self, showers: Showers) -> None:
        clouds = self._clouds_of(showers)
        values = torch.as_tensor(self._point_numbers(clouds))
        self.constants["points.mean"] = values.mean(0).float()
        self.constants["points.deviation"] = values.std(0).float()
        logs = torch.as_tensor(clouds.incident_energy).log()
        found = ConditionalQuantiles.fitted(torch.as_tensor(self._numbers(clouds)), logs)
        self.constants.update(found.constants("shower"))

    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """Incident energies (N,) in MeV and, of the flow, the numbers (N, D) of the showers; of the
        diffusion, the points' numbers (N, P, 4) and how many there are (N,)."""
        clouds = self._clouds_of(showers)
        incident = torch.as_tensor(clouds.incident_energy)
        if network == SHOWER:
            return {"incident": incident, "numbers": torch.as_tensor(self._numbers(clouds))}
        counts = torch.as_tensor(clouds.counts)
        points = torch.zeros(len(clouds), int(counts.max()), 4)
        column = np.arange(len(clouds.energy)) - np.repeat(clouds.offsets[:-1], clouds.counts)
        points[clouds.shower, column] = torch.as_tensor(self._point_numbers(clouds)).float()
        return {"incident": incident, "points": points, "counts": counts}

    def _clouds_of(self, showers: Showers) -> PointClouds:
        """The training clouds of these showers, in their order. DataError where one is missing."""
        clouds = load_clouds(self.dataset.name, "train")
        order = np.argsort(clouds.incident_energy)
        known = clouds.incident_energy[order]
        place = np.clip(np.searchsorted(known, showers.incident_energy), 1, len(known) - 1)
        below = showers.incident_energy - known[place - 1] < known[place] - showers.incident_energy
        place = place - below
        off = np.abs(known[place] / showers.incident_energy - 1.0)
        if off.max() > 1e-6:
            raise DataError(
                f"{self.dataset.name}: {int((off > 1e-6).sum())} of {len(showers)} showers have no "
                "point clouds among the training clouds, expected the data set's training showers"
            )
        return clouds[order[place]]

    def _numbers(self, clouds: PointClouds) -> np.ndarray:
        """Of each shower: points, visible energy in MeV, its centre (eta, phi, depth, mm), shares
        of the layers in points and in energy: (N, D)."""
        counts, energies = clouds.per_layer(self.dataset.calorimeter)
        visible = clouds.total_energy()
        centre = [
            np.bincount(clouds.shower, clouds.energy * x, minlength=len(clouds)) / visible
            for x in clouds.position.T
        ]
        points, sums = (each.sum(axis=1, keepdims=True) for each in (counts, energies))
        return np.column_stack([points, visible, *centre, counts / points, energies / sums])

    def _point_numbers(self, clouds: PointClouds) -> np.ndarray:
        """Eta and phi in mm, layer with a fraction, logarithm of the energy in MeV: (M, 4). Places
        are blurred within the lattice that points lie on."""
        geometry = self.dataset.calorimeter
        pitch = [np.diff(axis).mean() / FACTOR for axis in geometry.layers[0].edges]
        random = np.random.default_rng(0).random((len(clouds.energy), 3)) - [0.5, 0.5, 0.0]
        places = clouds.position[:, :2] + random[:, :2] * pitch
        depth = clouds.layer_index(geometry) + random[:, 2]
        return np.column_stack([places, depth, np.log(clouds.energy)])

    @property
    def _quantiles(self) -> ConditionalQuantiles:
        return ConditionalQuantiles.of_constants(self.constants, "shower")

    @staticmethod
    def _incident(incident: Tensor) -> Tensor:
        """The incident energy (B,) in MeV as a condition (B, 1)."""
        return incident[:, None] / (50.0 * GEV) - 1.0

    def _conditions(self, incident: Tensor, counts: Tensor) -> Tensor:
        """Of the points: incident energy and number of points, (B, 2)."""
        return torch.cat([self._incident(incident), counts[:, None] / (0.5 * MAXIMUM) - 1.0], dim=1)

    # ---- training -----------------------------------------------------------------------

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Of the flow, the negative log density (B,) of a shower's numbers; of the diffusion, the
        mean squared error (B,) of what the network says of some of its points."""
        incident = batch["incident"]
        if network == SHOWER:
            numbers = self._quantiles.forward(batch["numbers"], incident.log())
            given = self._incident(incident).to(self.precision)
            return -self.networks[SHOWER].log_prob(numbers.to(self.precision), given)
        data, conditions = self._some_points(batch)
        mean, deviation = _LEVEL
        level = (mean + deviation * torch.randn(len(data))).exp()[:, None, None]
        noise = torch.randn_like(data)
        skip, out = preconditioned(level)
        noisy = data + level * noise
        said = self._say(self.networks[POINTS], noisy, level, conditions)
        return (said - (data - skip * noisy) / out).square().flatten(1).mean(1)

    def _some_points(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Random points (B, `SUBSET`, 4) of each shower as the network sees them; conditions."""
        counts = batch["counts"]
        chosen = (torch.rand(len(counts), SUBSET) * counts[:, None]).long()
        points = batch["points"].gather(1, chosen[..., None].expand(-1, -1, 4))
        return self._standard(points), self._conditions(batch["incident"], counts).float()

    def _standard(self, points: Tensor) -> Tensor:
        return (
            DEVIATION
            * (points - self.constants["points.mean"])
            / self.constants["points.deviation"]
        )

    @staticmethod
    def _say(network: Callable, noisy: Tensor, level: Tensor, conditions: Tensor) -> Tensor:
        """What the network says of points (B, P, 4) with noise of levels (B, 1, 1)."""
        scaled = noisy / (level.square() + DEVIATION**2).sqrt()
        return network(scaled, level.flatten().log(), conditions)

    # ---- sampling -----------------------------------------------------------------------

    def cells(
        self,
        incident: Tensor,
        networks: Mapping[str, Any],
        samplings: Mapping[str, Sampling],
        noise: ShowerNoise,
    ) -> Tensor:
        cloud = self._cloud(incident, networks, samplings, noise)
        return torch.as_tensor(cloud.to_showers(self.dataset.calorimeter).cells)

    def sample_clouds(
        self,
        incident_energy: np.ndarray,
        seed: int = 0,
        first: int = 0,
        *,
        solver: str | None = None,
        evaluations: int | None = None,
        precision: str | None = None,
    ) -> PointClouds:
        """The points of the showers that `sample` would put into cells."""
        energies = np.atleast_1d(np.asarray(incident_energy, np.float64))
        options = {"precision": precision, "solver": solver, "evaluations": evaluations}
        clouds = list(self.in_turn(self._cloud, energies, seed, first, **options))
        return PointClouds(
            energies,
            np.cumsum([0, *(len(c.energy) for c in clouds)]),
            np.concatenate([c.position for c in clouds]),
            np.concatenate([c.energy for c in clouds]),
        )

    def _cloud(self, incident: Tensor, networks, samplings, noise: ShowerNoise) -> PointClouds:
        """One shower, of an incident energy (1,)."""
        given = self._incident(incident).to(noise.dtype)
        drawn = networks[SHOWER](noise.of(0, (5 + 2 * self.layers,))(0), given).double()
        numbers = self._quantiles.inverse(drawn, incident.log())[0].numpy(force=True)
        shares, fractions = numbers[5:].clip(0.0).reshape(2, self.layers)
        total = float(np.clip(numbers[_COUNT], 1, MAXIMUM))
        counts = np.round(shares / max(shares.sum(), 1e-9) * total).astype(np.int64)
        if not counts.sum():
            counts[shares.argmax()] = 1
        conditions = self._conditions(incident, torch.tensor([float(counts.sum())]))
        conditions = conditions.to(noise.dtype)
        process, shape = self.processes[POINTS], (int(counts.sum()), 4)

        def predict(x: Tensor, time: float) -> Tensor:
            alpha, sigma = process.path.at(time)
            level = torch.full((1, 1, 1), sigma / alpha, dtype=x.dtype)
            return self._say(networks[POINTS], x / alpha, level, conditions)

        found = samplings[POINTS].solve(process.denoiser(predict), process.path, noise.of(1, shape))
        mean, deviation = (self.constants[f"points.{k}"].double() for k in ("mean", "deviation"))
        points = (mean + deviation * found[0].double() / DEVIATION).numpy(force=True)
        return self._calibrated(incident.item(), points, counts, fractions, numbers)

    def _calibrated(self, energy: float, points, counts, fractions, numbers) -> PointClouds:
        """Points (P, 4) sorted by depth into layers, their energies and centre as they should."""
        points = points[np.argsort(points[:, 2], kind="stable")]
        layer = np.repeat(np.arange(self.layers), counts)
        energies = np.exp(points[:, 3].clip(-14.0, 8.0))
        sums = np.bincount(layer, energies, minlength=self.layers)
        fractions = fractions * (counts > 0)
        wanted = fractions / max(fractions.sum(), 1e-9) * max(numbers[_VISIBLE], 0.0)
        energies = energies * (wanted / np.where(sums > 0, sums, 1.0))[layer]
        places = points[:, :2]
        if energies.sum() > 0:
            centre = (energies[:, None] * places).sum(axis=0) / energies.sum()
            places = places + numbers[_CENTRE][:2] - centre
        middle = np.array([np.mean(each.depth) for each in self.dataset.calorimeter.layers])
        position = np.column_stack([places, middle[layer]])
        return PointClouds(np.array([energy]), np.array([0, len(layer)]), position, energies)
