"""Hits, longitudinal and radial profiles of point clouds and of cells."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from calostudy.calorimeter import calorimeter
from calostudy.clouds import FACTOR, PointClouds
from calostudy.datasets import dataset, load, load_clouds
from calostudy.metrics.cloud_shapes import compare_profiles, measure_profiles
from calostudy.metrics.measurement import Options
from calostudy.metrics.rings import FINE, Profiles, cell_rings, cloud_profiles, ring_edges
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
    found = sample.profiles
    total = sample.observables["E_tot"]
    np.testing.assert_allclose(found.radial.sum(axis=1), total, rtol=1e-5)
    np.testing.assert_allclose(found.longitudinal.sum(axis=1), total)
    np.testing.assert_array_equal(
        found.hits, (sample.showers.cells >= dataset(name).threshold).sum(axis=1)
    )
    rings = found.in_rings(found.rings())
    np.testing.assert_allclose(rings.sum(axis=1), total, rtol=1e-5)
    assert (rings.sum(axis=0) > 0).all() and rings.shape[1] >= 5


@pytest.mark.parametrize("name", ["calogan", "ds1-photons", "ds2", "ds3", "ild", "segmentations"])
def test_cells_are_at_their_distances_as_far_as_fine_rings_can_tell(name):
    geometry = calorimeter(name)
    distance, place = cell_rings(geometry)
    assert (np.diff(distance) > 0).all() and len(distance) < len(FINE)
    np.testing.assert_allclose(distance[place], geometry.r, rtol=0.05)


def test_profiles_of_points_and_of_their_cells_agree_where_cells_are_fine(clouds):
    points = cloud_profiles(clouds, ILD)
    cells = Sample.of(clouds.to_showers(ILD), dataset("ild-photons")).profiles
    np.testing.assert_allclose(points.radial.sum(axis=1), clouds.total_energy(), rtol=1e-5)
    assert (cells.hits < points.hits).all()
    edges = np.array([0.0, 20.0, 40.0, 500.0])
    for first, second in (
        (points.in_rings(edges), cells.in_rings(edges)),
        (points.longitudinal, cells.longitudinal),
    ):
        first, second = first.sum(axis=0), second.sum(axis=0)
        # what is missing lies outside the box of cells, or below their threshold
        np.testing.assert_allclose(first / first.sum(), second / second.sum(), atol=0.02)


def test_rows_of_profiles_are_of_those_showers(clouds):
    whole = cloud_profiles(clouds, ILD)
    parts = [cloud_profiles(clouds[rows], ILD) for rows in (slice(0, 70), slice(70, 300))]
    joined, rows = Profiles.join(parts), np.array([3, 200, 7])
    for name in ("hits", "longitudinal", "radial"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
        np.testing.assert_array_equal(getattr(whole[rows], name), getattr(whole, name)[rows])


def test_where_in_a_cell_of_the_lattice_a_point_lies_makes_no_difference(clouds):
    rng = np.random.default_rng(1)
    pitch = np.diff(ILD.layers[0].edges[0])[0] / FACTOR
    position = clouds.position.copy()
    position[:, :2] += rng.uniform(-0.499, 0.499, (len(position), 2)) * pitch
    first, second = (
        cloud_profiles(each, ILD) for each in (clouds, replace(clouds, position=position))
    )
    np.testing.assert_array_equal(first.radial, second.radial)
    distance = np.hypot(*clouds.position[:, :2].T)
    expected, _ = np.histogram(distance, FINE, weights=clouds.energy)
    np.testing.assert_allclose(first.radial.sum(axis=0), expected, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
def test_distances_are_those_of_scipy_and_blind_to_the_scale_of_energy(seed, scale):
    rng = np.random.default_rng(seed)
    middle = np.array([0.5, 2.0, 6.5])

    def some(n):
        return Profiles(
            middle, rng.poisson(50, n), rng.gamma(1, size=(n, 5)) + 0.1, rng.gamma(1, size=(n, 3))
        )

    first, second = some(20), some(30)
    found = compare_profiles(first, second, OPTIONS, second)
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
    truth = cloud_profiles(second, ILD)

    def compared(clouds):
        return compare_profiles(cloud_profiles(clouds, ILD), truth, OPTIONS, truth)

    same = compared(first)
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
        found = compared(wrong)
        for word in ("separation", "wasserstein"):
            excess = {
                metric: each.value - same[metric].value
                for metric, each in found.items()
                if metric.startswith(word)
            }
            worst = max(excess, key=excess.get)
            assert worst == f"{word}_{name}"
            assert excess[worst] > 5 * np.hypot(same[worst].uncertainty, found[worst].uncertainty)
    assert max(each.value for each in compared(second).values()) < 1e-12


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
