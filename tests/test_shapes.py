"""Means, unbiased widths and distances of means, after arXiv:2212.08233."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_showers import toy_showers

from calostudy.calorimeter import calorimeter
from calostudy.datasets import dataset, load
from calostudy.metrics.measurement import Options
from calostudy.metrics.observables import observables
from calostudy.metrics.sample import Sample
from calostudy.metrics.shapes import measure_shapes, shapes
from calostudy.showers import Showers

OPTIONS = Options(replicas=40)
EPLUS = dataset("calogan-eplus")


def by_hand(cells: np.ndarray, position: np.ndarray) -> tuple[float, float]:
    """Equations 1 and 2 of the paper for one layer of one shower, cell by cell."""
    total = mean = 0.0
    hits = 0
    for energy, x in zip(cells, position, strict=True):
        total, mean, hits = total + energy, mean + energy * x, hits + (energy > 0)
    mean /= total
    square = sum(energy * (x - mean) ** 2 for energy, x in zip(cells, position, strict=True))
    return mean, np.sqrt(square / ((hits - 1) / hits * total))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), hits=st.integers(2, 60), scale=st.floats(0.1, 1e4))
def test_means_and_widths_are_the_papers_equations_and_do_not_depend_on_the_scale(
    seed, hits, scale
):
    geometry = calorimeter("segmentations")
    rng = np.random.default_rng(seed)
    cells = np.zeros((1, geometry.cells))
    for part in geometry.slices:
        chosen = rng.choice(np.arange(part.start, part.stop), hits, replace=False)
        cells[0, chosen] = rng.lognormal(3, 1.5, hits) + 1.0
    showers = Showers(geometry, np.array([65e3]), cells * scale)
    found = dict(shapes(observables(showers, 0.0), geometry))
    means = {}
    for layer, part in zip(geometry.layers, geometry.slices, strict=True):
        for axis in ("eta", "phi"):
            mean, width = by_hand(cells[0, part], getattr(layer, axis))
            means[axis, layer.id] = mean
            assert found[f"mean_{axis}/{layer.id}"][0] == pytest.approx(mean, abs=1e-7)
            assert found[f"width_{axis}/{layer.id}"][0] == pytest.approx(width, abs=1e-5)
    first, second = geometry.layer_ids[:2]
    expected = means["phi", second] - means["phi", first]
    assert found[f"distance_phi/{first}-{second}"][0] == pytest.approx(expected, abs=1e-7)


def test_two_equal_cells_have_the_width_of_two_numbers_and_fewer_cells_have_none():
    geometry = EPLUS.calorimeter
    layer, part = geometry.layers[1], geometry.slices[1]
    cells = np.zeros((3, geometry.cells))
    cells[0, [part.start, part.stop - 1]] = 7.0
    cells[1, part.start] = 7.0
    found = dict(shapes(observables(Showers(geometry, np.full(3, 1e4), cells), 0.0), geometry))
    expected = np.std([layer.eta[0], layer.eta[-1]], ddof=1)
    np.testing.assert_allclose(found["width_eta/1"], [expected, np.nan, np.nan])
    np.testing.assert_allclose(found["mean_eta/1"], [0.0, layer.eta[0], np.nan], atol=1e-12)
    assert np.isnan(found["distance_eta/0-1"]).all()


def test_layers_of_rings_have_no_shapes_and_their_neighbours_are_the_nearest_others():
    entry = dataset("ds1-pions")
    sample = Sample.of(toy_showers("ds1-pions", 20, 1), entry)
    names = [name for name, _ in shapes(sample.observables, entry.calorimeter)]
    assert [name for name in names if name.startswith("distance_eta")] == [
        "distance_eta/1-2",
        "distance_eta/2-12",
        "distance_eta/12-13",
    ]


@pytest.mark.parametrize("name", ["ds1-pions", "ds2", "segmentations"])
def test_geant4_differs_from_geant4_by_noise_alone(name):
    showers = load(name, "evaluation", rows=slice(0, 800))
    first, second = (Sample.of(each, dataset(name)) for each in (showers[::2], showers[1::2]))
    found = measure_shapes(first, second, OPTIONS, second)
    counts = [
        {key: np.isfinite(v).sum() for key, v in shapes(s.observables, s.entry.calorimeter)}
        for s in (first, second)
    ]
    # a normal distribution: sqrt(1/n + 1/m) times 0.9 on average, and (49 bins) / 4 of its square
    noise = {k: 1 / counts[0][k] + 1 / counts[1][k] for k in found["separation_shapes"].details}
    for metric, size in (("wasserstein_shapes", 0.5), ("separation_shapes", 1.0)):
        details = found[metric].details
        ratio = np.mean([details[key][0] / noise[key] ** size for key in noise])
        assert 0 < ratio < {0.5: 1.8, 1.0: 49 / 4}[size]
    same = measure_shapes(first, first, OPTIONS, second)
    assert max(each.value for each in same.values()) < 1e-12


def test_a_wide_layer_and_a_moved_layer_are_named():
    geometry = EPLUS.calorimeter
    showers = load("calogan-eplus", "evaluation", rows=slice(0, 1000))
    reference, rest = Sample.of(showers[1::2], EPLUS), showers[::2]
    cells = rest.cells.reshape(len(rest), -1).copy()
    moved = rest.layer(2)[:, :, np.r_[5, :5]]  # by one cell in phi, towards larger
    cells[:, geometry.slices[2]] = moved.reshape(len(rest), -1)
    other = Sample.of(Showers(geometry, rest.incident_energy, cells), EPLUS)
    found = {
        word: measure_shapes(sample, reference, OPTIONS, reference)
        for word, sample in (("same", Sample.of(rest, EPLUS)), ("other", other))
    }
    for metric in ("wasserstein_shapes", "separation_shapes"):
        right, wrong = found["same"][metric], found["other"][metric]
        assert wrong.value - right.value > 3 * np.hypot(right.uncertainty, wrong.uncertainty)
        changed = {part for part, pair in wrong.details.items() if pair != right.details[part]}
        assert changed == {"mean_phi/2", "width_phi/2", "distance_phi/1-2"}


def test_showers_without_energy_in_a_layer_are_warned_of_and_nothing_is_not_a_number():
    showers = toy_showers("calogan-eplus", 200, 1)
    cells = showers.cells.copy()
    cells[:, showers.calorimeter.slices[2]] = 0
    empty = Sample.of(Showers(showers.calorimeter, showers.incident_energy, cells), EPLUS)
    reference = Sample.of(showers, EPLUS)
    found = measure_shapes(empty, reference, OPTIONS, reference)
    for each in found.values():
        assert np.isfinite(
            [each.value, each.uncertainty, *(v for v, _ in each.details.values())]
        ).all()
        assert any("mean_eta/2 (100.0% and 0.0%)" in words for words in each.warnings)
        assert any(words.startswith("too few") and "mean_eta/2" in words for words in each.warnings)
    assert "mean_eta/2" not in found["wasserstein_shapes"].details
    assert found["separation_shapes"].details["mean_eta/2"][0] == 1
    backwards = measure_shapes(reference, empty, OPTIONS, empty)["separation_shapes"]
    assert any("mean_eta/2" in words for words in backwards.warnings)
    assert "mean_eta/2" not in backwards.details


def test_a_layer_hit_by_few_showers_leaves_the_uncertainty_a_number():
    showers = toy_showers("calogan-eplus", 200, 1)
    cells = showers.cells.copy()
    cells[3:, showers.calorimeter.slices[2]] = 0
    few = Sample.of(Showers(showers.calorimeter, showers.incident_energy, cells), EPLUS)
    reference = Sample.of(showers, EPLUS)
    for each in measure_shapes(few, reference, OPTIONS, reference).values():
        assert np.isfinite([each.value, each.uncertainty]).all()
