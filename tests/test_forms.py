"""Other forms of a shower: the tables and figures beside the grid of cells."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from calostudy import plots
from calostudy.calorimeter import calorimeter
from calostudy.clouds import PointClouds
from calostudy.datasets import load, showers_path
from calostudy.metrics.forms import shifted, sizes
from calostudy.segmentations import MIDDLE, resegment
from calostudy.showers import write
from calostudy.walks import DatasetWalk
from calostudy.walks.forms import other_forms, shift_rows, size_rows

ILD = calorimeter("ild")


def narrow(n=40, width=3.0, seed=2):
    """Showers of 200 points about the axis, all in layer 10."""
    rng = np.random.default_rng(seed)
    depth = np.full((200 * n, 1), np.mean(ILD.layers[10].depth))
    position = np.hstack([rng.normal(0, width, (200 * n, 2)), depth])
    energy = np.linspace(1e4, 9e4, n)
    return PointClouds(energy, 200 * np.arange(n + 1), position, np.full(200 * n, 1.0))


def test_points_are_counted_as_steps_clusters_and_cells():
    steps = narrow()
    found = sizes(steps.clustered(ILD), steps.counts, ILD, 0.1)
    rows = size_rows(found, steps.incident_energy / 1e3)
    assert [row["published"] for row in rows] == ["40,000", "6,000", "1,500"]
    counts = [float(row["all incident energies"].split()[0]) for row in rows]
    assert counts[0] == 200 > counts[1] > counts[2] > 1


def test_the_box_cuts_more_the_further_a_shower_is_moved():
    found = shifted(narrow(), ILD)
    shares = [inside.mean() for inside, _ in found.values()]
    assert shares[0] == pytest.approx(1.0) and shares[2] == pytest.approx(1.0)
    assert shares[3] < 0.99
    assert len(shift_rows(found)) == 4
    again = shifted(narrow(), ILD)
    np.testing.assert_array_equal(found["anywhere in the box"][0], again["anywhere in the box"][0])


def test_ild_shows_its_point_clouds():
    walk = DatasetWalk(dataset="ild-photons", n=30)
    shown = other_forms(walk, walk.showers())
    assert sum(hasattr(item, "savefig") for item in shown) == 2
    tables = [item.data for item in shown if hasattr(item, "data")]
    assert [len(table) for table in tables] == [3, 4]
    plt.close("all")


def test_every_segmentation_is_drawn():
    figure = plots.segmentation_images(load("segmentations", "evaluation", rows=slice(0, 20)))
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0] == "inner 48 x 4" and titles[-1] == "outer 24 x 24"
    assert len(titles) == 13
    plt.close(figure)


def test_coarser_cells_hold_the_same_energy():
    showers = load("segmentations", "evaluation", rows=slice(0, 20))
    for middle in MIDDLE:
        coarse = resegment(showers, (48, 4), middle)
        np.testing.assert_allclose(coarse.layer_energies(), showers.layer_energies(), rtol=1e-6)


def test_most_datasets_have_no_other_form():
    walk = DatasetWalk(dataset="ds2", n=20)
    assert other_forms(walk, walk.showers()) == []


def test_a_public_grid_without_clouds_shows_none(tmp_path, monkeypatch):
    showers = load("ild-photons", "evaluation", rows=slice(0, 100))
    monkeypatch.setenv("CALOSTUDY_DATA", str(tmp_path))
    write(showers_path("ild-photons", "evaluation", "public"), showers)
    walk = DatasetWalk(dataset="ild-photons", source="public", n=20)
    assert len(walk.showers()) == 20
    assert other_forms(walk, walk.showers()) == []
