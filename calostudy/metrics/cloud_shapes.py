"""Number of hits, longitudinal and radial energy profile, of point clouds and of cells alike.

How E. Buhmann et al. (Advancing Generative Modelling of Calorimeter Showers, 2024) compare
generated showers, as clustered points or projected onto the cells of the calorimeter.
"""

from __future__ import annotations

import numpy as np

from calostudy.metrics.histograms import separation_power
from calostudy.metrics.measurement import Measurement, Options
from calostudy.metrics.replicas import (
    KIND,
    Pair,
    pair_weights,
    quantile_bins,
    separation_replicas,
    wasserstein_replicas,
    with_spread,
)
from calostudy.metrics.rings import Profiles
from calostudy.metrics.sample import Sample

CLOUD = "cloud_"  # before the names of metrics of point clouds


def _moved(energies: Pair, unit: np.ndarray, place: np.ndarray, weights: Pair) -> np.ndarray:
    """Wasserstein distance of two summed profiles, (1 + R,).

    energies: (N, bins), (M, bins); unit: (any, bins), in whose standard deviations the distance is;
    place: of the bins, (bins,).
    """
    sums = [w.T @ each for each, w in zip(energies, weights, strict=True)]
    shares = [s / np.maximum(s.sum(axis=1, keepdims=True), 1e-30) for s in sums]
    ahead = np.abs(np.cumsum(shares[0] - shares[1], axis=1))[:, :-1]
    mean = unit.sum(axis=0, dtype=np.float64) / max(unit.sum(dtype=np.float64), 1e-30)
    spread = np.sqrt(mean @ (place - mean @ place) ** 2)
    return ahead @ np.diff(place) / (spread or 1.0)


def compare_profiles(
    generated: Profiles, reference: Profiles, options: Options, ruler: Profiles
) -> dict[str, Measurement]:
    """Separation power and Wasserstein distance of the hits and of both profiles.

    `separation_hits`, `separation_longitudinal`, `separation_radial` and the same of
    `wasserstein_`: in standard deviations of the ruler, of the hits over its showers, of depth (in
    layers) and distance from the axis over its energy.
    """
    weights = pair_weights(generated, reference, options)
    hits = generated.hits, reference.hits
    edges = ruler.rings()
    found = {
        "separation_hits": separation_replicas(hits, quantile_bins(ruler.hits), weights),
        "wasserstein_hits": wasserstein_replicas(hits, float(np.std(ruler.hits)) or 1.0, weights),
    }
    for name, place, binned in (
        ("longitudinal", np.arange(ruler.longitudinal.shape[1]), lambda each: each.longitudinal),
        ("radial", ruler.distance, lambda each: each.in_rings(edges)),
    ):
        first, second, unit = (getattr(each, name) for each in (generated, reference, ruler))
        found[f"separation_{name}"] = separation_power(
            *(w.T @ binned(x) for x, w in zip((generated, reference), weights, strict=True))
        )
        found[f"wasserstein_{name}"] = _moved((first, second), unit, place, weights)
    settings = {"rings": len(edges) - 1, "replicas": options.replicas}
    return {
        name: Measurement(*with_spread(each), KIND, settings=settings)
        for name, each in found.items()
    }


def measure_profiles(
    generated: Sample, reference: Sample, options: Options, ruler: Sample
) -> dict[str, Measurement]:
    """`compare_profiles` of the cells after the minimum-energy cut."""
    return compare_profiles(generated.profiles, reference.profiles, options, ruler.profiles)


def measure_clouds(
    generated: Sample, reference: Sample, options: Options, ruler: Sample
) -> dict[str, Measurement]:
    """`compare_profiles` of the points, which the samples must have; names with `CLOUD` before."""
    found = compare_profiles(generated.points, reference.points, options, ruler.points)
    return {f"{CLOUD}{name}": each for name, each in found.items()}
