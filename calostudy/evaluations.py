"""What each network evaluation buys: one trained network, several solvers, more and fewer steps.

``python -m calostudy.evaluations OUT.csv --models flow-matching --dataset ds1-photons`` generates
showers for the incident energies of the data set's evaluation sample with each solver and number
of evaluations, scores them against that sample, and writes one line per quantity. Seeds are the
same throughout: solvers start from the same noise. A case that is there is not made again: after a
kill, the same command finishes the rest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from calostudy.datasets import Dataset, load
from calostudy.datasets import dataset as catalogue_entry
from calostudy.errors import CaloStudyError, UsageError, exit_status
from calostudy.hardware import target
from calostudy.measured import read_lines, write_lines
from calostudy.metrics import METRICS, Options, Sample
from calostudy.models import load as load_surrogate
from calostudy.models import shipped_weights
from calostudy.models.diffusion import Diffusion
from calostudy.provenance import code_version
from calostudy.samplers.diffusion import SOLVERS, Sampling

TARGET = "cpu-1/fp32"  # on one thread the same seed gives the same numbers
GEANT4 = "Geant4"
SCORES = ("separation_power", "fpd", "auc_high")
NUMBERS = ("evaluations", "value", "uncertainty", "showers", "repeats", "seed")

FIELDS = (
    *("model", "dataset", "size", "solver", "evaluations", "quantity"),
    *("value", "uncertainty", "uncertainty_kind"),
    *("showers", "repeats", "seed", "weights_sha256", "made_by"),
)
_CASE = ("model", "dataset", "size", "solver", "evaluations", "showers", "repeats", "seed")


@dataclass(frozen=True)
class Judge:
    """How showers are scored: against the first `showers` of an evaluation sample.

    metrics: names of `calostudy.metrics.METRICS`; repeats and hidden: of the classifiers.

    Raises:
        UsageError: there is no such data set or metric.
    """

    dataset: str
    showers: int = 1000
    metrics: tuple[str, ...] = SCORES
    repeats: int = 3
    hidden: int = 256
    seed: int = 1

    def __post_init__(self):
        catalogue_entry(self.dataset)
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown:
            raise UsageError(f"metrics {', '.join(unknown)}: choose from {', '.join(METRICS)}")

    @property
    def entry(self) -> Dataset:
        return catalogue_entry(self.dataset)

    @cached_property
    def geant4(self) -> Sample:
        """The evaluation showers."""
        showers = load(self.dataset, "evaluation", rows=slice(0, self.showers))
        return Sample.of(showers, self.entry, "reference")

    @cached_property
    def floor(self) -> Sample:
        """As many other showers of Geant4."""
        return Sample.of(load(self.dataset, "train", rows=slice(0, self.showers)), self.entry)

    def scores(self, generated: Sample) -> list[dict]:
        """One line for each quantity."""
        options = Options(repeats=self.repeats, hidden=self.hidden, seed=self.seed)
        rows = []
        for function in dict.fromkeys(METRICS[name] for name in self.metrics):
            found = function(generated, self.geant4, options, self.geant4)
            rows += [
                {
                    "quantity": name,
                    "value": score.value,
                    "uncertainty": score.uncertainty,
                    "uncertainty_kind": score.kind,
                }
                for name, score in found.items()
                if name in self.metrics
            ]
        return rows


def cases(solvers: Sequence[str], evaluations: Sequence[int]) -> list[tuple[str, int]]:
    """The solvers with each number of evaluations that they can take exactly.

    Raises:
        UsageError: there is no such solver.
    """
    for solver in solvers:
        Sampling("ddim", 1).changed(solver, max(evaluations, default=1))
    return [
        (solver, count)
        for solver in solvers
        for count in sorted(evaluations)
        if count >= SOLVERS[solver].last and Sampling(solver, count).counted == count
    ]


def read(path: str | Path) -> pd.DataFrame:
    """The lines of a file; none where there is no file yet.

    Raises:
        DataError: it is not a file of this module.
    """
    table = read_lines(path, FIELDS, keep_default_na=False)
    for name in NUMBERS:
        table[name] = pd.to_numeric(table[name])
    return table


def measure(surrogate: Diffusion, solver: str, evaluations: int, judge: Judge) -> list[dict]:
    """The lines of one case: showers of one solver with so many evaluations, scored."""
    energies = judge.geant4.incident_energy
    generated = surrogate.sample(energies, seed=judge.seed, solver=solver, evaluations=evaluations)
    return _lines(surrogate, solver, evaluations, judge, Sample.of(generated, judge.entry))


def measure_floor(judge: Judge) -> list[dict]:
    """The same scores of other showers of Geant4."""
    return _lines(None, "", 0, judge, judge.floor)


def _lines(surrogate, solver: str, evaluations: int, judge: Judge, generated: Sample) -> list[dict]:
    case = {
        "model": surrogate.name if surrogate else GEANT4,
        "dataset": judge.dataset,
        "size": surrogate.size if surrogate else "",
        "solver": solver,
        "evaluations": evaluations,
        "showers": judge.showers,
        "repeats": judge.repeats,
        "seed": judge.seed,
        "weights_sha256": (surrogate.weights_sha256 or "")[:12] if surrogate else "",
        "made_by": f"code {code_version()}",
    }
    return [{**case, **score} for score in judge.scores(generated)]


def trained(model: str, dataset: str) -> Diffusion:
    """The shipped surrogate of a data set.

    Raises:
        UsageError: no weights of it are shipped, or it is not evaluated in steps.
    """
    weights = shipped_weights(model, dataset, "embedded")
    if weights is None:
        raise UsageError(f"no weights of {model} are shipped for {dataset}")
    surrogate = load_surrogate(weights)
    if not isinstance(surrogate, Diffusion):
        raise UsageError(f"{model} is not evaluated in steps: it has no solver to choose")
    return surrogate


def complete(
    out: str | Path,
    models: Iterable[str],
    solvers: Sequence[str],
    evaluations: Sequence[int],
    judge: Judge,
    progress: bool = True,
) -> Path:
    """Add to `out` the cases that it lacks, the Geant4 floor first; each is written at once.

    Raises:
        DataError: `out` holds something else, or showers are missing.
        UsageError: there is no such model or solver, or no trained weights of it.
    """
    out, wanted = Path(out), cases(solvers, evaluations)
    with target(TARGET).active():
        todo = [(None, "", 0)]
        for surrogate in [trained(model, judge.dataset) for model in models]:
            todo += [(surrogate, *case) for case in wanted]
        for surrogate, solver, count in tqdm(todo, unit="case", disable=None if progress else True):
            table = read(out)
            key = dict(
                zip(
                    _CASE,
                    (
                        *(surrogate.name if surrogate else GEANT4, judge.dataset),
                        *(surrogate.size if surrogate else "", solver, count),
                        *(judge.showers, judge.repeats, judge.seed),
                    ),
                    strict=True,
                )
            )
            own = table[(table[list(key)] == pd.Series(key)).all(axis=1)]
            if set(judge.metrics) <= set(own["quantity"]):
                continue
            if surrogate is None:
                lines = measure_floor(judge)
            else:
                lines = measure(surrogate, solver, count, judge)
            write_lines(out, pd.concat([table.drop(own.index), pd.DataFrame(lines)]), FIELDS)
    return out


def main(argv: list[str] | None = None) -> int:
    """Measure what evaluations buy; exit status 2 on bad usage, 1 on bad data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="CSV file to write or to complete")
    parser.add_argument("--models", default="flow-matching")
    parser.add_argument("--dataset", default="ds1-photons")
    parser.add_argument("--solvers", default="ddim,dpm++2m,midpoint")
    parser.add_argument("--evaluations", default="100,50,25,16,8,4,2,1")
    parser.add_argument("--metrics", default=",".join(SCORES))
    parser.add_argument("-n", "--showers", type=int, default=Judge.showers)
    parser.add_argument("--repeats", type=int, default=Judge.repeats, help="of each classifier")
    parser.add_argument("--hidden", type=int, default=Judge.hidden, help="nodes of a classifier")
    parser.add_argument("--seed", type=int, default=Judge.seed)
    given = vars(parser.parse_args(argv))
    out, models, solvers, evaluations = (
        given.pop(name) for name in ("out", "models", "solvers", "evaluations")
    )
    try:
        evaluations = [int(n) for n in evaluations.split(",")]
    except ValueError:
        parser.error(f"--evaluations {evaluations}: expected whole numbers like 16,8,4")
    try:
        judge = Judge(**{**given, "metrics": tuple(given["metrics"].split(","))})
        complete(out, models.split(","), solvers.split(","), evaluations, judge)
    except CaloStudyError as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
