"""Spectra of the cell energies: bins, decades, depth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_showers import toy_showers

from calostudy.datasets import dataset, load
from calostudy.metrics.measurement import Options
from calostudy.metrics.sample import Sample
from calostudy.metrics.spectra import decades, measure_spectra, spectra, spectrum_edges
from calostudy.showers import Showers

OPTIONS = Options(replicas=40)


@settings(max_examples=100, deadline=None)
@given(largest=st.floats(0, 1e7), threshold=st.floats(1e-6, 1e3))
def test_decades_share_out_all_bins_and_are_at_most_a_decade_and_a_half(largest, threshold):
    edges = spectrum_edges(largest, threshold)
    assert (np.diff(edges) > 0).all()
    assert edges[0] >= threshold and edges[-1] <= 1e6 * edges[0] * (1 + 1e-9)
    found = list(decades(edges).values())
    covered = np.concatenate([np.arange(each.start, each.stop) for each in found[::-1]])
    np.testing.assert_array_equal(covered, np.arange(len(edges) - 1))
    assert all(edges[each.stop] / edges[each.start] < 10**1.5 for each in found)
    assert all(edges[each.stop] / edges[each.start] == pytest.approx(10) for each in found[:-1])


@pytest.mark.parametrize("name", ["ds2", "calogan-gamma"])
def test_spectra_agree_with_numpy_and_count_hotter_cells_in_the_first_bin(name):
    entry = dataset(name)
    sample = Sample.of(load(name, "evaluation", rows=slice(0, 60)), entry)
    edges = spectrum_edges(0.7 * sample.largest.max(), entry.threshold)
    found = spectra(sample, edges)[0].sum(axis=0)
    cells = sample.showers.cells[sample.showers.cells >= edges[0]].astype(np.float64)
    expected = np.histogram(np.minimum(cells, edges[-1]), edges)[0]
    np.testing.assert_array_equal(found, expected)
    assert found.sum() == len(cells) and (cells > edges[-1]).any()


def test_weights_of_showers_are_counts_of_showers():
    entry = dataset("ds1-pions")
    showers = toy_showers("ds1-pions", 40, 1)
    sample = Sample.of(showers, entry)
    times = np.random.default_rng(2).poisson(1.0, 40)
    edges = spectrum_edges(float(sample.largest.max()), entry.threshold)
    repeated = Sample.of(showers[np.repeat(np.arange(40), times)], entry)
    weighted = spectra(sample, edges, times[:, None].astype(float))
    np.testing.assert_allclose(weighted, spectra(repeated, edges))


@pytest.mark.parametrize("name", ["ds1-pions", "ds2", "calogan-eplus", "ild-photons"])
def test_geant4_has_the_spectrum_of_geant4(name):
    showers, entry = load(name, "evaluation", rows=slice(0, 800)), dataset(name)
    first, second = (Sample.of(each, entry) for each in (showers[::2], showers[1::2]))
    found = measure_spectra(first, second, OPTIONS, second)["separation_spectra"]
    assert found.value < 0.01 and found.details["all cells"][0] < 0.002
    same = measure_spectra(first, first, OPTIONS, second)["separation_spectra"]
    assert same.value == 0.0 and same.uncertainty > 0


def test_a_defect_is_found_in_its_decade_and_in_its_layer():
    entry = dataset("calogan-eplus")
    showers = load("calogan-eplus", "evaluation", rows=slice(0, 800))
    first, reference = showers[::2], Sample.of(showers[1::2], entry)
    cells = first.cells.copy()
    third = first.calorimeter.slices[2]
    low = (cells[:, third] > 2) & (cells[:, third] < 20)
    cells[:, third][low] = 5.0
    wrong = Sample.of(Showers(first.calorimeter, first.incident_energy, cells), entry)
    right = measure_spectra(Sample.of(first, entry), reference, OPTIONS, reference)
    found = measure_spectra(wrong, reference, OPTIONS, reference)["separation_spectra"].details
    excess = {
        part: found[part][0] - value
        for part, (value, _) in right["separation_spectra"].details.items()
    }
    of_decades, of_layers = (
        {part: v for part, v in excess.items() if part.endswith(end)}
        for end in ("MeV", tuple("012"))
    )
    worst = max(of_decades, key=of_decades.get)
    low, high = (float(each) for each in worst.removesuffix(" MeV").split("-"))
    assert low < 5 < high and of_decades[worst] > 0.01
    assert max(of_layers, key=of_layers.get) == "layer 2"
    assert of_layers["layer 0"] == of_layers["layer 1"] == 0


def test_showers_without_any_cell_above_the_threshold_are_no_error():
    entry = dataset("ds2")
    showers = toy_showers("ds2", 20, 1)
    empty = Sample.of(
        Showers(showers.calorimeter, showers.incident_energy, 0 * showers.cells), entry
    )
    sample = Sample.of(showers, entry)
    assert measure_spectra(empty, sample, OPTIONS, sample)["separation_spectra"].value == 1.0
    assert measure_spectra(empty, empty, OPTIONS, empty)["separation_spectra"].value == 0.0
