"""The walk through what a larger calorimeter and a higher energy cost."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import field_validator

from calostudy import geant4_times, leaderboard
from calostudy.datasets import DATASETS
from calostudy.geant4_times import Measured, near, processor_of
from calostudy.grid_times import (
    GPU,
    KINDS,
    ONE_THREAD,
    half_range,
    machine_cpu,
    machine_title,
    read_times,
)
from calostudy.growth import (
    PowerLaw,
    break_even_batch,
    break_even_energy,
    of_one_machine,
    power_law,
    speed_up,
    without_twins,
)
from calostudy.paths import data_dir
from calostudy.results import Number
from calostudy.tables import plus_minus, published, study_name
from calostudy.timing import Geant4Time
from calostudy.walks.walk import Walk

COLUMNS = (
    *("model", "dataset", "size", "kind", "batch", "value", "error"),
    *("trained", "machine", "where", "cells"),
)
SIZES = ("embedded", "paper")
ENERGIES = (1.0, 10.0, 100.0)  # GeV


class GrowthWalk(Walk):
    """Parameters of ``notebooks/growth.ipynb``; it is about all data sets."""

    kind: ClassVar[str] = "growth"
    dataset: Literal["all"] = "all"
    batch: Literal[1, 100] = 100

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, name: str) -> str:
        return name

    def page_name(self) -> str:
        return "growth-of-the-cost"

    def title(self) -> str:
        return "How the cost grows"

    # ---- times ----------------------------------------------------------------------------------

    @cached_property
    def grid(self) -> pd.DataFrame:
        """The measured grid."""
        return read_times()

    @cached_property
    def scored(self) -> pd.DataFrame:
        """The lines of the leaderboards."""
        return leaderboard.read(data_dir() / "measured" / "leaderboard.csv")

    @cached_property
    def times(self) -> pd.DataFrame:
        """ms per shower, `COLUMNS`: from the grid, in fp32 on all kinds of target, and CPU times of
        the leaderboards where the grid has no time of the same model, data set and size on one
        thread. One for each machine."""
        grid = self.grid[
            (self.grid["figure"] != "cold")
            & self.grid["target"].str.endswith("/fp32")
            & self.grid["value"].notna()
        ].sort_values(["figure", "date"], kind="stable")
        first = grid.assign(
            error=half_range(grid),
            trained=grid["is_trained"],
            machine=grid["machine"].map(machine_cpu),
            where=grid["machine"].map(machine_title) + ", " + grid["date"],
        )
        lines = self.scored[self.scored["quantity"] == leaderboard.TIME]
        second = lines.rename(columns={"uncertainty": "error"}).assign(
            kind=ONE_THREAD,
            trained=True,
            where=lines["machine"] + ", " + lines["date"] + " (CPU time)",
        )
        key = ["model", "dataset", "size", "kind"]
        have = set(map(tuple, first[key].to_numpy()))
        fresh = [each not in have for each in map(tuple, second[key].to_numpy())]
        names = list(COLUMNS[:-1])
        parts = [part[names] for part in (first, second[fresh]) if len(part)]
        table = pd.concat(parts, ignore_index=True)
        table = table.drop_duplicates([*key, "batch", "machine"], keep="last")
        table = table[table["dataset"] != "segmentations"]  # many calorimeters
        return table.assign(cells=table["dataset"].map(_cells), batch=table["batch"].astype(int))

    @property
    def cases(self) -> list[tuple[str, str]]:
        """Kinds of target and sizes that have times."""
        have = set(map(tuple, self.times[["kind", "size"]].to_numpy()))
        return [(kind, size) for size in SIZES for kind in KINDS if (kind, size) in have]

    def of(self, kind: str, size: str) -> pd.DataFrame:
        """The times of a kind of target and a size, of each model and data set on one machine: that
        of Geant4's times if there are some, else the last."""
        own = self._of(kind, size)
        own = own.assign(home=own["machine"].isin(self._geant4_machines))
        own = own.sort_values("home", kind="stable")
        last = own.groupby(["model", "dataset"])["machine"].transform("last")
        return own[own["machine"] == last].drop(columns="home").sort_index()

    def _of(self, kind: str, size: str) -> pd.DataFrame:
        return self.times[(self.times["kind"] == kind) & (self.times["size"] == size)]

    def introduction(self) -> str:
        """Where the times come from, in Markdown."""
        lines = [
            f"- {kind}, {size} size: {len(group)} times of {group['model'].nunique()} models, "
            f"{_trained_text(group['trained'])}; {'; '.join(sorted(group['where'].unique()))}"
            for kind, size in self.cases
            for group in [self.of(kind, size)]
        ]
        return "Times in fp32, ms per shower:\n\n" + "\n".join(lines)

    # ---- cells ----------------------------------------------------------------------------------

    def by_cells(self, kind: str, size: str) -> pd.DataFrame:
        """Times of a kind of target and a size at this page's batch size, one for each model and
        calorimeter, of a model on one machine."""
        own = self._of(kind, size)
        own = of_one_machine(own[own["batch"] == self.batch])
        return without_twins(own.sort_values(["model", "cells"], kind="stable"))

    def challenge_by_cells(self) -> pd.DataFrame:
        """Times of the CaloChallenge's submissions on a processor, in the same form."""
        table = published("challenge_times")
        table = table[(table["device"] == "CPU") & (table["batch"] == self.batch)]
        table = table.assign(
            model=table["model"].map(study_name),
            cells=table["dataset"].map(_cells),
            error=table["uncertainty"],
        )
        return table.sort_values(["model", "cells"], kind="stable").reset_index(drop=True)

    def panels(self) -> Mapping[str, pd.DataFrame]:
        """Title -> times, for each kind of target and size that has models on two calorimeters, and
        as published."""
        found = {f"{kind}, {size} size": self.by_cells(kind, size) for kind, size in self.cases}
        found["CaloChallenge, published"] = self.challenge_by_cells()
        return {title: table for title, table in found.items() if self.laws(table)}

    @staticmethod
    def laws(table: pd.DataFrame) -> dict[str, PowerLaw]:
        """The power law of each model that has calorimeters of different sizes."""
        laws = {
            model: power_law(*(group[name].to_numpy(float) for name in ("cells", "value", "error")))
            for model, group in table.groupby("model")
        }
        return {model: law for model, law in laws.items() if law is not None}

    def slope_rows(self) -> list[dict[str, str]]:
        """One row for each model: the slope of its power law here and as published."""
        columns = {title: self.laws(table) for title, table in self.panels().items()}
        models = sorted({model for laws in columns.values() for model in laws})
        return [
            {"model": model}
            | {
                title: _law_text(laws[model]) if model in laws else "-"
                for title, laws in columns.items()
            }
            for model in models
        ]

    # ---- energy ---------------------------------------------------------------------------------

    @cached_property
    def geant4(self) -> dict[str, dict[str, Measured]]:
        """Geant4's times of each data set by machine."""
        names = geant4_times.read(data_dir() / "measured" / "geant4_times.csv")["dataset"].unique()
        return {name: geant4_times.by_machine(name) for name in DATASETS if name in names}

    @property
    def _geant4_machines(self) -> set[str]:
        return {machine for measured in self.geant4.values() for machine in measured}

    def speed_ups(self, kind: str, size: str) -> dict[str, dict[str, Any]]:
        """Data set -> energies in GeV and, for each model, Geant4's time over its own at batch
        sizes 1 and 100."""
        found, table = {}, self.of(kind, size)
        for name, measured in self.geant4.items():
            own = table[table["dataset"] == name]
            if own.empty:
                continue
            energies = near(measured)[0].energy_gev
            energy = np.geomspace(energies.min(), energies.max(), 60)
            lines = {
                (row.model, row.batch): speed_up(near(measured, row.machine)[0], energy, row.value)
                for row in own.itertuples()
                if row.batch in (1, 100)
            }
            found[name] = {"energy": energy, "lines": lines}
        return found

    def machine_note(self, kind: str, size: str) -> str:
        """Whether Geant4 was measured on the machines of these times, in Markdown."""
        table = self.of(kind, size)
        table = table[table["dataset"].isin(self.geant4)]
        own = set(table["machine"].map(processor_of))
        beside = {
            (row.machine, near(self.geant4[row.dataset], row.machine)[1].rpartition(", ")[0])
            for row in table.itertuples()
        }
        text = f"**{kind}, {size} size**: Geant4 was measured on "
        if any(processor_of(theirs) != processor_of(ours) for ours, theirs in beside):
            return (
                f"{text}*another machine* ({'; '.join(sorted({theirs for _, theirs in beside}))}; "
                f"these times: {'; '.join(sorted(table['where'].unique()))}), so that these ratios "
                "also compare two machines."
            )
        if kind == GPU:
            return f"{text}a processor of the same name as the GPU's ({'; '.join(sorted(own))})."
        several = ", each time beside that of its own" if len(own) > 1 else ""
        return f"{text}the same {'machines' if several else 'machine'}{several}."

    def break_even_rows(self, kind: str, size: str) -> list[dict[str, str]]:
        """One row for each model and data set: from which incident energy on it is faster than
        Geant4, and from which batch size on at some energies."""
        return [
            {
                "dataset": name,
                "model": model,
                **self._break_even(near(measured, group["machine"].iloc[0])[0], group),
            }
            for name, measured in self.geant4.items()
            for model, group in self.of(kind, size)
            .query("dataset == @name")
            .groupby("model", sort=True)
        ]

    @staticmethod
    def _break_even(geant4: Geant4Time, group: pd.DataFrame) -> dict[str, str]:
        lowest, highest = geant4.energy_gev.min(), geant4.energy_gev.max()
        times = dict(zip(group["batch"], group["value"], strict=True))
        errors = dict(zip(group["batch"], group["error"], strict=True))
        row = {}
        for batch in (1, 100):
            text = "-"
            if batch in times:
                crossing = break_even_energy(geant4, times[batch], errors[batch])
                text = _energy_text(*crossing, lowest)
            row[f"faster from, batch {batch}"] = text
        for energy in ENERGIES:
            text = "-"
            if 0.5 * lowest <= energy <= 2 * highest:
                text = _batch_text(times, break_even_batch(times, float(geant4.fit(energy))))
            row[f"batch needed at {energy:g} GeV"] = text
        return row

    def geant4_rows(self) -> list[dict[str, str]]:
        """One row for each data set and machine: the fitted line of Geant4's CPU time."""
        return [
            {
                "dataset": name,
                "showers": f"{len(geant4.cpu_ms)}",
                "ms at zero energy": plus_minus(geant4.offset, geant4.offset_error),
                "ms per GeV": plus_minus(geant4.slope, geant4.slope_error),
                "energies [GeV]": f"{geant4.energy_gev.min():.3g} to {geant4.energy_gev.max():.3g}",
                "measured on": where,
            }
            for name, measured in self.geant4.items()
            for geant4, where in measured.values()
        ]

    def save(self) -> None:
        """Write the slopes of this page into the results folder."""
        numbers = [
            Number(
                name=f"slope of {model}: {title}",
                value=law.slope,
                uncertainty=law.error,
                uncertainty_kind=law.kind,
                details={"points": law.points, "batch": self.batch},
            )
            for title, table in self.panels().items()
            for model, law in self.laws(table).items()
        ]
        self.save_numbers(numbers)


def _cells(dataset: str) -> int:
    return DATASETS[dataset].calorimeter.cells


def _trained_text(trained: pd.Series) -> str:
    if trained.all():
        return "all with trained weights"
    return f"{trained.sum()} with trained weights, the others with random ones (untrained)"


def _law_text(law: PowerLaw) -> str:
    if not law.error:  # of two times that were measured once
        return f"{law.slope:.2f}, uncertainty unknown ({law.points} calorimeters)"
    return f"{plus_minus(law.slope, law.error)} ({law.points} calorimeters)"


def _energy_text(energy: float, error: float, lowest: float) -> str:
    if energy <= lowest:
        return "every energy"
    return f"{plus_minus(energy, error)} GeV"


def _batch_text(times: Mapping[int, float], batch: float | None) -> str:
    largest: int = max(times)
    if batch is None:
        return f"> {largest}"
    return "1" if batch <= 1 else f"{batch:.2g}"
