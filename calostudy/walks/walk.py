"""What every walk is: a notebook's parameters, checked, and the calls that the notebook makes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from calostudy.datasets import DATASETS, Dataset
from calostudy.errors import UsageError
from calostudy.metrics.sample import Sample
from calostudy.models import MODELS
from calostudy.models.surrogate import Surrogate
from calostudy.results import Number, Result, save_result
from calostudy.showers import Showers
from calostudy.walks.shared import shared_showers


class Walk(BaseModel, ABC):
    """Parameters of a notebook. Unknown names and impossible values are one clear UsageError."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: ClassVar[str]
    dataset: str
    results: str = "results"

    def __init__(self, **values):
        try:
            super().__init__(**values)
        except ValidationError as error:
            parts = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise UsageError(f"parameters of the {self.kind} walk: {'; '.join(parts)}") from None

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, name: str) -> str:
        if name not in DATASETS:
            raise ValueError(f"no dataset {name!r}; there are {', '.join(DATASETS)}")
        return name

    @field_validator("model", check_fields=False)
    @classmethod
    def _known_model(cls, name: str) -> str:
        if name not in MODELS:
            raise ValueError(f"no model {name!r}; there are {', '.join(MODELS)}")
        return name

    @abstractmethod
    def page_name(self) -> str:
        """Name of the executed notebook, unique in a grid; it begins with the kind."""

    @abstractmethod
    def title(self) -> str:
        """Title of the page, without mathematics."""

    @property
    def entry(self) -> Dataset:
        """The catalogue's entry of the dataset."""
        return DATASETS[self.dataset]

    @property
    def results_folder(self) -> Path:
        return Path(self.results)

    @property
    def kept_folder(self) -> Path:
        """Where showers and measurements lie that other pages need, too."""
        return self.results_folder / "kept"

    def generated(self, surrogate: Surrogate, energies: np.ndarray, seed: int) -> Showers:
        """Showers of a surrogate for incident energies (N,) in MeV, made once for all pages."""
        return shared_showers(surrogate, energies, seed, self.kept_folder)

    def compared(self, samples: Mapping[str, Showers]) -> dict[str, Sample]:
        """The same showers with all that metrics and figures derive from them."""
        return {name: Sample.of(showers, self.entry) for name, showers in samples.items()}

    def save_numbers(self, numbers: Iterable[Number], **fields: Any) -> None:
        """Write the numbers of this page, with other `fields` of a `Result`, into the results
        folder."""
        result = Result(kind=self.kind, dataset=self.dataset, numbers=tuple(numbers), **fields)
        save_result(result, self.results_folder / f"{self.page_name()}.json")


def low_middle_high(showers: Showers) -> list[int]:
    """Showers at the 10, 50 and 90 % quantiles of the incident energy."""
    order = np.argsort(showers.incident_energy)
    return [int(order[int(q * (len(order) - 1))]) for q in (0.1, 0.5, 0.9)]
