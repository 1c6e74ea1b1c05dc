"""CaloINN has the published sizes, its maps return, its samples are showers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from surrogates import (
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
from calostudy.datasets import dataset, load
from calostudy.models import caloinn
from calostudy.models.caloinn import FLOW, Logarithm, Logit
from calostudy.networks.coupling import CouplingFlow
from calostudy.normal_space import layer_numbers
from calostudy.samplers.noise import normal
from calostudy.training import train

NAMES = ("ds1-photons", "ds1-pions", "ds2")
PUBLISHED = {"ds1-photons": 18_803_664, "ds1-pions": 26_575_272, "ds2": 193_580_300}


@pytest.fixture
def small(monkeypatch):
    """Both sizes with few and narrow blocks: what is tested does not depend on the size."""
    for structures in caloinn.STRUCTURE.values():
        for name, structure in structures.items():
            tiny = replace(structure, blocks=2, hidden=3)
            monkeypatch.setitem(structures, name, tiny)


@pytest.mark.parametrize("name", NAMES)
def test_paper_size_has_the_published_number_of_parameters(name):
    counts = models.build("caloinn", name, "paper").parameters_by_network()
    assert counts == {FLOW: PUBLISHED[name]}


@pytest.mark.parametrize(
    ("name", "blocks", "batch_norms", "submitted"),
    [
        ("ds1-photons", 12, 3, 18_821_350),
        ("ds1-pions", 12, 3, 26_592_624),
        ("ds2", 14, 0, 270_999_370),
    ],
)
def test_the_sizes_of_the_challenge_s_submissions_follow(name, blocks, batch_norms, submitted):
    """They have no ActNorm in the first block, batch norms behind the hidden layers of dataset 1
    and 14 blocks on dataset 2 (arXiv:2410.21611)."""
    structure = replace(caloinn.STRUCTURE["paper"][name], blocks=blocks)
    calorimeter = dataset(name).calorimeter
    numbers = calorimeter.cells + len(calorimeter.layers)
    with torch.device("meta"):
        flow = CouplingFlow(numbers, 1, structure)
    counted = sum(p.numel() for p in flow.parameters())
    norms = blocks * batch_norms * 2 * structure.hidden
    assert counted - 2 * numbers + norms == submitted


@pytest.mark.parametrize("kind", [Logarithm(5e-6), Logarithm(1e-6), Logit(1e-6)])
def test_fractions_come_back_from_the_flow_s_numbers(kind):
    x = torch.cat([torch.zeros(50), torch.logspace(-4, 0, 200)]).double()
    uniform = torch.rand(len(x), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = kind.forward(x, uniform)
    assert torch.isfinite(y).all()
    back = kind.inverse(y)
    assert (back[:50] < kind.noise).all()
    torch.testing.assert_close(back, x, rtol=0, atol=kind.noise)


def test_the_logarithm_cuts_what_is_lost_in_its_noise():
    kind = Logarithm(5e-6)
    found = kind.inverse(torch.tensor([-40.0, 9e-6, 2.1e-5]).double().clamp_min(1e-12).log())
    assert found.tolist() == pytest.approx([0.0, 0.0, 2.1e-5 - 5e-6 - 1e-8])


def test_the_logit_takes_a_full_layer_like_an_empty_one():
    kind = Logit(1e-6)
    uniform = torch.tensor([0.3]).double()
    empty, full = (kind.forward(x.double(), u) for x, u in
                   ((torch.zeros(1), uniform), (torch.ones(1), 1 - uniform)))  # fmt: skip
    torch.testing.assert_close(empty, -full, rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", ["paper", "embedded"])
@pytest.mark.parametrize("name", NAMES)
def test_showers_survive_the_way_to_the_flow_and_back(small, name, size):
    surrogate = models.build("caloinn", name, size)
    showers = load(name, "evaluation", rows=slice(0, 20))
    surrogate.fit_constants(showers)
    batch = surrogate.prepare(FLOW, showers)
    values, condition = surrogate._to_flow(batch, torch.Generator().manual_seed(0))
    normal, calorimeter = surrogate.normal, surrogate.dataset.calorimeter
    layers = layer_numbers(calorimeter) if normal else len(calorimeter.layers)
    assert values.shape == (20, calorimeter.cells + layers)
    np.testing.assert_allclose(2.0 ** condition[:, 0] * 1e3, showers.incident_energy)
    back = surrogate._to_showers(values, showers.incident_energy)
    cut = surrogate.dataset.threshold
    kept = showers.above_threshold(cut)
    # Lost are cells next to the cut, or below the width of the noise.
    noise = 0.0 if normal else surrogate._map.noise
    lost = 1.1 * cut + 3 * noise * showers.cells.sum(axis=1)
    differences = np.abs(back.cells - kept.cells).max(axis=1)
    assert (differences <= lost + 1e-3 * showers.cells.max(axis=1)).all()
    np.testing.assert_allclose(back.cells.sum(axis=1), kept.cells.sum(axis=1), rtol=0.02)


@pytest.mark.parametrize("size", ["paper", "embedded"])
@pytest.mark.parametrize("name", NAMES)
def test_samples_are_showers_and_do_not_depend_on_the_batch(small, name, size):
    showers = load(name, "train", rows=slice(0, 40))
    surrogate = shaken(models.build("caloinn", name, size), showers)
    assert_samples_are_showers(surrogate, showers.incident_energy[:5], cuts=(1,))


def test_in_normal_space_an_untrained_flow_hits_as_many_cells_as_geant4(small):
    showers = load("ds2", "train", rows=slice(0, 400))
    surrogate = models.build("caloinn", "ds2", "embedded")
    surrogate.fit_constants(showers)
    made = surrogate.sample(showers.incident_energy, seed=1).cells
    real = showers.above_threshold(surrogate.dataset.threshold).cells
    assert (made > 0).mean() == pytest.approx((real > 0).mean(), rel=0.03)
    assert made.sum() == pytest.approx(real.sum(), rel=0.03)


def test_both_samplers_give_the_same_showers_and_follow_the_weights(small):
    showers = load("ds1-photons", "train", rows=slice(0, 40))
    surrogate = shaken(models.build("caloinn", "ds1-photons"), showers)
    before = assert_samplers_agree(surrogate, "fused", "eager")
    with torch.no_grad():
        surrogate.networks[FLOW].blocks[0].shift += 0.5
    assert_follows_its_weights(surrogate, before)


def test_unknown_sampler_and_precision_are_usage_errors(small):
    surrogate = models.build("caloinn", "ds1-photons")
    assert_refuses_unknown_ways(surrogate, "fused", "eager", "int8")


@pytest.mark.parametrize("size", ["paper", "embedded"])
def test_the_loss_is_finite_for_empty_showers_and_layers(small, size):
    surrogate = models.build("caloinn", "ds1-photons", size)
    calorimeter = surrogate.dataset.calorimeter
    showers = nearly_empty(calorimeter, (256.0, 1e3, 4e6), cell=(100, 1e-3), first_layer=1e2)
    assert_loss_is_finite(surrogate, FLOW, surrogate.prepare(FLOW, showers))


def test_showers_are_turned_in_training_only(small):
    showers = load("ds1-photons", "train", rows=slice(0, 8))
    surrogate = shaken(models.build("caloinn", "ds1-photons", "embedded"), showers)
    assert_turned_in_training_only(surrogate, FLOW, surrogate.prepare(FLOW, showers))


def test_weights_come_back_from_disk(small, tmp_path):
    showers = load("ds1-photons", "train", rows=slice(0, 40))
    surrogate = shaken(models.build("caloinn", "ds1-photons", seed=2), showers)
    assert_weights_come_back(surrogate, tmp_path, np.array([3e3, 6e4]))


def test_training_lowers_the_loss_from_where_the_flow_was_initialised(small, tmp_path):
    showers = load("ds1-photons", "train", rows=slice(0, 80))
    fresh = models.build("caloinn", "ds1-photons")
    fresh.fit_constants(showers)
    with torch.no_grad():
        before = fresh.loss(FLOW, fresh.prepare(FLOW, showers)).mean().item()
    surrogate = models.build("caloinn", "ds1-photons")
    trained = train(surrogate, showers, tmp_path, epochs=3, progress=False)
    with torch.no_grad():
        after = trained.loss(FLOW, trained.prepare(FLOW, showers)).mean().item()
    assert after < before - 5.0
    assert models.read_card(tmp_path)["parameters"] == trained.parameters_by_network()


def test_the_fused_inverse_equals_the_eager_one_on_the_shipped_weights():
    directory = models.shipped_weights("caloinn", "ds1-photons", "embedded")
    flow = models.load(directory).networks[FLOW]
    # noise far beyond the splines' bound too
    noise = normal(1, 0, 6, flow.features) * np.array([1, 1, 1, 1, 8, 8])[:, None]
    condition = np.linspace(-2.0, 12.0, 6)[:, None]
    fast, slow = (
        caloinn.SAMPLERS[k](flow, "float64")(noise, condition) for k in ("fused", "eager")
    )
    assert np.abs(fast - slow).max() <= 1e-10
