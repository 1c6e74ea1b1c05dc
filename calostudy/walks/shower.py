"""The walk around one shower: Geant4's and the surrogates', at one incident energy, in space."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator

from calostudy.datasets import load
from calostudy.errors import UsageError
from calostudy.models import MODELS, shipped_weights
from calostudy.models import load as load_surrogate
from calostudy.results import Number
from calostudy.showers import Showers
from calostudy.walks.walk import Walk

GEANT4 = "Geant4"
READ = 200
"""Showers of the evaluation sample among which the one is looked for."""


def _names(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


class ShowerWalk(Walk):
    """Parameters of ``notebooks/shower.ipynb``."""

    kind: ClassVar[str] = "shower"
    models: str
    energy: float = Field(0.0, ge=0.0)
    seed: int = Field(1, ge=0)

    @field_validator("models")
    @classmethod
    def _known_models(cls, text: str) -> str:
        unknown = [name for name in _names(text) if name not in MODELS]
        if unknown or not _names(text):
            raise ValueError(f"no model {', '.join(unknown)!r}; there are {', '.join(MODELS)}")
        return text

    def page_name(self) -> str:
        return f"shower-{self.dataset}"

    def title(self) -> str:
        return f"One shower, in space: {self.entry.title_of('simulated')}"

    def showers(self) -> dict[str, Showers]:
        """One of Geant4 and one of each surrogate, at the incident energy nearest to `energy`
        in GeV (0: the middle one)."""
        geant4 = load(self.dataset, "evaluation", rows=slice(0, READ))
        energy = 1e3 * self.energy or np.median(geant4.incident_energy)
        nearest = int(np.abs(geant4.incident_energy - energy).argmin())
        samples = {GEANT4: geant4[nearest : nearest + 1]}
        for name in _names(self.models):
            weights = shipped_weights(name, self.dataset, "embedded")
            if weights is None:
                raise UsageError(f"no weights of {name} are shipped for {self.dataset}")
            surrogate = load_surrogate(weights)
            samples[name] = surrogate.sample(samples[GEANT4].incident_energy, seed=self.seed)
        return samples

    def numbers(self, samples: dict[str, Showers]) -> list[Number]:
        """Energy, cells hit and largest cell of each shower."""
        found = []
        for name, showers in samples.items():
            cells = showers.cells[0]
            hit = cells[(cells > 0) & (cells >= self.entry.threshold)].astype(np.float64)
            found += [
                Number(name=f"{name}: energy in the cells", value=hit.sum(), unit="MeV"),
                Number(name=f"{name}: cells hit", value=len(hit)),
                Number(name=f"{name}: largest cell", value=max(hit, default=0.0), unit="MeV"),
            ]
        return found

    def rows(self, samples: dict[str, Showers]) -> list[dict[str, str]]:
        """The same as a table: one line for each shower."""
        rows: dict[str, dict[str, str]] = {}
        for number in self.numbers(samples):
            name, _, quantity = number.name.partition(": ")
            heading = f"{quantity}, {number.unit}" if number.unit else quantity
            rows.setdefault(name, {"shower": name})[heading] = (
                f"{number.value:,.{0 if number.value >= 100 else 1}f}"
            )
        return list(rows.values())

    def save(self, samples: dict[str, Showers]) -> None:
        """Write the numbers of this page into the results folder."""
        self.save_numbers(self.numbers(samples), size="embedded", sample_size=1, seed=self.seed)
