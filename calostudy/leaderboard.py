"""Every surrogate with shipped weights, scored alike and timed: one line per number.

``python -m calostudy.leaderboard data/measured/leaderboard.csv --datasets ds1-photons,ds2``
generates showers for the first incident energies of a data set's evaluation sample, scores them
against that sample (`calostudy.evaluations.Judge`) and times each surrogate by the study's clock.
What is there for the same weights and sample is kept: after a kill, with new weights of one model,
or where the lines of times were deleted to measure them anew, the same command makes the rest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from calostudy.errors import CaloStudyError, exit_status
from calostudy.evaluations import GEANT4, Judge
from calostudy.generation import draw_energies, generate_showers
from calostudy.hardware import target
from calostudy.measured import read_lines, write_lines
from calostudy.metrics import Sample
from calostudy.models import MODELS, shipped_weights
from calostudy.models import load as load_surrogate
from calostudy.models.surrogate import Surrogate, read_card
from calostudy.provenance import code_version, processor
from calostudy.timing import time_surrogate

TARGET = "cpu-1/fp32"  # on one thread the same seed gives the same numbers
SIZE = "embedded"
TIME = "cpu_ms_per_shower"
BATCHES = (1, 100)
ROUNDS = 5

FIELDS = (
    *("model", "dataset", "size", "quantity", "batch", "value", "uncertainty", "uncertainty_kind"),
    *("showers", "repeats", "hidden", "seed", "target", "machine", "date"),
    *("weights_sha256", "made_by"),
)


def read(path: str | Path) -> pd.DataFrame:
    """The lines of a file; none where there is no file yet.

    Raises:
        DataError: it is not a file of this module.
    """
    text = {"weights_sha256": str, "uncertainty_kind": str, "size": str, "target": str}
    return read_lines(path, FIELDS, dtype=text).fillna(dict.fromkeys(text, ""))


def current_weights(dataset: str) -> dict[str, str]:
    """The first twelve digits of the SHA-256 of each model's shipped weights for a data set."""
    found = {model: shipped_weights(model, dataset, SIZE) for model in MODELS}
    return {model: read_card(path)["weights_sha256"][:12] for model, path in found.items() if path}


def score_lines(surrogate: Surrogate | None, judge: Judge) -> list[dict]:
    """Scores of a surrogate, or the floor: of as many other showers of Geant4."""
    if surrogate is None:
        return judge.scores(judge.floor)
    showers = generate_showers(surrogate, judge.geant4.incident_energy, seed=judge.seed)
    return judge.scores(Sample.of(showers, judge.entry))


def time_lines(surrogate: Surrogate, budget: float) -> Iterator[dict]:
    """CPU milliseconds per shower on one thread, which a busy machine disturbs less than wall time.

    budget: seconds for each batch size after its warm-up.
    """
    with target(TARGET).active():  # compilation does not count against the budget
        for batch in BATCHES:
            surrogate.sample(draw_energies(surrogate.dataset, batch, 0), seed=0)
    for time in time_surrogate(surrogate, BATCHES, TARGET, rounds=ROUNDS, budget=budget):
        spread = 0.5 * (time.high - time.low) * time.cpu / time.value
        yield {
            "quantity": TIME,
            "batch": time.batch,
            "value": time.cpu,
            "uncertainty": spread if time.rounds > 1 else np.nan,
            "uncertainty_kind": f"half the 16-84 % range of the wall time, {time.rounds} rounds",
        }


def complete(
    out: str | Path, judges: Sequence[Judge], budget: float = 4.0, progress: bool = True
) -> Path:
    """Add to `out` what it lacks, each surrogate at once; drop what is of other weights.

    Raises:
        DataError: `out` holds something else, or showers are missing.
    """
    out = Path(out)
    todo = [
        (judge, model, digits)
        for judge in judges
        for model, digits in {GEANT4: "", **current_weights(judge.dataset)}.items()
    ]
    for judge, model, digits in tqdm(todo, unit="model", disable=None if progress else True):
        table = read(out)
        case = {
            "model": model,
            "dataset": judge.dataset,
            "showers": judge.showers,
            "repeats": judge.repeats,
            "hidden": judge.hidden,
            "seed": judge.seed,
            "weights_sha256": digits,
        }
        own = table[(table["model"] == model) & (table["dataset"] == judge.dataset)]
        scored = len(own) > 0 and (own[list(case)] == pd.Series(case)).all(axis=None)
        if scored and (model == GEANT4 or (own["quantity"] == TIME).any()):
            continue
        surrogate = None
        if model != GEANT4:
            surrogate = load_surrogate(shipped_weights(model, judge.dataset, SIZE))
        lines = []
        if not scored:
            table = table.drop(own.index)
            with target(TARGET).active():
                lines += score_lines(surrogate, judge)
        if surrogate is not None:
            lines += time_lines(surrogate, budget)
        common = {
            **case,
            "size": SIZE if surrogate else "",
            "target": TARGET if surrogate else "",
            "machine": processor(),
            "date": datetime.now(UTC).date().isoformat(),
            "made_by": f"code {code_version()}",
        }
        lines = [{**common, **line} for line in lines]
        _write(out, pd.concat([table, pd.DataFrame(lines)]))
    return out


def _write(out: Path, table: pd.DataFrame) -> None:
    table = table.sort_values(["dataset", "model"], kind="stable").astype({"batch": "Int64"})
    write_lines(out, table, FIELDS)


def main(argv: list[str] | None = None) -> int:
    """Score and time; exit status 2 on bad usage, 1 on bad data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="CSV file to write or to complete")
    parser.add_argument("--datasets", default="ds1-photons,ds2")
    parser.add_argument("-n", "--showers", type=int, default=Judge.showers)
    parser.add_argument("--repeats", type=int, default=Judge.repeats, help="of the classifier")
    parser.add_argument("--hidden", type=int, default=Judge.hidden, help="nodes of a layer of it")
    parser.add_argument("--seed", type=int, default=Judge.seed)
    parser.add_argument("--budget", type=float, default=4.0, help="seconds for a time")
    given = vars(parser.parse_args(argv))
    out, datasets, budget = (given.pop(name) for name in ("out", "datasets", "budget"))
    try:
        complete(out, [Judge(name, **given) for name in datasets.split(",")], budget)
    except CaloStudyError as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
