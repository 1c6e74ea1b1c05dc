"""All surrogates ranked and timed: files that are completed, fronts, published places beside."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calostudy import plots, rankings
from calostudy.datasets import load
from calostudy.errors import DataError, UsageError
from calostudy.metrics.pareto import chance_of_front, front
from calostudy.rankings import FIELDS, LOG_POSTERIOR, TIME, Contest
from calostudy.showers import Showers
from calostudy.tables import measured, published, study_name
from calostudy.walks import RankingWalk

WEIGHTS = {"good": "a" * 64, "bad": "b" * 64}


def blown_up(factor, count):
    """Geant4's training showers with so many times their energy."""
    showers = load("ds1-photons", "train", rows=slice(0, count))
    cells = (showers.cells * factor).astype(np.float32)
    return Showers(showers.calorimeter, showers.incident_energy, cells)


@pytest.fixture
def calls(monkeypatch):
    """Two models, one closer to Geant4, whose generations and times are noted."""
    noted = []
    factor = {"good": 1.01, "bad": 4.0}
    monkeypatch.setattr(Contest, "weights", WEIGHTS)

    def generated(self, model, work):
        noted.append(model)
        return blown_up(factor[model], self.showers)

    def timed(self, model, batch):
        noted.append((model, batch))
        return self.line(model, quantity=TIME, batch=batch, value=2.0, uncertainty=0.1)

    monkeypatch.setattr(Contest, "generated", generated)
    monkeypatch.setattr(Contest, "time_line", timed)
    return noted


CONTEST = Contest("ds1-photons", showers=200, repeats=2, hidden=16, batches=(1,))


def test_a_file_is_completed_and_only_what_other_weights_change_is_made_again(
    calls, tmp_path, monkeypatch
):
    out = tmp_path / "ranking.csv"

    def complete(contest=CONTEST):
        calls.clear()
        rankings.complete(out, [contest], tmp_path, progress=False)
        return rankings.read(out)

    first = complete()
    assert tuple(first.columns) == FIELDS
    assert calls == [*("good", "bad") * 2, ("good", 1), ("bad", 1)]
    found = first[first["quantity"] == f"{LOG_POSTERIOR}_low"].set_index("model")["value"]
    assert found["good"] > found["bad"]
    pd.testing.assert_frame_equal(complete(), first)
    assert calls == []
    monkeypatch.setattr(Contest, "weights", {**WEIGHTS, "bad": "c" * 64})
    changed = complete()
    assert calls == [*("good", "bad") * 2, ("bad", 1)] and len(changed) == len(first)
    assert set(changed[changed["model"] == "bad"]["weights_sha256"]) == {"c" * 12}


def test_another_file_is_not_touched_and_one_model_is_no_field(tmp_path, monkeypatch):
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"other\.csv: its columns are a, b"):
        rankings.complete(other, [CONTEST], tmp_path, progress=False)
    assert other.read_text() == "a,b\n1,2\n"
    monkeypatch.setattr(Contest, "weights", {"good": "a" * 64})
    with pytest.raises(UsageError, match="fewer than two models"):
        CONTEST.ranked(tmp_path, "low", progress=False)
    assert rankings.main([str(tmp_path / "x.csv"), "--datasets", "ds9"]) == 2


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 9), st.floats(-9, 0)), min_size=1, max_size=12))
def test_nobody_beats_a_member_of_the_front_and_somebody_beats_each_other(points):
    time, quality = np.array(points).T
    on_front = front(time, quality)
    assert on_front.any()
    for i, member in enumerate(on_front):
        beaten = (time <= time[i]) & (quality >= quality[i])
        beaten &= (time < time[i]) | (quality > quality[i])
        assert beaten.any() != member


def test_the_chance_of_the_front_is_half_between_equals_and_certain_far_apart():
    time, quality = np.array([1.0, 1.0, 5.0]), np.array([-2.0, -2.0, -8.0])
    small = np.full(3, 1e-9)
    chance = chance_of_front(time, small * time, quality, np.full(3, 0.1))
    # With equal times whoever is closer beats the other only where its time is lower too.
    np.testing.assert_allclose(chance, [0.75, 0.75, 0.0], atol=0.03)
    certain = chance_of_front(np.array([1.0, 3.0]), small[:2], np.array([-2.0, -1.0]), small[:2])
    np.testing.assert_array_equal(certain, [1.0, 1.0])


@pytest.mark.parametrize("dataset", ["ds1-photons", "ds1-pions", "ds2", "ds3"])
def test_published_places_follow_from_published_values(dataset):
    table = published("ranking")
    table = table[table["dataset"] == dataset].sort_values("value", ascending=False)
    assert table["place"].tolist() == list(range(1, len(table) + 1))
    final = published("challenge_scores")
    known = {study_name(name) for name in final[final["dataset"] == dataset]["model"]}
    assert {study_name(name) for name in table["model"]} - known <= {"calodream"}


@pytest.mark.parametrize("dataset", ["ds1-photons", "ds2"])
def test_the_walk_has_all_ranked_models_and_the_challenge_s(dataset):
    walk = RankingWalk(dataset=dataset)
    ours, challenge = walk.ours("high"), walk.challenge()
    lines = measured("ranking")
    ranked = lines[(lines["dataset"] == dataset) & (lines["quantity"] == f"{LOG_POSTERIOR}_low")]
    assert sorted(ours["model"]) == sorted(ranked["model"])
    assert ours["log_posterior"].is_monotonic_decreasing and (ours["time"] > 0).all()
    assert ours["on_front"].iloc[0] and ours.loc[ours["time"].idxmin(), "on_front"]
    assert len(challenge) >= 12 and challenge["on_front"].any()
    assert [row["model"] for row in walk.rows("high")] == ours["model"].tolist()
    assert len(walk.published_rows()) >= len(challenge)
    for table in (ours, challenge):
        figure = plots.time_against_log_posterior(table, 100)
        *numbers, names = (text.get_text() for text in figure.axes[0].texts)
        # What is not drawn to scale is below all that is, and says where it belongs.
        drawn = np.array([text.xy[1] for text in figure.axes[0].texts[:-1]])
        true = table["log_posterior"].to_numpy()
        edge = drawn.min()
        np.testing.assert_array_equal(drawn, true.clip(edge))
        assert names.splitlines() == [
            f"{number}  {name}" + (f" ({value:.1f})" if value < edge else "")
            for number, name, value in zip(numbers, table["model"], true, strict=True)
        ]


def test_a_dataset_that_was_not_ranked_and_a_batch_that_was_not_timed_are_told(tmp_path):
    with pytest.raises(DataError, match="no lines of calogan-gamma"):
        RankingWalk(dataset="calogan-gamma").ours()
    with pytest.raises(UsageError, match="batch"):
        RankingWalk(dataset="ds2", batch=7)
