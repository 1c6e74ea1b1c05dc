"""The three kinds of walk that the notebooks take: a dataset, a model, a hardware target.

Each is the notebook's parameters, checked, with the few calls that the notebook makes. A walk
measures nothing itself; it asks the floors below and saves what they answer as results.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from calostudy.datasets import DATASETS, Dataset, load
from calostudy.errors import UsageError
from calostudy.models import MODELS
from calostudy.showers import Showers


class Walk(BaseModel):
    """Parameters of a notebook. Unknown names and impossible values are one clear UsageError."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: ClassVar[str]
    dataset: str
    results: str = "results"

    def __init__(self, **values):
        try:
            super().__init__(**values)
        except ValidationError as error:
            parts = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise UsageError(f"parameters of the {self.kind} walk: " + "; ".join(parts)) from None

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, name: str) -> str:
        if name not in DATASETS:
            raise ValueError(f"no dataset {name!r}; there are {', '.join(DATASETS)}")
        return name

    @property
    def entry(self) -> Dataset:
        return DATASETS[self.dataset]

    @staticmethod
    def low_middle_high(showers: Showers) -> list[int]:
        """Showers at the 10, 50 and 90 % quantiles of the incident energy."""
        order = np.argsort(showers.incident_energy)
        return [int(order[int(q * (len(order) - 1))]) for q in (0.1, 0.5, 0.9)]
