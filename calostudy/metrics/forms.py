"""One shower in several forms: steps, clustered points, cells; in the box and moved in it.

The questions of E. Buhmann et al. (Advancing Generative Modelling of Calorimeter Showers, 2024).
"""

from __future__ import annotations

import numpy as np

from calostudy.calorimeter import Calorimeter
from calostudy.clouds import PointClouds


def sizes(
    clouds: PointClouds, hits: np.ndarray, geometry: Calorimeter, threshold: float
) -> dict[str, np.ndarray]:
    """Steps, clustered points and cells of each shower, (N,) each.

    Args:
        clouds: clustered showers.
        hits: (N,) Geant4 steps with energy in the silicon, of the same showers.
        geometry: the calorimeter of the grid.
        threshold: least energy of a cell that counts, MeV.
    """
    cells = (clouds.to_showers(geometry).cells >= threshold).sum(axis=1)
    return {"all Geant4 steps": hits, "clustered steps": clouds.counts, "cells of the grid": cells}


def shifted(
    clouds: PointClouds, geometry: Calorimeter, seed: int = 1
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """How much of a shower the box of the grid holds, by where in it the particle enters.

    Returns for each range of incident points, in words: the share of the visible energy inside the
    box, and the number of cells above zero, both (N,).
    """
    edges = geometry.layers[0].edges
    pitch = np.array([np.diff(axis).mean() for axis in edges])
    half = np.array([(axis[-1] - axis[0]) / 2 for axis in edges])
    total = clouds.total_energy()
    rng = np.random.default_rng(seed)
    found = {}
    for words, reach in (
        ("middle of the box", 0.0 * pitch),
        ("anywhere in the middle cell", pitch / 2),
        ("anywhere in the middle half", half / 2),
        ("anywhere in the box", half),
    ):
        showers = clouds.to_showers(geometry, rng.uniform(-1, 1, (len(clouds), 2)) * reach)
        inside = showers.total_energy() / np.maximum(total, 1e-12)
        found[words] = inside, (showers.cells > 0).sum(axis=1)
    return found
