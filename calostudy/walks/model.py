"""The walk through a surrogate: training, showers, shapes, scores."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from calostudy.datasets import load, showers_path
from calostudy.errors import UsageError
from calostudy.metrics import DEFAULT, Score, evaluate
from calostudy.metrics.diagnosis import Diagnosis, diagnose_quickly
from calostudy.metrics.histograms import binning
from calostudy.metrics.measurement import EPOCHS
from calostudy.metrics.sample import Sample
from calostudy.models import build, shipped_weights
from calostudy.models import load as load_surrogate
from calostudy.models.surrogate import Surrogate, read_card
from calostudy.showers import Showers
from calostudy.tables import published_scores
from calostudy.training import train, trained_on
from calostudy.walks.numbers import score_numbers
from calostudy.walks.walk import Walk


class ModelWalk(Walk):
    """Parameters of ``notebooks/model.ipynb``."""

    kind: ClassVar[str] = "model"
    model: str
    size: str = "embedded"
    weights: str = ""
    n: int = Field(1000, ge=100)
    train_showers: int = Field(500, ge=50)
    epochs: int = Field(2, ge=1)
    repeats: int = Field(2, ge=1)
    hidden: int = Field(0, ge=0)
    classifier_epochs: int = Field(EPOCHS, ge=1)
    seed: int = Field(0, ge=0)

    def page_name(self) -> str:
        return f"model-{self.model}-{self.dataset}-{self.size}"

    def title(self) -> str:
        return f"{self.model} on {self.entry.title_of('simulated')} ({self.size} size)"

    def surrogate(self) -> tuple[Surrogate, dict[str, Any]]:
        """The surrogate and its card: given weights, shipped ones, or a short training here."""
        given = Path(self.weights) if self.weights else None
        directory = given or shipped_weights(self.model, self.dataset, self.size)
        if directory is not None:
            return load_surrogate(directory), read_card(directory) | {"short": False}
        surrogate = build(self.model, self.dataset, self.size, seed=self.seed)
        if surrogate.teacher_name:
            teacher = shipped_weights(surrogate.teacher_name, self.dataset, "embedded")
            if teacher is None:
                raise UsageError(
                    f"{self.model} learns from {surrogate.teacher_name}, of which no weights are "
                    f"shipped for {self.dataset}: distil one, and give its folder as `weights`"
                )
            surrogate.learn_from(load_surrogate(teacher))
        showers = load(self.dataset, "train", rows=slice(0, self.train_showers))
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "weights"
            train(
                surrogate,
                showers,
                out,
                seed=self.seed,
                epochs=self.epochs,
                data_path=showers_path(self.dataset, "train"),
            )
            return surrogate, read_card(out) | {"short": True}

    def introduction(self, card: Mapping[str, Any]) -> str:
        """What was trained, on what, for how long, in Markdown."""
        training = card["training"]
        seconds = sum(card["training_seconds"].values())
        text = (
            f"**{self.model}** in {self.size} size, trained on {training['showers']:,} showers of "
            f"{self.entry.title_of('simulated')} (seed {training['seed']}), in "
            f"{seconds / 60:.0f} minutes on {trained_on(card)}; "
            f"weights SHA-256 {card['weights_sha256'][:12]}."
        )
        if card["short"]:
            text += (
                "\n\n:::{warning}\nNo trained weights are shipped for this choice. What follows "
                f"was trained for {self.epochs} epochs while this page was made: it shows how, not "
                "how well.\n:::"
            )
        return text

    def parameter_rows(self, surrogate: Surrogate) -> list[dict[str, str]]:
        """Parameters per network, here and in the published size, if it is known; a size may lack
        networks that the other one has."""
        own, paper = surrogate.parameters_by_network(), {}
        if "paper" in surrogate.sizes:
            paper = build(self.model, self.dataset, "paper").parameters_by_network()

        def shown(counts: dict[str, int], name: str) -> str:
            return f"{counts[name]:,}" if name in counts else "none"

        return [
            {
                "network": name,
                self.size: shown(own, name),
                "published size": shown(paper, name) if paper else "not public",
            }
            for name in {**own, **paper}
        ]

    def reference(self) -> Showers:
        """Geant4 showers that the surrogate has not seen: the first ``n`` for evaluation."""
        return load(self.dataset, "evaluation", rows=slice(0, self.n))

    def generate(self, surrogate: Surrogate, energies: np.ndarray) -> Showers:
        """Showers for the incident energies (N,) in MeV."""
        return self.generated(surrogate, energies, self.seed)

    def scores(self, generated: Showers, geant4: Showers) -> list[Score]:
        """Every metric; the floor is from the training sample, independent of this one."""
        return evaluate(
            generated,
            geant4,
            self.entry,
            metrics=DEFAULT,
            repeats=self.repeats,
            hidden=self.hidden or None,
            seed=self.seed,
            floor=load(self.dataset, "train", rows=slice(0, len(geant4))),
            epochs=self.classifier_epochs,
            by_energy=True,
            keep=self.kept_folder,
        )

    def edges(self, reference: Sample) -> dict[str, np.ndarray]:
        """Bin edges of every observable, decided by the reference."""
        return {n: binning(n, self.entry, v).edges for n, v in reference.distributions.items()}

    def diagnosis(self, samples: Mapping[str, Showers]) -> Diagnosis:
        """Which cells give the surrogate away; it shows where to look, and is no score."""
        geant4, generated = samples.values()
        epochs = self.classifier_epochs
        return diagnose_quickly(generated, geant4, self.entry, epochs=epochs, seed=self.seed)

    @staticmethod
    def separation_rows(scores: list[Score], most: int = 20) -> list[dict[str, Any]]:
        """The observables with the largest separation power, largest first."""
        details = next(score.details for score in scores if score.name == "separation_power")
        rows = [{"name": n, **part} for n, part in details.items() if part["value"] is not None]
        return sorted(rows, key=lambda row: -row["value"])[:most]

    def worst(self, scores: list[Score], count: int) -> list[str]:
        """Names of the observables (not the cell spectrum) that differ most."""
        rows = self.separation_rows(scores, most=10**6)
        return [row["name"] for row in rows if row["name"] != "voxel"][:count]

    def published_rows(self) -> list[dict[str, str]]:
        """Published scores of this model, each with its dataset and source."""
        return published_scores(self.model)

    def save(self, card: Mapping[str, Any], scores: list[Score]) -> None:
        """Write the scores of this page into the results folder."""
        self.save_numbers(
            score_numbers(scores),
            model=self.model,
            size=self.size,
            weights_sha256=card["weights_sha256"],
            sample_size=self.n,
            seed=self.seed,
        )
