"""Number of hits, longitudinal and radial energy profile, of point clouds and of cells alike.

How E. Buhmann et al. (Advancing Generative Modelling of Calorimeter Showers, 2024) compare
generated showers, as clustered points or projected onto the cells of the calorimeter. The rings of
the radial profile share the energy of the reference equally, as far as its cells let them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from calostudy.calorimeter import Calorimeter
from calostudy.clouds import PointClouds
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
from calostudy.metrics.sample import Sample

RINGS = 20


@dataclass(frozen=True)
class Profiles:
    """What showers look like in any form.

    hits: (N,) points, or cells with energy. longitudinal: (N, layers) MeV. radial: (N, rings) MeV
    in the rings between `edges` (rings + 1,) mm around the axis; the last holds all beyond, too.
    """

    edges: np.ndarray = field(repr=False)
    hits: np.ndarray = field(repr=False)
    longitudinal: np.ndarray = field(repr=False)
    radial: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.hits)


def ring_edges(radius: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Edges in mm of rings with equal shares of the energy (M,) at these distances (M,) mm.

    Distances that are the same are in one ring, so that there are fewer rings for coarse cells.

    >>> ring_edges(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 0.01, 1.0, 1.0])).tolist()
    [0.0, 1.5, 2.5, 3.5, 4.0]
    """
    places, inverse = np.unique(np.round(radius, 6), return_inverse=True)
    inside = np.cumsum(np.bincount(inverse, energy))
    wanted = np.linspace(0, 1, RINGS + 1)[1:-1] * inside[-1]
    last = np.searchsorted(inside, wanted)
    last = last[last < len(places) - 1]
    return np.unique([0.0, *0.5 * (places[last] + places[last + 1]), np.max(radius) or 1.0])


def _ring(edges: np.ndarray, radius: np.ndarray) -> np.ndarray:
    return np.clip(np.searchsorted(edges, radius, side="right") - 1, 0, len(edges) - 2)


def cloud_rings(clouds: PointClouds) -> np.ndarray:
    """Edges of the rings (mm) for point clouds."""
    return ring_edges(np.hypot(*clouds.position[:, :2].T), clouds.energy)


def cloud_profiles(clouds: PointClouds, geometry: Calorimeter, edges: np.ndarray) -> Profiles:
    """Profiles of point clouds in the layers of a calorimeter with known depths."""
    ring = _ring(edges, np.hypot(*clouds.position[:, :2].T))
    rings = len(edges) - 1
    radial = np.bincount(clouds.shower * rings + ring, clouds.energy, len(clouds) * rings)
    return Profiles(edges, clouds.counts, clouds.per_layer(geometry)[1], radial.reshape(-1, rings))


def cell_rings(sample: Sample) -> np.ndarray:
    """Edges of the rings (mm) for cells, by the distances of their centres."""
    energy = sum(part.cells.sum(axis=0, dtype=np.float64) for part in sample.chunks())
    return ring_edges(sample.entry.calorimeter.r, energy)


def cell_profiles(sample: Sample, edges: np.ndarray) -> Profiles:
    """Profiles of the cells after the minimum-energy cut."""
    ring = _ring(edges, sample.entry.calorimeter.r)
    inside = (ring[:, None] == np.arange(len(edges) - 1)).astype(np.float32)
    radial = [
        part.above_threshold(sample.entry.threshold).cells @ inside for part in sample.chunks()
    ]
    return Profiles(edges, sample.hits, sample.layer_energies, np.concatenate(radial))


def _beside(energies: Pair, unit: np.ndarray, place: np.ndarray, weights: Pair) -> Pair:
    """Separation power and Wasserstein distance of two summed profiles, each (1 + R,).

    energies: (N, bins), (M, bins); unit: (any, bins), of which the distance is in standard
    deviations; place: of the bins, (bins,).
    """
    sums = [w.T @ each for each, w in zip(energies, weights, strict=True)]
    power = separation_power(*sums)
    shares = [s / np.maximum(s.sum(axis=1, keepdims=True), 1e-30) for s in sums]
    ahead = np.abs(np.cumsum(shares[0] - shares[1], axis=1))[:, :-1]
    mean = unit.sum(axis=0) / max(unit.sum(), 1e-30)
    spread = np.sqrt(mean @ (place - mean @ place) ** 2)
    return power, ahead @ np.diff(place) / (spread or 1.0)


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
    places = {
        "longitudinal": np.arange(ruler.longitudinal.shape[1]),
        "radial": 0.5 * (ruler.edges[1:] + ruler.edges[:-1]),
    }
    found = {
        "separation_hits": separation_replicas(hits, quantile_bins(ruler.hits), weights),
        "wasserstein_hits": wasserstein_replicas(hits, float(np.std(ruler.hits)) or 1.0, weights),
    }
    for name, place in places.items():
        first, second, unit = (getattr(each, name) for each in (generated, reference, ruler))
        found[f"separation_{name}"], found[f"wasserstein_{name}"] = _beside(
            (first, second), unit, place, weights
        )
    settings = {"rings": len(ruler.edges) - 1, "replicas": options.replicas}
    return {
        name: Measurement(*with_spread(each), KIND, settings=settings)
        for name, each in found.items()
    }


def measure_profiles(
    generated: Sample, reference: Sample, options: Options, ruler: Sample
) -> dict[str, Measurement]:
    """`compare_profiles` of the cells."""
    edges = cell_rings(ruler)
    first, second, unit = (cell_profiles(each, edges) for each in (generated, reference, ruler))
    return compare_profiles(first, second, options, unit)


def compare_clouds(
    generated: PointClouds,
    reference: PointClouds,
    geometry: Calorimeter,
    options: Options,
    ruler: PointClouds | None = None,
) -> dict[str, Measurement]:
    """`compare_profiles` of point clouds on a calorimeter with known depths."""
    ruler = reference if ruler is None else ruler
    edges = cloud_rings(ruler)
    first, second, unit = (
        cloud_profiles(each, geometry, edges) for each in (generated, reference, ruler)
    )
    return compare_profiles(first, second, options, unit)
