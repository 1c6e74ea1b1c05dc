"""Numbers with their bootstrap replicas: arrays (1 + R,) whose first entry is the number itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from calostudy.metrics.distances import wasserstein
from calostudy.metrics.histograms import (
    Binning,
    bootstrap_weights,
    separation_power,
    weighted_histograms,
)
from calostudy.metrics.measurement import Options, Parts

KIND = "bootstrap over showers"

Pair = tuple[np.ndarray, np.ndarray]
"""The same of the generated and of the reference showers, (N, ...) and (M, ...)."""


def pair_weights(generated: Sequence, reference: Sequence, options: Options) -> Pair:
    """Weights of the showers of both samples, (N, 1 + R) and (M, 1 + R); the first column is 1."""
    rng = np.random.default_rng(options.seed)
    first, second = (
        bootstrap_weights(len(each), options.replicas, rng) for each in (generated, reference)
    )
    return first, second


def separation_replicas(values: Pair, bins: Binning, weights: Pair) -> np.ndarray:
    """Separation power of numbers (N,) and (M,), NaN not counted, with its replicas (1 + R,)."""
    return separation_power(
        *(weighted_histograms(v, bins, w) for v, w in zip(values, weights, strict=True))
    )


def wasserstein_replicas(values: Pair, unit: float, weights: Pair) -> np.ndarray:
    """Wasserstein distance in units of `unit` of numbers (N,) and (M,), NaN not counted: (1 + R,).

    NaN where one sample has no numbers at all.
    """
    finite = [np.isfinite(v) for v in values]
    if not all(f.any() for f in finite):
        return np.full(weights[0].shape[1], np.nan)
    chosen = [v[f] for v, f in zip(values, finite, strict=True)]
    kept = tuple(w[f] for w, f in zip(weights, finite, strict=True))
    return wasserstein(*chosen, kept) / unit


def with_spread(replicas: np.ndarray) -> tuple[float, float]:
    """The number and its standard deviation over the replicas, NaN for fewer than two of them.

    >>> with_spread(np.array([1.0, 0.0, 2.0]))
    (1.0, 1.4142135623730951)
    """
    spread = np.std(replicas[1:], ddof=1) if len(replicas) > 2 else np.nan
    return float(replicas[0]), float(spread)


def parts(found: Mapping[str, np.ndarray]) -> Parts:
    """`with_spread` of each."""
    return {name: with_spread(each) for name, each in found.items()}
