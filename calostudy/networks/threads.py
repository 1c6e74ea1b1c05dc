"""Threads for compiled code that releases the interpreter's lock."""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache


@lru_cache(maxsize=4)
def _pool(threads):
    return ThreadPoolExecutor(threads)


def in_threads(work, parts, threads):
    """work(part) for every part; in this thread when one thread or one part is all there is."""
    if threads == 1 or len(parts) == 1:
        for part in parts:
            work(part)
    else:
        list(_pool(threads).map(work, parts))
