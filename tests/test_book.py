"""The workflow on a tiny study: its pages, the book that it builds, what it leaves alone."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from bookcheck import (
    broken_downloads,
    broken_links,
    external_resources,
    lacking_rerun,
    pages,
)

TINY = {
    "dataset": [{"dataset": "calogan-eplus", "n": 200}],
    "model": [
        {"model": "caloflow-teacher", "dataset": "calogan-eplus", "n": 200, "repeats": 1, "seed": 1}
    ],
    "shower": [{"dataset": "ds2", "models": "calo-vq"}],
    "power": [{"dataset": "calogan-eplus", "n": 100, "trials": 1, "metrics": "wasserstein"}],
    "hardware": [
        {
            "model": "caloflow-teacher",
            "dataset": "calogan-eplus",
            "target": "cpu-1/fp32",
            "batches": "1,10",
            "rounds": 2,
            "yardstick": "",
            "geant4_showers": 4,
        }
    ],
}


def write_study(folder: Path, grid: dict) -> None:
    (folder / "tiny.yml").write_text(yaml.safe_dump({"profiles": {"tiny": grid}}))


def snakemake(folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *options]
    chosen = ["--config", "study=tiny.yml", "study_profile=tiny"]
    return subprocess.run(
        [*command, *chosen], cwd=folder, capture_output=True, text=True, timeout=900, check=False
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory, checkout: Path) -> Path:
    """A folder in which the workflow ran the tiny study."""
    folder = tmp_path_factory.mktemp("study")
    for name in ("book", "notebooks", "workflow"):
        shutil.copytree(checkout / name, folder / name, ignore=shutil.ignore_patterns("runs"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(checkout / name, folder)
    for name in ("calostudy", "data"):
        (folder / name).symlink_to(checkout / name)
    write_study(folder, TINY)
    done = snakemake(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def html(study: Path) -> Path:
    return study / "_build" / "html"


def test_every_line_of_the_study_is_a_page_with_numbers(study, html):
    runs = sorted(path.stem for path in (study / "book" / "runs").glob("*.ipynb"))
    assert [name.partition("-")[0] for name in runs] == sorted([*TINY, "answers", "results"])
    for name in runs:
        assert (html / "book" / "runs" / f"{name}.html").exists()
    for name in set(runs) - {"answers", "results"}:
        assert (study / "results" / f"{name}.json").exists()


def test_pages_of_the_grid_are_in_the_table_of_contents(study, html):
    menu = {tag["href"] for tag in pages(html)["book/intro.html"].select("nav.bd-links a[href]")}
    for path in (study / "book" / "runs").glob("*.ipynb"):
        assert f"runs/{path.stem}.html" in menu


def test_links_anchors_and_images_are_whole(html):
    assert broken_links(html) == []


def test_downloads_are_whole_and_executed_pages_say_how_to_run_them_again(html):
    assert broken_downloads(html) == []
    assert lacking_rerun(html) == []


def test_a_download_or_a_box_that_is_broken_is_found(html, tmp_path):
    copy = tmp_path / "html"
    shutil.copytree(html, copy)
    next(copy.rglob("_sources/book/runs/dataset-*.ipynb")).write_text("{}")
    page = next(copy.rglob("book/runs/dataset-*.html"))
    page.write_text(page.read_text().replace("https://mybinder.org", "https://other.org"))
    assert [text for _, text in broken_downloads(copy) if "dataset-" in text]
    assert [name for name, _ in lacking_rerun(copy)] == [page.relative_to(copy).as_posix()]


def test_the_book_needs_no_network(html):
    assert external_resources(html) == []


def test_the_build_has_no_warnings(study):
    log = (study / "_build" / "book.log").read_text()
    assert [line for line in log.splitlines() if "WARNING" in line or "ERROR" in line] == []


def test_no_cell_of_a_page_failed(html):
    for name, page in pages(html).items():
        assert page.select(".output.traceback") == [], name


def test_launch_buttons_open_the_notebook_of_the_repository(html):
    for name, page in pages(html).items():
        links = [tag["href"] for tag in page.select("a[href*='mybinder.org'], a[href*='colab.']")]
        # Two above the page, two in its box.
        assert len(links) == (4 if name.startswith("book/runs/") else 0)
        kind = Path(name).stem.partition("-")[0]
        assert all(link.endswith(f"notebooks/{kind}.ipynb") for link in links)


def test_an_executed_page_says_the_command_that_makes_it_again(study, html):
    for name, page in pages(html).items():
        kind, _, rest = Path(name).stem.partition("-")
        if not name.startswith("book/runs/"):
            assert not page.select("#re-run-this-page")
        elif rest:
            words = shlex.split(page.select_one("#re-run-this-page pre").text)
            assert words[:3] == ["papermill", f"notebooks/{kind}.ipynb", "mine.ipynb"]
            chosen = dict(zip(words[4::3], words[5::3], strict=True))
            assert chosen == {key: str(value) for key, value in TINY[kind][0].items()}


def test_showers_in_space_bring_their_script_and_no_other_page_does(html):
    for name, page in pages(html).items():
        scripts = {Path(tag["src"].partition("?")[0]).name for tag in page.select("script[src]")}
        shown = page.select(".study-shower")
        assert bool(shown) == name.startswith("book/runs/shower-")
        assert bool(shown) == ({"plotly.min.js", "showers.js"} <= scripts)
        for figure in shown:
            assert "cells hit" in figure.select_one("img")["alt"]
            assert json.loads(figure.select_one("script").text)["data"][0]["type"] == "scatter3d"
    assert (html / "_static" / "plotly.min.js").stat().st_size > 1_000_000


def test_the_icon_that_browsers_ask_for_unasked_is_there(html):
    assert (html / "favicon.ico").read_bytes().startswith(b"\x00\x00\x01\x00")


def test_a_second_run_runs_nothing(study, html):
    before = (html / "index.html").stat().st_mtime_ns
    done = snakemake(study)
    assert done.returncode == 0, done.stderr
    assert "Nothing to be done" in done.stdout + done.stderr
    assert (html / "index.html").stat().st_mtime_ns == before


def planned(folder: Path, grid: dict) -> list[str]:
    """The rules that would run if the study were ``grid``."""
    write_study(folder, grid)
    try:
        done = snakemake(folder, "--dry-run")
    finally:
        write_study(folder, TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(re.findall(r"^(?:local)?rule (\w+):", done.stdout + done.stderr, re.MULTILINE))


def test_a_new_line_runs_only_its_own_page(study):
    line = {"dataset": "calogan-gamma", "n": 200}
    rules = planned(study, {**TINY, "dataset": [*TINY["dataset"], line]})
    assert rules == ["answers", "book", "dataset", "results"]


def test_a_changed_parameter_runs_only_its_own_page(study):
    line = {**TINY["dataset"][0], "n": 201}
    assert planned(study, {**TINY, "dataset": [line]}) == ["answers", "book", "dataset", "results"]


def test_a_line_that_cannot_run_is_refused_before_anything_runs(study):
    write_study(study, {"dataset": [{"dataset": "calogan-muon", "n": 200}]})
    try:
        done = snakemake(study)
    finally:
        write_study(study, TINY)
    assert done.returncode != 0
    assert "calogan-muon" in done.stderr
    assert "calogan-eplus" in done.stderr
