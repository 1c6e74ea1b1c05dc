"""Inspection: what a file is, in numbers, whatever its calorimeter."""

import json

import h5py
import numpy as np
import pytest

from calostudy.calorimeter import CALORIMETERS, calorimeter
from calostudy.inspection import inspect
from calostudy.showers import Showers, write


def half_filled(name, n=20):
    """Every second cell of a layer holds the same energy; 90 % of the incident energy in all."""
    target = calorimeter(name)
    energy = np.geomspace(2e3, 9e4, n)
    filled = np.concatenate([np.arange(layer.cells) % 2 == 0 for layer in target.layers])
    cells = np.where(filled, 0.9 * energy[:, None] / filled.sum(), 0.0)
    return Showers(target, energy, cells)


@pytest.mark.parametrize("name", CALORIMETERS)
def test_a_good_file_is_recognised(tmp_path, name):
    showers = half_filled(name)
    write(tmp_path / "a.h5", showers, attributes={"seed": 5})
    report = inspect(tmp_path / "a.h5")
    assert report.problems == ()
    assert report.calorimeters == (name,)
    assert report.format == calorimeter(name).file_format
    assert report.events == 20
    assert report.dtype == "float64"
    assert report.incident_energy == pytest.approx((2e3, 9e4))
    assert report.response == pytest.approx((0.9, 0.9, 0.9))
    filled = np.count_nonzero(showers.cells[0])
    assert report.occupancy == pytest.approx(filled / showers.cells.shape[1])
    first = showers.layer(0)
    assert report.occupancy_by_layer[showers.calorimeter.layer_ids[0]] == pytest.approx(
        np.mean(first > 0)
    )
    assert report.largest_cell == pytest.approx(showers.cells.max())
    assert report.attributes == {"seed": 5}


def test_blocks_do_not_change_the_report(tmp_path, monkeypatch):
    write(tmp_path / "a.h5", half_filled("ds1-pions"))
    whole = inspect(tmp_path / "a.h5")
    monkeypatch.setattr("calostudy.inspection._BLOCK_BYTES", 8 * 533 * 3)
    assert inspect(tmp_path / "a.h5") == whole


def test_data_sets_are_told_apart_by_their_energies(tmp_path):
    showers = half_filled("ds2")
    write(tmp_path / "a.h5", showers)
    assert inspect(tmp_path / "a.h5").datasets == ("ds2",)
    showers = half_filled("ds1-photons")
    write(tmp_path / "b.h5", showers)
    assert inspect(tmp_path / "b.h5").datasets == ()
    energy = 2.0 ** (8 + np.arange(20) % 15)
    response = energy / showers.incident_energy
    write(
        tmp_path / "c.h5",
        Showers(showers.calorimeter, energy, showers.cells * response[:, None]),
    )
    assert inspect(tmp_path / "c.h5").datasets == ("ds1-photons",)


def test_all_problems_of_the_values_are_counted(tmp_path):
    showers = half_filled("ds1-photons")
    cells = showers.cells.copy()
    cells[[3, 7], 0] = np.nan
    cells[[1, 2, 3], 5] = -1.0
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["incident_energies"] = showers.incident_energy[:, None]
        file["showers"] = cells
    problems = " ".join(inspect(tmp_path / "a.h5").problems)
    assert "2 showers with NaN" in problems
    assert "3 showers with negative" in problems


def test_another_files_keys_are_listed(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["weights"] = np.zeros(3)
    report = inspect(tmp_path / "a.h5")
    assert report.calorimeters == ()
    assert "weights" in report.problems[0]
    assert "incident_energies" in report.problems[0]


def test_an_unknown_number_of_voxels_is_compared_with_the_known_ones(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["incident_energies"] = np.ones((3, 1))
        file["showers"] = np.ones((3, 100))
    problem = inspect(tmp_path / "a.h5").problems[0]
    assert "(3, 100)" in problem
    assert "6480 (ds2)" in problem


def test_the_report_is_a_table_and_json(tmp_path):
    write(tmp_path / "a.h5", half_filled("calogan"))
    report = inspect(tmp_path / "a.h5")
    text = str(report)
    assert "CaloGAN" in text
    assert "2 to 90 GeV" in text
    assert "problem" in text
    assert dict(report.rows())["showers"] == "20 (float64)"
    again = json.loads(json.dumps(report.as_dict()))
    assert again["events"] == 20
    assert again["problems"] == []
