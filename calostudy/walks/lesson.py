"""The walk of a first hour: look at showers, make some, find what is wrong with them, time it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from calostudy.datasets import load
from calostudy.errors import UsageError
from calostudy.metrics import Score, evaluate
from calostudy.metrics.defects import DEFECTS
from calostudy.models import load as load_surrogate
from calostudy.models import shipped_weights
from calostudy.models.surrogate import Surrogate
from calostudy.showers import Showers
from calostudy.tables import between, plus_minus
from calostudy.timing import (
    Geant4Time,
    SurrogateTime,
    shipped_geant4_time,
    speed_up,
    time_surrogate,
)
from calostudy.walks.hardware import batch_sizes
from calostudy.walks.numbers import score_numbers, time_number
from calostudy.walks.walk import Walk

METRICS = ("separation_power", "wasserstein", "auc_high")


class LessonWalk(Walk):
    """Parameters of ``notebooks/lesson.ipynb``."""

    kind: ClassVar[str] = "lesson"
    model: str
    n: int = Field(500, ge=100)
    defect: str = "energy_scale"
    batches: str = "1,100"
    rounds: int = Field(3, ge=1)
    seed: int = Field(0, ge=0)

    @field_validator("defect")
    @classmethod
    def _known_defect(cls, name: str) -> str:
        if name not in DEFECTS:
            raise ValueError(f"no defect {name!r}; there are {', '.join(DEFECTS)}")
        return name

    @field_validator("batches")
    @classmethod
    def _whole_numbers(cls, text: str) -> str:
        batch_sizes(text)
        return text

    def page_name(self) -> str:
        return f"lesson-{self.model}-{self.dataset}"

    def title(self) -> str:
        return "A first hour"

    @cached_property
    def geant4(self) -> Showers:
        """The first `n` evaluation showers of Geant4."""
        return load(self.dataset, "evaluation", rows=slice(0, self.n))

    @cached_property
    def others(self) -> Showers:
        """As many showers of Geant4 with nothing in common with those."""
        return load(self.dataset, "train", rows=slice(0, self.n))

    @cached_property
    def surrogate(self) -> Surrogate:
        """The surrogate with its shipped weights."""
        directory = shipped_weights(self.model, self.dataset, "embedded")
        if directory is None:
            raise UsageError(f"no weights of {self.model} are shipped for {self.dataset}")
        return load_surrogate(directory)

    def made(self, gev: float, count: int) -> Showers:
        """So many showers of the surrogate at one incident energy in GeV."""
        return self.surrogate.sample(np.full(count, 1e3 * gev), seed=self.seed)

    @cached_property
    def samples(self) -> dict[str, Showers]:
        """Geant4's showers, the surrogate's at their energies, and Geant4's with the defect."""
        return {
            "Geant4": self.geant4,
            self.model: self.generated(self.surrogate, self.geant4.incident_energy, self.seed),
            DEFECTS[self.defect].at(): DEFECTS[self.defect](self.others, seed=self.seed),
        }

    def scores(self) -> dict[str, list[Score]]:
        """Of the surrogate, and of the showers with the defect, against Geant4's."""
        return {
            name: evaluate(
                showers,
                self.geant4,
                self.entry,
                metrics=METRICS,
                repeats=1,
                hidden=64,
                seed=self.seed,
                floor=self.others,
                keep=self.kept_folder,
            )
            for name, showers in self.samples.items()
            if name != "Geant4"
        }

    @staticmethod
    def worst(scores: Sequence[Score], most: int = 8) -> list[dict[str, Any]]:
        """The observables with the largest separation power, largest first."""
        details = next(score.details for score in scores if score.name == "separation_power")
        rows = [{"name": n, **part} for n, part in details.items() if part["value"] is not None]
        return sorted(rows, key=lambda row: -row["value"])[:most]

    def times(self) -> list[SurrogateTime]:
        """ms per shower on one thread, at each batch size."""
        return time_surrogate(self.surrogate, batch_sizes(self.batches), rounds=self.rounds)

    def geant4_cost(self) -> Geant4Time:
        """Geant4's CPU time per shower, recorded while the sample was made."""
        return shipped_geant4_time(self.entry)

    @staticmethod
    def time_rows(times: Sequence[SurrogateTime], geant4: Geant4Time) -> list[dict[str, str]]:
        """The times beside Geant4's, as a table."""
        return [
            {
                "batch": f"{time.batch:,}",
                "ms per shower": between(time.value, time.low, time.high),
                "Geant4, CPU ms per shower": plus_minus(geant4.value, geant4.uncertainty),
                "speed-up": plus_minus(*speed_up(geant4, time)),
            }
            for time in times
        ]

    def save(self, scores: dict[str, list[Score]], times: Sequence[SurrogateTime]) -> None:
        """Write the numbers of this page into the results folder."""
        scored = [
            number
            for name, own in scores.items()
            for number in score_numbers(own, prefix=f"{name}: ")
        ]
        timed = [time_number(f"lesson: time at batch {time.batch}", time) for time in times]
        self.save_numbers(
            [*scored, *timed],
            model=self.model,
            size="embedded",
            weights_sha256=self.surrogate.weights_sha256,
            sample_size=self.n,
            seed=self.seed,
        )
