"""The measured grid of times, ``data/measured/times.csv``: one line per cell, read and looked up.

A cell is a model with a data set and a size, on a target and a machine, at a batch size, as one of
three figures: cold (from the start of the process to the written file), latency (single showers,
one after the other) or throughput (warm, per batch). Times are ms per shower; a cell that could not
be measured has no value, and a reason. Where `evaluations` is a number, the time of a diffusion is
counted on from that of so many network evaluations and fewer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from calostudy.measured import read_lines
from calostudy.paths import data_dir

FIELDS = (
    *("machine", "date", "model", "dataset", "size", "trained", "target", "figure", "batch"),
    *("value", "low", "high", "p50", "p90", "p99", "unit", "rounds", "dropped", "busy", "noisy"),
    *("cpu_ms", "peak_memory_mib", "flops_per_shower", "bytes_per_shower", "roofline_fraction"),
    *("energy_joule", "evaluations", "reason", "weights_sha256", "made_by"),
)
FIGURES = ("cold", "latency", "throughput")
_TEXT = (
    *("machine", "date", "model", "dataset", "size", "trained", "target", "figure", "unit"),
    *("noisy", "reason", "weights_sha256", "made_by"),
)
ONE_THREAD, ALL_THREADS, GPU = "CPU, one thread", "CPU, all threads", "GPU"
KINDS = (ONE_THREAD, ALL_THREADS, GPU)


def grid_path() -> Path:
    """Where the study keeps the grid."""
    return data_dir() / "measured" / "times.csv"


def kind_of(target: str) -> str:
    """What a hardware target runs on.

    >>> kind_of("cpu-1/fp32"), kind_of("cpu-8/fp32"), kind_of("cuda/bf16")
    ('CPU, one thread', 'CPU, all threads', 'GPU')
    """
    device = target.partition("/")[0]
    if not device.startswith("cpu"):
        return GPU
    return ONE_THREAD if device == "cpu-1" else ALL_THREADS


def read_times(path: str | Path | None = None) -> pd.DataFrame:
    """The cells of a grid, by default of the shipped one; none where there is no file.

    Two more columns: `kind` of target, and `is_trained`. A line that was measured again later on
    the same machine replaces the earlier one.

    Raises:
        DataError: it is no grid of times.
    """
    table = read_lines(
        grid_path() if path is None else path, FIELDS, dtype=dict.fromkeys(_TEXT, str)
    )
    table = table.fillna(dict.fromkeys(_TEXT, ""))
    numbers = [name for name in FIELDS if name not in _TEXT]
    table[numbers] = table[numbers].apply(pd.to_numeric)
    table = table.assign(
        kind=table["target"].map(kind_of).astype(object),
        is_trained=table["trained"].str.lower().isin(["true", "1", "yes"]),
    )
    cell = ["machine", "model", "dataset", "size", "target", "figure", "batch"]
    ordered = table.sort_values("date", kind="stable")
    return ordered.drop_duplicates(cell, keep="last").sort_index().reset_index(drop=True)


@dataclass(frozen=True)
class Cell:
    """A time in ms per shower with its 16 and 84 % quantiles, or the reason why there is none."""

    model: str
    dataset: str
    size: str
    target: str
    figure: str
    batch: int
    value: float | None
    low: float | None
    high: float | None
    rounds: int
    trained: bool
    machine: str
    date: str
    reason: str = ""
    evaluations: int | None = None

    @property
    def uncertainty(self) -> float:
        """Half the range, in ms; not a number without a time or after a single round."""
        if self.value is None or self.low is None or self.high is None or self.rounds < 2:
            return float("nan")
        return 0.5 * (self.high - self.low)


def half_range(table: pd.DataFrame) -> pd.Series:
    """Half the 16-84 % range of each line, in ms; not a number after a single round."""
    return (0.5 * (table["high"] - table["low"])).where(table["rounds"] > 1)


def cells(table: pd.DataFrame) -> list[Cell]:
    """The lines of a grid, one cell each."""
    return [
        Cell(
            *(row.model, row.dataset, row.size, row.target, row.figure),
            batch=0 if pd.isna(row.batch) else int(row.batch),
            **{
                name: None if pd.isna(getattr(row, name)) else float(getattr(row, name))
                for name in ("value", "low", "high")
            },
            rounds=0 if pd.isna(row.rounds) else int(row.rounds),
            trained=bool(row.is_trained),
            machine=row.machine,
            date=row.date,
            reason=row.reason,
            evaluations=None if pd.isna(row.evaluations) else int(row.evaluations),
        )
        for row in table.itertuples()
    ]


def look_up(
    table: pd.DataFrame, model: str, dataset: str, size: str, kind: str, batch: int
) -> Cell | None:
    """The warm time of a model on a kind of target in fp32: throughput at this batch size, latency
    for single showers where there is no other; None where the grid has neither.

    Of several the measured ones come first, then plain fp32, then the latest.
    """
    own = table[
        (table["model"] == model)
        & (table["dataset"] == dataset)
        & (table["size"] == size)
        & (table["kind"] == kind)
        & (table["batch"] == batch)
        & (table["figure"] != "cold")
        & table["target"].str.contains("/fp32")
    ]
    own = own.assign(
        measured=own["value"].notna(),
        plain=own["target"].str.endswith("/fp32"),
        through=own["figure"] == "throughput",
    )
    own = own.sort_values(["measured", "plain", "through", "date"], kind="stable")
    return cells(own.tail(1))[0] if len(own) else None


def _about(machine: str) -> dict:
    path = data_dir() / "measured" / "machines" / f"{machine}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def machine_cpu(machine: str) -> str:
    """The processor of a machine and its cores, from ``data/measured/machines/KEY.json``, as
    `calostudy.provenance.processor` names them; else the key."""
    about = _about(machine)
    return f"{about['cpu']}, {about['cores']} cores" if about else machine


def machine_title(machine: str) -> str:
    """A machine by its processor, cores and GPU, from the same file; else its key."""
    gpus = _about(machine).get("gpus") or []
    return ", ".join([machine_cpu(machine), *(gpu["name"] for gpu in gpus)])
