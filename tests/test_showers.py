"""Showers and their files: exact round trips, rows and chunks, streaming, rounding."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calostudy.calorimeter import CALORIMETERS, calorimeter
from calostudy.errors import DataError, UsageError
from calostudy.files import atomic_path
from calostudy.showers import (
    Showers,
    Writer,
    attributes,
    concatenate,
    count,
    iterate,
    read,
    read_energies,
    round_bits,
    write,
)

CALOGAN = calorimeter("calogan")


def make(name="calogan", n=5, dtype=np.float64, seed=0, overflow=None):
    """Showers that deposit about their incident energy, half of the cells empty."""
    target = calorimeter(name)
    rng = np.random.default_rng(seed)
    energy = rng.uniform(1e3, 1e5, n).astype(dtype)
    cells = rng.exponential(size=(n, target.cells)) * (rng.random((n, target.cells)) < 0.5)
    cells *= (energy / cells.sum(axis=1))[:, None]
    if overflow is None:
        overflow = target.file_format == "calogan"
    lost = rng.random((n, len(target.layers))).astype(dtype) if overflow else None
    return Showers(target, energy, cells.astype(dtype), lost)


def same(a: Showers, b: Showers):
    np.testing.assert_array_equal(a.incident_energy, b.incident_energy)
    np.testing.assert_array_equal(a.cells, b.cells)
    assert a.cells.dtype == b.cells.dtype
    assert a.incident_energy.dtype == b.incident_energy.dtype
    assert (a.overflow is None) == (b.overflow is None)
    if a.overflow is not None:
        np.testing.assert_array_equal(a.overflow, b.overflow)


def write_raw(path, **arrays):
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array


def raw_calogan(n=6, dtype=np.float64, seed=3):
    rng = np.random.default_rng(seed)
    return {
        "energy": rng.uniform(1, 100, (n, 1)).astype(dtype),
        "layer_0": (100 * rng.random((n, 3, 96))).astype(dtype),
        "layer_1": (100 * rng.random((n, 12, 12))).astype(dtype),
        "layer_2": rng.random((n, 12, 6)).astype(dtype),
        "overflow": rng.random((n, 3)).astype(dtype),
    }


# --- the files are the public ones ---------------------------------------------------------------


def test_calogan_files_have_the_public_keys_shapes_and_units(tmp_path):
    showers = make(n=4)
    write(tmp_path / "a.h5", showers)
    with h5py.File(tmp_path / "a.h5") as file:
        shapes = {key: file[key].shape for key in file}
        assert shapes == {
            "energy": (4, 1),
            "layer_0": (4, 3, 96),
            "layer_1": (4, 12, 12),
            "layer_2": (4, 12, 6),
            "overflow": (4, 3),
        }
        np.testing.assert_allclose(file["energy"][:, 0], showers.incident_energy / 1000)
        np.testing.assert_array_equal(file["layer_1"][...], showers.layer(1))
        np.testing.assert_array_equal(
            file["layer_2"][...].reshape(4, -1), showers.cells[:, 288 + 144 :]
        )


@pytest.mark.parametrize("name", ["ds1-photons", "ds1-pions", "ds2", "ds3"])
def test_calochallenge_files_have_the_public_keys_shapes_and_units(tmp_path, name):
    showers = make(name, n=2)
    write(tmp_path / "a.h5", showers)
    with h5py.File(tmp_path / "a.h5") as file:
        assert {key: file[key].shape for key in file} == {
            "incident_energies": (2, 1),
            "showers": (2, showers.calorimeter.cells),
        }
        np.testing.assert_array_equal(file["incident_energies"][:, 0], showers.incident_energy)
        np.testing.assert_array_equal(file["showers"][...], showers.cells)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_public_calogan_file_is_copied_to_the_last_bit(tmp_path, dtype):
    raw = raw_calogan(n=200, dtype=dtype)
    write_raw(tmp_path / "public.h5", **raw)
    showers = read(tmp_path / "public.h5", CALOGAN)
    write(tmp_path / "copy.h5", concatenate([showers[:90], showers[90:]]))
    with h5py.File(tmp_path / "copy.h5") as copy:
        for key, array in raw.items():
            np.testing.assert_array_equal(copy[key][...], array)
            assert copy[key].dtype == array.dtype


def test_energies_changed_after_reading_are_the_ones_written(tmp_path):
    write_raw(tmp_path / "public.h5", **raw_calogan())
    showers = read(tmp_path / "public.h5", CALOGAN)
    changed = Showers(CALOGAN, showers.incident_energy * 1.5, showers.cells)
    write(tmp_path / "changed.h5", changed)
    found = read(tmp_path / "changed.h5", CALOGAN).incident_energy
    np.testing.assert_allclose(found, showers.incident_energy * 1.5, rtol=1e-15)


def test_incident_energies_without_the_second_axis_are_read(tmp_path):
    raw = raw_calogan()
    write_raw(tmp_path / "a.h5", **{**raw, "energy": raw["energy"][:, 0]})
    found = read(tmp_path / "a.h5", CALOGAN).incident_energy
    np.testing.assert_array_equal(found, raw["energy"][:, 0] * 1000)


# --- round trips ---------------------------------------------------------------------------------

positive = {
    np.float32: st.floats(0, 2.0**100, width=32),
    np.float64: st.floats(0, 1e100),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["calogan", "ds1-photons"])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_round_trips_are_exact(tmp_path_factory, name, dtype, data):
    target = calorimeter(name)
    n = data.draw(st.integers(1, 4))
    # The first cell of a shower holds its energy, so that any drawn cells have a sane response.
    few = data.draw(hnp.arrays(dtype, (n, 5), elements=positive[dtype]))
    energy = np.maximum(few.max(axis=1), dtype(1))
    cells = np.zeros((n, target.cells), dtype)
    cells[:, 0] = energy
    cells[:, 3:363:72] = few
    path = tmp_path_factory.mktemp("round") / "a.h5"
    write(path, Showers(target, energy, cells))
    found = read(path, target)
    np.testing.assert_array_equal(found.cells, cells)
    assert found.cells.dtype == dtype
    assert found.incident_energy.dtype == dtype
    # GeV in the file: at most one rounding, and none once the file has been read.
    np.testing.assert_allclose(
        found.incident_energy, energy, rtol=np.finfo(dtype).eps if name == "calogan" else 0
    )
    write(path, found)
    same(read(path, target), found)


@settings(max_examples=50, deadline=None)
@given(gev=hnp.arrays(np.float64, 20, elements=st.floats(1e-3, 1e4)))
def test_energies_that_were_drawn_in_gev_keep_their_mev(gev):
    from calostudy.fileformats import FORMATS

    layout = FORMATS["calogan"]
    mev = layout.to_mev(gev)
    np.testing.assert_array_equal(layout.to_mev(layout.from_mev(mev)), mev)


@pytest.mark.parametrize("name", CALORIMETERS)
def test_every_calorimeter_makes_the_round_trip(tmp_path, name):
    showers = make(name, n=3, dtype=np.float32)
    write(tmp_path / "a.h5", showers)
    first = read(tmp_path / "a.h5", calorimeter(name))
    np.testing.assert_array_equal(first.cells, showers.cells)
    write(tmp_path / "b.h5", first)
    same(read(tmp_path / "b.h5", calorimeter(name)), first)


def test_showers_without_overflow_come_back_without(tmp_path):
    write(tmp_path / "a.h5", make(overflow=False))
    assert read(tmp_path / "a.h5", CALOGAN).overflow is None


# --- rows and chunks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        slice(None),
        slice(3, 9),
        slice(-4, None),
        slice(None, None, 3),
        slice(None, None, -1),
        [7],
        [9, 2, 2, -1],
        np.arange(12) % 2 == 0,
    ],
    ids=str,
)
def test_rows_of_a_file_are_the_rows_of_the_whole(tmp_path, rows):
    with Writer(tmp_path / "a.h5", CALOGAN) as writer:
        writer.append(make(n=12))
    whole = read(tmp_path / "a.h5", CALOGAN)
    same(read(tmp_path / "a.h5", CALOGAN, rows), whole[np.arange(12)[rows]])


def test_rows_in_any_order_from_chunked_and_plain_files(tmp_path):
    showers = make("ds1-photons", n=50)
    for chunks in (None, (7, 51)):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["incident_energies"] = showers.incident_energy[:, None]
            file.create_dataset("showers", data=showers.cells, chunks=chunks)
        rows = np.random.default_rng(2).permutation(50)[:30]
        found = read(tmp_path / "a.h5", showers.calorimeter, rows)
        np.testing.assert_array_equal(found.cells, showers.cells[rows])


@pytest.mark.parametrize("rows", [slice(20, 30), [], [12]], ids=str)
def test_rows_that_are_not_there_are_bad_usage(tmp_path, rows):
    write(tmp_path / "a.h5", make(n=12))
    with pytest.raises(UsageError, match="12 showers"):
        read(tmp_path / "a.h5", CALOGAN, np.array(rows, int) if rows == [] else rows)


@pytest.mark.parametrize("chunk", [1, 5, 12, 100])
def test_chunks_make_up_the_whole(tmp_path, chunk):
    write(tmp_path / "a.h5", make(n=12))
    parts = list(iterate(tmp_path / "a.h5", CALOGAN, chunk))
    assert [len(part) for part in parts[:-1]] == [chunk] * (len(parts) - 1)
    same(concatenate(parts), read(tmp_path / "a.h5", CALOGAN))
    assert count(tmp_path / "a.h5", CALOGAN) == 12


def test_an_empty_chunk_size_is_bad_usage(tmp_path):
    write(tmp_path / "a.h5", make())
    with pytest.raises(UsageError, match="chunk"):
        next(iterate(tmp_path / "a.h5", CALOGAN, 0))


def test_incident_energies_alone_can_be_read(tmp_path):
    raw = raw_calogan()
    write_raw(tmp_path / "a.h5", energy=raw["energy"])
    np.testing.assert_array_equal(
        read_energies(tmp_path / "a.h5", CALOGAN), raw["energy"][:, 0] * 1000
    )
    with pytest.raises(DataError, match="incident_energies"):
        read_energies(tmp_path / "a.h5", calorimeter("ds2"))


# --- writing piece by piece ----------------------------------------------------------------------


def test_pieces_make_the_same_file_as_the_whole(tmp_path):
    showers = make(n=30)
    with Writer(tmp_path / "a.h5", CALOGAN) as writer:
        for part in (showers[:7], showers[7:7], showers[7:8], showers[8:]):
            writer.append(part)
        assert writer.count == 30
        assert not (tmp_path / "a.h5").exists()
    write(tmp_path / "b.h5", showers)
    same(read(tmp_path / "a.h5", CALOGAN), read(tmp_path / "b.h5", CALOGAN))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.h5"
    old = make(n=2)
    write(path, old)
    with pytest.raises(KeyboardInterrupt), Writer(path, CALOGAN) as writer:
        writer.append(make(n=4))
        raise KeyboardInterrupt
    np.testing.assert_array_equal(read(path, CALOGAN).cells, old.cells)
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def test_a_file_without_showers_is_not_written(tmp_path):
    with pytest.raises(DataError, match="no showers"), Writer(tmp_path / "a.h5", CALOGAN):
        pass
    assert not list(tmp_path.iterdir())


def test_what_no_reader_accepts_is_not_written(tmp_path):
    showers = make(n=4)
    cells = showers.cells.copy()
    cells[2, 100] = np.nan
    with pytest.raises(DataError, match=r"a\.h5: layer_0 of shower 2"):
        write(tmp_path / "a.h5", Showers(CALOGAN, showers.incident_energy, cells))
    assert not list(tmp_path.iterdir())


def test_a_file_holds_one_calorimeter_and_one_kind_of_overflow(tmp_path):
    with pytest.raises(UsageError, match="ds2"), Writer(tmp_path / "a.h5", CALOGAN) as writer:
        writer.append(make("ds2", n=1))
    with pytest.raises(UsageError, match="overflow"), Writer(tmp_path / "a.h5", CALOGAN) as writer:
        writer.append(make())
        writer.append(make(overflow=False))


def test_provenance_is_kept_as_attributes(tmp_path):
    given_attributes = {
        "seed": 7,
        "physics": "data-free",
        "emin": 1.5,
        "versions": {"numpy": "2"},
        "nothing": None,
    }
    write(tmp_path / "a.h5", make(), attributes=given_attributes)
    assert attributes(tmp_path / "a.h5") == {
        "seed": 7,
        "physics": "data-free",
        "emin": 1.5,
        "versions": '{"numpy": "2"}',
        "nothing": "null",
    }


def test_an_atomic_path_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("one")
        assert temporary.suffix == ".txt"
        assert not path.exists()
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("two")
        raise RuntimeError
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


# --- rounding ------------------------------------------------------------------------------------


@given(
    values=hnp.arrays(np.float32, 8, elements=st.floats(2.0**-100, 2.0**100, width=32)),
    bits=st.integers(1, 23),
)
def test_rounding_is_to_nearest_and_idempotent(values, bits):
    rounded = round_bits(values, bits)
    error = np.abs(rounded.astype(np.float64) - values.astype(np.float64))
    assert (error <= values.astype(np.float64) * 2.0 ** -(bits + 1)).all()
    np.testing.assert_array_equal(round_bits(rounded, bits), rounded)
    assert (rounded.view(np.uint32) & np.uint32((1 << (23 - bits)) - 1) == 0).all()


def test_rounding_leaves_zero_and_does_not_shift_the_mean():
    assert round_bits(np.zeros(3), 10).tolist() == [0, 0, 0]
    values = np.random.default_rng(4).uniform(1, 2, 100_000).astype(np.float32)
    shift = np.mean(round_bits(values, 10), dtype=np.float64) - values.mean(dtype=np.float64)
    assert abs(shift) < 5 * 2**-10 / np.sqrt(12 * 100_000)


def test_rounded_files_are_float32_and_small(tmp_path):
    showers = make(n=60)
    write(tmp_path / "exact.h5", showers)
    write(tmp_path / "rounded.h5", showers, mantissa_bits=10)
    found = read(tmp_path / "rounded.h5", CALOGAN)
    assert found.cells.dtype == np.float32
    np.testing.assert_allclose(found.cells, showers.cells, rtol=2.0**-11 * (1 + 1e-6))
    np.testing.assert_array_equal(found.cells > 0, showers.cells > 0)
    np.testing.assert_allclose(found.incident_energy, showers.incident_energy, rtol=1e-15)
    sizes = [(tmp_path / name).stat().st_size for name in ("rounded.h5", "exact.h5")]
    assert sizes[0] < sizes[1] / 2
    with h5py.File(tmp_path / "rounded.h5") as file:
        assert file["layer_0"].shuffle
        assert (file["layer_0"].compression, file["layer_0"].compression_opts) == ("gzip", 9)


@pytest.mark.parametrize("bits", [0, 24])
def test_impossible_mantissas_are_bad_usage(tmp_path, bits):
    with pytest.raises(UsageError, match="mantissa_bits"):
        Writer(tmp_path / "a.h5", CALOGAN, mantissa_bits=bits)


# --- showers in memory ---------------------------------------------------------------------------


def test_arrays_that_do_not_fit_are_bad_usage():
    with pytest.raises(UsageError, match=r"cells has shape \(2, 503\)"):
        Showers(CALOGAN, np.ones(2), np.zeros((2, 503)))
    with pytest.raises(UsageError, match="incident_energy"):
        Showers(CALOGAN, np.ones((2, 1)), np.zeros((2, 504)))
    with pytest.raises(UsageError, match="overflow"):
        Showers(CALOGAN, np.ones(2), np.zeros((2, 504)), np.zeros((2, 2)))


def test_selection_concerns_every_array():
    showers = make(n=6)
    chosen = showers[[4, 1]]
    assert len(chosen) == 2
    np.testing.assert_array_equal(chosen.cells, showers.cells[[4, 1]])
    np.testing.assert_array_equal(chosen.overflow, showers.overflow[[4, 1]])
    same(concatenate([showers[:2], showers[2:]]), showers)
    with pytest.raises(UsageError, match="slice"):
        showers[0]


def test_only_showers_on_one_calorimeter_can_be_joined():
    with pytest.raises(UsageError, match="calogan"):
        concatenate([make(), make("ds1-photons")])
    with pytest.raises(UsageError, match="no calorimeter"):
        concatenate([])


def test_layers_and_sums_agree():
    showers = make("ds1-pions", n=4)
    sums = [showers.layer(i).sum(axis=(1, 2)) for i in range(7)]
    np.testing.assert_allclose(showers.layer_energies(), np.stack(sums, axis=1))
    np.testing.assert_allclose(showers.total_energy(), showers.layer_energies().sum(axis=1))


def test_the_threshold_zeroes_what_is_strictly_below():
    cells = np.zeros((1, 504), np.float32)
    cells[0, :3] = [0.5, 1.0, 2.0]
    showers = Showers(CALOGAN, np.array([1e3]), cells)
    assert showers.above_threshold(1.0).cells[0, :3].tolist() == [0.0, 1.0, 2.0]
    assert showers.above_threshold(1.0).cells.dtype == np.float32
    assert showers.cells[0, 0] == 0.5
