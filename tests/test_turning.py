"""Showers that turn: what the page holds is the shower, in numbers, in a picture and in words."""

import base64
import json

import numpy as np
import pytest
from bs4 import BeautifulSoup

from calostudy.datasets import DATASETS
from calostudy.plots import turning
from calostudy.plots.turning import turning_showers
from calostudy.showers import Showers

ENTRY = DATASETS["ds2"]


@pytest.fixture
def shower() -> Showers:
    cells = np.zeros((1, ENTRY.calorimeter.cells), dtype=np.float32)
    cells[0, [5, 700, 4000]] = 0.001, 2.0, 30.0
    return Showers(ENTRY.calorimeter, np.array([50e3]), cells)


def figures(shown) -> list:
    return BeautifulSoup(shown._repr_html_(), "html.parser").select(".study-shower")


def test_a_page_holds_the_cells_at_or_above_the_threshold(shower):
    (figure,) = figures(turning_showers({"mine": shower}, threshold=0.01))
    points = json.loads(figure.select_one("script").text)["data"][0]
    assert points["type"] == "scatter3d"
    shown = np.frombuffer(base64.b64decode(points["customdata"]["bdata"]), "<f4")
    assert sorted(shown.tolist()) == [2.0, 30.0]


def test_the_picture_says_in_words_what_it_shows(shower):
    (figure,) = figures(turning_showers({"my <model>": shower}, threshold=0.01))
    words = "my <model>: 50.0 GeV, 2 cells hit, 32 MeV in them."
    assert figure.select_one("img")["alt"] == words
    assert figure.select_one("figcaption").text == words
    assert figure.select_one("img")["src"].startswith("data:image/png;base64,")


def test_of_a_large_shower_the_largest_cells_are_drawn(shower, monkeypatch):
    monkeypatch.setattr(turning, "MOST", 1)
    shown = turning_showers({"mine": shower}).figures["mine"]
    assert shown.data[0].customdata.tolist() == [30.0]


def test_all_showers_have_one_scale_of_energies(shower):
    brighter = Showers(ENTRY.calorimeter, shower.incident_energy, shower.cells * 7)
    shown = turning_showers({"one": shower, "other": brighter}).figures
    scales = {(f.data[0].marker.cmin, f.data[0].marker.cmax) for f in shown.values()}
    assert len(scales) == 1
    assert next(iter(scales))[1] == pytest.approx(np.log10(210))
