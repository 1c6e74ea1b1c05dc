"""The walk through the tables of the papers: each cell measured here, or the reason why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import field_validator

from calostudy import export_times, geant4_times
from calostudy.errors import DataError
from calostudy.grid_times import (
    ALL_THREADS,
    GPU,
    ONE_THREAD,
    Cell,
    cells,
    look_up,
    machine_title,
    read_times,
)
from calostudy.models import MODELS, build
from calostudy.paths import data_dir
from calostudy.relative_times import REFERENCES, agreement, all_times, relative
from calostudy.results import Number
from calostudy.tables import between, plus_minus, published, study_name
from calostudy.walks.walk import Walk

BENCHMARK = ("calodiffusion", "caloscore", "caloinn")
BENCHMARK_DATASETS = ("ds1-photons", "ds1-pions", "ds2", "ds3")
BATCHES = (1, 10, 100)
STAND_INS = {("caloinn", "ds3"): "calovae-inn"}
"""Models that their authors could not make for a data set, and what they propose instead."""

DATASETS_HERE = {"calogan": "calogan-eplus", "ds1": "ds1-photons"}
MODELS_HERE = {"caloclouds-ii": "caloclouds", "caloclouds-ii-cm": "caloclouds-cm"}
TABLE_1, FINAL = "Ahmad et al., Table 1", "arXiv:2410.21611"
SIZE = "paper"


@dataclass
class Notes:
    """Reasons that cells of a table point to by numbers."""

    reasons: list[str] = field(default_factory=list)

    def mark(self, reason: str) -> str:
        """The mark of a reason, a new one if it was not given before."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return f"[{self.reasons.index(reason) + 1}]"

    def markdown(self) -> str:
        """All reasons, numbered."""
        return "\n".join(f"- [{i}] {reason}" for i, reason in enumerate(self.reasons, 1))


class TablesWalk(Walk):
    """Parameters of ``notebooks/tables.ipynb``; it is about all data sets."""

    kind: ClassVar[str] = "tables"
    dataset: Literal["all"] = "all"

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, name: str) -> str:
        return name

    def page_name(self) -> str:
        return "tables-of-the-papers"

    def title(self) -> str:
        return "The tables of the study"

    @cached_property
    def grid(self) -> pd.DataFrame:
        """The measured times."""
        return read_times()

    def introduction(self) -> str:
        """Where the times here come from, in Markdown."""
        own = self.grid[self.grid["value"].notna() & (self.grid["size"] == SIZE)]
        if own.empty:
            return (
                "No time of a published size is in the measured grid (`data/measured/times.csv`) "
                "yet: `python -m calostudy.grid` measures it. Published times stand alone."
            )
        lines = [
            f"- {group['kind'].iloc[0]} (`{target}`): {machine_title(machine)}, "
            f"{' to '.join(dict.fromkeys((group['date'].min(), group['date'].max())))}, "
            f"{len(group):,} cells, {group['is_trained'].sum():,} of them with trained weights"
            for (machine, target), group in own.groupby(["machine", "target"])
        ]
        return (
            "Times here are ms per shower, warm, medians with the range from the 16 to the 84 % "
            "quantile of the rounds, from incident energies to cell energies. Published sizes have "
            "**random weights (untrained)** unless it says otherwise: a network's time does not "
            "depend on their values.\n\n" + "\n".join(lines)
        )

    # ---- table 1 ------------------------------------------------------------------------------

    def parameter_rows(self) -> list[dict[str, str]]:
        """Parameters of published sizes: here (all networks, encoders of VAEs included), in the
        paper, in the CaloChallenge's final results and in the authors' code; one row for each model
        and data set that this study or table 1 has."""
        table = published("parameters")
        table = table.assign(study=table["model"].map(study_name))
        keys = dict.fromkeys(
            (row.study, dataset) for row in table.itertuples() for dataset in _spread(row.dataset)
        )
        rows = []
        for model, dataset in keys:
            found = table[
                (table["study"] == model)
                & table["dataset"].isin([dataset, *_wider(dataset)])
                & table["count"].notna()
            ]
            ours = self._parameters(model, dataset)
            counts = {
                (source, use): int(group["count"].iloc[0])
                for (source, use), group in found.groupby(["source", "used_for"])
            }
            if ours is None and model not in BENCHMARK:
                continue
            rows.append(
                {
                    "model": model,
                    "dataset": dataset,
                    "here, all networks": _count(ours),
                    TABLE_1: _millions(counts.get((TABLE_1, "generation"))),
                    "final CaloChallenge, generation": _count(counts.get((FINAL, "generation"))),
                    "and training": _count(counts.get((FINAL, "training"))),
                    "authors' code": _count(counts.get(("authors' code", "generation"))),
                    "here": _verdict(ours, {k: v for k, v in counts.items() if k[0] != TABLE_1}),
                }
            )
        return sorted(rows, key=lambda row: _order(row["model"]))

    @staticmethod
    def _parameters(model: str, dataset: str) -> int | None:
        family, name = MODELS.get(model), DATASETS_HERE.get(dataset, dataset)
        if family is None or name not in family.datasets or SIZE not in family.sizes:
            return None
        return sum(build(model, name, SIZE).parameters_by_network().values())

    # ---- table 2 ------------------------------------------------------------------------------

    @property
    def benchmark_kinds(self) -> list[str]:
        """Kinds of target of table 2; all threads only where published sizes were measured."""
        own = self.grid.loc[self.grid["size"] == SIZE, "kind"]
        return [ONE_THREAD, *([ALL_THREADS] if (own == ALL_THREADS).any() else []), GPU]

    def benchmark_rows(self, kind: str, notes: Notes) -> list[dict[str, str]]:
        """Table 2 of Ahmad et al. on a kind of target: one row for each data set and batch size,
        each model here and as published. A cell without a time points to its reason."""
        table = published("benchmark_times").set_index(["model", "dataset", "batch", "device"])
        device = "GPU" if kind == GPU else "CPU"
        rows = []
        for dataset in BENCHMARK_DATASETS:
            for batch in BATCHES:
                row = {"dataset": dataset, "batch": f"{batch}"}
                for model in BENCHMARK:
                    row[model] = self._benchmark_cell(model, dataset, batch, kind, notes)
                    theirs = table.loc[(model, dataset, batch, device), "value"]
                    row[f"{model}, published"] = "blank" if np.isnan(theirs) else f"{theirs:,g}"
                rows.append(row)
        return rows

    def _benchmark_cell(self, model: str, dataset: str, batch: int, kind: str, notes: Notes) -> str:
        if (model, dataset) in STAND_INS:
            other = STAND_INS[model, dataset]
            mark = notes.mark(
                f"{model} has no {dataset} here, as in the paper: one vector of all its cells is "
                f"too large; its authors propose {other}, whose times these are"
            )
            return f"{self.cell_text(other, dataset, batch, kind, notes)} {mark}"
        return self.cell_text(model, dataset, batch, kind, notes)

    def cell_text(self, model: str, dataset: str, batch: int, kind: str, notes: Notes) -> str:
        """The measured time of a published size with its range and the mark of its machine, or
        the mark of the reason."""
        family = MODELS.get(model)
        if family is None:
            return notes.mark(f"{model} is not among the models of this study")
        if dataset not in family.datasets or SIZE not in family.sizes:
            return notes.mark(f"{model} has no published size for {dataset} in this study")
        cell = look_up(self.grid, model, dataset, SIZE, kind, batch)
        if cell is None:
            return notes.mark(
                f"not in the measured grid: {kind}; `python -m calostudy.grid` measures it"
            )
        if cell.value is None:
            return notes.mark(cell.reason or "measured without success, for no recorded reason")
        where = f"on {machine_title(cell.machine)}, {cell.date}"
        if cell.evaluations:
            where += f", counted on from {cell.evaluations} network evaluations and fewer"
        return f"{_text(cell)} {notes.mark(where)}"

    def filled(self) -> str:
        """How many of the 72 cells of table 2 are filled, in Markdown."""
        theirs = published("benchmark_times")
        have = [
            (row.model, row.dataset)
            for row in theirs.itertuples()
            if self._has_time(row.model, row.dataset, row.batch, row.device)
        ]
        others = sum(each in STAND_INS for each in have)
        return (
            f"Of the {len(theirs)} cells of the paper's table {theirs['value'].notna().sum()} are "
            f"filled there and {len(have)} here, {others} of them by a stand-in; every other one "
            f"names its reason."
        )

    def _has_time(self, model: str, dataset: str, batch: int, device: str) -> bool:
        model = STAND_INS.get((model, dataset), model)
        kind = GPU if device == "GPU" else ONE_THREAD
        cell = look_up(self.grid, model, dataset, SIZE, kind, batch)
        return cell is not None and cell.value is not None

    # ---- other tables of times ----------------------------------------------------------------

    def beside_rows(self, table: pd.DataFrame, notes: Notes) -> list[dict[str, str]]:
        """One row for each published time: ours of the published size on the same kind of device
        beside it, Geant4's on one core."""
        rows = []
        for row in table.itertuples():
            kind = GPU if row.device == "GPU" else ONE_THREAD
            dataset = DATASETS_HERE.get(row.dataset, row.dataset)
            batch = 1 if pd.isna(row.batch) else int(row.batch)
            if row.model == "geant4":
                ours = self._geant4_text(dataset, notes)
            else:
                model = MODELS_HERE.get(row.model, row.model)
                ours = self.cell_text(model, dataset, batch, kind, notes)
            rows.append(
                {
                    "model": row.model,
                    "dataset": row.dataset,
                    "batch": "-" if pd.isna(row.batch) else f"{batch:,}",
                    "here": ours,
                    "on": kind,
                    "published": plus_minus(row.value, row.uncertainty),
                    "there on": row.device if pd.isna(row.hardware) else row.hardware,
                    "source": row.source,
                }
            )
        return rows

    @staticmethod
    def _geant4_text(dataset: str, notes: Notes) -> str:
        try:
            value, error, where = geant4_times.mean_cost(dataset)
        except DataError as error:
            return notes.mark(str(error))
        text = plus_minus(value, error)
        return f"{text} {notes.mark(f'CPU time of Geant4 on one core, {where}')}"

    @staticmethod
    def table_3() -> pd.DataFrame:
        """Published times on the CaloGAN data set."""
        table = published("times")
        return table[table["source"].str.startswith("Ahmad et al., Table 3")]

    @staticmethod
    def table_7() -> pd.DataFrame:
        """Published times of CaloFlow on data set 1 by its authors."""
        table = published("times")
        return table[table["source"].str.startswith("arXiv:2210.14245")]

    @staticmethod
    def ild() -> pd.DataFrame:
        """Published times in the ILD calorimeter."""
        return published("ild_times")

    # ---- cold starts --------------------------------------------------------------------------

    def cold_rows(self) -> list[dict[str, str]]:
        """Cold starts, data set by data set and the fastest first: of the whole process for each
        shower, and the largest memory it held; or the reason."""
        own = self.grid[self.grid["figure"] == "cold"]
        own = own.sort_values(["dataset", "machine", "target", "value"], kind="stable")
        return [
            {
                "dataset": cell.dataset,
                "model": cell.model,
                "size": cell.size,
                "weights": "trained" if cell.trained else "random (untrained)",
                "showers": f"{cell.batch:,}",
                "ms per shower": cell.reason if cell.value is None else _range(cell),
                "memory, MiB": "-" if np.isnan(memory) else f"{memory:.0f}",
                "on": f"{machine_title(cell.machine)}, {cell.date}, {cell.target}",
            }
            for cell, memory in zip(cells(own), own["peak_memory_mib"], strict=True)
        ]

    # ---- ONNX Runtime -------------------------------------------------------------------------

    def export_rows(self) -> list[dict[str, str]]:
        """Exported surrogates (`calostudy.export_times`), one row for each batch size."""
        table = export_times.read(data_dir() / "measured" / "exports.csv")
        return [
            {
                "dataset": line.dataset,
                "model": line.model,
                "showers at once": f"{line.batch:,}",
                "ONNX Runtime": between(line.onnx_ms, line.onnx_low, line.onnx_high),
                "own sampler": between(line.own_ms, line.own_low, line.own_high),
                "own / ONNX Runtime": between(line.ratio, line.ratio_low, line.ratio_high)
                + (" (noisy)" if line.noisy else ""),
                "largest difference": f"{line.difference:.1e}",
                "of one cell in 1,000": f"{line.difference_999:.1e}",
                "across the threshold": f"{line.crossed:,} of {line.cells:,}",
                "MB": f"{line.megabytes:.1f}",
                "on": f"{line.machine}, {line.date}",
            }
            for line in table.itertuples()
        ]

    # ---- all sources --------------------------------------------------------------------------

    @cached_property
    def all_times(self) -> pd.DataFrame:
        """Times of every source."""
        return all_times(self.grid)

    def relatives(self, batch: int, device: str) -> Mapping[str, pd.DataFrame]:
        """Data set -> times over the reference model of the same source."""
        found = {name: relative(self.all_times, name, batch, device) for name in REFERENCES}
        return {name: table for name, table in found.items() if table["source"].nunique() > 1}

    @staticmethod
    def agreement_rows(relatives: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
        """How far the sources agree, data set by data set."""
        return [
            {
                "dataset": dataset,
                "sources": row["sources"],
                "models beside the reference": f"{row['models']}",
                "rank correlation": f"{row['rank correlation']:.2f}",
                "typical factor between the ratios": f"{row['typical factor']:.2f}",
            }
            for dataset, table in relatives.items()
            for row in agreement(table)
        ]

    @staticmethod
    def apart(relatives: Mapping[str, pd.DataFrame], most: int = 6) -> list[dict[str, str]]:
        """Models whose ratios to the reference differ most between two sources."""
        rows = []
        for dataset, table in relatives.items():
            for model, group in table.groupby("model"):
                if len(group) < 2 or model == REFERENCES[dataset]:
                    continue
                low, high = group.loc[group["ratio"].idxmin()], group.loc[group["ratio"].idxmax()]
                rows.append(
                    (high["ratio"] / low["ratio"], dataset, model, low, high),
                )
        rows.sort(key=lambda row: -row[0])
        return [
            {
                "dataset": dataset,
                "model": model,
                "least": f"{plus_minus(low['ratio'], low['error'])} ({low['source']})",
                "most": f"{plus_minus(high['ratio'], high['error'])} ({high['source']})",
                "apart by": f"{factor:.1f}",
            }
            for factor, dataset, model, low, high in rows[:most]
        ]

    def save(self, relatives: Mapping[str, pd.DataFrame]) -> None:
        """Write the ratios of this page into the results folder."""
        numbers = [
            Number(
                name=f"{row.model} over {REFERENCES[dataset]}, {dataset}, {row.source}",
                value=row.ratio,
                uncertainty=None if np.isnan(row.error) else row.error,
                uncertainty_kind="both times, in quadrature",
            )
            for dataset, table in relatives.items()
            for row in table.itertuples()
        ]
        self.save_numbers(numbers, size=SIZE)


def _text(cell: Cell) -> str:
    return _range(cell) + (" (trained)" if cell.trained else "")


def _range(cell: Cell) -> str:
    if cell.low is None or cell.high is None or cell.rounds < 2:
        rounds = f" ({cell.rounds} round)" if cell.rounds == 1 else ""
        return f"{float(f'{cell.value:.3g}'):,g}{rounds}"
    return between(cell.value, cell.low, cell.high)


def _spread(dataset: str) -> Sequence[str]:
    """Table 1 has one line for both particles of data set 1."""
    return ("ds1-photons", "ds1-pions") if dataset == "ds1" else (dataset,)


def _wider(dataset: str) -> Sequence[str]:
    return ("ds1",) if dataset.startswith("ds1-") else ()


def _count(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _millions(count: int | None) -> str:
    return "-" if count is None else f"~{count / 1e6:.4g} M"


def _verdict(ours: int | None, exact: Mapping[Any, int]) -> str:
    """Whether a published exact count is ours, else ours over the nearest of them."""
    if ours is None or not exact:
        return "-"
    nearest = min(exact.values(), key=lambda count: abs(ours - count))
    return "equal" if ours == nearest else f"{ours / nearest:.3f} of the nearest"


def _order(model: str) -> tuple[int, str]:
    names = [*BENCHMARK, "caloflow-teacher", "caloflow-student"]
    return (names.index(model) if model in names else len(names), model)
