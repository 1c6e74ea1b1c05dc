"""The catalogue counts its networks, weights survive the disk, samples are showers."""

import json
import math

import numpy as np
import pytest
import torch
from surrogates import (
    assert_loss_is_finite,
    assert_refuses_unknown_ways,
    assert_samplers_agree,
    assert_samples_are_showers,
    assert_weights_come_back,
    shaken,
)

from calostudy import models
from calostudy.datasets import load
from calostudy.errors import DataError, UsageError
from calostudy.models import caloflow
from calostudy.models.caloflow import LAYERS, VOXELS
from calostudy.models.dd_arm import DDARM
from calostudy.models.diffusion import Diffusion
from calostudy.preprocessing import normalise_layers
from calostudy.samplers.noise import normal

EPLUS = ("caloflow-teacher", "calogan-eplus", "embedded")
TRAINED = [
    tuple(row[k] for k in ("model", "dataset", "size"))
    for row in models.catalogue()
    if row["trained"]
]


@pytest.fixture
def small(monkeypatch):
    """Size `embedded`, far smaller: what is tested does not depend on the size."""
    tiny = {
        LAYERS: caloflow.Structure(2, 8, 1, 0.0, tail_bound=6.0),
        VOXELS: caloflow.Structure(2, 8, 1, 0.1, degrees="spread", tail_bound=6.0),
    }
    for name in caloflow.STRUCTURE["embedded"]:
        monkeypatch.setitem(caloflow.STRUCTURE["embedded"], name, tiny)


def away(surrogate):
    """A surrogate whose weights and constants are far from where they begin."""
    for network in surrogate.networks:
        surrogate.constants[f"{network}.mean"] -= 5.0
        surrogate.constants[f"{network}.deviation"] *= 2.0
    return shaken(surrogate, by=0.2)


@pytest.mark.parametrize(
    ("name", "layers", "voxels"),
    [
        ("calogan-eplus", 79_134, 37_835_280),
        ("ds1-photons", 97_842, 27_945_968),
        ("ds1-pions", 116_550, 56_962_776),
    ],
)
def test_paper_size_has_the_published_numbers_of_parameters(name, layers, voxels):
    counts = models.build("caloflow-teacher", name, "paper").parameters_by_network()
    assert counts == {LAYERS: layers, VOXELS: voxels}


def test_catalogue_counts_what_would_be_trained():
    rows = {(r["model"], r["dataset"], r["size"]): r for r in models.catalogue()}
    expected = sum(len(family.datasets) * len(family.sizes) for family in models.MODELS.values())
    assert len(rows) == expected and {key[2] for key in rows} == {"paper", "embedded"}
    families = models.MODELS.values()
    assert len(rows) == sum(len(family.datasets) * len(family.sizes) for family in families)
    assert {key[2] for key in rows} == {"paper", "embedded"}
    networks = models.build(*EPLUS).networks
    counted = {k: sum(p.numel() for p in net.parameters()) for k, net in networks.items()}
    row = rows[EPLUS]
    assert row["parameters_by_network"] == counted and row["parameters"] == sum(counted.values())
    assert row["network_evaluations"] == 1
    json.dumps(list(rows.values()))


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-model", "calogan-eplus", "paper"),
        ("caloflow-teacher", "ds2", "paper"),
        ("caloflow-teacher", "no-dataset", "paper"),
        ("caloflow-teacher", "calogan-eplus", "huge"),
    ],
)
def test_unknown_names_are_usage_errors(arguments):
    with pytest.raises(UsageError):
        models.build(*arguments)


def test_random_weights_follow_the_seed_alone(small):
    torch.manual_seed(7)
    one = models.build(*EPLUS, seed=3)
    first = one.fingerprint()
    torch.set_default_dtype(torch.float64)
    try:
        assert models.build(*EPLUS, seed=3).fingerprint() == first
    finally:
        torch.set_default_dtype(torch.float32)
    assert models.build(*EPLUS, seed=4).fingerprint() != first


@pytest.mark.parametrize("name", ["calogan-eplus", "ds1-photons", "ds1-pions"])
def test_samples_are_showers_and_do_not_depend_on_the_batch(small, name):
    surrogate = away(models.build("caloflow-teacher", name, "embedded"))
    showers = assert_samples_are_showers(surrogate, np.linspace(2e3, 9e4, 7), cuts=(1, 4))
    assert showers.cells[showers.cells > 0].min() >= caloflow.SMALLEST_CELL
    assert (showers.overflow is None) == (name != "calogan-eplus")


def test_no_voxel_has_more_of_its_layer_than_any_turned_shower_of_the_training(small):
    surrogate = models.build("caloflow-teacher", "ds1-photons")
    slices, rows = surrogate.dataset.calorimeter.slices, slice(0, 30)
    sample = load("ds1-photons", "train", rows=rows)
    surrogate.fit_constants(sample)
    largest = surrogate.constants["flow-II.largest"]
    turned = torch.as_tensor(sample.cells)[:, surrogate.symmetries].flatten(0, 1)
    torch.testing.assert_close(largest, normalise_layers(turned, slices).amax(dim=0))
    # the hardest hit voxel, had no shower of the training hit it
    shaken(surrogate)
    energies = np.geomspace(1e3, 6e4, 50)
    free = surrogate.sample(energies)
    hardest = slices[1].start + free.cells[:, slices[1]].sum(axis=0).argmax()
    largest[hardest] = 0.0
    bounded = surrogate.sample(energies)
    assert free.cells[:, hardest].any() and not bounded.cells[:, hardest].any()
    # its energy goes to the others of the layer, but for what stays below the threshold
    kept, before = bounded.layer_energies(), free.layer_energies()
    np.testing.assert_allclose(kept, before, rtol=0.01, atol=3.0)
    assert not models.build("caloflow-teacher", "ds1-photons", "paper").constants


def test_both_samplers_give_the_same_showers(small):
    surrogate = away(models.build(*EPLUS))
    assert_samplers_agree(surrogate, "incremental", "nflows", energies=np.array([1e4, 5e4]))


def test_samples_follow_the_weights_when_they_change(small):
    surrogate = away(models.build(*EPLUS))
    before = surrogate.sample(np.array([1e4]))
    assert not np.array_equal(before.cells, shaken(surrogate).sample(np.array([1e4])).cells)


def test_unknown_sampler_and_precision_are_usage_errors(small):
    assert_refuses_unknown_ways(models.build(*EPLUS), "incremental", "nflows")


@pytest.mark.parametrize("size", ["paper", "embedded"])
def test_the_loss_is_finite_for_empty_showers_and_layers(small, size, monkeypatch):
    monkeypatch.setitem(caloflow.STRUCTURE, "paper", caloflow.STRUCTURE["embedded"])
    surrogate = models.build("caloflow-teacher", "calogan-eplus", size)
    cells = torch.zeros(3, 504)
    cells[1, 100] = 1e-3
    cells[2, :288] = 1e-4
    for network in surrogate.networks:
        batch = {"cells": cells, "incident": torch.tensor([0.01, 0.5, 1.0]).double()}
        assert_loss_is_finite(surrogate, network, batch)


def test_weights_come_back_from_disk(small, tmp_path):
    surrogate = away(models.build(*EPLUS, seed=2))
    back = assert_weights_come_back(surrogate, tmp_path, np.array([3e3, 6e4]), {"note": "kept"})
    card = models.read_card(tmp_path)
    assert card["note"] == "kept" and card["weights_sha256"] == back.weights_sha256
    assert set(card["parameters"]) == {LAYERS, VOXELS}


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def _replace(path):
    path.write_bytes(b"not a safetensors file")


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [_truncate, _replace, _flip, lambda path: path.unlink()])
def test_damaged_weights_are_one_clear_error(small, tmp_path, damage):
    models.build(*EPLUS).save(tmp_path)
    damage(tmp_path / models.WEIGHTS)
    with pytest.raises(DataError, match=models.WEIGHTS):
        models.load(tmp_path)


def test_weights_of_another_network_are_one_clear_error(small, tmp_path, monkeypatch):
    models.build(*EPLUS).save(tmp_path)
    wider = {**caloflow.STRUCTURE["embedded"]["calogan"]}
    wider[VOXELS] = caloflow.Structure(2, 9, 1, 0.1, degrees="spread", tail_bound=6.0)
    monkeypatch.setitem(caloflow.STRUCTURE["embedded"], "calogan", wider)
    with pytest.raises(DataError, match="expected"):
        models.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": "caloflow-teacher"}'])
def test_a_damaged_card_is_one_clear_error(tmp_path, text):
    (tmp_path / models.CARD).write_text(text)
    with pytest.raises(DataError, match=models.CARD):
        models.load(tmp_path)


def response(showers):
    """Energies of the layers and of all over the incident energy, and their standard errors."""
    energy = showers.incident_energy
    parts = np.column_stack([showers.layer_energies(), showers.total_energy()])
    mean = parts.sum(axis=0) / energy.sum()
    scatter = (parts - mean * energy[:, None]).std(axis=0)
    return mean, scatter * np.sqrt(len(energy)) / energy.sum()


@pytest.mark.parametrize("name", TRAINED, ids="/".join)
def test_shipped_weights_give_showers_like_the_simulated_ones(name):
    surrogate = models.load(models.shipped_weights(*name))
    # Many steps and many cells take their time.
    count = 150 if isinstance(surrogate, Diffusion | DDARM) else 500
    reference = load(name[1], "evaluation", rows=slice(0, count))
    reference = reference.above_threshold(surrogate.dataset.threshold)
    generated = surrogate.sample(reference.incident_energy, seed=11)
    for showers in (generated, reference):
        assert np.isfinite(showers.cells).all()
    fractions, errors = zip(*(response(s) for s in (generated, reference)), strict=True)
    allowed = 4 * np.hypot(*errors)  # the scatter of so few showers
    # A few per cent, far narrower than a bug.
    assert (np.abs(fractions[0] - fractions[1]) < 0.03 + allowed).all()
    ratio = fractions[0][-1] / fractions[1][-1]
    assert abs(ratio - 1) < 0.02 + allowed[-1] / fractions[1][-1]
    threshold = max(0.01, surrogate.dataset.threshold)
    occupied = [(s.above_threshold(threshold).cells > 0).mean() for s in (generated, reference)]
    assert math.isclose(*occupied, abs_tol=0.05)


@pytest.mark.parametrize("name", [n for n in TRAINED if n[0].startswith("caloflow")], ids="/".join)
def test_the_fast_inverse_equals_nflows_on_the_shipped_weights(name):
    surrogate = models.load(models.shipped_weights(*name))
    energies = np.array([5e3, 8e4])
    # noise far in the linear tails too
    layers = len(surrogate.dataset.calorimeter.layers)
    cases = {LAYERS: (layers, 1), VOXELS: (surrogate.dataset.calorimeter.cells, 1 + layers)}
    for network, (features, context) in cases.items():
        noise = normal(1, 0, len(energies), features) * np.array([[1.0], [8.0]])
        condition = np.linspace(-1.0, 1.0, 2 * context).reshape(2, context)
        wanted, *others = (
            sampler(surrogate.networks[network], "float64")(noise, condition)
            for sampler in surrogate.samplers(network).values()
        )
        for found in others:
            assert np.abs(found - wanted).max() <= 1e-10
