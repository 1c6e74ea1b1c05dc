"""Spectra of the cell energies over six decades below the hottest cell, per decade and per depth.

The spectrum of all cells spans many orders of magnitude in number, too, so that its separation
power is that of its lowest decade; each decade has therefore also one of its own, normalised within
the decade. Bins are counted down from the hottest cell of the reference, ten to the decade, as far
as the threshold of the cells or six decades; still hotter cells count in the hottest bin.
"""

from __future__ import annotations

from itertools import pairwise

import numba
import numpy as np

from calostudy.metrics.groups import layer_groups
from calostudy.metrics.histograms import separation_power
from calostudy.metrics.measurement import Measurement, Options
from calostudy.metrics.replicas import KIND, pair_weights, parts, with_spread
from calostudy.metrics.sample import Sample

DECADES = 6
PER_DECADE = 10
ALL_CELLS = "all cells"


def spectrum_edges(largest: float, threshold: float) -> np.ndarray:
    """Edges of the bins in MeV, rising; the lowest is the threshold or six decades down.

    >>> edges = spectrum_edges(1000.0, 0.03)
    >>> len(edges), edges[[0, 1, -1]].round(4).tolist()
    (47, [0.03, 0.0316, 1000.0])
    """
    steps = -np.arange(DECADES * PER_DECADE + 1) / PER_DECADE
    edges = (largest or 1.0) * 10.0 ** steps[::-1]
    if threshold < edges[0]:
        return edges
    above = edges[edges > threshold * (1 + 1e-9)]
    return np.array([threshold, *above] if len(above) else [threshold, 2.0 * threshold])


@numba.njit(cache=True)
def _count(cells, group, low, largest, per_decade, out):
    bins = out.shape[2]
    for i in range(cells.shape[0]):
        for j in range(cells.shape[1]):
            value = np.float64(cells[i, j])
            if value >= low:
                down = int(np.floor(per_decade * np.log10(largest / value)))
                out[i, group[j], bins - 1 - min(max(down, 0), bins - 1)] += 1


def spectra(sample: Sample, edges: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Cells in each group of layers and each bin of all showers: float64 (R, groups, bins).

    weights: (N, R), how often each shower counts; by default one column of ones.
    """
    geometry = sample.entry.calorimeter
    groups = list(layer_groups(geometry).values())
    group = np.repeat(np.arange(len(groups)), [len(positions) for positions in groups])
    of_cell = group[geometry.layer_index]  # groups are of consecutive layers
    weights = np.ones((len(sample), 1)) if weights is None else weights
    out = np.zeros((weights.shape[1], len(groups), len(edges) - 1))
    first = 0
    for showers in sample.chunks():
        found = np.zeros((len(showers), *out.shape[1:]))
        cells = np.ascontiguousarray(showers.cells)
        _count(cells, of_cell, edges[0], edges[-1], PER_DECADE, found)
        out += np.tensordot(weights[first : first + len(showers)], found, axes=(0, 0))
        first += len(showers)
    return out


def decades(edges: np.ndarray) -> dict[str, slice]:
    """Name of each decade -> its bins, from the hottest cells down.

    What is left at the threshold is a decade of its own, or part of the lowest if less than half.

    >>> decades(spectrum_edges(2000.0, 9.0))
    {'200-2,000 MeV': slice(14, 24, None), '9-200 MeV': slice(0, 14, None)}
    """
    tops = range(len(edges) - 1, PER_DECADE // 2, -PER_DECADE) or [len(edges) - 1]
    return {
        f"{_words(edges[low])}-{_words(edges[high])} MeV": slice(low, high)
        for high, low in pairwise([*tops, 0])
    }


def _words(energy: float) -> str:
    return f"{energy:,.0f}" if energy >= 1000 else f"{energy:.3g}"


def measure_spectra(
    generated: Sample, reference: Sample, options: Options, ruler: Sample
) -> dict[str, Measurement]:
    """Separation power of the cell energies in each decade, mean over the decades.

    `details` has every decade, all decades together, and those of each group of layers.
    """
    entry = reference.entry
    edges = spectrum_edges(float(ruler.largest.max()), entry.threshold)
    weights = pair_weights(generated, reference, options)
    counts = [
        spectra(sample, edges, each)
        for sample, each in zip((generated, reference), weights, strict=True)
    ]
    whole = [each.sum(axis=1) for each in counts]
    found = {
        name: separation_power(*(each[:, own] for each in whole))
        for name, own in decades(edges).items()
    }
    groups = {
        name: separation_power(*(each[:, number] for each in counts))
        for number, name in enumerate(layer_groups(entry.calorimeter))
    }
    return {
        "separation_spectra": Measurement(
            *with_spread(np.mean(list(found.values()), axis=0)),
            KIND,
            details=parts(found | {ALL_CELLS: separation_power(*whole)} | groups),
            settings={
                "lowest_MeV": float(edges[0]),
                "largest_MeV": float(edges[-1]),
                "bins": len(edges) - 1,
                "replicas": options.replicas,
            },
        )
    }
