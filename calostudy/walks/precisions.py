"""The walk through number formats: what fewer bits do to showers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import pandas as pd
from pydantic import Field, field_validator

from calostudy import precision_quality
from calostudy.datasets import load
from calostudy.evaluations import GEANT4
from calostudy.models import load as load_surrogate
from calostudy.models import shipped_weights
from calostudy.number_formats import FORMATS
from calostudy.paths import data_dir
from calostudy.precision_quality import PLAIN
from calostudy.results import Number
from calostudy.showers import Showers
from calostudy.tables import plus_minus
from calostudy.walks.walk import Walk

TITLES = {"separation_power": "separation power", "fpd": "FPD", "auc_high": "AUC high"}
ORDER = (PLAIN, *FORMATS)


class PrecisionsWalk(Walk):
    """Parameters of ``notebooks/precisions.ipynb``."""

    kind: ClassVar[str] = "precisions"
    model: str = "caloscore-single-shot"
    formats: str = "mxfp8,nvfp4,mxfp4"
    n: int = Field(200, ge=1)
    seed: int = Field(1, ge=0)

    @field_validator("formats")
    @classmethod
    def _known_formats(cls, text: str) -> str:
        unknown = [name for name in text.split(",") if name not in FORMATS]
        if unknown:
            raise ValueError(f"no format {unknown[0]!r}; there are {', '.join(FORMATS)}")
        return text

    def page_name(self) -> str:
        return f"precisions-{self.dataset}"

    def title(self) -> str:
        return f"Where fewer bits break the physics: {self.entry.title_of('simulated')}"

    @cached_property
    def showers(self) -> Mapping[str, Showers]:
        """Geant4's, the surrogate's in fp32 and in each format of this page, by name; of the same
        incident energies and, but for Geant4, the same noise."""
        reference = load(self.dataset, "evaluation", rows=slice(0, self.n))
        surrogate = load_surrogate(shipped_weights(self.model, self.dataset, "embedded"))
        made = {
            name: precision_quality.showers_in(
                surrogate, name, reference.incident_energy, self.seed
            )
            for name in (PLAIN, *self.formats.split(","))
        }
        return {GEANT4: reference, **made}

    def gallery(self) -> Mapping[str, Showers]:
        """One shower of each: that of the median incident energy."""
        energies = self.showers[GEANT4].incident_energy
        middle = int(energies.argsort()[len(energies) // 2])
        return {name: each[middle : middle + 1] for name, each in self.showers.items()}

    def differences(self) -> list[dict[str, str]]:
        """How far the showers of each format are from those of fp32, shower by shower."""
        plain, rows = self.showers[PLAIN], []
        for name in self.formats.split(","):
            found = self.showers[name]
            moved = abs(found.cells - plain.cells).sum(axis=1) / plain.cells.sum(axis=1)
            hits = (found.cells > 0).sum(axis=1).mean() / (plain.cells > 0).sum(axis=1).mean()
            rows.append(
                {
                    "format": name,
                    "energy in other cells": f"{100 * moved.mean():.2g} %",
                    "hits, over those in fp32": f"{hits:.4f}",
                }
            )
        return rows

    @cached_property
    def table(self) -> pd.DataFrame:
        """The shipped scores of this data set, of weights that are the shipped ones."""
        table = precision_quality.read(data_dir() / "measured" / "precisions.csv")
        return table[table["dataset"] == self.dataset]

    def rows(self) -> list[dict[str, str]]:
        """The scores: one row per surrogate and format, the Geant4 floor first."""
        rows = []
        for (model, name), lines in self.table.groupby(["model", "format"], sort=False):
            found = lines.set_index("quantity")
            rows.append(
                {"model": model, "format": name or "-"}
                | {
                    title: plus_minus(
                        float(found.loc[key, "value"]), float(found.loc[key, "uncertainty"])
                    )
                    for key, title in TITLES.items()
                }
                | {"showers": f"{int(lines['showers'].iloc[0]):,}"}
            )
        return rows

    def save(self) -> None:
        """Write the scores of this page into the results folder."""
        self.save_numbers(
            [
                Number(
                    name=" ".join(filter(None, (row.model, row.format, row.quantity))),
                    value=row.value,
                    uncertainty=row.uncertainty,
                    uncertainty_kind=row.uncertainty_kind,
                    details={"showers": int(row.showers), "weights_sha256": row.weights_sha256},
                )
                for row in self.table.itertuples()
            ],
            seed=self.seed,
        )
