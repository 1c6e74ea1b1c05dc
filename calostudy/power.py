"""Which metric sees which planted defect, from which strength on, with how many showers.

``python -m calostudy.power OUT.csv --sizes 250,500,1000,2500,5000`` draws, for every number of
showers N and every trial, 2 N Geant4 showers of a data set, plants the defects of
`calostudy.metrics.defects` into N of them and compares those with the other N by the study's
metrics; without a defect, too. It writes one line per metric. A line that is there is not made
again: after a kill, the same command finishes the rest. A file whose name ends in ``.gz`` is
compressed.

Both halves of a trial are drawn without replacement from all shipped showers, training and
evaluation together, so that a difference of the two halves' means varies as between two
independent samples, whatever the share of all showers that is drawn. Different trials share showers
if they have to.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from calostudy.datasets import SPLITS, Dataset, load
from calostudy.datasets import dataset as catalogue_entry
from calostudy.errors import CaloStudyError, UsageError
from calostudy.files import atomic_path
from calostudy.hardware import target
from calostudy.measured import read_lines
from calostudy.metrics import METRICS, Options, Sample
from calostudy.metrics.defects import DEFECTS
from calostudy.metrics.discrimination import NONE
from calostudy.provenance import code_version
from calostudy.showers import Showers, concatenate

TARGET = "cpu-1/fp32"  # on one thread the same seed gives the same numbers
TRAINED = ("auc_", "jsd_")  # metrics with a training in each comparison
UNTRAINED = tuple(name for name in METRICS if not name.startswith(TRAINED))
FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)  # of the nominal strength, in a scan

KEY = ("dataset", "defect", "strength", "unit", "metric", "showers", "trial", "seed")
FIELDS = (*KEY, "value", "seconds", "version")

Planted = tuple[str, float]
"""Name of a defect and its strength, (`NONE`, 0) for none."""


@dataclass(frozen=True)
class Plan:
    """What is compared.

    metrics: names of `calostudy.metrics.METRICS`. sizes: showers in each half. trials: draws with
    each defect; nulls: draws without one, as many as trials if 0. scan: numbers of showers with
    which not only the nominal strengths are planted. seed: of the draws, defects and metrics.

    Raises:
        UsageError: a name that is not there, or a number that is not positive.
    """

    dataset: str = "calogan-eplus"
    metrics: tuple[str, ...] = UNTRAINED
    defects: tuple[str, ...] = tuple(DEFECTS)
    sizes: tuple[int, ...] = (250, 500, 1000, 2500, 5000)
    trials: int = 10
    nulls: int = 0
    scan: tuple[int, ...] = ()
    seed: int = 1

    def __post_init__(self):
        catalogue_entry(self.dataset)
        for what, names, known in (
            ("metrics", self.metrics, METRICS),
            ("defects", self.defects, DEFECTS),
        ):
            unknown = [name for name in names if name not in known]
            if unknown or not names:
                raise UsageError(f"{what} {', '.join(unknown)}: choose from {', '.join(known)}")
        if min(self.trials, *self.sizes, *self.scan) < 1:
            raise UsageError("trials and numbers of showers: expected 1 at least")

    @property
    def functions(self) -> list[Callable]:
        """Of the metrics, each once: some give several."""
        return list(dict.fromkeys(METRICS[name] for name in self.metrics))

    def draws(self) -> Iterator[tuple[int, int, list[Planted]]]:
        """Each draw of showers: their number, the trial, and what is planted into it."""
        for n in sorted({*self.sizes, *self.scan}):
            planted = [(name, s) for name in self.defects for s in self.strengths(name, n)]
            for trial in range(max(self.trials, self.nulls)):
                yield n, trial, [(NONE, 0.0), *(planted if trial < self.trials else [])]

    def strengths(self, defect: str, n: int) -> list[float]:
        nominal = DEFECTS[defect].strength
        scan = {f * nominal for f in FRACTIONS if f * nominal <= 100} if n in self.scan else set()
        return sorted(scan | ({nominal} if n in self.sizes else set()))


# ---- the file -----------------------------------------------------------------------------------


def read_power(path: str | Path) -> pd.DataFrame:
    """The lines of a file, none where there is no file yet.

    Raises:
        DataError: it is not a file of this module.
    """
    return read_lines(path, FIELDS, keep_default_na=False)


# By suffix. Without a time in it: the same lines are the same file.
_CODECS = {".gz": (partial(gzip.compress, mtime=0), gzip.decompress)}


def _append(path: Path, rows: Iterable[dict]) -> None:
    """Add lines to a file; it is whole at every moment."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    if not path.exists():
        writer.writeheader()
    writer.writerows(rows)
    pack, unpack = _CODECS.get(path.suffix, (bytes, bytes))
    before = unpack(path.read_bytes()) if path.exists() else b""
    with atomic_path(path) as temporary:
        temporary.write_bytes(pack(before + text.getvalue().encode()))


# ---- the measurement ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pool:
    """All Geant4 showers of a data set, of which each trial draws its own; and the ruler."""

    entry: Dataset
    showers: Showers
    ruler: Sample

    @classmethod
    def open(cls, dataset: str) -> Pool:
        """The shipped showers, training and evaluation; bins and units are of the evaluation."""
        entry = catalogue_entry(dataset)
        parts = [load(dataset, split) for split in SPLITS]
        return cls(entry, concatenate(parts), Sample.of(parts[-1], entry, "evaluation"))

    def draw(self, n: int, trial: int, seed: int) -> tuple[Showers, Showers]:
        """Two times n showers without a common one.

        Raises:
            UsageError: there are fewer than 2 n.
        """
        if 2 * n > len(self.showers):
            raise UsageError(
                f"two samples of {n} showers: {self.entry.name} has {len(self.showers)} in all"
            )
        rows = np.random.default_rng([seed, n, trial]).permutation(len(self.showers))[: 2 * n]
        return self.showers[rows[:n]], self.showers[rows[n:]]


def compare(
    pool: Pool,
    n: int,
    trial: int,
    seed: int,
    wanted: Iterable[tuple[Planted, Sequence[Callable]]],
) -> Iterator[list[dict]]:
    """Lines of one draw: for each defect, its metrics by the functions wanted."""
    clean, others = pool.draw(n, trial, seed)
    reference = Sample.of(others, pool.entry, "reference")
    options = Options(repeats=1, replicas=2, seed=trial)  # the replicas' spread is not used
    for (defect, strength), functions in wanted:
        spoiled = DEFECTS[defect](clean, strength, seed=trial) if defect != NONE else clean
        generated = Sample.of(spoiled, pool.entry)
        line = {
            "dataset": pool.entry.name,
            "defect": defect,
            "strength": strength,
            "unit": DEFECTS[defect].unit if defect != NONE else "",
            "showers": n,
            "trial": trial,
            "seed": seed,
            "version": code_version(),
        }
        lines = []
        for function in functions:
            start = time.perf_counter()
            found = function(generated, reference, options, pool.ruler)
            seconds = f"{time.perf_counter() - start:.3g}"
            for metric, each in found.items():
                lines.append(
                    line | {"metric": metric, "value": f"{each.value:.6g}", "seconds": seconds}
                )
        yield lines


def measure(plan: Plan, out: str | Path, progress: bool = True) -> Path:
    """Add to `out` what it lacks of a plan.

    Raises:
        DataError: `out` holds something else, or showers are missing.
        UsageError: more showers in a trial than there are.
    """
    out = Path(out)
    names = {f: {n for n, other in METRICS.items() if other is f} for f in plan.functions}
    table = read_power(out)
    table = table[(table["dataset"] == plan.dataset) & (table["seed"] == plan.seed)]
    there = table.groupby(["showers", "trial", "defect", "strength"])["metric"].agg(set).to_dict()
    missing = []
    for n, trial, planted in plan.draws():
        wanted = [
            (each, [f for f in names if not names[f] <= there.get((n, trial, *each), set())])
            for each in planted
        ]
        missing.append((n, trial, [(each, left) for each, left in wanted if left]))
    with (
        target(TARGET).active(),
        tqdm(
            total=sum(len(wanted) for *_, wanted in missing),
            desc="comparisons",
            disable=None if progress else True,
        ) as bar,
    ):
        pool = Pool.open(plan.dataset)
        for n, trial, wanted in missing:
            for lines in compare(pool, n, trial, plan.seed, wanted) if wanted else ():
                # a function measures all its metrics, those that are there among them
                known = there.get((n, trial, lines[0]["defect"], lines[0]["strength"]), ())
                _append(out, [line for line in lines if line["metric"] not in known])
                bar.update()
    return out


def main(argv: list[str] | None = None) -> int:
    """Measure the power of metrics; exit status 2 on bad usage, 1 on bad data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="CSV file to write or to complete")
    helps = {
        "metrics": "names, by default all without a training",
        "defects": "names, by default all",
        "sizes": "showers in each sample",
        "trials": "draws with each defect",
        "nulls": "draws without a defect; default: as many as trials",
        "scan": "showers in each sample with which several strengths are planted",
    }
    kinds = {field.name: type(field.default) for field in fields(Plan)}
    for field in fields(Plan):
        several = kinds[field.name] is tuple
        default = ",".join(map(str, field.default)) if several else field.default
        parser.add_argument(
            f"--{field.name}",
            default=default,
            type=str if several else kinds[field.name],
            help=helps.get(field.name),
        )
    given = vars(parser.parse_args(argv))
    out = given.pop("out")
    try:
        for name, kind in kinds.items():
            if kind is tuple:
                words = [word for word in given[name].split(",") if word]
                numbers = name in ("sizes", "scan")
                given[name] = tuple(map(int, words)) if numbers else tuple(words)
    except ValueError:
        parser.error("--sizes and --scan: expected whole numbers like 250,500")
    try:
        measure(Plan(**given), out, progress=sys.stderr.isatty())
    except CaloStudyError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
