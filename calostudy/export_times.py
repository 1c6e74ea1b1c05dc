"""Exported surrogates beside their own samplers: the same showers in ONNX Runtime, and how fast.

``python -m calostudy.export_times data/measured/exports.csv`` writes each surrogate with shipped
weights that can be exported (`calostudy.export`) as a file, compares what ONNX Runtime makes of it
with the surrogate's own showers of the same noise, and times both on one thread, interleaved, by
the study's clock. What is there for the same weights is kept: after a kill, the same command makes
the rest.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from calostudy.datasets import DATASETS
from calostudy.errors import CaloStudyError, exit_status
from calostudy.export import GRAPHS, Exported, export
from calostudy.generation import draw_energies
from calostudy.hardware import target
from calostudy.measured import read_lines, write_lines
from calostudy.models import load, shipped_weights
from calostudy.models.surrogate import Surrogate
from calostudy.provenance import code_version, processor
from calostudy.timing import race

SIZE, TARGET = "embedded", "cpu-1/fp32"
BATCHES = (1, 100)
ROUNDS = 9
BUDGET = 15.0  # s for each contestant at each batch size
COMPARED = 100
NEAR = 1e-3
"""Cells within this part of the threshold may be on either side of it."""

FIELDS = (
    *("model", "dataset", "size", "batch", "onnx_ms", "onnx_low", "onnx_high", "own_ms", "own_low"),
    *("own_high", "ratio", "ratio_low", "ratio_high", "rounds", "noisy", "showers", "cells"),
    *("difference", "difference_999", "crossed", "megabytes", "export_seconds", "machine", "date"),
    *("weights_sha256", "made_by"),
)


def read(path: str | Path) -> pd.DataFrame:
    """The lines of a file; none where there is no file yet.

    Raises:
        DataError: it is not a file of this module.
    """
    return read_lines(path, FIELDS, dtype={"weights_sha256": str})


def exportable(datasets: Sequence[str] = tuple(DATASETS)) -> list[Path]:
    """The folders of shipped weights of surrogates that can be exported."""
    found = (
        shipped_weights(family.name, name, SIZE)
        for family in GRAPHS
        for name in datasets
        if name in family.datasets
    )
    return [path for path in found if path]


def compare(own: np.ndarray, exported: np.ndarray, threshold: float) -> dict[str, float]:
    """How two samples (N, V) in MeV of the same noise agree.

    cells: how many have energy in one of them; difference: the largest relative difference of
    those that are clear of the threshold in both, difference_999: what one in a thousand exceeds;
    crossed: how many are on another side of the threshold.

    >>> own, other = np.array([[0.0, 2.0, 4.0]]), np.array([[1.0, 2.0, 4.002]])
    >>> found = compare(own, other, 1.0)
    >>> found["cells"], found["crossed"], round(found["difference"], 6)
    (3, 1, 0.0005)
    """
    either, both = (own > 0) | (exported > 0), (own > 0) & (exported > 0)
    clear = both & (np.minimum(own, exported) > (1.0 + NEAR) * threshold)
    apart = np.abs(own - exported)[clear] / own[clear]
    return {
        "cells": int(either.sum()),
        "difference": float(apart.max(initial=0.0)),
        "difference_999": float(np.quantile(apart, 0.999)) if len(apart) else 0.0,
        "crossed": int((either & ~both).sum()),
    }


def measure(surrogate: Surrogate, rounds: int = ROUNDS, budget: float = BUDGET) -> list[dict]:
    """One line for each of `BATCHES`."""
    with tempfile.TemporaryDirectory() as folder, target(TARGET).active():
        start = time.perf_counter()
        path = export(surrogate, Path(folder) / "surrogate.onnx")
        seconds, megabytes = time.perf_counter() - start, path.stat().st_size / 1e6
        exported = Exported(path, threads=1)
        energies = draw_energies(surrogate.dataset, COMPARED, 0)
        samples = surrogate.sample(energies, seed=0).cells, exported.sample(energies, seed=0)
        agreement = compare(*samples, surrogate.dataset.threshold)
        common = {"showers": COMPARED, "megabytes": megabytes, "export_seconds": seconds}
        return [
            {**common, **agreement, **_times(surrogate, exported, batch, rounds, budget)}
            for batch in BATCHES
        ]


def _times(
    surrogate: Surrogate, exported: Exported, batch: int, rounds: int, budget: float
) -> dict[str, float]:
    energies = draw_energies(surrogate.dataset, batch, 1)
    cases = {"onnx": exported.sample, "own": surrogate.sample}
    calls = {
        name: (lambda sample=sample: sample(energies, seed=1)) for name, sample in cases.items()
    }
    found = race(calls, rounds, budget=budget)
    line = {"batch": batch}
    for name in cases:
        timing = found.timing(name)
        values = (timing.median, timing.low, timing.high)
        keys = (f"{name}_ms", f"{name}_low", f"{name}_high")
        line |= {key: 1e3 * value / batch for key, value in zip(keys, values, strict=True)}
        line["noisy"] = line.get("noisy", False) or timing.noisy
    ratio = found.ratio("own", "onnx")
    line |= {"ratio": ratio.median, "ratio_low": ratio.low, "ratio_high": ratio.high}
    return line | {"rounds": ratio.rounds}


def complete(
    out: str | Path,
    directories: Sequence[Path],
    rounds: int = ROUNDS,
    budget: float = BUDGET,
    progress: bool = True,
) -> Path:
    """Add to `out` the surrogates that it lacks, each at once; drop what is of other weights.

    Raises:
        DataError: `out` holds something else, or weights are damaged.
        UsageError: a surrogate cannot be exported, or a package of the extra "onnx" is missing.
    """
    out = Path(out)
    for directory in tqdm(directories, unit="model", disable=None if progress else True):
        table, surrogate = read(out), load(directory)
        about = {
            "model": surrogate.name,
            "dataset": surrogate.dataset.name,
            "size": surrogate.size,
            "weights_sha256": surrogate.weights_sha256[:12],
        }
        own = table[(table["model"] == about["model"]) & (table["dataset"] == about["dataset"])]
        if len(own) and (own["weights_sha256"] == about["weights_sha256"]).all():
            continue
        made = {
            "machine": processor(),
            "date": datetime.now(UTC).date().isoformat(),
            "made_by": f"code {code_version()}",
        }
        lines = pd.DataFrame([about | made | line for line in measure(surrogate, rounds, budget)])
        table = lines if table.empty else pd.concat([table.drop(own.index), lines])
        table = table.sort_values(["dataset", "model", "batch"], kind="stable")
        write_lines(out, table, FIELDS)
    return out


def main(argv: list[str] | None = None) -> int:
    """Export, compare and time; exit status 2 on bad usage, 1 on bad data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="CSV file to write or to complete")
    parser.add_argument("--datasets", default=",".join(DATASETS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for a time")
    given = parser.parse_args(argv)
    try:
        folders = exportable(given.datasets.split(","))
        complete(given.out, folders, given.rounds, given.budget)
    except CaloStudyError as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
