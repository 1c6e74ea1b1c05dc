"""Texture: how alike neighbouring cells are, in each shower and from shower to shower.

Neighbours are cells of a layer that share an edge, on cylinders also across alpha = +-pi.

Moran's I (P. A. P. Moran, Biometrika 37, 1950) of a layer of one shower, for its n cells of energy
E_i (in plain MeV, after the minimum-energy cut), z_i = E_i - mean(E), and P pairs of neighbours:

    I = (n / P) sum_pairs(z_i z_j) / sum_i(z_i^2).

It is 1 for a slow change, -1 for a chequerboard and -1/(n - 1) on average for cells in random
order; a layer whose cells are all alike has none.

The other measure are the Pearson coefficients of neighbouring cells over the showers, of
log(1 + E / u), where u is 1/10,000 of the incident energy and E is 0 for an empty cell: plain
energies would all grow together with the incident energy, and follow the few hottest cells.
"""

from __future__ import annotations

import numba
import numpy as np

from calostudy.calorimeter import Calorimeter, Layer
from calostudy.metrics.measurement import Measurement, Options
from calostudy.metrics.replicas import FEW, KIND, pair_weights, parts, with_spread
from calostudy.metrics.sample import Sample
from calostudy.showers import Showers

OFTEN = 0.05  # share of the reference's showers in which both cells of a pair have energy, at least
UNIT = 1e-4  # of the incident energy
ROUNDING = 1e-12  # of the sum of squares: below, all cells are alike


def neighbours(layer: Layer) -> np.ndarray:
    """Pairs of cells of a layer that share an edge, each once: numbers in the layer (P, 2)."""
    cell = np.arange(layer.cells).reshape(layer.shape)
    pairs = [(cell[:, :-1], cell[:, 1:]), (cell[:-1], cell[1:])]
    if layer.view == "cylindrical" and len(cell) > 2:
        pairs.append((cell[-1:], cell[:1]))
    return np.concatenate([np.stack([a.ravel(), b.ravel()], axis=1) for a, b in pairs])


def all_neighbours(calorimeter: Calorimeter) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of all layers, numbers in the calorimeter (P, 2), and where each layer's begin."""
    pairs = [
        neighbours(layer) + part.start
        for layer, part in zip(calorimeter.layers, calorimeter.slices, strict=True)
    ]
    return np.concatenate(pairs), np.cumsum([0, *map(len, pairs)])


@numba.njit(cache=True)
def _morans_i(cells, threshold, bounds, pairs, first, out):
    z = np.empty(cells.shape[1])
    for i in range(cells.shape[0]):
        for layer in range(len(bounds) - 1):
            low, high = bounds[layer], bounds[layer + 1]
            total = squares = 0.0
            for j in range(low, high):
                value = np.float64(cells[i, j])
                z[j] = value if value >= threshold else 0.0
                total += z[j]
                squares += z[j] * z[j]
            mean = total / (high - low)
            own = cross = 0.0
            for j in range(low, high):
                z[j] -= mean
                own += z[j] * z[j]
            if own <= ROUNDING * squares:
                continue
            for k in range(first[layer], first[layer + 1]):
                cross += z[pairs[k, 0]] * z[pairs[k, 1]]
            out[i, layer] = (high - low) / (first[layer + 1] - first[layer]) * cross / own


def morans_i(showers: Showers, threshold: float) -> np.ndarray:
    """Moran's I of each layer of each shower, (N, layers); NaN where all cells are alike."""
    geometry = showers.calorimeter
    bounds = np.array([*(part.start for part in geometry.slices), geometry.cells])
    out = np.full((len(showers), len(geometry.layers)), np.nan)
    cells = np.ascontiguousarray(showers.cells)
    _morans_i(cells, threshold, bounds, *all_neighbours(geometry), out)
    return out


def mean_morans_i(sample: Sample, weights: np.ndarray) -> np.ndarray:
    """Mean over the showers that have one, per column of weights (N, R): (R, layers).

    NaN for a layer in which fewer than `FEW` showers have one.
    """
    found = np.concatenate([morans_i(part, sample.entry.threshold) for part in sample.chunks()])
    has = np.isfinite(found)
    enough = np.where(has.sum(axis=0) < FEW, np.nan, 1.0)
    return weights.T @ np.where(has, found, 0.0) / np.maximum(weights.T @ has, 1.0) * enough


def _log_cells(showers: Showers, threshold: float) -> np.ndarray:
    cells = np.where(showers.cells < threshold, 0, showers.cells)
    return np.log1p(cells / (UNIT * showers.incident_energy[:, None])).astype(np.float32)


def frequent_pairs(sample: Sample) -> np.ndarray:
    """Neighbours that have energy in the same shower often enough for a coefficient, (P, 2)."""
    pairs = all_neighbours(sample.entry.calorimeter)[0]
    both = np.zeros(len(pairs))
    for showers in sample.chunks():
        hit = showers.cells >= sample.entry.threshold
        both += np.count_nonzero(hit[:, pairs[:, 0]] & hit[:, pairs[:, 1]], axis=0)
    return pairs[both >= OFTEN * len(sample)]


def pair_correlations(
    sample: Sample, pairs: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Pearson coefficients of the pairs (P, 2) over the showers, per column of weights (N, R).

    Returns (R, P), by default for one column of ones; 0 where one of the cells never changes.
    """
    weights = np.ones((len(sample), 1)) if weights is None else weights
    cells, place = np.unique(pairs, return_inverse=True)
    first, second = place.reshape(pairs.shape).T
    sums = np.zeros((2, weights.shape[1], len(cells)))
    products = np.zeros((weights.shape[1], len(pairs)))
    centre, done = None, 0
    for showers in sample.chunks():
        values = _log_cells(showers, sample.entry.threshold)[:, cells]
        # around their mean, single precision keeps the variance of cells that hardly change
        centre = values.mean(axis=0) if centre is None else centre
        values -= centre
        drawn = weights[done : done + len(showers)].astype(np.float32).T
        sums += np.stack([drawn @ values, drawn @ values**2])
        products += drawn @ (values[:, first] * values[:, second])
        done += len(showers)
    total = weights.sum(axis=0)[:, None]
    mean, square = sums / total
    spread = np.sqrt(np.maximum(square - mean**2, 0.0))
    covariance = products / total - mean[:, first] * mean[:, second]
    scale = spread[:, first] * spread[:, second]
    return np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > ROUNDING)


def measure_texture(
    generated: Sample, reference: Sample, options: Options, ruler: Sample
) -> dict[str, Measurement]:
    """Moran's I and correlations of neighbouring cells: mean absolute difference.

    `morans_i`: of the mean over showers, over the layers; `details` has the signed differences.
    `pcc_neighbours`: over the pairs of cells, in `details` over those of each layer.
    """
    samples = (generated, reference)
    geometry = reference.entry.calorimeter
    weights = pair_weights(generated, reference, options)
    first, second = (mean_morans_i(s, w) for s, w in zip(samples, weights, strict=True))
    apart = first - second
    has = np.isfinite(apart[0])
    names = [f"layer {layer}" for layer in geometry.layer_ids]
    without = ", ".join(name for name, found in zip(names, has, strict=True) if not found)
    warnings = (
        (f"Moran's I: fewer than {FEW} showers of a sample have energy in {without}",)
        if without
        else ()
    )
    pairs = frequent_pairs(ruler)
    one, two = (
        pair_correlations(sample, pairs, w) for sample, w in zip(samples, weights, strict=True)
    )
    differences = np.abs(one - two)
    layer_of = geometry.layer_index[pairs[:, 0]]
    return {
        "morans_i": Measurement(
            *with_spread(np.abs(apart[:, has]).mean(axis=1) if has.any() else np.zeros(1)),
            KIND,
            details=parts({names[i]: apart[:, i] for i in np.flatnonzero(has)}),
            settings={"layers": int(has.sum()), "replicas": options.replicas},
            warnings=warnings,
        ),
        "pcc_neighbours": Measurement(
            *with_spread(differences.mean(axis=1) if len(pairs) else np.zeros(1)),
            KIND,
            details=parts(
                {names[i]: differences[:, layer_of == i].mean(axis=1) for i in np.unique(layer_of)}
            ),
            settings={"pairs": len(pairs), "least_share": OFTEN, "replicas": options.replicas},
        ),
    }
