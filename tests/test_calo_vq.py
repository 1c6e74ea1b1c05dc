"""Calo-VQ has the published size, its sequences say the showers, its samples are showers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from surrogates import (
    TWO_ENERGIES,
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
from calostudy.models import calo_vq, vq_transformer
from calostudy.models.calo_vq import AUTOENCODER, PRIOR
from calostudy.networks.code_transformer import CodeTransformer, SequenceStructure
from calostudy.networks.codes import Angles, Around, AroundUp, Codebook

KINDS = [("calo-vq", "paper"), ("calo-vq", "embedded"), ("vq-transformer", "embedded")]


@pytest.fixture
def small(monkeypatch):
    """All sizes with narrow networks: what is tested does not depend on the size."""

    def tiny(structure):
        codes = replace(structure.autoencoder, channels=(3, 4, 4, 5, 6), features=4, size=5)
        prior = replace(structure.prior, hidden=8, blocks=2, heads=2)
        return replace(structure, autoencoder=replace(codes, codes=16), prior=prior, bins=12)

    for size, structure in calo_vq.STRUCTURE.items():
        monkeypatch.setitem(calo_vq.STRUCTURE, size, tiny(structure))
    monkeypatch.setattr(vq_transformer, "STRUCTURE", tiny(vq_transformer.STRUCTURE))


def some(model, size, n=60):
    showers = load("ds2", "train", rows=slice(0, n))
    return shaken(models.build(model, "ds2", size), showers, by=0.3), showers


def test_paper_size_has_the_published_numbers_of_parameters():
    """arXiv:2410.21611; its discriminator, in the number to train, is not built here."""
    networks = models.build("calo-vq", "ds2", "paper").networks
    count = {k: sum(p.numel() for p in net.parameters()) for k, net in networks.items()}
    autoencoder = networks[AUTOENCODER]
    assert count[AUTOENCODER] + count[PRIOR] + 1_623_505 == 3_317_546
    encoder = sum(p.numel() for p in autoencoder.encoder.parameters())
    assert count[AUTOENCODER] - encoder + count[PRIOR] == 1_231_433
    assert autoencoder.places == (17, 4) and networks[PRIOR].length == 69


@pytest.mark.parametrize(("model", "size"), KINDS)
def test_samples_are_showers_and_do_not_depend_on_the_batch(small, model, size):
    assert_samples_are_showers(some(model, size)[0], np.geomspace(1e3, 1e5, 5), (1, 3), first=30)


@pytest.mark.parametrize("model", ["calo-vq", "vq-transformer"])
def test_sequences_kept_and_anew_are_the_same(small, model):
    surrogate, _ = some(model, "embedded")
    found = assert_samplers_agree(surrogate, "cached", "plain")
    with torch.no_grad():
        surrogate.networks[PRIOR].say.weight.normal_()
    assert_follows_its_weights(surrogate, found)
    assert_refuses_unknown_ways(surrogate, "cached", "plain")


def test_codes_are_drawn_with_the_probabilities_said(small):
    surrogate, n = some("calo-vq", "embedded")[0], 2000
    draw = surrogate.inverse_of(PRIOR, calo_vq.SAMPLERS, "cached", "float64")
    random = np.full((n, surrogate.networks[PRIOR].length), 0.5)
    random[:, 1] = (np.arange(n) + 0.5) / n
    condition = torch.full((n, 1), 0.2).double()
    codes = draw(condition.numpy(), random)
    assert (codes[:, 0] == codes[0, 0]).all()
    network = surrogate.networks[PRIOR].double()
    said = network(torch.tensor(codes[:1, :1]), condition[:1])[0, 1].softmax(dim=0)
    found = np.bincount(codes[:, 1], minlength=len(said)) / n
    np.testing.assert_allclose(found, said.detach().numpy(), atol=1.1 / n)


def test_a_transformer_does_not_see_what_comes(small):
    network = CodeTransformer(9, 6, SequenceStructure(8, 2, 2)).eval()
    codes, condition = torch.randint(9, (4, 5)), torch.randn(4, 1)
    other = codes.clone()
    other[:, 3] = (other[:, 3] + 1) % 9
    before, after = network(codes, condition), network(other, condition)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert (before[:, 4:] - after[:, 4:]).abs().max() > 1e-6


@pytest.mark.parametrize("model", ["calo-vq", "vq-transformer"])
def test_the_sequence_of_a_shower_says_its_energies(small, model):
    surrogate, showers = some(model, "embedded")
    batch = surrogate.prepare(AUTOENCODER, showers)
    codes, count = surrogate.sequence(batch), surrogate._numbers
    edges, numbers = surrogate.constants["edges"], surrogate._to_numbers(batch)
    place = torch.arange(count), codes[:, :count]
    low, high = edges[place], edges[place[0], place[1] + 1]
    assert (numbers > low - 1e-6).all() and (numbers < high + 1e-6).all()
    energies = surrogate._from_numbers(numbers, batch["incident"])
    torch.testing.assert_close(energies, surrogate._energies(batch), rtol=1e-6, atol=1e-3)
    # as many showers in each bin of the response
    assert torch.bincount(codes[:, 0], minlength=12).max() <= 6


def test_a_turned_shower_has_turned_codes():
    """Convolutions, fewer and more angles commute with turns by whole angles."""
    x = torch.randn(2, 3, 9, 8)
    for step in (
        Around(3, 4),
        Around(3, 4, 5, 3),
        AroundUp(3, 4, 5, 3),
        AroundUp(3, 4, whole=False),
    ):
        turned = step(x).roll(3, -1)
        torch.testing.assert_close(step(x.roll(3, -1)), turned, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(Angles(4)(x.roll(2, -1)), Angles(4)(x).roll(1, -1))
    waves = Angles(8)(torch.randn(2, 3, 9, 6))  # without the shortest that 8 angles have
    torch.testing.assert_close(Angles(16)(waves)[..., ::2], waves)


def test_vectors_without_use_are_replaced_and_others_are_nearest():
    book = Codebook(6, 3, patience=2)
    found = torch.randn(4, 3, 5, 2)
    for _ in range(2):
        before = book.vectors.clone()
        book(found)
        changed = (book.vectors != before).any(dim=1)
    assert not changed[book.nearest(found).unique()].any()
    rows = book._scaled(found.movedim(1, -1))
    distance = (rows[..., None, :] - book._scaled(book.vectors)).square().sum(dim=-1)
    assert torch.equal(book.nearest(found), distance.argmin(dim=-1))
    book.eval()
    kept = book.vectors.clone()
    vectors, _ = book(found)
    torch.testing.assert_close(vectors, book.of(book.nearest(found)))
    assert torch.equal(kept, book.vectors)


@pytest.mark.parametrize("network", [AUTOENCODER, PRIOR])
@pytest.mark.parametrize(("model", "size"), KINDS)
def test_loss_is_finite_for_nearly_empty_showers(small, model, size, network):
    surrogate, _ = some(model, size)
    showers = nearly_empty(surrogate.dataset.calorimeter, [1e3, 2e3, 1e4], (40, 3.0), 5.0)
    assert_loss_is_finite(surrogate, network, surrogate.prepare(network, showers))


def test_showers_are_turned_in_training_only(small):
    surrogate, showers = some("vq-transformer", "embedded")
    batch = surrogate.prepare(PRIOR, showers[:6])
    assert_turned_in_training_only(surrogate, PRIOR, batch)


def test_weights_come_back_from_disk(small, tmp_path):
    surrogate, showers = some("vq-transformer", "embedded")
    surrogate.networks[AUTOENCODER].train()
    surrogate.loss(AUTOENCODER, surrogate.prepare(AUTOENCODER, showers))
    surrogate.networks[AUTOENCODER].eval()
    surrogate.round_weights(AUTOENCODER)
    assert_weights_come_back(surrogate, tmp_path, TWO_ENERGIES)
