"""Ranges of incident energy: every shower is in exactly one, whatever the dataset."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calostudy.datasets import DATASETS, dataset
from calostudy.metrics.ranges import energy_ranges, filled_ranges


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(DATASETS)), seed=st.integers(0, 2**32 - 1))
def test_every_incident_energy_of_a_law_is_in_exactly_one_range(name, seed):
    entry = dataset(name)
    rng = np.random.default_rng(seed)
    laws = (entry.law("public"), entry.law("simulated"))
    energies = np.concatenate([e for law in laws for e in (law.range, law.sample(200, rng))])
    energies = energies * rng.uniform(1 - 9e-7, 1 + 9e-7, len(energies))  # as files round them
    assert entry.energies.contains(energies).all()
    held = np.sum([each.holds(energies) for each in energy_ranges(entry)], axis=0)
    np.testing.assert_array_equal(held, 1)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("ds3", ["1-10 GeV", "10-100 GeV", "100-1000 GeV"]),
        ("calogan-eplus", ["1-25 GeV", "25-50 GeV", "50-75 GeV", "75-100 GeV"]),
        ("ild-photons", ["10-40 GeV", "40-70 GeV", "70-100 GeV"]),
        ("segmentations", ["65 GeV"]),
    ],
)
def test_ranges_are_named_by_their_bounds(name, labels):
    assert [each.label for each in energy_ranges(dataset(name))] == labels


@pytest.mark.parametrize("name", ["ds1-photons", "ds1-pions"])
def test_dataset_1_has_one_range_for_each_of_its_fifteen_energies(name):
    ranges = energy_ranges(dataset(name))
    assert [ranges[0].label, ranges[-1].label] == ["0.256 GeV", "4194 GeV"]
    for k, each in zip(range(8, 23), ranges, strict=True):
        np.testing.assert_array_equal(each.holds(2.0 ** np.array([k - 1, k, k + 1])), [0, 1, 0])


def test_a_range_that_one_sample_does_not_fill_is_left_out_and_named():
    entry = dataset("ds2")
    low, wide = np.full(60, 5e3), np.repeat([5e3, 5e4, 5e5], [50, 49, 60])
    filled, warnings = filled_ranges(entry, low, wide)
    assert [each.label for each in filled] == ["1-10 GeV"]
    assert len(warnings) == 1 and "10-100 GeV, 100-1000 GeV" in warnings[0]
    filled, warnings = filled_ranges(entry, wide, wide, least=49)
    assert len(filled) == 3 and warnings == ()
