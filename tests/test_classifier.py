"""Classifier scores and `evaluate`: the protocol, reproducibility, planted defects, bad input."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from toy_showers import toy_showers

from calostudy.datasets import dataset
from calostudy.errors import DataError, UsageError
from calostudy.metrics import METRICS, evaluate
from calostudy.metrics.classifier import (
    INPUTS,
    classify,
    default_hidden,
    jensen_shannon,
    split_sizes,
)
from calostudy.metrics.fitting import network
from calostudy.metrics.ranges import EnergyRange
from calostudy.showers import Showers

pytestmark = pytest.mark.usefixtures("one_thread")
EPLUS = dataset("calogan-eplus")
FAST = {"hidden": 32, "epochs": 10, "batch": 100}


@pytest.fixture(scope="module")
def reference():
    return toy_showers("calogan-eplus", 1000, 1)


@pytest.fixture(scope="module")
def twin():
    return toy_showers("calogan-eplus", 1000, 2)


# ---- protocol ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hidden", "parameters"),
    [(512, 505 * 512 + 512 + 2 * (512 * 512 + 512) + 513), (2048, 9_431_041)],
)
def test_the_network_has_three_hidden_layers_of_the_published_widths(hidden, parameters):
    model = network(505, hidden)
    assert sum(p.numel() for p in model.parameters()) == parameters
    slopes = [layer.negative_slope for layer in model if hasattr(layer, "negative_slope")]
    assert slopes == [0.01] * 3


def test_published_widths_and_splits_are_the_defaults():
    assert default_hidden(EPLUS) == 512
    assert default_hidden(dataset("ds2")) == 2048
    assert split_sizes(dataset("ds1-photons"), 121_000) == (80_000, 20_000, 21_000)
    assert split_sizes(dataset("ds1-pions"), 120_800) == (80_000, 20_000, 20_800)
    assert split_sizes(dataset("ds3"), 100_000) == (60_000, 20_000, 20_000)
    assert split_sizes(dataset("ds3"), 1_000) == (600, 200, 200)
    assert split_sizes(EPLUS, 5_003) == (3001, 1000, 1002)


def test_low_level_inputs_are_the_energy_and_the_cut_cells_over_it():
    cells = np.zeros((1, 504))
    cells[0, :3] = 0.0005, 0.002, 500.0  # the first is below the threshold of 1 keV
    showers = Showers(EPLUS.calorimeter, np.array([1e4]), cells)
    found = INPUTS["low"](showers, EPLUS)
    assert found.shape == (1, 505)
    np.testing.assert_allclose(found[0, :4], [4.0, 0.0, 2e-7, 0.05], rtol=1e-6)
    normed = INPUTS["low-normed"](showers, EPLUS)
    assert normed.shape == (1, 1 + 504 + 3)
    assert normed[0, 1] == pytest.approx(0.0005 / 500.0025)  # without the cut
    np.testing.assert_allclose(normed[0, -3:], [np.log10(500.0025), -8, -8], rtol=1e-6)


def test_high_level_inputs_have_the_order_and_units_of_the_calochallenge():
    entry = dataset("ds1-photons")
    showers = toy_showers(entry.name, 3, 5)
    found = INPUTS["high"](showers, entry)
    assert found.shape == (3, 1 + 5 + 4 * 2 + 1 + 5 + 5 + 5)
    np.testing.assert_allclose(found[:, 0], np.log10(showers.incident_energy), rtol=1e-6)
    layers = showers.layer_energies()
    np.testing.assert_allclose(found[:, 1:6], np.log10(layers + 1e-8), rtol=1e-5)
    np.testing.assert_allclose(found[:, 14], np.log10(showers.total_energy() + 1e-8), rtol=1e-5)
    assert (found[:, 15:20] <= 1).all() and (found[:, 15:20] >= 0).all()  # sparsities


def test_jensen_shannon_is_zero_for_a_coin_and_one_for_certainty():
    labels = np.array([0.0, 0, 1, 1])
    assert jensen_shannon(np.full(4, 0.5), labels) == pytest.approx(0.0, abs=1e-12)
    sure = np.where(labels > 0, 1 - 1e-6, 1e-6)
    assert jensen_shannon(sure, labels) == pytest.approx(1.0, abs=1e-5)
    p = np.array([0.2, 0.4, 0.7, 0.9])
    bce = -np.mean(np.log([0.8, 0.6, 0.7, 0.9]))
    assert jensen_shannon(p, labels) == pytest.approx((np.log(2) - bce) / np.log(2))


def test_reported_scores_are_those_of_the_calibrated_validation_showers(reference):
    off = toy_showers("calogan-eplus", 1000, 3, scale=0.7)
    result = classify(off, reference, EPLUS, repeats=2, hidden=64, epochs=12, batch=40)
    assert result.showers == (600, 200, 200)
    assert result.probabilities.shape == (2, 400)
    assert result.labels.sum() == 200
    assert result.labels.sum() == 200
    for i, probabilities in enumerate(result.probabilities):
        expected = roc_auc_score(result.labels, probabilities)
        assert result.auc[i] == pytest.approx(expected, abs=1e-12)
        assert result.jsd[i] == jensen_shannon(probabilities, result.labels)
        assert probabilities.min() >= 1e-6 and probabilities.max() <= 1 - 1e-6
        # Isotonic regression gives few distinct values, and label 1 is the reference.
        assert len(np.unique(probabilities)) < 200
        mean = [probabilities[result.labels == label].mean() for label in (0, 1)]
        assert mean[1] > mean[0] + 0.1


def test_validation_showers_are_known_by_their_rows(reference, twin):
    """Every other generated shower is too bright: those that are found are those rows."""
    bright = np.arange(1000) % 2 == 0
    cells = (np.where(bright, 3, 1)[:, None] * twin.cells).astype(np.float32)
    marked = Showers(twin.calorimeter, twin.incident_energy, cells)
    result = classify(marked, reference, EPLUS, repeats=2, hidden=64, epochs=8, batch=40)
    assert result.rows.shape == (2, 400)
    for rows, probabilities in zip(result.rows, result.probabilities, strict=True):
        assert len(set(rows[:200])) == len(set(rows[200:])) == 200
        assert rows.min() >= 0 and rows.max() < 1000
        found = probabilities[:200] < 0.2
        assert np.mean(found == bright[rows[:200]]) > 0.95
    assert (result.rows[0] != result.rows[1]).any()


# ---- ranges of incident energy ----------------------------------------------------------------

HALVES = (EnergyRange("low", 0.0, 50e3), EnergyRange("high", 50e3, 1e6))


@pytest.fixture(scope="module")
def wrong_above_50_gev(twin):
    """Right showers below 50 GeV, half as bright above."""
    factor = np.where(twin.incident_energy < 50e3, 1.0, 0.5)[:, None]
    cells = (factor * twin.cells).astype(np.float32)
    return Showers(twin.calorimeter, twin.incident_energy, cells)


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_defect_at_high_energies_is_seen_in_their_range_alone(
    reference, wrong_above_50_gev, repeats
):
    result = classify(
        wrong_above_50_gev, reference, EPLUS, repeats=repeats, hidden=64, epochs=8, batch=40
    )
    energies = wrong_above_50_gev.incident_energy, reference.incident_energy
    parts = result.by_range(*energies, HALVES)
    assert list(parts) == ["low", "high"]
    assert parts["high"][0] > 0.95
    assert abs(parts["low"][0] - 0.5) < 0.15
    assert max(error for _, error in parts.values()) < 0.1
    jsd = result.by_range(*energies, HALVES, "jsd")
    assert jsd["high"][0] > 0.4 > 0.2 > jsd["low"][0]


def test_one_range_of_all_energies_is_the_score_of_all_showers(reference, twin):
    several, one = (
        classify(twin, reference, EPLUS, inputs="high", repeats=n, hidden=16, epochs=2)
        for n in (3, 1)
    )
    whole = [EnergyRange("all", 0.0, 1e9)]
    for result in (several, one):
        for score in ("auc", "jsd"):
            parts = result.by_range(twin.incident_energy, reference.incident_energy, whole, score)
            assert parts == {"all": pytest.approx(result.summary(score)[:2])}


def test_ranges_with_fewer_than_50_validation_showers_of_a_class_are_left_out(reference, twin):
    result = classify(twin, reference, EPLUS, inputs="high", repeats=2, hidden=16, epochs=2)
    energies = twin.incident_energy, reference.incident_energy
    fiftieth = [
        np.sort(energy[rows])[49]
        for both in result.rows
        for rows, energy in zip(both.reshape(2, 200), energies, strict=True)
    ]
    least = max(fiftieth)
    enough = EnergyRange("enough", 0.0, least + 1)
    fewer = EnergyRange("fewer", 0.0, least)
    assert list(result.by_range(*energies, [enough, fewer])) == ["enough"]


def test_the_same_seed_gives_the_same_auc_and_another_seed_another(reference, twin):
    small = reference[:300], twin[:300]
    aucs = [
        classify(*small, EPLUS, repeats=2, seed=seed, hidden=32, epochs=3).auc for seed in (7, 7, 8)
    ]
    np.testing.assert_array_equal(aucs[0], aucs[1])
    assert (aucs[0] != aucs[2]).all()
    assert aucs[0][0] != aucs[0][1]


def test_a_training_leaves_the_global_random_numbers_alone(reference, twin):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    classify(reference[:60], twin[:60], EPLUS, repeats=1, hidden=8, epochs=1)
    assert torch.rand(1) == expected


def test_spread_over_repeats_and_bootstrap_of_one_training_say_what_they_are(reference, twin):
    several = classify(twin, reference, EPLUS, inputs="high", repeats=3, hidden=16, epochs=2)
    value, error, kind = several.summary("auc")
    assert (value, error) == (several.auc.mean(), several.auc.std(ddof=1))
    assert kind == "spread over repeats"
    one = classify(twin, reference, EPLUS, inputs="high", repeats=1, hidden=16, epochs=2)
    _, error, kind = one.summary("auc")
    assert kind == "bootstrap over validation showers"
    assert error == pytest.approx(np.sqrt(1 / (6 * 200)), rel=0.4)


# ---- what the classifier sees -----------------------------------------------------------------


def test_two_samples_of_one_distribution_cannot_be_told_apart(reference, twin):
    for inputs in ("low", "high"):
        result = classify(twin, reference, EPLUS, inputs=inputs, repeats=2, **FAST)
        assert abs(result.auc.mean() - 0.5) < 4 * np.sqrt(1 / (6 * 200))


def test_an_energy_scale_off_by_fifteen_percent_is_seen_by_the_low_level_classifier(reference):
    off = toy_showers("calogan-eplus", 1000, 3, scale=1.15)
    result = classify(off, reference, EPLUS, repeats=1, hidden=64, epochs=25, batch=20)
    assert result.auc[0] > 0.75
    assert result.jsd[0] > 0.1


def test_showers_half_as_wide_again_are_seen_by_the_high_level_classifier(reference):
    wide = toy_showers("calogan-eplus", 1000, 3, width=1.5)
    settings = {"inputs": "high", "repeats": 1, "hidden": 64, "epochs": 25, "batch": 20}
    assert classify(wide, reference, EPLUS, **settings).auc[0] > 0.7


def test_too_little_training_is_warned_about(reference, twin):
    few = classify(twin[:60], reference[:60], EPLUS, repeats=1, hidden=8, epochs=2)
    assert any("8 steps" in warning and "lower bound" in warning for warning in few.warnings)
    many = classify(
        twin[:60], reference[:60], EPLUS, inputs="high", repeats=1, hidden=4, epochs=84, batch=3
    )
    assert not any("steps" in warning for warning in many.warnings)


# ---- evaluate ---------------------------------------------------------------------------------


def test_scores_have_uncertainty_floor_significance_and_their_own_names(reference, twin):
    off = toy_showers("calogan-eplus", 1000, 3, scale=1.05)
    scores = evaluate(off, reference, "calogan-eplus", repeats=2, floor=twin, hidden=16, epochs=2)
    assert [score.name for score in scores] == ["separation_power", "auc_low", "jsd_low"]
    for score in scores:
        assert score.uncertainty > 0 and score.floor_uncertainty > 0
        assert (score.generated, score.reference) == (1000, 1000)
        assert score.floor_kind == "another Geant4 sample"
        spread = np.hypot(score.uncertainty, score.floor_uncertainty)
        assert score.significance == pytest.approx((score.value - score.floor) / spread)
        json.dumps(score.as_dict(), allow_nan=False)
    separation, auc, _ = scores
    assert separation.uncertainty_kind == "bootstrap over showers"
    assert separation.significance > 5
    assert auc.uncertainty_kind == "spread over repeats"
    ratio = separation.details["E_tot/E_inc"]
    assert ratio["value"] > 5 * ratio["floor"]
    assert len(separation.details) == 1 + 8 * 3 + 1
    assert any("validation showers" in warning for warning in auc.warnings)


def test_the_floor_from_halves_is_brought_to_the_size_of_the_comparison(reference, twin):
    halves = evaluate(twin, reference, EPLUS, ("separation_power",))[0]
    sample = evaluate(
        twin, reference, EPLUS, ("separation_power",), floor=toy_showers(EPLUS.name, 1000, 9)
    )[0]
    assert halves.floor_kind == "two halves of the reference"
    assert halves.floor == pytest.approx(sample.floor, rel=0.15)
    # Equal samples sit on the floor, and the score says so.
    assert abs(halves.significance) < 4
    if halves.significance < 2:
        assert any("sees no difference" in warning for warning in halves.warnings)


def test_samples_of_unequal_size_are_cut_for_the_classifier_with_a_warning(reference, twin):
    scores = evaluate(twin[:300], reference, EPLUS, ("auc_high",), repeats=1, hidden=8, epochs=1)
    assert any("300 of the 1000 showers" in warning for warning in scores[0].warnings)
    assert scores[0].settings["showers_per_class"] == "180/60/60"


def test_other_incident_energies_are_warned_about(reference):
    low = reference[reference.incident_energy < 30e3]
    score = evaluate(low, reference, EPLUS, ("separation_power",), replicas=5)[0]
    assert any("incident energies" in warning for warning in score.warnings)


def test_empty_showers_are_warned_about(reference, twin):
    cells = twin.cells.copy()
    cells[:100] = 0
    broken = Showers(twin.calorimeter, twin.incident_energy, cells)
    score = evaluate(broken, reference, EPLUS, ("separation_power",), replicas=5)[0]
    assert any("10.0% of the generated showers are empty" in w for w in score.warnings)


def _with_energy(showers: Showers, energy: float) -> Showers:
    energies = showers.incident_energy.copy()
    energies[4] = energy
    return Showers(showers.calorimeter, energies, showers.cells)


def _with_cell(showers: Showers, value: float) -> Showers:
    cells = showers.cells.copy()
    cells[4, 7] = value
    return Showers(showers.calorimeter, showers.incident_energy, cells)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda s: toy_showers("ds1-photons", 60, 1), "calorimeter ds1-photons, expected calogan"),
        (lambda s: _with_energy(s, 200e3), "1 of 60 incident energies"),
        (lambda s: _with_energy(s, 50.0), "the first is 50 MeV"),
        (lambda s: _with_cell(s, np.nan), "not finite"),
        (lambda s: _with_cell(s, -1.0), "negative"),
        (lambda s: s[:0], "no generated showers"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_error(reference, break_it, message):
    with pytest.raises(DataError, match=message):
        evaluate(break_it(reference[:60]), reference, EPLUS)


def test_unequal_too_few_and_unknown_are_clear_errors(reference, twin):
    with pytest.raises(DataError, match="300 generated and 1000 reference"):
        classify(twin[:300], reference, EPLUS)
    with pytest.raises(DataError, match="too few"):
        classify(twin[:40], reference[:40], EPLUS)
    with pytest.raises(UsageError, match="expected one of low"):
        classify(twin, reference, EPLUS, inputs="medium")
    with pytest.raises(UsageError, match="at least 1"):
        classify(twin, reference, EPLUS, repeats=0)
    with pytest.raises(UsageError, match="batches of 2"):
        classify(twin, reference, EPLUS, batch=1)
    with pytest.raises(UsageError, match=r"beauty: choose from .*auc_low"):
        evaluate(twin, reference, EPLUS, ("auc_low", "beauty"))
    assert {"separation_power", "auc_low", "jsd_low", "auc_high", "jsd_high"} <= set(METRICS)
