"""Numbers with their bootstrap replicas: arrays (1 + R,) whose first entry is the number itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from calostudy.metrics.distances import wasserstein
from calostudy.metrics.histograms import (
    QUANTILE_BINS,
    QUANTILES,
    Binning,
    bootstrap_weights,
    separation_power,
    weighted_histograms,
)
from calostudy.metrics.measurement import Options, Parts

KIND = "bootstrap over showers"
FEW = 20  # showers with a quantity, below which some replica may have none of them
OUTSIDE = 0.02  # difference in the share of what is left out that is worth a warning

Pair = tuple[np.ndarray, np.ndarray]
"""The same of the generated and of the reference showers, (N, ...) and (M, ...)."""


def pair_weights(generated: Sequence, reference: Sequence, options: Options) -> Pair:
    """Weights of the showers of both samples, (N, 1 + R) and (M, 1 + R); the first column is 1."""
    rng = np.random.default_rng(options.seed)
    first, second = (
        bootstrap_weights(len(each), options.replicas, rng) for each in (generated, reference)
    )
    return first, second


def quantile_bins(reference: np.ndarray) -> Binning:
    """Bins between quantiles of the reference's numbers (M,), the outer ones with all beyond."""
    low, high = np.nanquantile(reference, QUANTILES)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return Binning(np.linspace(low, high, QUANTILE_BINS + 1), open_ended=True)


def separation_replicas(values: Pair, bins: Binning, weights: Pair) -> np.ndarray:
    """Separation power of numbers (N,) and (M,), NaN not counted, with its replicas (1 + R,)."""
    return separation_power(
        *(weighted_histograms(v, bins, w) for v, w in zip(values, weights, strict=True))
    )


def wasserstein_replicas(values: Pair, unit: float, weights: Pair) -> np.ndarray:
    """Wasserstein distance in units of `unit` of numbers (N,) and (M,), NaN not counted: (1 + R,).

    For at least `FEW` numbers in each sample.
    """
    finite = [np.isfinite(v) for v in values]
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


def unlike(left_out: Sequence[np.ndarray]) -> str:
    """In words, the shares of the generated and reference showers left out, if these are unlike.

    left_out: a mask of each sample. Empty for shares closer than 2 % or three standard errors.

    >>> unlike([np.arange(1000) < 70, np.arange(1000) < 20])
    '7.0% and 2.0%'
    """
    first, second = (float(np.mean(each)) for each in left_out)
    error = np.sqrt(sum(np.var(each) / len(each) for each in left_out))
    if abs(first - second) <= max(OUTSIDE, 3 * error):
        return ""
    return f"{first:.1%} and {second:.1%}"
