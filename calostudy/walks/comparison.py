"""The walk through all surrogates of a dataset, side by side."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from calostudy.datasets import load
from calostudy.errors import UsageError
from calostudy.metrics import Score, evaluate
from calostudy.metrics.measurement import EPOCHS
from calostudy.metrics.ranges import EnergyRange, filled_ranges
from calostudy.models import MODELS, shipped_weights
from calostudy.models import load as load_surrogate
from calostudy.models.surrogate import Surrogate
from calostudy.showers import Showers
from calostudy.tables import plus_minus
from calostudy.walks.numbers import score_numbers
from calostudy.walks.walk import Walk

GEANT4 = "Geant4"
METRICS = ("separation_power", "separation_groups", "fpd", "kpd", "auc_high")


class ComparisonWalk(Walk):
    """Parameters of ``notebooks/comparison.ipynb``."""

    kind: ClassVar[str] = "comparison"
    models: str = ""
    n: int = Field(500, ge=100)
    energy: float = Field(0.0, ge=0.0)
    repeats: int = Field(1, ge=1)
    hidden: int = Field(256, ge=1)
    classifier_epochs: int = Field(EPOCHS, ge=1)
    seed: int = Field(1, ge=0)

    def page_name(self) -> str:
        return f"comparison-{self.dataset}"

    def title(self) -> str:
        return f"All surrogates: {self.entry.title_of('simulated')}"

    @cached_property
    def surrogates(self) -> dict[str, Surrogate]:
        """The surrogates by name: those that were asked for, else all with shipped weights."""
        wanted = [word.strip() for word in self.models.split(",") if word.strip()]
        found = {}
        for name in wanted or MODELS:
            weights = shipped_weights(name, self.dataset, "embedded")
            if weights is not None:
                found[name] = load_surrogate(weights)
            elif wanted:
                raise UsageError(f"no weights of {name} are shipped for {self.dataset}")
        if not found:
            raise UsageError(f"no weights are shipped for {self.dataset}")
        return found

    def introduction(self) -> str:
        """What is compared, in Markdown."""
        rows = "\n".join(
            f"- **{name}**: {sum(each.parameters_by_network().values()):,} parameters, "
            f"{each.network_evaluations} network evaluations per shower, weights "
            f"{each.weights_sha256[:12]}"
            for name, each in self.surrogates.items()
        )
        return (
            f"{self.entry.title_of('simulated')}, {self.n:,} showers of each, at the same incident "
            f"energies (seed {self.seed}), in embedded size:\n\n{rows}"
        )

    def gallery(self) -> dict[str, Showers]:
        """One shower of each at one incident energy: `energy` in GeV, or the middle one."""
        geant4 = load(self.dataset, "evaluation", rows=slice(0, self.n))
        energy = 1e3 * self.energy or np.median(geant4.incident_energy)
        nearest = int(np.abs(geant4.incident_energy - energy).argmin())
        samples = {GEANT4: geant4[nearest : nearest + 1]}
        for name, surrogate in self.surrogates.items():
            samples[name] = surrogate.sample(samples[GEANT4].incident_energy, seed=self.seed)
        return samples

    def samples(self) -> dict[str, Showers]:
        """Geant4's evaluation showers, and as many of each surrogate at their energies."""
        geant4 = load(self.dataset, "evaluation", rows=slice(0, self.n))
        return {GEANT4: geant4} | {
            name: self.generated(surrogate, geant4.incident_energy, self.seed)
            for name, surrogate in self.surrogates.items()
        }

    def ranges(self, geant4: Showers) -> list[EnergyRange]:
        """The ranges of incident energy that have showers enough."""
        energies = geant4.incident_energy
        return filled_ranges(self.entry, energies, energies)[0]

    def scores(self, samples: dict[str, Showers]) -> dict[str, list[Score]]:
        """Of each surrogate, against the same showers, each with its floor."""
        geant4 = samples[GEANT4]
        floor = load(self.dataset, "train", rows=slice(0, len(geant4)))
        return {
            name: evaluate(
                showers,
                geant4,
                self.entry,
                metrics=METRICS,
                repeats=self.repeats,
                hidden=self.hidden,
                seed=self.seed,
                floor=floor,
                epochs=self.classifier_epochs,
                keep=self.kept_folder,
            )
            for name, showers in samples.items()
            if name != GEANT4
        }

    @staticmethod
    def rows(scores: dict[str, list[Score]]) -> list[dict[str, Any]]:
        """One row for each surrogate, best separation power first; the floor last."""

        def value(name: str) -> float:
            return next(s.value for s in scores[name] if s.name == "separation_power")

        rows = [
            {"model": name}
            | {
                s.name: plus_minus(s.value, s.uncertainty)
                for s in scores[name]
                if s.name in METRICS
            }
            for name in sorted(scores, key=value)
        ]
        floor = {
            s.name: plus_minus(s.floor, s.floor_uncertainty)
            for s in next(iter(scores.values()))
            if s.name in METRICS
        }
        return [*rows, {"model": "Geant4 floor", **floor}]

    @staticmethod
    def separation_rows(scores: dict[str, list[Score]]) -> list[dict[str, Any]]:
        """Mean separation power of each surrogate beside the floor, largest first."""
        rows = [
            {"name": name, "value": s.value, "uncertainty": s.uncertainty, "floor": s.floor}
            for name, each in scores.items()
            for s in each
            if s.name == "separation_power"
        ]
        return sorted(rows, key=lambda row: -row["value"])

    def save(self, scores: dict[str, list[Score]]) -> None:
        """Write the scores of this page into the results folder."""
        numbers = [
            number
            for name, each in scores.items()
            for number in score_numbers(each, prefix=f"{name}: ")
        ]
        self.save_numbers(numbers, size="embedded", sample_size=self.n, seed=self.seed)
