"""Tables of the study, from results. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from calostudy.metrics import Score
from calostudy.paths import data_dir


def plus_minus(value: float | None, uncertainty: float | None, digits: int = 2) -> str:
    """``value ± uncertainty``, rounded to ``digits`` significant digits of the uncertainty.

    >>> plus_minus(0.51234, 0.0123)
    '0.512 ± 0.012'
    >>> plus_minus(1234.5, 25.0)
    '1234 ± 25'
    >>> plus_minus(0.5, None)
    '0.5'
    """
    if value is None:
        return "-"
    if not uncertainty:
        return f"{value:.3g}"
    decimals = max(0, digits - 1 - int(f"{uncertainty:e}".split("e")[1]))
    return f"{value:.{decimals}f} ± {uncertainty:.{decimals}f}"


def score_rows(scores: Sequence[Score]) -> list[dict[str, str]]:
    """One row per score: value, Geant4 floor, significance, showers and kind of uncertainty."""
    return [
        {
            "metric": score.name,
            "value": plus_minus(score.value, score.uncertainty),
            "Geant4 floor": plus_minus(score.floor, score.floor_uncertainty),
            "distance": "-" if score.significance is None else f"{score.significance:.1f} σ",
            "showers": f"{score.generated:,} / {score.reference:,}",
            "uncertainty": score.uncertainty_kind,
        }
        for score in scores
    ]


def published(name: str) -> pd.DataFrame:
    """A table of published numbers, ``data/published/<name>.csv``, each row with its source."""
    return pd.read_csv(data_dir() / "published" / f"{name}.csv")


def shown(rows: Sequence[dict] | pd.DataFrame, caption: str = ""):
    """``rows`` as a table for a page: no index column, a caption above."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    styler = frame.style.hide(axis="index").set_table_attributes('class="study-table"')
    return styler.set_caption(caption) if caption else styler


def measured(name: str) -> pd.DataFrame:
    """A table measured here by a documented command, ``data/measured/<name>.csv``."""
    path: Path = data_dir() / "measured" / f"{name}.csv"
    return pd.read_csv(path, comment="#")
