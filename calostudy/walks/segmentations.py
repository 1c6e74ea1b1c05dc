"""The walk through segmentations: one autoregressive model on all of them, beside its twin that
does not know the sizes of cells."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator

from calostudy.datasets import load
from calostudy.errors import UsageError
from calostudy.metrics.measurement import Options
from calostudy.metrics.replicas import KIND
from calostudy.models import MODELS, shipped_weights
from calostudy.models import load as load_surrogate
from calostudy.models.dd_arm import DDARM, LEFT_OUT
from calostudy.results import Number
from calostudy.segmentations import resegment
from calostudy.showers import Showers
from calostudy.tables import plus_minus
from calostudy.walks.walk import Walk
from calostudy.zero_shot import (
    GROUPS,
    LAYERS,
    PAIRS,
    Distance,
    distances,
    mean_distance,
    quantities,
)

GEANT4, FLOOR = "Geant4", "Geant4, others"
SEEN, UNSEEN = "seen", "left out"


class SegmentationsWalk(Walk):
    """Parameters of ``notebooks/segmentations.ipynb``."""

    kind: ClassVar[str] = "segmentations"
    dataset: str = "segmentations"
    models: str = ""
    n: int = Field(300, ge=50, le=1000)
    replicas: int = Field(40, ge=2)
    seed: int = Field(1, ge=0)

    @field_validator("models")
    @classmethod
    def _autoregressive(cls, text: str) -> str:
        for name in _words(text):
            if not issubclass(MODELS.get(name, object), DDARM):
                raise ValueError(f"{name!r} makes no showers on other segmentations")
        return text

    def page_name(self) -> str:
        return f"segmentations-{self.dataset}"

    def title(self) -> str:
        return f"One model, many segmentations: {self.entry.title_of('simulated')}"

    @cached_property
    def surrogates(self) -> dict[str, DDARM]:
        """The surrogates by name: those asked for, else all with shipped weights."""
        wanted = _words(self.models)
        family = [name for name, each in MODELS.items() if issubclass(each, DDARM)]
        weights = {
            name: shipped_weights(name, self.dataset, "embedded") for name in wanted or family
        }
        missing = [name for name, folder in weights.items() if folder is None]
        if missing and (wanted or len(missing) == len(weights)):
            lacking = ", ".join(missing)
            raise UsageError(f"no weights of {lacking} are shipped for {self.dataset}")
        return {name: load_surrogate(folder) for name, folder in weights.items() if folder}

    def introduction(self) -> str:
        """What is compared here, in Markdown."""
        own = "\n".join(
            f"- **{name}**: {sum(each.parameters_by_network().values()):,} parameters, weights "
            f"{each.weights_sha256[:12]}"
            for name, each in self.surrogates.items()
        )
        left = "; ".join(
            f"{layer} {', '.join(f'{a} x {b}' for a, b in sizes)}"
            for layer, sizes in LEFT_OUT.items()
            if sizes
        )
        return (
            f"{self.entry.title_of('simulated')}, {self.n:,} showers of each (seed {self.seed}) on "
            f"{len(PAIRS)} segmentations, in embedded size:\n\n{own}\n\n"
            f"Left out of training: {left}."
        )

    @cached_property
    def showers(self) -> dict[tuple, dict[str, Showers]]:
        """By segmentation and sample: Geant4's evaluation showers, those of each surrogate, and as
        many other Geant4 showers; cells below the threshold are 0."""
        reference, others = (
            load(self.dataset, split, rows=slice(0, self.n)) for split in ("evaluation", "train")
        )
        found = {}
        for pair in PAIRS:
            samples = {GEANT4: resegment(reference, *pair)}
            for name, surrogate in self.surrogates.items():
                samples[name] = surrogate.sample(
                    reference.incident_energy, seed=self.seed, segmentation=pair
                )
            samples[FLOOR] = resegment(others, *pair)
            threshold = self.entry.threshold
            found[pair] = {name: s.above_threshold(threshold) for name, s in samples.items()}
        return found

    @cached_property
    def quantities(self) -> dict[tuple, dict[str, dict[str, np.ndarray]]]:
        """`calostudy.zero_shot.quantities` of all `showers`."""
        return {
            pair: {name: quantities(each, self.entry.threshold) for name, each in samples.items()}
            for pair, samples in self.showers.items()
        }

    @cached_property
    def distances(self) -> list[Distance]:
        """Distances of surrogates and of other Geant4 showers from Geant4's evaluation showers."""
        options = Options(replicas=self.replicas, seed=self.seed)
        return distances(self.quantities, options)

    def drawn(self, pair: tuple) -> dict[str, Showers]:
        """Showers of one segmentation for figures: all but the floor."""
        return {name: each for name, each in self.showers[pair].items() if name != FLOOR}

    def values(self, pair: tuple, quantity: str) -> dict[str, np.ndarray]:
        """One quantity of one segmentation for figures, finite values (M,) of each sample."""
        own = self.quantities[pair]
        found = {name: own[name][quantity] for name in own if name != FLOOR}
        return {name: each[np.isfinite(each)] for name, each in found.items()}

    def widths_by_size(self) -> tuple[dict[str, list], dict[str, set[str]]]:
        """For `calostudy.plots.means_by_size`: widths on each size of the inner and middle layer,
        and those of them that were left out."""
        panels = {}
        for number, layer in enumerate(("inner", "middle")):
            first = {pair[number]: pair for pair in reversed(PAIRS)}
            for axis, words in (("eta", "$\\eta$"), ("phi", "$\\varphi$")):
                panels[f"width in {words} [mm], {layer}"] = [
                    ("{} x {}".format(*size), self.values(first[size], f"width_{axis}/{number}"))
                    for size in LAYERS[layer]
                ]
        left_out = {
            label: {"{} x {}".format(*size) for size in LEFT_OUT[label.rsplit(" ")[-1]]}
            for label in panels
        }
        return panels, left_out

    def rows(self) -> list[dict[str, str]]:
        """Mean distances over the sizes of a layer that were seen in training, and over those that
        were not."""
        rows = []
        for layer, known, sizes in _kinds():
            for group in GROUPS:
                row = {"layer": layer, "sizes": f"{known} ({len(sizes)})", "distance of": group}
                for name in (*self.surrogates, FLOOR):
                    row[name] = plus_minus(
                        *mean_distance(self.distances, name, layer, group, sizes)
                    )
                rows.append(row)
        return rows

    def save(self) -> None:
        """Write the distances of this page into the results folder."""
        numbers = []
        for layer, known, sizes in _kinds():
            for group in GROUPS:
                for name in (*self.surrogates, FLOOR):
                    value, spread = mean_distance(self.distances, name, layer, group, sizes)
                    if np.isfinite(value):
                        numbers.append(
                            Number(
                                name=f"Wasserstein distance of {group}, {layer}, {known}: {name}",
                                value=value,
                                uncertainty=spread,
                                uncertainty_kind=KIND,
                            )
                        )
        self.save_numbers(numbers, size="embedded", sample_size=self.n, seed=self.seed)


def _kinds():
    """Layer, whether its sizes were seen in training, and those sizes."""
    for layer, sizes in LAYERS.items():
        for known in (SEEN, UNSEEN):
            chosen = tuple(s for s in sizes if (s in LEFT_OUT[layer]) == (known == UNSEEN))
            if chosen:
                yield layer, known, chosen


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
