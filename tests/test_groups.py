"""Energies in groups of layers, and numbers with their bootstrap replicas."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance
from toy_showers import toy_showers

from calostudy.calorimeter import CALORIMETERS, calorimeter
from calostudy.datasets import dataset, load
from calostudy.metrics.groups import group_energies, layer_groups, measure_groups
from calostudy.metrics.histograms import Binning
from calostudy.metrics.measurement import Options
from calostudy.metrics.replicas import pair_weights, separation_replicas, wasserstein_replicas
from calostudy.metrics.sample import Sample
from calostudy.showers import Showers

OPTIONS = Options(replicas=40)


def toy_sample(name: str, n: int, seed: int, **change) -> Sample:
    return Sample.of(toy_showers(name, n, seed, **change), dataset(name))


def raised(showers: Showers, layer: int, factor: float, below: float = np.inf) -> Showers:
    """Showers with the energy of one layer times a factor, for incident energies below MeV."""
    cells = showers.cells.copy()
    rows = showers.incident_energy < below
    cells[np.ix_(rows, np.arange(cells.shape[1])[showers.calorimeter.slices[layer]])] *= factor
    return Showers(showers.calorimeter, showers.incident_energy, cells)


@pytest.mark.parametrize("name", CALORIMETERS)
def test_every_layer_is_in_exactly_one_group(name):
    geometry = calorimeter(name)
    groups = layer_groups(geometry)
    assert sorted(chain.from_iterable(groups.values())) == list(range(len(geometry.layers)))
    assert {len(each) for each in groups.values()} == ({5} if len(geometry.layers) > 9 else {1})


@pytest.mark.parametrize("name", ["ds2", "ild-photons", "calogan-eplus"])
def test_the_groups_share_out_the_visible_energy(name):
    sample = Sample.of(load(name, "evaluation", rows=slice(0, 50)), dataset(name))
    energies = group_energies(sample.observables, sample.entry.calorimeter)
    np.testing.assert_allclose(sum(energies.values()), sample.observables["E_tot"])


def test_geant4_differs_from_geant4_by_noise_alone_and_a_raised_group_is_found_where_it_is():
    showers = load("ds2", "evaluation", rows=slice(0, 1600))
    entry = dataset("ds2")
    first, reference = (Sample.of(each, entry) for each in (showers[::2], showers[1::2]))
    wrong = Sample.of(raised(showers[::2], 12, 20.0, below=1e4), entry)
    same = measure_groups(first, reference, OPTIONS, reference)["separation_groups"]
    found = measure_groups(wrong, reference, OPTIONS, reference)["separation_groups"]
    assert same.value < 1.5 * (39 - 1) * (1 / 800 + 1 / 800) / 4
    assert list(same.by_energy) == ["1-10 GeV", "10-100 GeV"]
    assert any("100-1000 GeV" in each for each in same.warnings)
    assert len(same.details) == 27
    excess = {part: found.details[part][0] - same.details[part][0] for part in same.details}
    assert max(excess, key=excess.get) == "layers 10-14, 1-10 GeV"
    assert excess["layers 10-14, 1-10 GeV"] > 5 * same.details["layers 10-14, 1-10 GeV"][1]
    assert excess["layers 10-14, 10-100 GeV"] == excess["layers 0-4, 1-10 GeV"] == 0


def test_headline_and_ranges_are_means_over_the_groups():
    first, second = (toy_sample("calogan-eplus", 500, seed, scale=1 + seed / 20) for seed in (1, 2))
    found = measure_groups(first, second, OPTIONS, second)["separation_groups"]
    means = {"all energies": (found.value, found.uncertainty)} | found.by_energy
    for label, (value, spread) in means.items():
        own = [v for part, v in found.details.items() if part.endswith(f", {label}")]
        assert value == pytest.approx(np.mean([v for v, _ in own])) and 0 < spread < value
        assert len(own) == 3
    assert list(found.by_energy) == ["1-25 GeV", "25-50 GeV", "50-75 GeV", "75-100 GeV"]


def test_showers_without_energy_in_a_group_are_warned_of():
    showers = toy_showers("ds2", 200, 1)
    first = Sample.of(showers, dataset("ds2"))
    for layer in range(5):
        showers = raised(showers, layer, 0.0)
    empty = Sample.of(showers, dataset("ds2"))
    found = measure_groups(empty, first, OPTIONS, first)["separation_groups"]
    assert any("layers 0-4, all energies (100.0% and 0.0%)" in each for each in found.warnings)
    assert found.details["layers 0-4, all energies"][0] == 1.0


numbers = st.lists(st.floats(-5, 5), min_size=15, max_size=40)


@settings(max_examples=50, deadline=None)
@given(a=numbers, b=numbers, holes=st.integers(0, 4))
def test_replicas_begin_with_the_number_itself_and_missing_values_do_not_count(a, b, holes):
    values = tuple(np.concatenate([each, np.full(holes, np.nan)]) for each in (a, b))
    weights = pair_weights(*values, Options(replicas=3))
    found = wasserstein_replicas(values, 2.0, weights)
    assert found[0] == pytest.approx(wasserstein_distance(a, b) / 2, abs=1e-9)
    bins = Binning(np.linspace(-6, 6, 7))
    bare = separation_replicas(
        (np.array(a), np.array(b)), bins, tuple(w[: len(w) - holes] for w in weights)
    )
    np.testing.assert_array_equal(separation_replicas(values, bins, weights), bare)
