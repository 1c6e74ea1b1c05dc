"""Which of several models no other one beats in both time and quality."""

from __future__ import annotations

import numpy as np

DRAWS = 4000


def front(time: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Which of the models (N,) are on the Pareto front: none is as fast and better, or as good and
    faster. A lower time and a higher quality are better.

    >>> front(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 0.5])).tolist()
    [True, True, False]
    """
    no_slower = time[:, None] <= time
    no_worse = quality[:, None] >= quality
    better = (time[:, None] < time) | (quality[:, None] > quality)
    return ~(no_slower & no_worse & better).any(axis=0)


def chance_of_front(
    time: np.ndarray,
    time_error: np.ndarray,
    quality: np.ndarray,
    quality_error: np.ndarray,
    draws: int = DRAWS,
    seed: int = 0,
) -> np.ndarray:
    """How often each model (N,) is on the front when times and qualities are drawn anew, normally
    about their values with their errors, independently; the time's logarithm."""
    generator = np.random.default_rng(seed)
    shape = (draws, len(time))
    logs = np.log(time) + generator.standard_normal(shape) * np.asarray(time_error) / time
    drawn = quality + generator.standard_normal(shape) * np.asarray(quality_error)
    return np.mean([front(*each) for each in zip(logs, drawn, strict=True)], axis=0)
