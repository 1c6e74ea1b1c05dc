"""The walk through solvers: how good showers are after so many network evaluations."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import pandas as pd
from pydantic import Field, field_validator

from calostudy.datasets import load
from calostudy.evaluations import Judge, cases, measure, measure_floor, trained
from calostudy.results import Number
from calostudy.samplers.diffusion import SOLVERS
from calostudy.showers import Showers
from calostudy.tables import measured, plus_minus
from calostudy.walks.walk import Walk

FEWEST = 1
TITLES = {"separation_power": "separation power", "fpd": "FPD", "auc_high": "AUC high"}


class EvaluationsWalk(Walk):
    """Parameters of ``notebooks/evaluations.ipynb``."""

    kind: ClassVar[str] = "evaluations"
    models: str
    solvers: str = "midpoint"
    evaluations: str = "16,4,2"
    n: int = Field(500, ge=100)
    repeats: int = Field(1, ge=1)
    hidden: int = Field(256, ge=1)
    seed: int = Field(1, ge=0)

    @field_validator("solvers")
    @classmethod
    def _known_solvers(cls, text: str) -> str:
        unknown = [name for name in _words(text) if name not in SOLVERS]
        if unknown:
            raise ValueError(f"no solver {', '.join(unknown)}; there are {', '.join(SOLVERS)}")
        return text

    @field_validator("evaluations")
    @classmethod
    def _whole_numbers(cls, text: str) -> str:
        if not all(word.isdigit() and int(word) >= FEWEST for word in _words(text)):
            raise ValueError(f"{text!r}: expected whole numbers like 16,4,2")
        return text

    def page_name(self) -> str:
        return f"evaluations-{self.dataset}"

    def title(self) -> str:
        return f"What an evaluation buys: {self.entry.title_of('simulated')}"

    @cached_property
    def judge(self) -> Judge:
        """How the showers of this page are scored."""
        return Judge(self.dataset, self.n, repeats=self.repeats, hidden=self.hidden, seed=self.seed)

    @cached_property
    def surrogates(self) -> list:
        """The shipped surrogates that are compared."""
        return [trained(model, self.dataset) for model in _words(self.models)]

    def introduction(self) -> str:
        """What is compared here, in Markdown."""
        own = ", ".join(
            f"**{each.name}** ({each.samplings[each.VOXELS].solver}, {each.network_evaluations} "
            f"evaluations; weights {each.weights_sha256[:12]})"
            for each in self.surrogates
        )
        return (
            f"{self.entry.title_of('simulated')}, embedded size. The same weights throughout, by "
            f"default used with: {own}."
        )

    def measure(self) -> pd.DataFrame:
        """Scores of this page's own showers, the Geant4 floor first; lines of
        `calostudy.evaluations`."""
        lines = measure_floor(self.judge)
        chosen = cases(_words(self.solvers), [int(word) for word in _words(self.evaluations)])
        for surrogate in self.surrogates:
            for solver, count in chosen:
                lines += measure(surrogate, solver, count, self.judge)
        return pd.DataFrame(lines)

    def shipped(self) -> pd.DataFrame:
        """The lines of ``data/measured/evaluations.csv`` of this data set and these weights, of
        the largest sample."""
        table = measured("evaluations")
        hashes = [each.weights_sha256[:12] for each in self.surrogates]
        own = table["weights_sha256"].isin(hashes) | (table["model"] == "Geant4")
        table = table[own & (table["dataset"] == self.dataset)]
        return table[table["showers"] == table["showers"].max()]

    def study(self, own: pd.DataFrame) -> pd.DataFrame:
        """The shipped lines, else this page's `own`."""
        shipped = self.shipped()
        return shipped if len(shipped["model"].unique()) > 1 else own

    @staticmethod
    def rows(table: pd.DataFrame) -> list[dict[str, str]]:
        """One row for each model, solver and number of evaluations."""
        rows = []
        keys = ["model", "solver", "evaluations", "showers"]
        for key, group in table.fillna({"solver": ""}).groupby(keys, sort=False):
            scores = {
                TITLES.get(line.quantity, line.quantity): plus_minus(line.value, line.uncertainty)
                for line in group.itertuples()
            }
            named = dict(zip(keys, key, strict=True))
            named["evaluations"] = named["evaluations"] or ""
            rows.append({**named, **scores})
        return rows

    def energy(self) -> float:
        """The incident energy in MeV of the gallery: of the evaluation showers' median one."""
        energies = self.judge.geant4.incident_energy
        return float(sorted(energies)[len(energies) // 2])

    def gallery(self, counts: tuple[int, ...] = (1, 4, 16)) -> dict[str, Showers]:
        """Showers of one incident energy: Geant4's, and each surrogate's by fewer and more
        evaluations, all from the same noise."""
        energy = self.energy()
        geant4 = load(self.dataset, "evaluation", rows=slice(0, self.n))
        near = abs(geant4.incident_energy / energy - 1.0).argmin()
        samples = {"Geant4": geant4[near : near + 1]}
        for each in self.surrogates:
            solver = _words(self.solvers)[0]
            for count in counts:
                if count >= SOLVERS[solver].last:
                    samples[f"{each.name}, {count}"] = each.sample(
                        samples["Geant4"].incident_energy,
                        seed=self.seed,
                        solver=solver,
                        evaluations=count,
                    )
        return samples

    def save(self, own: pd.DataFrame) -> None:
        """Write the scores of this page into the results folder."""
        numbers = [
            Number(
                name=f"{line.quantity} of {line.model} after {line.evaluations} ({line.solver})"
                if line.solver
                else f"{line.quantity} of {line.model}",
                value=line.value,
                uncertainty=line.uncertainty,
                uncertainty_kind=line.uncertainty_kind,
            )
            for line in own.itertuples()
            if line.value is not None
        ]
        self.save_numbers(numbers, size="embedded", sample_size=self.n, seed=self.seed)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
