"""Frechet and kernel distance, layer correlations, Wasserstein: definitions and planted defects."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.optimize import curve_fit
from scipy.stats import iqr, wasserstein_distance
from toy_showers import toy_showers

from calostudy.datasets import dataset
from calostudy.errors import DataError
from calostudy.metrics import METRICS, Options, Sample, evaluate
from calostudy.metrics.distances import (
    batch_sizes,
    correlation_distance,
    correlations,
    frechet_distance,
    frechet_of_few,
    frechet_physics_distance,
    kernel_batches,
    median_and_spread,
    scaled,
    wasserstein,
)

EPLUS = dataset("calogan-eplus")
CHEAP = ("fpd", "kpd", "precision", "recall", "density", "coverage", "pcc", "wasserstein")


def points(n, seed, *, shift=0.0, columns=6):
    """Correlated numbers (n, columns); columns 2 and 3 are constant, as in a layer never hit."""
    mixing = np.random.default_rng(0).normal(size=(columns, columns))
    x = (np.random.default_rng([7, seed]).normal(size=(n, columns)) + shift) @ mixing
    x[:, 2:4] = 0.0, -8.0
    return x


def pair(n=600, m=500, shift=0.0, seed=0):
    """Scaled generated (n, 6) and reference (m, 6)."""
    reference = points(m, 2 * seed)
    return scaled(points(n, 2 * seed + 1, shift=shift), reference, reference)


def moments(x):
    return x.mean(axis=0), np.cov(x, rowvar=False)


def literal_frechet(x, y):
    (m1, s1), (m2, s2) = moments(x), moments(y)
    return np.sum((m1 - m2) ** 2) + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)


# ---- Frechet ----------------------------------------------------------------------------------


def test_fpd_is_the_extrapolation_of_literal_frechet_distances_of_the_same_batches():
    generated, reference = pair(shift=0.3)
    generated, reference = generated[:, [0, 1, 4, 5]], reference[:, [0, 1, 4, 5]]
    sizes = (1 / np.linspace(1 / 100, 1 / 500, 10)).astype(int)
    rng = np.random.default_rng(42)
    means = [
        np.mean(
            [
                literal_frechet(
                    reference[rng.choice(500, size=n)], generated[rng.choice(600, size=n)]
                )
                for _ in range(20)
            ]
        )
        for n in sizes
    ]
    bounds = ([0, 0], [np.inf, np.inf])
    fit, covariance = curve_fit(lambda x, a, b: a + b * x, 1 / sizes, means, bounds=bounds)
    found = frechet_physics_distance(generated, reference)
    np.testing.assert_array_equal(found.sizes, sizes)
    np.testing.assert_allclose(found.means, means, rtol=1e-9)
    assert found.value == pytest.approx(fit[0], rel=1e-4)  # the iterative fit stops before its end
    assert found.fit_error == pytest.approx(np.sqrt(covariance[0, 0]), rel=1e-4)


def test_published_batches_are_used_where_the_samples_allow_them():
    assert (batch_sizes(120_000)[0], batch_sizes(120_000)[-1]) == (10_000, 49_999)
    steps = np.diff(1 / batch_sizes(50_000))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-2)
    assert batch_sizes(1000)[-1] == 1000


@settings(max_examples=50, deadline=None)
@given(
    shift=st.lists(st.floats(-3, 3), min_size=3, max_size=3),
    widths=st.lists(st.floats(0.0, 3), min_size=6, max_size=6),
)
def test_frechet_distance_of_uncorrelated_gaussians_is_that_of_their_means_and_widths(
    shift, widths
):
    first, second = np.array(widths[:3]), np.array(widths[3:])
    found = frechet_distance(
        (np.zeros(3), np.diag(first**2)), (np.array(shift), np.diag(second**2))
    )
    expected = np.sum(np.square(shift)) + np.sum((first - second) ** 2)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("rows", [30, 100])
def test_fewer_showers_than_features_have_the_distance_of_their_moments(rows):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(rows, 60)), 1.1 * rng.normal(size=(rows, 60)) + 0.1
    x[:, 7] = y[:, 7] = 0  # a feature that does not vary
    expected = frechet_distance(moments(x), moments(y))
    assert frechet_of_few(x, y) == pytest.approx(expected, rel=1e-6)
    assert frechet_of_few(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_does_not_need_full_rank_and_is_blind_to_rotations():
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    x, y = rng.normal(size=(5, 8)), rng.normal(size=(6, 8)) + 1
    found = frechet_distance(moments(x), moments(y))
    assert found == pytest.approx(
        frechet_distance(moments(x @ rotation), moments(y @ rotation)), rel=1e-6
    )
    assert frechet_distance(moments(x), moments(x)) == pytest.approx(0, abs=1e-6)


def test_a_line_that_would_start_below_zero_starts_at_zero():
    generated, reference = pair()
    found = frechet_physics_distance(reference, reference, sizes=[20, 40, 80, 160])
    assert found.value >= 0
    assert found.slope > 0
    assert found.value < 0.02 * found.means[0]
    assert frechet_physics_distance(generated, reference).fit_error > 0


# ---- kernel -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [40, 500])
def test_kpd_is_the_literal_unbiased_estimate_on_the_same_batches(size):
    generated, reference = pair(shift=0.2)
    expected = []
    for batch in range(10):
        rng = np.random.default_rng(42 + 1000 * batch)
        x = reference[rng.choice(500, size=size)]
        y = generated[rng.choice(600, size=size)]
        xx, yy, xy = ((a @ b.T / 6 + 1) ** 4 for a, b in ((x, x), (y, y), (x, y)))
        off = [k[~np.eye(size, dtype=bool)].mean() for k in (xx, yy)]
        expected.append(sum(off) - 2 * xy.mean())
    found = kernel_batches(generated, reference, size)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    value, error = median_and_spread(found)
    assert value == pytest.approx(np.median(expected), rel=1e-9)
    assert error == pytest.approx(iqr(expected, rng=(16.275, 83.725)) / 2, rel=1e-9)


def test_kpd_of_equal_distributions_is_unbiased_with_batches_smaller_than_the_samples():
    values = np.concatenate(
        [kernel_batches(*pair(3000, 3000, seed=seed), size=30, seed=seed) for seed in range(30)]
    )
    standard_error = values.std() / np.sqrt(len(values))
    assert abs(values.mean()) < 3.5 * standard_error
    assert (values < 0).any()


# ---- both -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_shift_is_far_above_what_equal_distributions_give(seed):
    equal, shifted = pair(seed=seed), pair(shift=0.4, seed=seed)
    floor, found = (frechet_physics_distance(*samples) for samples in (equal, shifted))
    assert found.value - floor.value > 4 * np.hypot(found.spread, floor.spread)
    floor, found = (median_and_spread(kernel_batches(*samples)) for samples in (equal, shifted))
    assert found[0] - floor[0] > 4 * np.hypot(found[1], floor[1])


def test_the_order_of_the_showers_changes_nothing_but_the_batches():
    generated, reference = pair(shift=0.3)
    order = np.random.default_rng(5).permutation(len(generated))
    first, second = (frechet_physics_distance(g, reference) for g in (generated, generated[order]))
    assert abs(first.value - second.value) < 4 * np.hypot(first.fit_error, second.fit_error)
    first, second = (
        median_and_spread(kernel_batches(g, reference)) for g in (generated, generated[order])
    )
    assert abs(first[0] - second[0]) < 4 * np.hypot(first[1], second[1])


def test_scaled_columns_reach_one_in_the_reference_and_zero_columns_stay():
    generated, reference = pair()
    largest = np.abs(reference).max(axis=0)
    np.testing.assert_allclose(largest, [1, 1, 0, 1, 1, 1])
    assert not generated[:, 2].any()


def test_too_few_showers_and_values_that_are_not_finite_are_refused():
    good = points(100, 1)
    with pytest.raises(DataError, match="49 generated showers, expected at least 50"):
        scaled(good[:49], good, good)
    bad = good.copy()
    bad[3, 1] = np.nan
    with pytest.raises(DataError, match="not finite"):
        scaled(good, bad, good)


# ---- correlations and Wasserstein -------------------------------------------------------------


def test_correlations_are_pearsons_and_zero_for_a_constant_column():
    x = points(300, 1)
    matrix = correlations(x)
    varying = [0, 1, 4, 5]
    np.testing.assert_allclose(
        matrix[np.ix_(varying, varying)], np.corrcoef(x[:, varying].T), rtol=1e-9
    )
    np.testing.assert_array_equal(matrix[3], np.eye(6)[3])
    twice = np.repeat(x[:3], [1, 2, 0], axis=0)
    np.testing.assert_allclose(
        correlations(x[:3], np.array([1.0, 2.0, 0.0])), correlations(twice), atol=1e-9
    )


def test_a_layer_dealt_to_other_showers_is_seen_by_the_correlations_alone():
    x, y = (points(2000, seed)[:, [0, 1, 4, 5]] for seed in (1, 2))
    shuffled = y.copy()
    shuffled[:, 0] = np.random.default_rng(1).permutation(y[:, 0])
    same, found = (correlation_distance(z, x, replicas=30) for z in (y, shuffled))
    assert same[0] < 0.05
    assert found[0] - same[0] > 4 * np.hypot(found[1], same[1])
    ones = np.ones((2000, 1)), np.ones((2000, 1))
    distance = [wasserstein(z[:, 0], x[:, 0], ones) for z in (y, shuffled)]
    assert distance[0] == pytest.approx(distance[1], rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(
    x=st.lists(st.integers(-5, 5), min_size=1, max_size=8),
    y=st.lists(st.integers(-5, 5), min_size=1, max_size=8),
    seed=st.integers(0, 100),
)
def test_wasserstein_distance_is_scipys_with_weights_and_ties(x, y, seed):
    rng = np.random.default_rng(seed)
    weights = [rng.integers(1, 4, size=(len(z), 2)).astype(float) for z in (x, y)]
    found = wasserstein(np.array(x), np.array(y), (weights[0], weights[1]))
    expected = [
        wasserstein_distance(x, y, weights[0][:, column], weights[1][:, column])
        for column in range(2)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)


# ---- in the evaluation ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def showers():
    """Twin, twice as wide (FPD of 400 showers sees 30 % at two standard deviations), reference."""
    return (
        toy_showers("calogan-eplus", 400, 1),
        toy_showers("calogan-eplus", 400, 2, width=2.0),
        toy_showers("calogan-eplus", 400, 3),
    )


def test_evaluate_gives_every_distance_with_uncertainty_floor_sizes_and_settings(showers):
    twin, wide, reference = showers
    scores = {s.name: s for s in evaluate(wide, reference, EPLUS, CHEAP, floor=twin, replicas=20)}
    assert list(scores) == list(CHEAP)
    for score in scores.values():
        assert score.uncertainty is not None
        assert score.uncertainty_kind
        assert (score.generated, score.reference) == (400, 400)
        assert score.settings
    for name in ("fpd", "kpd", "wasserstein"):
        assert scores[name].significance > 3
    assert scores["fpd"].settings["batch_sizes"].startswith("80/")
    assert any("not comparable" in text for text in scores["kpd"].warnings)
    assert scores["fpd"].details["extrapolation"]["value"] == scores["fpd"].value


def test_two_samples_of_one_distribution_are_not_told_apart(showers):
    twin, _, reference = showers
    for score in evaluate(twin, reference, EPLUS, CHEAP, replicas=20):
        assert score.significance < 3, score.name


def test_batches_smaller_than_the_number_of_features_are_told():
    samples = [Sample.of(toy_showers("ds2", 60, seed), dataset("ds2")) for seed in (1, 2)]
    found = METRICS["fpd"](*samples, Options(), samples[1])
    assert any("do not determine the covariance" in text for text in found["fpd"].warnings)


def test_samples_of_published_size_get_the_published_batches_and_the_analytic_distance():
    rng = np.random.default_rng(7)
    x, y = rng.normal(0.0, 1.0, (60_000, 2)), rng.normal([0.3, 0.0], [1.0, 1.5], (60_000, 2))
    found = frechet_physics_distance(y, x, batches=4)
    assert (found.sizes[0], found.sizes[-1]) == (10_000, 49_999)
    error = np.hypot(found.fit_error, found.spread)
    assert found.value == pytest.approx(0.3**2 + 0.5**2, abs=4 * error)
    assert error < 0.02
