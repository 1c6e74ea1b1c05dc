"""The ranges of incident energy in which a dataset is looked at, apart from all energies together.

Defined here once for everything that is broken down by energy: each of the discrete energies of
CaloChallenge dataset 1, the decades of datasets 2 and 3 (as in the CaloChallenge evaluation), and
equal steps of the uniform laws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from calostudy.datasets import Dataset
from calostudy.energies import GEV, EnergyLaw

ALL = "all energies"
LEAST = 50  # showers of each sample, below which a range says nothing
TOLERANCE = 1e-6  # relative, of the bounds of a law, as in `EnergyLaw.contains`
STEPS = {"calogan": (25.0, 50.0, 75.0), "ild": (40.0, 70.0)}
"""Calorimeter -> where the ranges of its uniform law meet, GeV."""


class EnergyRange(NamedTuple):
    """low <= E < high, in MeV; outer bounds of a law include its ends."""

    label: str
    low: float
    high: float

    def holds(self, energies: np.ndarray) -> np.ndarray:
        """Mask of the energies (MeV) in this range."""
        energies = np.asarray(energies)
        return (energies >= self.low) & (energies < self.high)


def energy_ranges(entry: Dataset) -> list[EnergyRange]:
    """Ranges of incident energy that every shower of the dataset is in exactly one of.

    They are those of the public sample; its simulated twin may leave some empty.

    >>> from calostudy.datasets import dataset
    >>> [each.label for each in energy_ranges(dataset("ds2"))]
    ['1-10 GeV', '10-100 GeV', '100-1000 GeV']
    >>> [each.label for each in energy_ranges(dataset("segmentations"))]
    ['65 GeV']
    """
    law = entry.energies
    return _RANGES[law.kind](law, entry.calorimeter.name)


def _named(labels: Sequence[str], bounds: Sequence[float]) -> list[EnergyRange]:
    return [EnergyRange(label, *each) for label, each in zip(labels, pairwise(bounds), strict=True)]


def _single(values: Sequence[float]) -> list[EnergyRange]:
    """One range around each energy, a factor of sqrt(2) wide at most."""
    middle = np.sqrt(np.multiply(values[1:], values[:-1]))
    bounds = [values[0] / np.sqrt(2), *middle, values[-1] * np.sqrt(2)]
    labels = [f"{value / GEV:.4g} GeV" for value in values]
    return _named(labels, bounds)


def _between(law: EnergyLaw, inner: Sequence[float]) -> list[EnergyRange]:
    if law.low == law.high:
        return _single([law.low])
    edges = [law.low, *inner, law.high]
    labels = [f"{a / GEV:g}-{b / GEV:g} GeV" for a, b in pairwise(edges)]
    bounds = [law.low * (1 - TOLERANCE), *inner, law.high * (1 + 2 * TOLERANCE)]
    return _named(labels, bounds)


def _decades(law: EnergyLaw, _: str) -> list[EnergyRange]:
    powers = 10.0 ** np.arange(-3, 9)
    return _between(law, [float(p) for p in powers if law.low < p < law.high])


_RANGES: dict[str, Callable[[EnergyLaw, str], list[EnergyRange]]] = {
    "discrete": lambda law, _: _single(law.values),
    "log-uniform": _decades,
    "uniform": lambda law, name: _between(law, [GEV * each for each in STEPS.get(name, ())]),
}


def filled_ranges(
    entry: Dataset, *energies: np.ndarray, least: int = LEAST
) -> tuple[list[EnergyRange], tuple[str, ...]]:
    """Ranges with at least `least` showers in every sample, and a warning that names the others.

    energies: incident energies of each sample, MeV.
    """
    ranges = energy_ranges(entry)
    counts = [min(int(each.holds(e).sum()) for e in energies) for each in ranges]
    filled = [each for each, n in zip(ranges, counts, strict=True) if n >= least]
    left_out = [each.label for each, n in zip(ranges, counts, strict=True) if n < least]
    if not left_out:
        return filled, ()
    return filled, (f"fewer than {least} showers in a sample, left out: {', '.join(left_out)}",)
