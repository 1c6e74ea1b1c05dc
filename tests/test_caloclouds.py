"""CaloClouds II: the published counts, splines and flows that invert, clouds that are showers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from surrogates import (
    assert_loss_is_finite,
    assert_samples_are_showers,
    assert_weights_come_back,
    shaken,
)

from calostudy import models
from calostudy.datasets import load, load_clouds
from calostudy.errors import DataError, UsageError
from calostudy.models import caloclouds
from calostudy.models.caloclouds import POINTS, SHOWER
from calostudy.networks.point_diffusion import PointNetwork, ShowerFlow, spline
from calostudy.samplers.diffusion import PREDICTIONS, karras_path

NAME, STUDENT, DATASET = "caloclouds", "caloclouds-cm", "ild-photons"
TWO = np.array([12e3, 40e3])


@pytest.fixture
def small(monkeypatch):
    """Size `embedded`, smaller, and few points in a step."""
    monkeypatch.setitem(caloclouds.WIDTHS, "embedded", (8, 8))
    monkeypatch.setitem(caloclouds.FLOW, "embedded", (1, 8, 4))
    monkeypatch.setattr(caloclouds, "SUBSET", 64)


def surrogate_of(name=NAME, showers=24):
    return shaken(models.build(name, DATASET), load(DATASET, "train", rows=slice(0, showers)))


# Buhmann et al., arXiv:2309.05704, counted on the authors' code.
@pytest.mark.parametrize("name", [NAME, STUDENT])
def test_paper_size_has_the_published_numbers_of_parameters(name):
    counts = models.build(name, DATASET, "paper").parameters_by_network()
    assert counts == {SHOWER: 35_235_910, POINTS: 504_920}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_splines_are_monotone_and_invert(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.linspace(-6.0, 6.0, 301, dtype=torch.float64)
    parameters = 2.0 * torch.randn(31, generator=generator, dtype=torch.float64).expand(301, -1)
    y, log_slope = spline(x, parameters)
    assert (y.diff() > 0).all()
    back, log_slope_back = spline(y, parameters, inverse=True)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-7)
    torch.testing.assert_close(log_slope_back, -log_slope, rtol=0, atol=1e-6)
    slope = torch.autograd.functional.jacobian(lambda v: spline(v, parameters)[0].sum(), x)
    torch.testing.assert_close(slope.log(), log_slope, rtol=0, atol=1e-6)


def test_the_flow_has_the_density_of_what_it_makes():
    torch.manual_seed(1)
    flow = ShowerFlow(7, 2, 8, 4, seed=3).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    noise, condition = torch.randn(4, 7).double(), torch.randn(4, 1).double()
    expected = []
    for row, given_row in zip(noise, condition, strict=True):
        jacobian = torch.autograd.functional.jacobian(
            lambda z, c=given_row: flow(z[None], c[None])[0], row
        )
        normal = -0.5 * (row.square() + np.log(2 * np.pi)).sum()
        expected.append(normal - torch.linalg.slogdet(jacobian)[1])
    found = flow.log_prob(flow(noise, condition), condition)
    torch.testing.assert_close(found, torch.stack(expected))


def test_points_do_not_see_each_other():
    torch.manual_seed(2)
    network = PointNetwork((8, 8), 2)
    x, level, conditions = torch.randn(1, 5, 4), torch.tensor([0.3]), torch.randn(1, 2)
    changed = x.clone()
    changed[0, 3] += 1.0
    same = (network(x, level, conditions) == network(changed, level, conditions)).all(dim=2)[0]
    assert same.tolist() == [True, True, True, False, True]


@pytest.mark.parametrize("name", ["edm", "consistency"])
def test_what_networks_say_is_read_back_as_the_data(name):
    path, (data, noise) = karras_path(), torch.randn(2, 3, 8, dtype=torch.float64)
    for time in (0.1, 0.5, 1.0):
        alpha, sigma = path.at(time)
        said = PREDICTIONS[name].target(data, noise, alpha, sigma)
        read = PREDICTIONS[name].read(said, alpha * data + sigma * noise, alpha, sigma)
        torch.testing.assert_close(read, (data, noise), rtol=0, atol=1e-6)
    assert path.at(1.0)[1] / path.at(1.0)[0] == pytest.approx(80.0)


def test_a_consistency_model_says_what_it_sees_at_the_lowest_level():
    alpha, sigma = karras_path().at(0.0)
    x = torch.randn(5, dtype=torch.float64)
    data, _ = PREDICTIONS["consistency"].read(torch.randn(5).double(), x, alpha, sigma)
    torch.testing.assert_close(data, x / alpha, rtol=1e-4, atol=1e-4)


def test_samples_are_showers_and_do_not_depend_on_the_batch(small):
    assert_samples_are_showers(surrogate_of(), TWO, cuts=(1,))


def test_clouds_are_what_is_summed_into_cells(small):
    surrogate = surrogate_of()
    clouds = surrogate.sample_clouds(TWO, seed=4, first=2)
    showers = surrogate.sample(TWO, seed=4, first=2)
    cells = clouds.to_showers(surrogate.dataset.calorimeter)
    kept = cells.above_threshold(surrogate.dataset.threshold)
    np.testing.assert_allclose(showers.cells, kept.cells, rtol=1e-6)
    assert len(clouds) == 2 and clouds.counts.min() > 0 and (clouds.energy >= 0).all()


def test_clouds_have_the_numbers_of_their_shower(small):
    """Layers' shares and the centre are those that the flow has drawn."""
    surrogate = surrogate_of()
    rng = np.random.default_rng(5)
    layers = surrogate.layers
    counts = rng.integers(1, 6, layers)
    fractions = rng.random(layers)
    numbers = np.array([counts.sum(), 800.0, 3.0, -4.0, 0.0])
    points = np.column_stack([rng.normal(size=(counts.sum(), 3)), rng.normal(size=counts.sum())])
    cloud = surrogate._calibrated(2e4, points, counts, fractions, numbers)
    found, energies = cloud.per_layer(surrogate.dataset.calorimeter)
    np.testing.assert_array_equal(found[0], counts)
    np.testing.assert_allclose(energies[0], 800.0 * fractions / fractions.sum())
    centre = (cloud.energy[:, None] * cloud.position[:, :2]).sum(0) / cloud.energy.sum()
    np.testing.assert_allclose(centre, [3.0, -4.0])


def test_points_are_those_of_the_showers(small):
    surrogate = models.build(NAME, DATASET)
    showers = load(DATASET, "train", rows=[7, 3, 11])
    clouds, wanted = surrogate._clouds_of(showers), load_clouds(DATASET, "train")
    np.testing.assert_array_equal(clouds.counts, wanted.counts[[7, 3, 11]])
    strangers = load(DATASET, "evaluation", rows=slice(0, 3))
    with pytest.raises(DataError, match="no point clouds"):
        surrogate.prepare(POINTS, strangers)


@pytest.mark.parametrize("network", [SHOWER, POINTS])
def test_the_loss_is_finite(small, network):
    surrogate = surrogate_of()
    showers = load(DATASET, "train", rows=slice(0, 6))
    assert_loss_is_finite(surrogate, network, surrogate.prepare(network, showers))


def test_the_student_begins_as_its_teacher_and_learns_one_network(small):
    teacher, student = surrogate_of(), models.build(STUDENT, DATASET)
    student.learn_from(teacher)
    assert student.trained_networks == (POINTS,) and student.network_evaluations == 1
    showers = load(DATASET, "train", rows=slice(0, 6))
    assert_loss_is_finite(student, POINTS, student.prepare(POINTS, showers))
    made = student.sample(TWO, seed=1)
    assert (made.cells.sum(1) > 0).all()
    with pytest.raises(UsageError, match="learns from caloclouds"):
        student.learn_from(models.build(NAME, DATASET, "paper"))


def test_weights_come_back_from_disk(small, tmp_path):
    assert_weights_come_back(surrogate_of(), tmp_path, TWO)
