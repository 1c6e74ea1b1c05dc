"""The ranking of models by the multi-class classifier: order, cross-check, guess, bad input."""

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from toy_showers import toy_showers

from calostudy import plots
from calostudy.datasets import dataset
from calostudy.errors import DataError, UsageError
from calostudy.metrics import fitting, ranking
from calostudy.metrics.ranking import rank
from calostudy.showers import Showers

pytestmark = pytest.mark.usefixtures("one_thread")
EPLUS = dataset("calogan-eplus")
FAST = {"repeats": 2, "hidden": 128, "batch": 20}
SCALES = {"off": 1.3, "right": 1.0, "nearly": 1.05}


@pytest.fixture(scope="module")
def reference():
    return toy_showers("calogan-eplus", 400, 9)


@pytest.fixture(scope="module")
def models():
    return {
        name: toy_showers("calogan-eplus", 600, seed, scale=scale)
        for seed, (name, scale) in enumerate(SCALES.items())
    }


@pytest.fixture(scope="module")
def three(models, reference):
    return rank(models, reference, EPLUS, **FAST)


@pytest.fixture(scope="module")
def equal(reference):
    samples = {f"copy {i}": toy_showers("calogan-eplus", 600, i) for i in range(3)}
    return rank(samples, reference, EPLUS, **FAST)


@pytest.fixture
def networks(monkeypatch):
    """The networks that are built, and the steps that the optimiser takes with them."""
    built = []

    def network(*sizes):
        built.append(fitting.network(*sizes))
        return built[-1]

    monkeypatch.setattr(ranking, "network", network)
    return built


def test_models_are_ranked_by_their_distance_from_geant4(three):
    assert list(three.summary()) == ["right", "nearly", "off"]
    (right, _), (nearly, _), (off, error) = three.summary().values()
    assert right > three.uniform
    assert right > nearly + 0.05
    assert nearly > off + 10 * error
    assert off < three.uniform - 1


def test_held_out_showers_of_a_distorted_model_are_recognised(three):
    cross = three.cross_check.mean(axis=0)
    off = three.models.index("off")
    assert (three.cross_check[:, off, off] > three.uniform + 0.5).all()
    assert (np.argmax(cross, axis=1) == np.arange(3)).all()  # the largest of its row
    assert not any("does not recognise" in warning for warning in three.warnings)


def test_geant4_showers_are_those_of_the_right_model_to_the_classifier(three):
    """Their log-posteriors agree with those of held-out showers of the undistorted model."""
    right = three.models.index("right")
    on_geant4, on_right = (
        x.mean(axis=0) for x in (three.log_posterior, three.cross_check[:, right])
    )
    np.testing.assert_allclose(on_geant4[[1, 2]], on_right[[1, 2]], atol=0.15)
    assert on_geant4[0] == pytest.approx(on_right[0], rel=0.15)


def test_equal_samples_are_guessed(equal):
    assert equal.uniform == -math.log(3)
    for value, _ in equal.summary().values():
        assert abs(value - equal.uniform) < 0.06
    np.testing.assert_allclose(equal.cross_check.mean(axis=0), equal.uniform, atol=0.06)
    assert any("does not recognise" in warning for warning in equal.warnings)


def test_log_posteriors_are_those_of_probabilities(three, equal):
    for result in (three, equal):
        np.testing.assert_allclose(np.exp(result.per_shower).sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(result.per_shower.mean(axis=0), result.log_posterior[-1])
        # None of n probabilities that add up to 1 can do better than 1/n, on (log) average.
        for means in (result.log_posterior, result.cross_check):
            assert (means.mean(axis=-1) <= result.uniform + 1e-9).all()


def test_uncertainties_are_the_spread_over_repeats_or_a_bootstrap(three, models, reference):
    expected = dict(zip(three.models, three.log_posterior.std(axis=0, ddof=1), strict=True))
    assert {name: error for name, (_, error) in three.summary().items()} == pytest.approx(expected)
    assert three.kind == "spread over repeats"
    one = rank(models, reference, EPLUS, repeats=1, hidden=16, epochs=3, batch=20)
    assert one.kind == "bootstrap over reference showers"
    assert any("one training" in text for text in one.warnings)
    assert not any("one training" in text for text in three.warnings)
    standard = one.per_shower.std(axis=0, ddof=1) / np.sqrt(len(reference))
    for name, error in zip(one.models, standard, strict=True):
        assert one.summary()[name][1] == pytest.approx(error, rel=0.35)


def test_the_network_is_the_published_one(networks, models, reference):
    rank(dict(list(models.items())[:2]), reference, EPLUS, repeats=1, epochs=1, batch=720)
    (model,) = networks
    linear = [(x.in_features, x.out_features) for x in model if hasattr(x, "in_features")]
    assert linear == [(505, 2048), (2048, 2048), (2048, 2)]
    assert (ranking.EPOCHS, ranking.rank.__kwdefaults__["repeats"]) == (25, 10)


def test_geant4_is_not_trained_on(models, reference):
    """Other Geant4 showers leave the classifier as it was: the cross-check does not change."""
    settings = {"repeats": 1, "hidden": 16, "epochs": 2, "batch": 20}
    first, second = (
        rank(models, truth, EPLUS, **settings) for truth in (reference, models["off"][:100])
    )
    np.testing.assert_array_equal(first.cross_check, second.cross_check)
    assert (first.log_posterior != second.log_posterior).all()


def test_the_same_seed_gives_the_same_ranking_and_another_seed_another(models, reference):
    settings = {"repeats": 2, "hidden": 16, "epochs": 1, "batch": 40}
    found = [rank(models, reference, EPLUS, seed=s, **settings).log_posterior for s in (4, 4, 5)]
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).all()
    assert (found[0][0] != found[0][1]).all()


def test_larger_samples_are_cut_to_the_smallest_with_a_warning(models, reference):
    samples = models | {"right": models["right"][:200]}
    result = rank(samples, reference, EPLUS, repeats=1, hidden=8, epochs=1)
    assert result.showers == (120, 40, 40)
    assert any("200 showers of each model, drawn at random" in text for text in result.warnings)


def test_small_samples_take_the_published_number_of_steps(models, reference):
    """In batches of 20 at least; what is missing then is warned about."""
    few = rank(models, reference, EPLUS, repeats=1, hidden=8, epochs=2)
    assert any("108 steps" in text and "take 4,500" in text for text in few.warnings)
    many = rank(models, reference, EPLUS, repeats=1, hidden=4, epochs=12, batch=8)
    assert not any("steps of the optimiser" in text for text in many.warnings)


def test_other_incident_energies_are_warned_about(models, reference):
    low = models["right"][models["right"].incident_energy < 40e3]
    result = rank(models | {"low": low}, reference, EPLUS, repeats=1, hidden=4, epochs=1)
    assert any("incident energies of low" in text for text in result.warnings)


def test_a_ranking_as_json_has_every_number_of_the_table(three):
    plain = json.loads(json.dumps(three.as_dict(), allow_nan=False))
    assert list(plain["models"]) == ["right", "nearly", "off"]
    assert plain["models"]["off"]["log_posterior"] == three.summary()["off"][0]
    assert plain["cross_check"]["off"]["right"] == three.cross_check[:, 0, 1].mean()
    assert plain["settings"]["showers_per_model"] == "360/120/120"


def test_the_heat_map_has_the_numbers_of_the_matrix_geant4_first(three):
    axis, _ = plots.cross_check(three).axes
    written = np.array([float(text.get_text()) for text in axis.texts]).reshape(4, 3)
    order = [three.models.index(name) for name in ("right", "nearly", "off")]
    expected = np.vstack([three.log_posterior.mean(axis=0), three.cross_check.mean(axis=0)[order]])
    np.testing.assert_allclose(written, expected[:, order], atol=0.00501)
    assert [x.get_text() for x in axis.get_yticklabels()] == ["Geant4", "right", "nearly", "off"]
    plt.close("all")


def test_the_figure_of_log_posteriors_has_their_uncertainties_and_the_guess(three):
    (axis,) = plots.log_posteriors(three).axes
    ((line, _, (bars,)),) = axis.containers
    np.testing.assert_allclose(line.get_xdata(), [v for v, _ in three.summary().values()])
    lengths = [np.ptp(segment[:, 0]) for segment in bars.get_segments()]
    np.testing.assert_allclose(lengths, [2 * error for _, error in three.summary().values()])
    guess = next(each for each in axis.lines if each.get_label().startswith("guess"))
    assert guess.get_xdata()[0] == three.uniform
    plt.close("all")


def test_what_cannot_be_ranked_is_one_clear_error(models, reference):
    with pytest.raises(UsageError, match="1 model, expected two"):
        rank({"right": models["right"]}, reference, EPLUS)
    with pytest.raises(UsageError, match="at least 1 of each"):
        rank(models, reference, EPLUS, repeats=0)
    with pytest.raises(DataError, match="40 showers of a model are too few"):
        rank(models | {"few": models["off"][:40]}, reference, EPLUS)
    with pytest.raises(DataError, match="pions showers are on the calorimeter ds1-pions"):
        rank(models | {"pions": toy_showers("ds1-pions", 60, 1)}, reference, EPLUS)
    cells = models["off"].cells.copy()
    cells[3, 5] = np.nan
    broken = Showers(EPLUS.calorimeter, models["off"].incident_energy, cells)
    with pytest.raises(DataError, match="broken showers have cells that are negative or not"):
        rank(models | {"broken": broken}, reference, EPLUS)
