"""Flow matching: the published counts, patches that lose nothing, showers that are showers."""

import numpy as np
import pytest
import torch
from surrogates import (
    TWO_ENERGIES,
    assert_learns_from_its_teacher_only,
    assert_loss_is_finite,
    assert_refuses_unknown_ways,
    assert_samples_are_showers,
    assert_weights_come_back,
    nearly_empty,
    shaken,
)

from calostudy import models
from calostudy.datasets import dataset, load
from calostudy.errors import UsageError
from calostudy.models import flow_matching, flow_matching_distilled
from calostudy.models.flow_matching import ENERGIES, MODES, PATCHES, VOXELS
from calostudy.models.flow_matching_distilled import FlowMatchingDistilled
from calostudy.networks.transformer import Patches, ShowerTransformer, TransformerStructure
from calostudy.samplers.diffusion import SOLVERS, STRAIGHT, Process
from calostudy.training import train

NAME = "flow-matching"
TINY = TransformerStructure(16, 1, 2, 2)


@pytest.fixture
def small(monkeypatch):
    """Size `embedded`, far smaller: what is tested does not depend on the size."""
    for name in flow_matching.STRUCTURE["embedded"]:
        monkeypatch.setitem(flow_matching.STRUCTURE["embedded"], name, TINY)
    monkeypatch.setitem(flow_matching.ENERGY_STRUCTURE, "embedded", TINY)


def surrogate_of(name, showers=60):
    return shaken(models.build(NAME, name), load(name, "train", rows=slice(0, showers)))


# CaloDREAM's shape networks (arXiv:2405.09629), counted on the authors' code.
@pytest.mark.parametrize(("name", "count"), [("ds2", 26_042_688), ("ds3", 5_868_870)])
def test_paper_size_has_the_published_numbers_of_parameters(name, count):
    assert models.build(NAME, name, "paper").parameters_by_network()[VOXELS] == count


@pytest.mark.parametrize("size", ["paper", "embedded"])
@pytest.mark.parametrize("name", flow_matching.RESPONSE)
def test_every_cell_is_in_one_patch_and_patches_are_neighbours(name, size):
    calorimeter = dataset(name).calorimeter
    patches = Patches.of(calorimeter, PATCHES[size][name])
    np.testing.assert_array_equal(np.sort(patches.order), np.arange(calorimeter.cells))
    counts = [len(places) for places in patches.places]
    assert np.dot(counts, patches.sizes) == calorimeter.cells
    assert all(((places >= 0) & (places < 1)).all() for places in patches.places)
    assert len(torch.unique(torch.cat(patches.places), dim=0)) == sum(counts)
    first = patches.order[: patches.sizes[0]]
    layers = calorimeter.layer_index[first]
    assert np.ptp(layers) < max(patch[0] for patch in PATCHES[size][name].values())


def test_numbers_come_out_where_they_went_in():
    """With all blocks closed, a number depends on its own patch alone."""
    patches = Patches.of(dataset("ds1-photons").calorimeter, PATCHES["paper"]["ds1-photons"])
    torch.manual_seed(0)
    network = ShowerTransformer(patches, TINY, 2)
    for read in network.read:
        torch.nn.init.normal_(read.weight)
    x = torch.randn(1, 368, requires_grad=True)
    said = network(x, torch.tensor([0.3]), torch.zeros(1, 2))
    said[0, 8 + 1 * 16 + 4].backward()  # of layer 1: angle 1, radius 4
    inside = x.grad[0].nonzero().flatten().tolist()
    assert inside == [8 + angle * 16 + 4 for angle in range(5)]


def test_an_untrained_network_says_nothing():
    network = models.build(NAME, "ds1-photons").networks[VOXELS]
    said = network(torch.randn(3, 368), torch.rand(3), torch.randn(3, 6))
    assert (said == 0).all()


@pytest.mark.parametrize("name", ["calogan-gamma", "ds1-photons", "ds1-pions", "ds2"])
def test_samples_are_showers_and_do_not_depend_on_the_batch(small, name):
    energies = np.geomspace(2e3, 6e4, 4)
    assert_samples_are_showers(surrogate_of(name), energies, cuts=(1, 3))


def test_layers_have_the_energies_that_the_energy_network_gave_them(small):
    surrogate = surrogate_of("ds1-photons")
    energies = np.geomspace(1e3, 1e5, 5)
    fine = surrogate.sample(energies, seed=3, evaluations=8)
    coarse = surrogate.sample(energies, seed=3, evaluations=4)
    sums = [s.calorimeter.layer_energies(s.cells) for s in (fine, coarse)]
    assert not np.array_equal(fine.cells, coarse.cells)
    np.testing.assert_allclose(*sums, rtol=1e-5)


def test_weights_come_back_from_disk(small, tmp_path):
    assert_weights_come_back(surrogate_of("ds1-photons"), tmp_path, TWO_ENERGIES)


@pytest.mark.parametrize("network", [ENERGIES, VOXELS])
def test_the_loss_is_finite_where_there_is_next_to_no_energy(small, network):
    surrogate = surrogate_of("ds1-photons")
    calorimeter = surrogate.dataset.calorimeter
    empty = nearly_empty(calorimeter, [1e3, 1e4, 1e5], (200, 30.0), 2.0)
    assert_loss_is_finite(surrogate, network, surrogate.prepare(network, empty))


def test_unknown_ways_are_usage_errors(small):
    surrogate, energy = models.build(NAME, "ds1-photons"), np.array([1e4])
    assert_refuses_unknown_ways(surrogate, "eager")
    with pytest.raises(UsageError, match="no solver 'rk9'"):
        surrogate.sample(energy, solver="rk9")
    with pytest.raises(UsageError, match="0 network evaluations"):
        surrogate.sample(energy, evaluations=0)


# ---- the student ----------------------------------------------------------------------------


@pytest.mark.parametrize("time", [0.25, 1.0])
def test_the_student_s_target_is_where_the_midpoint_solver_ends(time):
    matrix = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    start = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    process, steps = Process(STRAIGHT, "v"), flow_matching_distilled.TEACHER_STEPS

    def says(x, when):
        return torch.tanh(x @ matrix) + torch.as_tensor(when).square()

    times = [time * (1.0 - k / steps) for k in range(steps + 1)]
    solve = SOLVERS["midpoint"].solve
    end = solve(process.denoiser(says), process.path, times, lambda step: start)
    now = torch.full((5, 1), time, dtype=torch.float64)
    led = flow_matching_distilled.led(says, start, now, process)
    torch.testing.assert_close(led, end, rtol=1e-12, atol=1e-12)


def test_the_student_learns_where_its_teacher_s_path_ends(small, tmp_path, monkeypatch):
    monkeypatch.setattr(flow_matching_distilled, "RATE", 3.0)
    showers = load("ds1-photons", "train", rows=slice(0, 60))
    teacher, student = surrogate_of("ds1-photons"), FlowMatchingDistilled("ds1-photons")
    stranger = models.build(NAME, "ds1-pions")
    assert_learns_from_its_teacher_only(student, teacher, stranger, showers, tmp_path)
    student.learn_from(teacher)
    assert student.network_evaluations == 1
    # before it learns it is its teacher, with as many evaluations for the layers
    layers = student.samplings[ENERGIES]
    monkeypatch.setitem(flow_matching.SAMPLINGS["embedded"], ENERGIES, layers)
    np.testing.assert_array_equal(
        student.sample(TWO_ENERGIES, solver="ddim", evaluations=4).cells,
        teacher.sample(TWO_ENERGIES, solver="ddim", evaluations=4).cells,
    )

    def mean():
        torch.manual_seed(0)
        with torch.no_grad():
            return student.loss(VOXELS, student.prepare(VOXELS, showers)).mean().item()

    before = mean()
    train(student, showers, tmp_path, epochs=25, progress=False)
    assert mean() < 0.9 * before
    for name in (ENERGIES, MODES):
        for key, tensor in teacher.networks[name].state_dict().items():
            torch.testing.assert_close(
                student.networks[name].state_dict()[key], tensor, rtol=1e-3, atol=1e-4
            )
    back = models.load(tmp_path)
    for count in (1, 2, 4):
        ours, theirs = (s.sample(TWO_ENERGIES, evaluations=count).cells for s in (student, back))
        np.testing.assert_array_equal(ours, theirs)
