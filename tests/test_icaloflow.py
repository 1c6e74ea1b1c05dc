"""iCaloFlow has the published sizes; its maps return, its samples are showers; students learn."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from surrogates import (
    TWO_ENERGIES,
    assert_follows_its_weights,
    assert_learns_from_its_teacher_only,
    assert_loss_is_finite,
    assert_refuses_unknown_ways,
    assert_samplers_agree,
    assert_samples_are_showers,
    assert_weights_come_back,
    nearly_empty,
    shaken,
)
from toy_showers import toy_showers

from calostudy import models, training
from calostudy import preprocessing as pre
from calostudy.datasets import load
from calostudy.models import icaloflow, icaloflow_student
from calostudy.models.icaloflow import FIRST, LAYERS, NEXT
from calostudy.models.surrogate import TrainingRecipe
from calostudy.samplers.noise import normal
from calostudy.showers import Showers
from calostudy.training import train

NAMES = ("ds2", "ds3")
TEACHER, STUDENT = "icaloflow-teacher", "icaloflow-student"
PUBLISHED = {  # arXiv:2410.21611, parameters in generation
    (TEACHER, "ds2"): 19_470_168,
    (STUDENT, "ds2"): 24_519_512,
    (TEACHER, "ds3"): 95_088_152,
    (STUDENT, "ds3"): 95_088_152,
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def small(monkeypatch):
    """Both sizes with few and narrow blocks: what is tested does not depend on the size."""
    for structures in icaloflow.STRUCTURE.values():
        for name, flows in structures.items():
            tiny = {k: replace(s, blocks=2, hidden=6) for k, s in flows.items()}
            monkeypatch.setitem(structures, name, tiny)
    monkeypatch.setattr(icaloflow_student, "HIDDEN", {})
    recipe = TrainingRecipe(4, 16, 5e-3, "multistep", {"milestones": (3,), "factor": 0.5}, 0.25)
    tiny = dict.fromkeys((FIRST, NEXT), recipe)
    monkeypatch.setitem(icaloflow_student.RECIPES["embedded"], "ds2", tiny)


def bent(surrogate):
    """A surrogate with splines that bend, and layer energies as of showers."""
    return shaken(surrogate, load(surrogate.dataset.name, "train", rows=slice(0, 60)), by=0.1)


def taught(name="ds2"):
    teacher = bent(models.build(TEACHER, name))
    student = models.build(STUDENT, name, seed=3)
    student.learn_from(teacher)
    return student, teacher


@pytest.mark.parametrize(("model", "name"), PUBLISHED)
def test_paper_size_has_the_published_number_of_parameters(model, name):
    counts = models.build(model, name, "paper").parameters_by_network()
    assert sum(counts.values()) == PUBLISHED[model, name]
    # In training the challenge counts flows 2 and 3 of the teacher as well.
    submitted = {"ds2": 41_237_080, "ds3": 187_423_704}[name]
    taught = models.build(TEACHER, name, "paper").parameters_by_network()
    extra = taught[FIRST] + taught[NEXT]
    assert model == TEACHER or sum(counts.values()) + extra == submitted


def test_flow_three_has_the_published_conditions():
    with torch.device("meta"):
        flow = models.build(TEACHER, "ds2", "paper").build_networks()[NEXT]
    assert flow._transform._transforms[0].autoregressive_net.context_layer.in_features == 191


@given(
    shares=st.lists(st.lists(st.floats(0.0, 1e3), min_size=5, max_size=5), min_size=1, max_size=4),
    energy=st.floats(0.0, 1e4),
    threshold=st.floats(1e-3, 10.0),
)
def test_what_is_shared_out_sums_to_the_energy_above_the_threshold(shares, energy, threshold):
    shares = torch.tensor(shares, dtype=torch.float64)
    whole = torch.full((len(shares),), energy, dtype=torch.float64)
    cells = pre.share_out(shares, whole, threshold)
    hit = cells[cells > 0]
    assert (hit >= threshold * (1 - 1e-9)).all()
    wanted = whole if energy >= threshold else torch.zeros_like(whole)
    torch.testing.assert_close(cells.sum(dim=1), wanted, rtol=1e-9, atol=0)
    # the largest shares are kept, in proportion
    for row, found in zip(shares.clamp_min(1e-30), cells, strict=True):
        assert row[found > 0].min() >= row[found == 0].max() if 0 < (found > 0).sum() < 5 else True
        ratio = found[found > 0] / row[found > 0]
        assert not len(ratio) or ratio.max() <= ratio.min() * (1 + 1e-9)


def test_sharing_out_leaves_what_fits_as_it_is_and_drops_as_few_as_it_takes():
    shares = torch.tensor([[5.0, 0.0, 3.0, 2.0], [90.0, 9.0, 0.5, 0.4]]).double()
    cells = pre.share_out(shares, torch.tensor([10.0, 100.0]).double(), 1.0)
    np.testing.assert_allclose(cells[0], [5.0, 0.0, 3.0, 2.0])
    np.testing.assert_allclose(cells[1], [90 / 0.99, 9 / 0.99, 0.0, 0.0])


@pytest.mark.parametrize("size", ["paper", "embedded"])
@pytest.mark.parametrize("name", NAMES)
def test_showers_survive_the_way_to_the_flows_and_back(small, name, size):
    surrogate = models.build(TEACHER, name, size)
    showers = load(name, "evaluation", rows=slice(0, 12))
    batch, maps = surrogate.prepare(NEXT, showers), surrogate.maps
    torch.manual_seed(0)
    values = maps.energies_to_flow(batch["energies"], batch["incident"])
    energies = maps.energies_from_flow(values, batch["incident"])
    inside = batch["energies"] > 1.0
    assert torch.isfinite(values).all()
    # The noise, and what the logit rounds next to 0 and 1.
    lost = 2e-4 * batch["incident"][:, None] + 0.25
    assert ((energies - batch["energies"]).abs() <= lost)[inside].all()

    cells = batch["cells"].view(12 * 45, -1).double()
    values = maps.cells_to_flow(cells, torch.rand_like(cells))
    assert torch.isfinite(values).all()
    cut, sums = surrogate.dataset.threshold, cells.sum(dim=1)
    back = pre.share_out(maps.cells_from_flow(values), sums, cut)
    differences = (back - cells).abs().max(dim=1).values
    # In a layer of little energy the published noise of the empty cells is not negligible.
    small_cells = cells.where(cells < icaloflow.Logarithms.cell_floor, 0.0).sum(dim=1)
    lost = {"paper": icaloflow.Fractions.noise * cells.shape[1], "embedded": small_cells}[size]
    assert (differences <= lost + 1e-3 * sums).all()


@pytest.mark.parametrize("size", ["paper", "embedded"])
@pytest.mark.parametrize("model", [TEACHER, STUDENT])
def test_samples_are_showers_and_do_not_depend_on_the_batch(small, model, size, monkeypatch):
    surrogate = bent(models.build(model, "ds2", size))
    energies = np.geomspace(1e3, 1e5, 7)
    at_once = surrogate.sample(energies, seed=5)
    monkeypatch.setattr(icaloflow, "CHUNK", 3)
    in_chunks = assert_samples_are_showers(surrogate, energies, cuts=(1, 3))
    np.testing.assert_array_equal(at_once.cells, in_chunks.cells)


@pytest.mark.parametrize("size", ["paper", "embedded"])
@pytest.mark.parametrize("name", NAMES)
def test_layers_have_the_energies_of_flow_one(small, name, size):
    surrogate = bent(models.build(TEACHER, name, size))
    energies = np.array([2e3, 7e4])
    showers = surrogate.sample(energies, seed=2)
    calorimeter = showers.calorimeter
    noise = normal(2, 0, 2, 45 + calorimeter.cells)[:, :45]
    inverse = surrogate.samplers(LAYERS)["incremental"](surrogate.networks[LAYERS], "float32")
    wanted = surrogate.layer_energies(inverse, noise, torch.as_tensor(energies)).numpy()
    assert (wanted > 0).any()
    np.testing.assert_allclose(showers.layer_energies(), wanted, rtol=1e-5)


@pytest.mark.parametrize("model", [TEACHER, STUDENT])
def test_both_samplers_give_the_same_flows_and_showers(small, model):
    surrogate = bent(models.build(model, "ds2"))
    assert _largest_difference(surrogate) <= 1e-10
    before = surrogate.sample(TWO_ENERGIES, seed=1, precision="float64")
    if model == STUDENT:  # the teacher's takes nflows a minute
        assert_samplers_agree(surrogate, "one-pass", "nflows")
    with torch.no_grad():
        last = surrogate.networks[NEXT]._transform._transforms[-1].autoregressive_net.final_layer
        last.bias[::3] += 1.0
    assert_follows_its_weights(surrogate, before)


def _largest_difference(surrogate, rows=4):
    """Of the two inverses of any flow in double precision, on the conditions of showers."""
    showers = load(surrogate.dataset.name, "evaluation", rows=slice(0, rows))
    found = []
    for network, flow in surrogate.networks.items():
        torch.manual_seed(0)
        values, context = surrogate.inputs(network, surrogate.prepare(network, showers))
        context = context[:: len(context) // rows].double().numpy()
        # noise far beyond the splines' bound too
        noise = normal(1, 0, rows, values.shape[1]) * np.array([1, 1, 1, 8])[:, None]
        wanted, *others = (
            make(flow, "float64")(noise, context) for make in surrogate.samplers(network).values()
        )
        found += [np.abs(other - wanted).max() for other in others]
    return max(found)


@pytest.mark.parametrize("size", ["paper", "embedded"])
@pytest.mark.parametrize("network", [LAYERS, FIRST, NEXT])
def test_the_loss_is_finite_for_empty_showers_and_layers(small, network, size):
    surrogate = models.build(TEACHER, "ds2", size)
    calorimeter = surrogate.dataset.calorimeter
    showers = nearly_empty(calorimeter, (1e3, 1e3, 4e5), cell=(1000, 0.02), first_layer=1e2)
    assert_loss_is_finite(surrogate, network, surrogate.prepare(network, showers))


def test_flow_three_learns_layers_that_are_not_empty(small):
    surrogate = models.build(TEACHER, "ds2")
    energies = torch.zeros(2, 45)
    energies[0, 3:20] = 1.0
    energies[1, 1:] = 1.0
    torch.manual_seed(0)
    chosen = surrogate._chosen(NEXT, energies)
    assert chosen.shape == (2, icaloflow.PAIRS["embedded"])
    assert all(len(row.unique()) == len(row) for row in chosen)
    assert ((chosen[0] >= 3) & (chosen[0] < 20)).all() and (chosen >= 1).all()
    published = models.build(TEACHER, "ds2", "paper")._chosen(NEXT, energies)
    assert (published.sort(dim=1).values == torch.arange(1, 45)).all()


def test_a_pair_of_layers_is_turned_together_in_training_only(small):
    surrogate = models.build(TEACHER, "ds2")
    cells = np.zeros((5, 45, 144), np.float32)
    where = np.random.default_rng(0).integers(144, size=5)
    cells[np.arange(5), :, where] = 50.0  # one cell, the same in every layer
    showers = Showers(surrogate.dataset.calorimeter, np.full(5, 1e4), cells.reshape(5, -1))
    batch = surrogate.prepare(NEXT, showers)

    def hottest():
        values, context = surrogate.inputs(NEXT, batch)
        return values.argmax(dim=1), context[:, 3:147].argmax(dim=1)

    torch.manual_seed(0)
    here, before = hottest()
    assert torch.equal(here, before)
    assert torch.equal(here, torch.as_tensor(where).repeat_interleave(len(here) // 5))
    surrogate.networks[NEXT].train()
    turned, before = hottest()
    assert torch.equal(turned, before) and not torch.equal(turned, here)
    assert torch.equal(turned % 9, here % 9)  # the radius stays


def test_unknown_sampler_and_precision_are_usage_errors(small):
    assert_refuses_unknown_ways(models.build(TEACHER, "ds2"), "incremental", "nflows")


def test_weights_come_back_from_disk(small, tmp_path):
    surrogate = bent(models.build(TEACHER, "ds2", seed=2))
    assert_weights_come_back(surrogate, tmp_path, np.array([3e3, 6e4]))


def test_training_lowers_every_loss(small, tmp_path):
    showers = load("ds2", "train", rows=slice(0, 80))
    train(models.build(TEACHER, "ds2"), showers, tmp_path, epochs=3, progress=False)
    curves = models.read_card(tmp_path)["loss_curve"]
    assert set(curves) == {LAYERS, FIRST, NEXT}
    for curve in curves.values():
        losses = [epoch["validation_loss"] for epoch in curve]
        assert losses[-1] < losses[0]


def test_a_student_takes_over_what_it_does_not_learn(small):
    student, teacher = taught()
    energies = np.array([1e4, 5e4])
    layers = [s.sample(energies, seed=3).layer_energies() for s in (student, teacher)]
    np.testing.assert_allclose(*layers, rtol=1e-5)
    assert student.trained_networks == (FIRST, NEXT)
    assert all(torch.equal(student.constants[k], v) for k, v in teacher.constants.items())


def test_the_inverse_of_the_teacher_has_no_loss_and_no_divergence(small, monkeypatch):
    # Splines that follow from the conditions alone: the same weights invert them.
    student, teacher = taught()
    batch = {k: student.prepare(k, toy_showers("ds2", 6, seed=1)) for k in (FIRST, NEXT)}
    for network in (FIRST, NEXT):
        assert student.loss(network, batch[network]).min() > 1.0
        flows = [s.networks[network] for s in (student, teacher)]
        for own, given_ in zip(*(f._transform._transforms for f in flows), strict=True):
            if hasattr(own, "autoregressive_net"):
                with torch.no_grad():
                    given_.autoregressive_net.initial_layer.weight.zero_()
                    own.load_state_dict(given_.state_dict())
        for flow in flows:
            flow.double()
    monkeypatch.setattr(icaloflow.ICaloFlow, "precision", torch.float64)
    for network in (FIRST, NEXT):
        assert student.loss(network, batch[network]).max() < 1e-9
        assert student.monitor(network, batch[network])["divergence"].abs().max() < 1e-6


def test_distillation_brings_the_student_nearer_and_leaves_flow_one_alone(small, tmp_path):
    student, teacher = taught()
    before = {k: v.clone() for k, v in teacher.networks[LAYERS].state_dict().items()}
    train(student, load("ds2", "train", rows=slice(0, 40)), tmp_path, epochs=6, progress=False)
    log = [json.loads(line) for line in (tmp_path / training.LOG).read_text().splitlines()]
    card = models.read_card(tmp_path)
    for network in (FIRST, NEXT):
        entries = [entry for entry in log if entry["network"] == network]
        assert entries[-1]["validation_loss"] < 0.9 * entries[0]["validation_loss"]
        found = [entry["divergence"] for entry in entries]
        assert card["best_epoch"][network] == 1 + found.index(min(found))
    assert {entry["network"] for entry in log} == {FIRST, NEXT}
    for key, tensor in student.networks[LAYERS].state_dict().items():
        assert torch.equal(tensor, before[key])
    assert card["training"]["teacher"] == teacher.fingerprint()
    assert models.load(tmp_path).fingerprint() == student.fingerprint()


def test_a_student_without_its_teacher_is_a_usage_error(small, tmp_path):
    showers, stranger = toy_showers("ds2", 4, seed=1), models.build(TEACHER, "ds3")
    assert_learns_from_its_teacher_only(*taught(), stranger, showers, tmp_path)


@pytest.mark.parametrize("model", [TEACHER, STUDENT])
def test_the_fast_inverse_equals_nflows_on_the_shipped_weights(model):
    surrogate = models.load(models.shipped_weights(model, "ds2", "embedded"))
    assert _largest_difference(surrogate) <= 1e-10
