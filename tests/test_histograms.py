"""Histograms and separation power: golden values, official bins, planted defects."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from toy_showers import toy_showers

from calostudy.datasets import dataset
from calostudy.errors import DataError
from calostudy.metrics import Sample
from calostudy.metrics.histograms import (
    Binning,
    binning,
    cell_counts,
    mean_separation,
    separation_power,
    separations,
)
from calostudy.showers import Showers

EPLUS = dataset("calogan-eplus")


def sample(showers, entry=EPLUS):
    return Sample.of(showers, entry)


def test_separation_power_is_the_golden_figure_of_the_calochallenge_evaluation():
    i = np.arange(1000)
    x = (i * 0.6180339887498949) % 1
    y = ((i * 0.7548776662466927) % 1) ** 1.2
    bins = np.linspace(0, 1, 11)
    p, q = np.histogram(x, bins)[0], np.histogram(y, bins)[0]
    assert separation_power(p, q) == pytest.approx(0.007792700916774217, rel=1e-9)


def test_identical_histograms_give_zero_disjoint_ones_one_and_empty_ones_no_nan():
    a, b, none = np.array([5, 0, 3, 0]), np.array([0, 2, 0, 9]), np.zeros(4)
    assert separation_power(a, a) == 0.0
    assert separation_power(a, b) == pytest.approx(1.0, rel=1e-12)
    assert separation_power(none, none) == 0.0
    assert separation_power(a, none) == separation_power(none, a) == 1.0


counts = arrays(np.float64, 12, elements=st.integers(0, 1000).map(float))


@settings(max_examples=100, deadline=None)
@given(p=counts, q=counts, factor=st.floats(0.1, 100))
def test_separation_power_is_symmetric_bounded_and_blind_to_sample_size(p, q, factor):
    power = separation_power(p, q)
    assert 0.0 <= power <= 1.0 + 1e-12
    assert separation_power(q, p) == pytest.approx(power, abs=1e-12)
    assert separation_power(p * factor, q) == pytest.approx(power, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "key", "bins", "low", "high"),
    [
        ("ds2", "E_tot/E_inc", 100, 0.5, 1.5),
        ("ds2", "EC_eta/12", 100, -30, 30),
        ("ds3", "width_phi/13", 100, 0, 30),
        ("ds3", "EC_r/14", 100, 0, 42),
        ("ds2", "width_r/3", 100, 0, 20),
        ("ds1-pions", "EC_phi/12", 100, -500, 500),
        ("ds1-pions", "EC_phi/2", 100, -100, 100),
        ("ds1-pions", "width_eta/13", 100, 0, 400),
        ("ds1-photons", "width_eta/1", 100, 0, 100),
        ("ds1-photons", "EC_r/12", 100, 0, 1500),
        ("ds1-pions", "width_r/14", 100, 0, 1500),
        ("ds1-pions", "EC_r/3", 100, 0, 500),
        ("ds1-photons", "sparsity/12", 20, 0, 1),
        ("ds1-photons", "E_tot/E_inc/2^11", 20, 0.4, 1.4),
        ("ds1-photons", "E_tot/E_inc/2^12", 20, 0.9, 1.1),
        ("ds1-pions", "E_tot/E_inc/2^12", 20, 0.4, 1.4),
        ("ds2", "E_layer/7", 39, 0.5e-3 / 0.033, 5000.0),
        ("ds1-photons", "E_layer/0", 39, 1.0, 5000.0),
        ("ds2", "voxel", 49, 0.5e-3 / 0.033, 5000.0),
    ],
)
def test_official_bins_are_those_of_the_calochallenge_evaluation(name, key, bins, low, high):
    found = binning(key, dataset(name), np.array([3.0, 5000.0, 0.0]))
    assert len(found.edges) == bins + 1
    assert found.edges[[0, -1]] == pytest.approx([low, high])
    assert not found.open_ended
    steps = np.diff(np.log(found.edges) if key.startswith(("E_layer", "voxel")) else found.edges)
    np.testing.assert_allclose(steps, steps[0])


@settings(max_examples=50, deadline=None)
@given(values=arrays(np.float64, 30, elements=st.floats(-2, 3)))
def test_bins_are_filled_as_numpy_fills_them(values):
    bins = Binning(np.linspace(0, 1, 8))
    index = bins.indices(values)
    filled = np.bincount(index[index >= 0], minlength=7)
    np.testing.assert_array_equal(filled, np.histogram(values, bins.edges)[0])
    open_ended = Binning(bins.edges, open_ended=True).indices(values)
    assert (open_ended >= 0).all() and (open_ended[index >= 0] == index[index >= 0]).all()


def test_not_a_number_is_never_filled():
    for bins in (Binning(np.linspace(0, 1, 5)), Binning(np.linspace(0, 1, 5), open_ended=True)):
        np.testing.assert_array_equal(bins.indices(np.array([np.nan, 0.3])), [-1, 1])


def test_cell_spectrum_agrees_with_numpy_at_every_edge():
    geometry = EPLUS.calorimeter
    edges = np.geomspace(0.015, 1e4, 50)
    rng = np.random.default_rng(1)
    cells = rng.choice([0.0, 1.0], size=(4, geometry.cells)) * rng.lognormal(0, 4, (4, 504))
    cells[0, :50], cells[1, :50] = edges, np.nextafter(edges, 0)
    showers = Showers(geometry, np.full(4, 1e4), cells)
    expected = [np.histogram(row, edges)[0] for row in cells]
    np.testing.assert_array_equal(cell_counts(sample(showers), Binning(edges)), expected)
    beyond = cell_counts(sample(showers), Binning(edges, open_ended=True)).sum()
    assert beyond - np.sum(expected) == (cells > edges[-1]).sum() > 0


def test_two_samples_of_one_distribution_have_the_separation_that_their_size_implies():
    a, b = toy_showers("calogan-eplus", 3000, 1), toy_showers("calogan-eplus", 3000, 2)
    ratio = separations(sample(a), sample(b), replicas=50)["E_tot/E_inc"]
    filled = np.count_nonzero(ratio.generated + ratio.reference)
    expected = (filled - 1) * (1 / 3000 + 1 / 3000) / 4
    spread = np.sqrt(2 * (filled - 1)) * (1 / 3000 + 1 / 3000) / 4
    assert abs(ratio.value - expected) < 4 * spread
    # The bootstrap may overestimate the spread near the floor, by sqrt(3), never shrink it.
    assert 0.7 * spread < ratio.uncertainty < 3 * spread


def test_an_energy_scale_off_by_three_percent_is_seen_far_above_the_floor():
    reference = toy_showers("calogan-eplus", 2000, 1)
    same = separations(sample(toy_showers("calogan-eplus", 2000, 2)), sample(reference))
    shifted = toy_showers("calogan-eplus", 2000, 3, scale=1.03)
    off = separations(sample(shifted), sample(reference))
    key = "E_tot/E_inc"
    assert off[key].value > same[key].value + 10 * np.hypot(off[key].uncertainty, 1e-3)
    values, errors = zip(*(mean_separation(table) for table in (same, off)), strict=True)
    assert values[1] > values[0] + 5 * np.hypot(*errors)
    # What does not depend on the energy scale stays at its floor.
    key = "EC_eta/1"
    assert off[key].value < 2 * same[key].value


def test_the_mean_is_over_every_layer_s_observables_and_its_error_knows_their_correlation():
    entry = dataset("ds1-photons")
    a, b = toy_showers(entry.name, 800, 1), toy_showers(entry.name, 800, 2)
    table = separations(sample(a, entry), sample(b, entry), replicas=60)
    chosen = [s.value for name, s in table.items() if not name.startswith("E_tot/E_inc/")]
    assert len(chosen) == 1 + 5 + 2 + 2 + 5 + 2 + 2 + 5 + 5 + 1
    mean, error = mean_separation(table)
    assert mean == pytest.approx(np.mean(chosen))
    uncertainties = [s.uncertainty for n, s in table.items() if not n.startswith("E_tot/E_inc/")]
    assert 0 < error < np.mean(uncertainties)


def test_discrete_energies_have_a_slice_each():
    entry = dataset("ds1-photons")
    showers = toy_showers(entry.name, 500, 4)
    table = separations(sample(showers, entry), sample(showers, entry), replicas=2)
    slices = [table[f"E_tot/E_inc/2^{k}"] for k in range(8, 23)]
    assert sum(s.reference.sum() for s in slices) == pytest.approx(500, abs=15)
    assert all(s.value == 0 for s in slices)


def test_what_lies_outside_the_official_range_is_counted_and_reported():
    entry = dataset("ds2")
    reference = toy_showers("ds2", 60, 1)
    broken = toy_showers("ds2", 60, 2, scale=3.0)  # E_tot / E_inc near 2.9, range 0.5 to 1.5
    ratio = separations(sample(broken, entry), sample(reference, entry), replicas=2)["E_tot/E_inc"]
    assert ratio.generated_outside == 1.0
    assert ratio.reference_outside == 0.0
    assert ratio.value == 1.0


def test_the_same_seed_gives_the_same_uncertainty():
    a, b = toy_showers("calogan-eplus", 200, 1), toy_showers("calogan-eplus", 300, 2)
    first, second = (separations(sample(a), sample(b), replicas=20, seed=5) for _ in range(2))
    assert all(first[k].uncertainty == second[k].uncertainty for k in first)


def test_an_empty_sample_is_refused():
    showers = toy_showers("calogan-eplus", 10, 1)
    with pytest.raises(DataError, match="generated"):
        sample(showers[:0])
