"""Voxels become points and come back; whole numbers become normal ones and come back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from calostudy.calorimeter import calorimeter
from calostudy.datasets import load
from calostudy.pointsets import Dequantiser, PointSets, cells_at, in_rings, points_of


@pytest.mark.parametrize("name", ["ds1-photons", "ds1-pions", "ds2", "ds3"])
def test_voxels_become_points_and_come_back(name):
    showers, geometry = load(name, "train", rows=slice(0, 6)), calorimeter(name)
    cells = torch.as_tensor(np.asarray(showers.cells, np.float64))
    cells[2] = 0.0
    points = points_of(cells, geometry)
    assert torch.equal(points.counts, (cells > 0).sum(dim=1))
    assert torch.equal(points.to_cells(geometry), cells)
    for layer, alpha, r in points.place[:50].tolist():
        n_alpha, n_r = geometry.layers[layer].shape
        assert alpha < n_alpha and r < n_r


def test_points_in_one_voxel_add_up():
    geometry = calorimeter("ds2")
    place = torch.tensor([[3, 2, 1], [3, 2, 1], [44, 15, 8]])
    points = PointSets(2, torch.tensor([0, 0, 1]), place, torch.tensor([1.0, 2.0, 4.0]))
    cells = points.to_cells(geometry)
    assert cells[0].sum() == cells[0, (3 * 16 + 2) * 9 + 1] == 3.0
    assert cells[1, 6479] == 4.0
    assert cells_at(geometry, place)[2] == 6479


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400))
def test_points_of_a_ring_take_each_of_its_cells_once_before_any_twice(seed, count):
    generator = np.random.default_rng(seed)
    rings = calorimeter("ds1-photons").rings
    ring = generator.integers(rings.max() + 1, size=count)
    cells = in_rings(ring, rings, generator.random(len(rings)))
    np.testing.assert_array_equal(rings[cells], ring)
    size, taken = np.bincount(rings), np.bincount(cells, minlength=len(rings))
    for one in np.unique(ring):
        own, points = taken[rings == one], (ring == one).sum()
        assert own.sum() == points
        assert own.max() - own.min() <= 1 and own.max() == -(-points // size[one])


def test_a_ring_s_cells_are_taken_alike():
    rings, generator = calorimeter("ds2").rings, np.random.default_rng(1)
    ring = np.full(3, rings[20])
    taken = sum(
        np.bincount(in_rings(ring, rings, generator.random(len(rings))), minlength=len(rings))
        for _ in range(600)
    )
    own = taken[rings == rings[20]]
    assert stats.chisquare(own).pvalue > 1e-4


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 5.0), min_size=2, max_size=40), st.integers(0, 2**32 - 1))
def test_whole_numbers_come_back_from_the_real_line(frequency, seed):
    if not sum(frequency):
        frequency[0] = 1.0
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.tensor(frequency)
    numbers = torch.randint(len(frequency), (100,), generator=generator)
    spread = Dequantiser(frequency)
    common = frequency[numbers] > 1e-3
    values = spread.forward(numbers, torch.rand(100, generator=generator).double())
    assert torch.isfinite(values).all()
    assert torch.equal(spread.inverse(values)[common], numbers[common])
    ends = spread.inverse(torch.tensor([-40.0, 40.0]))
    assert ends[0] >= 0 and ends[1] < len(frequency)


def test_numbers_drawn_by_their_frequencies_become_standard_normal():
    frequency = torch.tensor([0.5, 0.1, 0.3, 0.1])
    generator = torch.Generator().manual_seed(2)
    numbers = torch.multinomial(frequency, 20000, replacement=True, generator=generator)
    values = Dequantiser(frequency).forward(numbers, torch.rand(20000, generator=generator))
    assert stats.kstest(values.numpy(), "norm").pvalue > 1e-3
