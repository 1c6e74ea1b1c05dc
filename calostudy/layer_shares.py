"""The layers of a deep shower as standard normal numbers: its energy, and the shares of the layers.

In `calostudy.marginals.LayerMarginals` each layer takes its share of what is left for it and all
behind. In a calorimeter of many layers that says little of the last ones, most of which are empty:
a layer's energy is then the product of dozens of numbers. Here the layers share the energy of the
shower as cells share that of their layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from calostudy.calorimeter import Calorimeter, Layer
from calostudy.marginals import MARGIN, CellMarginals, Known, blurred, hits_of, knots_of
from calostudy.preprocessing import inverse_logit
from calostudy.quantiles import ConditionalQuantiles


@dataclass(frozen=True)
class LayerShares:
    """Energies of layers (N, L) in MeV to standard normal numbers (N, 2 + L), and back.

    The first number stands for the deposited energy, the second for the last layer that is hit,
    the others for the layers, given both; those behind the last are numbers at random.

    response: largest deposited / incident energy; more is taken for this much.
    whole: the distributions of the logit of the deposited energy over this, and of the number of
    layers up to the last, blurred, given the logarithm of the incident energy.
    shares: those of the layers' energies up to the last, given the deposited energy.
    """

    response: float
    whole: ConditionalQuantiles
    shares: CellMarginals

    @property
    def numbers(self) -> int:
        """2 + L."""
        return 2 + self.shares.calorimeter.cells

    @classmethod
    def untrained(cls, layers: int, threshold: float, response: float) -> "LayerShares":
        """Of no showers in particular; threshold in MeV, of a layer that counts as hit."""
        shares = CellMarginals.untrained(column(layers), threshold)
        return cls(response, ConditionalQuantiles.untrained(2), shares)

    @classmethod
    def fitted(
        cls, threshold: float, response: float, energies: Tensor, incident: Tensor, uniform: Tensor
    ) -> "LayerShares":
        """Of training showers: energies (N, L) of layers, 0 below the threshold, and incident
        energies (N,), all in MeV; uniform: (N, 2 + L) in [0, 1)."""
        found = cls.untrained(energies.shape[1], threshold, response)
        values, last = found._whole(energies, incident, uniform)
        whole = ConditionalQuantiles.fitted(values, incident.double().log())
        shares = found.shares
        deposited = energies.double().sum(dim=1)
        lit = deposited > 0
        if not lit.any():
            return cls(response, whole, shares)
        shares.knots[:, 0] = knots_of((deposited[lit] / threshold).log())
        weights = shares.weights(deposited[:, None])[:, 0]
        for layer in range(energies.shape[1]):
            there = lit & (last >= layer)
            if there.any():
                own = energies[there, layer : layer + 1]
                shares.hit[:, layer], logs = hits_of(own, weights[there], threshold)
                if logs is not None:
                    shares.logs[:, layer] = logs
        return cls(response, whole, shares)

    @classmethod
    def of_constants(
        cls, layers: int, threshold: float, response: float, constants: Mapping[str, Tensor]
    ) -> "LayerShares":
        """The inverse of `constants`."""
        whole = ConditionalQuantiles.of_constants(constants, "whole")
        shares = CellMarginals.of_constants(column(layers), threshold, constants, "layers")
        return cls(response, whole, shares)

    def constants(self) -> dict[str, Tensor]:
        """What a surrogate stores, float32."""
        return self.whole.constants("whole") | self.shares.constants("layers")

    def forward(self, energies: Tensor, incident: Tensor, uniform: Tensor) -> Tensor:
        """Normal numbers (N, 2 + L), float64, of energies (N, L) of layers at incident energies
        (N,), both in MeV; uniform: (N, 2 + L) in [0, 1)."""
        values, last = self._whole(energies, incident, uniform)
        whole = self.whole.forward(values, incident.double().log())
        deposited = energies.double().sum(dim=1, keepdim=True)
        known = _up_to(last)
        layers = self.shares.forward(energies, deposited, uniform[:, 2:], known)
        return torch.cat([whole, layers], dim=1)

    def told(self, energies: Tensor, incident: Tensor) -> Tensor:
        """Numbers (N, L) without chance that tell a network of energies (N, L) of layers."""
        deposited = energies.double().sum(dim=1, keepdim=True)
        return self.shares.forward(energies, deposited, torch.full_like(energies, 0.5))

    def inverse(self, numbers: Tensor, incident: Tensor) -> Tensor:
        """Energies (N, L) in MeV, float64, of normal numbers (N, 2 + L) at incident energies
        (N,)."""
        values = self.whole.inverse(numbers[:, :2], incident.double().log())
        u = inverse_logit(values[:, :1], MARGIN)
        last = values[:, 1].floor().clamp(0, self.numbers - 3)
        deposited = u * self.response * incident.double()[:, None]
        return self.shares.inverse(numbers[:, 2:], deposited, _up_to(last))

    def _whole(self, energies: Tensor, incident: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """What `whole` is of, (N, 2), and the last layer that is hit, (N,), 0 where none is."""
        deposited = energies.double().sum(dim=1)
        u = (deposited / (self.response * incident.double())).clamp(0.0, 1.0)
        layers = torch.arange(energies.shape[1], device=energies.device)
        last = torch.where(energies > 0, layers, 0).amax(dim=1)
        blurred_last = last + uniform[:, 1].double()
        return torch.stack([blurred(u, uniform[:, 0]), blurred_last], dim=1), last


def _up_to(last: Tensor) -> Known:
    """Layers behind the last one (N,) are not hit, that one is."""

    def known(probability: Tensor) -> Tensor:
        layers = torch.arange(probability.shape[1], device=probability.device)
        before = torch.where(layers < last[:, None], probability, 0.0)
        return torch.where(layers == last[:, None], 1.0, before) * (probability > 0)

    return known


@cache
def column(layers: int) -> Calorimeter:
    """A calorimeter of one layer, whose cells stand for the layers of another one."""
    edges = np.array([-np.pi, np.pi]), np.arange(layers + 1.0)
    return Calorimeter("column", "Layers as cells", "", (Layer(0, "cylindrical", edges),))
