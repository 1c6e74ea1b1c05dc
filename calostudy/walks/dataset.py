"""The walk through a dataset."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from calostudy.datasets import load, showers_path, showers_paths
from calostudy.geant4 import sidecar_path
from calostudy.metrics.physics import Check, checks
from calostudy.metrics.published import LayerComparison, ild_layers
from calostudy.results import Number
from calostudy.showers import Rows, Showers, attributes, count
from calostudy.tables import check_rows
from calostudy.timing import Geant4Time, shipped_geant4_time
from calostudy.walks.numbers import geant4_number
from calostudy.walks.walk import Walk

_OF_TWIN = (
    "These are showers of the study's own Geant4 simulation, made in the image of {public}: the "
    "same cells and the same file format, not the same events, and not the same simulation."
)
_OF_PUBLIC = "These are the public showers of record {record}."


class DatasetWalk(Walk):
    """Parameters of ``notebooks/dataset.ipynb``."""

    kind: ClassVar[str] = "dataset"
    source: Literal["simulated", "public"] = "simulated"
    n: int = Field(1000, ge=20)

    def page_name(self) -> str:
        return f"dataset-{self.dataset}" + ("" if self.source == "simulated" else f"-{self.source}")

    def title(self) -> str:
        return self.label

    @property
    def label(self) -> str:
        """The name these showers go by: that of the public sample, or of its simulated twin."""
        return self.entry.title_of(self.source)

    def showers(self) -> Showers:
        """``n`` showers of the evaluation sample: the first, or of all discrete energies alike."""
        rows: Rows = slice(0, self.n)
        if self.source == "public" and self.entry.law("public").kind == "discrete":
            paths = showers_paths(self.dataset, "evaluation", "public")
            if all(path.is_file() for path in paths):
                total = sum(count(path, self.entry.calorimeter) for path in paths)
                chosen = np.random.default_rng(0).permutation(total)[: self.n]
                rows = np.sort(chosen)
        return load(self.dataset, "evaluation", self.source, rows=rows)

    def introduction(self, showers: Showers) -> str:
        """What these showers are, in Markdown."""
        entry = self.entry
        origin = _OF_TWIN if self.source == "simulated" else _OF_PUBLIC
        made = ""
        if self.source == "simulated":
            how = attributes(showers_path(self.dataset, "evaluation"))
            known = [f"{key} {how[key]}" for key in sorted(how) if key != "command"]
            made = f"\n\nHow they were made: {', '.join(known)}." if known else ""
        return (
            f"**{entry.title}.** {len(showers):,} showers of {entry.particle}, incident energies "
            f"{entry.law(self.source)}; {entry.calorimeter.cells:,} cells in "
            f"{len(entry.calorimeter.layers)} layers. "
            + origin.format(public=entry.public_name, record=entry.record)
            + made
            + "\n\nReferences: "
            + "; ".join(entry.references)
            + "."
        )

    def physics_checks(self, showers: Showers) -> list[Check]:
        """Response, resolution, depth, width and what is expected of them."""
        return checks(showers, self.entry, self.source)

    @staticmethod
    def check_rows(found: list[Check]) -> list[dict[str, str]]:
        """The checks as a table."""
        return check_rows(found)

    def reference_layers(self, showers: Showers) -> LayerComparison | None:
        """Published means per layer beside ours, where there are any: photons in ILD."""
        return ild_layers(showers) if self.dataset == "ild-photons" else None

    def geant4_cost(self) -> Geant4Time | None:
        """Geant4's CPU time per shower of this sample; None where nothing recorded it."""
        recorded = sidecar_path(showers_path(self.dataset, "evaluation")).exists()
        return shipped_geant4_time(self.entry) if self.source == "simulated" and recorded else None

    def save(self, found: list[Check], cost: Geant4Time | None) -> None:
        """Write the numbers of this page into the results folder."""
        numbers = [
            Number(
                name=check.quantity,
                value=check.value,
                uncertainty=check.uncertainty,
                uncertainty_kind="statistical",
                unit=check.unit,
                details={
                    "expected": check.expected,
                    "expected_uncertainty": check.expected_uncertainty,
                    "expected_from": check.source,
                },
            )
            for check in found
        ]
        if cost is not None:
            numbers.append(geant4_number(cost))
        self.save_numbers(numbers, source=self.source, sample_size=self.n)
