"""The walk through the answers of the study: five sentences and three figures, all computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import field_validator

from calostudy.datasets import DATASETS
from calostudy.errors import DataError
from calostudy.evaluations import GEANT4
from calostudy.metrics.evaluation import DISTINCT
from calostudy.metrics.pareto import front
from calostudy.tables import measured, plus_minus
from calostudy.walks.leaderboard import LeaderboardWalk
from calostudy.walks.walk import Walk

LARGE = 100
"""Batch size of the times that are not of single showers."""

PAGES = Path("book/runs")
QUALITY = "separation_power"
FEWEST = 2
"""Surrogates that a data set needs for a ranking."""

NAMED = 2
"""Data sets that the sentences name, those with the most surrogates; the figures show all."""

Pair = tuple[float, float]


@dataclass(frozen=True)
class Entry:
    """One surrogate of one data set: separation power, the floor, AUC of the observables and its
    floor, ms per shower by batch size, speed-up over Geant4 by batch size; each (value,
    uncertainty)."""

    model: str
    dataset: str
    title: str
    separation: Pair
    floor: Pair
    auc: Pair
    auc_floor: Pair
    times: dict[int, Pair]
    speed_ups: dict[int, Pair]


def distance(value: Pair, floor: Pair) -> float:
    """From the floor, in standard deviations.

    >>> distance((3.0, 0.3), (2.0, 0.4))
    2.0
    """
    return float((value[0] - floor[0]) / np.hypot(value[1], floor[1]))


def ratio(a: Pair, b: Pair) -> Pair:
    """a / b and its uncertainty, of independent numbers; an unknown uncertainty counts as none.

    >>> ratio((6.0, 0.6), (2.0, 0.0))
    (3.0, 0.3)
    """
    relative = np.hypot(*(np.nan_to_num(error) / value for value, error in (a, b)))
    return a[0] / b[0], round(float(a[0] / b[0] * relative), 12)


class AnswersWalk(Walk):
    """Parameters of ``notebooks/answers.ipynb``; it is about all data sets."""

    kind: ClassVar[str] = "answers"
    dataset: Literal["all"] = "all"

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, name: str) -> str:
        return name

    def page_name(self) -> str:
        return "answers"

    def title(self) -> str:
        return "Surrogates for calorimeter showers"

    @cached_property
    def entries(self) -> list[Entry]:
        """Every surrogate of every data set that has a leaderboard.

        Raises:
            DataError: there is none.
        """
        found = []
        for dataset in DATASETS:
            try:
                board = LeaderboardWalk(dataset=dataset, results=self.results)
                names = board.models
            except DataError:
                continue  # nobody has measured one
            if len(names) >= FEWEST:
                found += [_entry(board, name) for name in names]
        if not found:
            raise DataError("data/measured/leaderboard.csv has no data set with two surrogates")
        return found

    @property
    def boards(self) -> dict[str, list[Entry]]:
        """The surrogates of each data set, the most accurate first."""
        boards: dict[str, list[Entry]] = {}
        for entry in sorted(self.entries, key=lambda entry: entry.separation[0]):
            boards.setdefault(entry.dataset, []).append(entry)
        return {name: boards[name] for name in DATASETS if name in boards}

    @property
    def named(self) -> list[list[Entry]]:
        """The boards that the sentences are about, the largest first."""
        return sorted(self.boards.values(), key=len, reverse=True)[:NAMED]

    def best(self) -> list[Entry]:
        """The most accurate surrogate of each data set that is named."""
        return [board[0] for board in self.named]

    def fastest(self) -> list[Entry]:
        """The fastest surrogate of each in large batches."""
        return [min(board, key=lambda e: e.times[LARGE][0]) for board in self.named]

    def on_front(self) -> list[Entry]:
        """The surrogates that no other one of their data set beats in time and accuracy."""
        found = []
        for board in self.boards.values():
            times = np.array([entry.times[LARGE][0] for entry in board])
            powers = np.array([entry.separation[0] for entry in board])
            chosen = front(times, -powers)
            found += [entry for entry, ahead in zip(board, chosen, strict=True) if ahead]
        return found

    # ---- five sentences -----------------------------------------------------------------------

    def sentences(self) -> list[str]:
        """The answers, in Markdown."""
        return [
            self._accuracy(),
            self._speed(),
            self._speed_up(),
            self._limit(),
            self._belief(),
        ]

    def _accuracy(self) -> str:
        parts = _listed(
            f"on {_link(entry.title, f'leaderboard-{entry.dataset}')} it is "
            f"{_model(entry)} with {plus_minus(*entry.separation)}, where other showers of Geant4 "
            f"itself have {plus_minus(*entry.floor)}: "
            f"{distance(entry.separation, entry.floor):.1f} standard deviations apart"
            for entry in self.best()
        )
        return f"**The most accurate** surrogate has the smallest separation power; {parts}."

    def _speed(self) -> str:
        parts = _listed(
            f"{plus_minus(*best.times[LARGE])} ms with {_model(best)} and "
            f"{plus_minus(*fast.times[LARGE])} ms with the fastest, {_model(fast)} (separation "
            f"power {plus_minus(*fast.separation)}), on {best.title}"
            for best, fast in zip(self.best(), self.fastest(), strict=True)
        )
        return (
            f"**A shower takes**, in batches of {LARGE} on {_link('one thread', 'results')} of a "
            f"CPU, {parts}."
        )

    def _speed_up(self) -> str:
        parts = _listed(
            f"{plus_minus(*best.speed_ups[LARGE])} (the fastest: "
            f"{plus_minus(*fast.speed_ups[LARGE])}) on {best.title}"
            for best, fast in zip(self.best(), self.fastest(), strict=True)
        )
        return (
            "**The speed-up over Geant4**, one core against one thread at the incident energies "
            f"of the sample, is that of the most accurate {parts}."
        )

    def growth(self) -> tuple[int, Pair, int, Pair, Pair]:
        """Of the learning curve: fewest training showers and separation power there, most and
        there, and the floor."""
        table = measured("learning_curve")
        table = table[table["quantity"] == QUALITY]
        floor = table[table["training_showers"].isna()].iloc[0]
        own = table[table["epochs"] == "recipe"].sort_values("training_showers")
        ends = [
            (int(line.training_showers), (line.value, line.uncertainty))
            for line in own.iloc[[0, -1]].itertuples()
        ]
        return *ends[0], *ends[1], (floor["value"], floor["uncertainty"])

    def overheads(self) -> np.ndarray:
        """ms per shower one by one over those in large batches, of each surrogate."""
        return np.array([e.times[1][0] / e.times[LARGE][0] for e in self.entries])

    def _limit(self) -> str:
        few, small, many, large, floor = self.growth()
        return (
            f"**What limits** them is, in accuracy, the number of showers to learn from: trained "
            f"on {few:,} to {many:,} showers by {_link('one recipe', 'results')}, a flow has a "
            f"separation power of {plus_minus(*small)} to {plus_minus(*large)} (floor "
            f"{plus_minus(*floor)}); and in speed what does not grow with the batch, since one "
            f"by one a shower takes {np.median(self.overheads()):.1f} times as long as in batches "
            f"of {LARGE} (median of {len(self.entries)} surrogates)."
        )

    def seen(self) -> tuple[int, int]:
        """Surrogates told from Geant4 by the AUC of observables, and by the separation power."""
        by_auc = sum(distance(e.auc, e.auc_floor) > DISTINCT for e in self.entries)
        by_power = sum(distance(e.separation, e.floor) > DISTINCT for e in self.entries)
        return by_auc, by_power

    def _belief(self) -> str:
        by_auc, by_power = self.seen()
        gains = sorted(e.speed_ups[LARGE][0] / e.speed_ups[1][0] for e in self.entries)
        return (
            f"**Do not believe** an AUC without its {_link('floor', 'results')}: with the same "
            f"showers, that of the observables tells {by_auc} of {len(self.entries)} surrogates "
            f"from Geant4 by {DISTINCT:g} standard deviations, the separation power {by_power}; "
            "nor a speed-up without its batch size, which changes it here by a factor of up to "
            f"{gains[-1]:.0f}; nor any of these times on another machine than "
            f"{_link('theirs', 'tables-of-the-papers')}."
        )


def _entry(board: LeaderboardWalk, model: str) -> Entry:
    geant4 = board.geant4_beside(model)
    times = {batch: board.time(model, batch)[:2] for batch in (1, LARGE)}
    return Entry(
        model=model,
        dataset=board.dataset,
        title=board.entry.title_of("simulated"),
        separation=board.quality(model, QUALITY),
        floor=board.quality(GEANT4, QUALITY),
        auc=board.quality(model, "auc_high"),
        auc_floor=board.quality(GEANT4, "auc_high"),
        times=times,
        speed_ups={batch: ratio(geant4, time) for batch, time in times.items()},
    )


def _model(entry: Entry) -> str:
    return _link(entry.model, f"model-{entry.model}-{entry.dataset}-embedded")


def _link(text: str, page: str) -> str:
    """A link to an executed page, where the study has it."""
    return f"[{text}]({page}.ipynb)" if (PAGES / f"{page}.ipynb").exists() else text


def _listed(parts: Iterable[str]) -> str:
    """Parts of a sentence, one after the other.

    >>> _listed(["a", "b", "c"])
    'a; b; and c'
    """
    parts = list(parts)
    return parts[0] if len(parts) == 1 else "; ".join(parts[:-1]) + f"; and {parts[-1]}"
