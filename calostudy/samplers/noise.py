"""Noise that belongs to a shower, not to a batch.

The numbers of shower i depend on (seed, stream, i) only. However a sample is cut into batches,
threads or interrupted runs, every shower gets the same noise. The generator is Philox
(Salmon et al., SC'11): random numbers by counter, so that shower i needs nothing of showers
0 ... i - 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Philox
from scipy.special import ndtri

from calostudy.errors import UsageError

PER_COUNTER = 4  # 64-bit words that Philox makes of one counter


def uniform(seed, first, n, dims, stream=0) -> np.ndarray:
    """Uniform numbers in (0, 1), ends excluded: (n, dims) float64, for showers first ...
    first + n - 1. stream: an integer that tells apart the independent uses within one seed
    (another network, another step). Raises UsageError for negative arguments."""
    if min(seed, first, n, dims, stream) < 0:
        raise UsageError(
            f"seed {seed}, first {first}, n {n}, dims {dims} and stream {stream} "
            "must not be negative"
        )
    counters = -(-dims // PER_COUNTER)
    words = (
        Philox(key=[seed, stream])
        .advance(int(first) * counters)
        .random_raw(n * counters * PER_COUNTER)
    )
    words = words.reshape(n, counters * PER_COUNTER)[:, :dims]
    # 52 bits: with the half added they still fit a float64, so that 1 is never reached.
    numbers = (words >> np.uint64(12)).astype(np.float64)
    numbers += 0.5
    numbers *= 2.0**-52
    return numbers


def normal(seed, first, n, dims, stream=0) -> np.ndarray:
    """Standard normal numbers (n, dims), as `uniform`: the normal quantiles of its numbers."""
    numbers = uniform(seed, first, n, dims, stream)
    return ndtri(numbers, out=numbers)


@dataclass(frozen=True)
class Noise:
    """Random numbers of each shower, (N, size): standard normal or uniform in (0, 1), of a stream.

    >>> Noise("hits", 3, "uniform").draw(seed=1, first=0, n=2).shape
    (2, 3)
    """

    name: str
    size: int
    distribution: str = "standard normal"
    stream: int = 0

    def draw(self, seed: int, first: int, n: int) -> np.ndarray:
        """Those of showers first ... first + n - 1, float64."""
        draw = {"standard normal": normal, "uniform": uniform}[self.distribution]
        return draw(seed, first, n, self.size, self.stream)
