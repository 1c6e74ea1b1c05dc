"""Repacked files are smaller and say the same."""

import zlib
from functools import partial

import h5py
import numpy as np
import pytest

from calostudy.errors import DataError
from calostudy.geant4.repacking import main, repack

BEST = partial(zlib.compress, level=9)


@pytest.fixture
def shipped(tmp_path):
    """A file with chunks that the array does not fill, written with little effort."""
    path = tmp_path / "showers.h5"
    cells = np.random.default_rng(1).exponential(size=(70, 50)).astype(np.float32)
    cells[cells < 2.0] = 0.0
    with h5py.File(path, "w") as file:
        file.attrs["seed"] = 101
        packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        file.create_dataset("showers", data=cells, chunks=(16, 50), maxshape=(None, 50), **packed)
        file["showers"].attrs["unit"] = "MeV"
        file["incident_energies"] = np.ones((70, 1))
    return path


def said(path):
    with h5py.File(path) as file:
        showers = file["showers"]
        how = showers.chunks, showers.maxshape, showers.shuffle, showers.compression
        values = {key: array[:].tobytes() for key, array in file.items()}
        return dict(file.attrs), dict(showers.attrs), how, values


def test_a_repacked_file_is_smaller_and_has_the_same_values_chunks_filters_and_attributes(shipped):
    before, size = said(shipped), shipped.stat().st_size
    saved = repack(shipped, BEST)
    assert said(shipped) == before
    assert saved == size - shipped.stat().st_size > 0


def test_the_command_repacks_and_says_what_it_saved(shipped, capsys):
    before, size = said(shipped), shipped.stat().st_size
    assert main([str(shipped)]) == 0
    assert said(shipped) == before and shipped.stat().st_size < size
    assert "showers.h5: 0.00 MB less" in capsys.readouterr().out


def test_chunks_that_would_grow_stay_as_they_are(shipped):
    before = said(shipped)
    repack(shipped, partial(zlib.compress, level=0))
    assert said(shipped) == before


def test_nothing_is_lost_where_repacking_fails(shipped):
    content = shipped.read_bytes()

    def broken(raw):
        raise MemoryError

    with pytest.raises(MemoryError):
        repack(shipped, broken)
    assert shipped.read_bytes() == content
    assert list(shipped.parent.iterdir()) == [shipped]


def test_files_with_groups_are_refused(tmp_path):
    path = tmp_path / "groups.h5"
    with h5py.File(path, "w") as file:
        file.create_group("run")
    with pytest.raises(DataError, match=r"groups\.h5: run is a group, expected arrays only"):
        repack(path, BEST)


def test_a_file_that_is_not_hdf5_is_one_clear_error(tmp_path, capsys):
    path = tmp_path / "text.h5"
    path.write_text("no showers")
    assert main([str(path)]) == 1
    assert "text.h5: not an HDF5 file" in capsys.readouterr().err
