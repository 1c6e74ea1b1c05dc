"""Figures of an evaluation draw what the metrics measure, for shallow and deep calorimeters."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from toy_showers import toy_showers

from calostudy import report
from calostudy.datasets import dataset, load_clouds
from calostudy.metrics.distances import correlations
from calostudy.metrics.ranges import energy_ranges
from calostudy.metrics.rings import cloud_profiles
from calostudy.metrics.sample import Sample
from calostudy.plots import evaluation

NAMES = ["ds1-pions", "ds2", "calogan-eplus"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def samples(name: str, n: int = 200) -> dict[str, Sample]:
    scales = {"Geant4": 1.0, "surrogate": 1.1}
    return {
        word: Sample.of(toy_showers(name, n, seed, scale=scale), dataset(name))
        for seed, (word, scale) in enumerate(scales.items())
    }


def labels(figure) -> list[str]:
    return [axis.get_xlabel() for axis in figure.axes if axis.get_xlabel()]


def ratios(axis) -> np.ndarray:
    """The points of a panel of ratios."""
    return np.concatenate([line.get_ydata() for line in axis.lines if line.get_marker() == "o"])


@pytest.mark.parametrize("name", NAMES)
def test_matrices_and_their_difference_are_in_natural_order(name):
    found = samples(name)
    figure = evaluation.pearson_matrices(found)
    matrices = [correlations(each.layer_energies) for each in found.values()]
    for axis, matrix in zip(figure.axes, [*matrices, matrices[1] - matrices[0]], strict=False):
        drawn = axis.collections[0].get_array().reshape(matrix.shape)
        np.testing.assert_allclose(drawn, matrix)
        assert axis.yaxis_inverted()  # the first row is the upper one
        first = str(dataset(name).calorimeter.layer_ids[0])
        assert axis.get_yticklabels()[0].get_text() == first
    alone = evaluation.pearson_matrices({"Geant4": found["Geant4"]})
    assert len(alone.axes) == 2  # with its scale


def test_group_energies_are_drawn_for_the_showers_of_a_range():
    found = samples("ds2", 400)
    middle = energy_ranges(dataset("ds2"))[1]
    whole, part = (evaluation.group_energies(found, own) for own in (None, middle))
    for figure in (whole, part):
        assert labels(figure) == [
            f"energy in layers {low}-{low + 4} [MeV]" for low in range(0, 45, 5)
        ]
    assert part.get_suptitle() == "10-100 GeV" and not whole.get_suptitle()
    counts = [
        max(np.max(patch.get_data().values) for patch in figure.axes[0].patches)
        for figure in (whole, part)
    ]
    assert counts[1] < counts[0]


@pytest.mark.parametrize("name", NAMES)
def test_response_is_drawn_with_its_ratio(name):
    figure = evaluation.response_curves(samples(name, 1200))
    _, lower, *_ = figure.axes
    points = ratios(lower).reshape(2, -1)
    np.testing.assert_allclose(points[0], 1)
    np.testing.assert_allclose(points[1], 1.1, rtol=0.05)
    assert {"ds1-pions": 9, "ds2": 3, "calogan-eplus": 4}[name] <= len(points[0])


def test_a_single_incident_energy_is_one_point():
    figure = evaluation.response_curves(samples("segmentations", 60))
    assert ratios(figure.axes[1]).shape == (2,)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("by_depth", [False, True])
def test_spectra_are_cells_per_shower(name, by_depth):
    found = samples(name, 100)
    figure = evaluation.cell_spectra(found, by_depth)
    drawn = figure.axes[0].patches[0].get_data().values
    cells = found["Geant4"].showers.cells
    lowest = max(dataset(name).threshold, 1e-6 * cells.max())
    assert drawn.sum() == pytest.approx((cells >= lowest).sum() / 100)
    assert len(labels(figure)) == (1 + {"ds1-pions": 7, "ds2": 9}.get(name, 3) if by_depth else 1)


@pytest.mark.parametrize("kind", evaluation.SHAPES)
@pytest.mark.parametrize("name", NAMES[:2])
def test_shapes_of_a_few_layers_stand_for_all(name, kind):
    drawn = labels(evaluation.shape_grid(samples(name), kind, most=3))
    assert 2 <= len(drawn) <= 6 and len(drawn) % 2 == 0
    assert all(words.startswith(kind) and words.endswith("[mm]") for words in drawn)


@pytest.mark.parametrize("name", NAMES)
def test_morans_i_is_drawn_for_every_layer(name):
    found = samples(name)
    upper, lower = evaluation.morans_i(found).axes
    layers = len(dataset(name).calorimeter.layers)
    assert len(ratios(upper)) == len(ratios(lower)) == 2 * layers
    assert np.nanmax(np.abs(ratios(lower)[:layers])) == 0
    shown = [label.get_text() for label in lower.get_xticklabels()]
    assert shown[0] == str(dataset(name).calorimeter.layer_ids[0]) and len(shown) <= 10


@pytest.mark.parametrize("name", NAMES)
def test_profiles_are_energy_per_shower(name):
    found = samples(name)
    profiles = {word: each.profiles for word, each in found.items()}
    figure = evaluation.profiles_beside(profiles, dataset(name).calorimeter)
    assert labels(figure) == ["cells hit", "layer", "distance from the axis [mm]"]
    total = figure.axes[2].patches[0].get_data().values.sum()
    assert total == pytest.approx(found["Geant4"].observables["E_tot"].mean())


def test_points_have_a_figure_beside_that_of_the_cells():
    entry = dataset("ild-photons")
    both = {}
    for split in ("evaluation", "train"):
        clouds = load_clouds("ild-photons", split, rows=slice(0, 60))
        sample = Sample.of(clouds.to_showers(entry.calorimeter), entry)
        both[split] = replace(sample, points=cloud_profiles(clouds, entry.calorimeter))
    drawn = [labels(figure)[0] for _, figure in report._profiles(both)]
    assert drawn == ["cells hit", "points"]
    both["train"] = replace(both["train"], points=None)
    assert len(list(report._profiles(both))) == 1
