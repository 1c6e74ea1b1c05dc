"""Collective modes: what the cells of a shower do together.

`calostudy.marginals` makes every cell a standard normal number. Most of what is left between the
cells is in a few directions: a shower that is wider than others of its energy, deeper, or beside
its axis. `Modes` finds them as principal components of the numbers, of cells that a symmetry
exchanges and one of a few patterns over them: on a cylinder, what is the same at all angles, what
goes as the cosine or the sine of the angle, and of twice the angle; else what is even or odd in
eta and in phi.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from calostudy.calorimeter import Calorimeter
from calostudy.devices import table
from calostudy.marginals import orbits
from calostudy.networks.products import product

Pattern = Callable[[Calorimeter], np.ndarray]


def _around(times: int, wave: Callable) -> Pattern:
    """A wave around the axis, none in layers without angles."""

    def pattern(calorimeter: Calorimeter) -> np.ndarray:
        angles = np.array([layer.shape[0] > 1 for layer in calorimeter.layers])
        return wave(times * calorimeter.alpha) * angles[calorimeter.layer_index]

    return pattern


PATTERNS: dict[str, tuple[tuple[int, tuple[Pattern, ...]], ...]] = {
    "cylindrical": (
        (16, (lambda c: np.ones(c.cells),)),
        (12, (_around(1, np.cos), _around(1, np.sin))),
        (4, (_around(2, np.cos), _around(2, np.sin))),
    ),
    "cartesian": (
        (16, (lambda c: np.ones(c.cells),)),
        (8, (lambda c: np.sign(c.eta),)),
        (8, (lambda c: np.sign(c.phi),)),
        (4, (lambda c: np.sign(c.eta) * np.sign(c.phi),)),
    ),
}
"""By the view of the layers: how many modes there are at most, and the patterns that they have.
Patterns that stand together are one turned into the other and have the same modes."""


@dataclass(frozen=True)
class Modes:
    """Numbers of cells (N, V) to numbers of modes (N, M), which are those of orthogonal directions.

    profiles: (P, O), for each mode how much each orbit takes part; a row of zeros is no mode.
    """

    calorimeter: Calorimeter
    profiles: Tensor

    @classmethod
    def untrained(cls, calorimeter: Calorimeter) -> "Modes":
        """No modes."""
        count = sum(count for count, _ in _patterns(calorimeter))
        return cls(calorimeter, torch.zeros(count, int(orbits(calorimeter).max()) + 1))

    @classmethod
    def fitted(cls, calorimeter: Calorimeter, numbers: Tensor) -> "Modes":
        """Those of numbers (N, V) that vary more than chance lets independent ones do: principal
        components above the edge of Marchenko & Pastur (Math. USSR Sbornik 1 (1967) 457)."""
        found, start = cls.untrained(calorimeter), 0
        kinds, index = found.profiles.shape[1], orbits(calorimeter)
        for (count, _), waves in zip(_patterns(calorimeter), _waves(calorimeter), strict=True):
            parts = torch.cat(
                [
                    torch.zeros(len(numbers), kinds).index_add(1, index, numbers.float() * wave)
                    for wave in waves
                ]
            ).double()
            covariance = parts.T @ parts / len(parts)
            variances, directions = torch.linalg.eigh(covariance)
            edge = (1.0 + ((covariance.diagonal() > 0).sum() / len(parts)).sqrt()) ** 2
            kept = directions[:, variances > edge].flip(1)[:, :count]
            found.profiles[start : start + kept.shape[1]] = kept.T.float()
            start += count
        return found

    @classmethod
    def of_constants(cls, calorimeter: Calorimeter, constants: Mapping[str, Tensor]) -> "Modes":
        """The inverse of `constants`."""
        return cls(calorimeter, constants["modes.profiles"])

    def constants(self) -> dict[str, Tensor]:
        """What a surrogate stores, float32."""
        return {"modes.profiles": self.profiles}

    @property
    def matrix(self) -> Tensor:
        """The directions, (V, M), orthonormal but for columns of zeros: numbers of cells times
        this are numbers of modes, and those times its transpose numbers of cells again."""
        spread, columns, start = self.profiles[:, orbits(self.calorimeter)], [], 0
        for (count, _), waves in zip(
            _patterns(self.calorimeter), _waves(self.calorimeter), strict=True
        ):
            columns += [spread[start : start + count] * wave for wave in waves]
            start += count
        return torch.cat(columns).T

    def joined(self, voxels: Callable[..., Tensor], modes: Callable[..., Tensor]) -> Callable:
        """The sum of what a network says of the cells and what one says of the modes, as a
        function of numbers (B, V), times and conditions."""
        matrix = self.matrix

        def both(x: Tensor, time: Tensor, conditions: Tensor) -> Tensor:
            directions = matrix.to(x)
            said = modes(product(x, directions), time, conditions)
            return voxels(x, time, conditions) + product(said, directions.T)

        return both


def number_of_modes(calorimeter: Calorimeter) -> int:
    """M, modes that are none included.

    >>> from calostudy.calorimeter import calorimeter
    >>> number_of_modes(calorimeter("ds2"))
    48
    """
    return sum(count * len(patterns) for count, patterns in _patterns(calorimeter))


def _patterns(calorimeter: Calorimeter):
    return PATTERNS[calorimeter.layers[0].view]


@table
def _waves(calorimeter: Calorimeter) -> list[list[Tensor]]:
    """The patterns by group, each (V,), of length 1 in every orbit that it is not zero in."""
    index, waves = orbits(calorimeter), []
    for _, patterns in _patterns(calorimeter):
        waves.append([])
        for pattern in patterns:
            wave = torch.as_tensor(pattern(calorimeter)).double()
            squares = torch.zeros(int(index.max()) + 1).double().index_add(0, index, wave.square())
            length = squares.sqrt()[index]
            wave = torch.where(length > 1e-6, wave / length.clamp_min(1e-6), 0.0)
            waves[-1].append(wave.float())
    return waves
