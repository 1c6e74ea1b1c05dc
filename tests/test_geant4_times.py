"""Geant4's times on the machine of a measurement: what is measured again, and the mean cost."""

import numpy as np
import pandas as pd
import pytest

from calostudy import geant4_times
from calostudy.errors import DataError
from calostudy.geant4_times import FIELDS, complete, mean_cost, read, shipped


@pytest.fixture
def simulated(monkeypatch):
    """Data sets that were simulated; their times are pretended, 5 ms per GeV."""
    noted = []

    def measure(dataset, showers, seed):
        noted.append(dataset)
        machine = geant4_times.processor()
        return [
            {
                **dict.fromkeys(FIELDS, ""),
                **{"dataset": dataset, "machine": machine, "date": "2026-01-01"},
                **{"energy_gev": e, "cpu_ms": 5.0 * e * (1 + 0.01 * (-1) ** i), "seed": seed},
            }
            for i, e in enumerate(np.linspace(1.0, 100.0, showers))
        ]

    monkeypatch.setattr(geant4_times, "measure", measure)
    return noted


def test_a_data_set_is_measured_once_on_a_machine(simulated, tmp_path):
    out = tmp_path / "geant4_times.csv"
    complete(out, ["ds2", "calogan-eplus"], 8, 7)
    complete(out, ["ds2", "ds3"], 8, 7)
    assert simulated == ["ds2", "calogan-eplus", "ds3"]

    table = read(out)
    elsewhere = table.assign(machine="another")
    elsewhere.to_csv(out, index=False)
    complete(out, ["ds2"], 8, 7)
    assert simulated[-1] == "ds2"
    assert len(read(out)) == len(table) + 8


def test_the_mean_cost_is_the_line_at_the_energies_of_the_sample(simulated, tmp_path, monkeypatch):
    (tmp_path / "measured").mkdir()
    complete(tmp_path / "measured" / "geant4_times.csv", ["calogan-eplus"], 50, 7)
    monkeypatch.setattr(geant4_times, "data_dir", lambda: tmp_path)
    value, error, where = mean_cost("calogan-eplus")
    # 1 to 100 GeV, uniform
    assert value == pytest.approx(5.0 * 50.5, rel=0.03)
    assert 0 < error < 0.02 * value
    assert where.endswith(", 2026-01-01")
    with pytest.raises(DataError, match="no lines of ds2"):
        shipped("ds2")


def test_the_shipped_times_of_every_simulated_calorimeter_are_positive():
    for dataset in pd.unique(
        read(geant4_times.data_dir() / "measured/geant4_times.csv")["dataset"]
    ):
        measured, _ = shipped(dataset)
        assert len(measured.cpu_ms) >= 50
        assert measured.slope > 5 * measured.slope_error
