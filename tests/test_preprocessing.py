"""Every map between cell energies and network space has an inverse, and nothing becomes NaN."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calostudy import preprocessing as pre
from calostudy.calorimeter import calorimeter

SLICES = (slice(0, 4), slice(4, 9), slice(9, 10))
CELLS, LAYERS = 10, len(SLICES)
patient = settings(deadline=None, max_examples=50)
# 0 or something between 10 eV and 1 TeV, in units of 100 GeV: smaller energies do not exist
ENERGY = st.one_of(st.just(0.0), st.floats(1e-10, 10.0))


def tensors(columns, elements=ENERGY):
    shape = st.tuples(st.integers(1, 5), st.just(columns))
    return hnp.arrays(np.float64, shape, elements=elements).map(torch.from_numpy)


@given(tensors(LAYERS))
@patient
def test_units_round_trip(energy):
    torch.testing.assert_close(pre.to_units(pre.to_mev(energy)), energy, rtol=1e-15, atol=0)


@given(tensors(CELLS))
@patient
def test_cells_come_back_from_layer_fractions(cells):
    energies = pre.layer_sums(cells, SLICES)
    fractions = pre.normalise_layers(cells, SLICES)
    assert (fractions >= 0).all() and (fractions <= 1 + 1e-12).all()
    back = pre.scale_layers(fractions, energies, SLICES)
    torch.testing.assert_close(back, cells, rtol=1e-12, atol=1e-20)


@given(tensors(LAYERS), st.floats(1e-2, 10.0), st.floats(0.5, 7.0))
@patient
def test_layer_energies_come_back_from_u(energies, incident, scale):
    incident = torch.full((len(energies),), incident, dtype=torch.float64)
    total = energies.sum(1, keepdim=True)
    # no more energy than the largest response that the scale stands for
    energies = energies * torch.clamp(scale * incident[:, None] / total.clamp_min(1e-30), max=1.0)
    u = pre.energy_fractions(energies, incident, scale)
    assert u.shape == energies.shape and (u >= 0).all() and (u <= 1).all()
    back = pre.energies_from_fractions(u, incident, scale)
    # a fraction close to 1 cannot say how little is left, to better than the whole's rounding
    rounding = 1e-15 * float(energies.sum(1).max()) + 1e-25
    torch.testing.assert_close(back, energies, rtol=1e-12, atol=rounding)


def test_u_is_defined_as_in_the_caloflow_papers():
    energies = torch.tensor([[1.0, 3.0, 4.0]], dtype=torch.float64)
    u = pre.energy_fractions(energies, torch.tensor([10.0], dtype=torch.float64), scale=2.0)
    torch.testing.assert_close(u, torch.tensor([[8 / 20, 1 / 8, 3 / 7]], dtype=torch.float64))


@given(tensors(CELLS, st.floats(0.0, 1.0)))
@patient
def test_logit_round_trip_holds_to_the_ends(x):
    y = pre.logit(x)
    assert torch.isfinite(y).all() and y.abs().max() < 13.9
    torch.testing.assert_close(pre.inverse_logit(y), x, rtol=1e-9, atol=1e-14)


def test_inverse_logit_never_leaves_the_unit_interval():
    x = pre.inverse_logit(torch.tensor([-1e3, -20.0, 20.0, 1e3], dtype=torch.float64))
    assert x.tolist() == [0.0, 0.0, 1.0, 1.0]


@given(tensors(CELLS, st.floats(-14, 14)), st.floats(-14, 14), st.floats(1e-3, 10))
@patient
def test_standardised_values_come_back(values, mean, deviation):
    moments = (torch.full((CELLS,), x, dtype=torch.float64) for x in (mean, deviation))
    mean, deviation = moments
    back = pre.unstandardise(pre.standardise(values, mean, deviation), mean, deviation)
    torch.testing.assert_close(back, values, rtol=1e-12, atol=1e-12)


@given(tensors(LAYERS), st.floats(-3, 3))
@patient
def test_layer_conditions_round_trip(energies, offset):
    condition = pre.log_layers(energies, offset)
    assert torch.isfinite(condition).all()
    torch.testing.assert_close(
        pre.layers_from_log(condition, offset), energies, rtol=1e-9, atol=1e-20
    )


@given(tensors(1, st.floats(1e-3, 50.0)), st.floats(0.1, 100.0))
@patient
def test_incident_condition_round_trip(incident, factor):
    back = pre.incident_from_log(pre.log_incident(incident, factor), factor)
    torch.testing.assert_close(back, incident, rtol=1e-12, atol=0)


@given(st.integers(0, 2**32), st.floats(1e-10, 1.0))
@patient
def test_noise_lies_in_its_interval_and_follows_its_generator(seed, width):
    cells = torch.zeros(3, CELLS, dtype=torch.float64)
    first, second = (
        pre.add_uniform_noise(cells, width, torch.Generator().manual_seed(seed)) for _ in range(2)
    )
    assert (first >= 0).all() and (first < width).all()
    assert torch.equal(first, second)


def test_reflections_mirror_every_layer_and_undo_themselves():
    place = calorimeter("calogan")
    table = pre.symmetries(place)
    cells = torch.rand(3, place.cells)
    assert torch.equal(cells[:, table[0]], cells)
    for rows, axes in ((table[1], (1,)), (table[2], (2,)), (table[3], (1, 2))):
        mirrored = cells[:, rows]
        assert torch.equal(mirrored[:, rows], cells)
        for layer, where in zip(place.layers, place.slices, strict=True):
            before, after = (x[:, where].view(-1, *layer.shape) for x in (cells, mirrored))
            assert torch.equal(after, before.flip(axes))
    torch.manual_seed(0)
    many = pre.turn_at_random(cells[:1].expand(200, -1), table)
    found = {tuple(row.tolist()) for row in many}
    assert found == {tuple(cells[0, rows].tolist()) for rows in table}


@pytest.mark.parametrize("name", ["ds1-photons", "ds1-pions", "ds2"])
def test_cylinders_are_turned_by_the_same_angle_in_every_layer_and_mirrored(name):
    place = calorimeter(name)
    table = pre.symmetries(place)
    assert len({tuple(row.tolist()) for row in table}) == len(table) == 2 * place_alpha(place)
    x = torch.from_numpy(np.stack([place.eta, place.phi], axis=1))
    for rows in table:
        # a rotation or a reflection: the same matrix for every cell that has a direction
        turned = torch.linalg.lstsq(x[directed(place)], x[rows][directed(place)]).solution
        assert torch.allclose(turned @ turned.T, torch.eye(2, dtype=x.dtype), atol=1e-9)
        expected = (x @ turned)[directed(place)]
        assert torch.allclose(expected, x[rows][directed(place)], atol=1e-6)
        assert np.array_equal(place.r[rows], place.r)
        assert np.array_equal(place.layer_index[rows], place.layer_index)


def directed(place):
    """Mask of the cells of layers that are divided in alpha."""
    return torch.from_numpy(np.isin(place.layer_index, divided(place)))


def divided(place):
    return [i for i, layer in enumerate(place.layers) if layer.shape[0] > 1]


def place_alpha(place):
    return place.layers[divided(place)[0]].shape[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_layers_and_empty_showers_give_no_nan(dtype):
    cells = torch.zeros(2, CELLS, dtype=dtype)
    cells[1, SLICES[1]] = 1e-3  # the second shower has one layer with energy
    cells.requires_grad_()
    incident = torch.full((2,), 0.5, dtype=dtype)
    energies = pre.layer_sums(cells, SLICES)
    u = pre.energy_fractions(energies, incident)
    fractions = pre.normalise_layers(cells, SLICES)
    results = [
        u,
        fractions,
        pre.logit(fractions),
        pre.logit(u),
        pre.log_layers(energies, 2.0),
        pre.energies_from_fractions(u, incident),
        pre.scale_layers(fractions, energies, SLICES),
    ]
    assert all(torch.isfinite(r).all() and r.dtype == dtype for r in results)
    sum(r.sum() for r in results).backward()
    assert torch.isfinite(cells.grad).all()
