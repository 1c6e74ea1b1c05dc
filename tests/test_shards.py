"""A production is a row of shards: whole or absent, resumable, never mixed."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calostudy.errors import DataError, UsageError
from calostudy.shards import Row, Shard, open_row


@given(n=st.integers(1, 500), size=st.integers(1, 60))
def test_shards_cover_every_event_once_and_only_the_last_is_short(tmp_path_factory, n, size):
    shards = Row(tmp_path_factory.getbasetemp() / "x.h5", n, size).shards
    events = [e for s in shards for e in range(s.first, s.first + s.count)]
    assert events == list(range(n))
    assert all(s.count == size for s in shards[:-1])
    assert [s.index for s in shards] == list(range(len(shards)))


def test_a_resume_finds_what_is_missing_and_what_was_saved(tmp_path):
    out = tmp_path / "showers.h5"
    with open_row(out, 25, 10, {"seed": 1}) as row:
        first, second, third = row.shards
        row.save(second, {"x": np.arange(10.0)})
    with open_row(out, 25, 10, {"seed": 1}) as row:
        assert row.missing() == [first, third]
        row.save(first, {"x": np.zeros(10)})
        row.save(third, {"x": np.ones(5)})
        assert not row.missing()
        joined = np.concatenate([arrays["x"] for arrays in row.iterate()])
        np.testing.assert_array_equal(joined, [0.0] * 10 + list(range(10)) + [1.0] * 5)
        blocks = [arrays["x"] for arrays in row.iterate(15)]
        assert [len(block) for block in blocks] == [20, 5]
        np.testing.assert_array_equal(np.concatenate(blocks), joined)
        row.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_half_written_shard_is_not_a_shard(tmp_path):
    with open_row(tmp_path / "a.h5", 10, 10, {}) as row:
        (row.folder / "000000.77.tmp").write_bytes(b"half")
    with open_row(tmp_path / "a.h5", 10, 10, {}) as row:
        assert row.missing() == [Shard(0, 0, 10)]
        assert not list(row.folder.glob("*.tmp"))


@pytest.mark.parametrize(
    ("n", "size", "parameters", "named"),
    [(25, 10, {"seed": 2}, "seed = 1 there, 2 now"), (30, 10, {"seed": 1}, "n = 25")],
)
def test_other_parameters_are_refused_by_name(tmp_path, n, size, parameters, named):
    with open_row(tmp_path / "a.h5", 25, 10, {"seed": 1}):
        pass
    with (
        pytest.raises(UsageError, match=named),
        open_row(tmp_path / "a.h5", n, size, parameters),
    ):
        pass


def test_two_processes_do_not_work_on_one_production(tmp_path):
    with (
        open_row(tmp_path / "a.h5", 5, 5, {}),
        pytest.raises(UsageError, match="another process"),
        open_row(tmp_path / "a.h5", 5, 5, {}),
    ):
        pass


def test_a_damaged_shard_is_a_data_error_that_names_it(tmp_path):
    with open_row(tmp_path / "a.h5", 5, 5, {}) as row:
        row.path(row.shards[0]).write_bytes(b"not an archive")
        with pytest.raises(DataError, match=r"000000\.npz"):
            next(row.iterate())


def test_the_number_of_rows_is_checked(tmp_path):
    with open_row(tmp_path / "a.h5", 5, 5, {}) as row:
        with pytest.raises(ValueError, match="needs 5 rows"):
            row.save(row.shards[0], {"x": np.zeros(4)})
        np.savez(row.path(row.shards[0]), x=np.zeros(4))
        with pytest.raises(DataError, match="expected 5 rows"):
            next(row.iterate())


@pytest.mark.parametrize("n", [0, -3])
def test_no_events_is_a_usage_error(tmp_path, n):
    with pytest.raises(UsageError, match="at least 1"), open_row(tmp_path / "a.h5", n, 5, {}):
        pass


def test_the_signature_is_readable(tmp_path):
    with open_row(tmp_path / "a.h5", 5, 5, {"dataset": "ds2"}) as row:
        found = json.loads((row.folder / "signature.json").read_text())
    assert found == {"dataset": "ds2", "n": 5, "shard_size": 5}
