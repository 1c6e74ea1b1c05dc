"""CaloGAN: the published size, places with weights of their own, samples that are showers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
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
from calostudy.models.calogan import GAN
from calostudy.networks.lagan import BatchComparison, HandOver, LocallyConnected, resized

NAMES = ("calogan-eplus", "calogan-gamma", "calogan-piplus")
ENERGIES = np.array([1e3, 5e3, 2.5e4, 9.9e4, 4e4])


def some(size="embedded", dataset="calogan-eplus", rows=24):
    showers = load(dataset, "train", rows=slice(0, rows))
    return shaken(models.build("calogan", dataset, size), showers, by=0.02), showers


def test_paper_size_has_the_published_number_of_parameters():
    """arXiv:1712.10321, the original's generator of one particle, counted on its network."""
    network = models.build("calogan", "calogan-eplus", "paper").networks[GAN].generator
    trained = sum(p.numel() for p in network.parameters())
    averages = sum(t.numel() for name, t in network.named_buffers() if not name.endswith("tracked"))
    assert (trained, trained + averages) == (29_726_280, 29_726_376)


def test_alike_in_every_place_it_is_a_convolution():
    torch.manual_seed(0)
    images, kernel = torch.randn(3, 4, 7, 9), torch.randn(5, 4, 3, 2)
    local = LocallyConnected(4, 5, (3, 2), (7, 9), stride=(1, 2))
    with torch.no_grad():
        # Of what a place sees, the places of the kernel first and then their channels.
        local.weight.copy_(kernel.permute(2, 3, 1, 0).flatten(0, 2).expand_as(local.weight))
        local.bias.copy_(torch.arange(5.0).expand_as(local.bias))
    expected = F.conv2d(images, kernel, torch.arange(5.0), stride=(1, 2))
    torch.testing.assert_close(local(images), expected)
    assert local.size == expected.shape[2:]


def test_a_place_s_weights_serve_no_other_place():
    local = LocallyConnected(1, 1, (2, 2), (4, 4), bias=False)
    images = torch.randn(2, 1, 4, 4)
    before = local(images)
    with torch.no_grad():
        local.weight[4].add_(1.0)
    changed = (local(images) != before)[:, 0].flatten(1)
    assert changed.sum(dim=0).tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0]


def test_at_first_nothing_is_handed_over_and_later_it_is():
    mix = HandOver((4, 3))
    own, before = torch.rand(2, 1, 4, 3), torch.rand(2, 1, 4, 3)
    torch.testing.assert_close(mix(own, before), own, atol=1e-2, rtol=0)
    nn.init.constant_(mix.weigh.bias[:, 1], 10.0)
    torch.testing.assert_close(mix(own, before), before, atol=1e-2, rtol=0)


def test_resizing_keeps_the_mean_of_an_image():
    image = torch.rand(2, 1, 3, 96)
    small = resized(image, (12, 12))
    assert small.shape == (2, 1, 12, 12)
    torch.testing.assert_close(small.mean(dim=(2, 3)), image.mean(dim=(2, 3)))


def test_a_batch_of_one_shower_again_and_again_is_noticed():
    torch.manual_seed(0)
    compare = BatchComparison(6, 3, 4)
    same, other = torch.randn(1, 6).expand(8, 6), torch.randn(8, 6)
    torch.testing.assert_close(compare(same), torch.ones(8, 3))
    assert (compare(other) < 0.9).all()


@pytest.mark.parametrize("size", ["embedded", "paper"])
def test_samples_are_showers_and_do_not_depend_on_the_batch(size):
    assert_samples_are_showers(some(size)[0], ENERGIES, cuts=(1, 4), first=30)


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_finite_for_nearly_empty_showers(name):
    surrogate, _ = some(dataset=name)
    showers = nearly_empty(surrogate.dataset.calorimeter, [1e3, 1e4, 1e3], (40, 3.0), 5.0)
    assert_loss_is_finite(surrogate, GAN, surrogate.prepare(GAN, showers))


@pytest.mark.parametrize("size", ["embedded", "paper"])
def test_the_generator_s_numbers_of_a_shower_give_it_back(size):
    surrogate, showers = some(size)
    batch = surrogate.prepare(GAN, showers)
    cells, incident = batch["cells"].double(), batch["incident"].double()
    numbers = surrogate._numbers(cells, incident)
    torch.testing.assert_close(surrogate._cells(numbers, incident), cells)


def test_neither_loss_reaches_the_other_network():
    """The generator's is what it would be without the discriminator's, and the other way round."""
    surrogate, showers = some()
    batch, nets = surrogate.prepare(GAN, showers), surrogate.networks[GAN].eval()
    torch.manual_seed(1)
    surrogate.loss(GAN, batch).mean().backward()
    incident = batch["incident"]
    torch.manual_seed(1)
    generated = surrogate._generated(incident)
    own = F.softplus(-nets.critic(*surrogate._seen(generated, incident))).mean()
    expected = torch.autograd.grad(own, list(nets.generator.parameters()))
    for parameter, gradient in zip(nets.generator.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    real = surrogate._numbers(batch["cells"], incident)
    told = nets.critic(*surrogate._seen(generated.detach(), incident))
    other = F.softplus(told) + F.softplus(-nets.critic(*surrogate._seen(real, incident)))
    expected = torch.autograd.grad(other.mean(), list(nets.critic.parameters()))
    for parameter, gradient in zip(nets.critic.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_the_discriminator_learns_in_every_other_step():
    surrogate, showers = some(rows=8)
    batch, nets = surrogate.prepare(GAN, showers), surrogate.networks[GAN].train()
    torch.manual_seed(0)
    learnt = []
    for _ in range(60):
        nets.zero_grad()
        surrogate.loss(GAN, batch).mean().backward()
        assert all(p.grad is not None for p in nets.generator.parameters())
        learnt.append({p.grad is not None for p in nets.critic.parameters()})
    nets.eval()
    assert all(len(each) == 1 for each in learnt)
    assert learnt.count({True}) == pytest.approx(30, abs=12)


def test_showers_are_mirrored_in_training_only():
    surrogate, showers = some(rows=6)
    assert_turned_in_training_only(surrogate, GAN, surrogate.prepare(GAN, showers))


def test_weights_come_back_from_disk(tmp_path):
    surrogate, showers = some()
    surrogate.networks[GAN].train()
    surrogate.loss(GAN, surrogate.prepare(GAN, showers))
    surrogate.networks[GAN].eval()
    assert_weights_come_back(surrogate, tmp_path, ENERGIES)


def test_unknown_precisions_are_refused():
    with pytest.raises(UsageError, match="float32"):
        some()[0].sample(ENERGIES, precision="float16")
