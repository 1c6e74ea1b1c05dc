"""Public files: downloaded into the data folder, resumed after a break, verified.

The name of a public file always stands for a whole one. What came of an unfinished download is
kept beside it as ``<name>.part``, also after a kill, and the next fetch goes on from there. pooch
checks the MD5 and gives the file its name; the transfer is ours, since pooch's own begins anew.
"""

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pooch
import requests
from requests import exceptions as http
from tqdm import tqdm
from urllib3 import exceptions as urllib3

from calostudy import clouds
from calostudy.catalogue import Dataset, PublicFile
from calostudy.datasets import SPLITS
from calostudy.errors import DataError, UsageError
from calostudy.paths import data_dir
from calostudy.showers import count

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between one broken transfer and the next attempt."""

_BLOCK = 1 << 16  # also what a break can lose of what has arrived
_REAL_PROGRESS = 16 << 20  # bytes that an attempt must bring for the pauses to start anew
_SPARE = 64 << 20  # bytes of the disk that a download leaves free
_WORTH_RETRYING = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Fetched:
    """A public file that is here, whole.

    Attributes:
        path: where it is.
        url: where it comes from, or None where no address is known.
        bytes, events: its size and number of showers.
        md5: its checksum.
        verified: whether that is the published one; False where none is published, and the file
            is known by its structure alone.
        downloaded: whether it came now, or was here before.
    """

    path: Path
    url: str | None
    bytes: int
    events: int
    md5: str
    verified: bool
    downloaded: bool

    def as_dict(self) -> dict:
        """Return it as plain types that JSON can hold."""
        return {**vars(self), "path": str(self.path)}


@dataclass(frozen=True)
class _Options:
    progress: bool
    timeout: float
    pauses: tuple[float, ...]
    say: Callable[[str], None]

    def bar(self, what: str, total: int | None, initial: int = 0) -> tqdm:
        return tqdm(
            desc=what,
            total=total,
            initial=initial,
            unit="B",
            unit_scale=True,
            disable=None if self.progress else True,
        )


class _Broken(Exception):
    """A transfer that is worth another attempt."""


class _Unavailable(Exception):
    """A transfer that is not."""


def fetch(
    entry: Dataset,
    split: str | None = None,
    *,
    progress: bool = True,
    timeout: float = 30.0,
    pauses: Sequence[float] = PAUSES,
    say: Callable[[str], None] = lambda line: None,
) -> list[Fetched]:
    """Download the public files of a data set to ``<data>/public/<name>/``, verify all of them.

    A file that is there and right is left alone; one that is there and wrong is reported, and
    never replaced.

    Args:
        entry: the data set.
        split: "train" or "evaluation"; None for all files.
        progress: show progress bars where standard error is a terminal.
        timeout: seconds that a server may stay silent.
        pauses: seconds before each further attempt after a broken transfer.
        say: is given a line of prose at each step.

    Raises:
        DataError: a file cannot be had (with how to get it by hand), or is not what it should be.
        UsageError: unknown split, nothing was published, or another process is at the same file.
    """
    if split not in (None, *SPLITS):
        raise UsageError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    if not entry.public_files:
        raise UsageError(
            f"{entry.name}: the showers of {entry.record} were not published; simulated ones are "
            f"shipped, more come from `calostudy simulate {entry.name}`"
        )
    folder = data_dir() / "public" / entry.name
    wanted = [f for f in entry.public_files if split is None or f.split in (None, split)]
    options = _Options(progress, timeout, tuple(pauses), say)
    done = []
    for file in wanted:
        try:
            done.append(_fetch_file(entry, file, folder / file.name, options))
        except _Unavailable as error:
            missing = [f for f in wanted if not (folder / f.name).exists()]
            raise DataError(
                f"{file.name} of {entry.name}: {error}\n{_by_hand(entry, missing, folder)}"
            ) from error
        except OSError as error:  # a folder that is read-only, a full disk
            raise DataError(f"{folder / file.name}: {error.strerror or error}") from error
    return done


def _fetch_file(entry: Dataset, file: PublicFile, path: Path, options: _Options) -> Fetched:
    known = f"{file.name} ({size_text(file.bytes)})" if file.bytes else file.name
    here = path.exists()
    if here:
        options.say(f"{known} is here; checking it")
        md5 = _check_present(file, path, options)
        _part(path).unlink(missing_ok=True)  # of a fetch killed in its last moment
    elif file.url is None:
        raise _Unavailable("no address is known that a program could download it from")
    else:
        options.say(f"{known} from {file.url}")
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(entry, file, path, options)
        md5 = file.md5 or _md5(path, options)
    try:
        events = _check_structure(entry, file, path)
    except DataError as error:
        raise DataError(f"{error}; remove the file, then run {_command(entry)} again") from error
    size = path.stat().st_size
    return Fetched(path, file.url, size, events, md5, file.md5 is not None, not here)


# --- checks --------------------------------------------------------------------------------------


def _check_present(file: PublicFile, path: Path, options: _Options) -> str:
    """Return the MD5 of a file that is here; DataError if it is not the published one."""
    size = path.stat().st_size
    wrong = f"{size:,} bytes, expected {file.bytes:,}" if file.bytes not in (None, size) else ""
    if not wrong:
        md5 = _md5(path, options)
        if file.md5 in (None, md5):
            return md5
        wrong = f"MD5 {md5}, expected {file.md5}"
    raise DataError(
        f"{path}: not the published file ({wrong}); it is left as it is: remove it, then fetch it"
    )


def _check_structure(entry: Dataset, file: PublicFile, path: Path) -> int:
    """Return the number of showers; DataError if they are not the data set's, or not as many."""
    events = clouds.count(path) if file.clouds else count(path, entry.calorimeter)
    if file.events not in (None, events):
        raise DataError(f"{path}: holds {events:,} showers, expected {file.events:,}")
    return events


def _md5(path: Path, options: _Options) -> str:
    found = hashlib.md5(usedforsecurity=False)
    total = path.stat().st_size
    with path.open("rb") as stream, options.bar(f"checking {path.name}", total) as bar:
        while block := stream.read(1 << 20):
            found.update(block)
            bar.update(len(block))
    return found.hexdigest()


def _check_space(stream: BinaryIO, needed: int) -> None:
    folder = Path(stream.name).parent
    free = shutil.disk_usage(folder).free - _SPARE
    if needed > free:
        raise DataError(
            f"{folder}: {size_text(needed)} more are needed here, {size_text(max(free, 0))} can be "
            "used; make room, or set CALOSTUDY_DATA to a folder on another disk"
        )


# --- one download --------------------------------------------------------------------------------


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _download(entry: Dataset, file: PublicFile, path: Path, options: _Options) -> None:
    """Let pooch verify what comes and give it its name; on success no part is left."""
    part = _part(path)

    def downloader(url: str, output: str, _pooch: object) -> None:
        Path(output).unlink()  # pooch made it, empty; until it is whole, the file is the part
        _complete(file, stream, options)
        options.say(f"{file.name}: {size_text(part.stat().st_size)} are here; checking them")
        if file.md5 is None:
            try:
                _check_structure(entry, file, part)
            except DataError as error:
                raise ValueError(str(error)) from error  # as pooch raises for a wrong MD5
        # A second name, not another one: a kill while pooch checks must not lose what came.
        try:
            os.link(part, output)
        except OSError:  # a file system without hard links
            part.replace(output)

    pooch.get_logger().setLevel("WARNING")
    with _alone(path.parent), part.open("ab") as stream:
        for other_name in path.parent.glob("tmp*"):
            if other_name.samefile(part):
                other_name.unlink()
        done = True
        try:
            known = file.md5 and f"md5:{file.md5}"
            pooch.retrieve(file.url, known, path.name, path.parent, downloader=downloader)
        except ValueError as error:
            found = f"its MD5 is not {file.md5}" if file.md5 else error
            raise DataError(
                f"{path}: what came is not the published file ({found}); it was removed. Run "
                f"{_command(entry)} again. If that does not help:\n"
                f"{_by_hand(entry, [file], path.parent)}"
            ) from error
        except BaseException:
            done = not stream.tell()
            raise
        finally:
            if done:
                part.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other fetches out of a folder. (A lock on the part itself would shut out HDF5.)"""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UsageError(f"{folder}: another process is fetching files into it") from error
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def _complete(file: PublicFile, stream: BinaryIO, options: _Options) -> None:
    """Transfer what is missing, in as many attempts as it takes."""
    pauses = list(options.pauses)
    while True:
        before = stream.tell()
        try:
            return _transfer(file, stream, options)
        except _Broken as error:
            if stream.tell() - before >= _REAL_PROGRESS:
                pauses = list(options.pauses)
            came = f"; {size_text(stream.tell())} are here" if stream.tell() else ""
            if not pauses:
                attempts = f"in each of {len(options.pauses) + 1} attempts"
                raise _Unavailable(f"{error}, {attempts}{came}") from error
            pause = pauses.pop(0)
            options.say(f"{file.name}: {error}{came}; next attempt in {pause:g} s")
            time.sleep(pause)


def _transfer(file: PublicFile, stream: BinaryIO, options: _Options) -> None:
    """Ask the server once for what is missing and add it to the stream.

    Raises:
        _Broken: another attempt may bring the rest.
        _Unavailable: it would not.
    """
    if file.bytes is not None:
        if stream.tell() > file.bytes:
            _cut(stream, 0)
        if stream.tell() == file.bytes:
            return
        _check_space(stream, file.bytes - stream.tell())
    have = stream.tell()
    headers = {"Accept-Encoding": "identity", "User-Agent": "calostudy"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = {"headers": headers, "stream": True, "timeout": options.timeout}
    try:
        with requests.get(file.url, **request) as response:
            first, total = _extent(response, have)
            if None not in (file.bytes, total) and file.bytes != total:
                raise _Unavailable(f"the server's file has {total:,} bytes, not {file.bytes:,}")
            if first not in (0, have):
                _cut(stream, 0)
                raise _Broken(f"the server cannot go on at byte {have:,}; from the beginning, then")
            _cut(stream, first)
            if first == total:
                return
            _check_space(stream, (total or 0) - first)
            with options.bar(file.name, total, first) as bar:
                for block in response.iter_content(_BLOCK):
                    stream.write(block)
                    bar.update(len(block))
    except http.RequestException as error:
        raise _failure(error, file.url, options.timeout) from error
    finally:
        stream.flush()
    if total not in (None, stream.tell()):
        raise _Broken(f"{stream.tell():,} bytes came of {total:,}")


def _cut(stream: BinaryIO, size: int) -> None:
    stream.truncate(size)
    stream.seek(size)


def _extent(response: requests.Response, have: int) -> tuple[int | None, int | None]:
    """Return where in the file the answer begins, and the file's size; None for what is not said.

    A server without ranges sends all of it (200); one that is asked for what is beyond the end
    (416) tells the size, and where that is what we have, nothing is missing.
    """
    if response.status_code not in (206, 416):
        response.raise_for_status()
        total = response.headers.get("Content-Length")
        return 0, int(total) if total else None
    said = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", said)
    first, total = (int(n) if n else None for n in (match.groups() if match else (None, None)))
    return (have if first is None and total == have else first), total


# --- what is said when a file does not come ------------------------------------------------------

_FAILURES = (
    (urllib3.NameResolutionError, _Unavailable, "{host} is not known here; is there a network?"),
    (urllib3.SSLError, _Unavailable, "{host} shows no certificate that is trusted here"),
    (urllib3.NewConnectionError, _Broken, "no connection to {host}"),
    (urllib3.TimeoutError, _Broken, "{host} was silent for {timeout:g} s"),
    (urllib3.ProtocolError, _Broken, "the connection to {host} broke off"),
    (urllib3.HTTPError, _Broken, "no connection to {host}"),
)


def _failure(error: http.RequestException, url: str, timeout: float) -> Exception:
    """Say in a few words what went wrong, and by the type whether to try again."""
    host = urlsplit(url).netloc
    if error.response is not None:
        status = error.response.status_code
        kind = _Broken if status in _WORTH_RETRYING else _Unavailable
        return kind(f"{host} answers {status} {error.response.reason}")
    cause = error.args[0] if error.args else None
    cause = getattr(cause, "reason", cause)
    for raised, kind, words in _FAILURES:
        if isinstance(cause, raised):
            return kind(words.format(host=host, timeout=timeout))
    return _Unavailable(f"{url}: {error}")


def _by_hand(entry: Dataset, missing: Sequence[PublicFile], folder: Path) -> str:
    """How to get files without this module: addresses, checksums, and where they belong."""
    lines = ["By hand:"]
    for file in missing:
        page = f"https://doi.org/{entry.record}"
        source = file.url or f"{file.name} from the record {page}"
        source += f" ({file.note})" if file.note else ""
        size = file.bytes and size_text(file.bytes)
        md5 = f"MD5 {file.md5}" if file.md5 else "no MD5 is published"
        lines += [
            f"  download {source}",
            f"    ({', '.join(filter(None, (size, md5)))})",
            f"    to {folder / file.name}",
        ]
    return "\n".join([*lines, f"then run {_command(entry)} to check what is there"])


def _command(entry: Dataset) -> str:
    return f"`calostudy fetch {entry.name}`"


def size_text(number: int) -> str:
    """A number of bytes in words.

    >>> size_text(1_356_475_617)
    '1.36 GB'
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} bytes"
