"""CaloDiffusion has the published sizes, knows its geometry, and its samples are showers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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

from calostudy import preprocessing as pre
from calostudy.calorimeter import calorimeter
from calostudy.datasets import load
from calostudy.errors import UsageError
from calostudy.models import calodiffusion, shipped_weights
from calostudy.models.calodiffusion import LAYERS, MODES, VOXELS, CaloDiffusion
from calostudy.models.surrogate import read_card
from calostudy.networks import shower_unet
from calostudy.networks.cylindrical import CylindricalUNet, UNetStructure, set_plain
from calostudy.networks.glam import GeometryMap, overlap
from calostudy.networks.shower_unet import ShowerUNet
from calostudy.samplers.diffusion import Sampling
from calostudy.walks import ModelWalk

NAMES = ("ds1-photons", "ds1-pions", "ds2", "ds3", "calogan-eplus")
# arXiv:2308.03876 and the constructors of the authors' code: U-Net, geometry map
PUBLISHED = {
    "ds1-photons": (518_401, 3_180),
    "ds1-pions": (522_497, 3_404),
    "ds2": (517_969, 0),
    "ds3": (1_221_153, 0),
}
TINY = UNetStructure((8, 8, 16), embedding=16, attention=4)


@pytest.fixture
def small(monkeypatch):
    """Both sizes with narrow networks and few steps: what is tested does not depend on these."""
    for structures in calodiffusion.STRUCTURE.values():
        for name, structure in structures.items():
            monkeypatch.setitem(structures, name, replace(structure, unet=TINY))
    monkeypatch.setattr(calodiffusion, "PERCEPTRON", (16, 1))
    quick = {LAYERS: Sampling("midpoint", 4), VOXELS: Sampling("ddim", 3)}
    for size in calodiffusion.SAMPLINGS:
        monkeypatch.setitem(calodiffusion.SAMPLINGS, size, lambda dataset: quick)


def count(module):
    return sum(p.numel() for p in module.parameters())


# ---- networks --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_paper_size_has_the_published_numbers_of_parameters(name):
    surrogate = CaloDiffusion(name, "paper")
    assert surrogate.parameters_by_network() == {VOXELS: sum(PUBLISHED[name])}
    with torch.device("meta"):
        network = surrogate.build_networks()[VOXELS]
    assert (count(network.unet), count(network.geometry)) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "evaluations"), [("ds1-photons", 398), ("ds2", 398), ("ds3", 400)]
)
def test_paper_size_takes_the_published_number_of_steps(name, evaluations):
    surrogate = CaloDiffusion(name, "paper")
    assert surrogate.network_evaluations == evaluations
    times = np.array(surrogate.samplings[VOXELS].times()) * 400
    np.testing.assert_allclose(times, np.arange(evaluations, -1, -1), atol=1e-9)


@settings(max_examples=8, deadline=None)
@given(st.integers(3, 9), st.integers(4, 11), st.integers(4, 11), st.booleans())
def test_any_size_comes_back_and_both_ways_to_convolve_agree(layers, angles, radii, periodic):
    sizes = layers, angles, radii
    unet = CylindricalUNet(sizes, 2, 3, 1, TINY, periodic)
    x, time, conditions = torch.randn(2, 2, *sizes), torch.rand(2), torch.rand(2, 1)
    found = unet(x.contiguous(memory_format=torch.channels_last_3d), time, conditions)
    assert found.shape == (2, 3, *sizes)
    set_plain(unet.modules(), True)
    torch.testing.assert_close(found, unet(x, time, conditions), rtol=1e-4, atol=1e-5)


def test_turning_the_input_turns_the_output():
    # two resolutions above the coarsest: the circle has four places at least
    structure = replace(TINY, widths=(8, 8, 8, 16))
    x, time, conditions = torch.randn(1, 1, 5, 16, 9), torch.rand(1), torch.rand(1, 1)
    for periodic in (True, False):
        unet = CylindricalUNet((5, 16, 9), 1, 1, 1, structure, periodic).double()
        straight = unet(x.double(), time.double(), conditions.double())
        turned = unet(x.double().roll(4, 3), time.double(), conditions.double()).roll(-4, 3)
        assert torch.allclose(straight, turned, atol=1e-10) == periodic


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("name", ["ds1-photons", "ds1-pions", "calogan"])
def test_the_geometry_map_begins_as_one_that_returns(name, split):
    torch.manual_seed(0)
    geometry = calorimeter(name)
    there_and_back = GeometryMap(geometry, split)
    cells = torch.rand(4, geometry.cells)
    images = there_and_back.encode(cells)
    assert images.shape == (4, 1, *there_and_back.sizes)
    torch.testing.assert_close(there_and_back.decode(images), cells, rtol=0, atol=2e-3)
    if split:  # energies are shared out
        sums = images[:, 0].sum((2, 3))
        torch.testing.assert_close(sums, pre.layer_sums(cells, geometry.slices), rtol=1e-3, atol=0)


def test_the_geometry_map_is_one_matrix_per_layer():
    geometry = calorimeter("ds1-photons")
    both = GeometryMap(geometry).double()
    with torch.no_grad():
        for parameter in both.parameters():
            parameter.add_(torch.randn_like(parameter))
    cells = torch.rand(3, geometry.cells).double()
    images, layers = [], []
    for i, (layer, place) in enumerate(zip(geometry.layers, geometry.slices, strict=True)):
        own = cells[:, place].view(3, *layer.shape)
        parts = 10 // layer.shape[0]
        images.append((own / parts).repeat(1, parts, 1) @ both.encoders[i].t())
        rings = images[-1] @ both.decoders[i].t()
        rings = rings.sum(1, keepdim=True) if parts == 10 else rings
        layers.append(rings.flatten(1))
    encoded = both.encode(cells)
    torch.testing.assert_close(encoded[:, 0], torch.stack(images, dim=1))
    torch.testing.assert_close(both.decode(encoded), torch.cat(layers, dim=1))


def test_a_bin_is_shared_out_by_area():
    layer = calorimeter("ds1-photons").layers[1]
    edges = np.unique(np.concatenate([layer.edges[1], [1.0, 400.0]]))
    parts = overlap(layer, edges, split=True)
    np.testing.assert_allclose(parts[:2, 0], [0.25, 0.75])
    np.testing.assert_allclose(parts.sum(axis=0), 1.0)
    assert not parts[-1].any()


@pytest.mark.parametrize("name", NAMES)
def test_patches_come_back(name):
    structure = calodiffusion.STRUCTURE["embedded"][name]
    network = ShowerUNet(CaloDiffusion(name).dataset.calorimeter, replace(structure, unet=TINY))
    x = torch.randn(2, 1, *network.sizes)
    patched = network._patched(x)
    assert patched.shape == (2, int(np.prod(structure.patch)), *network.places)
    assert torch.equal(network._unpatched(patched), x)
    # what is next to each other shares a place
    z, a, r = structure.patch
    assert set(x[0, 0, :z, :a, :r].flatten().tolist()) == set(patched[0, :, 0, 0, 0].tolist())


@pytest.mark.parametrize("size", ["paper", "embedded"])
@pytest.mark.parametrize("name", ["ds1-pions", "ds2", "calogan-eplus"])
def test_the_fused_network_is_the_eager_one(small, name, size):
    surrogate = shaken(CaloDiffusion(name, size))
    network, cells = surrogate.networks[VOXELS], surrogate.dataset.calorimeter.cells
    given = network.unet.condition[0].in_features
    for precision, tolerance in (("float32", 1e-5), ("float64", 1e-12)):
        dtype = getattr(torch, precision)
        x, time, conditions = (
            torch.rand(2, *n, dtype=dtype) * 2 - 1 for n in ((cells,), (), (given,))
        )
        fast, slow = (made(network, precision) for made in shower_unet.SAMPLERS.values())
        found, expected = fast(x, time, conditions), slow(x, time, conditions)
        assert found.dtype == dtype
        assert (found - expected).abs().max() <= tolerance * expected.abs().max()
        # other conditions, other times, one by one
        for i in range(2):
            rows = slice(i, i + 1)
            alone = fast(x[rows], time[rows], conditions[rows])
            assert (alone - expected[rows]).abs().max() <= tolerance * expected.abs().max()


# ---- between showers and numbers -------------------------------------------------------------


@pytest.mark.parametrize("size", ["paper", "embedded"])
@pytest.mark.parametrize("name", NAMES)
def test_showers_survive_the_way_to_numbers_and_back(small, name, size):
    surrogate = CaloDiffusion(name, size)
    showers = load(name, "evaluation", rows=slice(0, 20))
    surrogate.fit_constants(showers)
    batch = surrogate.prepare(VOXELS, showers)
    cut = surrogate.dataset.threshold
    kept = torch.as_tensor(showers.above_threshold(cut).cells)
    values = surrogate._to_numbers(batch["cells"].double(), batch["incident"])
    energies = pre.layer_sums(kept.double(), surrogate.dataset.calorimeter.slices)
    back = surrogate._to_cells(values, batch["incident"], energies)
    back = torch.where(back >= cut, back, 0.0)
    # Lost is what is next to the cut, and what logits do not resolve.
    lost = 1.1 * cut + (size == "paper") * 1e-7 * batch["incident"]
    assert ((back - kept).abs().amax(1) <= lost + 1e-4 * kept.amax(1)).all()
    assert values.std() < 3.0


def test_cells_that_are_never_hit_stay_empty():
    surrogate = CaloDiffusion("ds2", "paper")
    showers = load("ds2", "train", rows=slice(0, 30))
    surrogate.fit_constants(showers)
    hit = (showers.cells > 0).any(axis=0)
    assert 0.1 < hit.mean() < 0.9
    values = torch.zeros(1, len(hit), dtype=torch.float64)
    cells = surrogate._to_cells(values, torch.tensor([1e5], dtype=torch.float64), None)
    np.testing.assert_array_equal(cells[0].numpy() > 0, hit)


# ---- the surrogate ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"),
    [("ds1-photons", "paper"), ("ds2", "paper"), *((name, "embedded") for name in NAMES)],
)
def test_samples_are_showers_and_do_not_depend_on_the_batch(small, name, size):
    showers = load(name, "train", rows=slice(0, 40))
    surrogate = shaken(CaloDiffusion(name, size), showers)
    assert_samples_are_showers(surrogate, showers.incident_energy[:2], cuts=(1,))


def test_both_samplers_give_the_same_showers_and_follow_the_weights(small):
    surrogate = shaken(CaloDiffusion("ds1-photons"), load("ds1-photons", "train", rows=slice(40)))
    showers = assert_samplers_agree(surrogate, "fused", "eager")
    with torch.no_grad():
        surrogate.networks[VOXELS].unet.end.bias += 0.5
    assert_follows_its_weights(surrogate, showers)


def test_unknown_ways_to_sample_are_usage_errors(small):
    surrogate = CaloDiffusion("ds1-photons")
    assert_refuses_unknown_ways(surrogate, "fused", "eager")
    with pytest.raises(UsageError, match="solver"):
        surrogate.sample(np.array([1e4]), solver="guess")
    with pytest.raises(UsageError, match="evaluations"):
        surrogate.sample(np.array([1e4]), solver="midpoint", evaluations=1)


@pytest.mark.parametrize("size", ["paper", "embedded"])
def test_the_loss_is_finite_for_empty_showers_and_layers(small, size):
    surrogate = CaloDiffusion("ds1-photons", size)
    showers = nearly_empty(surrogate.dataset.calorimeter, [256.0, 1e3, 4e6], (100, 1e-3), 1e2)
    for network in surrogate.networks:
        assert_loss_is_finite(surrogate, network, surrogate.prepare(network, showers))


def test_showers_are_turned_in_training_only(small):
    showers = load("ds1-photons", "train", rows=slice(0, 8))
    surrogate = shaken(CaloDiffusion("ds1-photons"), showers)
    assert_turned_in_training_only(surrogate, VOXELS, surrogate.prepare(VOXELS, showers))


def test_weights_come_back_from_disk(small, tmp_path):
    surrogate = CaloDiffusion("ds1-photons", seed=2)
    shaken(surrogate, load("ds1-photons", "train", rows=slice(0, 40)))
    assert_weights_come_back(surrogate, tmp_path, np.array([3e3, 6e4]))


@pytest.mark.parametrize(("size", "every"), [("paper", 500), ("embedded", 100)])
def test_a_few_steps_lower_the_loss(small, size, every):
    showers = load("ds1-photons", "train", rows=slice(0, None, every))
    surrogate = CaloDiffusion("ds1-photons", size)
    surrogate.fit_constants(showers)
    for name, network in surrogate.networks.items():
        batch = surrogate.prepare(name, showers)

        def loss(name=name, batch=batch):
            torch.manual_seed(5)
            return surrogate.loss(name, batch).mean()

        before = loss().item()
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(8):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        assert loss().item() < 0.95 * before


def test_a_page_lists_the_networks_of_both_sizes():
    """Size `paper` has one, `embedded` has three."""
    walk = ModelWalk(model="calodiffusion", dataset="ds2", size="embedded")
    rows = {row["network"]: row for row in walk.parameter_rows(CaloDiffusion("ds2"))}
    assert list(rows) == [LAYERS, MODES, VOXELS]
    assert rows[VOXELS]["published size"] == "517,969"
    assert rows[LAYERS]["published size"] == rows[MODES]["published size"] == "none"


def test_a_page_says_that_weights_were_trained_on_a_gpu():
    walk = ModelWalk(model="calodiffusion", dataset="ds2", size="embedded")
    text = walk.introduction(
        read_card(shipped_weights("calodiffusion", "ds2", "embedded")) | {"short": False}
    )
    assert "minutes on an NVIDIA H200;" in text and "thread" not in text
