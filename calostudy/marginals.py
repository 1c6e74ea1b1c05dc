"""The distribution of every cell and of every layer, as maps to normal numbers.

Of a shower's cells most are empty, which ones is nearly chance, and how large a hit is depends
above all on the energy that its layer has. `CellMarginals` takes that part off: it learns how
likely a hit is and how its energy is distributed, given the layer's energy, and maps cells to
numbers that are standard normal one by one (the transformation of Rosenblatt, Ann. Math. Stat. 23
(1952) 470, without the dependences between cells). `LayerMarginals` does the same for the shares
of the layers in the energy, given the incident energy. A network that knows nothing then already
makes showers that are right one number at a time; what it has to learn is how they depend on each
other.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from calostudy.calorimeter import Calorimeter
from calostudy.devices import table
from calostudy.preprocessing import (
    energies_from_fractions,
    energy_fractions,
    inverse_logit,
    layer_sums,
    share_out,
    symmetries,
)
from calostudy.quantiles import (
    ConditionalQuantiles,
    between,
    fitted_line,
    follow,
    go_back,
    nearness,
)

Known = Callable[[Tensor], Tensor]

KNOTS = 20
"""Energies of a layer at which the distributions of its cells are known; between, they are
interpolated."""

NODES = torch.linspace(-4.5, 4.5, 19, dtype=torch.float64)
"""Normal numbers at which the energy of a hit is known; beyond them it stays what it is."""

_ENOUGH = 10.0  # hits of a knot; those of all showers, at any energy, make up for less
_CERTAIN = 1e-6  # a hit is never less likely than this, nor more than 1 less this
MARGIN = 1e-6
"""How far a share is kept from 0 and 1."""


@dataclass(frozen=True)
class CellMarginals:
    """Cells (N, V) in MeV to standard normal numbers (N, V), and back.

    calorimeter, threshold: whose cells, and in MeV what counts as a hit.
    knots: (K, L), logarithms of layers' energies over the threshold, increasing.
    hit: (K, O), probability of a hit for each orbit: cells that a symmetry exchanges are alike.
    logs: (K, O, Q), logarithm of a hit's energy over the threshold at `NODES`, increasing.
    """

    calorimeter: Calorimeter
    threshold: float
    knots: Tensor
    hit: Tensor
    logs: Tensor

    @classmethod
    def untrained(cls, calorimeter: Calorimeter, threshold: float) -> "CellMarginals":
        """Of no showers in particular."""
        layers, kinds = len(calorimeter.layers), int(orbits(calorimeter).max()) + 1
        knots = torch.linspace(0.0, 10.0, KNOTS)[:, None].repeat(1, layers)
        logs = torch.linspace(0.5, 3.5, len(NODES)).repeat(KNOTS, kinds, 1)
        return cls(calorimeter, threshold, knots, torch.full((KNOTS, kinds), 0.5), logs)

    @classmethod
    def fitted(cls, calorimeter: Calorimeter, threshold: float, cells: Tensor) -> "CellMarginals":
        """Of training showers: cells (N, V) in MeV, those below the threshold 0."""
        kinds = orbits(calorimeter)
        energies = layer_sums(cells.double(), calorimeter.slices)
        found = cls.untrained(calorimeter, threshold)
        for layer, place in enumerate(calorimeter.slices):
            lit = energies[:, layer] > 0
            if not lit.any():
                continue
            found.knots[:, layer] = knots_of((energies[lit, layer] / threshold).log())
            weights = found.weights(energies[lit])[:, layer]
            within = cells[lit, place]
            for kind in kinds[place].unique():
                alike = within[:, kinds[place] == kind]
                found.hit[:, kind], logs = hits_of(alike, weights, threshold)
                if logs is not None:
                    found.logs[:, kind] = logs
        return found

    @classmethod
    def of_constants(
        cls,
        calorimeter: Calorimeter,
        threshold: float,
        constants: Mapping[str, Tensor],
        name: str = "cells",
    ) -> "CellMarginals":
        """The inverse of `constants`."""
        return cls(calorimeter, threshold, *(constants[f"{name}.{k}"] for k in _CONSTANTS))

    def constants(self, name: str = "cells") -> dict[str, Tensor]:
        """What a surrogate stores, float32."""
        return {f"{name}.{key}": getattr(self, key).float() for key in _CONSTANTS}

    def forward(
        self, cells: Tensor, energies: Tensor, uniform: Tensor, known: Known | None = None
    ) -> Tensor:
        """Normal numbers (N, V), float64, of cells (N, V) in layers with energies (N, L) in MeV.

        uniform: (N, V) in [0, 1); an empty cell becomes a number at random among those that stand
        for none. known: changes the probabilities (N, V) of hits, where more is known of them.
        """
        probability = self._probability(energies, known)
        above = probability + (1.0 - probability) * uniform.double().clamp(1e-12, 1.0 - 1e-12)
        rows, places = (cells >= self.threshold).nonzero(as_tuple=True)
        logs = (cells[rows, places].double() / self.threshold).log()
        within = go_back(self._lines(energies, rows, places), NODES, logs)
        above[rows, places] = probability[rows, places] * torch.special.ndtr(-within)
        return -torch.special.ndtri(above)

    def inverse(self, numbers: Tensor, energies: Tensor, known: Known | None = None) -> Tensor:
        """Cells (N, V) in MeV, float64, of normal numbers (N, V) in layers with energies (N, L).

        Hits are scaled so that each layer has its energy (`share_out`); where there is none in a
        layer with energy, the cell that was nearest to be one takes it.
        """
        by_layer, by_cell = _layer_by_layer(self.calorimeter)
        probability = self._probability(energies, known)
        above = torch.special.ndtr(-numbers.double())
        odds = F.pad(probability / above.clamp_min(1e-300), (0, 1))[:, by_layer]  # (N, L, c)
        nearest = by_layer.expand(odds.shape).gather(2, odds.argmax(dim=2, keepdim=True))[..., 0]
        above.scatter_reduce_(1, nearest, 0.999 * probability.gather(1, nearest), "amin")
        shares = torch.zeros_like(above)
        rows, places = (above < probability).nonzero(as_tuple=True)
        within = -torch.special.ndtri(above[rows, places] / probability[rows, places])
        logs = follow(self._lines(energies, rows, places), NODES, within).clamp_min(0.0)
        shares[rows, places] = self.threshold * logs.exp()
        shares = F.pad(shares, (0, 1))[:, by_layer].flatten(0, 1)
        cells = share_out(shares, energies.double().flatten(), self.threshold)
        return cells.view(energies.shape[0], -1)[:, by_cell]

    # ---- at the energies of a shower's layers -------------------------------------------

    def weights(self, energies: Tensor) -> Tensor:
        """How near the knots layer energies (N, L) are: (N, L, K), float64."""
        logs = (energies.double() / self.threshold).clamp_min(1e-9).log()
        return nearness(self.knots.double().T, logs.T).transpose(0, 1)

    def _probability(self, energies: Tensor, known: Known | None = None) -> Tensor:
        """Of a hit: (N, V); none in a layer without energy."""
        weights = self.weights(energies) * (energies > 0)[..., None]
        weight, knot = weights.topk(2, dim=2)  # (N, L, 2)
        kinds, layers = orbits(self.calorimeter), _layers(self.calorimeter)
        hit = self.hit.double().flatten()
        place = knot * self.hit.shape[1]
        near, far = (weight[:, layers, i] * hit[place[:, layers, i] + kinds] for i in (0, 1))
        return known(near + far) if known else near + far

    def _lines(self, energies: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """Logarithms of the energies of some cells at `NODES`: (n, Q)."""
        weights = self.weights(energies)[rows, _layers(self.calorimeter)[places]]  # (n, K)
        weight, knot = weights.topk(2, dim=1)
        logs = self.logs.double()[knot, orbits(self.calorimeter)[places][:, None]]  # (n, 2, Q)
        return between(logs, weight)


_CONSTANTS = ("knots", "hit", "logs")


@table
def orbits(calorimeter: Calorimeter) -> Tensor:
    """Of each cell the number of its orbit, (V,): cells that a symmetry exchanges are alike.

    >>> from calostudy.calorimeter import calorimeter
    >>> [int(orbits(calorimeter(name)).max()) + 1 for name in ("calogan", "ds2")]
    [150, 405]
    """
    return symmetries(calorimeter).amin(dim=0).unique(return_inverse=True)[1]


@table
def _layers(calorimeter: Calorimeter) -> Tensor:
    """Of each cell its layer: (V,)."""
    sizes = torch.tensor([place.stop - place.start for place in calorimeter.slices])
    return torch.arange(len(sizes)).repeat_interleave(sizes)


@table
def _layer_by_layer(calorimeter: Calorimeter) -> tuple[Tensor, Tensor]:
    """The cells of each layer, (L, c) with V where a layer has no more of them, and of each cell
    its place there, (V,) from 0 to L c - 1."""
    sizes = [place.stop - place.start for place in calorimeter.slices]
    by_layer = torch.full((len(sizes), max(sizes)), calorimeter.cells)
    for row, place in zip(by_layer, calorimeter.slices, strict=True):
        row[: place.stop - place.start] = torch.arange(place.start, place.stop)
    by_cell = (by_layer.flatten() < calorimeter.cells).nonzero()[:, 0]
    return by_layer, by_cell


def knots_of(logs: Tensor) -> Tensor:
    """One half evenly spread among the showers, one half over their range: (K,), increasing."""
    places = torch.linspace(0.0, 1.0, KNOTS // 2, dtype=torch.float64)
    within = torch.linspace(0.0, 1.0, KNOTS - len(places) + 2, dtype=torch.float64)[1:-1]
    low, high = logs.amin(), logs.amax()
    found = torch.cat([torch.quantile(logs, places), low + within * (high - low)]).sort().values
    return found + 1e-3 * torch.arange(KNOTS)


def hits_of(cells: Tensor, weights: Tensor, threshold: float) -> tuple[Tensor, Tensor | None]:
    """Of cells (N, c) that are alike, in showers with weights (N, K) for the knots: probability of
    a hit (K,), and its logarithms (K, Q) at `NODES`, None where there is no hit."""
    rows, places = (cells >= threshold).nonzero(as_tuple=True)
    per_shower = torch.bincount(rows, minlength=len(cells)).double()
    hits = weights.T @ per_shower
    tries = weights.sum(dim=0) * cells.shape[1]
    lean = (_ENOUGH - hits).clamp_min(0.0) / max(len(rows), 1)
    probability = (hits + lean * len(rows)) / (tries + lean * cells.numel())
    probability = probability.clamp(_CERTAIN, 1.0 - _CERTAIN)
    if not len(rows):
        return probability, None
    logs = (cells[rows, places].double() / threshold).log()
    return probability, fitted_line(logs, weights[rows] + lean, NODES)


@dataclass(frozen=True)
class LayerMarginals:
    """Energies of layers (N, L) in MeV to standard normal numbers (N, L), and back.

    Between them are the u's of `calostudy.preprocessing.energy_fractions`. Behind the end of a
    shower each layer takes all there is, which is nothing: a little too much energy then ends up
    in the next layer and not in the last one. A u that is 0 or 1 becomes one of many numbers.

    response: largest deposited / incident energy; more is taken for this much.
    logits: the distributions of the logits of the u's, given the logarithm of the incident energy.
    """

    response: float
    logits: ConditionalQuantiles

    @property
    def numbers(self) -> int:
        """L."""
        return self.logits.lines.shape[1]

    @classmethod
    def untrained(cls, layers: int, response: float) -> "LayerMarginals":
        """Of no showers in particular."""
        return cls(response, ConditionalQuantiles.untrained(layers))

    @classmethod
    def fitted(
        cls, response: float, energies: Tensor, incident: Tensor, uniform: Tensor
    ) -> "LayerMarginals":
        """Of training showers: energies (N, L) of layers and incident energies (N,), both in MeV;
        uniform: (N, L) in [0, 1)."""
        logits = blurred(_ended(energies, incident, response), uniform)
        return cls(response, ConditionalQuantiles.fitted(logits, incident.double().log()))

    @classmethod
    def of_constants(cls, response: float, constants: Mapping[str, Tensor]) -> "LayerMarginals":
        """The inverse of `constants`."""
        return cls(response, ConditionalQuantiles.of_constants(constants, "layers"))

    def constants(self) -> dict[str, Tensor]:
        """What a surrogate stores, float32."""
        return self.logits.constants("layers")

    def forward(self, energies: Tensor, incident: Tensor, uniform: Tensor) -> Tensor:
        """Normal numbers (N, L), float64, of energies (N, L) of layers at incident energies (N,),
        both in MeV; uniform: (N, L) in [0, 1)."""
        logits = blurred(_ended(energies, incident, self.response), uniform)
        return self.logits.forward(logits, incident.double().log())

    def told(self, energies: Tensor, incident: Tensor) -> Tensor:
        """Numbers (N, L) without chance that tell a network of energies (N, L) of layers."""
        return self.forward(energies, incident, torch.full_like(energies, 0.5))

    def inverse(self, numbers: Tensor, incident: Tensor) -> Tensor:
        """Energies (N, L) in MeV, float64, of normal numbers (N, L) at incident energies (N,)."""
        u = inverse_logit(self.logits.inverse(numbers, incident.double().log()), MARGIN)
        return energies_from_fractions(u, incident.double(), self.response)


def _ended(energies: Tensor, incident: Tensor, response: float) -> Tensor:
    """The u's (N, L) of layers, 1 behind the end of a shower."""
    u = energy_fractions(energies.double(), incident.double(), response)
    behind = energies.flip(1).cumsum(1).flip(1)[:, :-1] > 0
    return torch.cat([u[:, :1], torch.where(behind, u[:, 1:], 1.0)], dim=1)


def blurred(u: Tensor, uniform: Tensor) -> Tensor:
    """Logits of u's, float64, in which 0 and 1 have a density, too: 2 wide, at their end."""
    p = MARGIN + (1.0 - 2.0 * MARGIN) * u.double()
    logits = p.log() - torch.log1p(-p)
    end = logits.abs() >= -math.log(MARGIN) - 1e-3
    return logits - torch.where(end, 2.0 * uniform.double() * logits.sign(), 0.0)
