"""CaloMan has the published autoencoder, its decoders are distributions, its samples showers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from surrogates import (
    assert_follows_its_weights,
    assert_loss_is_finite,
    assert_refuses_unknown_ways,
    assert_samplers_agree,
    assert_samples_are_showers,
    assert_turned_in_training_only,
    assert_weights_come_back,
    nearly_empty,
    shaken,
)

from calostudy import models
from calostudy.datasets import load
from calostudy.models import caloman
from calostudy.models.caloman import AUTOENCODER, ENERGIES, LATENT

NAMES = ("ds1-photons", "ds1-pions")
SIZES = ("paper", "embedded")
NETWORKS = (AUTOENCODER, ENERGIES, LATENT)
ENERGIES_MEV = np.array([256.0, 2048.0, 65536.0, 256.0, 8192.0])
PUBLISHED = {  # arXiv:2410.21611, to train and to generate
    "ds1-photons": (19_276_658, 17_061_148),
    "ds1-pions": (18_452_248, 16_032_327),
}


@pytest.fixture
def small(monkeypatch):
    """Both sizes with narrow networks: what is tested does not depend on the size."""
    for structures in caloman.STRUCTURE.values():
        for name, structure in structures.items():
            flows = (replace(f, blocks=2, hidden=4) for f in (structure.energies, structure.flow))
            energies, flow = flows
            tiny = replace(structure, hidden=(7, 6), latent=4, energies=energies, flow=flow)
            monkeypatch.setitem(structures, name, tiny)


def some(name, size):
    showers = load(name, "train", rows=slice(0, 200))
    surrogate = shaken(models.build("caloman", name, size), showers)
    surrogate.prepare(LATENT, showers)
    return surrogate


@pytest.mark.parametrize("name", NAMES)
def test_paper_size_has_the_published_encoder_and_about_as_many_parameters(name):
    training, generation = PUBLISHED[name]
    networks = models.build("caloman", name, "paper").networks
    encoder = sum(p.numel() for p in networks[AUTOENCODER].encoder.parameters())
    total = sum(p.numel() for network in networks.values() for p in network.parameters())
    assert encoder == training - generation
    assert total - encoder == pytest.approx(generation, rel=0.01)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_samples_are_showers_and_do_not_depend_on_the_batch(small, name, size):
    assert_samples_are_showers(some(name, size), ENERGIES_MEV, cuts=(1, 4), first=30)


def test_layers_have_the_energies_that_their_flow_gives_them(small, monkeypatch):
    surrogate, showers = some("ds1-pions", "embedded"), load("ds1-pions", "train")[:20]
    batch = surrogate.prepare(AUTOENCODER, showers)
    u = surrogate._u(batch, torch.Generator().manual_seed(1))
    restored = surrogate._restored
    monkeypatch.setattr(
        surrogate, "_restored", lambda name, v: u if name == ENERGIES else restored(name, v)
    )
    monkeypatch.setattr(
        caloman.Cells,
        "drawn",
        lambda decoder, said, random, lowest, slices: torch.ones_like(random),
    )
    found = surrogate.sample(showers.incident_energy).layer_energies()
    energies = surrogate._energies(batch).numpy()
    filled = energies > 200.0  # far more than the threshold in each cell
    np.testing.assert_allclose(found[filled], energies[filled], rtol=1e-4)
    assert filled.any() and (found[energies == 0] == 0).all()


def test_the_published_decoder_says_the_density_of_one_width():
    decoder = caloman.Normal()
    said, x = torch.randn(5, 7, 1).double(), torch.rand(5, 7).double()
    width = torch.linspace(-3.0, 0.5, 5).double()
    law = torch.distributions.Normal(said[..., 0], width.exp()[:, None])
    expected = -law.log_prob(x).sum(dim=1) - 3.5 * np.log(2 * np.pi)
    torch.testing.assert_close(decoder.loss(said, width, x, x, []), expected)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", SIZES)
def test_loss_is_finite_for_nearly_empty_showers(small, size, network):
    surrogate = some("ds1-photons", size)
    showers = nearly_empty(surrogate.dataset.calorimeter, [256.0, 512.0, 256.0], (40, 3.0), 500.0)
    assert_loss_is_finite(surrogate, network, surrogate.prepare(AUTOENCODER, showers))


def test_the_flow_does_not_move_the_autoencoder(small):
    surrogate = some("ds1-photons", "embedded")
    batch = surrogate.prepare(AUTOENCODER, load("ds1-photons", "train")[:8])
    surrogate.loss(LATENT, batch).sum().backward()
    assert all(p.grad is None for p in surrogate.networks[AUTOENCODER].parameters())


def test_showers_are_turned_in_training_only(small):
    surrogate = some("ds1-photons", "embedded")
    batch = surrogate.prepare(AUTOENCODER, load("ds1-photons", "train")[:6])
    assert_turned_in_training_only(surrogate, AUTOENCODER, batch)


def test_the_fast_sampler_is_the_plain_one(small):
    surrogate = some("ds1-photons", "embedded")
    found = assert_samplers_agree(surrogate, "fused", "eager", ENERGIES_MEV)
    with torch.no_grad():
        surrogate.networks[LATENT].blocks[0].network[-1].bias.normal_()
    assert_follows_its_weights(surrogate, found)
    assert_refuses_unknown_ways(surrogate, "fused", "eager")


def test_weights_come_back_from_disk(small, tmp_path):
    assert_weights_come_back(some("ds1-pions", "embedded"), tmp_path, ENERGIES_MEV)


def test_what_the_latent_flow_learns_has_mean_0_and_deviation_1(small):
    surrogate, showers = some("ds1-photons", "embedded"), load("ds1-photons", "train")[:200]
    batch, seen = surrogate.prepare(LATENT, showers), []
    surrogate.networks[LATENT].log_prob = lambda values, given: seen.append(values) or values.sum(1)
    for _ in range(20):
        surrogate.loss(LATENT, batch)
    values = torch.cat(seen)
    torch.testing.assert_close(values.mean(dim=0), torch.zeros(4), atol=0.1, rtol=0)
    torch.testing.assert_close(values.std(dim=0), torch.ones(4), atol=0.1, rtol=0)
