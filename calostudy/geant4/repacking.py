"""HDF5 files made smaller, value for value: ``python -m calostudy.geant4.repacking FILE ...``

The chunks of a file are deflated again by libdeflate, which tries harder than zlib and needs a
tenth less room. Any HDF5 library reads the result as before: filters, chunks and values are the
same. Files of showers that are shipped are repacked, others need not be.
"""

from __future__ import annotations

import argparse
import os
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import deflate
import h5py
from tqdm import tqdm

from calostudy.errors import CaloStudyError, DataError
from calostudy.fileformats import open_file
from calostudy.files import atomic_path

best = partial(deflate.zlib_compress, compresslevel=12)
"""libdeflate's smallest zlib stream of bytes."""


def repack(path: str | os.PathLike, compress: Callable[[bytes], bytes]) -> int:
    """Deflate the chunks of an HDF5 file again and return how many bytes that saves.

    Args:
        path: file whose arrays are at its root; replaced when all of them are written.
        compress: makes a zlib stream of bytes.

    Raises:
        DataError: not a whole HDF5 file, or with groups.
    """
    path = Path(path)
    before = path.stat().st_size if path.is_file() else 0
    with (
        open_file(path) as old,
        atomic_path(path) as temporary,
        h5py.File(temporary, "w") as new,
    ):
        new.attrs.update(old.attrs)
        for name, array in old.items():
            if not isinstance(array, h5py.Dataset):
                raise DataError(f"{path}: {name} is a group, expected arrays only")
            if array.compression == "gzip":
                _write_anew(array, new, compress)
            else:
                old.copy(array, new)
    return before - path.stat().st_size


def _write_anew(array: h5py.Dataset, new: h5py.File, compress: Callable[[bytes], bytes]) -> None:
    """Copy an array whose last filter is deflate, chunk by chunk."""
    name = array.name.lstrip("/")
    creation = array.id.get_create_plist()
    h5py.h5d.create(new.id, name.encode(), array.id.get_type(), array.id.get_space(), creation)
    new[name].attrs.update(array.attrs)
    chunks = [array.id.get_chunk_info(index) for index in range(array.id.get_num_chunks())]
    for chunk in tqdm(chunks, desc=name, unit="chunk"):
        skipped, stored = array.id.read_direct_chunk(chunk.chunk_offset)
        if not skipped:
            stored = min(stored, compress(zlib.decompress(stored)), key=len)
        new[name].id.write_direct_chunk(chunk.chunk_offset, stored, skipped)


def main(argv: list[str] | None = None) -> int:
    """Repack files; exit status 2 on bad usage, 1 on bad data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    try:
        for path in options.files:
            saved = repack(path, best)
            print(f"{path}: {saved / 1e6:.2f} MB less", flush=True)
    except CaloStudyError as error:
        print(f"calostudy: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
