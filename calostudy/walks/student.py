"""The walk through teacher and student: does a surrogate need to be distilled to be fast?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from calostudy.datasets import load
from calostudy.energies import GEV
from calostudy.errors import UsageError
from calostudy.hardware import target
from calostudy.metrics import Score, evaluate
from calostudy.metrics.histograms import binning
from calostudy.metrics.measurement import EPOCHS
from calostudy.metrics.sample import Sample
from calostudy.models import build, shipped_weights
from calostudy.models import load as load_surrogate
from calostudy.models.caloflow import VOXELS, CaloFlow
from calostudy.models.surrogate import read_card
from calostudy.profiling import nflows_operations, reached, stages
from calostudy.showers import Showers
from calostudy.timing import Contestant, Geant4Time, SurrogateTime, time_contestants
from calostudy.walks import student_tables
from calostudy.walks.hardware import batch_sizes, geant4_cost
from calostudy.walks.numbers import geant4_number, score_numbers, time_number
from calostudy.walks.student_tables import PLAIN, ROLES, STUDENT, TEACHER, Cards, Curve
from calostudy.walks.walk import Walk

TARGET = "cpu-1/fp32"
METRICS = (
    *("separation_power", "fpd", "kpd", "chi2_response", "mean_response", "rms_response"),
    *("pcc_neighbours", "auc_low", "jsd_low", "auc_high", "jsd_high"),
)


class StudentWalk(Walk):
    """Parameters of ``notebooks/student.ipynb``."""

    kind: ClassVar[str] = "student"
    size: str = "embedded"
    n: int = Field(1000, ge=100)
    repeats: int = Field(2, ge=1)
    hidden: int = Field(0, ge=0)
    classifier_epochs: int = Field(EPOCHS, ge=1)
    batches: str = "1,10,100"
    paper_batches: str = ""
    rounds: int = Field(5, ge=1)
    geant4_showers: int = Field(0, ge=0)
    seed: int = Field(0, ge=0)

    @field_validator("batches", "paper_batches")
    @classmethod
    def _whole_numbers(cls, text: str) -> str:
        if text:
            batch_sizes(text)
        return text

    def page_name(self) -> str:
        return f"student-{self.dataset}-{self.size}"

    def title(self) -> str:
        return f"Teacher and student on {self.entry.title_of('simulated')} ({self.size} size)"

    @cached_property
    def surrogates(self) -> dict[str, CaloFlow]:
        """Teacher and student with their trained weights."""
        return {role: load_surrogate(self._weights(role)) for role in ROLES}

    def cards(self) -> dict[str, dict[str, Any]]:
        """What is known of the training of both."""
        return {role: read_card(self._weights(role)) for role in ROLES}

    def _weights(self, role: str):
        directory = shipped_weights(ROLES[role], self.dataset, self.size)
        if directory is None:
            raise UsageError(
                f"no trained weights of {ROLES[role]} {self.dataset} {self.size}: make them with "
                "`calostudy train` and `calostudy distill`"
            )
        return directory

    # ---- what is compared ------------------------------------------------------------------

    def voxel_rows(self) -> list[dict[str, Any]]:
        """Layers and cells of the calorimeter."""
        return student_tables.voxel_rows(self.entry.calorimeter)

    def network_rows(self) -> list[dict[str, str]]:
        """Nodes of the masked networks and parameters of flow-II, and what is published."""
        return student_tables.network_rows(self.entry, self.size)

    def training_rows(self, cards: Cards) -> list[dict[str, str]]:
        """Epochs, minutes and learning rates, of these weights and as published."""
        return student_tables.training_rows(self.dataset, cards)

    def schedules(self, cards: Cards) -> dict[str, dict[str, Curve]]:
        """Learning rates of flow-II: {panel: {role: (epochs, rates)}}, as published and here."""
        return student_tables.schedules(self.dataset, cards)

    # ---- showers ------------------------------------------------------------------------------

    def samples(self) -> dict[str, Showers]:
        """Geant4 showers that neither has seen, and as many of both at the same energies."""
        geant4 = load(self.dataset, "evaluation", rows=slice(0, self.n))
        return {"Geant4": geant4} | {
            role: self.generated(surrogate, geant4.incident_energy, self.seed)
            for role, surrogate in self.surrogates.items()
        }

    def centre_names(self, compared: Mapping[str, Sample]) -> list[str]:
        """The observables that are centres or widths of layers, if they vary."""
        truth = compared["Geant4"].distributions
        names = [n for n in truth if n.split("/")[0] in ("EC_eta", "EC_phi")]
        return [n for n in names if np.ptp(truth[n]) > 0]

    def edges(self, compared: Mapping[str, Sample]) -> dict[str, np.ndarray]:
        """Bin edges of every observable, decided by Geant4."""
        truth = compared["Geant4"].distributions
        return {name: binning(name, self.entry, values).edges for name, values in truth.items()}

    def scores(self, samples: Mapping[str, Showers]) -> dict[str, list[Score]]:
        """Scores of both; the floor is from the training sample, independent of this one."""
        geant4 = samples["Geant4"]
        floor = load(self.dataset, "train", rows=slice(0, len(geant4)))
        return {
            role: evaluate(
                samples[role],
                geant4,
                self.entry,
                metrics=METRICS,
                repeats=self.repeats,
                hidden=self.hidden or None,
                seed=self.seed,
                floor=floor,
                epochs=self.classifier_epochs,
                keep=self.kept_folder,
            )
            for role in ROLES
        }

    def score_rows(self, scores: Mapping[str, Sequence[Score]]) -> list[dict[str, str]]:
        """One row per metric: both, the floor, and what is published of both."""
        return student_tables.score_rows(self.dataset, scores)

    # ---- times --------------------------------------------------------------------------------

    def times(self) -> dict[str, list[SurrogateTime]]:
        """Both, by our samplers and by nflows, interleaved at each batch size.

        Trained in this size; in the published size, with random weights, if `paper_batches` are
        given. Ratios are to the student sampled by nflows.
        """
        found = self._times(self.surrogates, self.batches)
        if self.paper_batches and self.size != "paper":
            paper = {role: build(model, self.dataset, "paper") for role, model in ROLES.items()}
            for name, times in self._times(paper, self.paper_batches).items():
                found[name] += times
        return found

    def _times(
        self, surrogates: Mapping[str, CaloFlow], batches: str
    ) -> dict[str, list[SurrogateTime]]:
        contestants: dict[str, Contestant] = {
            **{role: (surrogate, None) for role, surrogate in surrogates.items()},
            **{role + PLAIN: (surrogate, "nflows") for role, surrogate in surrogates.items()},
        }
        found: dict[str, list[SurrogateTime]] = {name: [] for name in contestants}
        for batch in batch_sizes(batches):
            measured = time_contestants(
                contestants, batch, TARGET, STUDENT + PLAIN, self.rounds, self.seed
            )
            for name, time in measured.items():
                found[name].append(time)
        return found

    @staticmethod
    def time_rows(times: Mapping[str, Sequence[SurrogateTime]]) -> list[dict[str, str]]:
        """One row per size and batch: ms per shower of all four, ratios to the plain student."""
        return student_tables.time_rows(times)

    @staticmethod
    def plot_rows(times: Mapping[str, Sequence[SurrogateTime]], size: str) -> list[dict[str, Any]]:
        """The times of one size, for a figure."""
        return [
            {"label": name, "batch": t.batch, "value": t.value, "low": t.low, "high": t.high}
            for name, entries in times.items()
            for t in entries
            if t.size == size
        ]

    def published_time_rows(self) -> list[dict[str, str]]:
        """Published times of both, of CaloGAN and of Geant4 on showers of this calorimeter."""
        return student_tables.published_time_rows(self.entry)

    def geant4(self) -> Geant4Time:
        """Geant4's CPU time per shower: measured now, on one core, or while the sample was made."""
        return geant4_cost(self.entry, self.geant4_showers)

    def times_by_energy(self, geant4: Geant4Time, count: int = 4) -> list[dict[str, Any]]:
        """ms per shower of both at fixed incident energies among those that Geant4 was timed at,
        one by one and in batches of 100."""
        energies = np.unique(geant4.energy_gev) * GEV
        chosen = np.geomspace(energies[0], energies[-1], count)
        chosen = [energies[np.abs(np.log(energies / energy)).argmin()] for energy in chosen]
        contestants = {role: (surrogate, None) for role, surrogate in self.surrogates.items()}
        rows = []
        for batch in (1, 100):
            for energy in chosen:
                found = time_contestants(contestants, batch, TARGET, rounds=3, energy=float(energy))
                rows += [
                    {"label": f"{name}, batch {batch}", "energy": energy / GEV,
                     "value": t.value, "low": t.low, "high": t.high}
                    for name, t in found.items()
                ]  # fmt: skip
        return rows

    def profile(self) -> tuple[dict[str, float], dict[int, dict[str, float]], list[dict[str, Any]]]:
        """Of the teacher: shares of operations in nflows at batch size 1; ms per batch of our
        stages by batch size; how near flow-II comes to the roofline."""
        teacher = self.surrogates[TEACHER]
        with target(TARGET).active():
            operations = nflows_operations(teacher, 1, self.seed)
            found = {b: stages(teacher, b, self.rounds) for b in batch_sizes(self.batches)}
            limits = [reached(teacher, b, ms[VOXELS]) for b, ms in found.items()]
        return operations, found, limits

    @staticmethod
    def limit_rows(limits: Sequence[Mapping[str, float]]) -> list[dict[str, str]]:
        """The rooflines as a table."""
        return student_tables.limit_rows(limits)

    def save(
        self,
        scores: Mapping[str, Sequence[Score]],
        times: Mapping[str, Sequence[SurrogateTime]],
        geant4: Geant4Time,
    ) -> None:
        """Write the numbers of this page into the results folder."""
        scored = [
            number
            for role, own in scores.items()
            for number in score_numbers(own, prefix=f"{role}: ")
        ]
        timed = [
            time_number(f"{name}: time at batch {time.batch}, {time.size} size", time)
            for name, entries in times.items()
            for time in entries
        ]
        student = self.surrogates[STUDENT]
        self.save_numbers(
            [*scored, *timed, geant4_number(geant4)],
            model=student.name,
            size=self.size,
            weights_sha256=student.weights_sha256,
            target=TARGET,
            sample_size=self.n,
            seed=self.seed,
        )
