"""Means, widths and distances of means of the layers, as the geometry-aware models are judged.

J. Liu et al. (Geometry-aware Autoregressive Models for Calorimeter Shower Simulations,
arXiv:2212.08233), for eta and likewise for phi, with the energies E of the cells of a layer:

    mean = sum(eta E) / sum(E)                                                            (eq. 1)
    width^2 = sum(E (eta - mean)^2) / ((M - 1) / M sum(E)),   M cells with energy         (eq. 2)

and the difference between the means of neighbouring layers (figure 5). Eq. 2 is the square of the
CaloChallenge width times M / (M - 1), so that all follow from the observables, M from the
sparsity. A layer without energy has no mean, one with a single cell no width: such showers do not
count in that quantity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np

from calostudy.calorimeter import Calorimeter, Layer
from calostudy.metrics.measurement import Measurement, Options
from calostudy.metrics.ranges import LEAST
from calostudy.metrics.replicas import (
    FEW,
    KIND,
    pair_weights,
    parts,
    quantile_bins,
    separation_replicas,
    unlike,
    wasserstein_replicas,
    with_spread,
)
from calostudy.metrics.sample import Sample

AXES = ("eta", "phi")
ROUNDING = 1e-9  # of a standard deviation, relative to the values: below, they are all the same


def layer_means(observables: Mapping[str, np.ndarray], layer: Layer, axis: str) -> np.ndarray:
    """Energy-weighted mean of a layer in mm (eq. 1), (N,); NaN without energy."""
    energy = observables[f"E_layer/{layer.id}"]
    return np.where(energy > 0, observables[f"EC_{axis}/{layer.id}"], np.nan)


def layer_widths(observables: Mapping[str, np.ndarray], layer: Layer, axis: str) -> np.ndarray:
    """Unbiased width of a layer in mm (eq. 2), (N,); NaN with fewer than two cells hit."""
    hits = np.rint((1 - observables[f"sparsity/{layer.id}"]) * layer.cells)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(hits > 1, np.sqrt(hits / (hits - 1)), np.nan)
    return factor * observables[f"width_{axis}/{layer.id}"]


def shapes(
    observables: Mapping[str, np.ndarray], calorimeter: Calorimeter
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values (N,) in mm of each quantity, one at a time: there are many in deep ones.

    `mean_eta/L`, `mean_phi/L`, `width_eta/L`, `width_phi/L` for the layers with cells on both axes,
    `distance_eta/L-K` and `distance_phi/L-K` (mean of layer K less mean of layer L) for neighbours
    among them.
    """
    layers = [layer for layer in calorimeter.layers if layer.two_dimensional]
    for axis in AXES:
        for layer in layers:
            yield f"mean_{axis}/{layer.id}", layer_means(observables, layer, axis)
            yield f"width_{axis}/{layer.id}", layer_widths(observables, layer, axis)
        for near, far in pairwise(layers):
            means = (layer_means(observables, layer, axis) for layer in (far, near))
            yield f"distance_{axis}/{near.id}-{far.id}", np.subtract(*means)


def measure_shapes(
    generated: Sample, reference: Sample, options: Options, ruler: Sample
) -> dict[str, Measurement]:
    """Means, widths and distances of means: mean Wasserstein distance and separation power.

    Wasserstein distances are in standard deviations of the reference; `details` has each quantity.
    """
    samples = (generated, reference, ruler)
    weights = pair_weights(generated, reference, options)
    distances, powers, missing, left_out = {}, {}, [], []
    quantities = (shapes(each.observables, each.entry.calorimeter) for each in samples)
    for (name, first), (_, second), (_, unit) in zip(*quantities, strict=True):
        found = [np.isfinite(each) for each in (first, second, unit)]
        if found[2].sum() < LEAST or np.nanstd(unit) <= ROUNDING * np.nanmax(np.abs(unit)):
            left_out.append(name)
            continue
        if words := unlike([~each for each in found[:2]]):
            missing.append(f"{name} ({words})")
        powers[name] = separation_replicas((first, second), quantile_bins(unit), weights)
        if min(each.sum() for each in found) >= FEW:
            distances[name] = wasserstein_replicas((first, second), np.nanstd(unit), weights)
    warnings = [
        f"{words}: {', '.join(names)}"
        for words, names in (
            ("generated and reference showers without energy for", missing),
            (f"fewer than {LEAST} showers of the reference, or all the same", left_out),
            ("too few showers for a Wasserstein distance", sorted(set(powers) - set(distances))),
        )
        if names
    ]
    nothing = np.full(1 + options.replicas, np.nan)
    return {
        metric: Measurement(
            *with_spread(np.mean(list(found.values()) or [nothing], axis=0)),
            KIND,
            details=parts(found),
            settings={"quantities": len(found), "replicas": options.replicas},
            warnings=tuple(warnings),
        )
        for metric, found in (("wasserstein_shapes", distances), ("separation_shapes", powers))
    }
