"""Threads for code that releases the interpreter's lock: compiled loops, products of matrices."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch


@lru_cache(maxsize=4)
def _pool(threads):
    return ThreadPoolExecutor(threads)


def in_threads(work, parts, threads):
    """[work(part) for every part]; in this thread when one thread or one part is all there is."""
    if threads == 1 or len(parts) == 1:
        return [work(part) for part in parts]
    return list(_pool(threads).map(work, parts))


def side_by_side(work: Callable[[Any], Any], parts: Sequence) -> Iterator[Any]:
    """work(part) for every part, each on one thread, on as many as torch has."""
    threads = torch.get_num_threads()
    for first in range(0, len(parts), threads):
        torch.set_num_threads(1)
        try:
            made = in_threads(work, parts[first : first + threads], threads)
        finally:
            torch.set_num_threads(threads)
        yield from made
