"""Surrogates that make a shower in one pass of a network: random numbers in, cells out."""

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from calostudy.models.surrogate import ON_CPU, Surrogate
from calostudy.samplers.compiled import checked_precision
from calostudy.samplers.noise import Noise
from calostudy.samplers.tiles import in_tiles
from calostudy.showers import Showers


class OnePass(Surrogate):
    """A family says what random numbers it takes, and what its networks make of them."""

    runs_on: ClassVar[Mapping[str, tuple[str, ...]]] = ON_CPU

    @property
    def network_evaluations(self) -> int:
        """One pass."""
        return 1

    @property
    @abstractmethod
    def noise(self) -> tuple[Noise, ...]:
        """The random numbers of a shower."""

    @abstractmethod
    def cells_from(
        self, decoders: Mapping[str, nn.Module], incident: Tensor, *numbers: Tensor
    ) -> Tensor:
        """Cells (N, V) in MeV, before the threshold: of incident energies (N,) in MeV and random
        numbers (N, ...), all float64, by decoders in a precision of their own."""

    def decoder(self, network: str) -> nn.Module:
        """The part of a network that showers are made by."""
        return self.networks[network]

    def decoders(self, precision: str) -> dict[str, nn.Module]:
        """Copies of all decoders in a precision, for as long as the weights stay as they are."""
        dtype = getattr(torch, precision)
        return {
            name: self.compiled.of(
                self.decoder(name), precision, lambda part: copy.deepcopy(part).to(dtype).eval()
            )
            for name in self.networks
        }

    def sample(
        self,
        incident_energy: np.ndarray,
        seed: int = 0,
        first: int = 0,
        *,
        precision: str | None = None,
    ) -> Showers:
        """Showers (cells float32) for incident energies (N,) in MeV.

        Cells below the data set's threshold are 0. `precision` of the networks is "float32" or
        "float64", by default that of torch, which a hardware target sets.

        Raises:
            UsageError: there is no such precision.
        """
        decoders = self.decoders(checked_precision(precision))
        energy = np.atleast_1d(np.asarray(incident_energy, np.float64))

        @torch.no_grad()
        def decode(*given: np.ndarray) -> np.ndarray:
            return self.cells_from(decoders, *map(torch.as_tensor, given)).numpy(force=True)

        numbers = (each.draw(seed, first, len(energy)) for each in self.noise)
        cells = in_tiles(decode, first, energy, *numbers)
        showers = Showers(self.dataset.calorimeter, energy, cells.astype(np.float32))
        return showers.above_threshold(self.dataset.threshold)


def precision_of(decoder: nn.Module) -> torch.dtype:
    """Of its parameters."""
    return next(decoder.parameters()).dtype
