"""study.yml, read and checked; one walk of the study run as a notebook by papermill."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from calostudy.errors import UsageError
from calostudy.files import atomic_path
from calostudy.walks import WALKS


class Job(BaseModel):
    """One executed notebook: the kind of walk, its parameters, the name of the page."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: str
    name: str
    parameters: dict[str, Any]


def load_jobs(path: Path = Path("study.yml"), profile: str = "embedded") -> dict[str, Job]:
    """The grid of one profile of ``path``: page name -> job, all parameters checked.

    Raises:
        UsageError: The file, the profile, or a parameter of a walk is not what it should be.
    """
    try:
        study = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: not a readable study file ({error})") from None
    try:
        grid = study["profiles"][profile]
    except (KeyError, TypeError):
        known = ", ".join((study or {}).get("profiles", {})) or "none"
        raise UsageError(f"{path}: no profile {profile!r}; it has {known}") from None
    jobs = {}
    for kind, rows in grid.items():
        if kind not in WALKS:
            raise UsageError(f"{path}: {kind!r} is no kind of walk; known are {', '.join(WALKS)}")
        for row in rows:
            walk = WALKS[kind](**row)
            name = walk.page_name()
            if name in jobs:
                raise UsageError(f"{path}: profile {profile} has {name} twice")
            jobs[name] = Job(kind=kind, name=name, parameters=row)
    return jobs


def execute(kind: str, parameters: dict[str, Any], output: Path) -> None:
    """Run ``notebooks/<kind>.ipynb`` with ``parameters``; the page is titled after them.

    ``output`` appears only when every cell ran; what a failed run reached is kept beside it as
    ``<name>.failed.ipynb``.
    """
    import nbformat
    import papermill

    walk = WALKS[kind](**parameters)
    notebook = nbformat.read(Path("notebooks") / f"{kind}.ipynb", as_version=4)
    first = notebook.cells[0]
    first.source = f"# {walk.title()}\n" + first.source.partition("\n")[2]
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    # A backend chosen for scripts, such as agg, would leave the page without its figures.
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    with atomic_path(output) as temporary:
        try:
            papermill.execute_notebook(
                notebook, str(temporary), parameters=parameters, progress_bar=sys.stderr.isatty()
            )
        except Exception:
            if Path(temporary).exists():
                shutil.copy(temporary, output.with_suffix(".failed.ipynb"))
            raise


def snakemake_command(arguments: list[str]) -> list[str]:
    """The command that ``calostudy run`` runs, from the top of a checkout.

    Raises:
        UsageError: The working folder is no checkout of the study.
    """
    if not Path("workflow/Snakefile").exists():
        raise UsageError(
            "no workflow/Snakefile here: run this in the top folder of a checkout of calostudy"
        )
    return [sys.executable, "-m", "snakemake", *arguments]
