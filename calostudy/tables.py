"""Tables of the study, from results. Nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from calostudy.datasets import DATASETS
from calostudy.metrics import METRICS, Score
from calostudy.metrics.defects import DEFECTS
from calostudy.metrics.discrimination import in_words
from calostudy.metrics.physics import Check
from calostudy.metrics.ranking import Ranking
from calostudy.models import catalogue
from calostudy.paths import data_dir
from calostudy.results import Result, select


def plus_minus(value: float | None, uncertainty: float | None, digits: int = 2) -> str:
    """``value ± uncertainty``, rounded to ``digits`` significant digits of the uncertainty.

    >>> plus_minus(0.51234, 0.0123)
    '0.512 ± 0.012'
    >>> plus_minus(1234.5, 25.0)
    '1234 ± 25'
    >>> plus_minus(0.5, None)
    '0.5'
    """
    if value is None or math.isnan(value):
        return "-"
    if not uncertainty or math.isnan(uncertainty):
        return f"{value:.4g}"
    decimals = max(0, digits - 1 - int(f"{uncertainty:e}".split("e")[1]))
    return f"{value:.{decimals}f} ± {uncertainty:.{decimals}f}"


def between(value: float, low: float, high: float) -> str:
    """A median with its range, three significant digits.

    >>> between(1.2345, 1.2, 1.3)
    '1.23 (1.2 to 1.3)'
    >>> between(3183.4, 2911, 3370)
    '3,180 (2,910 to 3,370)'
    """
    return "{} ({} to {})".format(*(f"{float(f'{x:.3g}'):,g}" for x in (value, low, high)))


def score_rows(scores: Sequence[Score]) -> list[dict[str, str]]:
    """One row per score: value, Geant4 floor, significance, showers and kind of uncertainty."""
    return [
        {
            "metric": score.name,
            "value": plus_minus(score.value, score.uncertainty),
            "Geant4 floor": plus_minus(score.floor, score.floor_uncertainty),
            "distance": _sigmas(score.significance),
            "showers": f"{score.generated:,} / {score.reference:,}",
            "uncertainty": score.uncertainty_kind,
        }
        for score in scores
    ]


def energy_rows(scores: Sequence[Score], values: bool = True) -> list[dict[str, str]]:
    """One row per score with a breakdown by incident energy: distance from the floor by range.

    values: also the score itself.
    """

    def cell(part: Mapping[str, float | None]) -> str:
        distance = _sigmas(part["significance"])
        value = plus_minus(part["value"], part["uncertainty"])
        return f"{value} ({distance})" if values else distance

    return [
        {"metric": score.name} | {label: cell(part) for label, part in score.by_energy.items()}
        for score in scores
        if score.by_energy
    ]


def study_name(published: str) -> str:
    """The study's name of a model that the CaloChallenge calls `published`.

    >>> study_name("CaloFlow teacher"), study_name("CaloVAE+INN"), study_name("conv. L2LFlows")
    ('caloflow-teacher', 'calovae-inn', 'l2lflows')
    """
    return published.removeprefix("conv. ").lower().replace(" ", "-").replace("+", "-")


def ranking_rows(ranking: Ranking) -> list[dict[str, str]]:
    """One row per model, the best first: log-posterior on Geant4 showers, distance to a guess."""
    return [
        {
            "model": name,
            "log-posterior on Geant4": plus_minus(value, uncertainty),
            f"above the guess {ranking.uniform:.3f} by": plus_minus(
                value - ranking.uniform, uncertainty
            ),
            "uncertainty": ranking.kind,
        }
        for name, (value, uncertainty) in ranking.summary().items()
    ]


def cross_check_rows(ranking: Ranking) -> list[dict[str, str]]:
    """One row per model: log-posteriors of all models on held-out showers of it."""
    means = ranking.cross_check.mean(axis=0)
    return [
        {"showers of": name}
        | {f"taken for {other}": f"{x:.3f}" for other, x in zip(ranking.models, row, strict=True)}
        for name, row in zip(ranking.models, means, strict=True)
    ]


def check_rows(checks: Sequence[Check]) -> list[dict[str, str]]:
    """One row per physics check: measured, expected, their difference, where that comes from.

    The difference has both uncertainties; in brackets its size in standard deviations, where the
    expectation has an uncertainty of its own.
    """
    rows = []
    for check in checks:
        unit = f" {check.unit}" if check.unit else ""
        row = {"quantity": check.quantity, "measured": "-", "expected": "-", "difference": "-"}
        row["measured"] = plus_minus(check.value, check.uncertainty) + unit
        if check.expected is not None:
            row["expected"] = plus_minus(check.expected, check.expected_uncertainty) + unit
            row["difference"] = plus_minus(*check.difference)
        if check.pull is not None:
            row["difference"] += f" ({check.pull:+.1f} σ)"
        rows.append(row | {"where the expectation comes from": check.source or "-"})
    return rows


def published(name: str) -> pd.DataFrame:
    """A table of published numbers, ``data/published/<name>.csv``, each row with its source."""
    return pd.read_csv(data_dir() / "published" / f"{name}.csv")


def published_scores(model: str | None = None) -> list[dict[str, str]]:
    """Published scores, of one model or of all: model, dataset, metric, value, source."""
    table = published("scores")
    if model is not None:
        table = table[table["model"] == model]
    return [
        {
            "model": row.model,
            "dataset": row.dataset,
            "metric": row.metric,
            "value": plus_minus(row.value, row.uncertainty),
            "source": row.source,
        }
        for row in table.itertuples()
    ]


def published_times() -> list[dict[str, str]]:
    """Published times of the models of this study: ms per shower, hardware, source."""
    return [
        {
            "model": row.model,
            "dataset": row.dataset,
            "batch": "-" if pd.isna(row.batch) else f"{int(row.batch):,}",
            "hardware": row.device if pd.isna(row.hardware) else row.hardware,
            "ms per shower": plus_minus(row.value, row.uncertainty),
            "source": row.source,
        }
        for row in published("times").itertuples()
    ]


def shown(rows: Sequence[dict] | pd.DataFrame, caption: str = "", sortable: bool = False):
    """``rows`` as a table for a page: no index column, a caption above.

    sortable: whether a reader may sort it by its columns (``book/_static/sortable.js``).
    """
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    classes = "study-table sortable" if sortable else "study-table"
    styler = frame.style.hide(axis="index").set_table_attributes(f'class="{classes}"')
    return styler.set_caption(caption) if caption else styler


def measured(name: str) -> pd.DataFrame:
    """A table measured here by a documented command, ``data/measured/<name>.csv`` or, if it is
    long, ``<name>.csv.gz``."""
    path = data_dir() / "measured" / f"{name}.csv"
    packed = path.with_name(f"{path.name}.gz")
    return pd.read_csv(packed if packed.exists() else path, comment="#")


def physics_table() -> list[dict[str, str]]:
    """Geant4 at fixed energies beside what others found, one row per quantity that both have.

    The other columns are the sources of ``geant4_physics.csv``: this simulation with its two models
    of bremsstrahlung, and what does not come from it.
    """
    table = measured("geant4_physics")
    own = table["source"].str.startswith("this simulation")
    keys = ["dataset", "energy_GeV", "quantity"]
    compared = set(map(tuple, table.loc[~own, keys].to_numpy()))
    rows = []
    for (dataset, energy, quantity), group in table.groupby(keys, sort=False):
        # "shower maximum in silicon" stands beside "shower maximum"
        if (dataset, energy, quantity.partition(" in ")[0]) not in compared:
            continue
        pairs = zip(group["value"], group["uncertainty"], strict=True)
        values = dict(zip(group["source"], pairs, strict=True))
        row = {"dataset": dataset, "energy": f"{energy:g} GeV", "quantity": quantity}
        rows.append(row | {s: plus_minus(*values[s]) if s in values else "-" for s in SOURCES})
    return rows


SOURCES = (
    "this simulation, rel",
    "this simulation, sb",
    "51 showers of the CaloGAN set-up by stock Geant4 10.5",
    "our measurements with NRC tables",
)


# ---- over all results of a study ----------------------------------------------------------------


def _names(result: Result) -> dict[str, str]:
    trained = "" if result.weights_sha256 != "untrained" else ", untrained"
    return {
        "dataset": DATASETS[result.dataset].title_of(result.source),
        "model": result.model,
        "size": f"{result.size}{trained}",
    }


def scores_table(results: Sequence[Result]) -> list[dict[str, str]]:
    """One row per metric, one column per surrogate: value (distance from its Geant4 floor)."""
    columns = {}
    for result in select(results, kind="model"):
        of = _names(result)
        name = f"{of['model']} {of['size']}, {of['dataset']}, {result.sample_size:,} showers"
        columns[name] = {
            number.name: f"{plus_minus(number.value, number.uncertainty)} "
            f"({_sigmas(number.details.get('significance'))})"
            for number in result.numbers
        }
    metrics = dict.fromkeys(metric for scores in columns.values() for metric in scores)
    return [
        {"metric": metric} | {name: scores.get(metric, "-") for name, scores in columns.items()}
        for metric in metrics
    ]


def _sigmas(significance: float | None) -> str:
    return "-" if significance is None else f"{significance:.1f} σ"


def times_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row per surrogate, dataset, target and batch size, the numbers as they are."""
    rows = []
    for result in select(results, kind="hardware"):
        for number in result.numbers:
            if not number.name.startswith("time at batch"):
                continue
            batch = number.details["batch"]
            speed = result.number(f"speed-up at batch {batch}")
            rows.append(
                _names(result)
                | {"target": result.target, "batch": batch, **number.details}
                | {"speed_up": speed.value, "speed_up_uncertainty": speed.uncertainty}
                | {"size": _names(result)["size"]}
            )
    return rows


def times_table(results: Sequence[Result]) -> list[dict[str, str]]:
    """The times of all hardware pages, ready to be shown."""
    return [
        {
            "dataset": row["dataset"],
            "model": row["model"],
            "size": row["size"],
            "target": row["target"],
            "batch": f"{row['batch']:,}",
            "ms per shower": between(row["value"], row["low"], row["high"]),
            "nflows / ours": between(row["ratio"], row["ratio_low"], row["ratio_high"])
            if row["ratio"]
            else "-",
            "speed-up over Geant4": plus_minus(row["speed_up"], row["speed_up_uncertainty"]),
        }
        for row in times_rows(results)
    ]


def parameters_table() -> list[dict[str, str]]:
    """Every model, dataset and size with the parameters of its networks."""
    return [
        {
            "model": row["model"],
            "dataset": row["dataset"],
            "size": row["size"],
            "parameters": f"{row['parameters']:,}",
            "by network": ", ".join(f"{k} {v:,}" for k, v in row["parameters_by_network"].items()),
            "weights shipped": "yes" if row["trained"] else "no",
        }
        for row in catalogue()
    ]


def threshold_rows(seen: pd.DataFrame) -> list[dict[str, str]]:
    """One row per metric: the strength from which on it sees each defect.

    seen: of `first_seen` by strength.
    """
    words = seen.assign(words=seen.apply(in_words, axis=1))
    by_metric = words.pivot(index="metric", columns="defect", values="words")
    return [
        {"metric": metric}
        | {
            f"{d.title}, {d.unit}": by_metric.loc[metric].get(name, "-")
            for name, d in DEFECTS.items()
        }
        for metric in METRICS
        if metric in by_metric.index
    ]


def beside_rows(found: pd.DataFrame, other: pd.DataFrame) -> list[dict[str, str]]:
    """One row per metric: discrimination of each defect, and in brackets that of another table.

    Both are of `discriminations`, with one number of showers and one strength of each defect.
    """
    pairs = {(row.metric, row.defect): row.d for row in other.itertuples()}
    rows: dict[str, dict[str, str]] = {name: {"metric": name} for name in METRICS}
    for row in found.itertuples():
        words = f"{_rounded(row.d)} ± {_rounded(row.uncertainty)}"
        if (row.metric, row.defect) in pairs:
            words += f" ({_rounded(pairs[row.metric, row.defect])})"
        rows[row.metric][DEFECTS[row.defect].title] = words
    return [row for row in rows.values() if len(row) > 1]


def _rounded(value: float) -> str:
    """With a decimal below 100, and no minus before a nought."""
    return f"{value:,.{int(abs(value) < 100)}f}".replace("-0.0", "0.0")


def curve_rows(table: pd.DataFrame) -> list[dict[str, str]]:
    """One row per training, floor and recipe first; `table` as of `measured`.

    Losses are those of the network that was trained last (of the voxels).
    """
    network = ([name.partition("/")[2] for name in table["quantity"] if "/" in name] or [""])[-1]
    rows = []
    longer = table["epochs"].notna() & (table["epochs"] != "recipe")
    table = table.assign(longer=longer).sort_values("longer", kind="stable")
    keys = ["training_showers", "epochs"]
    for (n, epochs), group in table.groupby(keys, dropna=False, sort=False):
        found = {row.quantity: plus_minus(row.value, row.uncertainty) for row in group.itertuples()}
        trained = not pd.isna(n)
        seconds = group["training_seconds"].iloc[0]
        rows.append(
            {
                "training showers": f"{int(n):,}" if trained else "Geant4 floor",
                "epochs": epochs if trained else "-",
                "best epoch": found.get(f"best_epoch/{network}", "-"),
                "training": f"{seconds / 60:.1f} min" if trained else "-",
                **{
                    f"{name} loss": found.get(f"{name}_loss/{network}", "-")
                    for name in ("training", "validation", "evaluation")
                },
                "separation power": found.get("separation_power", "-"),
                "AUC, low-level": found.get("auc_low", "-"),
            }
        )
    return rows
