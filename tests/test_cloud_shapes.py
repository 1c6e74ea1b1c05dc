"""Hits, longitudinal and radial profiles of point clouds and of cells."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from calostudy.calorimeter import calorimeter
from calostudy.clouds import PointClouds
from calostudy.datasets import dataset, load, load_clouds
from calostudy.metrics.cloud_shapes import (
    Profiles,
    cell_profiles,
    cell_rings,
    cloud_profiles,
    compare_clouds,
    compare_profiles,
    measure_profiles,
    ring_edges,
)
from calostudy.metrics.measurement import Options
from calostudy.metrics.sample import Sample
from calostudy.showers import Showers

OPTIONS = Options(replicas=40)
ILD = calorimeter("ild")


@pytest.fixture(scope="module")
def clouds():
    return load_clouds("ild-photons", "evaluation", rows=slice(0, 300))


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(
        st.tuples(st.integers(0, 10**6).map(lambda steps: steps / 1e4), st.floats(0.01, 10)),
        min_size=1,
        max_size=200,
    )
)
def test_rings_rise_and_hold_no_more_than_their_share_and_one_distance(points):
    radius, energy = np.array(points).T
    edges = ring_edges(radius, energy)
    assert edges[0] == 0 and (np.diff(edges) > 0).all()
    inside, _ = np.histogram(radius, edges, weights=energy)
    assert inside.sum() == pytest.approx(energy.sum())
    heaviest = np.bincount(np.unique(radius, return_inverse=True)[1], energy).max()
    assert (inside <= energy.sum() / 20 + 2 * heaviest + 1e-9).all()


@pytest.mark.parametrize("name", ["ds2", "ild-photons", "ds1-pions"])
def test_profiles_of_cells_share_out_the_energy(name):
    sample = Sample.of(load(name, "evaluation", rows=slice(0, 60)), dataset(name))
    edges = cell_rings(sample)
    found = cell_profiles(sample, edges)
    total = sample.observables["E_tot"]
    np.testing.assert_allclose(found.radial.sum(axis=1), total, rtol=1e-5)
    np.testing.assert_allclose(found.longitudinal.sum(axis=1), total)
    np.testing.assert_array_equal(
        found.hits, (sample.showers.cells >= dataset(name).threshold).sum(axis=1)
    )
    assert (found.radial.sum(axis=0) > 0).all() and len(edges) > 5


def test_profiles_of_points_and_of_their_cells_agree_where_cells_are_fine(clouds):
    edges = np.array([0.0, 20.0, 40.0, 500.0])
    points = cloud_profiles(clouds, ILD, edges)
    np.testing.assert_allclose(points.radial.sum(axis=1), clouds.total_energy())
    sample = Sample.of(clouds.to_showers(ILD), dataset("ild-photons"))
    cells = cell_profiles(sample, edges)
    assert (cells.hits < points.hits).all()
    for kind in ("longitudinal", "radial"):
        first, second = (getattr(each, kind).sum(axis=0) for each in (points, cells))
        # what is missing lies outside the box of cells, or below their threshold
        np.testing.assert_allclose(first / first.sum(), second / second.sum(), atol=0.02)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
def test_distances_are_those_of_scipy_and_blind_to_the_scale_of_energy(seed, scale):
    rng = np.random.default_rng(seed)
    edges = np.array([0.0, 1.0, 3.0, 10.0])

    def some(n):
        return Profiles(
            edges, rng.poisson(50, n), rng.gamma(1, size=(n, 5)) + 0.1, rng.gamma(1, size=(n, 3))
        )

    first, second = some(20), some(30)
    found = compare_profiles(first, second, OPTIONS, second)
    middle = np.array([0.5, 2.0, 6.5])
    sums = [each.radial.sum(axis=0) for each in (first, second)]
    mean = np.average(middle, weights=sums[1])
    spread = np.sqrt(np.average((middle - mean) ** 2, weights=sums[1]))
    expected = wasserstein_distance(middle, middle, *sums) / spread
    assert found["wasserstein_radial"].value == pytest.approx(expected)
    louder = replace(first, radial=scale * first.radial, longitudinal=scale * first.longitudinal)
    again = compare_profiles(louder, second, OPTIONS, second)
    for metric, each in found.items():
        assert again[metric].value == pytest.approx(each.value, rel=1e-6)


def test_geant4_has_the_profiles_of_geant4_and_each_defect_is_named(clouds):
    first, second = clouds[np.arange(0, 300, 2)], clouds[np.arange(1, 300, 2)]
    same = compare_clouds(first, second, ILD, OPTIONS)
    position = first.position.copy()
    position[:, :2] *= 1.15
    deep = first.position.copy()
    deep[:, 2] += 2 * np.diff(ILD.layers[3].depth)[0]
    kept = first.energy > np.quantile(first.energy, 0.4)
    counts = np.bincount(first.shower[kept], minlength=len(first))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    defects = {
        "radial": replace(first, position=position),
        "longitudinal": replace(first, position=deep),
        "hits": PointClouds(
            first.incident_energy, offsets, first.position[kept], first.energy[kept]
        ),
    }
    for name, wrong in defects.items():
        found = compare_clouds(wrong, second, ILD, OPTIONS)
        for word in ("separation", "wasserstein"):
            excess = {
                metric: each.value - same[metric].value
                for metric, each in found.items()
                if metric.startswith(word)
            }
            worst = max(excess, key=excess.get)
            assert worst == f"{word}_{name}"
            assert excess[worst] > 5 * np.hypot(same[worst].uncertainty, found[worst].uncertainty)
    nothing = compare_clouds(first, first, ILD, OPTIONS)
    assert max(each.value for each in nothing.values()) < 1e-12


@pytest.mark.parametrize("name", ["ds2", "calogan-gamma"])
def test_cells_of_geant4_have_the_profiles_of_geant4_and_too_few_hits_are_seen(name):
    entry = dataset(name)
    showers = load(name, "evaluation", rows=slice(0, 800))
    first, second = showers[::2], Sample.of(showers[1::2], entry)
    same = measure_profiles(Sample.of(first, entry), second, OPTIONS, second)
    for each in same.values():
        assert each.value < 4 * each.uncertainty
    faint = first.cells < np.median(first.cells[first.cells > 0])
    thinned = np.where(faint, 0, first.cells)
    few = Sample.of(Showers(first.calorimeter, first.incident_energy, thinned), entry)
    found = measure_profiles(few, second, OPTIONS, second)
    for metric in ("separation_hits", "wasserstein_hits"):
        right, wrong = same[metric], found[metric]
        assert wrong.value - right.value > 5 * np.hypot(wrong.uncertainty, right.uncertainty)


def test_showers_without_energy_give_numbers():
    entry = dataset("calogan-eplus")
    showers = load("calogan-eplus", "evaluation", rows=slice(0, 60))
    empty = Showers(showers.calorimeter, showers.incident_energy, 0 * showers.cells)
    empty, sample = Sample.of(empty, entry), Sample.of(showers, entry)
    found = measure_profiles(empty, sample, OPTIONS, sample)
    for metric, each in found.items():
        assert np.isfinite(each.value)
        assert each.value > 0.95 or not metric.startswith("separation")
