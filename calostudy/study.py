"""study.yml, read and checked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from calostudy.errors import UsageError
from calostudy.walks import WALKS


class Job(BaseModel):
    """One executed notebook: the kind of walk, name and title of the page, its parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: str
    name: str
    title: str
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
            jobs[name] = Job(kind=kind, name=name, title=walk.title(), parameters=row)
    return jobs


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
