"""What a number format does to showers: surrogates in emulated precisions, scored.

``python -m calostudy.precision_quality data/measured/precisions.csv --datasets ds1-photons``
generates showers of every surrogate that can be emulated (`calostudy.emulation`), from the same
noise in every format, and scores them against the evaluation sample. One line per quantity; what is
there for the same weights is kept. No line has a time: what is emulated has none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from calostudy.emulation import SAMPLERS, emulated
from calostudy.errors import CaloStudyError, UsageError, exit_status
from calostudy.evaluations import GEANT4, Judge
from calostudy.hardware import target
from calostudy.measured import read_lines, write_lines
from calostudy.metrics import Sample
from calostudy.models import load, shipped_weights
from calostudy.models.surrogate import Surrogate
from calostudy.number_formats import FORMATS
from calostudy.provenance import code_version
from calostudy.showers import Showers

PLAIN = "fp32"
SIZE, TARGET = "embedded", "cpu-1/fp32"
FIELDS = (
    *("model", "dataset", "size", "format", "quantity", "value", "uncertainty"),
    *("uncertainty_kind", "showers", "repeats", "hidden", "seed", "weights_sha256", "made_by"),
)


def read(path: str | Path) -> pd.DataFrame:
    """The lines of a file; none where there is no file yet.

    Raises:
        DataError: it is not a file of this module.
    """
    return read_lines(path, FIELDS, dtype={"weights_sha256": str}, keep_default_na=False)


def showers_in(surrogate: Surrogate, name: str, energies, seed: int) -> Showers:
    """Showers for incident energies (N,) in MeV, of layers in a format or in plain fp32.

    Raises:
        UsageError: the surrogate cannot be emulated, or there is no such format.
    """
    if surrogate.name not in SAMPLERS:
        raise UsageError(f"{surrogate.name} is not among those that can be emulated")
    sampler = SAMPLERS[surrogate.name]
    options = {} if sampler is None else {"sampler": sampler}
    with target(TARGET).active():
        if name == PLAIN:
            return surrogate.sample(energies, seed=seed, **options)
        with emulated(surrogate, name) as twin:
            return twin.sample(energies, seed=seed)


def complete(
    out: str | Path,
    judges: Sequence[Judge],
    models: Sequence[str],
    formats: Sequence[str],
    progress: bool = True,
) -> Path:
    """Add to `out` the cases that it lacks, the Geant4 floor first; each is written at once.

    Raises:
        UsageError: there is no such model or format.
        DataError: `out` holds something else.
    """
    unknown = [name for name in (*formats, *models) if name not in {PLAIN, *FORMATS, *SAMPLERS}]
    if unknown:
        raise UsageError(f"no {unknown[0]!r} among {', '.join([PLAIN, *FORMATS, *SAMPLERS])}")
    out, cases = Path(out), []
    for judge in judges:
        cases.append((judge, None, ""))
        for model in models:
            weights = shipped_weights(model, judge.dataset, SIZE)
            if weights is not None:
                surrogate = load(weights)
                cases += [(judge, surrogate, name) for name in (PLAIN, *formats)]
    for judge, surrogate, name in tqdm(cases, unit="case", disable=None if progress else True):
        case = {
            "model": surrogate.name if surrogate else GEANT4,
            "dataset": judge.dataset,
            "size": SIZE if surrogate else "",
            "format": name,
            **{key: getattr(judge, key) for key in ("showers", "repeats", "hidden", "seed")},
            "weights_sha256": surrogate.weights_sha256[:12] if surrogate else "",
        }
        table = read(out)
        if (table[list(case)].astype(str) == pd.Series(case).astype(str)).all(axis=1).any():
            continue
        sample = judge.floor
        if surrogate is not None:
            energies = judge.geant4.incident_energy
            made = showers_in(surrogate, name, energies, judge.seed)
            sample = Sample.of(made, judge.entry)
        lines = [{**case, **score} for score in judge.scores(sample)]
        lines = [{**line, "made_by": f"code {code_version()}"} for line in lines]
        whole = pd.concat([table, pd.DataFrame(lines)]) if len(table) else pd.DataFrame(lines)
        write_lines(out, whole, FIELDS)
    return out


def main(argv: list[str] | None = None) -> int:
    """Measure formats; exit status 2 on bad usage, 1 on bad data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="CSV file to write or to complete")
    parser.add_argument("--datasets", default="ds1-photons")
    parser.add_argument("--models", default=",".join(SAMPLERS))
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("-n", "--showers", type=int, default=Judge.showers)
    parser.add_argument("--repeats", type=int, default=2, help="of the classifier")
    parser.add_argument("--seed", type=int, default=Judge.seed)
    given = parser.parse_args(argv)
    options = {name: getattr(given, name) for name in ("showers", "repeats", "seed")}
    try:
        judges = [Judge(name, **options) for name in given.datasets.split(",")]
        complete(given.out, judges, given.models.split(","), given.formats.split(","))
    except CaloStudyError as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
