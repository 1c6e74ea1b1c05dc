"""How the cost grows: power laws in the cells, break-even with Geant4, and the page's tables."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calostudy import plots
from calostudy.grid_times import FIELDS, GPU, ONE_THREAD, read_times
from calostudy.growth import break_even_batch, break_even_energy, power_law, without_twins
from calostudy.timing import geant4_time
from calostudy.walks import GrowthWalk
from calostudy.walks.growth import COLUMNS


@given(slope=st.floats(-1, 3), scale=st.floats(1e-3, 1e3))
def test_a_power_law_is_found_exactly(slope, scale):
    cells = np.array([368.0, 6480.0, 40500.0])
    law = power_law(cells, scale * cells**slope, np.zeros(3))
    assert law.slope == pytest.approx(slope, abs=1e-6)
    assert law.at(cells) == pytest.approx(scale * cells**slope)


def test_the_error_of_a_slope_covers_the_scatter():
    generator = np.random.default_rng(1)
    cells = np.array([368.0, 533.0, 6480.0, 40500.0])
    pulls = []
    for _ in range(400):
        times = cells**0.8 * np.exp(0.2 * generator.standard_normal(4))
        law = power_law(cells, times, np.zeros(4))
        pulls.append((law.slope - 0.8) / law.error)
    assert law.kind == "scatter about the line"
    # Student's t of two degrees of freedom: 68 % within 1.31
    assert 0.62 < np.mean(np.abs(pulls) < 1.31) < 0.74


def test_with_two_calorimeters_the_error_is_that_of_the_times():
    law = power_law(np.array([1e3, 1e4]), np.array([1.0, 10.0]), np.array([0.1, 1.0]))
    assert law.kind == "uncertainties of the times"
    assert law.error == pytest.approx(0.1 * np.sqrt(2) / np.log(10))


def test_calorimeters_of_about_one_size_give_no_slope():
    assert power_law(np.array([368, 533]), np.array([1.0, 2.0]), np.zeros(2)) is None
    assert power_law(np.array([368]), np.array([1.0]), np.zeros(1)) is None


def geant4(slope=6.0, offset=2.0):
    """60 showers on a line in ms and GeV, with a scatter of a hundredth."""
    energy = np.geomspace(1, 100, 60)
    cpu = (offset + slope * energy) * (1 + 0.01 * (-1.0) ** np.arange(60))
    return geant4_time(1e3 * energy, cpu / 1e3, "in a test")


def test_break_even_is_where_the_lines_cross():
    energy, error = break_even_energy(geant4(), 62.0, 0.0)
    assert energy == pytest.approx(10.0, rel=0.01)
    assert 0 < error < 0.2
    _, wider = break_even_energy(geant4(), 62.0, 6.0)
    assert wider == pytest.approx(np.hypot(error, 1.0), rel=0.01)
    assert break_even_energy(geant4(), 1.0, 0.0)[0] < 0


def test_a_batch_is_needed_only_until_the_surrogate_is_faster():
    times = {1: 100.0, 10: 20.0, 100: 15.0}
    assert break_even_batch(times, 100.0) == 1.0
    assert break_even_batch(times, 20.0) == pytest.approx(10.0)
    assert 1 < break_even_batch(times, 50.0) < 10 < break_even_batch(times, 17.0) < 100
    assert break_even_batch(times, 14.0) is None


def test_one_calorimeter_with_three_particles_counts_once():
    table = pd.DataFrame({"model": ["a", "a", "b"], "cells": [504, 504, 504], "value": [1, 2, 3]})
    assert without_twins(table)["value"].tolist() == [1, 3]


@pytest.fixture
def walk(monkeypatch):
    """Two models with made-up times on two calorimeters."""
    rest = (0.01, True, "x", "x, 2026-01-01")
    rows = [
        (model, dataset, "embedded", ONE_THREAD, batch, scale * cells / batch**0.5, *rest, cells)
        for model, scale in (("quick", 1e-4), ("slow", 1.0))
        for dataset, cells in (("ds1-photons", 368), ("ds2", 6480))
        for batch in (1, 100)
    ]
    monkeypatch.setattr(GrowthWalk, "times", pd.DataFrame(rows, columns=list(COLUMNS)))
    monkeypatch.setattr(
        GrowthWalk,
        "geant4",
        {name: {"x": (geant4(), "x, day")} for name in ("ds1-photons", "ds2")},
    )
    return GrowthWalk()


def test_slopes_here_stand_beside_published_ones(walk):
    rows = {row["model"]: row for row in walk.slope_rows()}
    assert rows["quick"]["CPU, one thread, embedded size"].startswith("1.0")
    assert rows["calodiffusion"]["CPU, one thread, embedded size"] == "-"
    assert rows["calodiffusion"]["CaloChallenge, published"].endswith("(4 calorimeters)")
    panels = walk.panels()
    assert list(panels) == ["CPU, one thread, embedded size", "CaloChallenge, published"]
    laws = {title: walk.laws(table) for title, table in panels.items()}
    figure = plots.time_against_cells(panels, laws, 100)
    assert len(figure.axes) == 2


def test_break_even_is_told_for_every_model_and_data_set(walk):
    rows = {
        (row["dataset"], row["model"]): row for row in walk.break_even_rows(ONE_THREAD, "embedded")
    }
    assert rows["ds2", "quick"]["faster from, batch 1"] == "every energy"
    assert rows["ds2", "quick"]["batch needed at 1 GeV"] == "1"
    assert rows["ds2", "slow"]["faster from, batch 100"].endswith(" GeV")
    assert rows["ds2", "slow"]["batch needed at 1 GeV"] == "> 100"
    # 368 ms alone, 36.8 ms in batches of 100, against 62 ms
    assert 1 < float(rows["ds1-photons", "slow"]["batch needed at 10 GeV"]) < 100
    figure = plots.speed_up_against_energy(walk.speed_ups(ONE_THREAD, "embedded"))
    assert [axis.get_title() for axis in figure.axes] == ["ds1-photons", "ds2"]


def test_a_ratio_of_two_machines_is_called_so(walk):
    assert "the same machine" in walk.machine_note(ONE_THREAD, "embedded")
    walk.geant4["ds2"] = {"another": (geant4(), "another, day")}
    assert "*another machine* (another; x; these times: x, 2026-01-01)" in walk.machine_note(
        ONE_THREAD, "embedded"
    )


def test_a_time_stands_beside_geant4_on_its_own_processor(walk):
    def row():
        rows = walk.break_even_rows(ONE_THREAD, "embedded")
        return next(r for r in rows if (r["dataset"], r["model"]) == ("ds2", "slow"))

    before = row()
    for measured in walk.geant4.values():
        measured["another, 2 cores"] = geant4(slope=60.0), "another, 2 cores, day"
    assert row() == before
    for measured in walk.geant4.values():
        del measured["x"]
    assert row() != before


def test_times_of_several_machines_are_never_on_one_line(walk, monkeypatch):
    """Beside Geant4 the times of its machine, for a slope those of the one with most of them."""
    other = walk.times[walk.times["model"] == "slow"].assign(machine="y")
    more = other[other["dataset"] == "ds2"].assign(dataset="ds3", cells=40_500)
    monkeypatch.setattr(GrowthWalk, "times", pd.concat([walk.times, other, more]))
    beside = walk.of(ONE_THREAD, "embedded").groupby("dataset")["machine"].unique().map(list)
    assert beside.to_dict() == {"ds1-photons": ["x"], "ds2": ["x"], "ds3": ["y"]}
    found = walk.by_cells(ONE_THREAD, "embedded").groupby("model")["machine"]
    assert found.unique().map(list).to_dict() == {"quick": ["x"], "slow": ["y"]}


def test_the_grid_comes_before_the_leaderboards_and_has_more_kinds_of_target(tmp_path, monkeypatch):
    line = {
        **dict.fromkeys(FIELDS),
        **{"machine": "m", "date": "2026-01-02", "model": "caloinn", "dataset": "ds1-photons"},
        **{"size": "embedded", "trained": True, "figure": "throughput", "batch": 100},
        **{"value": 7.0, "low": 6.0, "high": 8.0, "target": "cpu-1/fp32"},
    }
    lines = [line, {**line, "target": "cuda/fp32", "value": 1.0}, {**line, "size": "paper"}]
    path = tmp_path / "times.csv"
    pd.DataFrame(lines, columns=list(FIELDS)).to_csv(path, index=False)
    monkeypatch.setattr(GrowthWalk, "grid", read_times(path))
    walk = GrowthWalk()
    found = walk.of(ONE_THREAD, "embedded").query("model == 'caloinn' and dataset == 'ds1-photons'")
    assert found["value"].tolist() == [7.0]
    assert len(walk.of(ONE_THREAD, "embedded")) > 1
    assert walk.cases == [(ONE_THREAD, "embedded"), (GPU, "embedded"), (ONE_THREAD, "paper")]
    assert (
        "GPU, embedded size: 1 times of 1 models, all with trained weights; m, 2026-01-02"
        in walk.introduction()
    )


def test_times_of_the_leaderboards_stand_in_for_a_grid_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(GrowthWalk, "grid", read_times(tmp_path / "none.csv"))
    walk = GrowthWalk()
    assert set(walk.times["size"]) == {"embedded"}
    assert walk.times["trained"].all()
    assert (walk.times["value"] > 0).all()
    photons = walk.times[walk.times["dataset"] == "ds1-photons"]
    assert set(photons["cells"]) == {368}
