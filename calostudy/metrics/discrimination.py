"""How clearly a metric sees a planted defect: its shift in units of what Geant4 alone gives.

From a table with one line per comparison: columns dataset, defect (`NONE` without one), strength,
metric, showers, trial, value. Each trial has the same showers without and with the defect, so that
the shift knows little of the scatter between draws; its unit is that scatter, of single comparisons
without a defect. A discrimination of 3 therefore means: one comparison of this size, with this
defect, comes out 3 standard deviations from where two Geant4 samples do.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from calostudy.metrics.measures import TWO_SIDED

NONE = "none"  # the defect of a comparison without one
SEEN = 3.0  # from this discrimination on a defect counts as seen
REPLICAS = 200  # of the bootstrap over trials
GROUP = ["dataset", "metric", "showers"]
COLUMNS = [
    *(*GROUP, "defect", "strength", "d", "uncertainty"),
    *("value", "null", "scatter", "trials", "nulls"),
]


def discrimination(planted: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Mean shift in standard deviations of `null`, of values (..., T) of the same trials: (...).

    planted is NaN for trials without the defect, which count in the standard deviation alone.
    Infinite, or 0 for no shift, where all of `null` are the same.

    >>> float(discrimination(np.array([5.0, 7.0, np.nan]), np.array([1.0, 2.0, 3.0])))
    4.5
    """
    shift = np.nanmean(planted - null, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(shift == 0, 0.0, shift / null.std(axis=-1, ddof=1))


def _bootstrap(planted: np.ndarray, null: np.ndarray, rng: np.random.Generator) -> float:
    """Half the central 68 % of the discrimination over redrawn trials (T,)."""
    drawn = rng.integers(0, len(null), size=(REPLICAS, len(null)))
    drawn = drawn[np.isfinite(planted[drawn]).any(axis=1) & (drawn != drawn[:, :1]).any(axis=1)]
    values = discrimination(planted[drawn], null[drawn])
    values = values[np.isfinite(values)]
    return float(np.diff(np.quantile(values, (0.16, 0.84)))[0] / 2) if values.size else float("nan")


def discriminations(table: pd.DataFrame) -> pd.DataFrame:
    """One line per dataset, metric, number of showers, defect and strength.

    d: the discrimination, of metrics whose values can differ on both sides its size. uncertainty:
    half the central 68 % of a bootstrap over trials. value, null: the means with the defect and
    without any; scatter: the standard deviation without; trials, nulls: how many.
    What has fewer than two comparisons without a defect is left out.
    """
    rng = np.random.default_rng(0)
    rows = []
    for key, own in table.groupby(GROUP, sort=False):
        null = own[own["defect"] == NONE].set_index("trial")["value"]
        if len(null) < 2:
            continue
        planted = own[own["defect"] != NONE]
        for (defect, strength), lines in planted.groupby(["defect", "strength"], sort=False):
            pair = lines.set_index("trial")["value"].reindex(null.index).to_numpy(), null.to_numpy()
            if np.isnan(pair[0]).all():
                continue
            d = float(discrimination(*pair))
            rows.append(
                dict(zip(GROUP, key, strict=True))
                | {"defect": defect, "strength": strength}
                | {"d": abs(d) if key[1] in TWO_SIDED else d}
                | {"uncertainty": _bootstrap(*pair, rng), "value": lines["value"].mean()}
                | {"null": null.mean(), "scatter": null.std(ddof=1)}
                | {"trials": len(lines), "nulls": len(null)}
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def first_seen(found: pd.DataFrame, by: str) -> pd.DataFrame:
    """The smallest value of a column from which on a defect is seen, one line per other key.

    found: as of `discriminations`; by: "showers" or "strength". `seen_from` is NaN where it is not
    seen at the largest value that was tried, `tried_to`, with the discrimination `last`.
    """
    keys = [name for name in (*GROUP, "defect", "strength") if name != by]
    rows = []
    for key, lines in found.sort_values(by, kind="stable").groupby(keys, sort=False):
        blind = np.flatnonzero(~(lines["d"].to_numpy() >= SEEN))
        first = blind[-1] + 1 if len(blind) else 0
        tried = lines[by].to_numpy()
        rows.append(
            dict(zip(keys, key, strict=True))
            | {"seen_from": tried[first] if first < len(tried) else np.nan}
            | {"tried_from": tried[0], "tried_to": tried[-1], "last": lines["d"].iloc[-1]}
        )
    return pd.DataFrame(rows)


def in_words(row: pd.Series) -> str:
    """A line of `first_seen`: from where on, or not and with which discrimination.

    >>> in_words(pd.Series({"seen_from": 250, "tried_from": 250, "tried_to": 5000, "last": 7.0}))
    '≤ 250'
    >>> row = {"seen_from": np.nan, "tried_from": 250, "tried_to": 5000, "last": 0.42}
    >>> in_words(pd.Series(row))
    'not seen, d = 0.4'
    """
    if np.isnan(row["seen_from"]):
        return f"not seen, d = {row['last']:.1f}".replace("-0.0", "0.0")
    at_most = "≤ " if row["seen_from"] == row["tried_from"] else ""
    return f"{at_most}{row['seen_from']:,g}"
