"""BoloGAN and CaloShowerGAN: published sizes, what the critic sees, samples that are showers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from surrogates import (
    assert_loss_is_finite,
    assert_samples_are_showers,
    assert_turned_in_training_only,
    assert_weights_come_back,
    nearly_empty,
    shaken,
)
from torch import nn

from calostudy import models
from calostudy.datasets import load
from calostudy.errors import UsageError
from calostudy.models import bologan, caloshowergan, voxel_gan
from calostudy.models.bologan import BORDER, HIGH, LOW
from calostudy.models.voxel_gan import Structure, generator

CASES = [
    (model, dataset, size)
    for model in ("bologan", "caloshowergan")
    for dataset in ("ds1-photons", "ds1-pions")
    for size in ("embedded", "paper")
]
ENERGIES = np.array([256.0, 2048.0, 65536.0, 4096.0, 8192.0])
# arXiv:2410.21611: to generate and to train
PUBLISHED = {
    ("bologan", "ds1-photons"): (368_558, 1_185_520),
    ("bologan", "ds1-pions"): (848_733, 1_678_334),
    ("caloshowergan", "ds1-pions"): (880_541, 1_715_742),
}


def some(model, dataset, size="embedded", rows=60):
    showers = load(dataset, "train", rows=slice(0, rows))
    surrogate = shaken(models.build(model, dataset, size), showers)
    for name, network in surrogate.networks.items():  # untrained, it may make nothing at all
        last = [layer for layer in network.generator if isinstance(layer, nn.Linear)][-1]
        last.weight.data.mul_(0.02)
        last.bias.data.fill_(0.5)
        surrogate.round_weights(name)
    return surrogate, showers


def numbers_in(network: nn.Module) -> int:
    """Parameters and moving averages."""
    state = network.state_dict().items()
    return sum(t.numel() for name, t in state if not name.endswith("num_batches_tracked"))


@pytest.mark.parametrize(("model", "dataset"), PUBLISHED)
def test_paper_size_has_the_published_numbers_of_parameters(model, dataset):
    networks = models.build(model, dataset, "paper").networks.values()
    generators = sum(numbers_in(net.generator) for net in networks)
    assert (generators, sum(numbers_in(net) for net in networks)) == PUBLISHED[model, dataset]


def test_photons_have_the_published_number_whichever_generator_is_the_smaller():
    low, high = (bologan.STRUCTURE["paper"][name] for name in (LOW, HIGH))
    low, high = replace(low, hidden=high.hidden), replace(high, hidden=low.hidden)
    total = sum(numbers_in(generator(structure, 368)) for structure in (low, high))
    assert total == PUBLISHED["bologan", "ds1-photons"][0]


@pytest.mark.parametrize(("model", "dataset", "size"), CASES)
def test_samples_are_showers_and_do_not_depend_on_the_batch(model, dataset, size):
    surrogate, _ = some(model, dataset, size)
    assert_samples_are_showers(surrogate, ENERGIES, cuts=(1, 4), first=30)


def test_each_photon_network_learns_the_showers_of_its_range():
    surrogate, showers = some("bologan", "ds1-photons", rows=400)
    low, high = (surrogate.prepare(name, showers)["incident"].numpy() for name in (LOW, HIGH))
    energy = showers.incident_energy
    np.testing.assert_array_equal(low, energy[energy <= BORDER])
    np.testing.assert_array_equal(high, energy[energy >= BORDER])
    assert len(low) and len(high)


def test_a_photon_s_shower_is_made_by_the_network_of_its_range():
    surrogate, _ = some("bologan", "ds1-photons")
    before = surrogate.sample(ENERGIES)
    with torch.no_grad():
        surrogate.networks[HIGH].generator[0].bias.add_(1.0)
    changed = (surrogate.sample(ENERGIES).cells != before.cells).any(axis=1)
    np.testing.assert_array_equal(changed, ENERGIES >= BORDER)


@pytest.mark.parametrize("dataset", ["ds1-photons", "ds1-pions"])
@pytest.mark.parametrize("model", ["bologan", "caloshowergan"])
def test_cells_come_back_from_the_published_numbers(model, dataset):
    surrogate, showers = some(model, dataset, "paper")
    cells, energy = (torch.as_tensor(x).double() for x in (showers.cells, showers.incident_energy))
    numbers = surrogate.numbers(cells, energy)
    assert numbers.shape == (len(showers), surrogate.outputs)
    torch.testing.assert_close(surrogate.cells(numbers, energy), cells)


def test_the_critic_sees_unit_vectors_and_a_standardised_response():
    surrogate, _ = some("caloshowergan", "ds1-photons")
    showers = load("ds1-photons", "train")
    surrogate.fit_constants(showers)
    seen = surrogate._real(surrogate.prepare(caloshowergan.GAN, showers)).double()
    cells, layers, response = seen.split([368, 5, 1], dim=1)
    response = response.sinh()
    for roots in (cells, layers):
        torch.testing.assert_close(roots.square().sum(dim=1), torch.ones(5000).double())
    assert abs(response.mean()) < 0.1
    # Within a factor of 1.3 of one at every energy, over which the width changes by ten.
    energy = torch.as_tensor(showers.incident_energy)
    for one in energy.unique():
        assert 0.75 < response[energy == one].std() < 1.3


def test_what_is_below_the_threshold_is_hidden_from_the_critic():
    surrogate, _ = some("bologan", "ds1-photons")
    energy, cells = torch.full((1,), 4096.0).double(), torch.zeros(1, 368).double()
    cells[0, 5], threshold = 1000.0, surrogate.dataset.threshold
    expected = surrogate._seen(cells, energy)
    cells[0, 6] = 0.99 * threshold
    assert torch.equal(surrogate._seen(cells, energy), expected)
    cells[0, 6] = 1.01 * threshold
    assert surrogate._seen(cells, energy)[0, 6] > 0


@pytest.mark.parametrize(("model", "dataset", "size"), CASES)
def test_loss_is_finite_for_nearly_empty_showers(model, dataset, size):
    surrogate, _ = some(model, dataset, size)
    network = next(iter(surrogate.networks))
    cell = surrogate.dataset.calorimeter.cells - 1
    showers = nearly_empty(surrogate.dataset.calorimeter, [256.0, 512.0, 256.0], (cell, 3.0), 50.0)
    assert_loss_is_finite(surrogate, network, surrogate.prepare(network, showers))


def test_a_step_moves_the_critic_and_the_generator_apart(monkeypatch):
    """Down the gradient, the critic's scores of real and generated showers part, and the
    generator's showers score higher."""
    surrogate, showers = some("caloshowergan", "ds1-photons")
    monkeypatch.setitem(voxel_gan.PENALTY, "embedded", 0.0)
    network = caloshowergan.GAN
    batch, nets = surrogate.prepare(network, showers), surrogate.networks[network]

    def scores():
        torch.manual_seed(4)
        condition = surrogate._condition(network, batch["incident"]).float()
        both = surrogate._real(batch), surrogate._generated(network, batch["incident"])
        real, generated = (
            nets.critic(torch.cat([seen, condition], dim=1)).mean().item() for seen in both
        )
        return real - generated, generated

    torch.manual_seed(4)
    surrogate.loss(network, batch).mean().backward()
    for part, which in ((nets.critic, 0), (nets.generator, 1)):
        before = scores()[which]
        norm = sum(p.grad.square().sum() for p in part.parameters()).sqrt()
        for sign in (-1.0, 1.0):
            with torch.no_grad():
                for parameter in part.parameters():
                    parameter.add_(parameter.grad * (sign * 1e-3 / norm))
            if sign < 0:
                assert scores()[which] > before


def test_the_generator_learns_in_one_of_several_steps():
    surrogate, showers = some("caloshowergan", "ds1-photons", "paper")
    network = caloshowergan.GAN
    batch, nets = surrogate.prepare(network, showers), surrogate.networks[network].train()
    torch.manual_seed(0)
    learnt = []
    for _ in range(100):
        nets.zero_grad()
        surrogate.loss(network, batch).mean().backward()
        assert all(p.grad is not None for p in nets.critic.parameters())
        learnt.append({p.grad is not None for p in nets.generator.parameters()})
    nets.eval()
    assert all(len(each) == 1 for each in learnt)
    assert 100 / voxel_gan.RATIO["paper"] == pytest.approx(learnt.count({True}), abs=10)


def test_showers_are_turned_in_training_only():
    surrogate, showers = some("bologan", "ds1-pions", rows=6)
    batch = surrogate.prepare(bologan.ALL, showers)
    assert_turned_in_training_only(surrogate, bologan.ALL, batch)


@pytest.mark.parametrize("size", ["embedded", "paper"])
def test_weights_come_back_from_disk(tmp_path, size):
    surrogate, showers = some("bologan", "ds1-photons", size)
    for name, network in surrogate.networks.items():  # moving averages are away from the start
        network.train()
        surrogate.loss(name, surrogate.prepare(name, showers))
        network.eval()
    assert_weights_come_back(surrogate, tmp_path, ENERGIES)


def test_a_generator_normalises_its_first_layers_and_ends_as_it_is_told():
    kinds = [type(m) for m in generator(Structure(3, (4, 5), (), nn.SiLU, normed=1), 6)]
    first = [nn.Linear, nn.BatchNorm1d, nn.SiLU]
    assert kinds == [*first, nn.Linear, nn.SiLU, nn.Linear, nn.SiLU]
    assert type(generator(Structure(3, (4,), (), positive=False), 6)[-1]) is nn.Linear


def test_unknown_precisions_are_refused():
    with pytest.raises(UsageError, match="float32"):
        some("bologan", "ds1-pions")[0].sample(ENERGIES, precision="float16")
