"""Layers of deep showers as normal numbers: normal one by one, back without loss, ending right."""

import pytest
import torch

from calostudy.datasets import dataset, load
from calostudy.layer_shares import LayerShares
from calostudy.preprocessing import layer_sums

RESPONSE = 2.0


@pytest.fixture(scope="module")
def showers():
    """Threshold, energies of layers, incident energies and uniform numbers of DS2-like showers."""
    entry = dataset("ds2")
    found = load("ds2", "train").above_threshold(entry.threshold)
    energies = layer_sums(torch.as_tensor(found.cells).double(), entry.calorimeter.slices)
    incident = torch.as_tensor(found.incident_energy).double()
    uniform = torch.rand(len(energies), 47, generator=torch.Generator().manual_seed(1))
    return entry.threshold, energies, incident, uniform


@pytest.fixture(scope="module")
def fitted(showers):
    threshold, energies, incident, uniform = showers
    return LayerShares.fitted(threshold, RESPONSE, energies, incident, uniform)


def test_the_showers_of_the_fit_come_back(fitted, showers):
    _, energies, incident, uniform = showers
    numbers = fitted.forward(energies, incident, uniform)
    assert numbers.shape == (len(energies), fitted.numbers) and torch.isfinite(numbers).all()
    found = fitted.inverse(numbers, incident)
    assert torch.equal(found > 0, energies > 0)
    torch.testing.assert_close(found, energies, rtol=1e-3, atol=0)


def test_numbers_are_standard_normal_one_by_one(fitted, showers):
    _, energies, incident, uniform = showers
    numbers = fitted.forward(energies, incident, uniform)
    assert numbers.mean(0).abs().max() < 0.1
    assert (numbers.std(0) - 1.0).abs().max() < 0.1


def test_normal_numbers_make_showers_that_end_where_geant4s_do(fitted, showers):
    threshold, energies, incident, _ = showers
    numbers = torch.randn(len(energies), 47, generator=torch.Generator().manual_seed(2)).double()
    found = fitted.inverse(numbers, incident)
    assert ((found == 0) | (found >= 0.999 * threshold)).all()

    def ends(values):
        layers = torch.arange(values.shape[1])
        return torch.where(values > 0, layers, 0).amax(1).double()

    assert abs(ends(found).mean() - ends(energies).mean()) < 0.5
    hits = [(each > 0).sum(1).double().mean().item() for each in (found, energies)]
    assert abs(hits[0] - hits[1]) < 1.0
    shares = found.sum(1) / incident, energies.sum(1) / incident
    assert abs(shares[0].mean() - shares[1].mean()) < 0.01
    assert abs(shares[0].std() / shares[1].std() - 1.0) < 0.15


def test_constants_bring_them_back(fitted, showers):
    threshold, _, incident, _ = showers
    again = LayerShares.of_constants(45, threshold, RESPONSE, fitted.constants())
    numbers = torch.randn(len(incident), 47).double()
    torch.testing.assert_close(
        again.inverse(numbers, incident), fitted.inverse(numbers, incident), rtol=1e-5, atol=1e-9
    )


@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 3)])
def test_few_showers_and_empty_ones_are_answered(showers, rows):
    threshold, energies, incident, uniform = (part if part is showers[0] else part[rows]
                                              for part in showers)  # fmt: skip
    for some in (energies, torch.zeros_like(energies)):
        shares = LayerShares.fitted(threshold, RESPONSE, some, incident, uniform)
        assert torch.isfinite(shares.forward(energies, incident, uniform)).all()
        assert torch.isfinite(shares.inverse(torch.randn(len(some), 47).double(), incident)).all()


def test_what_a_network_is_told_has_no_chance_in_it(fitted, showers):
    _, energies, incident, _ = showers
    told = fitted.told(energies[:50], incident[:50])
    assert told.shape == (50, 45)
    assert torch.equal(told, fitted.told(energies[:50], incident[:50]))
