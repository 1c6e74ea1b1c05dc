"""Moran's I of known patterns, correlations of neighbours, and defects of texture alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_showers import toy_showers

from calostudy.calorimeter import CALORIMETERS, Layer, calorimeter
from calostudy.datasets import dataset, load
from calostudy.metrics.measurement import Options
from calostudy.metrics.sample import Sample
from calostudy.metrics.texture import (
    all_neighbours,
    frequent_pairs,
    measure_texture,
    morans_i,
    neighbours,
    pair_correlations,
)
from calostudy.showers import Showers

OPTIONS = Options(replicas=40)
CYLINDER, PLANE = calorimeter("ds3"), calorimeter("ild")


def of_layer(geometry, pattern: np.ndarray) -> float:
    """Moran's I of one image in the third layer."""
    cells = np.zeros((1, geometry.cells))
    cells[0, geometry.slices[2]] = pattern.ravel()
    found = morans_i(Showers(geometry, np.array([1e4]), cells), 0.0)[0]
    assert np.isnan(np.delete(found, 2)).all()
    return found[2]


@pytest.mark.parametrize("geometry", [CYLINDER, PLANE], ids=str)
def test_morans_i_of_known_patterns(geometry):
    shape = geometry.layers[2].shape
    slow, fast = np.indices(shape)
    assert of_layer(geometry, (slow + fast) % 2) == pytest.approx(-1)
    assert of_layer(geometry, np.sin(np.pi * fast / shape[1]) + 1) > 0.9
    assert np.isnan(of_layer(geometry, np.full(shape, 0.1)))
    rng = np.random.default_rng(1)
    random = [of_layer(geometry, rng.gamma(1, size=shape)) for _ in range(300)]
    error = np.std(random) / np.sqrt(300)
    assert np.mean(random) == pytest.approx(-1 / (slow.size - 1), abs=4 * error)


def test_cylinders_are_closed_in_alpha_and_planes_are_open():
    def half(shape):
        return (np.arange(shape[0]) >= shape[0] / 2)[:, None] * np.ones(shape[1])

    def turned(shape):
        return np.roll(half(shape), shape[0] // 4, axis=0)

    for geometry, closed in ((CYLINDER, True), (PLANE, False)):
        shape = geometry.layers[2].shape
        alike = of_layer(geometry, half(shape)) == pytest.approx(of_layer(geometry, turned(shape)))
        assert alike == closed


@pytest.mark.parametrize("name", CALORIMETERS)
def test_neighbours_are_in_one_layer_and_each_pair_is_there_once(name):
    geometry = calorimeter(name)
    pairs, first = all_neighbours(geometry)
    assert (geometry.layer_index[pairs[:, 0]] == geometry.layer_index[pairs[:, 1]]).all()
    assert len(np.unique(np.sort(pairs, axis=1), axis=0)) == len(pairs)
    for layer, count in zip(geometry.layers, np.diff(first), strict=True):
        slow, fast = layer.shape
        around = slow if layer.view == "cylindrical" and slow > 2 else slow - 1
        assert count == around * fast + slow * (fast - 1)


def test_two_halves_of_a_ring_are_one_pair():
    edges = np.linspace(-np.pi, np.pi, 3), np.array([0.0, 1.0])
    assert neighbours(Layer(0, "cylindrical", edges)).tolist() == [[0, 1]]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e6))
def test_morans_i_is_that_of_its_formula_and_blind_to_scale(seed, scale):
    rng = np.random.default_rng(seed)
    image = rng.gamma(0.3, size=PLANE.layers[2].shape)
    z = image - image.mean()
    cross = (z[1:] * z[:-1]).sum() + (z[:, 1:] * z[:, :-1]).sum()
    links = z[1:].size + z[:, 1:].size
    expected = z.size / links * cross / (z**2).sum()
    assert of_layer(PLANE, image) == pytest.approx(expected, rel=1e-9)
    assert of_layer(PLANE, scale * image) == pytest.approx(expected, rel=1e-6)


def test_cells_below_the_threshold_are_empty():
    geometry = PLANE
    cells = np.random.default_rng(1).gamma(0.5, size=(3, geometry.cells))
    energy = np.full(3, 1e4)
    cut = np.where(cells < 0.4, 0, cells)
    found, expected = (
        morans_i(Showers(geometry, energy, c), t) for c, t in ((cells, 0.4), (cut, 0))
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["calogan-eplus", "ds2"])
def test_correlations_of_neighbours_are_those_of_numpy_and_weights_are_counts(name):
    entry = dataset(name)
    showers = load(name, "evaluation", rows=slice(0, 150))
    sample = Sample.of(showers, entry)
    pairs = frequent_pairs(sample)
    times = np.random.default_rng(1).poisson(1.0, len(sample))
    found = pair_correlations(sample, pairs, np.stack([np.ones(len(sample)), times], axis=1))
    cells = np.where(showers.cells < entry.threshold, 0, showers.cells.astype(np.float64))
    logs = np.log1p(1e4 * cells / showers.incident_energy[:, None])
    for row, values in zip(found, (logs, np.repeat(logs, times, axis=0)), strict=True):
        for k in range(0, len(pairs), len(pairs) // 20):
            expected = np.corrcoef(values[:, pairs[k]].T)[0, 1]
            assert row[k] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["ds1-pions", "ds2", "calogan-eplus"])
def test_geant4_has_the_texture_of_geant4_and_shuffled_neighbours_have_not(name):
    entry = dataset(name)
    showers = load(name, "evaluation", rows=slice(0, 600))
    first, second = showers[::2], Sample.of(showers[1::2], entry)
    cells = first.cells.copy()
    rng = np.random.default_rng(2)
    # the same cells of the same showers in another order around the axis, or along eta
    for position, part in enumerate(entry.calorimeter.slices):
        image = rng.permuted(first.layer(position), axis=1)
        cells[:, part] = image.reshape(len(first), -1)
    shuffled = Sample.of(Showers(first.calorimeter, first.incident_energy, cells), entry)
    same = measure_texture(Sample.of(first, entry), second, OPTIONS, second)
    found = measure_texture(shuffled, second, OPTIONS, second)
    for metric, wrong in found.items():
        right = same[metric]
        assert wrong.value - right.value > 3 * np.hypot(wrong.uncertainty, right.uncertainty)
        assert right.uncertainty > 0
    signed = [value / spread for value, spread in same["morans_i"].details.values()]
    assert np.sqrt(np.mean(np.square(signed))) < 2
    nothing = measure_texture(second, second, OPTIONS, second)
    assert max(each.value for each in nothing.values()) < 1e-6


def test_layers_that_are_almost_always_empty_are_named_and_nothing_is_not_a_number():
    entry = dataset("calogan-eplus")
    showers = toy_showers("calogan-eplus", 100, 1)
    cells = showers.cells.copy()
    cells[10:, showers.calorimeter.slices[2]] = 0  # ten are too few for a bootstrap
    gone = Sample.of(Showers(showers.calorimeter, showers.incident_energy, cells), entry)
    reference = Sample.of(showers, entry)
    found = measure_texture(gone, reference, OPTIONS, reference)
    assert list(found["morans_i"].details) == ["layer 0", "layer 1"]
    assert found["morans_i"].value == 0 < found["pcc_neighbours"].details["layer 2"][0]
    assert any("layer 2" in each for each in found["morans_i"].warnings)
    empty = Sample.of(Showers(showers.calorimeter, showers.incident_energy, 0 * cells), entry)
    for each in measure_texture(empty, empty, OPTIONS, empty).values():
        assert each.value == 0 and not each.details
