"""The walk through a hardware target: the surrogate's time, its yardstick's, and Geant4's."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import h5py
from pydantic import Field, field_validator

from calostudy.datasets import Dataset
from calostudy.errors import UsageError
from calostudy.geant4 import sidecar_path, simulate
from calostudy.hardware import describe_machine
from calostudy.hardware import target as hardware_target
from calostudy.models import build, load, shipped_weights
from calostudy.models.surrogate import Surrogate
from calostudy.results import Number
from calostudy.showers import read_energies
from calostudy.tables import between, plus_minus
from calostudy.timing import (
    Geant4Time,
    SurrogateTime,
    geant4_time,
    shipped_geant4_time,
    speed_up,
    time_surrogate,
)
from calostudy.walks.numbers import geant4_number, time_number
from calostudy.walks.walk import Walk


def batch_sizes(text: str) -> list[int]:
    """Batch sizes from a text like "1,10,100"; a ValueError for anything else."""
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"{text!r} is not a list of batch sizes like 1,10,100")
    return [int(part) for part in parts]


def geant4_cost(entry: Dataset, showers: int) -> Geant4Time:
    """Geant4's CPU time per shower of so many showers on one core now; of none, or without
    Geant4: the times recorded while the shipped sample was made."""
    if not showers:
        return shipped_geant4_time(entry)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "showers.h5"
        try:
            simulate(entry.name, showers, 7, path, progress=False)
        except UsageError:  # Geant4 is an extra; the recorded times are there for everybody
            return shipped_geant4_time(entry)
        energies = read_energies(path, entry.calorimeter)
        with h5py.File(sidecar_path(path), "r") as file:
            return geant4_time(energies, file["cpu_seconds"][:], "on this machine, just now")


class HardwareWalk(Walk):
    """Parameters of ``notebooks/hardware.ipynb``."""

    kind: ClassVar[str] = "hardware"
    model: str
    size: str = "embedded"
    target: str = "cpu-1/fp32"
    batches: str = "1,10,100"
    rounds: int = Field(9, ge=1)
    yardstick: str = "nflows"
    geant4_showers: int = Field(0, ge=0)

    @field_validator("target")
    @classmethod
    def _known_target(cls, name: str) -> str:
        hardware_target(name)
        return name

    @field_validator("batches")
    @classmethod
    def _whole_numbers(cls, text: str) -> str:
        batch_sizes(text)
        return text

    def page_name(self) -> str:
        target = self.target.replace("/", "-")
        return f"hardware-{self.model}-{self.dataset}-{self.size}-{target}"

    def title(self) -> str:
        return f"{self.model}, {self.dataset}, {self.size} size, on {self.target}"

    @cached_property
    def surrogate(self) -> Surrogate:
        """The trained surrogate, or one with random weights where none are shipped."""
        directory = shipped_weights(self.model, self.dataset, self.size)
        if directory is not None:
            return load(directory)
        return build(self.model, self.dataset, self.size)

    @property
    def trained(self) -> bool:
        return self.surrogate.weights_sha256 is not None

    def introduction(self) -> str:
        """What is timed here, in Markdown."""
        count = sum(self.surrogate.parameters_by_network().values())
        weights = (
            "with the trained weights that are shipped"
            if self.trained
            else "with **random weights (untrained)**: a network's time does not depend on their "
            "values, and these showers are not looked at"
        )
        return (
            f"**{self.model}** in {self.size} size ({count:,} parameters), {weights}; target "
            f"`{self.target}`."
        )

    @staticmethod
    def machine_rows() -> list[dict[str, str]]:
        """The machine that this page was executed on."""
        machine = describe_machine()
        shown = {
            "CPU": machine["cpu"],
            "cores of this process": machine["cores"],
            "vector extensions": ", ".join(machine["vector_extensions"]),
            "memory": f"{machine['memory_gib']} GiB",
            "GPU": ", ".join(gpu["name"] for gpu in machine["gpus"]) or "none",
            "virtual machine": "yes" if machine["virtual_machine"] else "no",
            "PyTorch, nflows, numba": ", ".join(
                machine["libraries"][name] for name in ("torch", "nflows", "numba")
            ),
        }
        return [{"property": name, "value": str(value)} for name, value in shown.items()]

    def times(self) -> list[SurrogateTime]:
        """ms per shower at each batch size, the yardstick interleaved."""
        return time_surrogate(
            self.surrogate,
            batches=batch_sizes(self.batches),
            target=self.target,
            against=self.yardstick or None,
            rounds=self.rounds,
        )

    @staticmethod
    def time_rows(times: Sequence[SurrogateTime]) -> list[dict[str, str]]:
        """The times as a table."""
        return [
            {
                "batch": f"{time.batch:,}",
                "ms per shower": between(time.value, time.low, time.high),
                "rounds (left out)": f"{time.rounds} ({time.dropped})",
                "cores used by others": f"{time.busy:.2f}",
                **(
                    {
                        f"{time.yardstick}: ms per shower": f"{time.yardstick_value:.3g}",
                        f"{time.yardstick} / ours": between(
                            time.ratio, time.ratio_low, time.ratio_high
                        ),
                    }
                    if time.yardstick
                    else {}
                ),
            }
            for time in times
        ]

    def geant4(self) -> Geant4Time:
        """Geant4's CPU time per shower: measured now, on one core, or while the sample was made."""
        return geant4_cost(self.entry, self.geant4_showers)

    @staticmethod
    def plot_rows(times: Sequence[SurrogateTime]) -> list[dict[str, Any]]:
        """The times, ours and the yardstick's, for a figure."""
        ours = [
            {"label": t.model, "batch": t.batch, "value": t.value, "low": t.low, "high": t.high}
            for t in times
        ]
        other = [
            {
                "label": f"{t.model} by {t.yardstick}",
                "batch": t.batch,
                "value": t.yardstick_value,
                "low": t.yardstick_value,
                "high": t.yardstick_value,
            }
            for t in times
            if t.yardstick
        ]
        return ours + other

    @staticmethod
    def speed_up_rows(times: Sequence[SurrogateTime], geant4: Geant4Time) -> list[dict[str, str]]:
        """Speed-up over Geant4 at each batch size."""
        return [
            {
                "batch": f"{time.batch:,}",
                "Geant4, CPU ms per shower": plus_minus(geant4.value, geant4.uncertainty),
                "Geant4 timed": geant4.where,
                f"{time.model}, ms per shower": between(time.value, time.low, time.high),
                "speed-up": plus_minus(*speed_up(geant4, time)),
            }
            for time in times
        ]

    def save(self, times: Sequence[SurrogateTime], geant4: Geant4Time) -> None:
        """Write the times of this page into the results folder."""
        numbers = []
        for time in times:
            value, uncertainty = speed_up(geant4, time)
            numbers += [
                time_number(f"time at batch {time.batch}", time),
                Number(
                    name=f"speed-up at batch {time.batch}",
                    value=value,
                    uncertainty=uncertainty,
                    uncertainty_kind="error of Geant4's mean and spread over rounds",
                ),
            ]
        self.save_numbers(
            [*numbers, geant4_number(geant4)],
            model=self.model,
            size=self.size,
            weights_sha256=self.surrogate.weights_sha256 or "untrained",
            target=self.target,
        )
