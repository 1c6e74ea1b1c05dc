"""What all surrogates have in common that go from noise to showers in many small steps."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from calostudy.models.surrogate import Surrogate
from calostudy.samplers.compiled import checked_precision
from calostudy.samplers.diffusion import Process, Sampling
from calostudy.samplers.noise import normal
from calostudy.showers import Showers

STREAMS = 1 << 16
"""More than any solver has steps: streams of random numbers that one network may use."""


@dataclass(frozen=True)
class ShowerNoise:
    """Standard normal numbers of one shower, by network and step of the solver."""

    seed: int
    shower: int
    dtype: torch.dtype

    def of(self, network: int, shape: tuple[int, ...]) -> Callable[[int], Tensor]:
        """Those of a network, by step: (1, *shape)."""
        size = int(np.prod(shape))

        def draw(step: int) -> Tensor:
            stream = network * STREAMS + step
            numbers = normal(self.seed, self.shower, 1, size, stream)
            return torch.as_tensor(numbers).to(self.dtype).view(1, *shape)

        return draw


class Diffusion(Surrogate):
    """A surrogate whose networks say, of showers with noise, what is shower and what is noise.

    A family sets `processes` and `samplings` by network, `VOXELS` to the network that makes the
    cells, and says in `shower` how one shower comes out of its networks. Each shower goes through
    the networks alone: the same bits in every batch, and memory that no batch size changes.
    """

    VOXELS: ClassVar[str]
    SAMPLERS: ClassVar[Mapping[str, Callable[[nn.Module, str], Any]]]

    @property
    @abstractmethod
    def processes(self) -> Mapping[str, Process]:
        """The path of each network and what it says."""

    @property
    @abstractmethod
    def samplings(self) -> Mapping[str, Sampling]:
        """The solver of each network."""

    @property
    def network_evaluations(self) -> int:
        """Of the network that makes the cells, for one shower."""
        return self.samplings[self.VOXELS].counted

    @abstractmethod
    def shower(
        self,
        energy: float,
        networks: Mapping[str, Any],
        samplings: Mapping[str, Sampling],
        noise: ShowerNoise,
    ) -> Tensor:
        """The cells (V,) in MeV of one shower of an incident energy in MeV.

        networks: what `SAMPLERS` made of each network.
        """

    def sample(
        self,
        incident_energy: np.ndarray,
        seed: int = 0,
        first: int = 0,
        *,
        sampler: str | None = None,
        precision: str | None = None,
        solver: str | None = None,
        evaluations: int | None = None,
    ) -> Showers:
        """Showers (cells float32) for incident energies (N,) in MeV.

        Cells below the data set's threshold are 0.

        `sampler` is one of `SAMPLERS`: by default the fast way to evaluate the networks, "eager"
        is the same function by plain torch, the yardstick. `solver` is one of
        `calostudy.samplers.diffusion.SOLVERS` and `evaluations` how often the voxel network may be
        evaluated; both are the model's own by default. `precision` of the networks is "float32" or
        "float64", by default that of torch, which a hardware target sets.

        Raises:
            UsageError: there is no such sampler, solver or precision, or too few evaluations.
        """
        precision = checked_precision(precision)
        networks = {
            name: self.inverse_of(name, self.SAMPLERS, sampler, precision) for name in self.networks
        }
        samplings = dict(self.samplings)
        samplings[self.VOXELS] = samplings[self.VOXELS].changed(solver, evaluations)
        energies = np.atleast_1d(np.asarray(incident_energy, np.float64))
        cells = np.empty((len(energies), self.dataset.calorimeter.cells), np.float32)
        with torch.no_grad():
            for i, energy in enumerate(energies):
                noise = ShowerNoise(seed, first + i, getattr(torch, precision))
                cells[i] = self.shower(float(energy), networks, samplings, noise).numpy()
        showers = Showers(self.dataset.calorimeter, energies, cells)
        return showers.above_threshold(self.dataset.threshold)
