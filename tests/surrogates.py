"""What every surrogate promises: plain functions that the tests of each family call.

    def test_samples_are_showers_and_do_not_depend_on_the_batch(small):
        surrogate = shaken(models.build("my-model", "ds2"), load("ds2", "train", rows=slice(0, 40)))
        assert_samples_are_showers(surrogate, np.geomspace(1e3, 1e5, 7), cuts=(1, 4))

Incident energies are in MeV, (N,) each.
"""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch

from calostudy import models
from calostudy.errors import UsageError
from calostudy.showers import Showers
from calostudy.training import train

TWO_ENERGIES = np.array([1e3, 6e4])


# ---- what is tested --------------------------------------------------------------------------


def shaken(surrogate, showers=None, by=0.05):
    """The surrogate, having seen `showers`, with weights away from where they begin.

    Splines bend. Each weight has moved by a normal number of standard deviation `by`, the same in
    every call, and is one that comes back from disk.
    """
    if showers is not None:
        surrogate.fit_constants(showers)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for network in surrogate.networks.values():
            for parameter in network.parameters():
                parameter.add_(by * torch.randn(parameter.shape))
    for network in surrogate.networks:
        surrogate.round_weights(network)
    return surrogate


def nearly_empty(calorimeter, incident_energy, cell, first_layer):
    """Three showers: without any energy, with one cell (its index, MeV), with the first layer
    alone (MeV in each of its cells)."""
    cells = np.zeros((3, calorimeter.cells), np.float32)
    index, energy = cell
    cells[1, index] = energy
    cells[2, calorimeter.slices[0]] = first_layer
    return Showers(calorimeter, np.array(incident_energy), cells)


# ---- what is promised ------------------------------------------------------------------------


def assert_samples_are_showers(surrogate, energies, cuts, first=0):
    """Showers have the dataset's cells and threshold and the energies asked for; they are the same
    at every call and however the sample is cut (at `cuts`), others with another seed.

    Returns the showers of seed 5, of which shower i is number `first` + i.
    """
    whole = surrogate.sample(energies, seed=5, first=first)
    parts = [
        surrogate.sample(energies[a:b], seed=5, first=first + a)
        for a, b in pairwise((0, *cuts, len(energies)))
    ]
    assert whole.calorimeter is surrogate.dataset.calorimeter
    np.testing.assert_array_equal(whole.incident_energy, energies)
    np.testing.assert_array_equal(whole.cells, np.concatenate([part.cells for part in parts]))
    again = surrogate.sample(energies, seed=5, first=first)
    np.testing.assert_array_equal(whole.cells, again.cells)
    assert np.isfinite(whole.cells).all() and (whole.cells >= 0).all()
    hit = whole.cells[whole.cells > 0]
    assert len(hit) and hit.min() >= np.float32(surrogate.dataset.threshold)
    other = surrogate.sample(energies, seed=6, first=first)
    assert not np.array_equal(whole.cells, other.cells)
    return whole


def assert_samplers_agree(surrogate, fast, slow, energies=TWO_ENERGIES):
    """Two samplers, by name, give the same showers in double precision; returns those of
    `fast`."""
    found, expected = (
        surrogate.sample(energies, seed=1, sampler=sampler, precision="float64")
        for sampler in (fast, slow)
    )
    np.testing.assert_allclose(found.cells, expected.cells, rtol=1e-6, atol=1e-6)
    return found


def assert_follows_its_weights(surrogate, before):
    """After a change of weights, showers are not those `before`, of seed 1 and double precision
    (as `assert_samplers_agree` returns them)."""
    after = surrogate.sample(before.incident_energy, seed=1, precision="float64")
    assert np.abs(after.cells - before.cells).max() > 1e-3


def assert_refuses_unknown_ways(surrogate, *samplers):
    """A sampler that is not one of `samplers`, which are told, and a precision that is neither
    single nor double are UsageErrors."""
    energies = np.array([1e4])
    with pytest.raises(UsageError, match="sampler 'guess'.*" + re.escape(", ".join(samplers))):
        surrogate.sample(energies, sampler="guess")
    with pytest.raises(UsageError, match="float32"):
        surrogate.sample(energies, precision="float16")


def assert_loss_is_finite(surrogate, network, batch):
    """One finite loss for each shower of a batch, as `prepare` gives it, with a finite gradient of
    every parameter."""
    loss = surrogate.loss(network, batch)
    rows = {len(tensor) for tensor in batch.values()}
    assert rows == {len(loss)} and loss.ndim == 1 and torch.isfinite(loss).all()
    loss.sum().backward()
    gradients = [parameter.grad for parameter in surrogate.networks[network].parameters()]
    assert gradients and all(g is not None and torch.isfinite(g).all() for g in gradients)


def assert_turned_in_training_only(surrogate, network, batch):
    """The loss of a batch is the same at every call, until the network is in training."""
    module = surrogate.networks[network]

    def losses():
        torch.manual_seed(3)
        return surrogate.loss(network, batch).detach()

    kept = losses()
    assert torch.equal(kept, losses())
    module.train()
    assert not torch.allclose(kept, losses(), atol=1e-3)
    module.eval()


def assert_weights_come_back(surrogate, folder, energies, card=None):
    """Saved and loaded, the surrogate gives the same showers and has the same fingerprint."""
    surrogate.save(folder, card)
    back = models.load(folder)
    np.testing.assert_array_equal(back.sample(energies).cells, surrogate.sample(energies).cells)
    assert back.fingerprint() == surrogate.fingerprint()
    return back


def assert_learns_from_its_teacher_only(student, teacher, stranger, showers, folder):
    """It is a UsageError to train a student without its teacher, with a `stranger` as its teacher,
    or a teacher with the student as its own; nothing is written into the folder."""
    name, size = student.dataset.name, student.size
    with pytest.raises(UsageError, match="calostudy distill"):
        train(models.build(student.name, name, size), showers, folder, progress=False)
    with pytest.raises(UsageError, match=f"learns from {teacher.name} {name} {size}"):
        student.learn_from(stranger)
    with pytest.raises(UsageError, match="no teacher"):
        teacher.learn_from(student)
    assert not list(folder.iterdir())
