"""Precision, recall, density and coverage: golden figures, definitions, planted defects."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_showers import toy_showers

from calostudy.datasets import dataset
from calostudy.errors import DataError, UsageError
from calostudy.metrics import METRICS, Options, Sample, evaluate, neighbours
from calostudy.metrics.neighbours import NAMES, log_cells, neighbour_metrics

EPLUS = dataset("calogan-eplus")


def values(generated, reference, **options):
    found = neighbour_metrics(generated, reference, **options)
    return np.array([found[name][0] for name in NAMES])


def literal(generated, reference, k):
    """The definitions, one distance at a time."""

    def radius(z):
        d = np.linalg.norm(z[:, None] - z[None], axis=2)
        return np.sort(d, axis=1)[:, k]  # the first is the point itself

    d = np.linalg.norm(reference[:, None] - generated[None], axis=2)
    real, fake = d < radius(reference)[:, None], d < radius(generated)[None]
    return [real.any(0).mean(), fake.any(1).mean(), real.sum(0).mean() / k, real.any(1).mean()]


def normal(n, seed, d=3, scale=1.0):
    return scale * np.random.default_rng([3, seed]).normal(size=(n, d))


def test_the_golden_figures_of_the_published_code():
    k, d = np.arange(200)[:, None], np.arange(3)[None]
    real = np.sin(12.9898 * k + 78.233 * (d + 1) * (k % 7 + 1))
    fake = 1.1 * np.sin(39.3468 * k + 11.135 * (d + 1) * (k % 5 + 1)) + 0.1
    np.testing.assert_allclose(values(fake, real), [0.975, 1.0, 0.828, 0.945], rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(20, 60),
    m=st.integers(20, 60),
    d=st.integers(1, 8),
    k=st.integers(1, 5),
    seed=st.integers(0, 10_000),
)
def test_the_definitions_hold_for_any_sizes_and_neighbours(n, m, d, k, seed):
    x, y = normal(m, seed, d), normal(n, seed + 1, d, 1.3)
    np.testing.assert_allclose(values(y, x, k=k), literal(y, x, k), rtol=1e-12)


def test_blocks_of_rows_do_not_change_the_figures(monkeypatch):
    x, y = normal(150, 1), normal(130, 2)
    whole = values(y, x)
    monkeypatch.setattr(neighbours, "ROWS", 37)
    np.testing.assert_array_equal(values(y, x), whole)


def test_the_order_of_the_showers_and_a_shift_of_both_samples_change_nothing():
    x, y = normal(150, 1), normal(150, 2, scale=1.2)
    order = np.random.default_rng(0).permutation(150)
    np.testing.assert_array_equal(values(y[order], x), values(y, x))
    np.testing.assert_array_equal(values(y + 50.0, x + 50.0), values(y, x))


def test_a_copy_of_the_reference_is_inside_every_ball_and_equal_points_have_none():
    x = normal(100, 1, d=40) + 300.0
    assert values(x, x)[[0, 1, 3]] == pytest.approx(1.0)
    # Ten and more equal points have their neighbours at distance zero: strictly inside is nothing.
    same = np.repeat(normal(5, 1, d=40) + 300.0, 20, axis=0)
    np.testing.assert_array_equal(values(same, same), 0.0)
    np.testing.assert_array_equal(values(same.astype(np.float32), same.astype(np.float32)), 0.0)


def test_coverage_of_equal_distributions_is_known_in_any_number_of_dimensions():
    expected = 1 - np.prod((400 - np.arange(5) - 1) / (800 - np.arange(5) - 1))
    for d in (1, 3, 30):
        found = neighbour_metrics(normal(400, 1, d), normal(400, 2, d))["coverage"]
        assert abs(found[0] - expected) < 4 * found[1]


def test_a_lost_mode_costs_recall_and_coverage_but_not_precision():
    two = normal(300, 1)
    two[:150, 0] += 20
    one, twin = normal(300, 2), normal(300, 4)
    twin[:150, 0] += 20
    lost = dict(zip(NAMES, values(one, two), strict=True))
    kept = dict(zip(NAMES, values(twin, two), strict=True))
    assert lost["recall"] < 0.6 < 0.9 < kept["recall"]
    assert lost["coverage"] < 0.6 < 0.9 < kept["coverage"]
    assert lost["precision"] > 0.9


def test_points_far_away_cost_precision_and_density_but_not_recall():
    reference, far = normal(300, 1), normal(300, 2)
    far[:100] += 100
    found = dict(zip(NAMES, values(far, reference), strict=True))
    assert found["precision"] <= 2 / 3
    assert found["density"] < 0.8
    assert found["recall"] > 0.9


def test_the_uncertainty_is_the_spread_over_samples_to_a_factor_of_two():
    found = [neighbour_metrics(normal(200, 2 * i), normal(200, 2 * i + 1)) for i in range(30)]
    for name in ("density", "coverage"):
        spread = np.std([each[name][0] for each in found])
        mean = np.mean([each[name][1] for each in found])
        assert 0.6 < mean / spread < 2.2


def test_empty_cells_take_the_given_energy_in_the_logarithm():
    found = log_cells(np.array([[0.0, 10.0, 0.1]]), 0.1)
    np.testing.assert_allclose(found, [[-1, 1, -1]], atol=1e-6)


def test_too_few_showers_bad_values_and_bad_options_are_refused():
    x = normal(40, 1)
    with pytest.raises(DataError, match="19 generated showers, expected at least 20"):
        neighbour_metrics(x[:19], x)
    bad = x.copy()
    bad[0, 0] = np.inf
    with pytest.raises(DataError, match="not finite"):
        neighbour_metrics(x, bad)
    with pytest.raises(UsageError):
        neighbour_metrics(x, x, k=0)


def test_samples_of_unequal_sizes_are_cut_to_one_size_and_the_score_says_so():
    samples = [Sample.of(toy_showers("calogan-eplus", n, n), EPLUS) for n in (80, 120)]
    found = METRICS["recall"](*samples, Options(), samples[1])
    assert set(found) == set(NAMES)
    assert found["recall"].settings["showers_per_sample"] == 80
    assert any("80 of the 120" in text for text in found["recall"].warnings)


def test_empty_cells_are_at_the_threshold_or_at_the_published_tenth_of_an_mev():
    for name, expected in (("calogan-eplus", EPLUS.threshold), ("ds1-photons", 0.1)):
        samples = [Sample.of(toy_showers(name, 60, seed), dataset(name)) for seed in (1, 2)]
        found = METRICS["density"](*samples, Options(), samples[1])
        assert found["density"].settings["empty_cell_MeV"] == expected


def test_a_narrower_model_is_different_though_its_density_is_higher():
    reference, twin = (toy_showers("calogan-eplus", 300, seed) for seed in (1, 2))
    copies = reference[np.arange(300) % 30]
    (score,) = evaluate(copies, reference, EPLUS, ("recall",), floor=twin)
    assert score.value < score.floor
    assert score.significance > 3


def test_the_floor_of_halves_is_carried_to_the_size_of_the_comparison():
    reference, twin = (toy_showers("calogan-eplus", 600, seed) for seed in (1, 2))
    halves, whole = (
        {s.name: s for s in evaluate(twin, reference, EPLUS, NAMES, floor=floor)}
        for floor in (None, toy_showers("calogan-eplus", 600, 3))
    )
    for name in NAMES:
        error = np.hypot(halves[name].floor_uncertainty, whole[name].floor_uncertainty)
        assert abs(halves[name].floor - whole[name].floor) < 3 * error
