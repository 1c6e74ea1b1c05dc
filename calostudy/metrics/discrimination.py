"""How clearly a metric sees a planted defect: its shift in units of what Geant4 alone gives.

From a table with one line per comparison: columns dataset, defect (`NONE` without one), strength,
metric, showers, trial, value. With the same showers before and after planting, the shift knows
little of the scatter between draws; its unit is that scatter, of single comparisons without a
defect. A discrimination of 3 therefore means: one comparison of this size, with this defect, comes
out 3 standard deviations from where two Geant4 samples do.
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


def discrimination(planted: np.ndarray, null: np.ndarray) -> float:
    """Difference of the means over the standard deviation of `null`, of values (T,) and (U,).

    Infinite, or 0 for equal means, where all of `null` are the same.

    >>> discrimination(np.array([5.0, 7.0]), np.array([1.0, 2.0, 3.0]))
    4.0
    """
    shift, unit = planted.mean() - null.mean(), null.std(ddof=1)
    if unit > 0:
        return float(shift / unit)
    return float(np.sign(shift) * np.inf) if shift else 0.0


def _bootstrap(planted: np.ndarray, null: np.ndarray, rng: np.random.Generator) -> float:
    """Half the central 68 % of the discrimination over redrawn trials, those (U,) of `null`.

    planted (U,) is NaN for trials without the defect.
    """
    drawn = rng.integers(0, len(null), size=(REPLICAS, len(null)))
    drawn = drawn[np.isfinite(planted[drawn]).any(axis=1) & (drawn != drawn[:, :1]).any(axis=1)]
    unit = null[drawn].std(axis=1, ddof=1)
    shift = np.nanmean(planted[drawn], axis=1) - null[drawn].mean(axis=1)
    values = shift[unit > 0] / unit[unit > 0]
    return float(np.diff(np.quantile(values, (0.16, 0.84)))[0] / 2) if values.size else float("nan")


def discriminations(table: pd.DataFrame) -> pd.DataFrame:
    """One line per dataset, metric, number of showers, defect and strength.

    d: the discrimination, of metrics whose values can differ on both sides its size. uncertainty:
    half the central 68 % of a bootstrap over trials, each with its pair of samples. value, null:
    the means; scatter: the standard deviation without a defect; trials, nulls: how many.
    What has fewer than two comparisons without a defect is left out.
    """
    rng = np.random.default_rng(0)
    rows = []
    for key, own in table.groupby(GROUP, sort=False):
        without = own[own["defect"] == NONE]
        trials, null = (without[name].to_numpy() for name in ("trial", "value"))
        if len(null) < 2:
            continue
        sides = np.abs if key[1] in TWO_SIDED else float
        planted_lines = own[own["defect"] != NONE]
        for (defect, strength), lines in planted_lines.groupby(["defect", "strength"], sort=False):
            by_trial = lines.set_index("trial")["value"]
            planted = by_trial.to_numpy()
            d = discrimination(planted, null)
            aligned = by_trial.reindex(trials).to_numpy()
            rows.append(
                dict(zip(GROUP, key, strict=True))
                | {"defect": defect, "strength": strength, "d": float(sides(d))}
                | {"uncertainty": _bootstrap(aligned, null, rng), "value": planted.mean()}
                | {"null": null.mean(), "scatter": null.std(ddof=1)}
                | {"trials": len(planted), "nulls": len(null)}
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def first_seen(found: pd.DataFrame, by: str) -> pd.DataFrame:
    """The smallest value of a column from which on a defect is seen, one line per other key.

    found: as of `discriminations`; by: "showers" or "strength". `seen_from` is NaN where it is not
    seen at the largest value that was tried, `tried_to`, with the discrimination `last`.
    """
    keys = [name for name in (*GROUP, "defect", "strength") if name != by]
    rows = []
    for key, lines in found.sort_values(by).groupby(keys, sort=False):
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
