"""Scores and times of a walk as the numbers of its result."""

from __future__ import annotations

from collections.abc import Iterable

from calostudy.metrics import Score
from calostudy.results import Number
from calostudy.timing import Geant4Time, SurrogateTime


def score_numbers(scores: Iterable[Score], prefix: str = "") -> list[Number]:
    """One number per score that has a value; the page's table says why another has none."""
    return [
        Number(
            name=prefix + score.name,
            value=score.value,
            uncertainty=score.uncertainty,
            uncertainty_kind=score.uncertainty_kind,
            details=score.as_dict(),
        )
        for score in scores
        if score.value is not None
    ]


def time_number(name: str, time: SurrogateTime) -> Number:
    """Of a surrogate at one batch size."""
    return Number(
        name=name,
        value=time.value,
        uncertainty=(time.high - time.low) / 2,
        uncertainty_kind="half the 16-84 % range over rounds",
        unit="ms per shower",
        details=time.as_dict(),
    )


def geant4_number(geant4: Geant4Time) -> Number:
    """Of Geant4 on one core."""
    return Number(
        name="Geant4",
        value=geant4.value,
        uncertainty=geant4.uncertainty,
        uncertainty_kind="error of the mean",
        unit="CPU ms per shower",
        details=geant4.as_dict(),
    )
