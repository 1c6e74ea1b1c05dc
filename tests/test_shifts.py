"""Clouds in files, and clouds and cells that are moved."""

import h5py
import numpy as np
import pytest

from calostudy import clouds, generation, models
from calostudy.clouds import PointClouds
from calostudy.datasets import dataset, load_clouds
from calostudy.errors import UsageError
from calostudy.shifts import SHIFTS, hits_moved, outside, rows, spread_evenly, widened

ENERGIES = np.array([1.2e4, 5e4, 8e4])
ILD = dataset("ild-photons").calorimeter
PITCH = 2 * 76.3245 / 30


def shipped():
    return models.load(models.shipped_weights("caloclouds", "ild-photons", "embedded"))


def one_point(eta, phi, energy=1.0):
    position = np.array([[eta, phi, 1.0]])
    return PointClouds(np.array([1e4]), np.array([0, 1]), position, np.array([energy]))


def test_clouds_are_written_as_they_are(tmp_path):
    surrogate = shipped()
    path = generation.generate_clouds(
        surrogate, tmp_path / "c.h5", ENERGIES, batch=2, seed=3, progress=False
    )
    found, expected = clouds.read(path), surrogate.sample_clouds(ENERGIES, seed=3)
    some = expected.energy > 0
    counts = np.bincount(expected.shower[some], minlength=3)
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_allclose(found.position, expected.position[some], atol=1e-3)
    np.testing.assert_allclose(found.energy, expected.energy[some], rtol=1e-6)
    with h5py.File(path) as file:
        assert file.attrs["generator"] == "caloclouds" and file.attrs["seed"] == 3


def test_only_models_of_points_write_clouds(tmp_path):
    flow = models.build("l2lflows", "ild-photons")
    with pytest.raises(UsageError, match="no point clouds"):
        generation.generate_clouds(flow, tmp_path / "c.h5", ENERGIES)
    with pytest.raises(UsageError, match="batch 0"):
        generation.generate_clouds(shipped(), tmp_path / "c.h5", ENERGIES, batch=0)
    assert not list(tmp_path.iterdir())


def test_a_wider_calorimeter_has_the_old_cells_in_its_middle():
    wide = widened(ILD)
    assert wide.layers[0].shape == (90, 90) and wide.layers[0].depth == ILD.layers[0].depth
    np.testing.assert_allclose(wide.layers[3].edges[0][30:61], ILD.layers[3].edges[0], atol=1e-9)
    truth = load_clouds("ild-photons", "evaluation", rows=slice(0, 3))
    grid = truth.to_showers(wide).cells.reshape(3, 30, 90, 90)[:, :, 30:60, 30:60]
    narrow = truth.to_showers(ILD).cells
    np.testing.assert_allclose(grid.reshape(3, -1), narrow, rtol=1e-5)
    for times in (2, 0):
        with pytest.raises(UsageError, match="odd"):
            widened(ILD, times)


def test_energy_outside_the_box_is_counted():
    assert outside(one_point(100.0, 0.0), ILD) == 1.0
    assert outside(one_point(10.0, 0.0), ILD) == pytest.approx(0.0, abs=1e-7)


def test_cells_spread_evenly_keep_energy_and_place_until_they_move():
    cells = load_clouds("ild-photons", "evaluation", rows=slice(0, 2)).to_showers(ILD)
    spread = spread_evenly(cells)
    np.testing.assert_allclose(spread.to_showers(ILD).cells, cells.cells, rtol=1e-5)
    lone = spread_evenly(one_point(0.5 * PITCH, 0.5 * PITCH).to_showers(ILD))
    wide = widened(ILD)
    hits = [int(hits_moved(lone, wide, shift, 0.1)[0]) for shift in ((0, 0), (1, 0), (0.5, 0.5))]
    assert hits == [1, 1, 4]  # a whole cell further it is one cell, half a cell further it is four
    assert hits_moved(one_point(0.5, 0.5), wide, (0.5, 0.5), 0.1)[0] == 1


def test_a_row_for_each_contestant_and_shift_compared_with_the_first():
    truth = load_clouds("ild-photons", "evaluation", rows=slice(0, 4))
    named = {("geant4", "points"): truth, ("geant4", "cells"): spread_evenly(truth.to_showers(ILD))}
    found = list(rows(named))
    assert len(found) == 2 * len(SHIFTS)
    assert {row["difference"] for row in found if row["kept_as"] == "points"} == {"0.0000"}
    moved = [float(row["difference"]) for row in found if row["kept_as"] == "cells"]
    assert abs(moved[0]) < 0.05 < min(moved[2:])
