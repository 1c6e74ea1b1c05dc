"""The walk through the leaderboard of a data set: quality, size and time of every surrogate."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from calostudy.errors import DataError
from calostudy.evaluations import GEANT4
from calostudy.geant4_times import mean_cost
from calostudy.grid_times import (
    GPU,
    ONE_THREAD,
    Cell,
    look_up,
    machine_cpu,
    machine_title,
    read_times,
)
from calostudy.leaderboard import BATCHES, SIZE, TIME, current_weights, read
from calostudy.metrics.pareto import chance_of_front, front
from calostudy.models import build
from calostudy.paths import data_dir
from calostudy.results import Number
from calostudy.tables import plus_minus
from calostudy.walks.walk import Walk

QUALITIES = {
    "separation_power": "separation power",
    "fpd": "FPD",
    "auc_high": "AUC of observables",
}


class LeaderboardWalk(Walk):
    """Parameters of ``notebooks/leaderboard.ipynb``."""

    kind: ClassVar[str] = "leaderboard"

    def page_name(self) -> str:
        return f"leaderboard-{self.dataset}"

    def title(self) -> str:
        return f"Leaderboard: {self.entry.title_of('simulated')}"

    @cached_property
    def shipped(self) -> pd.DataFrame:
        """The lines of ``data/measured/leaderboard.csv`` of this data set.

        Raises:
            DataError: there are none.
        """
        table = read(data_dir() / "measured" / "leaderboard.csv")
        table = table[table["dataset"] == self.dataset]
        if table.empty:
            raise DataError(
                f"data/measured/leaderboard.csv has no lines of {self.dataset}; "
                f"python -m calostudy.leaderboard makes them"
            )
        return table

    @property
    def models(self) -> list[str]:
        """The surrogates that were scored."""
        return [name for name in self.shipped["model"].unique() if name != GEANT4]

    @cached_property
    def geant4(self) -> tuple[float, float, str]:
        """Geant4's CPU ms per shower at the sample's incident energies, its uncertainty, and where
        and when it was measured."""
        return mean_cost(self.dataset)

    def geant4_beside(self, model: str) -> tuple[float, float]:
        """The same on the processor of a model's times, if it was measured there."""
        return mean_cost(self.dataset, self.machine(model))[:2]

    @cached_property
    def grid(self) -> pd.DataFrame:
        """The measured times."""
        return read_times()

    def introduction(self) -> str:
        """How the numbers came about, and what has changed since, in Markdown."""
        line = self.shipped.iloc[0]
        text = (
            f"{len(self.models)} surrogates in embedded size with their shipped weights, "
            f"{line.showers:,} showers of each at the incident energies of as many evaluation "
            f"showers of Geant4 (seed {line.seed}), classifiers of {line.hidden} nodes per layer "
            f"trained {line.repeats} times. The Geant4 floor is the same score of as many other "
            f"showers of Geant4. CPU times: {self._machines()}."
        )
        weights = current_weights(self.dataset)
        scored = self.shipped.drop_duplicates("model").set_index("model")["weights_sha256"]
        stale = [name for name in self.models if weights.get(name) != scored[name]]
        missing = [name for name in weights if name not in scored]
        gpus = {_where(cell) for each in self.gpu_times().values() for cell in each.values()}
        if gpus:
            text += f" GPU: {'; '.join(sorted(gpus))}."
        if stale:
            text += f" Scored with weights that have been replaced since: {', '.join(stale)}."
        if missing:
            text += f" Not scored yet: {', '.join(missing)}."
        return text

    def _machines(self) -> str:
        """Where the times were measured; of several machines, which models on all but the one that
        has most of them."""
        own = pd.Series({name: self.machine(name) for name in self.models})
        most, *others = own.value_counts().index
        if not others:
            return most
        rest = [f"{name} ({', '.join(own.index[own == name])})" for name in others]
        several = "times of different machines are not to be compared"
        return f"{'; '.join([*rest, f'{most} (all others)'])}; {several}"

    def machine(self, model: str) -> str:
        """The processor of a model's times."""
        cell = self.cell(model, BATCHES[-1], ONE_THREAD)
        if cell is not None:
            return machine_cpu(cell.machine)
        return self._timed(model, BATCHES[-1])["machine"].iloc[0]

    def _timed(self, model: str, batch: int) -> pd.DataFrame:
        """CPU time measured with the scores."""
        own = self.shipped[(self.shipped["model"] == model) & (self.shipped["batch"] == batch)]
        return own[own["quantity"] == TIME]

    def quality(self, model: str, quantity: str) -> tuple[float, float]:
        """A score and its uncertainty."""
        return _pair(self.shipped, model, quantity)

    def cell(self, model: str, batch: int, kind: str) -> Cell | None:
        """The grid's time of the weights that were scored, if it has one."""
        digits = self.shipped.loc[self.shipped["model"] == model, "weights_sha256"].iloc[0]
        grid = self.grid[self.grid["weights_sha256"].str.startswith(digits)]
        cell = look_up(grid, model, self.dataset, SIZE, kind, batch)
        return cell if cell is not None and cell.value is not None else None

    def time(self, model: str, batch: int) -> tuple[float, float, str]:
        """ms per shower on one thread, its uncertainty, and where and when it was measured: from
        the grid if it has these weights, else CPU time measured with the scores."""
        cell = self.cell(model, batch, ONE_THREAD)
        if cell is not None:
            return cell.value, cell.uncertainty, _where(cell)
        own = self._timed(model, batch)
        line = own.iloc[0]
        return *_pair(own, model, TIME), f"{line.target}, {line.date} (CPU time)"

    def gpu_times(self) -> dict[int, dict[str, Cell]]:
        """Batch size -> times of the surrogates on a GPU that the grid has."""
        found = {
            batch: {name: self.cell(name, batch, GPU) for name in self.models} for batch in BATCHES
        }
        return {
            batch: {name: cell for name, cell in each.items() if cell is not None}
            for batch, each in found.items()
            if any(each.values())
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row for each surrogate, the smallest separation power first, and Geant4's."""
        order = sorted(self.models, key=lambda name: self.quality(name, "separation_power")[0])
        return [self._row(name) for name in order] + [self._geant4_row()]

    def _row(self, model: str) -> dict[str, Any]:
        surrogate = build(model, self.dataset, SIZE)
        times = {batch: self.time(model, batch) for batch in BATCHES}
        return {
            "model": model,
            **self._qualities(model),
            "parameters": f"{sum(surrogate.parameters_by_network().values()):,}",
            "network evaluations": f"{surrogate.network_evaluations:,}",
            **{f"ms, batch {b}": plus_minus(*time[:2]) for b, time in times.items()},
            **self._gpu_columns(model),
            "Geant4 / batch 100": _rounded(self.geant4_beside(model)[0] / times[BATCHES[-1]][0]),
            "timed on": times[BATCHES[-1]][2],
        }

    def _gpu_columns(self, model: str) -> dict[str, str]:
        return {
            f"GPU ms, batch {batch}": plus_minus(each[model].value, each[model].uncertainty)
            if model in each
            else "-"
            for batch, each in self.gpu_times().items()
        }

    def _geant4_row(self) -> dict[str, Any]:
        geant4 = plus_minus(*self.geant4[:2])
        return {
            "model": "Geant4 (floor)",
            **self._qualities(GEANT4),
            "parameters": "-",
            "network evaluations": "-",
            **{f"ms, batch {b}": geant4 if b == 1 else "-" for b in BATCHES},
            **self._gpu_columns(""),
            "Geant4 / batch 100": "1",
            "timed on": f"one core, {self.geant4[2]} (CPU time)",
        }

    def _qualities(self, model: str) -> dict[str, str]:
        return {title: plus_minus(*self.quality(model, q)) for q, title in QUALITIES.items()}

    def points(self, quantity: str, batch: int) -> pd.DataFrame:
        """One row for each surrogate: time, quality, whether it is on the front of both, and how
        often within their uncertainties. For the AUC the distance from a half counts."""
        rows = [
            dict(
                zip(
                    ("model", "time", "time_error", "value", "error"),
                    (name, *self.time(name, batch)[:2], *self.quality(name, quantity)),
                    strict=True,
                )
            )
            for name in self.models
        ]
        table = pd.DataFrame(rows).sort_values("time").reset_index(drop=True)
        value = table["value"].to_numpy(float)
        worse = np.abs(value - 0.5) if quantity.startswith("auc") else value
        time = table["time"].to_numpy(float)
        errors = table[["time_error", "error"]].fillna(0.0).to_numpy(float)
        table["on_front"] = front(time, -worse)
        table["chance_of_front"] = chance_of_front(time, errors[:, 0], -worse, errors[:, 1])
        return table

    def panels(self, batch: int) -> Mapping[str, tuple[pd.DataFrame, tuple[float, float]]]:
        """Title of each quality -> its points and the Geant4 floor with its uncertainty."""
        return {
            title: (self.points(quantity, batch), self.quality(GEANT4, quantity))
            for quantity, title in QUALITIES.items()
        }

    def save(self) -> None:
        """Write the numbers of this page into the results folder."""
        numbers = [
            Number(
                name=f"{line.quantity} of {line.model}"
                + ("" if pd.isna(line.batch) else f" at batch {int(line.batch)}"),
                value=line.value,
                uncertainty=None if pd.isna(line.uncertainty) else line.uncertainty,
                uncertainty_kind=line.uncertainty_kind,
                unit="CPU ms per shower" if line.quantity == TIME else "",
            )
            for line in self.shipped.itertuples()
        ]
        line = self.shipped.iloc[0]
        fields = {"size": SIZE, "sample_size": int(line.showers), "seed": int(line.seed)}
        self.save_numbers(numbers, **fields)


def _pair(table: pd.DataFrame, model: str, quantity: str) -> tuple[float, float]:
    found = table[(table["model"] == model) & (table["quantity"] == quantity)]
    if found.empty:
        return float("nan"), float("nan")
    return float(found["value"].iloc[0]), float(found["uncertainty"].iloc[0])


def _rounded(value: float) -> str:
    """Three significant digits, without an exponent."""
    return "-" if np.isnan(value) else f"{float(f'{value:.3g}'):,g}"


def _where(cell: Cell) -> str:
    return f"{cell.target}, {cell.date} ({machine_title(cell.machine)})"
