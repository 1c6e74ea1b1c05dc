"""The walk through the ranking of all surrogates: how fast, how close to Geant4."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from calostudy.errors import DataError
from calostudy.metrics.pareto import chance_of_front, front
from calostudy.rankings import INPUTS, LOG_POSTERIOR, RECOGNISED, TIME, Contest
from calostudy.results import Number
from calostudy.tables import measured, plus_minus, published, study_name
from calostudy.walks.walk import Walk

SLIDES, FINAL = "ranking", "challenge_scores"  # published tables


class RankingWalk(Walk):
    """Parameters of ``notebooks/ranking.ipynb``."""

    kind: ClassVar[str] = "ranking"
    batch: Literal[1, 100] = 100

    def page_name(self) -> str:
        return f"ranking-{self.dataset}"

    def title(self) -> str:
        return f"How fast, how close: {self.entry.title_of('simulated')}"

    def shipped(self) -> pd.DataFrame:
        """The lines of ``data/measured/ranking.csv`` of this data set.

        Raises:
            DataError: there are none.
        """
        table = measured("ranking")
        table = table[table["dataset"] == self.dataset]
        if table.empty:
            raise DataError(
                f"data/measured/ranking.csv has no lines of {self.dataset}; "
                f"python -m calostudy.rankings makes them"
            )
        return table

    def introduction(self) -> str:
        """What was measured, and what has changed since, in Markdown."""
        lines, contest = self.shipped(), Contest(self.dataset)
        ranked = lines[lines["quantity"] == f"{LOG_POSTERIOR}_{INPUTS[0]}"]
        first = ranked.iloc[0]
        text = (
            f"{self.entry.title_of('simulated')}, {first.models} surrogates in size "
            f"{first['size']}, {first.showers:,} showers of each, classifiers of {first.hidden} "
            f"nodes per layer, {first.repeats} trainings (seed {first.seed}); CPU times of one "
            f"thread. A guess would give each of them {-np.log(first.models):.2f}."
        )
        ranked = ranked.set_index("model")["weights_sha256"]
        changed = [
            model
            for model, sha256 in contest.weights.items()
            if ranked.get(model, "") != sha256[:12]
        ]
        if changed:
            text += f" Not ranked with the weights that are here: {', '.join(changed)}."
        return text

    def ours(self, inputs: str = "low") -> pd.DataFrame:
        """One row for each surrogate, the best first: mean log-posteriors on Geant4 showers by a
        classifier of these inputs, ms per shower, whether it is on the front and how often within
        the uncertainties."""
        lines = self.shipped()
        quality = _numbers(lines, f"{LOG_POSTERIOR}_{inputs}", "log_posterior")
        own = _numbers(lines, f"{RECOGNISED}_{inputs}", "recognised")
        times = _numbers(lines[lines["batch"].isin([self.batch])], TIME, "time")
        table = quality.join([own, times], how="left").reset_index()
        return _with_front(table.sort_values("log_posterior", ascending=False))

    def challenge(self) -> pd.DataFrame:
        """The same of the CaloChallenge's submissions (arXiv:2410.21611), on one processor."""
        scores, times = published(FINAL), published("challenge_times")
        scores = scores[scores["metric"] == "log_posterior"]
        times = times[(times["batch"] == self.batch) & (times["device"] == "CPU")]
        parts = [
            part[part["dataset"] == self.dataset].set_index("model")[["value", "uncertainty"]]
            for part in (scores, times)
        ]
        names = ("log_posterior", "time")
        parts = [
            part.set_axis([name, f"{name}_error"], axis=1)
            for part, name in zip(parts, names, strict=True)
        ]
        table = parts[0].join(parts[1], how="inner").dropna().reset_index()
        return _with_front(table.sort_values("log_posterior", ascending=False))

    def rows(self, inputs: str = "low") -> list[dict[str, Any]]:
        """One row for each surrogate, its places here and in the CaloChallenge beside."""
        slides, final = (
            self._published_places("ranking"),
            self._published_places("challenge_scores"),
        )
        return [
            {
                "model": row.model,
                "log-posterior": plus_minus(row.log_posterior, row.log_posterior_error),
                "of its own showers": plus_minus(row.recognised, row.recognised_error),
                "ms per shower": plus_minus(row.time, row.time_error),
                "on the front": "-" if np.isnan(row.time) else f"{row.chance_of_front:.0%}",
                "November 2023": slides.get(row.model, "-"),
                "final": final.get(row.model, "-"),
            }
            for row in self.ours(inputs).itertuples()
        ]

    def published_rows(self) -> list[dict[str, Any]]:
        """One row for each submission of the CaloChallenge: both published rankings."""
        slides, final = (
            self._published_places("ranking"),
            self._published_places("challenge_scores"),
        )
        both = [name for table in (SLIDES, FINAL) for name in self._log_posteriors(table).index]
        names = {study_name(name): name for name in both}
        order = self._log_posteriors(FINAL).rename(study_name)["value"]
        ordered = sorted(names, key=lambda name: -order.get(name, -np.inf))
        return [
            {
                "model": names[name],
                "November 2023": slides.get(name, "-"),
                "final": final.get(name, "-"),
            }
            for name in ordered
        ]

    def agreement(self, inputs: str) -> str:
        """How far the order here is the published one, in Markdown."""
        final = self._log_posteriors(FINAL).rename(study_name)["value"]
        ours = self.ours(inputs).set_index("model")["log_posterior"]
        common = ours.index.intersection(final.index)
        if len(common) < 3:
            return f"{len(common)} of these models took part in the CaloChallenge."
        rho = spearmanr(ours[common], final[common]).statistic
        return (
            f"{len(common)} of these models took part in the CaloChallenge; the rank correlation "
            f"of both orders (Spearman) is {rho:.2f}."
        )

    def save(self) -> None:
        """Write the numbers of this page into the results folder."""
        lines = self.shipped()
        lines = lines[(lines["quantity"] != TIME) | (lines["batch"] == self.batch)]
        numbers = [
            Number(
                name=f"{line.quantity} of {line.model}",
                value=line.value,
                uncertainty=None if np.isnan(line.uncertainty) else line.uncertainty,
                uncertainty_kind=line.uncertainty_kind,
                unit="ms per shower" if line.quantity == TIME else "",
            )
            for line in lines.itertuples()
        ]
        fields = {"size": lines["size"].iloc[0], "sample_size": int(lines["showers"].iloc[0])}
        self.save_numbers(numbers, **fields, seed=int(lines["seed"].iloc[0]))

    def _log_posteriors(self, table: str) -> pd.DataFrame:
        """Published ones by model, the best first."""
        found = published(table)
        found = found[(found["dataset"] == self.dataset) & (found["metric"] == "log_posterior")]
        return found.set_index("model").sort_values("value", ascending=False)

    def _published_places(self, table: str) -> dict[str, str]:
        """The study's name of a model to its place and value in a published ranking."""
        rows = self._log_posteriors(table).itertuples()
        return {
            study_name(row.Index): f"{place}. ({plus_minus(row.value, row.uncertainty)})"
            for place, row in enumerate(rows, 1)
        }


def _numbers(lines: pd.DataFrame, quantity: str, name: str) -> pd.DataFrame:
    found = lines[lines["quantity"] == quantity].set_index("model")[["value", "uncertainty"]]
    return found.set_axis([name, f"{name}_error"], axis=1)


def _with_front(table: pd.DataFrame) -> pd.DataFrame:
    """With who is on the front, and how often within the uncertainties; without a time, never."""
    timed = table["time"].notna()
    columns = ("time", "time_error", "log_posterior", "log_posterior_error")
    values = [table.loc[timed, name].fillna(0.0).to_numpy(float) for name in columns]
    table["on_front"], table["chance_of_front"] = False, 0.0
    table.loc[timed, "on_front"] = front(values[0], values[2])
    table.loc[timed, "chance_of_front"] = chance_of_front(*values)
    return table.reset_index(drop=True)
