"""The answers of the landing page: they are those of the measured tables."""

import numpy as np
import pandas as pd
import pytest

from calostudy.errors import DataError
from calostudy.paths import data_dir
from calostudy.walks import AnswersWalk, answers


@pytest.fixture(scope="module")
def walk() -> AnswersWalk:
    return AnswersWalk()


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_csv(data_dir() / "measured" / "leaderboard.csv")


def test_the_most_accurate_has_the_smallest_separation_power_of_its_data_set(walk, table):
    powers = table[(table["quantity"] == "separation_power") & (table["model"] != "Geant4")]
    for entry in walk.best():
        own = powers[powers["dataset"] == entry.dataset].set_index("model")["value"]
        assert entry.model == own.idxmin()
        assert entry.separation[0] == own.min()


def test_the_fastest_has_the_shortest_time_in_large_batches(walk):
    for fast, board in zip(walk.fastest(), walk.named, strict=True):
        assert fast.times[100][0] == min(entry.times[100][0] for entry in board)


def test_the_front_holds_the_most_accurate_and_the_fastest_of_each_data_set(walk):
    ahead = walk.on_front()
    assert set(map(id, walk.best() + walk.fastest())) <= set(map(id, ahead))
    for entry in ahead:
        rivals = walk.boards[entry.dataset]
        assert not any(
            other.times[100][0] < entry.times[100][0] and other.separation[0] < entry.separation[0]
            for other in rivals
        )


def test_a_speed_up_is_the_ratio_of_geant4_to_the_surrogate_with_both_uncertainties(walk):
    entry = walk.entries[0]
    geant4 = answers.LeaderboardWalk(dataset=entry.dataset).geant4
    value, error = entry.times[1]
    found, uncertainty = entry.speed_ups[1]
    assert found == pytest.approx(geant4[0] / value)
    relative = np.hypot(geant4[1] / geant4[0], error / value)
    assert uncertainty == pytest.approx(found * relative)


def test_there_are_five_sentences_and_each_has_numbers_with_uncertainties(walk):
    sentences = walk.sentences()
    assert len(sentences) == 5
    assert all(" ± " in text for text in sentences[:4])
    best = walk.best()[0]
    assert best.model in sentences[0]
    assert f"{walk.seen()[1]}" in sentences[4]
    assert not any("nan" in text for text in sentences)


def test_links_go_to_pages_that_are_there_and_to_no_others(walk, tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "PAGES", tmp_path)
    assert "](" not in "".join(walk.sentences())
    (tmp_path / "results.ipynb").touch()
    assert "[one thread](results.ipynb)" in walk.sentences()[1]


def test_without_a_leaderboard_the_page_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("CALOSTUDY_DATA", str(tmp_path))
    with pytest.raises(DataError, match="leaderboard"):
        _ = AnswersWalk().entries
