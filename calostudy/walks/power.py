"""The walk through the metrics: what each sees of defects planted into Geant4 showers."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from calostudy.metrics import Sample
from calostudy.metrics.defects import DEFECTS
from calostudy.metrics.discrimination import SEEN, discriminations, first_seen
from calostudy.metrics.histograms import RATIO, VOXEL, separations
from calostudy.power import UNTRAINED, Plan, Pool, compare
from calostudy.results import Number
from calostudy.showers import Showers
from calostudy.tables import measured
from calostudy.walks.walk import Walk

Observed = tuple[str, np.ndarray, np.ndarray]

NULLS = 4  # draws without a defect for each with one: they are the unit of every number
NAMED = 4  # metrics that a conclusion names for what they see
CLEAR = 100.0  # discriminations beyond have no decimal


class PowerWalk(Walk):
    """Parameters of ``notebooks/power.ipynb``."""

    kind: ClassVar[str] = "power"
    n: int = Field(1000, ge=50)
    trials: int = Field(3, ge=1)
    seed: int = Field(2, ge=0)
    metrics: str = ""

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, text: str) -> str:
        Plan(metrics=_names(text))
        return text

    def page_name(self) -> str:
        return f"power-{self.dataset}"

    def title(self) -> str:
        return f"What the metrics see: {self.entry.title_of('simulated')}"

    @cached_property
    def pool(self) -> Pool:
        """All shipped showers of the data set."""
        return Pool.open(self.dataset)

    def introduction(self) -> str:
        """What is compared here, in Markdown."""
        return (
            f"**{self.entry.title_of('simulated')}**, {len(self.pool.showers):,} Geant4 showers. "
            f"Each comparison is of {self.n:,} of them with {self.n:,} others: {self.trials} with "
            f"each of {len(DEFECTS)} defects, {NULLS * self.trials} without one."
        )

    def planted(self, defect: str) -> tuple[Showers, Showers, str, Observed]:
        """Showers without and with a defect, its name, and the observable that it changes most.

        The observable, by separation power, has its values (N,) without and with the defect.
        """
        clean, _ = self.pool.draw(self.n, 0, self.seed)
        spoiled = DEFECTS[defect](clean, seed=0)
        samples = [Sample.of(showers, self.entry) for showers in (spoiled, clean)]
        powers = {
            name: each.value
            for name, each in separations(*samples, replicas=2).items()
            if name != VOXEL and not name.startswith(f"{RATIO}/")
        }
        name = max(powers, key=powers.get)
        values = [sample.distributions[name] for sample in samples[::-1]]
        return clean, spoiled, defect, (name, *values)

    def measure(self) -> pd.DataFrame:
        """The discriminations of this page's own comparisons, as of `discriminations`."""
        plan = Plan(
            dataset=self.dataset,
            metrics=_names(self.metrics),
            sizes=(self.n,),
            trials=self.trials,
            nulls=NULLS * self.trials,
            seed=self.seed,
        )
        lines = []
        for n, trial, planted in plan.draws():
            wanted = [(each, plan.functions) for each in planted]
            for part in compare(self.pool, n, trial, self.seed, wanted):
                lines += part
        return discriminations(pd.DataFrame(lines).astype({"value": float}))

    def shipped(self) -> pd.DataFrame:
        """The shipped discriminations (``data/measured/power.csv.gz``) of this data set."""
        table = measured("power")
        return discriminations(table[table["dataset"] == self.dataset])

    @staticmethod
    def nominal(found: pd.DataFrame) -> pd.DataFrame:
        """The lines of nominal strength."""
        return found[found["strength"] == found["defect"].map(lambda name: DEFECTS[name].strength)]

    @staticmethod
    def scan(found: pd.DataFrame) -> pd.DataFrame:
        """The lines of the largest number of showers with which several strengths were planted."""
        strengths = found.groupby(["defect", "showers"])["strength"].transform("nunique")
        several = found[strengths > 1]
        return several[several["showers"] == several["showers"].max()]

    def study(self, own: pd.DataFrame) -> pd.DataFrame:
        """The shipped study of this data set, else this page's `own` comparisons."""
        shipped = self.shipped()
        return own if shipped.empty else shipped

    @staticmethod
    def conclusions(found: pd.DataFrame) -> str:
        """Of each defect, which metrics see it best with the fewest showers, and which not at all.

        In Markdown; found: as of `discriminations`, with one strength for each defect.
        """
        lines = []
        for defect, seen in first_seen(found, "showers").groupby("defect", sort=False):
            fewest = seen["seen_from"].min()
            own = found[(found["defect"] == defect) & (found["showers"] == fewest)]
            first = seen["metric"][seen["seen_from"] == fewest]
            clearest = own[own["metric"].isin(first)].nlargest(NAMED, "d")
            best = ", ".join(
                f"`{r.metric}` (d = {r.d:,.{int(r.d < CLEAR)}f})" for r in clearest.itertuples()
            )
            words = [f"seen with {fewest:,.0f} showers by {best}" if best else "not seen"]
            for most, blind in seen[seen["seen_from"].isna()].groupby("tried_to"):
                words.append(
                    f"not with {most:,} by " + ", ".join(f"`{m}`" for m in blind["metric"])
                )
            lines.append(f"- **{DEFECTS[defect].at()}**: {'; '.join(words)}.")
        return "\n".join(lines)

    def save(self, found: pd.DataFrame) -> None:
        """Write the discriminations of this page into the results folder."""
        numbers = [
            Number(
                name=f"{row.metric} sees {row.defect}",
                value=row.d,
                uncertainty=row.uncertainty if np.isfinite(row.uncertainty) else None,
                uncertainty_kind="bootstrap over trials",
                unit="standard deviations without a defect",
                details={
                    "strength": row.strength,
                    "mean": row.value,
                    "mean without a defect": row.null,
                    "trials": row.trials,
                    "without a defect": row.nulls,
                    "counts as seen from": SEEN,
                },
            )
            for row in found[np.isfinite(found["d"])].itertuples()
        ]
        self.save_numbers(numbers, sample_size=self.n, seed=self.seed)


def _names(text: str) -> tuple[str, ...]:
    """Metrics of a list with commas; of none those without a training."""
    return tuple(part.strip() for part in text.split(",") if part.strip()) or UNTRAINED
