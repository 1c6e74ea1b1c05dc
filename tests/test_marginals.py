"""Cells as normal numbers: normal one by one, back without loss, and hits as often as they are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calostudy.calorimeter import calorimeter
from calostudy.datasets import dataset, load
from calostudy.marginals import NODES, CellMarginals, orbits
from calostudy.preprocessing import layer_sums, symmetries, turn_at_random

NAMES = ["ds1-photons", "ds2", "calogan-eplus"]


def showers_of(name, rows=slice(0, 800)):
    """Calorimeter, threshold, cells and layer energies of training showers."""
    entry = dataset(name)
    cells = load(name, "train", rows=rows).above_threshold(entry.threshold).cells
    cells = torch.as_tensor(np.asarray(cells)).double()
    return entry.calorimeter, entry.threshold, cells, layer_sums(cells, entry.calorimeter.slices)


def by_orbit(marginals, values):
    """Means (O,) of values (N, V) over showers and over cells that are alike."""
    kinds = orbits(marginals.calorimeter)
    sums = torch.zeros(int(kinds.max()) + 1).double().index_add(0, kinds, values.mean(0))
    return sums / torch.bincount(kinds)


@pytest.fixture(scope="module", params=NAMES)
def fitted(request):
    geometry, threshold, cells, energies = showers_of(request.param)
    return CellMarginals.fitted(geometry, threshold, cells), cells, energies


def test_the_showers_of_the_fit_come_back(fitted):
    marginals, cells, energies = fitted
    numbers = marginals.forward(cells[:100], energies[:100], torch.rand(100, cells.shape[1]))
    assert torch.isfinite(numbers).all()
    torch.testing.assert_close(
        marginals.inverse(numbers, energies[:100]), cells[:100], rtol=1e-4, atol=1e-9
    )


def test_numbers_are_standard_normal_one_by_one(fitted):
    marginals, cells, energies = fitted
    torch.manual_seed(1)
    numbers = marginals.forward(cells, energies, torch.rand_like(cells))
    assert abs(numbers.mean()) < 0.01 and numbers.std() == pytest.approx(1.0, abs=0.05)
    assert by_orbit(marginals, numbers).abs().max() < 0.15
    squares = by_orbit(marginals, numbers.square())
    assert squares.min() > 0.4 and squares.max() < 1.3
    assert torch.quantile(squares, 0.05) > 0.7


def test_normal_numbers_become_hits_as_often_and_as_large_as_geant4s(fitted):
    marginals, cells, energies = fitted
    torch.manual_seed(2)
    made = marginals.inverse(torch.randn_like(cells), energies)
    rates = [by_orbit(marginals, (each > 0).double()) for each in (made, cells)]
    torch.testing.assert_close(rates[0], rates[1], rtol=0.15, atol=0.004)
    sums = [layer_sums(each, marginals.calorimeter.slices).sum(0) for each in (made, cells)]
    large = sums[1] > 0.02 * sums[1].sum()
    torch.testing.assert_close(sums[0][large], sums[1][large], rtol=0.1, atol=0)


def test_the_chance_of_a_hit_grows_with_the_energy_of_the_layer():
    geometry, threshold, cells, _ = showers_of("ds2")
    marginals = CellMarginals.fitted(geometry, threshold, cells)
    layer = torch.tensor([5.0, 50.0, 500.0])[:, None] * torch.ones(1, 45)
    chance = marginals._probability(layer)[:, geometry.slices[10]]
    assert (chance.mean(dim=1).diff() > 0).all()


def test_a_layer_without_energy_has_no_hits_and_numbers_that_say_nothing(fitted):
    marginals, cells, energies = fitted
    nothing, none = torch.zeros(200, cells.shape[1]), torch.zeros(200, energies.shape[1])
    assert not marginals.inverse(3.0 * torch.randn(nothing.shape), none).any()
    torch.manual_seed(3)
    numbers = marginals.forward(nothing, none, torch.rand_like(nothing))
    assert numbers.mean().abs() < 0.01 and numbers.std() == pytest.approx(1.0, abs=0.01)


def test_what_a_symmetry_exchanges_is_alike(fitted):
    marginals, cells, _energies = fitted
    torch.manual_seed(4)
    turned = turn_at_random(cells, symmetries(marginals.calorimeter))
    assert not torch.equal(turned, cells)
    other = CellMarginals.fitted(marginals.calorimeter, marginals.threshold, turned)
    torch.testing.assert_close(other.knots, marginals.knots)
    torch.testing.assert_close(other.hit, marginals.hit)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.02, 1e4))
def test_any_numbers_become_cells_and_come_back(seed, energy):
    generator = torch.Generator().manual_seed(seed)
    marginals = CellMarginals.untrained(calorimeter("ds1-photons"), 1.0)
    numbers = 2.0 * torch.randn(3, 368, generator=generator, dtype=torch.float64)
    energies = torch.full((3, 5), energy, dtype=torch.float64)
    cells = marginals.inverse(numbers, energies)
    assert ((cells == 0) | (cells >= 1.0)).all()
    back = marginals.forward(cells, energies, torch.rand(3, 368, generator=generator))
    hit = cells > 0
    assert ((back > 0) == hit).all()  # here one half of the numbers stands for hits
    within = hit & (-torch.special.ndtri(2 * torch.special.ndtr(-numbers)) < NODES[-1])
    torch.testing.assert_close(back[within], numbers[within], rtol=1e-5, atol=1e-5)


def test_constants_bring_them_back(fitted):
    marginals, cells, energies = fitted
    again = CellMarginals.of_constants(
        marginals.calorimeter, marginals.threshold, marginals.constants()
    )
    numbers = torch.randn(5, cells.shape[1])
    torch.testing.assert_close(
        again.inverse(numbers, energies[:5]), marginals.inverse(numbers, energies[:5])
    )


def test_few_showers_and_none_at_all_are_answered():
    geometry, threshold, cells, energies = showers_of("ds1-photons", slice(0, 1))
    for some in (cells, torch.zeros_like(cells)):
        marginals = CellMarginals.fitted(geometry, threshold, some)
        numbers = marginals.forward(cells, energies, torch.full_like(cells, 0.5))
        assert torch.isfinite(numbers).all()
        assert torch.isfinite(marginals.inverse(torch.randn_like(cells), energies)).all()
