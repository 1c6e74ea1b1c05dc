"""Results: small JSON files, one per page of the grid, each number with its provenance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from calostudy.errors import DataError
from calostudy.files import atomic_path
from calostudy.provenance import provenance


class Number(BaseModel):
    """A measured value; ``details`` holds what else belongs to it (quantiles, floor, ...)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    name: str
    value: float
    uncertainty: float | None = None
    uncertainty_kind: str = ""
    unit: str = ""
    details: dict[str, Any] = Field(default_factory=dict)


class Result(BaseModel):
    """What one page of the grid measured, and all that the numbers depend on.

    ``weights_sha256``: of the weights that ran, "untrained" for random ones. ``sample_size``:
    showers generated or read; ``source``: of the reference showers, "simulated" or "public".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal[
        *("dataset", "model", "hardware", "power", "student"),
        *("evaluations", "comparison", "ranking", "segmentations", "leaderboard"),
        *("tables", "shower", "growth", "lesson", "precisions"),
    ]
    dataset: str
    source: Literal["simulated", "public"] = "simulated"
    model: str | None = None
    size: str | None = None
    weights_sha256: str | None = None
    target: str | None = None
    sample_size: int | None = None
    seed: int | None = None
    numbers: tuple[Number, ...]
    provenance: dict[str, Any] = Field(default_factory=provenance)

    def number(self, name: str) -> Number | None:
        """The number of that name, or None."""
        return next((number for number in self.numbers if number.name == name), None)


def save_result(result: Result, path: str | Path) -> Path:
    """Write one result as JSON; the file appears whole or not at all."""
    with atomic_path(Path(path)) as temporary:
        Path(temporary).write_text(result.model_dump_json(indent=1) + "\n")
    return Path(path)


def load_results(folder: str | Path) -> list[Result]:
    """Every result of a folder, in the order of the file names.

    Raises:
        DataError: a file is not a result, with what is wrong in it.
    """
    # A name with a dot in front is a file that somebody is writing at this moment.
    paths = [path for path in Path(folder).glob("*.json") if not path.name.startswith(".")]
    return [_load(path) for path in sorted(paths)]


def _load(path: Path) -> Result:
    try:
        return Result.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: not a result of the study: {where} {first['msg']}") from None


def select(results: Sequence[Result], **wanted: Any) -> list[Result]:
    """The results whose fields have the wanted values."""
    return [r for r in results if all(getattr(r, key) == value for key, value in wanted.items())]
