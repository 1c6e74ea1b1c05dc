"""The leaderboard: what is measured again, what a page shows, and how a table sorts."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calostudy import grid_times, leaderboard, plots
from calostudy.errors import DataError
from calostudy.evaluations import GEANT4, Judge
from calostudy.grid_times import read_times
from calostudy.leaderboard import FIELDS, TIME
from calostudy.tables import shown
from calostudy.walks import LeaderboardWalk

STATIC = Path(__file__).parent.parent / "book" / "_static"
JUDGE = Judge("ds1-photons", showers=100, repeats=1, hidden=16)


class Pretended:
    """A surrogate of which only the name matters here."""

    def __init__(self, path):
        self.name = path.parts[-3]


@pytest.fixture
def measured(monkeypatch):
    """Which surrogates were scored, in order; scores and times are pretended."""
    noted = []

    def scores(surrogate, judge):
        noted.append(surrogate.name if surrogate else GEANT4)
        return [{"quantity": "fpd", "value": 0.1, "uncertainty": 0.01, "uncertainty_kind": "x"}]

    def times(surrogate, budget):
        return [{"quantity": TIME, "batch": 1, "value": 2.0, "uncertainty": 0.1}]

    monkeypatch.setattr(leaderboard, "load_surrogate", Pretended)
    monkeypatch.setattr(leaderboard, "score_lines", scores)
    monkeypatch.setattr(leaderboard, "time_lines", times)
    return noted


def test_a_leaderboard_measures_again_only_what_has_new_weights(measured, monkeypatch, tmp_path):
    out = tmp_path / "board.csv"
    leaderboard.complete(out, [JUDGE], progress=False)
    assert measured == [GEANT4, *leaderboard.current_weights("ds1-photons")]
    first = leaderboard.read(out)
    assert list(first.columns) == list(FIELDS)

    measured.clear()
    leaderboard.complete(out, [JUDGE], progress=False)
    assert measured == []

    weights = {"caloinn": "new" * 4}
    monkeypatch.setattr(leaderboard, "current_weights", lambda dataset: weights)
    leaderboard.complete(out, [JUDGE], progress=False)
    assert measured == ["caloinn"]
    again = leaderboard.read(out)
    assert len(again) == len(first)
    assert set(again.loc[again["model"] == "caloinn", "weights_sha256"]) == {"new" * 4}


def test_times_that_were_deleted_are_measured_anew_and_scores_kept(measured, tmp_path):
    out = tmp_path / "board.csv"
    leaderboard.complete(out, [JUDGE], progress=False)
    whole = leaderboard.read(out)
    measured.clear()
    late = (whole["quantity"] == TIME) & (whole["model"] == "caloinn")
    whole[~late].to_csv(out, index=False)
    leaderboard.complete(out, [JUDGE], progress=False)
    assert measured == []
    pd.testing.assert_frame_equal(leaderboard.read(out), whole)


def test_a_leaderboard_of_other_columns_is_refused(tmp_path):
    path = tmp_path / "board.csv"
    path.write_text("model,value\nx,1\n")
    with pytest.raises(DataError, match="its columns are model, value"):
        leaderboard.read(path)


def line(model, quantity, value, uncertainty=0.01, batch=np.nan):
    return {
        **dict.fromkeys(FIELDS, ""),
        "model": model,
        "dataset": "ds1-photons",
        "size": "embedded",
        "quantity": quantity,
        "batch": batch,
        "value": value,
        "uncertainty": uncertainty,
        "weights_sha256": "" if model == GEANT4 else "abc",
        "target": "cpu-1/fp32",
        "machine": "a machine",
        "date": "2026-01-01",
        **dict.fromkeys(("showers", "repeats", "hidden", "seed"), 1),
    }


@pytest.fixture
def walk(monkeypatch, tmp_path):
    """A leaderboard on which caloinn is better and faster than calovae-inn, and the grid empty."""
    scores = {"separation_power": (0.02, 0.03, 0.01), "fpd": (0.2, 0.3, 0.1)}
    scores["auc_high"] = (0.45, 0.7, 0.5)
    lines = [
        line(model, quantity, values[i])
        for quantity, values in scores.items()
        for i, model in enumerate(("caloinn", "calovae-inn", GEANT4))
    ]
    for batch in (1, 100):
        lines += [
            line("caloinn", TIME, 1.0 / batch, 0.001, batch),
            line("calovae-inn", TIME, 4.0 / batch, 0.001, batch),
        ]
    monkeypatch.setattr(LeaderboardWalk, "shipped", pd.DataFrame(lines))
    monkeypatch.setattr(LeaderboardWalk, "grid", read_times(tmp_path / "none.csv"))
    return LeaderboardWalk(dataset="ds1-photons")


def test_a_leaderboard_has_a_row_for_each_surrogate_best_first_and_geant4_last(walk):
    rows = walk.rows()
    assert [row["model"] for row in rows] == ["caloinn", "calovae-inn", "Geant4 (floor)"]
    assert rows[0]["separation power"] == "0.020 ± 0.010"
    assert rows[0]["ms, batch 100"] == "0.0100 ± 0.0010"
    assert rows[0]["timed on"] == "cpu-1/fp32, 2026-01-01 (CPU time)"
    ratio = float(rows[0]["Geant4 / batch 100"].replace(",", ""))
    assert ratio == pytest.approx(walk.geant4[0] / 0.01, rel=0.01)


def test_times_of_the_grid_count_where_they_are_of_the_scored_weights(walk, monkeypatch, tmp_path):
    line = {
        **dict.fromkeys(grid_times.FIELDS),
        **{"machine": "m", "date": "2026-02-02", "dataset": "ds1-photons", "size": "embedded"},
        **{
            "trained": True,
            "figure": "throughput",
            "batch": 100,
            "target": "cpu-1/fp32",
            "rounds": 5,
        },
        **{"value": 5.0, "low": 4.0, "high": 6.0, "weights_sha256": "abcdef", "model": "caloinn"},
    }
    other = {**line, "weights_sha256": "fff", "model": "calovae-inn"}
    gpu = {**line, "target": "cuda/fp32", "value": 0.5, "low": 0.4, "high": 0.6}
    path = tmp_path / "times.csv"
    lines = [line, other, gpu]
    pd.DataFrame(lines, columns=list(grid_times.FIELDS)).to_csv(path, index=False)
    monkeypatch.setattr(LeaderboardWalk, "grid", read_times(path))
    first, second, geant4 = walk.rows()
    assert first["ms, batch 100"] == "5.0 ± 1.0"
    assert first["timed on"] == "cpu-1/fp32, 2026-02-02 (m)"
    assert second["ms, batch 100"] == "0.0400 ± 0.0010"
    assert [row["GPU ms, batch 100"] for row in (first, second, geant4)] == [
        "0.50 ± 0.10",
        "-",
        "-",
    ]
    assert "GPU: cuda/fp32, 2026-02-02 (m)." in walk.introduction()
    assert "CPU times: a machine (calovae-inn); m (all others)" in walk.introduction()


def test_the_front_of_a_leaderboard_counts_the_distance_of_an_auc_from_a_half(walk):
    points = walk.points("auc_high", 1).set_index("model")
    assert points["on_front"].to_dict() == {"caloinn": True, "calovae-inn": False}
    figure = plots.quality_against_time(walk.panels(1), 1)
    assert figure.axes[0].get_title() == "separation power"


def test_a_leaderboard_names_surrogates_that_were_scored_with_other_weights(walk):
    text = walk.introduction()
    assert "CPU times: a machine." in text
    assert "replaced since: caloinn, calovae-inn" in text
    assert "Not scored yet" in text
    assert "flow-matching" in text


def test_a_leaderboard_says_which_times_are_of_another_machine(walk, monkeypatch):
    table = walk.shipped.copy()
    table.loc[table["model"] == "calovae-inn", "machine"] = "B"
    monkeypatch.setattr(LeaderboardWalk, "shipped", table)
    text = walk.introduction()
    assert "CPU times: B (calovae-inn); a machine (all others); times of different machines" in text


def test_a_data_set_without_lines_says_what_makes_them():
    with pytest.raises(DataError, match=r"python -m calostudy\.leaderboard makes them"):
        _ = LeaderboardWalk(dataset="segmentations").shipped


def test_a_sortable_table_has_the_class_that_the_script_looks_for():
    html = shown([{"a": 1}], sortable=True).to_html()
    assert 'class="study-table sortable"' in html
    assert "sortable" not in shown([{"a": 1}]).to_html().partition("<thead")[0]
    script = (STATIC / "sortable.js").read_text()
    assert 'querySelectorAll("table.sortable")' in script
    assert "aria-sort" in script
    assert not re.search(r"https?:", script)
