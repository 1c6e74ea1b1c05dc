"""Cells as normal numbers: normal one by one, back without loss, and hits as often as they are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calostudy.calorimeter import calorimeter
from calostudy.datasets import dataset, load
from calostudy.marginals import CellMarginals, LayerMarginals, orbits
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
    torch.testing.assert_close(rates[0], rates[1], rtol=0.25, atol=0.01)
    sums = [layer_sums(each, marginals.calorimeter.slices).sum(0) for each in (made, cells)]
    large = sums[1] > 0.02 * sums[1].sum()
    torch.testing.assert_close(sums[0][large], sums[1][large], rtol=0.1, atol=0)


def test_the_chance_of_a_hit_grows_with_the_energy_of_the_layer():
    geometry, threshold, cells, _ = showers_of("ds2")
    marginals = CellMarginals.fitted(geometry, threshold, cells)
    layer = torch.tensor([50.0, 500.0, 5000.0])[:, None] * torch.ones(1, 45)
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
@given(st.integers(0, 10_000), st.floats(1.0, 1e4))
def test_any_numbers_become_hits_that_sum_to_the_layers_energy(seed, energy):
    generator = torch.Generator().manual_seed(seed)
    marginals = CellMarginals.untrained(calorimeter("ds1-photons"), 1.0)
    numbers = 3.0 * torch.randn(3, 368, generator=generator, dtype=torch.float64)
    energies = torch.full((3, 5), energy, dtype=torch.float64)
    cells = marginals.inverse(numbers, energies)
    assert ((cells == 0) | (cells > 0.999)).all()
    torch.testing.assert_close(layer_sums(cells, marginals.calorimeter.slices), energies)


def test_a_layer_without_a_hit_gives_its_energy_to_one_cell():
    marginals = CellMarginals.untrained(calorimeter("ds1-photons"), 1.0)
    cells = marginals.inverse(torch.full((1, 368), -9.0), torch.full((1, 5), 40.0).double())
    assert [int((cells[0, s] > 0).sum()) for s in marginals.calorimeter.slices] == [1] * 5


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


@pytest.mark.parametrize(("name", "response"), [("ds1-photons", 3.1), ("ds2", 2.0)])
def test_layers_come_back_and_are_standard_normal_one_by_one(name, response):
    entry, showers = dataset(name), load(name, "train", rows=slice(0, None, 2))
    incident = torch.as_tensor(showers.incident_energy).double()
    energies = torch.as_tensor(entry.calorimeter.layer_energies(showers.cells))
    torch.manual_seed(6)
    uniform = torch.rand(energies.shape)
    marginals = LayerMarginals.fitted(response, energies, incident, uniform)
    numbers = marginals.forward(energies, incident, uniform)
    assert numbers.mean(0).abs().max() < 0.08
    assert (numbers.std(0) - 1.0).abs().max() < 0.08
    found = marginals.inverse(numbers, incident)
    # Lost is what is a hundred-thousandth of the shower or less.
    left = energies.sum(1, keepdim=True)
    assert ((found - energies).abs() <= 1e-3 * energies + 1e-5 * left).double().mean() > 0.999
    torch.testing.assert_close(found.sum(1), energies.sum(1), rtol=1e-4, atol=0)
    again = LayerMarginals.of_constants(response, marginals.constants())
    assert torch.equal(again.inverse(numbers, incident), found)
