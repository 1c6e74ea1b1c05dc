"""The distribution of every cell, given the energy of its layer, as a map to normal numbers.

Of a shower's cells most are empty, which ones is nearly chance, and how large a hit is depends
above all on the energy that its layer has. `Marginals` takes that part off: it learns how likely a
hit is and how its energy is distributed, and maps cells to numbers that are standard normal one by
one (an inverse Rosenblatt transformation without the dependences between cells, Rosenblatt, Ann.
Math. Stat. 23 (1952) 470). A network that knows nothing then already makes showers whose cells are
right one by one; what it has to learn are the dependences between them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from calostudy.calorimeter import Calorimeter
from calostudy.preprocessing import layer_sums, symmetries

KNOTS = 12
"""Energies of a layer at which the distributions of its cells are known; between, they are
interpolated."""

NODES = torch.linspace(-4.5, 4.5, 25, dtype=torch.float64)
"""Normal numbers at which the energy of a hit is known; beyond them it stays what it is."""

_SMALLEST_STEP = 1e-5  # between the logarithms at neighbouring nodes: the map can be inverted
_ENOUGH = (
    10.0  # hits of a knot; those of all showers, whatever the layer's energy, make up for less
)
_CERTAIN = 1e-6  # a hit is never less likely than this, nor more than 1 less this


@dataclass(frozen=True)
class Marginals:
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
    def untrained(cls, calorimeter: Calorimeter, threshold: float) -> "Marginals":
        """Of no showers in particular."""
        layers, kinds = len(calorimeter.layers), int(orbits(calorimeter).max()) + 1
        knots = torch.linspace(0.0, 10.0, KNOTS)[:, None].repeat(1, layers)
        logs = torch.linspace(0.5, 3.5, len(NODES)).repeat(KNOTS, kinds, 1)
        return cls(calorimeter, threshold, knots, torch.full((KNOTS, kinds), 0.5), logs)

    @classmethod
    def fitted(cls, calorimeter: Calorimeter, threshold: float, cells: Tensor) -> "Marginals":
        """Of training showers: cells (N, V) in MeV, those below the threshold 0."""
        kinds = orbits(calorimeter)
        energies = layer_sums(cells.double(), calorimeter.slices)
        found = cls.untrained(calorimeter, threshold)
        for layer, place in enumerate(calorimeter.slices):
            lit = energies[:, layer] > 0
            if not lit.any():
                continue
            found.knots[:, layer] = _knots((energies[lit, layer] / threshold).log())
            weights = found._weights(energies[lit])[:, layer]
            within = cells[lit, place]
            for kind in kinds[place].unique():
                alike = within[:, kinds[place] == kind]
                found.hit[:, kind], logs = _hits(alike, weights, threshold)
                if logs is not None:
                    found.logs[:, kind] = logs
        return found

    @classmethod
    def of_constants(
        cls, calorimeter: Calorimeter, threshold: float, constants: Mapping[str, Tensor]
    ) -> "Marginals":
        """The inverse of `constants`."""
        return cls(calorimeter, threshold, *(constants[f"cells.{k}"] for k in _CONSTANTS))

    def constants(self) -> dict[str, Tensor]:
        """What a surrogate stores, float32."""
        return {f"cells.{key}": getattr(self, key).float() for key in _CONSTANTS}

    def forward(self, cells: Tensor, energies: Tensor, uniform: Tensor) -> Tensor:
        """Normal numbers (N, V), float64, of cells (N, V) in layers with energies (N, L) in MeV.

        uniform: (N, V) in [0, 1); an empty cell becomes a number at random among those that stand
        for none.
        """
        probability = self._probability(energies)
        above = probability + (1.0 - probability) * uniform.double().clamp(1e-12, 1.0 - 1e-12)
        rows, places = (cells >= self.threshold).nonzero(as_tuple=True)
        logs = (cells[rows, places].double() / self.threshold).log()
        within = _inverse_line(self._lines(energies, rows, places), logs)
        above[rows, places] = probability[rows, places] * torch.special.ndtr(-within)
        return -torch.special.ndtri(above)

    def inverse(self, numbers: Tensor, energies: Tensor) -> Tensor:
        """Cells (N, V) in MeV, float64, of normal numbers (N, V) in layers with energies (N, L).

        A cell is 0 or at least the threshold. The cells of a layer need not sum to its energy.
        """
        probability = self._probability(energies)
        above = torch.special.ndtr(-numbers.double())
        cells = torch.zeros_like(above)
        rows, places = (above < probability).nonzero(as_tuple=True)
        within = -torch.special.ndtri(above[rows, places] / probability[rows, places])
        logs = _line(self._lines(energies, rows, places), within).clamp_min(0.0)
        cells[rows, places] = self.threshold * logs.exp()
        return cells

    # ---- at the energies of a shower's layers -------------------------------------------

    def _weights(self, energies: Tensor) -> Tensor:
        """How near the knots layer energies (N, L) are: (N, L, K), float64, each sum 1."""
        knots = self.knots.double().T.contiguous()  # (L, K)
        logs = (energies.double() / self.threshold).clamp_min(1e-9).log()
        logs = logs.T.contiguous().clamp(knots[:, :1], knots[:, -1:])  # (L, N)
        upper = torch.searchsorted(knots, logs, right=True).clamp(1, KNOTS - 1)
        low, high = knots.gather(1, upper - 1), knots.gather(1, upper)
        share = (logs - low) / (high - low)
        weights = torch.zeros(*logs.shape, KNOTS, dtype=torch.float64)
        weights.scatter_(2, (upper - 1)[..., None], (1.0 - share)[..., None])
        weights.scatter_(2, upper[..., None], share[..., None])
        return weights.transpose(0, 1)

    def _probability(self, energies: Tensor) -> Tensor:
        """Of a hit: (N, V); none in a layer without energy."""
        weights, kinds = self._weights(energies), orbits(self.calorimeter)
        weights = weights * (energies > 0)[..., None]
        parts = [
            weights[:, i] @ self.hit.double()[:, kinds[s]]
            for i, s in enumerate(self.calorimeter.slices)
        ]
        return torch.cat(parts, dim=1)

    def _lines(self, energies: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """Logarithms of the energies of some cells at `NODES`: (n, Q)."""
        weights = self._weights(energies)[rows, _layers(self.calorimeter)[places]]  # (n, K)
        weight, knot = weights.topk(2, dim=1)
        logs = self.logs.double()[knot, orbits(self.calorimeter)[places][:, None]]  # (n, 2, Q)
        return (weight[:, :, None] * logs).sum(dim=1)


_CONSTANTS = ("knots", "hit", "logs")


@cache
def orbits(calorimeter: Calorimeter) -> Tensor:
    """Of each cell the number of its orbit, (V,): cells that a symmetry exchanges are alike.

    >>> from calostudy.calorimeter import calorimeter
    >>> [int(orbits(calorimeter(name)).max()) + 1 for name in ("calogan", "ds2")]
    [150, 405]
    """
    return symmetries(calorimeter).amin(dim=0).unique(return_inverse=True)[1]


@cache
def _layers(calorimeter: Calorimeter) -> Tensor:
    """Of each cell its layer: (V,)."""
    sizes = torch.tensor([place.stop - place.start for place in calorimeter.slices])
    return torch.arange(len(sizes)).repeat_interleave(sizes)


def _knots(logs: Tensor) -> Tensor:
    """Evenly spread among the showers: (K,), increasing."""
    found = torch.quantile(logs, torch.linspace(0.0, 1.0, KNOTS, dtype=torch.float64))
    return found + 1e-3 * torch.arange(KNOTS)


def _hits(cells: Tensor, weights: Tensor, threshold: float) -> tuple[Tensor, Tensor | None]:
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
    logs, order = (cells[rows, places].double() / threshold).log().sort()
    each = weights[rows[order]] + lean
    middle = (each.cumsum(dim=0) - 0.5 * each) / each.sum(dim=0)
    level = torch.special.ndtr(NODES)
    found = torch.stack([_interpolated(level, column, logs) for column in middle.T])
    steps = found.diff(dim=1).clamp_min(_SMALLEST_STEP)
    return probability, torch.cat([found[:, :1], found[:, :1] + steps.cumsum(dim=1)], dim=1)


def _interpolated(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """y at the places `at`, linear between the points (x, y), constant beyond them."""
    if len(x) == 1:
        return y.expand(len(at))
    upper = torch.searchsorted(x.contiguous(), at).clamp(1, len(x) - 1)
    share = (at - x[upper - 1]) / (x[upper] - x[upper - 1]).clamp_min(1e-300)
    return y[upper - 1] + share.clamp(0.0, 1.0) * (y[upper] - y[upper - 1])


def _line(lines: Tensor, at: Tensor) -> Tensor:
    """Values (n,) of lines (n, Q) through `NODES` at normal numbers (n,)."""
    at = at.clamp(NODES[0], NODES[-1])
    step = NODES[1] - NODES[0]
    lower = ((at - NODES[0]) / step).floor().long().clamp(0, len(NODES) - 2)
    low, high = (lines.gather(1, i[:, None])[:, 0] for i in (lower, lower + 1))
    return low + (at - NODES[lower]) / step * (high - low)


def _inverse_line(lines: Tensor, values: Tensor) -> Tensor:
    """The inverse of `_line`."""
    lower = torch.searchsorted(lines.contiguous(), values[:, None])[:, 0] - 1
    lower = lower.clamp(0, len(NODES) - 2)
    low, high = (lines.gather(1, i[:, None])[:, 0] for i in (lower, lower + 1))
    at = NODES[lower] + (values - low) / (high - low) * (NODES[1] - NODES[0])
    return at.clamp(NODES[0], NODES[-1])
