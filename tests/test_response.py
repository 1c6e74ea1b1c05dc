"""Response: mean, RMS and chi2/NDF of E_tot/E_inc per incident energy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chi2_contingency
from toy_showers import toy_showers

from calostudy.datasets import dataset, load
from calostudy.metrics.measurement import Options
from calostudy.metrics.response import chi_squared, mean_and_rms, measure_response, response_bins
from calostudy.metrics.sample import Sample
from calostudy.showers import Showers

OPTIONS = Options(replicas=40)
NAMES = ["mean_response", "rms_response", "chi2_response"]

counts = arrays(np.float64, 12, elements=st.integers(0, 500).map(float))


@settings(max_examples=60, deadline=None)
@given(g=counts, r=counts)
def test_chi2_is_that_of_the_contingency_table_and_blind_to_the_order(g, r):
    if not (g.any() and r.any()):
        assert np.isnan(chi_squared(g, r)[0])
        return
    chi2, ndf = chi_squared(g, r)
    filled = g + r > 0
    expected = chi2_contingency(np.stack([g[filled], r[filled]]), correction=False)
    assert ndf == expected.dof
    assert chi2 == pytest.approx(expected.statistic, rel=1e-9, abs=1e-9)
    assert chi_squared(r, g)[0] == pytest.approx(chi2, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("sizes", [(300, 300), (2000, 400)])
def test_samples_of_one_distribution_have_chi2_of_ndf_whatever_their_sizes(sizes):
    rng = np.random.default_rng(3)
    found = []
    for _ in range(200):
        first, second = (rng.normal(1, 0.1, n) for n in sizes)
        bins = response_bins(second).edges
        found.append(chi_squared(np.histogram(first, bins)[0], np.histogram(second, bins)[0]))
    chi2, ndf = np.sum(found, axis=0)
    assert chi2 / ndf == pytest.approx(1, abs=4 * np.sqrt(2 / ndf))


def test_mean_and_rms_leave_outliers_out():
    rng = np.random.default_rng(1)
    values = rng.normal(0.9, 0.02, 5000)
    bins = response_bins(values)
    spoilt = np.concatenate([values, [0.0, 0.3, 5.0]])
    mean, rms = mean_and_rms(spoilt, bins, np.ones((len(spoilt), 1)))
    assert mean[0] == pytest.approx(values.mean()) and rms[0] == pytest.approx(values.std())


@settings(max_examples=30, deadline=None)
@given(factor=st.floats(0.01, 100), seed=st.integers(0, 1000))
def test_mean_and_rms_scale_with_the_response(factor, seed):
    rng = np.random.default_rng(seed)
    values, weights = rng.gamma(4, 0.1, 200), rng.poisson(1, (200, 3)) + 1.0
    first = mean_and_rms(values, response_bins(values), weights)
    scaled = mean_and_rms(factor * values, response_bins(factor * values), weights)
    np.testing.assert_allclose(scaled, factor * np.array(first), rtol=1e-9)


def test_a_response_that_never_varies_still_has_bins():
    for value in (0.0, 0.7):
        mean, rms = mean_and_rms(
            np.full(9, value), response_bins(np.full(9, value)), np.ones((9, 1))
        )
        assert (mean[0], rms[0]) == (pytest.approx(value), pytest.approx(0, abs=1e-12))


@pytest.mark.parametrize("name", ["ds1-photons", "ds2", "calogan-piplus", "segmentations"])
def test_geant4_has_the_response_of_geant4(name):
    showers, entry = load(name, "evaluation", rows=slice(0, 2000)), dataset(name)
    first, second = (Sample.of(each, entry) for each in (showers[::2], showers[1::2]))
    found = measure_response(first, second, OPTIONS, second)
    assert list(found) == NAMES
    chi2 = found["chi2_response"]
    assert chi2.value == pytest.approx(1, abs=4 * chi2.uncertainty)
    for measured in found.values():
        assert list(measured.by_energy) and measured.uncertainty > 0
    for each in ("mean_response", "rms_response"):
        for value, spread in found[each].details.values():
            assert abs(value) < 5 * spread


def test_a_response_too_high_and_one_too_wide_are_told_apart_at_each_energy():
    entry = dataset("ds1-photons")
    reference = Sample.of(toy_showers("ds1-photons", 3000, 1), entry)
    other = toy_showers("ds1-photons", 3000, 2)
    rng = np.random.default_rng(4)
    factors = {
        "same": np.ones(3000),
        "high": np.full(3000, 1.01),
        "wide": rng.normal(1, 0.02, 3000),
    }
    found = {
        word: measure_response(
            Sample.of(
                Showers(other.calorimeter, other.incident_energy, other.cells * factor[:, None]),
                entry,
            ),
            reference,
            OPTIONS,
            reference,
        )
        for word, factor in factors.items()
    }
    assert len(found["same"]["mean_response"].details) == 13  # two of 15 have too few showers
    values = {word: [each[name].value for name in NAMES] for word, each in found.items()}
    assert values["high"][0] == pytest.approx(0.01, rel=0.3)
    assert values["high"][1] == pytest.approx(values["same"][1], rel=0.5)
    assert values["wide"][1] == pytest.approx(np.sqrt(2) - 1, rel=0.3)
    assert values["wide"][0] < 0.5 * values["high"][0]
    assert min(values["high"][2], values["wide"][2]) > 1.5 > 1.2 > values["same"][2]
    signed = np.array(list(found["high"]["mean_response"].details.values()))
    assert (signed[:, 0] > 0.005).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_lost_energy_is_told_as_outliers_or_seen_in_the_mean(share):
    entry = dataset("calogan-eplus")
    showers = toy_showers("calogan-eplus", 400, 1)
    cells = showers.cells.copy()
    cells[: int(share * 400)] *= 0.01
    lost = Sample.of(Showers(showers.calorimeter, showers.incident_energy, cells), entry)
    reference = Sample.of(showers, entry)
    found = measure_response(lost, reference, OPTIONS, reference)
    told = all(any("outliers" in each for each in m.warnings) for m in found.values())
    assert told == (share == 0.1)
    assert found["mean_response"].value == pytest.approx(0 if told else 0.99 * share, abs=0.01)
    assert found["chi2_response"].value > 0.5  # 0 for the very same showers, below
    same = measure_response(reference, reference, OPTIONS, reference)
    assert not any("outliers" in each for each in same["mean_response"].warnings)
    assert [same[name].value for name in NAMES] == [0.0, 0.0, 0.0]


def test_samples_too_small_for_any_range_are_compared_over_all_energies():
    samples = [Sample.of(toy_showers("ds2", 30, seed), dataset("ds2")) for seed in (1, 2)]
    found = measure_response(*samples, OPTIONS, samples[1])["rms_response"]
    assert list(found.by_energy) == ["all energies"] and found.value > 0
