"""Showers from a surrogate: in memory, or any number of them streamed into a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from calostudy import clouds
from calostudy.datasets import Dataset
from calostudy.errors import UsageError
from calostudy.hardware import HardwareTarget, require_support
from calostudy.hardware import target as hardware_target
from calostudy.models.surrogate import Surrogate
from calostudy.shards import open_row
from calostudy.showers import Showers, Writer, concatenate

SHARD_BYTES = 64 << 20
"""Cell energies in one shard of a production: a killed run loses at most so much."""


def draw_energies(dataset: Dataset, n: int, seed: int = 0) -> np.ndarray:
    """Incident energies (n,) in MeV by the law of the data set.

    The law is the one of the simulated twin, or of the public sample where there is no twin. The
    first energies do not depend on `n`.
    """
    law = dataset.twin_energies or dataset.energies
    return law.sample(n, np.random.default_rng([seed, 0xE]))


def generate_showers(
    surrogate: Surrogate,
    energies: np.ndarray,
    seed: int = 0,
    batch: int = 1000,
    target: str | HardwareTarget | None = None,
    first: int = 0,
) -> Showers:
    """Showers for incident energies (N,) in MeV, in memory.

    They do not depend on `batch`; `first` is the number of the first of them. `target` is a
    hardware target such as "cpu-1/fp32"; without one the current settings of torch hold.

    Raises:
        UsageError: an energy is not positive, or this machine or the surrogate
            lacks the target.
    """
    energies = _checked(energies)
    where = _target(surrogate, target)
    with _on(surrogate, where):
        return concatenate(list(_batches(surrogate, energies, seed, first, batch)))


def generate(
    surrogate: Surrogate,
    out: str | Path,
    n: int | None = None,
    energies: np.ndarray | None = None,
    batch: int = 1000,
    seed: int = 0,
    target: str | HardwareTarget | None = None,
    progress: bool = True,
) -> Path:
    """Write showers to `out` in the data set's public format; a killed call goes on when repeated.

    Either `n`, with incident energies drawn by `draw_energies`, or `energies` (N,) in MeV. Shards
    are kept in `<out>.shards/` until all are there, so that memory stays bounded. The file has the
    surrogate's name, dataset, size, seed and the SHA-256 of its weights as attributes, and the
    format that its layers have, where it is `calostudy.emulation.emulated`.

    Raises:
        UsageError: both or neither of `n` and `energies`, an impossible one, or shards of another
            production in the way.
    """
    out = Path(out)
    if (n is None) == (energies is None):
        raise UsageError("give either a number of showers or their incident energies")
    if n is not None and n < 1:
        raise UsageError(f"{n} showers to generate, expected at least 1")
    energies = _checked(draw_energies(surrogate.dataset, n, seed) if n is not None else energies)
    calorimeter = surrogate.dataset.calorimeter
    where = _target(surrogate, target)
    attributes = _attributes(surrogate, seed)
    # The showers do not depend on the batch, so that a resume may choose another one.
    parameters = {
        **attributes,
        "weights": surrogate.fingerprint(),
        "energies_sha256": sha256(energies.tobytes()).hexdigest(),
        "precision": where.precision if where else str(torch.get_default_dtype()),
    }
    size = max(1, SHARD_BYTES // (4 * calorimeter.cells))
    with open_row(out, len(energies), size, parameters) as row:
        with (
            _on(surrogate, where),
            tqdm(total=len(energies), unit="shower", disable=None if progress else True) as bar,
        ):
            missing = row.missing()
            bar.update(len(energies) - sum(shard.count for shard in missing))
            for shard in missing:
                own = energies[shard.first : shard.first + shard.count]
                parts = []
                for part in _batches(surrogate, own, seed, shard.first, batch):
                    parts.append(part)
                    bar.update(len(part))
                row.save(shard, _arrays(concatenate(parts)))
        with Writer(out, calorimeter, attributes=attributes) as writer:
            for arrays in row.iterate():
                writer.append(Showers(calorimeter, **arrays))
        row.remove()
    return out


def generate_clouds(
    surrogate: Surrogate,
    out: str | Path,
    energies: np.ndarray,
    batch: int = 100,
    seed: int = 0,
    target: str | HardwareTarget | None = None,
    progress: bool = True,
) -> Path:
    """Write point clouds for incident energies (N,) in MeV, in the format of CaloClouds.

    A killed call begins anew. Points without energy are left out, as rows of the file are padding.

    Raises:
        UsageError: the surrogate does not make points, or an impossible energy or batch.
    """
    if not hasattr(surrogate, "sample_clouds"):
        raise UsageError(f"{surrogate.name} makes no point clouds, only cells")
    if batch < 1:
        raise UsageError(f"batch {batch}, expected at least 1")
    out, energies = Path(out), _checked(energies)
    where = _target(surrogate, target)
    with (
        _on(surrogate, where),
        clouds.Writer(out, attributes=_attributes(surrogate, seed)) as writer,
        tqdm(total=len(energies), unit="shower", disable=None if progress else True) as bar,
    ):
        for first in range(0, len(energies), batch):
            part = energies[first : first + batch]
            writer.append(surrogate.sample_clouds(part, seed=seed, first=first))
            bar.update(len(part))
    return out


def _attributes(surrogate: Surrogate, seed: int) -> dict[str, str | int]:
    return {
        "generator": surrogate.name,
        "dataset": surrogate.dataset.name,
        "size": surrogate.size,
        "seed": seed,
        "weights_sha256": surrogate.weights_sha256 or "untrained",
        **({"emulated": surrogate.emulated} if hasattr(surrogate, "emulated") else {}),
    }


def _batches(
    surrogate: Surrogate, energies: np.ndarray, seed: int, first: int, batch: int
) -> Iterator[Showers]:
    if batch < 1:
        raise UsageError(f"batch {batch}, expected at least 1")
    for start in range(0, len(energies), batch):
        yield surrogate.sample(energies[start : start + batch], seed=seed, first=first + start)


def _target(surrogate: Surrogate, target: str | HardwareTarget | None) -> HardwareTarget | None:
    if target is None:
        return None
    where = hardware_target(target)
    require_support(surrogate, where)
    return where


@contextmanager
def _on(surrogate: Surrogate, where: HardwareTarget | None) -> Iterator[None]:
    """The surrogate on a hardware target while inside."""
    if where is None:
        yield
        return
    with where.active():
        surrogate.to(where.torch_device)
        try:
            yield
        finally:
            surrogate.to("cpu")


def _arrays(showers: Showers) -> dict[str, np.ndarray]:
    arrays = {"incident_energy": showers.incident_energy, "cells": showers.cells}
    return arrays if showers.overflow is None else {**arrays, "overflow": showers.overflow}


def _checked(energies: np.ndarray) -> np.ndarray:
    energies = np.asarray(energies, dtype=np.float64)
    if energies.ndim != 1 or not len(energies):
        raise UsageError(f"incident energies of shape {energies.shape}, expected (N,) with N >= 1")
    if not (np.isfinite(energies) & (energies > 0)).all():
        raise UsageError("an incident energy is not a positive number of MeV")
    return energies
