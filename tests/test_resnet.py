"""The convolutional classifier: its layers, what it sees, and that its training is the protocol."""

import numpy as np
import pytest
import torch
from torch import nn
from toy_showers import toy_showers

from calostudy.calorimeter import calorimeter
from calostudy.datasets import dataset
from calostudy.errors import UsageError
from calostudy.metrics.classifier import classify
from calostudy.metrics.fitting import scores
from calostudy.metrics.resnet import ResNet

pytestmark = pytest.mark.usefixtures("one_thread")
DS2 = dataset("ds2")


@pytest.fixture(scope="module")
def ds2():
    torch.manual_seed(0)
    return ResNet(DS2.calorimeter)


def _normalised(width_in: int, width_out: int, size: int) -> int:
    """Parameters of a cubic convolution without bias and of its batch normalisation."""
    return size**3 * width_in * width_out + 2 * width_out


def test_the_parameters_are_those_of_a_resnet_18_with_these_widths(ds2):
    stem = _normalised(1, 32, 7)
    first = 4 * _normalised(32, 32, 3)
    second = _normalised(32, 64, 3) + 3 * _normalised(64, 64, 3) + _normalised(32, 64, 1)
    third = 4 * _normalised(64, 64, 3) + _normalised(64, 64, 1)
    fourth = _normalised(64, 128, 3) + 3 * _normalised(128, 128, 3) + _normalised(64, 128, 1)
    energy, last = 2, 129 + 1
    total = stem + first + second + third + fourth + energy + last
    assert total == 2_516_644
    assert sum(p.numel() for p in ds2.parameters()) == total


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("ds2", [(23, 8, 5), (12, 4, 3), (6, 2, 2), (3, 1, 1), (2, 1, 1)]),
        ("ds3", [(23, 25, 9), (12, 13, 5), (6, 7, 3), (3, 4, 2), (2, 2, 1)]),
        ("ild", [(15, 15, 15), (8, 8, 8), (4, 4, 4), (2, 2, 2), (1, 1, 1)]),
    ],
)
def test_images_shrink_by_two_in_stem_pool_and_three_of_four_stages(name, images):
    """All extents are halved, rounded up: shapes after the stem and after each stage."""
    geometry = calorimeter(name)
    model = ResNet(geometry)
    seen = {}

    def remember(key):
        def hook(_, __, output):
            seen[key] = tuple(output.shape)

        return hook

    stem, *_, average, _ = model.image
    stem.register_forward_hook(remember(0))
    blocks = [layer for layer in model.image if hasattr(layer, "shortcut")]
    assert len(blocks) == 8
    for stage, last in enumerate(blocks[1::2], 1):
        last.register_forward_hook(remember(stage))
    average.register_forward_hook(remember("average"))
    assert model(torch.zeros(2, 1 + geometry.cells)).shape == (2, 1)
    widths = (32, 32, 64, 64, 128)
    assert [seen[i] for i in range(5)] == [(2, w, *i) for w, i in zip(widths, images, strict=True)]
    assert seen["average"] == (2, 128, 1, 1, 1)


def test_shortcuts_are_convolutions_only_where_the_shape_changes(ds2):
    blocks = [layer for layer in ds2.image if hasattr(layer, "shortcut")]
    assert [len(block.shortcut) for block in blocks] == [0, 0, 2, 0, 2, 0, 2, 0]


def test_convolutions_start_with_the_variance_that_keeps_gradients(ds2):
    """Kaiming, fan-out: 2 / (out x size^3); within what so many normal numbers allow."""
    for layer in (m for m in ds2.modules() if isinstance(m, nn.Conv3d)):
        weight = layer.weight.detach()
        expected = 2 / (weight.shape[0] * weight[0, 0].numel())
        noise = np.sqrt(2 / weight.numel())
        assert weight.var().item() == pytest.approx(expected, rel=5 * noise)
        assert layer.bias is None


def test_the_energy_reaches_the_logit_beside_the_image():
    torch.manual_seed(1)
    model = ResNet(DS2.calorimeter)
    x = torch.zeros(2, 1 + 6480)
    x[:, 0] = torch.tensor([3.0, 5.0])
    model.energy.running_mean.fill_(4.0)
    weight = model.logit.weight[0, -1].item()
    first, second = scores(model, x)[:, 0]
    assert (second - first).item() == pytest.approx(2 * weight, rel=1e-4)


def test_cells_are_the_image_of_layers_angles_and_radii():
    """A cell moved by one pooled step in depth, angle or radius is another input to the stem."""
    torch.manual_seed(2)
    model = ResNet(DS2.calorimeter)
    layer, alpha, r = 20, 6, 3
    x = torch.zeros(1, 1 + 6480)
    x[0, 1 + (layer * 16 + alpha) * 9 + r] = 1.0
    image = torch.zeros(1, 1, 45, 16, 9)
    image[0, 0, layer, alpha, r] = 1.0
    stem = model.image[0]
    found = []
    stem.register_forward_hook(lambda _, __, output: found.append(output))
    scores(model, x)
    assert torch.equal(found[0], stem(image))


def test_a_score_does_not_depend_on_the_other_showers(ds2):
    """Batch normalisation scores with what it has learnt: scoring changes nothing."""
    x = torch.from_numpy(np.random.default_rng(0).random((60, 6481), dtype=np.float32))
    with torch.no_grad():
        ds2.train()(x[:20])
    before = {name: value.clone() for name, value in ds2.state_dict().items()}
    together = scores(ds2, x)
    torch.testing.assert_close(scores(ds2, x[7:9]), together[7:9], rtol=1e-4, atol=1e-5)
    after = ds2.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_layers_of_different_shapes_are_a_clear_error():
    entry = dataset("ds1-photons")
    showers = [toy_showers(entry.name, 60, seed) for seed in (1, 2)]
    with pytest.raises(UsageError, match="layers of one shape, those of ds1-photons differ"):
        classify(*showers, entry, inputs="resnet", repeats=1, epochs=1)


# ---- trained ----------------------------------------------------------------------------------


def test_it_learns_a_planted_defect_in_a_few_epochs():
    reference = toy_showers("ds2", 100, 1)
    wide = toy_showers("ds2", 100, 2, width=2.5)
    result = classify(wide, reference, DS2, inputs="resnet", repeats=1, epochs=5, batch=4)
    assert result.hidden is None
    assert result.showers == (60, 20, 20)
    assert result.auc[0] > 0.85


def test_equal_samples_cannot_be_told_apart():
    showers = [toy_showers("ds2", 100, seed) for seed in (1, 2)]
    result = classify(*showers, DS2, inputs="resnet", repeats=1, epochs=3, batch=4)
    assert abs(result.auc[0] - 0.5) < 4 * np.sqrt(1 / (6 * 20))


def test_the_same_seed_gives_the_same_auc():
    showers = [toy_showers("ds2", 60, seed) for seed in (1, 2)]
    settings = {"inputs": "resnet", "repeats": 1, "epochs": 1}
    first, again = (classify(*showers, DS2, seed=3, **settings) for _ in range(2))
    np.testing.assert_array_equal(first.probabilities, again.probabilities)
