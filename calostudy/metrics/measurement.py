"""What a metric is given and what it gives: options, and a value with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

EPOCHS = 50  # of the classifiers, as published


@dataclass(frozen=True)
class Options:
    """How metrics are computed. hidden: nodes of the classifiers, None for the published number."""

    repeats: int = 5
    seed: int = 0
    hidden: int | None = None
    epochs: int = EPOCHS
    replicas: int = 100
    device: str = "cpu"
    progress: bool = False


Parts = dict[str, tuple[float, float]]
"""Parts of a number by name, each (value, uncertainty)."""


@dataclass(frozen=True)
class Measurement:
    """A value with its uncertainty, of which `kind` says what it is.

    details: its parts by name, each (value, uncertainty). by_energy: the same metric in ranges of
    incident energy, where the metric has that from the same computation.
    """

    value: float
    uncertainty: float
    kind: str
    details: Parts = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    by_energy: Parts = field(default_factory=dict)
