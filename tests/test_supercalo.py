"""SuperCalo has the published size, its coarse cells are those it merges, its samples showers."""

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
from calostudy.models import supercalo
from calostudy.models.supercalo import COARSE, FINE, LAYERS

NETWORKS = (LAYERS, COARSE, FINE)
SIZES = ("paper", "embedded")


@pytest.fixture
def small(monkeypatch):
    """Both sizes with narrow networks: what is tested does not depend on the size."""
    for structures in supercalo.STRUCTURE.values():
        for network, structure in structures.items():
            tiny = replace(structure, blocks=2, hidden=6, hidden_blocks=1, bins=4)
            monkeypatch.setitem(structures, network, tiny)


def some(size, n=40):
    showers = load("ds2", "train", rows=slice(0, n))
    return shaken(models.build("supercalo", "ds2", size), showers), showers


def test_paper_size_has_the_published_number_of_parameters():
    """arXiv:2410.21611, all three flows together."""
    counts = models.build("supercalo", "ds2", "paper").parameters_by_network()
    assert tuple(counts) == NETWORKS and sum(counts.values()) == 87_465_608


def test_coarse_cells_are_five_layers_and_two_angles():
    surrogate = models.build("supercalo", "ds2")
    grid = np.stack(np.unravel_index(surrogate._cells_of.numpy(), (45, 16, 9)))
    assert sorted(surrogate._cells_of.flatten().tolist()) == list(range(6480))
    assert (np.ptp(grid, axis=2) == np.array([4, 1, 0])[:, None]).all()
    assert (grid[0].min(axis=1) % 5 == 0).all() and (grid[1].min(axis=1) % 2 == 0).all()


def test_neighbours_are_beside():
    surrogate = models.build("supercalo", "ds2")
    grid = np.stack(np.unravel_index(surrogate._cells_of[:, 0].numpy(), (45, 16, 9)), axis=1)
    grid = grid // np.array([5, 2, 1])  # group, angle, radius
    place = {tuple(g): i for i, g in enumerate(grid.tolist())}
    none = len(grid)
    for i, (group, angle, radius) in enumerate(grid.tolist()):
        expected = [
            place.get((group, angle, radius - 1), none),
            place.get((group, angle, radius + 1), none),
            place.get((group - 1, angle, radius), none),
            place.get((group + 1, angle, radius), none),
            place[group, (angle - 1) % 8, radius],
            place[group, (angle + 1) % 8, radius],
        ]
        assert surrogate._neighbours[i].tolist() == expected


def test_conditions_are_of_the_place_and_its_neighbours(small):
    surrogate, showers = some("embedded")
    batch = surrogate.prepare(FINE, showers[:3])
    coarse = surrogate.coarse(batch["cells"].double())
    shower, which = torch.tensor([2, 0]), torch.tensor([100, 500])
    found = surrogate._fine_condition(
        shower, which, batch["incident"], batch["energies"], coarse, torch.zeros(2, 7).double()
    )
    assert found.shape == (2, 31)
    maps = surrogate.maps
    for row, n, i in zip(found, shower, which, strict=True):
        group, radius = int(i) // 72, int(i) // 8 % 9
        layers = batch["energies"][n, 5 * group : 5 * group + 5]
        torch.testing.assert_close(row[1:6], maps.energy_condition(layers))
        near = [coarse[n, i], *(coarse[n, j] if j < 648 else 0.0 for j in surrogate._neighbours[i])]
        near = torch.tensor(near, dtype=torch.float64)
        torch.testing.assert_close(row[6:13], maps.energy_condition(near))
        assert row[13:].nonzero().flatten().tolist() == [radius, 9 + group]


@pytest.mark.parametrize("size", SIZES)
def test_samples_are_showers_and_do_not_depend_on_the_batch(small, size):
    assert_samples_are_showers(some(size)[0], np.geomspace(1e3, 1e5, 5), cuts=(1, 3), first=30)


def test_cells_sum_to_the_energy_of_their_group_of_layers(small, monkeypatch):
    surrogate, showers = some("embedded")
    energies = torch.as_tensor(showers.layer_energies())
    monkeypatch.setattr(surrogate, "layer_energies", lambda *_: energies)
    found = surrogate.sample(showers.incident_energy, seed=2).layer_energies()
    wanted, found = (e.reshape(-1, 9, 5).sum(axis=2) for e in (energies.numpy(), found))
    filled = wanted >= surrogate.dataset.threshold
    np.testing.assert_allclose(found[filled], wanted[filled], rtol=1e-5)
    assert (found[~filled] == 0).all()


def test_maps_give_back_what_was_put_in():
    energies = 10.0 ** torch.linspace(0.0, 3.0, 40).double().view(4, 10)
    noise = torch.zeros_like(energies)
    for maps in supercalo.MAPS.values():
        sums = energies.sum(dim=1)
        coarse = maps.coarse_from_flow(maps.coarse_to_flow(energies, noise), sums[:, None], 0.015)
        torch.testing.assert_close(coarse, energies, rtol=1e-6, atol=1e-6)
        shares = maps.cells_from_flow(maps.fine_to_flow(energies, noise))
        shares = shares / shares.sum(dim=1, keepdim=True) * sums[:, None]
        torch.testing.assert_close(shares, energies, rtol=1e-4, atol=1e-2)


def test_the_fast_sampler_is_nflows(small):
    surrogate, _ = some("embedded")
    found = assert_samplers_agree(surrogate, "incremental", "nflows", np.array([1e3]))
    with torch.no_grad():
        next(surrogate.networks[FINE].parameters()).add_(1.0)
    assert_follows_its_weights(surrogate, found)
    assert_refuses_unknown_ways(surrogate, "incremental", "nflows")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", SIZES)
def test_loss_is_finite_for_nearly_empty_showers(small, size, network):
    surrogate, _ = some(size)
    showers = nearly_empty(surrogate.dataset.calorimeter, [1e3, 2e3, 1e4], (40, 3.0), 5.0)
    assert_loss_is_finite(surrogate, network, surrogate.prepare(network, showers))


@pytest.mark.parametrize("network", [COARSE, FINE])
def test_showers_are_turned_in_training_only(small, network):
    surrogate, showers = some("embedded")
    batch = surrogate.prepare(network, showers[:6])
    assert_turned_in_training_only(surrogate, network, batch)


def test_weights_come_back_from_disk(small, tmp_path):
    assert_weights_come_back(some("embedded")[0], tmp_path, TWO_ENERGIES)
