"""Precision, recall, density and coverage: which share of showers has neighbours of the other kind.

Around each shower lies a ball that reaches to its k-th nearest neighbour in its own sample
(k = 5, Euclidean distance). With strict "inside the ball" (arXiv:1904.06991, arXiv:2002.09797):

- precision: share of the generated showers inside the ball of any reference shower;
- recall: share of the reference showers inside the ball of any generated shower;
- density: number of reference balls that a generated shower is in, over k, on average;
- coverage: share of the reference balls with a generated shower inside.

Coverage of equal samples of one distribution is 1 - 2^-k = 0.97 in any number of dimensions; the
others depend on it, and all on the sample sizes: compare with the floor.

Distances are matrix products over blocks of showers, so that no more than a block of the matrix of
all distances is held at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np

from calostudy.errors import DataError, UsageError

NEIGHBOURS = 5
HALVES = 20  # random halves of both samples, for the uncertainties
SPARE = 25  # neighbours kept beyond the k-th: one of 30,000 half samples has too few of them
ROWS = 512  # of the distance matrix held at once
NAMES = ("precision", "recall", "density", "coverage")


def log_cells(cells: np.ndarray, empty: float) -> np.ndarray:
    """log10 of cell energies in MeV (N, cells), empty cells taken as `empty` MeV: float32."""
    values = np.where(cells > 0, cells, np.float32(empty)).astype(np.float32)
    return np.log10(values, out=values)


def _blocks(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of x (n, d) to y (m, d) in blocks of rows, with the rows that they are."""
    norms = [np.einsum("ij,ij->i", z, z) for z in (x, y)]
    # What the subtraction leaves of two equal points is rounding, not a distance.
    rounding = 64 * np.finfo(x.dtype).eps
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        block = x[rows] @ y.T
        _finish(block, norms[0][rows], norms[1], rounding)
        yield rows, block


@numba.njit(cache=True)
def _finish(block, x, y, rounding):
    for i in range(block.shape[0]):
        for j in range(block.shape[1]):
            total = x[i] + y[j]
            square = total - 2 * block[i, j]
            block[i, j] = square if square > rounding * total else 0


def _radii(x: np.ndarray, k: int, kept: np.ndarray) -> np.ndarray:
    """Squared distance of each point (n, d) to the k-th other one that is kept: (n, R).

    kept: which points each of R samples has, (n, R) bool.
    """
    keep = min(k + SPARE, len(x) - 1)
    out = np.empty(kept.shape, dtype=x.dtype)
    for rows, block in _blocks(x, x):
        own = np.arange(len(block))
        block[own, own + rows.start] = np.inf
        nearest = np.argpartition(block, keep - 1, axis=1)[:, :keep]
        squares = np.take_along_axis(block, nearest, axis=1)
        order = np.argsort(squares, axis=1, kind="stable")
        squares = np.take_along_axis(squares, order, axis=1)
        found = kept[np.take_along_axis(nearest, order, axis=1)].cumsum(axis=1) >= k
        at = np.where(found.any(axis=1), found.argmax(axis=1), keep - 1)
        out[rows] = np.take_along_axis(squares, at, axis=1)
    return out


@numba.njit(cache=True)
def _count(block, radii, kept_centres, kept_points, balls, filled):
    """Balls that each point is in (points, R) and whether a ball has a point (rows, R)."""
    for i in range(block.shape[0]):
        widest = radii[i].max()
        for j in range(block.shape[1]):
            if block[i, j] < widest:
                for r in range(radii.shape[1]):
                    kept = kept_centres[i, r] and kept_points[j, r]
                    if kept and block[i, j] < radii[i, r]:
                        balls[j, r] += 1
                        filled[i, r] = True


def _ball_counts(
    centres: np.ndarray, points: np.ndarray, k: int, kept: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    radii = _radii(centres, k, kept[0])
    balls = np.zeros(kept[1].shape, dtype=np.int32)
    filled = np.zeros(kept[0].shape, dtype=np.bool_)
    for rows, block in _blocks(centres, points):
        _count(block, radii[rows], kept[0][rows], kept[1], balls, filled[rows])
    return balls, filled


def _halves(points: int, halves: int, rng: np.random.Generator) -> np.ndarray:
    """First column all points, then random halves: (points, 1 + halves) bool."""
    kept = np.ones((points, 1 + halves), dtype=np.bool_)
    for column in range(1, halves + 1):
        kept[rng.permutation(points)[points // 2 :], column] = False
    return kept


def neighbour_metrics(
    generated: np.ndarray,
    reference: np.ndarray,
    k: int = NEIGHBOURS,
    *,
    halves: int = HALVES,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Precision, recall, density and coverage of generated (N, d) and reference (M, d) points.

    Each with its uncertainty, the standard deviation over random halves of both samples, with the
    neighbours that each half has: a mean over N/2 of N points varies about that over all N as this
    varies about the truth. (A bootstrap would draw points twice, at distance zero.) It is a
    third to two thirds too large. `<name>/half` is the mean over the halves: what half as many
    points give.
    Computed in the inputs' precision, float32 if both have that.
    Raises DataError for too few points or values that are not finite, UsageError for k or halves.
    """
    if k < 1 or halves < 2:
        raise UsageError(f"{k} neighbours, {halves} halves: expected at least 1 and 2")
    for label, values in (("generated", generated), ("reference", reference)):
        if len(values) < 4 * k:
            raise DataError(
                f"neighbours: {len(values)} {label} showers, expected at least {4 * k} "
                f"for {k} neighbours"
            )
        if not np.isfinite(values).all():
            raise DataError(f"neighbours: the {label} showers have values that are not finite")
    dtype = np.result_type(generated, reference, np.float32)
    # About the middle, where the squares whose difference is a distance are smallest.
    middle = np.mean(reference, axis=0, dtype=np.float64).astype(dtype)
    x, y = (np.asarray(values, dtype=dtype) - middle for values in (reference, generated))
    rng = np.random.default_rng(seed)
    kept_x, kept_y = (_halves(len(values), halves, rng) for values in (x, y))
    balls, filled = _ball_counts(x, y, k, (kept_x, kept_y))
    in_generated, _ = _ball_counts(y, x, k, (kept_y, kept_x))
    sizes_x, sizes_y = kept_x.sum(axis=0), kept_y.sum(axis=0)
    values = {
        "precision": (balls > 0).sum(axis=0) / sizes_y,
        "recall": (in_generated > 0).sum(axis=0) / sizes_x,
        "density": balls.sum(axis=0) / sizes_y / k,
        "coverage": filled.sum(axis=0) / sizes_x,
    }
    result = {}
    for name, v in values.items():
        spread = float(v[1:].std(ddof=1))
        result |= {name: (float(v[0]), spread), f"{name}/half": (float(v[1:].mean()), spread)}
    return result
