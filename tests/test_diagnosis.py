"""Which layers and cells give a model away: planted defects in real showers must be named."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ttest_ind
from sklearn.metrics import roc_auc_score
from torch import nn
from toy_showers import toy_showers

from calostudy import plots
from calostudy.datasets import dataset, load
from calostudy.errors import DataError, UsageError
from calostudy.metrics import diagnosis
from calostudy.metrics.diagnosis import Diagnosis, diagnose
from calostudy.metrics.fitting import Training, network, scores
from calostudy.showers import Showers

pytestmark = pytest.mark.usefixtures("one_thread")
EPLUS = dataset("calogan-eplus")
GEOMETRY = EPLUS.calorimeter
FAST = {"repeats": 2, "hidden": 128, "epochs": 12}


@pytest.fixture(scope="module")
def geant4():
    return load("calogan-eplus", "evaluation", rows=slice(0, 1000))


@pytest.fixture(scope="module")
def others():
    """Other Geant4 showers of the same kind, to plant defects into."""
    return load("calogan-eplus", "train", rows=slice(0, 1000))


def planted(showers: Showers, change) -> Showers:
    cells = showers.cells.copy()
    change(cells)
    return Showers(showers.calorimeter, showers.incident_energy, cells)


def scaled(layer: int, factor: float):
    def change(cells):
        cells[:, GEOMETRY.slices[layer]] *= factor

    return change


def permuted(layer: int):
    def change(cells):
        place = GEOMETRY.slices[layer]
        order = np.random.default_rng(0).permutation(place.stop - place.start)
        cells[:, place] = cells[:, place][:, order]

    return change


# ---- planted defects --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "change"),
    [
        *((layer, scaled(layer, 1.3)) for layer in (0, 1)),
        *((layer, permuted(layer)) for layer in (0, 1, 2)),
    ],
    ids=["scaled 0", "scaled 1", "permuted 0", "permuted 1", "permuted 2"],
)
def test_the_layer_with_a_defect_is_named(geant4, others, layer, change):
    found = diagnose(planted(others, change), geant4, EPLUS, **FAST)
    shares = found.shares()
    (first, (share, error)), (_, (second, _)), _ = shares.items()
    assert first == layer
    assert share > 0.8 and share - second > 5 * error
    assert sum(value for value, _ in shares.values()) == pytest.approx(1)
    # The single cells say the same: at most noise in the other layers.
    largest = [np.abs(found.significance[place]).max() for place in GEOMETRY.slices]
    assert largest[layer] > 10
    assert max(np.delete(largest, layer)) < 5
    assert not found.warnings


def test_a_layer_too_faint_for_the_classifier_is_named_by_its_energy(geant4, others):
    """The last layer has a per cent of the energy, and 30 % more of that is much for its sum."""
    off = planted(others, scaled(2, 1.3))
    found = diagnose(off, geant4, EPLUS, repeats=2, hidden=8, epochs=1)
    assert found.layer_significance[2] > 5
    assert np.abs(found.layer_significance[:2]).max() < 3
    assert found.layer_auc[2] > 0.55
    assert np.abs(found.layer_auc[:2] - 0.5).max() < 0.04


def test_the_cells_with_a_defect_are_named(geant4, others):
    hot = GEOMETRY.slices[0].start + np.array([100, 120, 140, 160])

    def change(cells):
        cells[:, hot] += 0.002 * others.incident_energy[:, None]

    found = diagnose(planted(others, change), geant4, EPLUS, **FAST)
    assert set(np.argsort(-found.cells())[:4]) == set(hot)
    assert set(np.argsort(-found.significance)[:4]) == set(hot)
    assert set(np.argsort(-found.cell_auc)[:4]) == set(hot)


def test_without_a_difference_the_importances_are_said_to_be_noise(geant4, others):
    found = diagnose(others, geant4, EPLUS, repeats=2, hidden=16, epochs=4)
    assert any("those of noise" in text for text in found.warnings)
    assert np.abs(found.layer_significance).max() < 4
    assert np.abs(found.cell_auc - 0.5).max() < 4 * np.sqrt(1 / (6 * 1000))


def test_swapped_samples_swap_the_sign_of_single_differences(geant4, others):
    off = planted(others[:100], scaled(1, 1.3))
    settings = {"repeats": 2, "hidden": 8, "epochs": 1}
    one, other = (
        diagnose(*pair, EPLUS, **settings) for pair in ((off, geant4[:100]), (geant4[:100], off))
    )
    np.testing.assert_allclose(one.significance, -other.significance)
    np.testing.assert_allclose(one.cell_auc, 1 - other.cell_auc)
    np.testing.assert_allclose(one.layer_auc, 1 - other.layer_auc)


# ---- parts ------------------------------------------------------------------------------------


def _pair(features: int = 5, n: int = 40) -> torch.Tensor:
    """Validation showers of both classes, (2 n, features), and energies in another order."""
    return torch.randn(2 * n, features, generator=torch.Generator().manual_seed(1))


def test_importances_of_a_linear_network_are_its_weights_times_the_difference():
    x = _pair()
    model = nn.Linear(5, 1)
    training = Training(model, (x, None), (x, None), np.zeros(0))
    expected = model.weight.detach()[0] * (x[40:].mean(dim=0) - x[:40].mean(dim=0))
    np.testing.assert_allclose(diagnosis._importance(training), expected, rtol=1e-4, atol=1e-6)


def test_importances_add_up_to_the_difference_of_the_log_odds():
    torch.manual_seed(0)
    x = 5 * _pair(30)
    model = network(30, 64)
    found = diagnosis._importance(Training(model, (x, None), (x, None), np.zeros(0)))
    logits = scores(model, x)[:, 0].double()
    assert found.sum() == pytest.approx((logits[40:].mean() - logits[:40].mean()).item(), rel=0.02)


@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")
@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (25, 3), elements=st.integers(0, 4)), st.integers(1, 24))
def test_single_differences_are_those_of_scipy_and_scikit_learn(values, cut):
    """With ties, and columns without any variation."""
    a, b = values[: cut + 1], values[cut - 1 :]
    labels = np.repeat([1, 0], [len(a), len(b)])
    both = np.concatenate([a, b])
    expected = [roc_auc_score(labels, column) for column in both.T]
    np.testing.assert_allclose(diagnosis._auc(a, b), expected)
    varies = (a.std(axis=0) > 0) | (b.std(axis=0) > 0)
    found = diagnosis._significance(a, b)
    assert (found[~varies] == 0).all()
    if varies.any():
        columns = (x[:, varies].astype(float) for x in (a, b))
        welch = ttest_ind(*columns, equal_var=False)
        np.testing.assert_allclose(found[varies], welch.statistic, rtol=1e-9, atol=1e-9)


def test_inputs_have_mean_0_and_deviation_1_over_both_samples_and_no_outliers():
    x = torch.zeros(1000, 3)
    x[:, 0] = torch.randn(1000, generator=torch.Generator().manual_seed(2)) * 1e-4 + 3
    x[0, 1] = 7.0  # one shower in a thousand
    first, second = diagnosis._standardised([x[:400], x[400:]])
    both = torch.cat([first, second])
    assert both[:, 0].mean().abs() < 1e-3 and both[:, 0].std().item() == pytest.approx(1, rel=1e-3)
    assert both[0, 1] == diagnosis.LARGEST
    assert (both[:, 2] == 0).all()


def test_shares_are_those_of_the_sum_over_trainings_with_their_spread():
    importance = np.zeros((2, GEOMETRY.cells))
    first, second, third = (place.start for place in GEOMETRY.slices)
    importance[:, first] = 6.0, 1.0
    importance[:, second] = 2.0, 1.0
    importance[:, third] = 0.5, -0.5
    shares = _made(GEOMETRY, importance).shares()
    assert list(shares) == [0, 1, 2]
    assert [value for value, _ in shares.values()] == pytest.approx([0.7, 0.3, 0.0])
    residuals = np.array([6.0 - 0.7 * 8.5, 1.0 - 0.7 * 1.5])
    assert shares[0][1] == pytest.approx(residuals.std(ddof=1) / 5)


def test_what_cannot_be_diagnosed_is_one_clear_error(geant4, others):
    with pytest.raises(UsageError, match="1 repeats, expected two"):
        diagnose(others, geant4, EPLUS, repeats=1)
    with pytest.raises(DataError, match="900 generated and 1000 reference"):
        diagnose(others[:900], geant4, EPLUS)
    with pytest.raises(DataError, match="too few"):
        diagnose(others[:40], geant4[:40], EPLUS)
    with pytest.raises(DataError, match="generated showers are on the calorimeter ds1-pions"):
        diagnose(toy_showers("ds1-pions", 60, 1), geant4[:60], EPLUS)


# ---- figures ----------------------------------------------------------------------------------


def _made(geometry, importance=None) -> Diagnosis:
    rng = np.random.default_rng(3)
    if importance is None:
        importance = rng.gamma(0.3, size=(3, geometry.cells)) - 0.05
    layers = len(geometry.layers)
    return Diagnosis(
        geometry,
        importance,
        rng.normal(size=geometry.cells),
        rng.random(geometry.cells),
        rng.normal(size=layers),
        rng.random(layers),
        np.array([0.8, 0.9]),
        (),
    )


@pytest.mark.parametrize("name", ["calogan-eplus", "ds1-photons", "ild-photons"])
def test_figures_are_drawn_for_every_kind_of_calorimeter(name):
    plots.use_style()
    found = _made(dataset(name).calorimeter)
    images = plots.importance_images(found)
    shares = plots.layer_shares(found)
    with plt.rc_context({"figure.dpi": 20}):
        for figure in (images, shares):
            figure.canvas.draw()
    drawn = [axis.get_title() for axis in images.axes if axis.get_title()]
    assert len(drawn) == 2 * min(len(found.calorimeter.layers), 6)
    plt.close("all")


def test_the_figure_of_a_deep_calorimeter_shows_its_most_important_layers():
    geometry = dataset("ds2").calorimeter
    importance = np.full((2, geometry.cells), 1e-6)
    for layer in (40, 2, 17, 30, 5, 9):
        importance[:, geometry.slices[layer]] = 1.0
    images = plots.importance_images(_made(geometry, importance))
    drawn = [axis.get_title() for axis in images.axes if axis.get_title()]
    assert drawn == 2 * [f"layer {i}" for i in (2, 5, 9, 17, 30, 40)]
    plt.close("all")


def test_a_cell_of_the_figure_is_the_cell_of_the_calorimeter():
    importance = np.zeros((2, GEOMETRY.cells))
    importance[:, GEOMETRY.slices[1].start + 3 * 12 + 5] = 2.0  # eta bin 3, phi bin 5
    images = plots.importance_images(_made(GEOMETRY, importance))
    mesh = images.axes[1].collections[0].get_array().reshape(12, 12)
    assert mesh[3, 5] == 100
    assert np.count_nonzero(mesh) == 1
    plt.close("all")
