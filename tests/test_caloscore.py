"""CaloScore has the published sizes, its maps return, its fast way is the plain one, its samples
are showers."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from surrogates import (
    TWO_ENERGIES,
    assert_follows_its_weights,
    assert_learns_from_its_teacher_only,
    assert_loss_is_finite,
    assert_refuses_unknown_ways,
    assert_samplers_agree,
    assert_samples_are_showers,
    assert_turned_in_training_only,
    nearly_empty,
    shaken,
)

from calostudy import models
from calostudy.datasets import load
from calostudy.errors import UsageError
from calostudy.models import caloscore
from calostudy.models.caloscore import LAYERS, PROCESS, VOXELS, CaloScore
from calostudy.models.caloscore_distilled import (
    CaloScoreDistilled,
    CaloScoreSingleShot,
    said_for,
    target,
)
from calostudy.models.diffusion import ShowerNoise
from calostudy.networks.products import alike
from calostudy.samplers.diffusion import STRAIGHT, Process, Sampling
from calostudy.training import train

NAMES = ("ds1-photons", "ds1-pions", "ds2")
SIZES = ("paper", "embedded")
PUBLISHED = {
    "ds1-photons": {LAYERS: 199_813, VOXELS: 2_247_553},
    "ds2": {LAYERS: 10_680_749, VOXELS: 3_755_457},
    "ds3": {LAYERS: 10_680_749, VOXELS: 3_755_457},
}


@pytest.fixture
def small(monkeypatch):
    """Both sizes with narrow levels and few steps: what is tested does not depend on the size."""
    for structures in caloscore.STRUCTURE.values():
        for name, structure in structures.items():
            tiny = replace(
                structure,
                widths=(4, 8),
                attention=(False, True),
                depth=1,
                stem=4,
                embedding=4,
                patch=(2,) if "ds1" in name else (3, 2, 3),
            )
            monkeypatch.setitem(structures, name, tiny)
    for size in SIZES:
        monkeypatch.setitem(caloscore.LAYER_WIDTH, size, dict.fromkeys(CaloScore.datasets, 8))
        few = dict.fromkeys((LAYERS, VOXELS), Sampling("ddim", 3))
        monkeypatch.setitem(caloscore.SAMPLING, size, few)


@pytest.mark.parametrize("name", PUBLISHED)
def test_paper_size_has_the_published_number_of_parameters(name):
    assert CaloScore(name, "paper").parameters_by_network() == PUBLISHED[name]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CaloScore.datasets)
def test_every_cell_has_a_place_and_levels_can_be_halved(name, size):
    surrogate = CaloScore(name, size)
    layout, structure = surrogate.layout(), surrogate.structure
    cells = layout[layout >= 0]
    assert sorted(cells) == list(range(surrogate.dataset.calorimeter.cells))
    halvings = 2 ** (len(structure.widths) - 1)
    steps = np.multiply(structure.patch, halvings)
    assert not np.any(np.mod(layout.shape, steps))


@pytest.mark.parametrize("name", ["ds1-photons", "ds2"])
def test_a_place_of_the_network_is_the_cell_that_it_gets(small, name):
    network = CaloScore(name).networks[VOXELS]
    cells = torch.arange(network.places.numel(), dtype=torch.float32)[None] + 1.0
    padded = torch.nn.functional.pad(cells, (0, 1))[:, network.cell]
    assert torch.equal(padded[:, network.places], cells)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["ds1-photons", "ds2"])
def test_the_fast_network_is_the_plain_one(monkeypatch, name, size, precision):
    """With the attention and the depth that the sizes have."""
    structure = caloscore.STRUCTURE[size][name]
    narrow = replace(structure, widths=tuple(4 * k + 4 for k in range(len(structure.widths))))
    monkeypatch.setitem(caloscore.STRUCTURE[size], name, narrow)
    surrogate = shaken(CaloScore(name, size), by=0.1)
    dtype = getattr(torch, precision)
    network = surrogate.networks[VOXELS]
    generator = torch.Generator().manual_seed(0)
    sizes = [net.in_features for net in network.conditions.others]
    conditions = [torch.randn(3, n, generator=generator).to(dtype) for n in sizes]
    x = torch.randn(3, surrogate.dataset.calorimeter.cells, generator=generator).to(dtype)
    with torch.no_grad():
        fast, plain = (
            caloscore.CaloScore.SAMPLERS[kind](network, precision)(*conditions)(x, 0.3)
            for kind in ("fused", "eager")
        )
    assert plain.std() > 0.01
    tolerance = {"float32": 1e-5, "float64": 1e-13}[precision]
    torch.testing.assert_close(fast, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_showers_survive_the_way_to_the_networks_and_back(small, name, size):
    surrogate = CaloScore(name, size)
    surrogate.fit_constants(load(name, "train", rows=slice(0, 200)))
    cut = surrogate.dataset.threshold
    showers = load(name, "train", rows=slice(0, 40))
    batch = surrogate.prepare(VOXELS, showers)
    incident, energies = batch["incident"], batch["energies"]
    numbers = surrogate._layer_numbers(energies, incident)
    found = surrogate._layer_energies(numbers, incident)
    torch.testing.assert_close(found, energies, rtol=1e-3, atol=2 * cut)
    values = surrogate._cell_numbers(batch["cells"].double(), energies)
    assert values.abs().max() < 100.0
    back = surrogate._to_cells(values, energies).numpy()
    kept = showers.above_threshold(cut).cells
    largest = showers.cells.max(axis=1, keepdims=True)
    # Of `paper`, fractions are resolved to the logit's alpha, and cells below the cut remain.
    assert (np.abs(back - kept) <= 2e-3 * largest + (size == "paper") * cut).all()


def test_numbers_of_the_networks_are_standardised(small):
    showers = load("ds1-photons", "train", rows=slice(0, 1000))
    for size in SIZES:
        surrogate = CaloScore("ds1-photons", size)
        surrogate.fit_constants(showers)
        for name in (LAYERS, VOXELS):
            numbers, _ = surrogate.described(name, surrogate.prepare(name, showers))
            assert torch.isfinite(numbers).all()
            assert abs(numbers.mean()) < 0.1 and 0.7 < numbers.std() < 1.1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_samples_are_showers_and_do_not_depend_on_the_batch(small, name, size):
    showers = load(name, "train", rows=slice(0, 40))
    surrogate = shaken(models.build("caloscore", name, size), showers, by=0.1)
    assert_samples_are_showers(surrogate, showers.incident_energy[:3], cuts=(1,))


def test_both_samplers_give_the_same_showers_and_follow_the_weights(small):
    showers = load("ds1-photons", "train", rows=slice(0, 40))
    surrogate = shaken(models.build("caloscore", "ds1-photons"), showers, by=0.1)
    before = assert_samplers_agree(surrogate, "fused", "eager")
    with torch.no_grad():
        surrogate.networks[VOXELS].head.bias.add_(0.5)
    assert_follows_its_weights(surrogate, before)


def test_unknown_samplers_solvers_and_too_few_evaluations_are_usage_errors(small):
    surrogate = models.build("caloscore", "ds1-photons")
    assert_refuses_unknown_ways(surrogate, "fused", "eager")
    with pytest.raises(UsageError, match="solver"):
        surrogate.sample(TWO_ENERGIES, solver="guess")
    with pytest.raises(UsageError, match="evaluations"):
        surrogate.sample(TWO_ENERGIES, evaluations=0)
    with pytest.raises(UsageError, match="calogan"):
        models.build("caloscore", "calogan-eplus")


@pytest.mark.parametrize("size", SIZES)
def test_the_loss_is_finite_for_empty_showers_and_layers(small, size):
    surrogate = models.build("caloscore", "ds1-photons", size)
    surrogate.fit_constants(load("ds1-photons", "train", rows=slice(0, 200)))
    calorimeter = surrogate.dataset.calorimeter
    showers = nearly_empty(calorimeter, [256.0, 1e3, 4e6], (100, 1e-3), 1e2)
    for name in (LAYERS, VOXELS):
        assert_loss_is_finite(surrogate, name, surrogate.prepare(name, showers))


def test_showers_are_turned_in_training_only(small):
    showers = load("ds1-photons", "train", rows=slice(0, 8))
    surrogate = shaken(models.build("caloscore", "ds1-photons"), showers, by=0.1)
    assert_turned_in_training_only(surrogate, VOXELS, surrogate.prepare(VOXELS, showers))


def test_training_lowers_the_loss_and_weights_come_back(small, tmp_path):
    showers = load("ds1-photons", "train", rows=slice(0, 300))
    recipes = {
        name: replace(recipe, average=0.9, learning_rate=2e-2)
        for name, recipe in caloscore.RECIPES["embedded"]["ds1-photons"].items()
    }
    surrogate = CaloScore("ds1-photons")
    surrogate.recipe = recipes.__getitem__
    trained = train(surrogate, showers, tmp_path, epochs=8, progress=False)
    back = models.load(tmp_path)
    assert back.fingerprint() == trained.fingerprint()
    fresh = CaloScore("ds1-photons")
    fresh.fit_constants(showers)

    def mean(surrogate, name):
        torch.manual_seed(0)
        with torch.no_grad():
            return surrogate.loss(name, surrogate.prepare(name, showers)).mean().item()

    for name in (LAYERS, VOXELS):
        assert mean(trained, name) < mean(fresh, name) - 0.02


# ---- distillation ---------------------------------------------------------------------------


def test_the_target_s_step_leads_where_the_teacher_s_steps_lead():
    generator = torch.Generator().manual_seed(0)
    path, start = PROCESS.path, torch.randn(5, 3, generator=generator, dtype=torch.float64)

    def teacher(x, time):  # anything
        return torch.sin(3.0 * x + time)

    now, after = torch.full((5, 1), 0.75), torch.full((5, 1), 0.5)
    data = target(teacher, start, now, after, 4, PROCESS)
    places = [0.75, 0.6875, 0.625, 0.5625, 0.5]
    x = start
    for here, there in itertools.pairwise(places):
        alpha, sigma = path.at(here)
        v = teacher(x, here)
        said, error = alpha * x - sigma * v, sigma * x + alpha * v
        alpha, sigma = path.at(there)
        x = alpha * said + sigma * error
    (alpha, sigma), (alpha_after, sigma_after) = path.at(0.75), path.at(0.5)
    step = alpha_after * data + sigma_after * (start - alpha * data) / sigma
    torch.testing.assert_close(step, x)


@pytest.mark.parametrize("process", [PROCESS, Process(STRAIGHT, "v")])
@pytest.mark.parametrize("first", [1.0, 0.5])
def test_the_target_for_normal_data_is_the_flow_s_end(first, process):
    """Of data with deviation s the flow from noise to data is known: x keeps its quantile."""
    path, s = process.path, 0.6
    start = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)[:, None]

    def teacher(x, time):
        alpha, sigma = path.alpha(time.double()), path.sigma(time.double())
        data = alpha * s**2 / (alpha**2 * s**2 + sigma**2) * x
        return said_for(process, data, x, time)

    now = torch.full((9, 1), first)
    data = target(teacher, start, now, torch.zeros(9, 1), 1000, process)
    alpha, sigma = path.at(first)
    wanted = start * s / (alpha**2 * s**2 + sigma**2) ** 0.5
    torch.testing.assert_close(data, wanted, rtol=5e-3, atol=0)


def test_students_learn_from_their_teachers_in_a_chain(small, tmp_path):
    showers = load("ds1-photons", "train", rows=slice(0, 60))
    teacher = shaken(CaloScore("ds1-photons"), showers, by=0.1)
    energies = np.array([2e3, 3e4])
    for family, steps in ((CaloScoreDistilled, 8), (CaloScoreSingleShot, 1)):
        student, folder = family("ds1-photons"), tmp_path / family.name
        folder.mkdir()
        stranger = CaloScore("ds1-pions")
        if family is CaloScoreDistilled:
            assert_learns_from_its_teacher_only(student, teacher, stranger, showers, folder)
        student.learn_from(teacher)
        assert student.network_evaluations == steps
        np.testing.assert_array_equal(
            student.sample(energies, evaluations=3).cells,
            replaced_steps(teacher, energies, 3, student),
        )
        batch = student.prepare(VOXELS, showers)

        def mean(student=student, batch=batch):
            torch.manual_seed(0)
            with torch.no_grad():
                return student.loss(VOXELS, batch).mean().item()

        before = mean()
        train(student, showers, folder, epochs=4, progress=False)
        assert mean() < before
        back = models.load(folder)
        np.testing.assert_array_equal(back.sample(energies).cells, student.sample(energies).cells)
        teacher = student


def replaced_steps(teacher, energies, evaluations, student):
    """Cells of the teacher with the student's steps for the layers: before it learns, a student
    is its teacher."""
    networks = {n: caloscore.CaloScore.SAMPLERS["fused"](teacher.networks[n], "float32")
                for n in (LAYERS, VOXELS)}  # fmt: skip
    samplings = {**student.samplings, VOXELS: Sampling("ddim", evaluations)}
    with torch.no_grad(), alike():
        cells = [
            teacher.cells(
                torch.tensor([e]).double(), networks, samplings, ShowerNoise(0, i, torch.float32)
            )
            for i, e in enumerate(energies)
        ]
    cells = torch.cat(cells).numpy().astype(np.float32)
    return np.where(cells < teacher.dataset.threshold, 0, cells)
