"""Distances between two distributions of numbers per shower, without a trained network.

Frechet and kernel physics distance (FPD, KPD) are those of arXiv:2211.10295 as its authors'
package `jetnet` computes them: each column is divided by its largest absolute value in the
reference, batches are drawn from both samples with replacement, and

- FPD = the Frechet distance of Gaussians with the batches' means and covariances, averaged over
  the batches of one size n, and extrapolated by a + b / n with a, b >= 0 to infinite n;
- KPD = the median over batches of the unbiased quadratic estimate of the squared maximum mean
  discrepancy with the kernel (x . y / d + 1)^4 for d columns.

Batches drawn with replacement from N showers know no more than the N showers: the extrapolation
goes to the distance of the two samples, and for samples of one distribution both distances keep a
bias that falls as 1/N + 1/M. Compare with the floor, not with zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from calostudy.errors import DataError

SEED = 42  # of jetnet and of the published evaluations
FRECHET_SIZES = (10_000, 50_000)  # smallest and largest batch of the published evaluations
FRECHET_BATCHES = 20
FRECHET_POINTS = 10
KERNEL_SIZE = 10_000
KERNEL_BATCHES = 10
KERNEL_QUANTILES = (0.16275, 0.83725)
MINIMUM_SHOWERS = 50
SMALL = 0.8  # showers per feature below which their products are the smaller matrix
ROWS = 1024  # of a kernel matrix held at once

Arrays = tuple[np.ndarray, np.ndarray]


def scaled(generated: np.ndarray, reference: np.ndarray, ruler: np.ndarray) -> Arrays:
    """Columns divided by their largest absolute value in `ruler` (1 where that is 0), float64.

    generated (N, d), reference (M, d), ruler (any, d): published distances take the reference.
    Raises DataError for too few rows and for values that are not finite.
    """
    scale = np.abs(np.asarray(ruler, dtype=np.float64)).max(axis=0)
    scale[scale == 0] = 1.0
    result = []
    for label, values in (("generated", generated), ("reference", reference)):
        if len(values) < MINIMUM_SHOWERS:
            raise DataError(
                f"FPD and KPD: {len(values)} {label} showers, expected at least {MINIMUM_SHOWERS}"
            )
        if not np.isfinite(values).all():
            raise DataError(f"FPD and KPD: the {label} showers give features that are not finite")
        result.append(np.asarray(values, dtype=np.float64) / scale)
    return result[0], result[1]


# ---- Frechet ----------------------------------------------------------------------------------


def _moments(x: np.ndarray) -> Arrays:
    """Mean (d,) and unbiased covariance (d, d) of x (n, d)."""
    mean = x.mean(axis=0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def frechet_distance(first: Arrays, second: Arrays) -> float:
    """|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two (mean (d,), covariance (d, d)).

    With S1 = R R^T, S1 S2 has the eigenvalues of the symmetric R^T S2 R, which stay real and
    non-negative for covariances without full rank.
    """
    (mean_1, covariance_1), (mean_2, covariance_2) = first, second
    try:
        root = np.linalg.cholesky(covariance_1)
    except np.linalg.LinAlgError:  # not of full rank
        values, vectors = np.linalg.eigh(covariance_1)
        root = vectors * np.sqrt(np.clip(values, 0, None))
    product = np.linalg.eigvalsh(root.T @ covariance_2 @ root)
    trace = np.trace(covariance_1) + np.trace(covariance_2)
    return float(
        np.sum((mean_1 - mean_2) ** 2) + trace - 2 * np.sqrt(np.clip(product, 0, None)).sum()
    )


def frechet_of_few(x: np.ndarray, y: np.ndarray) -> float:
    """`frechet_distance` of the moments of x (n, d) and y (m, d), for samples smaller than d.

    With A, B the centred samples over the roots of n - 1, m - 1, Tr (S1 S2)^(1/2) is the sum of the
    singular values of A B^T, which has no more than n times m elements.
    """
    means = [z.mean(axis=0) for z in (x, y)]
    a, b = ((z - mean) / np.sqrt(len(z) - 1) for z, mean in zip((x, y), means, strict=True))
    shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(np.sum((means[0] - means[1]) ** 2) + np.sum(a * a) + np.sum(b * b) - 2 * shared)


def _frechet(x: np.ndarray, y: np.ndarray) -> float:
    if max(len(x), len(y)) < SMALL * x.shape[1]:
        return frechet_of_few(x, y)
    return frechet_distance(_moments(x), _moments(y))


@dataclass(frozen=True)
class Frechet:
    """FPD and how it came about.

    value: the intercept; fit_error: from the fit's covariance, the published kind, which does not
    know that the samples are finite. spread: standard deviation over batches of the largest size,
    scaled to the size of the smaller sample: a bootstrap over showers. sizes, means: the points.
    """

    value: float
    fit_error: float
    slope: float
    spread: float
    sizes: np.ndarray
    means: np.ndarray


def batch_sizes(showers: int) -> np.ndarray:
    """Sizes of FPD batches, regular in 1/n: the published ones, or up to all of fewer showers.

    As jetnet truncates, which loses one of the 50,000.

    >>> batch_sizes(100_000)[[0, -1]].tolist(), batch_sizes(5_000)[[0, -1]].tolist()
    ([10000, 49999], [1000, 5000])
    """
    smallest, largest = FRECHET_SIZES
    if showers < largest:
        smallest, largest = showers * smallest // largest, showers
    return (1 / np.linspace(1 / smallest, 1 / largest, FRECHET_POINTS)).astype(np.int64)


def _straight_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Least squares a + b x with a, b >= 0: a, b and the error of a from the fit's covariance.

    In closed form; jetnet's iterative fit stops some 1e-5 from it.
    """
    design = np.stack([np.ones_like(x), x], axis=1)
    a, b = np.linalg.lstsq(design, y, rcond=None)[0]
    if a < 0:
        a, b = 0.0, max(0.0, float(x @ y / (x @ x)))
    elif b < 0:
        a, b = max(0.0, float(y.mean())), 0.0
    variance = np.sum((y - a - b * x) ** 2) / (len(x) - 2)
    error = np.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0])
    return float(a), float(b), float(error)


def frechet_physics_distance(
    generated: np.ndarray,
    reference: np.ndarray,
    sizes: Sequence[int] | None = None,
    *,
    batches: int = FRECHET_BATCHES,
    seed: int = SEED,
) -> Frechet:
    """FPD of `scaled` features, generated (N, d) and reference (M, d).

    sizes: of the batches, by default `batch_sizes` of the smaller sample. The same seed draws the
    batches that jetnet draws.
    """
    smaller = min(len(generated), len(reference))
    sizes = batch_sizes(smaller) if sizes is None else np.asarray(sizes)
    # A column that is one number in both samples adds nothing but arithmetic.
    varies = (generated != reference[0]).any(axis=0) | (reference != reference[0]).any(axis=0)
    x, y = (np.ascontiguousarray(values[:, varies]) for values in (reference, generated))
    rng = np.random.default_rng(seed)
    points = np.array(
        [
            [
                _frechet(x[rng.choice(len(x), size=size)], y[rng.choice(len(y), size=size)])
                for _ in range(batches)
            ]
            for size in sizes
        ]
    )
    means = points.mean(axis=1)
    value, slope, error = _straight_line(1 / sizes, means)
    spread = float(points[-1].std(ddof=1) * np.sqrt(sizes[-1] / smaller))
    return Frechet(value, error, slope, spread, sizes, means)


# ---- kernel -----------------------------------------------------------------------------------


def _kernel_sums(x: np.ndarray, y: np.ndarray, wx: np.ndarray, wy: np.ndarray) -> np.ndarray:
    """Sum over all pairs of wx k(x, y) wy per batch: (batches,), for wx (n, batches)."""
    total = np.zeros(wx.shape[1])
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        kernel = x[rows] @ y.T
        kernel /= x.shape[1]
        kernel += 1
        kernel *= kernel
        kernel *= kernel
        total += ((wx[rows].T @ kernel) * wy.T).sum(axis=1)
    return total


def _discrepancies(x: np.ndarray, y: np.ndarray, wx: np.ndarray, wy: np.ndarray) -> np.ndarray:
    """Unbiased squared discrepancy of batches with x[i] drawn wx[i] times: (batches,)."""
    m, n = wx.sum(axis=0), wy.sum(axis=0)
    own = [
        _kernel_sums(z, z, w, w) - w.T @ ((z * z).sum(axis=1) / z.shape[1] + 1) ** 4
        for z, w in ((x, wx), (y, wy))
    ]
    cross = _kernel_sums(x, y, wx, wy)
    return own[0] / (m * (m - 1)) + own[1] / (n * (n - 1)) - 2 * cross / (m * n)


def kernel_batches(
    generated: np.ndarray,
    reference: np.ndarray,
    size: int | None = None,
    *,
    batches: int = KERNEL_BATCHES,
    seed: int = SEED,
) -> np.ndarray:
    """Squared discrepancy of each batch of `scaled` features, (N, d) and (M, d): (batches,).

    size: of a batch, by default the published one, or the smaller sample where that has less. A
    shower that was drawn twice counts twice; where batches share most showers their kernels are
    computed once for all batches.
    """
    size = size or min(KERNEL_SIZE, len(generated), len(reference))
    draws = []
    for batch in range(batches):
        rng = np.random.default_rng(seed + 1000 * batch)
        rows = [rng.choice(len(values), size=size) for values in (reference, generated)]
        draws.append(
            [
                np.bincount(r, minlength=len(values)).astype(np.float64)
                for r, values in zip(rows, (reference, generated), strict=True)
            ]
        )
    if len(generated) * len(reference) <= batches * size**2:
        counts = [np.stack(column, axis=1) for column in zip(*draws, strict=True)]
        return _discrepancies(reference, generated, *counts)
    values = []
    for wx, wy in draws:
        i, j = np.flatnonzero(wx), np.flatnonzero(wy)
        values += [*_discrepancies(reference[i], generated[j], wx[i, None], wy[j, None])]
    return np.array(values)


def median_and_spread(values: np.ndarray) -> tuple[float, float]:
    """Median and half of the central range that holds one standard deviation on both sides."""
    low, high = np.quantile(values, KERNEL_QUANTILES)
    return float(np.median(values)), float(high - low) / 2


# ---- layer correlations -----------------------------------------------------------------------


def correlations(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Pearson matrix (L, L) of values (N, L); 0 (on the diagonal 1) for a constant column.

    weights (N,): how often each row counts.
    """
    weights = np.ones(len(values)) if weights is None else weights
    centred = values - np.average(values, axis=0, weights=weights)
    covariance = (centred * weights[:, None]).T @ centred
    scale = np.sqrt(np.diag(covariance))
    # What rounding leaves of a constant column is not a spread.
    scale[scale <= 1e-12 * np.sqrt(weights.sum()) * np.abs(values).max(axis=0)] = 0
    norm = np.outer(scale, scale)
    matrix = np.divide(covariance, norm, out=np.zeros_like(covariance), where=norm > 0)
    np.fill_diagonal(matrix, 1.0)
    return matrix


def correlation_distance(
    generated: np.ndarray, reference: np.ndarray, replicas: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Mean absolute difference of the Pearson coefficients of all pairs of columns (N, L), (M, L).

    With its standard deviation over bootstrap replicas of both samples.
    """
    rng = np.random.default_rng(seed)
    pairs = np.triu_indices(generated.shape[1], k=1)

    def distance(weights: Sequence[np.ndarray | None]) -> float:
        first, second = (
            correlations(np.asarray(values, dtype=np.float64), w)
            for values, w in zip((generated, reference), weights, strict=True)
        )
        return float(np.abs(first - second)[pairs].mean()) if len(pairs[0]) else 0.0

    draws = [
        distance([rng.poisson(1.0, len(values)).astype(float) for values in (generated, reference)])
        for _ in range(replicas)
    ]
    return distance([None, None]), float(np.std(draws, ddof=1)) if replicas > 1 else float("nan")


# ---- Wasserstein ------------------------------------------------------------------------------


@numba.njit(cache=True)
def _wasserstein(values, shares, out):
    balance = np.zeros(shares.shape[1])
    for k in range(len(values) - 1):
        width = values[k + 1] - values[k]
        for r in range(shares.shape[1]):
            balance[r] += shares[k, r]
            out[r] += abs(balance[r]) * width


def wasserstein(
    generated: np.ndarray, reference: np.ndarray, weights: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """First Wasserstein distance of two sets of numbers (N,), (M,) per column of weights: (R,).

    weights: (N, R) and (M, R), how often each number counts in each replica.
    """
    values = np.concatenate([generated, reference]).astype(np.float64)
    order = np.argsort(values, kind="stable")
    shares = np.concatenate(
        [weights[0] / weights[0].sum(axis=0), -weights[1] / weights[1].sum(axis=0)]
    )
    out = np.zeros(shares.shape[1])
    _wasserstein(values[order], shares[order], out)
    return out


def wasserstein_distances(
    generated: dict[str, np.ndarray],
    reference: dict[str, np.ndarray],
    ruler: dict[str, np.ndarray],
    replicas: int = 100,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Wasserstein distance of each observable, in standard deviations of the ruler's values.

    Observable -> (1 + replicas,): the distance and its bootstrap replicas, the same showers for
    all observables. An observable that is constant in `ruler` has no such unit and is left out.
    """
    rng = np.random.default_rng(seed)
    sizes = [len(next(iter(sample.values()))) for sample in (generated, reference)]
    weights = []
    for size in sizes:
        drawn = rng.poisson(1.0, size=(size, replicas + 1)).astype(np.float64)
        drawn[:, 0] = 1.0
        weights.append(drawn)
    result = {}
    for name, values in ruler.items():
        unit = float(np.std(values, dtype=np.float64))
        if unit > 1e-12 * float(np.abs(values).max()):
            distances = wasserstein(generated[name], reference[name], (weights[0], weights[1]))
            result[name] = distances / unit
    return result
