"""The notebooks: clean in the repository, and running with other parameters than their own."""

import ast
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from calostudy.errors import UsageError
from calostudy.pages import execute
from calostudy.results import load_results
from calostudy.study import load_jobs
from calostudy.walks import WALKS

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))

SMALL = {
    "dataset-gamma": ("dataset", {"dataset": "calogan-gamma", "n": 100}),
    "dataset-piplus": ("dataset", {"dataset": "calogan-piplus", "n": 100}),
    "dataset-ds2": ("dataset", {"dataset": "ds2", "n": 50}),
    "model-gamma": (
        "model",
        {
            "model": "caloflow-teacher",
            "dataset": "calogan-gamma",
            "n": 100,
            "train_showers": 200,
            "epochs": 1,
            "repeats": 1,
        },
    ),
    "power-gamma": (
        "power",
        {"dataset": "calogan-gamma", "n": 100, "trials": 1, "metrics": "pcc,wasserstein"},
    ),
    "evaluations-photons": (
        "evaluations",
        {
            "dataset": "ds1-photons",
            "models": "flow-matching",
            "solvers": "ddim",
            "evaluations": "2,1",
            "n": 100,
            "hidden": 16,
        },
    ),
    "comparison-photons": (
        "comparison",
        {"dataset": "ds1-photons", "models": "caloinn,calovae-inn", "n": 100, "hidden": 16},
    ),
    "lesson-eplus": (
        "lesson",
        {
            "dataset": "calogan-eplus",
            "model": "caloflow-teacher",
            "n": 100,
            "batches": "2",
            "rounds": 1,
        },
    ),
    "shower-ds2": ("shower", {"dataset": "ds2", "models": "calo-vq"}),
    "ranking-photons": ("ranking", {"dataset": "ds1-photons", "batch": 1}),
    "leaderboard-photons": ("leaderboard", {"dataset": "ds1-photons"}),
    "tables": ("tables", {"dataset": "all"}),
    "growth": ("growth", {"dataset": "all", "batch": 1}),
    "precisions": ("precisions", {"dataset": "ds1-photons", "n": 5}),
    "segmentations": ("segmentations", {"dataset": "segmentations", "n": 50, "replicas": 4}),
    "student-photons": (
        "student",
        {
            "dataset": "ds1-photons",
            "n": 100,
            "repeats": 1,
            "hidden": 16,
            "batches": "1",
            "rounds": 1,
        },
    ),
    "hardware-double": (
        "hardware",
        {
            "model": "caloflow-teacher",
            "dataset": "calogan-eplus",
            "target": "cpu-2/fp64",
            "batches": "2",
            "rounds": 2,
            "yardstick": "",
            "geant4_showers": 0,
        },
    ),
}

FIGURES = {
    **{"dataset": 13, "model": 6, "power": 8, "hardware": 1, "student": 14},
    **{"evaluations": 2, "comparison": 5, "ranking": 3, "segmentations": 6},
    **{"leaderboard": 2, "tables": 3, "shower": 0, "lesson": 5, "growth": 2, "precisions": 2},
}
"""At least so many on a page of each kind."""


def tagged(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    assert all(not cell.outputs for cell in cells if cell.cell_type == "code")
    assert all(cell.execution_count is None for cell in cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_with_a_title_and_one_cell_of_parameters(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].source.startswith("# ")
    assert len(tagged(notebook)) == 1


@pytest.mark.parametrize("kind", WALKS)
def test_the_parameters_of_a_notebook_are_those_of_its_walk(kind):
    path = next(path for path in NOTEBOOKS if path.stem == kind)
    (cell,) = tagged(nbformat.read(path, as_version=4))
    lines = [line for line in ast.parse(cell.source).body if isinstance(line, ast.AnnAssign)]
    defaults = {line.target.id: ast.literal_eval(line.value) for line in lines}
    assert set(defaults) == set(WALKS[kind].model_fields)
    WALKS[kind](**defaults)
    # The comment behind each parameter is what `papermill --help-notebook` shows.
    assert all("  # " in line for line in cell.source.splitlines())


@pytest.mark.parametrize(("kind", "parameters"), SMALL.values(), ids=SMALL)
def test_a_notebook_runs_with_other_parameters(kind, parameters, tmp_path, checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    chosen = {**parameters, "results": str(tmp_path / "results")}
    page = tmp_path / "page.ipynb"
    title = WALKS[kind](**chosen).title()
    execute(kind, title, chosen, page)
    executed = nbformat.read(page, as_version=4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) >= FIGURES[kind]
    assert title and executed.cells[0].source.splitlines()[0] == f"# {title}"
    found = load_results(tmp_path / "results")
    assert found
    assert {result.dataset for result in found} == {parameters["dataset"]}


def test_papermill_alone_runs_a_notebook_from_the_top_folder(tmp_path, checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    page = tmp_path / "page.ipynb"
    papermill.execute_notebook(
        checkout / "notebooks" / "dataset.ipynb",
        page,
        parameters={"n": 50, "results": str(tmp_path / "results")},
        progress_bar=False,
    )
    assert (tmp_path / "results" / "dataset-calogan-eplus.json").exists()


def test_showers_without_recorded_times_have_no_cost(tmp_path, monkeypatch):
    assert WALKS["dataset"](dataset="ds2").geant4_cost() is not None
    monkeypatch.setenv("CALOSTUDY_DATA", str(tmp_path))
    assert WALKS["dataset"](dataset="ds2").geant4_cost() is None


def test_a_failing_notebook_leaves_no_page_but_what_it_reached(tmp_path, checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("CALOSTUDY_DATA", str(tmp_path / "nothing"))
    page = tmp_path / "page.ipynb"
    with pytest.raises(papermill.PapermillExecutionError, match="nothing"):
        execute("dataset", "A page", {"dataset": "calogan-eplus"}, page)
    assert not page.exists()
    assert page.with_suffix(".failed.ipynb").exists()


@pytest.mark.parametrize(
    ("kind", "parameters", "told"),
    [
        ("dataset", {"dataset": "calogan-muon"}, "calogan-muon"),
        ("dataset", {"dataset": "ds2", "showers": 5}, "showers"),
        ("dataset", {"dataset": "ds2", "n": -1}, "n"),
        ("model", {"model": "calomaybe", "dataset": "ds2"}, "calomaybe"),
        ("hardware", {"model": "caloflow-teacher", "dataset": "ds2", "target": "abacus"}, "abacus"),
        ("power", {"dataset": "ds2", "metrics": "pcc, entropy"}, "entropy"),
        ("evaluations", {"dataset": "ds2", "models": "caloinn", "solvers": "rk9"}, "rk9"),
        ("shower", {"dataset": "ds2", "models": "caloinn,calomaybe"}, "calomaybe"),
        ("lesson", {"dataset": "ds2", "model": "calo-vq", "defect": "rust"}, "rust"),
    ],
    ids=[
        "dataset",
        "unknown parameter",
        "number",
        "model",
        "target",
        "metric",
        "solver",
        "models",
        "defect",
    ],
)
def test_impossible_parameters_are_refused_before_anything_runs(kind, parameters, told, tmp_path):
    study = tmp_path / "study.yml"
    study.write_text(yaml.safe_dump({"profiles": {"embedded": {kind: [parameters]}}}))
    with pytest.raises(UsageError, match=told):
        load_jobs(study)
    assert list(tmp_path.iterdir()) == [study]


@pytest.mark.parametrize("profile", ["embedded", "paper"])
def test_every_line_of_the_study_is_possible(profile, checkout):
    jobs = load_jobs(checkout / "study.yml", profile)
    assert {job.kind for job in jobs.values()} == set(WALKS)
    assert all(name == job.name and name.startswith(job.kind) for name, job in jobs.items())
