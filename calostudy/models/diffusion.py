"""What all surrogates have in common that go from noise to showers in many small steps."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from calostudy.models.in_normal_space import InNormalSpace
from calostudy.models.surrogate import Surrogate
from calostudy.networks.products import alike
from calostudy.networks.threads import side_by_side
from calostudy.samplers.compiled import checked_precision
from calostudy.samplers.diffusion import Process, Sampling
from calostudy.samplers.graphs import Graphed
from calostudy.samplers.noise import normal
from calostudy.showers import Showers

STREAMS = 1 << 16
"""More than any solver has steps: streams of random numbers that one network may use."""


AT_ONCE = 1 << 24
"""Cells that a GPU makes at once."""


@dataclass(frozen=True)
class ShowerNoise:
    """Standard normal numbers of some showers, by network and step of the solver.

    first: number of the first one; count: how many they are.
    """

    seed: int
    first: int
    dtype: torch.dtype
    count: int = 1

    def of(self, network: int, shape: tuple[int, ...]) -> Callable[[int], Tensor]:
        """Those of a network, by step: (count, *shape)."""
        size = int(np.prod(shape))

        def draw(step: int) -> Tensor:
            stream = network * STREAMS + step
            numbers = normal(self.seed, self.first, self.count, size, stream)
            return torch.as_tensor(numbers).to(self.dtype).view(self.count, *shape)

        return draw


class Diffusion(Surrogate):
    """A surrogate whose networks say, of showers with noise, what is shower and what is noise.

    A family sets `processes` and `samplings` by network, `VOXELS` to the network that makes the
    cells, and says in `cells` how showers come out of its networks. Showers have the same bits in
    every batch on the CPU, where each goes through the networks alone, or `together` with a few
    others, and memory does not depend on the batch. A GPU makes many at once.
    """

    VOXELS: ClassVar[str]
    SAMPLERS: ClassVar[Mapping[str, Callable[[nn.Module, str], Any]]]
    runs_on: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "cpu": ("fp32", "fp64"),
        "cuda": ("fp32", "fp64", "tf32", "bf16", "fp16"),
    }

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

    @property
    def samplers(self) -> Mapping[str, Callable[[nn.Module, str], Any]]:
        """Ways to evaluate the networks on torch's default device, the fastest first."""
        if torch.get_default_device().type == "cpu":
            return self.SAMPLERS
        plain = self.SAMPLERS["eager"]
        return {"graph": self.graphed(plain), "eager": plain}

    @property
    def together(self) -> int:
        """Showers that go through the networks together on the CPU: a small network is mostly
        waiting for the interpreter; a large one can use all threads for one shower."""
        return 8 if self.embedded else 1

    @property
    def at_once(self) -> int:
        """Showers that go through the networks together."""
        if torch.get_default_device().type == "cpu":
            return self.together
        return max(1, AT_ONCE // self.dataset.calorimeter.cells)

    def graphed(self, make: Callable[[nn.Module, str], Any]) -> Callable[[nn.Module, str], Any]:
        """What `make` makes of a network, by CUDA graphs."""
        return lambda network, precision: Graphed(make(network, precision))

    @abstractmethod
    def cells(
        self,
        incident: Tensor,
        networks: Mapping[str, Any],
        samplings: Mapping[str, Sampling],
        noise: ShowerNoise,
    ) -> Tensor:
        """The cells (B, V) in MeV of showers of incident energies (B,) in MeV, float64.

        networks: what one of `samplers` made of each network.
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

        `sampler` is one of `samplers`: by default the fast way to evaluate the networks, "eager"
        is the same function by plain torch, the yardstick. `solver` is one of
        `calostudy.samplers.diffusion.SOLVERS` and `evaluations` how often the voxel network may be
        evaluated; both are the model's own by default. `precision` of the networks is "float32" or
        "float64", by default that of torch, which a hardware target sets.

        Raises:
            UsageError: there is no such sampler, solver or precision, or too few evaluations.
        """
        energies = np.atleast_1d(np.asarray(incident_energy, np.float64))
        cells = np.empty((len(energies), self.dataset.calorimeter.cells), np.float32)
        made = self.in_turn(
            self.cells, energies, seed, first, sampler, precision, solver, evaluations
        )
        start = 0
        for some in made:
            cells[start : start + len(some)] = some.numpy(force=True)
            start += len(some)
        showers = Showers(self.dataset.calorimeter, energies, cells)
        return showers.above_threshold(self.dataset.threshold)

    def in_turn(
        self,
        make: Callable[..., Any],
        energies: np.ndarray,
        seed: int,
        first: int,
        sampler: str | None = None,
        precision: str | None = None,
        solver: str | None = None,
        evaluations: int | None = None,
    ) -> Iterator[Any]:
        """What `make`, which takes what `cells` does, makes of `at_once` energies each time;
        otherwise as `sample`."""
        precision = checked_precision(precision)
        networks = {
            name: self.inverse_of(name, self.samplers, sampler, precision) for name in self.networks
        }
        samplings = dict(self.samplings)
        samplings[self.VOXELS] = samplings[self.VOXELS].changed(solver, evaluations)
        size = self.at_once

        def made(start: int) -> Any:
            incident = torch.as_tensor(energies[start : start + size])
            noise = ShowerNoise(seed, first + start, getattr(torch, precision), len(incident))
            with torch.no_grad():
                return make(incident, networks, samplings, noise)

        starts = range(0, len(energies), size)
        if size > 1 and torch.get_default_device().type == "cpu":
            return side_by_side(alike()(made), starts)
        return map(made, starts)


class NormalDiffusion(InNormalSpace, Diffusion):
    """A diffusion in a `NormalSpace`, with a network of its own, `MODES`, for what cells do
    together, which is trained before that of the cells.

    RESPONSE: largest deposited / incident energy by dataset; more is taken for this much.
    """

    MODES: ClassVar[str] = "modes"
    RESPONSE: ClassVar[Mapping[str, float]]

    @property
    def storage(self) -> torch.dtype:
        return torch.int8 if self.embedded else super().storage

    @property
    def response(self) -> float:
        return self.RESPONSE[self.dataset.name]

    def in_training(self, network: str) -> Callable[..., Tensor]:
        """A network as it is trained: that of the cells together with that of the modes, which
        stays as it is."""
        if network != self.VOXELS:
            return self.networks[network]
        frozen = torch.no_grad()(lambda *given: self.networks[self.MODES](*given))
        return self.space.modes.joined(self.networks[network], frozen)

    def with_modes(self, networks: Mapping[str, Any]) -> dict[str, Any]:
        """The networks, that of the cells together with that of the modes."""
        joined = self.space.modes.joined(networks[self.VOXELS], networks[self.MODES])
        return {**networks, self.VOXELS: joined}
