"""Rank all surrogates with shipped weights, and time them: how fast, how close to Geant4.

``python -m calostudy.rankings data/measured/ranking.csv --datasets ds1-photons,ds2`` generates
showers of every surrogate of a data set for the incident energies of its evaluation sample, ranks
them by one classifier of them all (`calostudy.metrics.ranking`), times them by the study's clock
(`calostudy.timing`) and writes one line per number. The ranking of a data set is made anew when its
surrogates or their weights have changed, a time when its weights have; all else is kept: after a
kill the same command finishes the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from calostudy.datasets import Dataset, load
from calostudy.datasets import dataset as catalogue_entry
from calostudy.errors import CaloStudyError, UsageError, exit_status
from calostudy.generation import generate
from calostudy.hardware import target
from calostudy.measured import read_lines, write_lines
from calostudy.metrics.ranking import Ranking, rank
from calostudy.models import MODELS, shipped_weights
from calostudy.models import load as load_surrogate
from calostudy.models.surrogate import Surrogate, read_card
from calostudy.provenance import code_version
from calostudy.showers import Showers
from calostudy.showers import read as read_showers
from calostudy.timing import time_surrogate

TARGET = "cpu-1/fp32"  # on one thread the same seed gives the same numbers
SIZE = "embedded"
INPUTS = ("low", "high")  # of the classifiers: voxels, and observables
LOG_POSTERIOR, RECOGNISED, TIME = "log_posterior", "recognised", "ms_per_shower"

FIELDS = (
    *("model", "dataset", "size", "quantity", "batch", "value", "uncertainty", "uncertainty_kind"),
    *("models", "field", "showers", "repeats", "hidden", "seed", "weights_sha256", "made_by"),
)
_RANKING = ("dataset", "field", "showers", "repeats", "hidden", "seed")


@dataclass(frozen=True)
class Contest:
    """How the surrogates of a data set are ranked and timed.

    showers: of each surrogate, at the first incident energies of the evaluation sample; hidden:
    nodes per layer of the classifier; repeats: its trainings; batches: of the times; budget:
    seconds for each of them.

    Raises:
        UsageError: there is no such data set.
    """

    dataset: str
    showers: int = 1000
    repeats: int = 3
    hidden: int = 256
    batches: tuple[int, ...] = (1, 100)
    rounds: int = 5
    budget: float = 20.0
    seed: int = 1

    def __post_init__(self):
        catalogue_entry(self.dataset)

    @property
    def entry(self) -> Dataset:
        return catalogue_entry(self.dataset)

    @cached_property
    def weights(self) -> dict[str, str]:
        """SHA-256 of the shipped weights of each model that has any for this data set."""
        found = {}
        for model in MODELS:
            weights = shipped_weights(model, self.dataset, SIZE)
            if weights is not None:
                found[model] = read_card(weights)["weights_sha256"]
        return found

    @property
    def field(self) -> str:
        """What names the models with their weights, twelve digits."""
        return hashlib.sha256(repr(sorted(self.weights.items())).encode()).hexdigest()[:12]

    def surrogate(self, model: str) -> Surrogate:
        """With its shipped weights."""
        return load_surrogate(shipped_weights(model, self.dataset, SIZE))

    def generated(self, model: str, work: Path) -> Showers:
        """Showers of a model, kept in the folder `work` with its weights in the file's name."""
        digits = self.weights[model][:12]
        path = work / f"{self.dataset}-{model}-{digits}-{self.showers}-{self.seed}.h5"
        if not path.exists():
            work.mkdir(parents=True, exist_ok=True)
            energies = self.geant4.incident_energy
            generate(self.surrogate(model), path, energies=energies, seed=self.seed)
        return read_showers(path, self.entry.calorimeter)

    @cached_property
    def geant4(self) -> Showers:
        """The evaluation showers."""
        return load(self.dataset, "evaluation", rows=slice(0, self.showers))

    def ranked(self, work: Path, inputs: str, progress: bool = True) -> Ranking:
        """The ranking of all models by a classifier of these inputs.

        Raises:
            DataError: showers are missing.
            UsageError: weights of fewer than two models are shipped.
        """
        if len(self.weights) < 2:
            raise UsageError(f"weights of fewer than two models are shipped for {self.dataset}")
        samples = {model: self.generated(model, work) for model in self.weights}
        reference = self.geant4
        options = {"repeats": self.repeats, "hidden": self.hidden, "seed": self.seed}
        return rank(samples, reference, self.entry, inputs=inputs, **options, progress=progress)

    # ---- lines ------------------------------------------------------------------------

    def line(self, model: str, **values) -> dict:
        """A line of the file."""
        return {
            "model": model,
            "dataset": self.dataset,
            "size": SIZE,
            "models": len(self.weights),
            "field": self.field,
            "showers": self.showers,
            "repeats": self.repeats,
            "hidden": self.hidden,
            "seed": self.seed,
            "weights_sha256": self.weights[model][:12],
            "made_by": f"code {code_version()}",
            **values,
        }

    def ranking_lines(self, ranking: Ranking, inputs: str) -> Iterator[dict]:
        """Log-posteriors on Geant4's evaluation showers, and of each model on its own held-out
        showers: how well it is recognised."""
        kind = ranking.kind
        for model, (value, spread) in ranking.summary().items():
            given = {"value": value, "uncertainty": spread, "uncertainty_kind": kind}
            yield self.line(model, quantity=f"{LOG_POSTERIOR}_{inputs}", **given)
        own = np.diagonal(ranking.cross_check, axis1=1, axis2=2)
        spreads = own.std(axis=0, ddof=1) if len(own) > 1 else np.full(own.shape[1], np.nan)
        for model, value, spread in zip(ranking.models, own.mean(axis=0), spreads, strict=True):
            given = {"value": value, "uncertainty": spread, "uncertainty_kind": kind}
            yield self.line(model, quantity=f"{RECOGNISED}_{inputs}", **given)

    def time_line(self, model: str, batch: int) -> dict:
        """Milliseconds of CPU time per shower at a batch size, on one thread: unlike wall time,
        they are nearly the same on a busy machine."""
        options = {"rounds": self.rounds, "seed": self.seed, "budget": self.budget}
        (time,) = time_surrogate(self.surrogate(model), (batch,), TARGET, **options)
        kind = "half the 16-84 % range of the wall time over rounds, scaled"
        spread = 0.5 * (time.high - time.low) * time.cpu / time.value if time.rounds > 1 else np.nan
        given = {"value": time.cpu, "uncertainty": spread, "uncertainty_kind": kind}
        return self.line(model, quantity=TIME, batch=batch, **given)


def read(path: str | Path) -> pd.DataFrame:
    """The lines of a file; none where there is no file yet.

    Raises:
        DataError: it is not a file of this module.
    """
    return read_lines(path, FIELDS, dtype={"field": str, "weights_sha256": str})


def complete(
    out: str | Path, contests: Sequence[Contest], work: str | Path, progress: bool = True
) -> Path:
    """Add to `out` what it lacks, each ranking and each time at once; drop what is of other
    weights. Showers are kept in the folder `work`.

    Raises:
        DataError: `out` holds something else, or showers are missing.
        UsageError: weights of fewer than two models are shipped for a data set.
    """
    out, work = Path(out), Path(work)
    for contest in contests:
        table = read(out)
        key = pd.Series({name: getattr(contest, name) for name in _RANKING})
        own = table[(table["dataset"] == contest.dataset) & (table["quantity"] != TIME)]
        if not len(own) or not (own[list(_RANKING)] == key).all(axis=None):
            with target(TARGET).active():
                lines = [
                    line
                    for inputs in INPUTS
                    for line in contest.ranking_lines(
                        contest.ranked(work, inputs, progress), inputs
                    )
                ]
            _write(out, pd.concat([table.drop(own.index), pd.DataFrame(lines)]))
        for model, sha256 in contest.weights.items():
            for batch in contest.batches:
                table = read(out)
                own = table[
                    (table["dataset"] == contest.dataset)
                    & (table["quantity"] == TIME)
                    & (table["model"] == model)
                    & (table["batch"] == batch)
                ]
                if not len(own) or (own["weights_sha256"] != sha256[:12]).any():
                    lines = [contest.time_line(model, batch)]
                    _write(out, pd.concat([table.drop(own.index), pd.DataFrame(lines)]))
    return out


def _write(out: Path, table: pd.DataFrame) -> None:
    table = table.sort_values(["dataset", "quantity", "batch"], kind="stable")
    table = table.astype({"batch": "Int64"})
    write_lines(out, table, FIELDS)


def main(argv: list[str] | None = None) -> int:
    """Rank and time; exit status 2 on bad usage, 1 on bad data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="CSV file to write or to complete")
    parser.add_argument("--datasets", default="ds1-photons,ds2")
    parser.add_argument("-n", "--showers", type=int, default=Contest.showers)
    parser.add_argument("--repeats", type=int, default=Contest.repeats, help="of the classifier")
    parser.add_argument("--hidden", type=int, default=Contest.hidden, help="nodes of a layer of it")
    parser.add_argument("--budget", type=float, default=Contest.budget, help="seconds for a time")
    parser.add_argument("--seed", type=int, default=Contest.seed)
    parser.add_argument("--work", type=Path, default=Path("results/ranking"), help="for showers")
    given = vars(parser.parse_args(argv))
    out, datasets, work = (given.pop(name) for name in ("out", "datasets", "work"))
    try:
        complete(out, [Contest(name, **given) for name in datasets.split(",")], work)
    except CaloStudyError as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
