"""How the incident energies of a sample are distributed."""

from dataclasses import dataclass

import numpy as np

GEV = 1000.0
"""One GeV in MeV."""


@dataclass(frozen=True)
class EnergyLaw:
    """How the incident energies of a sample are distributed.

    Attributes:
        kind: "uniform", "log-uniform" or "discrete".
        low, high: bounds in MeV, both included.
        values: for "discrete", the energies in MeV.
        weights: for "discrete", showers per energy in one public file.
    """

    kind: str
    low: float
    high: float
    values: tuple[float, ...] = ()
    weights: tuple[int, ...] = ()

    @property
    def range(self) -> tuple[float, float]:
        """(low, high) in MeV."""
        return self.low, self.high

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw (n,) incident energies in MeV.

        >>> law = EnergyLaw("log-uniform", 1000.0, 100000.0)
        >>> bool(law.contains(law.sample(100, np.random.default_rng(1))).all())
        True
        """
        if self.kind == "discrete":
            weights = np.asarray(self.weights, dtype=np.float64)
            return rng.choice(np.asarray(self.values), size=n, p=weights / weights.sum())
        if self.kind == "uniform":
            return rng.uniform(self.low, self.high, size=n)
        # The exponential may leave the bounds by a rounding.
        energies = np.exp(rng.uniform(np.log(self.low), np.log(self.high), size=n))
        return np.clip(energies, self.low, self.high)

    def contains(self, energies: np.ndarray) -> np.ndarray:
        """Tell for each energy (MeV) whether the law can give it, to a relative 1e-6."""
        energies = np.asarray(energies, dtype=np.float64)
        if self.kind == "discrete":
            near = np.isclose(energies[..., None], self.values, rtol=1e-6, atol=0)
            return near.any(axis=-1)
        return (energies >= self.low * (1 - 1e-6)) & (energies <= self.high * (1 + 1e-6))

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low / GEV:g} GeV"
        bounds = f"{self.low / GEV:g}-{self.high / GEV:g} GeV"
        count = f"{len(self.values)} energies, " if self.values else ""
        return f"{count}{bounds}, {self.kind}"


def energy_groups(energies: np.ndarray, bins: int = 8, least: int = 5) -> list[np.ndarray]:
    """Indices of showers of like incident energy, in the order of the energies.

    One group for each energy where there are few different ones, else at most ``bins`` groups of
    equally many showers, none of fewer than ``least`` unless there are fewer in all. Groups of one
    energy that have fewer than ``least`` are left out, unless all have.

    >>> groups = energy_groups(np.array([2.0, 1.0, 2.0, 1.0]), least=2)
    >>> [group.tolist() for group in groups]
    [[1, 3], [0, 2]]
    """
    energies = np.asarray(energies)
    values, place = np.unique(energies, return_inverse=True)
    if len(values) <= max(1, min(32, len(energies) // 2)):
        groups = [np.flatnonzero(place == k) for k in range(len(values))]
        return [group for group in groups if len(group) >= least] or groups
    count = max(1, min(bins, len(energies) // least))
    return np.array_split(np.argsort(energies, kind="stable"), count)
