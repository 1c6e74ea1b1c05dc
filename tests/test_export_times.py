"""Exported surrogates are measured once for their weights, and compared cell by cell."""

import numpy as np
import pandas as pd
import pytest

from calostudy import export_times
from calostudy.errors import DataError
from calostudy.export import GRAPHS
from calostudy.export_times import compare, read
from calostudy.models import shipped_weights


def test_a_shower_s_difference_counts_where_it_is_clear_of_the_threshold():
    own = np.array([[0.0, 10.0, 1.0001, 5.0]])
    exported = np.array([[0.0, 10.001, 1.0002, 0.0]])
    found = compare(own, exported, threshold=1.0)
    assert (found["cells"], found["crossed"]) == (3, 1)
    assert found["difference"] == pytest.approx(1e-4)


def test_what_makes_the_same_showers_differs_by_nothing():
    cells = np.random.default_rng(0).exponential(size=(5, 30))
    assert compare(cells, cells, 0.1)["difference"] == 0.0


def test_only_what_has_weights_and_a_graph_is_exported():
    found = export_times.exportable()
    families = {family.name for family in GRAPHS}
    assert shipped_weights("dnn-calosim", "ds1-photons", "embedded") in found
    assert {path.parts[-3] for path in found} <= families
    assert not any(path.parts[-3] == "caloflow-teacher" for path in found)


def test_a_surrogate_is_exported_compared_and_timed(tmp_path):
    out, weights = tmp_path / "exports.csv", shipped_weights("bologan", "ds1-pions", "embedded")
    export_times.complete(out, [weights], rounds=1, budget=0.1, progress=False)
    table = read(out)
    assert table["batch"].tolist() == [1, 100] and (table["cells"] > 1000).all()
    assert (table["difference"] < 1e-4).all() and (table["crossed"] <= 2).all()
    low, high = table["own_ms"] / table["onnx_high"], table["own_high"] / table["onnx_low"]
    assert (table["ratio"].between(0.999 * low, 1.001 * high)).all()
    assert table["megabytes"].between(0.1, 10).all()


def test_what_is_there_for_the_same_weights_is_kept(tmp_path, monkeypatch):
    out, weights = tmp_path / "exports.csv", shipped_weights("bologan", "ds1-pions", "embedded")
    measured = []

    def pretended(surrogate, rounds, budget):
        measured.append(surrogate.name)
        return [dict.fromkeys(export_times.FIELDS[3:22], 1.0) | {"batch": 1, "noisy": False}]

    monkeypatch.setattr(export_times, "measure", pretended)
    for _ in range(2):
        export_times.complete(out, [weights], progress=False)
    assert measured == ["bologan"]
    table = pd.read_csv(out)
    table["weights_sha256"] = "old"
    table.to_csv(out, index=False)
    export_times.complete(out, [weights], progress=False)
    assert measured == ["bologan"] * 2 and len(read(out)) == 1


def test_other_files_are_not_overwritten(tmp_path):
    out = tmp_path / "exports.csv"
    out.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="its columns are a, b"):
        export_times.complete(out, export_times.exportable(["ds1-pions"])[:1], progress=False)
    assert out.read_text() == "a,b\n1,2\n"
