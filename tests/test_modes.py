"""Collective modes: orthogonal directions, found where they are and nowhere else."""

import numpy as np
import pytest
import torch

from calostudy.calorimeter import calorimeter
from calostudy.marginals import orbits
from calostudy.modes import Modes, number_of_modes

NAMES = ["ds1-photons", "ds2", "calogan"]


def planted(geometry, showers, strength=3.0):
    """Normal numbers (N, V), in which all cells of layer 1 rise and fall together."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(showers, geometry.cells, generator=generator)
    place = geometry.slices[1]
    direction = torch.zeros(geometry.cells)
    direction[place] = (place.stop - place.start) ** -0.5
    return numbers + strength * torch.randn(showers, 1, generator=generator) * direction, direction


@pytest.mark.parametrize("name", NAMES)
def test_modes_are_orthonormal_and_there_and_back_is_a_projection(name):
    geometry = calorimeter(name)
    modes = Modes.fitted(geometry, planted(geometry, 1500)[0])
    matrix = modes.matrix
    assert matrix.shape == (geometry.cells, number_of_modes(geometry))
    product = matrix.T @ matrix
    used = product.diagonal() > 0.5
    assert 0 < used.sum() < len(used)
    torch.testing.assert_close(product, torch.diag(used.float()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_direction_in_which_cells_move_together_is_found(name):
    geometry = calorimeter(name)
    numbers, direction = planted(geometry, 3000)
    matrix = Modes.fitted(geometry, numbers).matrix
    assert (direction @ matrix).square().sum() > 0.9
    assert (numbers @ matrix).var(0).max() == pytest.approx(10.0, rel=0.15)


@pytest.mark.parametrize("name", NAMES)
def test_independent_numbers_have_next_to_no_modes(name):
    geometry = calorimeter(name)
    numbers = torch.randn(3000, geometry.cells, generator=torch.Generator().manual_seed(1))
    profiles = Modes.fitted(geometry, numbers).profiles
    assert (profiles.square().sum(1) > 0.5).sum() <= 3


def test_a_shower_beside_the_axis_is_a_pair_of_modes():
    """What goes as the cosine of the angle is found, and with it the same as the sine."""
    geometry = calorimeter("ds2")
    generator = torch.Generator().manual_seed(2)
    numbers = torch.randn(2000, geometry.cells, generator=generator)
    wave = torch.as_tensor(np.cos(geometry.alpha) * (geometry.layer_index == 7)).float()
    numbers += 4.0 * torch.randn(2000, 1, generator=generator) * wave / wave.norm()
    matrix = Modes.fitted(geometry, numbers).matrix
    other = torch.as_tensor(np.sin(geometry.alpha) * (geometry.layer_index == 7)).float()
    for direction in (wave, other):
        assert (direction / direction.norm() @ matrix).square().sum() > 0.9


def test_what_both_networks_say_is_added_in_their_own_directions():
    geometry = calorimeter("ds1-photons")
    modes = Modes.fitted(geometry, planted(geometry, 1500)[0])
    x, matrix = torch.randn(4, geometry.cells), modes.matrix
    both = modes.joined(lambda x, time, given: 0.0 * x, lambda a, time, given: a)
    torch.testing.assert_close(both(x, None, None), x @ matrix @ matrix.T)
    both = modes.joined(lambda x, time, given: x, lambda a, time, given: 0.0 * a)
    torch.testing.assert_close(both(x, None, None), x)


def test_constants_bring_them_back():
    geometry = calorimeter("calogan")
    modes = Modes.fitted(geometry, planted(geometry, 1500)[0])
    again = Modes.of_constants(geometry, modes.constants())
    assert torch.equal(again.matrix, modes.matrix)
    assert Modes.untrained(geometry).matrix.abs().sum() == 0
    assert modes.profiles.shape[1] == int(orbits(geometry).max()) + 1
