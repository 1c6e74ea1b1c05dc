"""L2LFlows with masked autoregressive flows: the same conditions, another flow of the images."""

import numpy as np
import pytest
import torch
from surrogates import (
    assert_loss_is_finite,
    assert_refuses_unknown_ways,
    assert_samples_are_showers,
    assert_weights_come_back,
    nearly_empty,
    shaken,
)

from calostudy import models
from calostudy.datasets import load
from calostudy.errors import UsageError
from calostudy.models import l2lflows, l2lflows_maf
from calostudy.models.l2lflows import ENERGIES, IMAGES
from calostudy.networks.flows import to_noise


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
    return shaken(models.build("l2lflows-maf", "ds2"), showers)


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
    assert_samples_are_showers(surrogate, showers.incident_energy[:9], cuts=(1,), first=3)


def test_unknown_sampler_and_precision_are_usage_errors(surrogate):
    assert_refuses_unknown_ways(surrogate, *surrogate.samplers)


def test_weights_come_back_from_disk(surrogate, tmp_path):
    assert_weights_come_back(surrogate, tmp_path, np.array([3e4, 6e4]))


def test_the_loss_is_finite_for_empty_showers_and_layers(surrogate):
    calorimeter = surrogate.dataset.calorimeter
    showers = nearly_empty(calorimeter, (1e3, 5e4, 1e6), cell=(700, 0.02), first_layer=1e4)
    for name in (ENERGIES, IMAGES):
        assert_loss_is_finite(surrogate, name, surrogate.prepare(name, showers))


def test_there_is_no_size_paper():
    with pytest.raises(UsageError, match="embedded"):
        models.build("l2lflows-maf", "ds2", "paper")
