"""How far generated showers are from Geant4's on each segmentation, those left out of a training
included: Wasserstein distances of energies, hits, means and widths.

Means and widths are those of arXiv:2212.08233 (`calostudy.metrics.shapes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from calostudy.metrics.measurement import Options
from calostudy.metrics.observables import observables
from calostudy.metrics.replicas import FEW, pair_weights, wasserstein_replicas, with_spread
from calostudy.metrics.shapes import shapes
from calostudy.segmentations import INNER, MIDDLE, OUTER
from calostudy.showers import Showers

Size = tuple[int, int]

PAIRS: tuple[tuple[Size, Size], ...] = (
    ((48, 4), (36, 48)),
    ((48, 12), (12, 12)),
    ((48, 24), (48, 24)),
    ((48, 48), (48, 48)),
    ((192, 4), (12, 12)),
    ((192, 12), (36, 48)),
    ((192, 24), (48, 48)),
    ((192, 48), (48, 24)),
)
"""Segmentations that have every inner size once and every middle size twice, among them the two
pairs of the paper's figure 5."""

LAYERS: dict[str, tuple[Size, ...]] = {"inner": INNER, "middle": MIDDLE, "outer": (OUTER,)}
"""The sizes of each layer."""

GROUPS: dict[str, tuple[str, ...]] = {
    "energy": ("energy",),
    "hits": ("hits",),
    "means": ("mean_eta", "mean_phi"),
    "widths": ("width_eta", "width_phi"),
}
"""Of a layer: what is averaged under one name."""


def quantities(showers: Showers, threshold: float) -> dict[str, np.ndarray]:
    """By name, (N,): `energy/L` in MeV and `hits/L` of each layer; means, widths and distances of
    means in mm as `calostudy.metrics.shapes.shapes` names them. Cells below the threshold (MeV)
    do not count."""
    found, layers = observables(showers, threshold), showers.calorimeter.layers
    values = dict(shapes(found, showers.calorimeter))
    for layer in layers:
        values[f"energy/{layer.id}"] = found[f"E_layer/{layer.id}"]
        values[f"hits/{layer.id}"] = np.rint((1 - found[f"sparsity/{layer.id}"]) * layer.cells)
    return values


@dataclass(frozen=True)
class Distance:
    """Mean Wasserstein distance of a group of quantities of one layer of one size, in standard
    deviations of the reference; `replicas` (1 + R,) begin with the number itself."""

    sample: str
    layer: str
    size: Size
    group: str
    replicas: np.ndarray


def distances(
    samples: Mapping[tuple[Size, Size], Mapping[str, Mapping[str, np.ndarray]]], options: Options
) -> list[Distance]:
    """Distances of all samples from the first of each segmentation.

    `samples`: segmentation to sample to `quantities`, the reference first. A size that occurs in
    several segmentations has the mean over them. All sizes share the bootstrap weights, since all
    are read from the same Geant4 showers.
    """
    found: dict[tuple, list[np.ndarray]] = {}
    for pair, own in samples.items():
        (_, reference), *others = own.items()
        for name, values in others:
            lengths = [len(next(iter(each.values()))) for each in (values, reference)]
            weights = pair_weights(*map(np.empty, lengths), options)
            for number, (layer, size) in enumerate(zip(LAYERS, (*pair, OUTER), strict=True)):
                for group, members in GROUPS.items():
                    keys = [f"{member}/{number}" for member in members]
                    parts = [_distance(values[k], reference[k], weights) for k in keys]
                    found.setdefault((name, layer, size, group), []).append(np.mean(parts, axis=0))
    return [Distance(*key, np.mean(parts, axis=0)) for key, parts in found.items()]


def _distance(values: np.ndarray, reference: np.ndarray, weights) -> np.ndarray:
    if min(np.isfinite(each).sum() for each in (values, reference)) < FEW:
        return np.full(weights[0].shape[1], np.nan)
    return wasserstein_replicas((values, reference), float(np.nanstd(reference)), weights)


def mean_distance(
    found: list[Distance], sample: str, layer: str, group: str, sizes: tuple[Size, ...]
) -> tuple[float, float]:
    """Mean over sizes of a layer, and its standard deviation over the replicas."""
    chosen = [
        each.replicas
        for each in found
        if (each.sample, each.layer, each.group) == (sample, layer, group) and each.size in sizes
    ]
    return with_spread(np.mean(chosen, axis=0))
