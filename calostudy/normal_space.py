"""Showers as standard normal numbers: the layers, the cells, and what cells do together."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from calostudy.calorimeter import Calorimeter
from calostudy.layer_shares import LayerShares
from calostudy.marginals import CellMarginals, LayerMarginals
from calostudy.modes import Modes
from calostudy.preprocessing import layer_sums

MANY = 10
"""Layers from which on they share the shower's energy (`LayerShares`)."""

_ENOUGH = 10_000
"""Showers in which the collective modes are looked for."""


@dataclass(frozen=True)
class NormalSpace:
    """The maps of a dataset, which a surrogate stores as constants."""

    layers: LayerMarginals | LayerShares
    cells: CellMarginals
    modes: Modes

    @classmethod
    def untrained(
        cls, calorimeter: Calorimeter, threshold: float, response: float
    ) -> "NormalSpace":
        """Of no showers in particular; threshold in MeV, response as in `LayerMarginals`."""
        layers = len(calorimeter.layers)
        return cls(
            LayerShares.untrained(layers, threshold, response)
            if layers >= MANY
            else LayerMarginals.untrained(layers, response),
            CellMarginals.untrained(calorimeter, threshold),
            Modes.untrained(calorimeter),
        )

    @classmethod
    def fitted(
        cls,
        calorimeter: Calorimeter,
        threshold: float,
        response: float,
        cells: Tensor,
        incident: Tensor,
    ) -> "NormalSpace":
        """Of training showers: cells (N, V), 0 below the threshold, and incident energies (N,),
        both in MeV. The same showers give the same maps."""
        generator = torch.Generator().manual_seed(0)
        energies = layer_sums(cells.double(), calorimeter.slices)
        uniform = torch.rand(len(cells), layer_numbers(calorimeter), generator=generator)
        given = response, energies, incident, uniform
        if energies.shape[1] >= MANY:
            layers = LayerShares.fitted(threshold, *given)
        else:
            layers = LayerMarginals.fitted(*given)
        marginals = CellMarginals.fitted(calorimeter, threshold, cells)
        some = cells[:_ENOUGH]
        uniform = torch.rand(some.shape, generator=generator)
        numbers = marginals.forward(some, energies[:_ENOUGH], uniform)
        return cls(layers, marginals, Modes.fitted(calorimeter, numbers))

    @classmethod
    def of_constants(
        cls,
        calorimeter: Calorimeter,
        threshold: float,
        response: float,
        constants: Mapping[str, Tensor],
    ) -> "NormalSpace":
        """The inverse of `constants`."""
        layers = len(calorimeter.layers)
        return cls(
            LayerShares.of_constants(layers, threshold, response, constants)
            if layers >= MANY
            else LayerMarginals.of_constants(response, constants),
            CellMarginals.of_constants(calorimeter, threshold, constants),
            Modes.of_constants(calorimeter, constants),
        )

    def constants(self) -> dict[str, Tensor]:
        """What a surrogate stores, float32."""
        return self.layers.constants() | self.cells.constants() | self.modes.constants()


def layer_numbers(calorimeter: Calorimeter) -> int:
    """How many numbers stand for the energies of the layers.

    >>> from calostudy.calorimeter import calorimeter
    >>> layer_numbers(calorimeter("ds1-photons")), layer_numbers(calorimeter("ds2"))
    (5, 47)
    """
    layers = len(calorimeter.layers)
    return 2 + layers if layers >= MANY else layers
