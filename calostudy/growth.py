"""How times grow with the calorimeter, and from which energy or batch size on a surrogate is faster
than Geant4: fits and crossings of measured times. Nothing is measured here."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from calostudy.timing import Geant4Time

CELLS_ALIKE = 1.5
"""Calorimeters whose numbers of cells differ by less than this factor are no lever arm."""


@dataclass(frozen=True)
class PowerLaw:
    """time = scale * cells^slope, fitted in logarithms to `points` calorimeters.

    error: of the slope, from the scatter about the line with three points or more; with two from
    the uncertainties of the times alone. kind: which of both.
    """

    slope: float
    error: float
    scale: float
    points: int
    kind: str

    def at(self, cells: np.ndarray) -> np.ndarray:
        """The fitted time, in the unit of the fitted ones."""
        return self.scale * np.asarray(cells, float) ** self.slope


def power_law(cells: np.ndarray, times: np.ndarray, errors: np.ndarray) -> PowerLaw | None:
    """The power law through times (N,) with errors (N,) on calorimeters with so many cells (N,);
    None where all calorimeters are about the same size.

    Each calorimeter counts alike: the scatter between architectures is larger than the errors of
    the times.

    >>> law = power_law(np.array([10, 100, 1000]), np.array([2.0, 20.0, 200.0]), np.zeros(3))
    >>> round(law.slope, 6), round(law.scale, 6), law.points
    (1.0, 0.2, 3)
    """
    cells, times = np.asarray(cells, float), np.asarray(times, float)
    if len(cells) < 2 or cells.max() < CELLS_ALIKE * cells.min():
        return None
    x, y = np.log(cells), np.log(times)
    slope, intercept = np.polyfit(x, y, 1)
    lever = np.sum((x - x.mean()) ** 2)
    relative = np.nan_to_num(np.asarray(errors, float)) / times
    kind = "uncertainties of the times"
    error = np.sqrt(np.sum(((x - x.mean()) * relative) ** 2)) / lever
    if len(cells) > 2:
        residual = y - slope * x - intercept
        scatter = np.sqrt(np.sum(residual**2) / (len(cells) - 2) / lever)
        if scatter > error:
            error, kind = scatter, "scatter about the line"
    return PowerLaw(float(slope), float(error), float(np.exp(intercept)), len(cells), kind)


def break_even_energy(geant4: Geant4Time, time: float, error: float) -> tuple[float, float]:
    """The incident energy in GeV from which on a surrogate that takes `time` (ms per shower, with
    its error) is faster than Geant4 by its fitted line, and its uncertainty.

    Zero or less: the surrogate is faster at every energy.
    """
    energy = (time - geant4.offset) / geant4.slope
    parts = (
        np.nan_to_num(error),
        geant4.offset_error or 0.0,
        energy * (geant4.slope_error or 0.0),
    )
    return float(energy), float(np.hypot(np.hypot(parts[0], parts[1]), parts[2]) / geant4.slope)


def break_even_batch(times: Mapping[int, float], geant4_ms: float) -> float | None:
    """The batch size from which on a surrogate is faster than `geant4_ms` per shower.

    times: ms per shower by batch size; between two of them the logarithm is interpolated in the
    logarithm of the batch size. None: at no measured batch size.

    >>> break_even_batch({1: 100.0, 10: 10.0, 100: 1.0}, 200.0)
    1.0
    >>> round(break_even_batch({1: 100.0, 10: 10.0, 100: 1.0}, 50.0), 3)
    2.0
    >>> break_even_batch({1: 100.0, 10: 90.0}, 50.0) is None
    True
    """
    batches = sorted(times)
    if times[batches[0]] <= geant4_ms:
        return float(batches[0])
    for small, large in itertools.pairwise(batches):
        if times[large] <= geant4_ms:
            share = np.log(times[small] / geant4_ms) / np.log(times[small] / times[large])
            return float(small * (large / small) ** share)
    return None


def speed_up(geant4: Geant4Time, energy_gev: np.ndarray, time: float) -> np.ndarray:
    """Geant4's fitted time at energies (N,) in GeV over a surrogate's ms per shower."""
    return geant4.fit(energy_gev) / time


def of_one_machine(table: pd.DataFrame) -> pd.DataFrame:
    """Of each model, the times of the machine that has most of its calorimeters; of several such
    machines, the last one.

    >>> of_one_machine(pd.DataFrame({"model": "a", "machine": list("xyx"), "cells": [1, 2, 3]}))
      model machine  cells
    0     a       x      1
    2     a       x      3
    """
    have = table.groupby(["model", "machine"])["cells"].transform("nunique")
    table = table[have == have.groupby(table["model"]).transform("max")]
    return table[table["machine"] == table.groupby("model")["machine"].transform("last")]


def without_twins(table: pd.DataFrame) -> pd.DataFrame:
    """Of data sets with one calorimeter, whose networks are the same, the first of each model."""
    return table.drop_duplicates(["model", "cells"], keep="first")
