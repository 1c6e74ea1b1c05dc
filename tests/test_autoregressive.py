"""D+D ARM: its order of cells, its networks, both ways to draw cells, its losses and showers."""

import numpy as np
import pytest
import torch
from surrogates import (
    assert_loss_is_finite,
    assert_samples_are_showers,
    assert_turned_in_training_only,
    assert_weights_come_back,
    shaken,
)

from calostudy import models
from calostudy.calorimeter import Layer
from calostudy.datasets import load
from calostudy.errors import UsageError
from calostudy.models import dd_arm
from calostudy.models.dd_arm import ADDED, LAYERS, LEFT_OUT, SAMPLERS, path
from calostudy.networks.autoregressive import SharedStructure, drawn
from calostudy.networks.spiral import Spiral, sizeless, spiral
from calostudy.samplers.autoregressive_kernels import exponentials
from calostudy.segmentations import INNER, MIDDLE, OUTER, resegment, segmentation
from calostudy.training import train

MODELS = ("dd-arm", "dd-arm-unaware")
COARSEST = ((48, 4), (12, 12))
PHOTON = np.full(1, 65e3)


@pytest.fixture
def small(monkeypatch):
    """Both sizes, far smaller, on the coarsest segmentations."""
    monkeypatch.setattr(dd_arm, "STRUCTURE", dict.fromkeys(LAYERS, SharedStructure(2, 8)))
    sizes = {"inner": (COARSEST[0],), "middle": (COARSEST[1],), "outer": (OUTER,)}
    monkeypatch.setattr(dd_arm, "SEGMENTATIONS", sizes)
    monkeypatch.setattr(dd_arm, "ADDED", dict.fromkeys(LAYERS, ()))
    monkeypatch.setattr(dd_arm, "PUBLISHED_LAYERS", {"inner": 1, "middle": 2, "outer": 1})


def showers(n=20):
    return load("segmentations", "train", rows=slice(0, n))


def prepared(name="dd-arm", size="embedded", n=20):
    return shaken(models.build(name, "segmentations", size), showers(n))


def coarsest(surrogate, n=4, **options):
    return surrogate.sample(np.full(n, 65e3), segmentation=COARSEST, **options)


# ---- the order of cells ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [*MIDDLE, *INNER[:3]], ids=str)
def test_the_spiral_visits_every_cell_once_and_never_comes_nearer(size):
    inner, middle = (INNER[0], size) if size in MIDDLE else (size, MIDDLE[0])
    layer = segmentation(inner, middle).layers[size in MIDDLE]
    order = spiral(layer)
    assert sorted(order) == list(range(layer.cells))
    rows, columns = np.unravel_index(order, layer.shape)
    assert layer.edges[0][rows[0]] == 0 and layer.edges[1][columns[0]] == 0
    rings = np.maximum(abs(rows - rows[0]), abs(columns - columns[0]))
    assert (np.diff(rings) >= 0).all()


def test_the_spiral_turns_counter_clockwise_from_cell_to_neighbour():
    layer = segmentation(INNER[0], (48, 48)).layers[1]
    rows, columns = np.unravel_index(spiral(layer)[: 47**2], layer.shape)
    steps = np.abs(np.diff(rows)) + np.abs(np.diff(columns))
    assert (steps == 1).all()
    x, y = rows[1:] - rows[0], columns[1:] - columns[0]
    turns = np.diff(np.unwrap(np.arctan2(y, x)))
    assert (turns > -1e-9).all() and turns.sum() / (2 * np.pi) == pytest.approx(23, abs=0.2)


def test_neighbours_are_cells_before_and_next_to_a_cell():
    own = path(1, (36, 48), True)[0]
    table, n = own.neighbours.numpy(), len(own)
    places = np.arange(n)[:, None]
    assert ((table < places) | (table == n)).all()
    place = np.array(np.unravel_index(own.order, own.layer.shape))
    near = table[:, :24]
    cell, column = np.nonzero(near < n)
    away = np.abs(place[:, cell] - place[:, near[cell, column]])
    assert away.max() == 2 and (away.sum(axis=0) > 0).all()
    # of two neighbours one comes before the other
    a, b = own.layer.shape
    pairs = sum((a - abs(i)) * (b - abs(j)) for i in range(-2, 3) for j in range(-2, 3)) - a * b
    assert len(cell) == pairs // 2


def test_sizes_are_told_to_one_network_and_hidden_from_its_twin():
    layer = segmentation(INNER[0], (48, 48)).layers[1]
    eta, phi = layer.edges
    wider = Layer(layer.id, layer.view, (3 * eta, phi), layer.depth)
    aware, hidden = ([Spiral(f(each)) for each in (layer, wider)] for f in (lambda x: x, sizeless))
    assert not torch.equal(*(each.features for each in aware))
    assert not torch.equal(*(each.sizes for each in aware))
    for name in ("features", "sizes", "centres"):
        assert torch.equal(*(getattr(each, name) for each in hidden))
    assert np.array_equal(aware[0].order, hidden[1].order)
    assert hidden[0].sizes.unique().tolist() == [1.0]


@pytest.mark.parametrize(("layer", "size"), [(0, (192, 4)), (1, (36, 48)), (2, OUTER)])
def test_cells_on_the_spiral_are_those_of_the_segmentation(layer, size):
    surrogate, own = models.build("dd-arm", "segmentations"), showers(6)
    sizes = [INNER[0], MIDDLE[0], OUTER]
    sizes[layer] = size
    expected = resegment(own, *sizes[:2]).above_threshold(0.5)
    found = surrogate._coarse(surrogate._finest_cells(own, layer), layer, size).numpy()
    flat = expected.layer(layer).reshape(6, -1)[:, path(layer, size, True)[0].order]
    np.testing.assert_allclose(found, flat, rtol=1e-5)


# ---- networks and samplers -------------------------------------------------------------------


@pytest.mark.parametrize("size", ["embedded", "paper"])
def test_a_cell_depends_on_those_before_it_only(small, size):
    surrogate = prepared(size=size)
    own = path(1, COARSEST[1], True)[0]
    network = surrogate.networks["middle"].double()
    generator = torch.Generator().manual_seed(0)
    categories = torch.randint(0, 40, (1, len(own)), generator=generator)
    given = torch.zeros(1, 5 if size == "embedded" else 0, dtype=torch.float64)
    before = network(own, categories, given)
    for cell in (0, 30, 142):
        changed = categories.clone()
        changed[0, cell] += 25
        moved = (network(own, changed, given) - before).abs().amax(dim=2)[0]
        assert (moved[: cell + 1] == 0).all() and moved[cell + 1] > 1e-6
    wanted = network(own, categories, given, torch.tensor([3, 77]))
    torch.testing.assert_close(wanted, before[:, [3, 77]])


@pytest.mark.parametrize("name", MODELS)
def test_one_triangular_pass_gives_the_categories_of_one_pass_for_each_cell(small, name):
    surrogate = prepared(name)
    fast, slow = (
        coarsest(surrogate, 2, seed=1, sampler=sampler, precision="float64") for sampler in SAMPLERS
    )
    np.testing.assert_array_equal(fast.cells, slow.cells)
    assert len(np.unique(fast.cells)) > 20
    with torch.no_grad():
        head = surrogate.networks["inner"].head
        head.bias += torch.arange(len(head.bias)).sin()
    after = coarsest(surrogate, 2, seed=1, precision="float64")
    assert not np.array_equal(after.cells, fast.cells)


@pytest.mark.parametrize("first", [None, np.array([90, 120])])
def test_the_published_network_is_sampled_in_one_triangular_pass_too(small, first):
    network, own = prepared(size="paper").networks["middle"], path(1, COARSEST[1], True)[0]
    random = np.random.default_rng(0).random((2, len(own)))
    fast, slow = (
        make(network, "float64")(own, np.zeros((2, 0)), random, first) for make in SAMPLERS.values()
    )
    np.testing.assert_array_equal(fast, slow)
    assert len(np.unique(fast)) > 20 and (first is None or (fast[:, 0] == first).all())


def test_exponentials_are_right_to_the_last_places():
    x = np.concatenate([np.linspace(-40, 40, 4001), [-700.0, -745.0, 0.0, 1e-12, 700.0]])
    bits = np.empty(len(x), np.int64)
    found = x.copy()
    exponentials(found, bits, bits.view(np.float64))
    np.testing.assert_allclose(found, np.exp(np.clip(x, -700, 700)), rtol=1e-14)


def test_categories_are_drawn_with_the_probabilities_of_the_logits():
    logits = torch.tensor([0.3, -1.0, 2.0, -20.0, 1.0], dtype=torch.float64)
    random = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    found = torch.bincount(drawn(logits.expand(20_000, -1), random), minlength=5) / 20_000
    torch.testing.assert_close(found, logits.softmax(0).float(), atol=1e-4, rtol=0)


# ---- the surrogate ---------------------------------------------------------------------------


def test_paper_networks_have_the_published_layers():
    counts = models.build("dd-arm", "segmentations", "paper").parameters_by_network()
    k = dd_arm.LATENT
    for name, cells, layers in (("inner", 9216, 1), ("middle", 2304, 5), ("outer", 576, 5)):
        masked = k * cells * 3 * cells + (layers - 1) * (k * cells) ** 2 + layers * k * cells
        assert counts[name] == masked + (k + 1) * dd_arm.CATEGORIES[name]
    embedded = models.build("dd-arm", "segmentations").parameters_by_network()
    assert embedded == models.build("dd-arm-unaware", "segmentations").parameters_by_network()
    assert sum(embedded.values()) < 100_000


def test_some_segmentations_are_kept_from_the_embedded_networks(monkeypatch):
    surrogate = models.build("dd-arm", "segmentations")
    seen = set()
    monkeypatch.setattr(dd_arm, "path", lambda *key: (seen.add(key[:2]), path(*key))[1])
    surrogate.fit_constants(showers(4))
    cells = surrogate.prepare("inner", showers(8))
    torch.manual_seed(0)
    for network in LAYERS:
        for training in (True, False):
            surrogate.networks[network].train(training)
            for _ in range(40 if training else 1):
                surrogate.loss(network, cells)
    left_out = {(n, size) for n, name in enumerate(LAYERS) for size in LEFT_OUT[name]}
    assert not seen & left_out and len(seen) == 13 - len(left_out) + sum(map(len, ADDED.values()))


def test_samples_are_showers_on_the_finest_cells_and_do_not_depend_on_the_batch(small):
    assert_samples_are_showers(prepared(), np.full(5, 65e3), cuts=(1, 3), first=14)


@pytest.mark.parametrize("size", ["embedded", "paper"])
def test_any_segmentation_can_be_asked_for(small, size):
    surrogate = prepared(size=size)
    whole = coarsest(surrogate, seed=2)
    assert whole.calorimeter is segmentation(*COARSEST)
    part = coarsest(surrogate, 2, seed=2, first=2)
    np.testing.assert_array_equal(whole.cells[2:], part.cells)
    assert (whole.cells[whole.cells > 0] >= 0.5).all()


def test_the_published_first_cell_is_as_often_of_a_category_as_in_training(small):
    surrogate = prepared(size="paper", n=50)
    first = path(1, COARSEST[1], True)[0].order[0]
    found = coarsest(surrogate, 80, seed=3).layer(1).reshape(80, -1)[:, first]
    own = resegment(showers(50), *COARSEST).layer(1).reshape(50, -1)[:, first]
    squares = np.rint(np.sqrt(own)) ** 2
    assert set(found) <= set(squares)
    assert found.mean() == pytest.approx(squares.mean(), abs=4 * squares.std() / np.sqrt(80))


def test_other_energies_segmentations_and_ways_are_usage_errors(small):
    surrogate = models.build("dd-arm", "segmentations")
    with pytest.raises(UsageError, match="65 GeV only"):
        surrogate.sample(np.array([65e3, 1e4]))
    with pytest.raises(UsageError, match="no inner layer of"):
        surrogate.sample(PHOTON, segmentation=((47, 4), (12, 12)))
    with pytest.raises(UsageError, match=r"'guess'.*triangular, plain"):
        surrogate.sample(PHOTON, sampler="guess")
    with pytest.raises(UsageError, match="float32"):
        surrogate.sample(PHOTON, precision="float16")


def test_layers_are_told_of_those_before_them_in_size_embedded_only(small):
    for size, changes in (("embedded", True), ("paper", False)):
        surrogate = prepared(size=size)
        before = coarsest(surrogate)
        with torch.no_grad():
            surrogate.networks["inner"].head.bias[60:] += 3.0
        after = coarsest(surrogate)
        assert not np.array_equal(before.layer(0), after.layer(0))
        for layer in (1, 2):
            assert np.array_equal(before.layer(layer), after.layer(layer)) != changes


@pytest.mark.parametrize("network", LAYERS)
def test_the_loss_of_some_cells_estimates_that_of_all(small, monkeypatch, network):
    surrogate = prepared()
    monkeypatch.setattr(dd_arm, "WANTED", {True: 40, False: 10**9})
    batch = {"cells": surrogate.prepare(network, showers(8))["cells"]}
    monkeypatch.setattr(dd_arm.DDARM, "symmetries", None)
    with torch.no_grad():
        whole = surrogate.loss(network, batch)
        surrogate.networks[network].train()
        torch.manual_seed(2)
        parts = torch.stack([surrogate.loss(network, batch) for _ in range(400)])
    error = parts.mean(dim=1).std() / 400**0.5
    assert 0 < error < 0.05 * whole.mean()
    assert parts.mean().item() == pytest.approx(whole.mean().item(), abs=4 * error.item())


@pytest.mark.parametrize("size", ["embedded", "paper"])
@pytest.mark.parametrize("network", LAYERS)
def test_losses_are_finite_for_empty_showers_too(small, size, network):
    surrogate, own = prepared(size=size), showers(3)
    cells = own.cells.copy()
    cells[0] = 0.0
    cells[1] *= 100.0  # far more than there are categories for
    batch = surrogate.prepare(network, type(own)(own.calorimeter, own.incident_energy, cells))
    torch.manual_seed(0)
    assert_loss_is_finite(surrogate, network, batch)


def test_showers_are_mirrored_in_training_only(small):
    surrogate = prepared()
    assert_turned_in_training_only(surrogate, "middle", surrogate.prepare("middle", showers(8)))


@pytest.mark.parametrize("name", MODELS)
def test_weights_come_back_from_disk(small, tmp_path, name):
    assert_weights_come_back(prepared(name), tmp_path, PHOTON)


@pytest.mark.parametrize("size", ["embedded", "paper"])
def test_training_lowers_every_loss(small, tmp_path, size):
    surrogate = models.build("dd-arm", "segmentations", size)
    train(surrogate, showers(60), tmp_path, epochs=12 if surrogate.embedded else 3, progress=False)
    for network, curve in models.read_card(tmp_path)["loss_curve"].items():
        assert curve[-1]["train_loss"] < curve[0]["train_loss"], network
