"""Results with provenance, and the published figures that stand beside them."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from calostudy import __version__, tables
from calostudy.datasets import DATASETS
from calostudy.errors import DataError
from calostudy.models import build
from calostudy.paths import data_dir
from calostudy.provenance import code_version, provenance
from calostudy.results import Number, Result, load_results, save_result, select


def result(**changes) -> Result:
    number = Number(
        name="auc_low",
        value=0.1 + 0.2,
        uncertainty=0.01,
        uncertainty_kind="spread over repeats",
        details={"floor": 0.5, "warnings": ["few showers"]},
    )
    fields = {
        "kind": "model",
        "dataset": "calogan-eplus",
        "model": "caloflow-teacher",
        "size": "embedded",
        "weights_sha256": "ab" * 32,
        "sample_size": 5000,
        "seed": 1,
        "numbers": (number,),
    }
    return Result(**fields | changes)


# ---- results ----------------------------------------------------------------------------------


def test_a_result_comes_back_to_the_last_bit(tmp_path):
    written = result()
    save_result(written, tmp_path / "deep" / "a.json")
    (found,) = load_results(tmp_path / "deep")
    assert found == written
    assert found.number("auc_low").value == 0.1 + 0.2
    assert found.number("jsd_low") is None


def test_a_result_says_where_it_comes_from():
    origin = result().provenance
    assert set(origin) == {"code", "machine", "date"}
    assert origin["code"].startswith(__version__)
    assert origin["machine"]["libraries"]["torch"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", origin["date"])
    assert json.loads(json.dumps(provenance())) == provenance() | {"date": provenance()["date"]}


def test_the_code_version_names_the_commit_of_a_checkout_only():
    version = code_version()
    assert re.fullmatch(rf"{re.escape(__version__)}( \([0-9a-f]{{12}}(\+changes)?\))?", version)


def test_results_are_loaded_in_the_order_of_their_names_and_selected_by_field(tmp_path):
    for name, dataset in (("b", "calogan-gamma"), ("a", "calogan-eplus"), ("c", "calogan-eplus")):
        save_result(result(dataset=dataset, seed=ord(name)), tmp_path / f"{name}.json")
    (tmp_path / "notes.txt").write_text("no result")
    (tmp_path / ".d.json").write_text('{"kind": "mod')  # being written
    found = load_results(tmp_path)
    assert [entry.seed for entry in found] == [ord("a"), ord("b"), ord("c")]
    assert [entry.seed for entry in select(found, dataset="calogan-eplus")] == [97, 99]
    assert select(found, dataset="calogan-eplus", seed=99)[0].seed == 99
    assert load_results(tmp_path / "nothing") == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "much"])
def test_what_is_no_number_is_no_result(value):
    with pytest.raises(ValidationError):
        Number(name="x", value=value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a result"),
        ("{}", "kind"),
        ("[1, 2]", "not a result"),
        ('{"kind": "model"', "not a result"),
        (result().model_dump_json().replace('"model"', '"mdoel"', 1), "not a result"),
        (result().model_dump_json().replace('"value":', '"valeu":'), "not a result"),
    ],
)
def test_a_damaged_file_is_one_error_that_names_it(tmp_path, content, message):
    (tmp_path / "broken.json").write_text(content)
    with pytest.raises(DataError, match=message) as error:
        load_results(tmp_path)
    assert "broken.json" in str(error.value)


def test_bytes_that_are_no_text_are_the_same_error(tmp_path):
    (tmp_path / "broken.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"broken\.json: not a result"):
        load_results(tmp_path)


def test_surrogates_stand_side_by_side_whatever_metrics_each_has():
    scored = Number(name="fpd", value=0.02, uncertainty=0.002, details={"significance": 7.0})
    other = result(dataset="calogan-gamma", numbers=(scored,))
    rows = tables.scores_table([result(), other, result(kind="hardware", target="cpu-1/fp32")])
    assert [row.pop("metric") for row in rows] == ["auc_low", "fpd"]
    first, second = rows[0]
    assert "CaloGAN-like e+" in first
    assert "CaloGAN-like gamma" in second
    assert rows == [
        {first: "0.300 ± 0.010 (-)", second: "-"},
        {first: "-", second: "0.0200 ± 0.0020 (7.0 σ)"},
    ]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_result(result(seed=1), tmp_path / "a.json")
    monkeypatch.setattr(Result, "model_dump_json", lambda self, **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_result(result(seed=2), path)
    monkeypatch.undo()
    assert [entry.seed for entry in load_results(tmp_path)] == [1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


# ---- published figures ------------------------------------------------------------------------

PUBLISHED = sorted((data_dir() / "published").glob("*.csv"))
PLACES = {*DATASETS, "calogan", "ds1", "ild-photons"}


def table(name: str) -> pd.DataFrame:
    return pd.read_csv(data_dir() / "published" / f"{name}.csv")


def test_the_published_tables_are_there_and_described():
    readme = (data_dir() / "published" / "README.md").read_text()
    assert len(PUBLISHED) >= 9
    assert all(f"`{path.name}`" in readme for path in PUBLISHED)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_every_published_number_has_a_source_a_dataset_and_one_row(path):
    rows = pd.read_csv(path)
    sources = (data_dir() / "published" / "README.md").read_text().partition("## Sources")[2]
    assert all(f"| {source.partition(',')[0]} |" in sources for source in rows["source"])
    # what is about one dataset only is named after it
    place = rows["dataset"] if "dataset" in rows else {path.stem.partition("_")[0] + "-photons"}
    assert set(place) <= PLACES
    assert not rows.duplicated().any()
    keys = [c for c in rows if c not in ("value", "uncertainty", "count", "minutes")]
    assert not rows.duplicated(keys).any()
    for column in {"value", "uncertainty", "count", "minutes", "cpu_ms"} & set(rows):
        assert pd.api.types.is_numeric_dtype(rows[column])


def test_times_are_positive_and_their_cells_complete():
    for name in ("times", "benchmark_times", "ild_times", "challenge_times"):
        rows = table(name)
        assert (rows["value"].dropna() > 0).all()
        assert set(rows["device"]) <= {"CPU", "GPU"}
    cells = table("benchmark_times")
    assert len(cells) == 3 * 4 * 3 * 2
    assert cells["value"].isna().sum() == 36
    slowest = cells.loc[cells["value"].idxmax()]
    assert (slowest["model"], slowest["dataset"], slowest["batch"]) == ("calodiffusion", "ds2", 1)


def test_known_figures_are_the_published_ones():
    times = table("times")
    student = times[(times["model"] == "caloflow-student") & (times["dataset"] == "ds1-pions")]
    cpu = student[(student["device"] == "CPU") & student["source"].str.startswith("arXiv:2210")]
    assert cpu.set_index("batch")["value"].dropna().to_dict() == {1: 126.05, 10: 14.03, 100: 2.91}
    geant4 = times[times["model"] == "geant4"]["value"]
    assert geant4.tolist() == [1772.0]
    scores = table("scores").set_index(["model", "dataset", "metric", "source"])["value"]
    paper = "arXiv:2210.14245, Table 6"
    assert scores["caloflow-teacher", "ds1-photons", "auc_low", paper] == 0.701
    assert scores["caloflow-student", "ds1-pions", "jsd_low", paper] == 0.313
    assert table("challenge_scores")["model"].nunique() == 31 + 1  # and Geant4 itself


def test_published_parameter_counts_are_those_of_our_networks():
    counts = table("parameters")
    exact = counts[(counts["precision"] == "exact") & (counts["used_for"] == "generation")]
    teacher = exact[exact["model"] == "caloflow-teacher"].set_index("dataset")["count"]
    for published, ours in (
        ("calogan", "calogan-eplus"),
        ("ds1-photons", "ds1-photons"),
        ("ds1-pions", "ds1-pions"),
    ):
        own = sum(build("caloflow-teacher", ours, "paper").parameters_by_network().values())
        assert own == teacher[published]


def test_scores_are_within_their_bounds():
    for name in ("scores", "challenge_scores"):
        rows = table(name)
        areas = rows[rows["metric"].str.startswith("auc")]["value"]
        assert areas.between(0.4, 1.0).all()
        assert rows[rows["metric"].str.startswith("jsd")]["value"].between(0, 1).all()
        assert np.isfinite(rows["value"]).all()
