"""Showers made of formulas and random numbers: plausible enough to test metrics, made in ms."""

import numpy as np

from calostudy.datasets import dataset
from calostudy.showers import Showers


def toy_showers(name: str, n: int, seed: int, *, scale: float = 1.0, width: float = 1.0) -> Showers:
    """Showers of a data set's energies that fall off with the distance from the axis.

    scale: factor on all cell energies; width: factor on the lateral size.
    """
    entry = dataset(name)
    geometry = entry.calorimeter
    rng = np.random.default_rng(seed)
    energy = entry.energies.sample(n, rng)
    lateral = np.exp(-geometry.r / (width * np.quantile(geometry.r, 0.3)))
    depth = np.exp(-0.5 * ((np.arange(len(geometry.layers)) - 1) / 1.5) ** 2)
    profile = lateral * depth[geometry.layer_index]
    cells = profile * rng.gamma(0.3, size=(n, geometry.cells))
    cells *= rng.lognormal(0, 0.3, size=(n, len(geometry.layers)))[:, geometry.layer_index]
    response = 0.95 * rng.normal(1, 0.02, size=n) * scale
    cells *= (energy * response / cells.sum(axis=1))[:, None]
    cells[cells < entry.threshold] = 0
    return Showers(geometry, energy, cells.astype(np.float32))
