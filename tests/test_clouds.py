"""Point clouds: written and read, clustered, summed into cells, shifted, malformed."""

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calostudy import clouds
from calostudy.calorimeter import calorimeter
from calostudy.clouds import FACTOR, FRONT_FACE, PointClouds, Writer, iterate, read
from calostudy.errors import DataError, UsageError
from calostudy.inspection import inspect

ILD = calorimeter("ild")
PITCH = 5.0883


def some_clouds(counts, seed=1, width=20.0):
    """Points in the layers of ILD."""
    rng = np.random.default_rng(seed)
    points = int(np.sum(counts))
    layer = rng.integers(0, 30, points)
    near, far = np.array([one.depth for one in ILD.layers]).T
    depth = near[layer] + rng.uniform(0.1, 0.9, points) * (far - near)[layer]
    position = np.column_stack([rng.normal(0, width, (points, 2)), depth])
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(int)
    energy = rng.exponential(0.3, points) + 1e-3
    return PointClouds(rng.uniform(1e4, 9e4, len(counts)), offsets, position, energy)


def written(path, found, **options):
    with Writer(path, 400, **options) as writer:
        writer.append(found)
    return path


def test_what_is_written_is_read(tmp_path):
    before = some_clouds([100, 0, 400])
    after = read(written(tmp_path / "a.h5", before, attributes={"seed": 3}))
    np.testing.assert_array_equal(after.counts, [100, 0, 400])
    np.testing.assert_allclose(after.position, before.position, atol=2e-4)  # y is float32, 1800 mm
    np.testing.assert_allclose(after.energy, before.energy, rtol=1e-6)
    np.testing.assert_allclose(after.incident_energy, before.incident_energy, rtol=1e-6)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["events"].shape == (3, 400, 4)
        assert file["energy"].shape == (3, 1)
        assert file.attrs["seed"] == 3


def test_pieces_are_the_whole(tmp_path):
    path = written(tmp_path / "a.h5", some_clouds([5, 3, 0, 7, 2]))
    whole, parts = read(path), list(iterate(path, 2))
    assert [len(part) for part in parts] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([p.energy for p in parts]), whole.energy)
    np.testing.assert_array_equal(whole[1:4].counts, [3, 0, 7])
    np.testing.assert_array_equal(whole[np.array([4, 0])].counts, [2, 5])
    np.testing.assert_array_equal(whole[1].energy, whole.energy[5:8])


def test_y_in_layers_and_y_in_mm_are_the_same_place(tmp_path):
    layers = np.array([0, 7, 29])
    bottom = [FRONT_FACE + np.mean(ILD.layers[i].depth) for i in layers]
    for name, y in (("layers", layers + 0.5), ("mm", bottom)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["energy"] = np.array([[50.0]], np.float32)
            points = np.zeros((1, 6, 4), np.float32)
            points[0, 3:] = np.column_stack([[1, 2, 3], y, [4, 5, 6], [0.1, 0.2, 0.3]])
            file["events"] = points  # padded in front, as some public files are
    for name in ("layers", "mm"):
        found = read(tmp_path / f"{name}.h5")
        np.testing.assert_array_equal(found.layer_index(ILD), layers)
        np.testing.assert_allclose(found.position[:, :2], [[1, 4], [2, 5], [3, 6]])
        np.testing.assert_allclose(found.total_energy(), [600.0], rtol=1e-6)


@given(seed=st.integers(0, 10**6), width=st.floats(1.0, 60.0))
def test_clustering_keeps_energies_layers_and_cells(seed, width):
    before = some_clouds([80, 0, 30], seed, width)
    after = before.clustered(ILD)
    assert (after.counts <= before.counts).all()
    np.testing.assert_allclose(after.total_energy(), before.total_energy())
    np.testing.assert_allclose(after.per_layer(ILD)[1], before.per_layer(ILD)[1], atol=1e-9)
    # no point changes its cell
    np.testing.assert_allclose(after.to_showers(ILD).cells, before.to_showers(ILD).cells, rtol=1e-5)
    again = after.clustered(ILD)
    np.testing.assert_array_equal(again.counts, after.counts)
    np.testing.assert_allclose(again.position, after.position)


def test_points_lie_on_a_lattice_36_times_finer_than_the_cells():
    found = some_clouds([300]).clustered(ILD)
    steps = found.position[:, :2] / (PITCH / FACTOR) - 0.5
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
    assert len(np.unique(found.position, axis=0)) == len(found.energy)


def test_the_most_energetic_points_are_kept(monkeypatch):
    before = some_clouds([200, 20], width=50.0)
    everything = before.clustered(ILD)
    monkeypatch.setattr(clouds, "MAXIMUM", 50)
    kept = before.clustered(ILD)
    np.testing.assert_array_equal(kept.counts, [50, everything.counts[1]])
    first = np.sort(everything.energy[: everything.counts[0]])[-50:]
    np.testing.assert_allclose(np.sort(kept.energy[:50]), first)


def test_a_shift_by_whole_cells_moves_the_image():
    found = some_clouds([500, 500], width=8.0)
    still = found.to_showers(ILD).cells.reshape(2, 30, 30, 30)
    shift = np.array([[3 * PITCH, 0.0], [0.0, -2 * PITCH]])
    moved = found.to_showers(ILD, shift).cells.reshape(2, 30, 30, 30)
    np.testing.assert_allclose(moved[0], np.roll(still[0], 3, axis=1), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(moved[1], np.roll(still[1], -2, axis=2), rtol=1e-4, atol=1e-3)
    out = found.to_showers(ILD, np.full((2, 2), 1e4))
    assert out.cells.sum() == 0  # all beyond the box


def malformed():
    energy, events = np.full((3, 1), 50.0), np.zeros((3, 10, 4))
    events[:, :4, 1], events[:, :4, 3] = 3.0, 0.01
    yield "no events", {"energy": energy}, "no events"
    yield "flat", {"energy": energy, "events": events[0]}, r"expected \(N, 1\) and \(N, P, 4\)"
    yield "lengths", {"energy": energy[:2], "events": events}, "expected"
    yield "nothing", {"energy": energy[:0], "events": events[:0]}, "zero showers"
    nan, negative, mev, far = (events.copy() for _ in range(4))
    nan[1, 2, 0] = np.nan
    negative[1, 2, 3] = -1e-3
    mev[..., 3] *= 1e4
    far[..., 1] *= 1e4
    yield "NaN", {"energy": energy, "events": nan}, "NaN"
    yield "negative", {"energy": energy, "events": negative}, "negative"
    yield "energy zero", {"energy": 0 * energy, "events": events}, "zero energies"
    yield "MeV", {"energy": energy, "events": mev}, "expected GeV"
    yield "beyond", {"energy": energy, "events": far}, "expected layer numbers"


@pytest.mark.parametrize(("arrays", "message"), [m[1:] for m in malformed()])
def test_a_malformed_file_is_one_clear_error(tmp_path, arrays, message):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for key, values in arrays.items():
            file[key] = values
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / "a.h5")
    assert "a.h5" in str(caught.value)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(UsageError, match="401 points"):
        written(tmp_path / "a.h5", some_clouds([401]))
    assert not list(tmp_path.iterdir())


def test_rows_that_are_not_there_are_bad_usage(tmp_path):
    path = written(tmp_path / "a.h5", some_clouds([5, 5]))
    with pytest.raises(UsageError, match="has 2 showers"):
        read(path, slice(7, 9))


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="do not fit"):
        PointClouds(np.ones(2), np.array([0, 1]), np.zeros((1, 3)), np.ones(1))


def test_inspect_knows_point_clouds(tmp_path):
    report = inspect(written(tmp_path / "a.h5", some_clouds([100, 50, 300])))
    assert (report.format, report.events, report.datasets) == ("clouds", 3, ("ild-photons",))
    assert report.points == (50, 150, 300)
    assert report.problems == ()
    assert "point clouds" in str(report)
