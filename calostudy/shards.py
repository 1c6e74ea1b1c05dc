"""A long production is a row of shards.

The events of a production are cut into shards of a constant size. A finished shard appears in
``<out>.shards/`` by an atomic rename, so that a production killed at any moment keeps every
finished shard and never reads half a one. ``signature.json`` in the same folder holds the
parameters; a resume with other parameters is refused, because it would mix two samples.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calostudy.errors import DataError, UsageError


@dataclass(frozen=True)
class Shard:
    """Events ``first`` ... ``first + count - 1`` of a production."""

    index: int
    first: int
    count: int


@dataclass(frozen=True)
class Row:
    """The shards of one production of ``n`` events whose result will be the file ``out``."""

    out: Path
    n: int
    size: int

    @property
    def folder(self) -> Path:
        return self.out.with_name(self.out.name + ".shards")

    @property
    def shards(self) -> list[Shard]:
        """All shards in order; only the last one may be shorter than ``size``."""
        firsts = range(0, self.n, self.size)
        return [Shard(i, first, min(self.size, self.n - first)) for i, first in enumerate(firsts)]

    def path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.index:06d}.npz"

    def missing(self) -> list[Shard]:
        """The shards that are not finished yet."""
        return [shard for shard in self.shards if not self.path(shard).exists()]

    def save(self, shard: Shard, arrays: Mapping[str, np.ndarray]) -> None:
        """Write one shard (arrays of ``shard.count`` rows each); it appears whole or not at all.

        An array ``x`` beside an array ``x_count`` is ragged: its rows are those of the events, one
        event after the other, ``x_count`` of them.
        """
        if wrong := _wrong_lengths(shard, arrays):
            raise ValueError(f"shard {shard.index} needs {shard.count} rows, got {wrong}")
        temporary = self.folder / f"{shard.index:06d}.{os.getpid()}.tmp"
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self.path(shard))

    def load(self, shard: Shard) -> dict[str, np.ndarray]:
        """The arrays of one finished shard. Raises DataError when the file cannot be read."""
        path = self.path(shard)
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except Exception as error:  # zipfile, numpy and the file system each have their own
            raise DataError(
                f"{path}: not a readable shard ({error}); delete it and resume"
            ) from error
        if _wrong_lengths(shard, arrays):
            raise DataError(
                f"{path}: expected {shard.count} rows in every array; delete it and resume"
            )
        return arrays

    def iterate(self, rows: int = 1) -> Iterator[dict[str, np.ndarray]]:
        """The events in order, in blocks of whole shards with at least ``rows`` events each (the
        last block may have fewer); one block in memory at a time."""
        waiting, count = [], 0
        shards = self.shards
        for shard in shards:
            waiting.append(self.load(shard))
            count += shard.count
            if count >= rows or shard == shards[-1]:
                yield {k: np.concatenate([part[k] for part in waiting]) for k in waiting[0]}
                waiting, count = [], 0

    def remove(self) -> None:
        """Remove the folder, once the result has been written."""
        shutil.rmtree(self.folder)


def _wrong_lengths(shard: Shard, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    def expected(name: str) -> int:
        counts = arrays.get(f"{name}_count")
        return shard.count if counts is None else int(counts.sum())

    return {name: len(a) for name, a in arrays.items() if len(a) != expected(name)}


@contextmanager
def open_row(out: Path | str, n: int, size: int, parameters: Mapping[str, object]) -> Iterator[Row]:
    """Begin a production, or resume it, and keep other processes out of its folder meanwhile.

    ``parameters`` (anything JSON can hold) say what the events depend on; ``n`` and ``size`` are
    added to them. Raises UsageError when the folder holds shards of other parameters, when
    another process is at work in it, or when ``n`` or ``size`` is not positive.
    """
    if n < 1 or size < 1:
        raise UsageError(f"{out}: the number of events must be at least 1, got {n}")
    row = Row(Path(out), int(n), int(size))
    signature = json.loads(json.dumps({**parameters, "n": row.n, "shard_size": row.size}))
    row.folder.mkdir(parents=True, exist_ok=True)
    with (row.folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"{row.folder}: another process is at work on this production"
            ) from error
        _sign(row.folder / "signature.json", signature)
        for stale in row.folder.glob("*.tmp"):  # half-written shards of a killed run
            stale.unlink()
        yield row


def _sign(path: Path, signature: dict) -> None:
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(signature, indent=1, sort_keys=True))
        temporary.replace(path)
        return
    found = json.loads(path.read_text())
    different = sorted(k for k in {**found, **signature} if found.get(k) != signature.get(k))
    if different:
        pairs = ", ".join(
            f"{k} = {found.get(k)!r} there, {signature.get(k)!r} now" for k in different
        )
        raise UsageError(
            f"{path.parent}: holds shards made with other parameters ({pairs}); "
            "resume with the same parameters or remove the folder"
        )
