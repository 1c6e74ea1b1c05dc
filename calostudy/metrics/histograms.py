"""Histograms of the observables and the separation power between two samples.

The separation power, also called triangular discrimination,

    S = 1/2 sum_i (p_i - q_i)^2 / (p_i + q_i + eps),   sum p_i = sum q_i = 1,

is 0 for identical and 1 for disjoint histograms. For the CaloChallenge data sets the binning is
the official one (CaloChallenge evaluation, plots of the mode `hist`): values outside the range are
dropped and the reference decides where logarithmic ranges end.

The CaloGAN data sets have no official binning. Here their histograms have 50 bins between the
0.5 % and 99.5 % quantiles of the reference (logarithmic for layer energies, from the threshold on),
and the first and last bin also hold everything beyond, so that nothing is dropped.

Two samples of the same distribution do not have S = 0 but, for k filled bins and N and M showers,
S = (k - 1) (1/N + 1/M) / 4 on average: compare with the floor, not with zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numba
import numpy as np

from calostudy.datasets import Dataset
from calostudy.metrics.observables import EPSILON
from calostudy.metrics.sample import RATIO, Sample

VOXEL = "voxel"
QUANTILES = (0.005, 0.995)
QUANTILE_BINS = 50
WIDE_LAYERS = (12, 13)  # the hadronic layers of DS1, with radii of up to two metres
WIDE_RADIAL_LAYERS = (12, 13, 14)


@dataclass(frozen=True)
class Binning:
    """Bin edges (bins + 1,); `open_ended`: the outer bins also hold what lies beyond them."""

    edges: np.ndarray
    open_ended: bool = False

    def indices(self, values: np.ndarray) -> np.ndarray:
        """Bin number of each value, int64 of the values' shape; -1: outside, or not a number.

        As in NumPy's histogram the last bin includes its upper edge.
        """
        bins = len(self.edges) - 1
        index = np.searchsorted(self.edges, values, side="right") - 1
        index[values == self.edges[-1]] = bins - 1
        if self.open_ended:
            index = np.clip(index, 0, bins - 1)
        index[(index >= bins) | np.isnan(values)] = -1
        return index


@dataclass(frozen=True)
class Separation:
    """Separation power of one observable, with the histograms that it comes from.

    uncertainty: standard deviation over bootstrap replicas of both samples (whole showers drawn
    with replacement), which near the floor overestimates the true spread somewhat.
    generated, reference: counts per bin (bins,); outside: share of the entries dropped.
    replicas: separation power of each bootstrap replica, the same showers for every observable.
    """

    name: str
    value: float
    uncertainty: float
    edges: np.ndarray = field(repr=False)
    generated: np.ndarray = field(repr=False)
    reference: np.ndarray = field(repr=False)
    generated_outside: float
    reference_outside: float
    replicas: np.ndarray = field(repr=False)


def separation_power(generated: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Separation power of histograms (..., bins) of counts in equal bins: array (...).

    Each histogram is normalised over its entries in range. Two empty histograms are identical
    (0), an empty and a filled one disjoint (1).
    """
    generated = np.asarray(generated, dtype=np.float64)
    reference = np.asarray(reference, dtype=np.float64)
    entries = [counts.sum(axis=-1, keepdims=True) for counts in (generated, reference)]
    p, q = (
        np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
        for counts, total in zip((generated, reference), entries, strict=True)
    )
    power = 0.5 * ((p - q) ** 2 / (p + q + EPSILON)).sum(axis=-1)
    empty = [total[..., 0] == 0 for total in entries]
    power = np.where(empty[0] & empty[1], 0.0, np.where(empty[0] ^ empty[1], 1.0, power))
    return power


# ---- binning ----------------------------------------------------------------------------------


def _logarithmic(low: float, high: float, bins: int) -> np.ndarray:
    high = high if high > low else 10 * low  # the reference is empty here: any range will do
    return np.geomspace(low, high, bins + 1)


def _official(name: str, entry: Dataset, reference: np.ndarray) -> Binning:
    group, _, tail = name.partition("/")
    maximum = float(np.nanmax(reference, initial=0.0))
    if group == VOXEL:
        return Binning(_logarithmic(entry.threshold, maximum, 49))
    if group == "E_layer":
        return Binning(_logarithmic(entry.threshold, maximum, 39))
    if group == "E_tot":
        return Binning(_ratio_edges(entry, tail))
    if group == "sparsity":
        return Binning(np.linspace(0.0, 1.0, 21))
    layer = int(tail)
    longitudinal = entry.calorimeter.shape is not None  # DS2 and DS3: all layers alike
    wide = layer in (WIDE_RADIAL_LAYERS if group.endswith("_r") else WIDE_LAYERS)
    column = 0 if longitudinal else 1 + wide
    low, high = {
        "EC_eta": ((-30, 30), (-100, 100), (-500, 500)),
        "EC_phi": ((-30, 30), (-100, 100), (-500, 500)),
        "EC_r": ((0, 42), (0, 500), (0, 1500)),
        "width_eta": ((0, 30), (0, 100), (0, 400)),
        "width_phi": ((0, 30), (0, 100), (0, 400)),
        "width_r": ((0, 20), (0, 500), (0, 1500)),
    }[group][column]
    return Binning(np.linspace(low, high, 101))


def _ratio_edges(entry: Dataset, tail: str) -> np.ndarray:
    """E_tot/E_inc: all energies, or (DS1) one of the energies 2^k MeV, named E_tot/E_inc/2^k."""
    _, _, power = tail.partition("/2^")
    if not power:
        return np.linspace(0.5, 1.5, 101)
    narrow = entry.name == "ds1-photons" and int(power) >= 12
    return np.linspace(0.9, 1.1, 21) if narrow else np.linspace(0.4, 1.4, 21)


def _by_quantiles(name: str, entry: Dataset, reference: np.ndarray) -> Binning:
    values = reference[np.isfinite(reference)]
    low, high = np.quantile(values, QUANTILES) if values.size else (0.0, 0.0)
    if name.startswith("E_layer"):
        edges = _logarithmic(max(entry.threshold, float(low)), float(high), QUANTILE_BINS)
        return Binning(edges, open_ended=True)
    if name == VOXEL:
        maximum = float(values.max()) if values.size else 0.0
        return Binning(_logarithmic(entry.threshold, maximum, 49), open_ended=True)
    if not high > low:
        low, high = low - 0.5, low + 0.5
    return Binning(np.linspace(low, high, QUANTILE_BINS + 1), open_ended=True)


def binning(name: str, entry: Dataset, reference: np.ndarray) -> Binning:
    """Bins of an observable: the data set's official ones, else quantiles of the reference.

    name: a key of `observables`, `E_tot/E_inc`, `E_tot/E_inc/2^k` or `voxel`.
    reference: the reference's values (N,), for `voxel` at least its largest one.
    """
    official = entry.calorimeter.file_format == "calochallenge"
    return (_official if official else _by_quantiles)(name, entry, reference)


# ---- filling ----------------------------------------------------------------------------------


@numba.njit(cache=True)
def _count_cells(cells, edges, open_ended, out):
    bins = len(edges) - 1
    origin = np.log(edges[0])
    scale = bins / (np.log(edges[-1]) - origin)
    for i in range(cells.shape[0]):
        for j in range(cells.shape[1]):
            value = np.float64(cells[i, j])
            if not value >= edges[0] or (value > edges[-1] and not open_ended):
                continue
            guess = min(max(int((np.log(value) - origin) * scale), 0), bins - 1)
            # The logarithm may miss an edge by rounding; the edges decide.
            while guess > 0 and value < edges[guess]:
                guess -= 1
            while guess < bins - 1 and value >= edges[guess + 1]:
                guess += 1
            out[i, guess] += 1


def cell_counts(sample: Sample, bins: Binning) -> np.ndarray:
    """Histogram of the cell energies of each shower in logarithmic bins: float64 (N, bins)."""
    out = np.zeros((len(sample), len(bins.edges) - 1))
    first = 0
    for showers in sample.chunks():
        part = out[first : first + len(showers)]
        _count_cells(np.ascontiguousarray(showers.cells), bins.edges, bins.open_ended, part)
        first += len(showers)
    return out


@numba.njit(cache=True)
def _fill(index, weights, out):
    for i in range(len(index)):
        if index[i] >= 0:
            out[index[i]] += weights[i]


def bootstrap_weights(showers: int, replicas: int, generator: np.random.Generator) -> np.ndarray:
    """Weights (showers, replicas + 1): first 1, then how often each replica draws each shower.

    Poisson bootstrap: replicas differ a little in their number of showers.
    """
    weights = np.ones((showers, replicas + 1))
    weights[:, 1:] = generator.poisson(1.0, size=(showers, replicas))
    return weights


def weighted_histograms(values: np.ndarray, bins: Binning, weights: np.ndarray) -> np.ndarray:
    """Histograms (replicas + 1, bins) of values (N,), one for each column of weights."""
    counts = np.zeros((len(bins.edges) - 1, weights.shape[1]))
    _fill(bins.indices(values), weights, counts)
    return counts.T


def _compare(
    name: str, bins: Binning, counts: tuple[np.ndarray, np.ndarray], entries: tuple[float, float]
) -> Separation:
    """counts: generated and reference (1 + replicas, bins); entries: of the samples as they are."""
    powers = separation_power(*counts)
    outside = [
        float(1 - c[0].sum() / n) if n else 0.0 for c, n in zip(counts, entries, strict=True)
    ]
    return Separation(
        name=name,
        value=float(powers[0]),
        uncertainty=float(np.std(powers[1:], ddof=1)) if len(powers) > 2 else float("nan"),
        edges=bins.edges,
        generated=counts[0][0],
        reference=counts[1][0],
        generated_outside=outside[0],
        reference_outside=outside[1],
        replicas=powers[1:],
    )


def separations(
    generated: Sample,
    reference: Sample,
    *,
    replicas: int = 100,
    seed: int = 0,
    bins_from: Sample | None = None,
) -> dict[str, Separation]:
    """Separation power of every observable between two samples (sizes may differ).

    replicas: bootstrap replicas for the uncertainties; seed: of the bootstrap.
    bins_from: the showers whose values decide open ranges, by default `reference`.
    """
    entry, ruler = reference.entry, bins_from or reference
    samples = (generated, reference)
    generator = np.random.default_rng(seed)
    weights = [bootstrap_weights(len(sample), replicas, generator) for sample in samples]
    values = [sample.distributions for sample in samples]
    result = {}
    for name in values[0]:
        bins = binning(name, entry, ruler.distributions[name])
        counts = tuple(
            weighted_histograms(v[name], bins, w) for v, w in zip(values, weights, strict=True)
        )
        entries = tuple(float(np.count_nonzero(~np.isnan(v[name]))) for v in values)
        result[name] = _compare(name, bins, counts, entries)

    bins = binning(VOXEL, entry, ruler.largest)
    cells = [cell_counts(sample, bins) for sample in samples]
    counts = tuple(w.T @ c for w, c in zip(weights, cells, strict=True))
    entries = tuple(float(sample.hits.sum()) for sample in samples)
    return result | {VOXEL: _compare(VOXEL, bins, counts, entries)}


def mean_separation(table: dict[str, Separation]) -> tuple[float, float]:
    """Mean separation power over the observables and its bootstrap uncertainty.

    Every layer's observable counts once; slices of E_tot/E_inc by energy do not count, because
    E_tot/E_inc is there already.
    """
    chosen = [entry for name, entry in table.items() if not name.startswith(f"{RATIO}/")]
    mean = float(np.mean([entry.value for entry in chosen]))
    replicas = np.mean([entry.replicas for entry in chosen], axis=0)
    return mean, float(np.std(replicas, ddof=1)) if replicas.size > 1 else float("nan")
