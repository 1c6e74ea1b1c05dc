"""CaloPointFlow has the published size, its flow of sets is a density, its samples are showers."""

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
    assert_weights_come_back,
    nearly_empty,
    shaken,
)

from calostudy import models
from calostudy.datasets import load
from calostudy.models import calopointflow
from calostudy.models.calopointflow import NUMBERS, POINTS
from calostudy.models.surrogate import TrainingRecipe
from calostudy.networks.sets import DeepSet, SetFlow, SetFlowStructure, mean_over_sets
from calostudy.networks.spline import SplineSettings
from calostudy.training import train

SIZES = ("paper", "embedded")
PUBLISHED = 14_215_334  # arXiv:2410.21611, both datasets
SMALL_SET = SetFlowStructure(4, (6,), (5, 4), (3,), SplineSettings(8, 5.0, 1e-3, 1e-3, 1e-3))


@pytest.fixture
def small(monkeypatch):
    """Both sizes with narrow networks: what is tested does not depend on the size."""
    for size, structure in calopointflow.STRUCTURE.items():
        tiny = replace(
            structure,
            latent=4,
            numbers=replace(structure.numbers, blocks=2, hidden=5),
            encoder=((6, 5), (4,)),
            latent_flow=replace(structure.latent_flow, hidden=5),
            point_flow=replace(SMALL_SET, spline=structure.point_flow.spline),
        )
        monkeypatch.setitem(calopointflow.STRUCTURE, size, tiny)
        recipe = TrainingRecipe(3, 8, 1e-2, "multistep", {"milestones": (), "factor": 1.0}, 0.2)
        monkeypatch.setitem(calopointflow.RECIPES, size, dict.fromkeys((NUMBERS, POINTS), recipe))


def prepared(name="ds2", size="embedded", rows=30):
    showers = load(name, "train", rows=slice(0, rows))
    return shaken(models.build("calopointflow", name, size), showers), showers


@pytest.mark.parametrize("name", ["ds2", "ds3"])
def test_paper_size_has_the_published_parameters_but_for_the_flow_of_two_numbers(name):
    counts = models.build("calopointflow", name, "paper").parameters_by_network()
    # Published: an autoregressive network of 3 inputs and 2 x 35 outputs in each of 12 blocks.
    layers = ((3, 128), (128, 128), (128, 128), (128, 70))
    autoregressive = 12 * sum((inputs + 1) * outputs for inputs, outputs in layers)
    assert counts[POINTS] + autoregressive == PUBLISHED
    assert counts[NUMBERS] == 455_076


def test_a_mean_is_of_the_own_set_and_zero_for_none():
    values = torch.arange(10.0).reshape(5, 2)
    shower, counts = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([2, 0, 3])
    expected = torch.stack([values[:2].mean(0), torch.zeros(2), values[2:].mean(0)])
    torch.testing.assert_close(mean_over_sets(values, shower, counts), expected)


def test_the_order_of_points_does_not_matter_to_what_a_set_says():
    net = DeepSet((3, 5), (5, 2))
    points, shower = torch.randn(7, 3), torch.zeros(7, dtype=torch.long)
    order, counts = torch.randperm(7), torch.tensor([7])
    torch.testing.assert_close(net(points, shower, counts), net(points[order], shower, counts))


def test_the_flow_of_sets_is_inverted_and_its_density_is_that_of_the_change_of_variables():
    torch.manual_seed(0)
    flow = SetFlow(3, 2, SMALL_SET).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    points, context = torch.randn(6, 3).double(), torch.randn(2, 2).double()
    given = context, torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([4, 2])

    def noise(values):
        values = values.reshape(6, 3)
        for block in flow.blocks:
            values, _ = block(values, *given)
        return values

    torch.testing.assert_close(flow.inverse(noise(points), *given), points, rtol=0, atol=1e-9)
    # The whole set is one change of variables: its determinant is the product over the points.
    steps, eps = torch.eye(18).double(), 1e-6
    jacobian = torch.stack(
        [
            (noise(points.flatten() + eps * e) - noise(points.flatten() - eps * e)).flatten()
            for e in steps
        ]
    ) / (2 * eps)
    base = -0.5 * (noise(points).square().sum() + 18 * np.log(2 * np.pi))
    found = flow.log_prob(points, *given).sum()
    torch.testing.assert_close(found, base + jacobian.det().abs().log(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["ds2", "ds3"])
def test_samples_are_showers_and_do_not_depend_on_the_batch(small, name, size):
    surrogate, showers = prepared(name, size, rows=10)
    assert_samples_are_showers(surrogate, showers.incident_energy[:6], cuts=(1, 4), first=3)


def test_a_shower_has_the_number_of_hits_and_the_energy_that_were_drawn(small):
    surrogate, showers = prepared()
    generated = surrogate.sample(showers.incident_energy, seed=2)
    hits = (generated.cells > 0).sum(axis=1)
    truth = (showers.cells > 0).sum(axis=1)
    assert 0.6 < hits.mean() / truth.mean() < 1.6
    ratio = generated.total_energy().sum() / showers.total_energy().sum()
    assert 0.6 < ratio < 1.6


def test_both_samplers_give_the_same_showers_and_follow_the_weights(small):
    surrogate, _ = prepared()
    before = assert_samplers_agree(surrogate, "fused", "eager")
    with torch.no_grad():
        bias = surrogate.networks[POINTS].points.blocks[0].network[-1].bias
        bias += 0.5 * torch.arange(len(bias)).sin()
    assert_follows_its_weights(surrogate, before)


def test_unknown_sampler_and_precision_are_usage_errors(small):
    assert_refuses_unknown_ways(models.build("calopointflow", "ds2"), "fused", "eager")


@pytest.mark.parametrize("network", [NUMBERS, POINTS])
def test_the_losses_are_finite_for_empty_showers_and_layers(small, network):
    surrogate, _ = prepared()
    calorimeter = surrogate.dataset.calorimeter
    showers = nearly_empty(calorimeter, (1e3, 2e3, 1e6), cell=(100, 2.0), first_layer=1e2)
    assert_loss_is_finite(surrogate, network, surrogate.prepare(network, showers))


def test_weights_come_back_from_disk(small, tmp_path):
    surrogate, _ = prepared()
    assert_weights_come_back(surrogate, tmp_path, np.array([3e3, 6e4]))


def test_training_lowers_both_losses(small, tmp_path):
    surrogate, showers = models.build("calopointflow", "ds2"), load("ds2", rows=slice(0, 60))
    train(surrogate, showers, tmp_path, progress=False)
    for network, curve in models.read_card(tmp_path)["loss_curve"].items():
        assert curve[-1]["train_loss"] < curve[0]["train_loss"], network
