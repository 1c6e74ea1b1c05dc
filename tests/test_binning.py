"""Hits in cells: every position has its cell, nothing is lost, nothing comes from outside."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calostudy.binning import locator, sum_into_cells
from calostudy.calorimeter import CALORIMETERS, calorimeter
from calostudy.errors import UsageError
from calostudy.segmentations import INNER, MIDDLE, resegment, segmentation
from calostudy.showers import Showers

seeds = st.integers(0, 2**32 - 1)


def hits_within(geometry, n, rng):
    """Positions (n, 3) all over the calorimeter and beyond, energies (n,)."""
    half = 1.2 * max(abs(layer.edges[1][-1]) for layer in geometry.layers)
    across = rng.normal(0, half / 3, (n, 2))
    depth = rng.uniform(-5, geometry.layers[-1].depth[1] + 5, (n, 1))
    return np.hstack([across, depth]), rng.exponential(1.0, n)


@pytest.mark.parametrize("name", CALORIMETERS)
def test_the_centre_of_every_cell_lies_in_it(name):
    geometry = calorimeter(name)
    cell = locator(geometry)
    depths = np.array([np.mean(layer.depth) for layer in geometry.layers])
    rng = np.random.default_rng(1)
    for index in rng.choice(geometry.cells, 200):
        depth = depths[geometry.layer_index[index]]
        ring = geometry.layers[geometry.layer_index[index]].shape[0] == 1
        eta, phi = geometry.eta[index], geometry.phi[index]
        if ring and geometry.layers[0].view == "cylindrical":
            eta, phi = 0.0, geometry.r[index]
        assert cell(eta, phi, depth) == index


@pytest.mark.parametrize("name", CALORIMETERS)
def test_cells_are_those_of_numpys_histogram(name):
    geometry = calorimeter(name)
    position, energy = hits_within(geometry, 4000, np.random.default_rng(2))
    found = sum_into_cells(geometry, np.array([0, 4000]), position, energy)[0]
    for layer, place in zip(geometry.layers, geometry.slices, strict=True):
        inside = (position[:, 2] >= layer.depth[0]) & (position[:, 2] < layer.depth[1])
        eta, phi = position[inside, :2].T
        if layer.view == "cylindrical":
            eta, phi = np.arctan2(phi, eta), np.hypot(eta, phi)
        expected, _, _ = np.histogram2d(eta, phi, bins=layer.edges, weights=energy[inside])
        np.testing.assert_allclose(found[place], expected.ravel(), rtol=1e-12, atol=1e-12)


def test_bins_are_closed_below_and_open_above():
    cell = locator(calorimeter("calogan"))
    assert cell(-240.0, -240.0, 0.0) == 0
    assert cell(-240.0, -235.0, 0.0) == 1
    assert cell(0.0, 240.0, 0.0) == cell(240.0, 0.0, 0.0) == -1
    assert cell(0.0, 0.0, 480.0) == cell(0.0, 0.0, -1e-9) == -1
    assert cell(-240.0, -240.0, 90.0) == 288


def test_an_angle_of_pi_is_one_of_minus_pi():
    cell = locator(calorimeter("ds2"))
    assert cell(-3.0, 0.0, 1.0) == cell(-3.0, -0.0, 1.0) == 0


@given(seed=seeds)
def test_energy_inside_is_conserved_and_showers_stay_apart(seed):
    rng = np.random.default_rng(seed)
    geometry = calorimeter("ild")
    position, energy = hits_within(geometry, 300, rng)
    offsets = np.array([0, *np.sort(rng.integers(0, 300, 3)), 300])
    cells = sum_into_cells(geometry, offsets, position, energy)
    cell = locator(geometry)
    inside = np.array([cell(*one) >= 0 for one in position])
    for shower, (first, last) in enumerate(itertools.pairwise(offsets)):
        kept = energy[first:last][inside[first:last]].sum()
        assert cells[shower].sum() == pytest.approx(kept, abs=1e-9)


@given(seed=seeds, inner=st.sampled_from(INNER), middle=st.sampled_from(MIDDLE))
def test_adding_fine_cells_is_binning_the_hits(seed, inner, middle):
    rng = np.random.default_rng(seed)
    finest, target = calorimeter("segmentations"), segmentation(inner, middle)
    position, energy = hits_within(finest, 500, rng)
    offsets = np.array([0, 200, 500])
    fine = sum_into_cells(finest, offsets, position, energy)
    added = resegment(Showers(finest, np.full(2, 65e3), fine), inner, middle)
    np.testing.assert_allclose(
        added.cells, sum_into_cells(target, offsets, position, energy), rtol=1e-12, atol=1e-12
    )
    assert added.calorimeter is target


def test_the_transition_region_is_coarse_on_one_side():
    eta = segmentation((48, 12), (36, 48)).layers[1].edges[0]
    np.testing.assert_allclose(np.diff(eta), [20.0] * 12 + [10.0] * 24)
    assert segmentation((192, 4), (12, 12)).layers[0].shape == (192, 4)


def test_other_segmentations_are_refused():
    with pytest.raises(UsageError, match="48x4, 48x12"):
        segmentation((12, 12), (12, 12))
    toy = Showers(calorimeter("calogan"), np.ones(1), np.ones((1, 504)))
    with pytest.raises(UsageError, match="expected segmentations"):
        resegment(toy, (48, 4), (12, 12))


def test_a_calorimeter_of_unknown_depth_takes_no_hits():
    known = calorimeter("calogan")
    layers = tuple(dataclasses.replace(layer, depth=None) for layer in known.layers)
    with pytest.raises(UsageError, match="depth"):
        locator(dataclasses.replace(known, layers=layers))


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="do not fit"):
        sum_into_cells(calorimeter("ild"), np.array([0, 3]), np.zeros((2, 3)), np.zeros(2))
