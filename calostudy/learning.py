"""The learning curve: a surrogate trained on more and more showers, each training judged alike.

``python -m calostudy.learning OUT.csv --sizes 1000,2000,5000,10000`` trains on the first N of a
data set's own training showers, generates showers for the incident energies of its evaluation
sample, scores them against that sample and writes one line per quantity. A line that is there is
not made again, and a training goes on from its checkpoint in the work folder: after a kill, the
same command finishes the rest.

Each network is trained for the recipe's number of epochs, however few the showers are; the weights
of the best validation epoch are kept. Few showers so mean few steps of the optimiser as well:
``--epochs`` tells the two apart.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from calostudy.datasets import Dataset, load, showers_path
from calostudy.datasets import dataset as catalogue_entry
from calostudy.errors import CaloStudyError, UsageError, exit_status
from calostudy.generation import generate_showers
from calostudy.hardware import target
from calostudy.measured import read_lines, write_lines
from calostudy.metrics import METRICS, Options, Sample
from calostudy.models import build, shipped_weights
from calostudy.models import load as load_surrogate
from calostudy.models.surrogate import Surrogate, read_card
from calostudy.provenance import code_version
from calostudy.showers import Showers
from calostudy.training import train

RECIPE = "recipe"
TARGET = "cpu-1/fp32"  # on one thread the same seed gives the same numbers
LOSSES = ("training_loss", "validation_loss", "evaluation_loss", "best_epoch")
STANDARD_ERROR = "standard error over showers"

FIELDS = (
    *("model", "dataset", "size", "training_showers", "epochs", "quantity"),
    *("value", "uncertainty", "uncertainty_kind", "showers"),
    *("evaluation_showers", "repeats", "seed", "training_seconds", "made_by"),
)
_KEY = (
    *("model", "dataset", "size", "training_showers", "epochs", "quantity"),
    *("evaluation_showers", "repeats", "seed"),
)


@dataclass(frozen=True)
class Curve:
    """What is trained and how it is judged.

    epochs: of each network, None for the recipe's. evaluation: showers of the evaluation sample,
    None for all. metrics: names of `calostudy.metrics.METRICS`. repeats: trainings of a classifier.
    seed: of the training, the generation and the metrics.

    Raises:
        UsageError: there is no such dataset or metric.
    """

    model: str = "caloflow-teacher"
    dataset: str = "calogan-eplus"
    size: str = "embedded"
    epochs: int | None = None
    evaluation: int | None = None
    metrics: tuple[str, ...] = ("separation_power", "auc_low")
    repeats: int = 3
    seed: int = 1

    def __post_init__(self):
        catalogue_entry(self.dataset)
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown:
            raise UsageError(f"metrics {', '.join(unknown)}: choose from {', '.join(METRICS)}")

    @property
    def entry(self) -> Dataset:
        return catalogue_entry(self.dataset)

    @property
    def epochs_text(self) -> str:
        """As in the column `epochs`: "recipe", or the number for each network."""
        return RECIPE if self.epochs is None else f"{self.epochs} each"

    def settings(self, training_showers: int | str, reference: Showers) -> dict[str, str]:
        """The columns that say what a line is of; no training showers for the Geant4 floor."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "size": self.size,
            "training_showers": str(training_showers),
            "epochs": self.epochs_text if training_showers else "",
            "evaluation_showers": str(len(reference)),
            "seed": str(self.seed),
        }


# ---- the file -----------------------------------------------------------------------------------


def read_curve(path: str | Path) -> pd.DataFrame:
    """The lines of a file, all columns as text; none where there is no file yet.

    Raises:
        DataError: it is not a file of this module.
    """
    return read_lines(path, FIELDS, dtype=str, keep_default_na=False)


@dataclass(frozen=True)
class _File:
    """The lines of one training (or of the floor) in a file, `settings` as `Curve.settings`.

    repeats: of the classifiers; lines of other quantities have none.
    """

    path: Path
    settings: Mapping[str, str]
    repeats: int

    def lacks(self, quantities: Sequence[str]) -> bool:
        table = read_curve(self.path)
        own = table["repeats"].isin(["", str(self.repeats)])
        for name, value in self.settings.items():
            own &= table[name] == value
        return not set(quantities) <= set(table["quantity"][own])

    def add(self, quantity_rows: Sequence[Mapping[str, Any]]) -> None:
        """Write lines in place of those of the same key; the file is whole at every moment."""
        new = [{**dict.fromkeys(FIELDS, ""), **self.settings, **row} for row in quantity_rows]
        both = pd.concat([read_curve(self.path), pd.DataFrame(new, dtype=str)])
        both = both.drop_duplicates(list(_KEY), keep="last")
        order = pd.to_numeric(both["training_showers"]).fillna(0)
        both = both.assign(order=order).sort_values(["order", "epochs"], kind="stable")
        write_lines(self.path, both, FIELDS, digits=None)


def _row(quantity: str, value: float, error: float | None, kind: str, showers: int, **more):
    return {
        "quantity": quantity,
        "value": f"{value:.6g}",
        "uncertainty": "" if error is None or not np.isfinite(error) else f"{error:.3g}",
        "uncertainty_kind": "" if error is None else kind,
        "showers": str(showers),
        **more,
    }


# ---- the measurement ----------------------------------------------------------------------------


def measure(
    curve: Curve,
    sizes: Sequence[int],
    out: str | Path,
    work: str | Path,
    progress: bool = True,
) -> Path:
    """Add to `out` what it lacks of a learning curve: the Geant4 floor, then size after size.

    sizes: numbers of training showers. Every line is written as soon as it is known. Trainings are
    kept in `work` and go on there. Where the shipped weights come from as many showers, the same
    seed and the recipe, they are judged and nothing is trained.

    Raises:
        DataError: `out` or `work` holds something else, or showers are missing.
        UsageError: fewer than 2 showers to train on, or more than there are.
    """
    out = Path(out)
    with target(TARGET).active():
        available = load(curve.dataset, "train")
        impossible = [n for n in sizes if not 2 <= n <= len(available)]
        if impossible:
            raise UsageError(
                f"{', '.join(map(str, impossible))} showers to train on: expected from 2 to the "
                f"{len(available)} of {curve.dataset}"
            )
        reference = load(curve.dataset, "evaluation", rows=slice(0, curve.evaluation))
        floor = Sample.of(available[: len(reference)], curve.entry, "floor")
        made = {"made_by": f"other Geant4 showers; code {code_version()}"}
        file = _File(out, curve.settings("", reference), curve.repeats)
        _add_metrics(file, curve, lambda: floor, reference, made)
        for n in sizes:
            _add_size(out, Path(work), curve, available[:n], reference, progress)
    return out


def _add_size(
    out: Path, work: Path, curve: Curve, showers: Showers, reference: Showers, progress: bool
) -> None:
    file = _File(out, curve.settings(len(showers), reference), curve.repeats)
    wanted = {name for metric in curve.metrics for name in _together(METRICS[metric])}
    networks = build(curve.model, curve.dataset, curve.size).parameters_by_network()
    losses = [f"{loss}/{network}" for network in networks for loss in LOSSES]
    if not file.lacks([*wanted, *losses]):
        return
    weights, how = _weights(curve, showers, work, progress)
    surrogate, card = load_surrogate(weights), read_card(weights)
    made = {
        "made_by": f"{how} {card['weights_sha256'][:12]}; code {code_version()}",
        "training_seconds": str(sum(card["training_seconds"].values())),
    }
    if file.lacks(losses):
        file.add(_loss_rows(surrogate, card, reference, curve.seed, made))

    @cache
    def generated() -> Sample:
        found = generate_showers(surrogate, reference.incident_energy, seed=curve.seed)
        return Sample.of(found, curve.entry)

    _add_metrics(file, curve, generated, reference, made)


def _together(function: Callable) -> list[str]:
    """The metrics that one function gives."""
    return [name for name, other in METRICS.items() if other is function]


def _add_metrics(
    file: _File,
    curve: Curve,
    generated: Callable[[], Sample],
    reference: Showers,
    made: Mapping[str, str],
) -> None:
    """Score as `calostudy.metrics.evaluate` does, but the floor only once for all sizes."""
    geant4 = Sample.of(reference, curve.entry, "reference")
    for function in dict.fromkeys(METRICS[name] for name in curve.metrics):
        if not file.lacks(_together(function)):
            continue
        options = Options(repeats=curve.repeats, seed=curve.seed)
        found = function(generated(), geant4, options, geant4)
        for warning in dict.fromkeys(text for each in found.values() for text in each.warnings):
            print(f"warning: {warning}", file=sys.stderr)
        rows = []
        for name, each in found.items():
            row = _row(name, each.value, each.uncertainty, each.kind, len(reference), **made)
            rows.append(row | {"repeats": str(each.settings.get("repeats", ""))})
        file.add(rows)


def _weights(curve: Curve, showers: Showers, work: Path, progress: bool) -> tuple[Path, str]:
    """The folder of the weights, shipped or trained here, and which of both it is."""
    n = len(showers)
    shipped = shipped_weights(curve.model, curve.dataset, curve.size)
    if shipped is not None and curve.epochs is None:
        training = read_card(shipped).get("training", {})
        if (training.get("showers"), training.get("seed")) == (n, curve.seed):
            return shipped, "shipped weights"
    name = f"{curve.model}-{curve.dataset}-{curve.size}-{n}-seed-{curve.seed}"
    out = work / (name if curve.epochs is None else f"{name}-epochs-{curve.epochs}")
    train(
        build(curve.model, curve.dataset, curve.size, seed=curve.seed),
        showers,
        out,
        seed=curve.seed,
        resume=True,
        epochs=curve.epochs,
        progress=progress,
        data_path=showers_path(curve.dataset, "train"),
    )
    return out, "trained here, weights"


def shower_losses(surrogate: Surrogate, network: str, showers: Showers, seed: int) -> np.ndarray:
    """Loss of each shower (N,) by a trained network, as in validation: no dropout, no mirroring."""
    data = surrogate.prepare(network, showers)
    surrogate.networks[network].eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        parts = [
            surrogate.loss(network, {name: tensor[rows] for name, tensor in data.items()})
            for rows in torch.arange(len(showers)).split(500)
        ]
    return torch.cat(parts).double().numpy()


def _loss_rows(
    surrogate: Surrogate, card: Mapping[str, Any], reference: Showers, seed: int, made
) -> list[dict[str, str]]:
    """Losses of every network at its best epoch: in training, set aside, in evaluation."""
    rows = []
    n = card["training"]["showers"]
    for network, recipe in card["training"]["recipes"].items():
        aside = min(max(1, round(recipe["validation"] * n)), n - 1)
        best = card["best_epoch"][network]
        training = card["loss_curve"][network][best - 1]["train_loss"]
        losses = shower_losses(surrogate, network, reference, seed)
        # The card has the mean of the validation losses alone; they scatter as the others do.
        scatter = losses.std(ddof=1)
        found = {
            "training_loss": (training, None, n - aside),
            "validation_loss": (
                card["validation_loss"][network],
                scatter / np.sqrt(aside),
                aside,
            ),
            "evaluation_loss": (losses.mean(), scatter / np.sqrt(len(losses)), len(losses)),
            "best_epoch": (best, None, aside),
        }
        rows += [
            _row(f"{name}/{network}", value, error, STANDARD_ERROR, showers, **made)
            for name, (value, error, showers) in found.items()
        ]
    return rows


def main(argv: list[str] | None = None) -> int:
    """Measure a learning curve; exit status 2 on bad usage, 1 on bad data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="CSV file to write or to complete")
    parser.add_argument("--sizes", default="1000,2000,5000,10000", help="training showers")
    parser.add_argument("--model", default=Curve.model)
    parser.add_argument("--dataset", default=Curve.dataset)
    parser.add_argument("--size", default=Curve.size, help="paper or embedded")
    parser.add_argument("--epochs", type=int, help="of each network; default: the recipe's")
    parser.add_argument("--evaluation", type=int, help="evaluation showers; default: all")
    parser.add_argument("--metrics", default=",".join(Curve.metrics))
    parser.add_argument("--repeats", type=int, default=Curve.repeats, help="of each classifier")
    parser.add_argument("--seed", type=int, default=Curve.seed)
    parser.add_argument(
        "--work", type=Path, default=Path("results/learning"), help="folder of the trainings"
    )
    given = vars(parser.parse_args(argv))
    out, work, sizes = given.pop("out"), given.pop("work"), given.pop("sizes")
    try:
        sizes = [int(n) for n in sizes.split(",")]
    except ValueError:
        parser.error(f"--sizes {sizes}: expected whole numbers like 1000,2000")
    try:
        curve = Curve(**{**given, "metrics": tuple(given["metrics"].split(","))})
        measure(curve, sizes, out, work, progress=sys.stderr.isatty())
    except CaloStudyError as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
