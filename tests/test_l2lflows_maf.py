"""L2LFlows with masked autoregressive flows: the same conditions, another flow of the images."""

import numpy as np
import pytest
import torch

from calostudy import models
from calostudy.datasets import load
from calostudy.errors import UsageError
from calostudy.models import l2lflows, l2lflows_maf
from calostudy.models.l2lflows import ENERGIES, IMAGES
from calostudy.networks.flows import to_noise
from calostudy.showers import Showers


@pytest.fixture
def showers():
    return load("ds2", "train", rows=slice(0, 20))


@pytest.fixture
def surrogate(monkeypatch, showers):
    """Few and narrow blocks that have seen showers, with splines that bend."""
    tiny = {"width": 3, "embedding": 2, "blocks": 1, "hidden": 8}
    monkeypatch.setattr(l2lflows_maf, "STRUCTURE", {**l2lflows_maf.STRUCTURE, **tiny})
    options = {**l2lflows.ENERGY_FLOW["embedded"], "blocks": 1, "hidden": 4}
    monkeypatch.setitem(l2lflows.ENERGY_FLOW, "embedded", options)
    surrogate = models.build("l2lflows-maf", "ds2")
    surrogate.fit_constants(showers)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for network in surrogate.networks.values():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return surrogate


def test_images_come_back_from_their_noise_by_both_samplers(surrogate, showers):
    network = surrogate.networks[IMAGES].double()
    images, context = surrogate._images_to_flow(IMAGES, surrogate.prepare(IMAGES, showers))
    images, context = images[:3].double(), context[:3].double()
    with torch.no_grad():
        values = (images.flatten(1) - network.mean) / network.deviation
        noise, logs = to_noise(network.flow, values, network.embedded(context))
        expected = logs - 0.5 * (noise**2 + np.log(2 * np.pi)).sum(dim=1)
        expected = expected - network.deviation.log().sum()
        torch.testing.assert_close(network.log_prob(images, context), expected)
        for _, make in surrogate.samplers.values():
            found = make(network, "float64")(noise, context)
            assert (found - images).abs().max() <= 1e-8


def test_the_condition_sees_the_layers_before_and_every_number_once(surrogate):
    network = surrogate.networks[IMAGES]
    layers, *shape = surrogate._shape
    before = torch.rand(2, l2lflows.BEFORE, *shape)
    energies, incident = torch.tensor([3.0, 50.0]), torch.tensor([1e3, 1e4])
    context = surrogate._context(before, energies, incident, torch.tensor([0, 7]))
    condition = network.embedded(context)
    assert network.embedding[0].in_features == 6 * 144 + 3 + layers
    for other in (
        surrogate._context(before, energies * 2, incident, torch.tensor([0, 7])),
        surrogate._context(before, energies, incident * 2, torch.tensor([0, 7])),
        surrogate._context(before, energies, incident, torch.tensor([1, 8])),
        surrogate._context(before.flip(1), energies, incident, torch.tensor([0, 7])),
    ):
        assert (network.embedded(other) - condition).abs().amax(dim=1).min() > 1e-6


def test_samples_are_showers_and_do_not_depend_on_the_batch(surrogate, showers):
    energies = showers.incident_energy[:9]
    whole = surrogate.sample(energies, seed=5, first=3)
    parts = [
        surrogate.sample(energies[a:b], seed=5, first=3 + a).cells for a, b in ((0, 1), (1, 9))
    ]
    np.testing.assert_array_equal(whole.cells, np.concatenate(parts))
    hit = whole.cells[whole.cells > 0]
    assert np.isfinite(whole.cells).all() and hit.min() >= surrogate.dataset.threshold


def test_the_loss_is_finite_for_empty_showers_and_layers(surrogate):
    cells = np.zeros((3, 6480), np.float32)
    cells[1, 700] = 0.02
    cells[2, :144] = 1e4
    showers = Showers(surrogate.dataset.calorimeter, np.array([1e3, 5e4, 1e6]), cells)
    for name in (ENERGIES, IMAGES):
        loss = surrogate.loss(name, surrogate.prepare(name, showers))
        assert loss.shape == (3,) and torch.isfinite(loss).all()
        loss.sum().backward()
        parameters = surrogate.networks[name].parameters()
        assert all(torch.isfinite(p.grad).all() for p in parameters)


def test_there_is_no_size_paper():
    with pytest.raises(UsageError, match="embedded"):
        models.build("l2lflows-maf", "ds2", "paper")
