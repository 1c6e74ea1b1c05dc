"""What evaluations buy: cases, files that are completed, scores that follow the seed."""

import numpy as np
import pandas as pd
import pytest

from calostudy import evaluations, models, plots
from calostudy.errors import DataError, UsageError
from calostudy.evaluations import FIELDS, GEANT4, Judge, cases
from calostudy.models import flow_matching
from calostudy.networks.transformer import TransformerStructure
from calostudy.tables import measured
from calostudy.walks.evaluations import TITLES, EvaluationsWalk

JUDGE = Judge("ds1-photons", showers=100, metrics=("separation_power", "fpd"))


@pytest.fixture
def surrogate(monkeypatch):
    """A small one, untrained: what is tested does not depend on its weights."""
    tiny = TransformerStructure(16, 1, 2, 2)
    monkeypatch.setitem(flow_matching.STRUCTURE["embedded"], "ds1-photons", tiny)
    monkeypatch.setitem(flow_matching.ENERGY_STRUCTURE, "embedded", tiny)
    made = models.build("flow-matching", "ds1-photons")
    monkeypatch.setattr(evaluations, "trained", lambda model, dataset: made)
    return made


def test_cases_are_those_that_a_solver_takes_exactly():
    assert cases(["ddim", "midpoint"], [4, 1, 25]) == [
        *(("ddim", n) for n in (1, 4, 25)),
        ("midpoint", 4),
    ]
    assert cases(["heun"], [1, 2, 3]) == [("heun", 1), ("heun", 3)]
    with pytest.raises(UsageError, match="no solver 'rk9'"):
        cases(["rk9"], [4])


def test_a_file_is_completed_and_nothing_in_it_is_made_again(surrogate, tmp_path, monkeypatch):
    out = tmp_path / "evaluations.csv"

    def complete(counts):
        evaluations.complete(out, ["flow-matching"], ["ddim"], counts, JUDGE, progress=False)
        return evaluations.read(out)

    first = complete([1])
    assert tuple(first.columns) == FIELDS and list(first["model"].unique()) == [
        GEANT4,
        "flow-matching",
    ]
    calls = []
    sample = surrogate.sample
    monkeypatch.setattr(
        surrogate, "sample", lambda *a, **k: (calls.append(k["evaluations"]), sample(*a, **k))[1]
    )
    both = complete([1, 2])
    assert calls == [2]
    pd.testing.assert_frame_equal(both.iloc[: len(first)], first)
    assert sorted(both["evaluations"].unique()) == [0, 1, 2]
    assert both["uncertainty"].gt(0).all() and both["value"].notna().all()


def test_the_same_seed_gives_the_same_scores(surrogate):
    one, two = (evaluations.measure(surrogate, "ddim", 2, JUDGE) for _ in range(2))
    assert one == two


def test_another_file_is_not_touched(surrogate, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"other\.csv: its columns are a, b"):
        evaluations.complete(other, ["flow-matching"], ["ddim"], [1], JUDGE, progress=False)
    assert other.read_text() == "a,b\n1,2\n"


def test_models_without_steps_or_weights_are_usage_errors(tmp_path):
    for model, why in (("caloinn", "no solver to choose"), ("deeptree", "no weights")):
        with pytest.raises(UsageError, match=why):
            evaluations.trained(model, "ds1-photons" if model == "caloinn" else "ds2")
    assert evaluations.main([str(tmp_path / "x.csv"), "--metrics", "beauty"]) == 2
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize(
    ("parameter", "value"), [("solvers", "rk9"), ("evaluations", "4,none"), ("n", 3)]
)
def test_impossible_parameters_of_the_walk_are_usage_errors(parameter, value):
    parameters = {"dataset": "ds1-photons", "models": "flow-matching", parameter: value}
    with pytest.raises(UsageError, match=parameter):
        EvaluationsWalk(**parameters)


def test_shipped_scores_fall_to_the_floor_with_more_evaluations():
    """Of the shipped weights; the figure and the table show all of them."""
    table = measured("evaluations")
    walk = EvaluationsWalk(dataset="ds1-photons", models="flow-matching")
    shipped = walk.shipped()
    assert set(shipped["model"]) == {GEANT4, "flow-matching"}
    scores = shipped.fillna({"solver": ""}).pivot_table(
        "value", ["model", "solver", "evaluations"], "quantity"
    )
    own, floor = scores.loc["flow-matching", "midpoint"], scores.loc[GEANT4].iloc[0]
    assert scores.loc["flow-matching", "ddim"]["fpd"][1] > 3 * own["fpd"][8]
    assert floor["fpd"] < own["fpd"][8] < 2 * floor["fpd"]
    assert floor["separation_power"] < own["separation_power"][8] < 1.8 * floor["separation_power"]
    assert np.isfinite(table["value"]).all() and (table["uncertainty"] > 0).all()
    figure = plots.quality_by_evaluations(shipped, TITLES)
    assert len(figure.axes) == len(TITLES)
    rows = walk.rows(shipped)
    assert {row["showers"] for row in rows} == {1000} and "±" in rows[0]["FPD"]
