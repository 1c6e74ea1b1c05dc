"""DNN CaloSim has the published size, its fractions are those of showers, its samples showers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from surrogates import (
    assert_loss_is_finite,
    assert_samples_are_showers,
    assert_turned_in_training_only,
    assert_weights_come_back,
    nearly_empty,
    shaken,
)

from calostudy import models
from calostudy.datasets import load
from calostudy.errors import UsageError
from calostudy.models import dnn_calosim
from calostudy.models.dnn_calosim import AUTOENCODER, Draws, Means

NAMES = ("ds1-photons", "ds1-pions")
SIZES = ("paper", "embedded")
ENERGIES = np.array([256.0, 2048.0, 65536.0, 256.0, 8192.0])


@pytest.fixture
def small(monkeypatch):
    """Both sizes with narrow networks: what is tested does not depend on the size."""
    for size, structure in dnn_calosim.STRUCTURE.items():
        tiny = replace(structure, hidden=(9, 7), latent=4)
        monkeypatch.setitem(dnn_calosim.STRUCTURE, size, tiny)


def some(name, size):
    showers = load(name, "train", rows=slice(0, 200))
    return shaken(models.build("dnn-calosim", name, size), showers, by=0.2)


def test_paper_size_has_the_published_numbers_of_parameters():
    """arXiv:2410.21611, pions, to train and to generate."""
    network = models.build("dnn-calosim", "ds1-pions", "paper").networks[AUTOENCODER]
    assert sum(p.numel() for p in network.parameters()) == 6_052_063
    assert sum(p.numel() for p in network.spread.parameters()) == 3_169_663


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_samples_are_showers_and_do_not_depend_on_the_batch(small, name, size):
    assert_samples_are_showers(some(name, size), ENERGIES, cuts=(1, 4), first=30)


@pytest.mark.parametrize("size", SIZES)
def test_fractions_of_layers_and_of_cells_sum_to_one(small, size):
    surrogate, n = some("ds1-pions", size), 60
    torch.manual_seed(0)
    given = torch.randn(n, 4), torch.rand(n, 541), torch.randn(n, 1), torch.full((n, 1), 1e-12)
    found = surrogate.networks[AUTOENCODER].shower(*given)
    layers = found[:, 534:]
    torch.testing.assert_close(layers.sum(dim=1), torch.ones(n))
    for i, place in enumerate(surrogate.dataset.calorimeter.slices):
        cells = found[layers[:, i] > 1e-3, place].sum(dim=1)
        assert len(cells)
        torch.testing.assert_close(cells, torch.ones_like(cells))
    assert ((found >= 0) & (found <= 1)).all() and found.shape == (n, 541)


@pytest.mark.parametrize(("size", "kind"), [("paper", Means), ("embedded", Draws)])
def test_the_decoder_gives_back_the_shower_whose_fractions_it_says(small, monkeypatch, size, kind):
    surrogate, showers = some("ds1-pions", size), load("ds1-pions", "train", rows=slice(0, 16))
    batch = surrogate.prepare(AUTOENCODER, showers)
    fractions = surrogate._fractions(batch)
    monkeypatch.setattr(kind, "shower", lambda network, *given: fractions)
    found = surrogate.sample(showers.incident_energy)
    np.testing.assert_allclose(found.cells, batch["cells"].numpy(), rtol=1e-6)


def test_the_deposited_energy_has_the_density_of_the_loss(small):
    network = some("ds1-photons", "embedded").networks[AUTOENCODER].double()
    latent, condition = torch.randn(1, 4).double(), torch.zeros(1, 1).double()
    n, (middle, width) = 400, (t.item() for t in network._energies(latent, condition)[0])
    random = torch.full((n, 374), 0.5).double()
    random[:, 368] = (torch.arange(n) + 0.5) / n
    given = latent.expand(n, -1), random, condition.expand(n, -1), torch.full((n, 1), 1e-9).double()
    logs = network.shower(*given)[:, 368].log().detach().numpy()
    inside = logs < -1e-9  # the deposited energy is at most the largest
    rank = (np.arange(n) + 0.5) / n
    np.testing.assert_allclose(stats.norm(middle, width).cdf(logs[inside]), rank[inside], atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_loss_is_finite_for_nearly_empty_showers(small, size):
    surrogate = some("ds1-photons", size)
    showers = nearly_empty(surrogate.dataset.calorimeter, [256.0, 512.0, 256.0], (40, 3.0), 500.0)
    assert_loss_is_finite(surrogate, AUTOENCODER, surrogate.prepare(AUTOENCODER, showers))


def test_showers_are_turned_in_training_only(small):
    surrogate = some("ds1-photons", "embedded")
    showers = load("ds1-photons", "train", rows=slice(0, 6))
    assert_turned_in_training_only(surrogate, AUTOENCODER, surrogate.prepare(AUTOENCODER, showers))


@pytest.mark.parametrize("size", SIZES)
def test_weights_come_back_from_disk(small, tmp_path, size):
    surrogate = some("ds1-pions", size)
    surrogate.networks[AUTOENCODER].train()
    surrogate.loss(AUTOENCODER, surrogate.prepare(AUTOENCODER, load("ds1-pions", "train")[:50]))
    surrogate.networks[AUTOENCODER].eval()
    assert_weights_come_back(surrogate, tmp_path, ENERGIES)


def test_unknown_precisions_are_refused(small):
    with pytest.raises(UsageError, match="float32"):
        some("ds1-pions", "embedded").sample(ENERGIES, precision="float16")
