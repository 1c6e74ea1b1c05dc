"""What several pages need is made once: showers of a surrogate, floors of a data set.

Both lie in the folder ``kept`` beside the results. A block of showers is read again only if it is
of the same weights, energies, seed and code; see :mod:`calostudy.metrics.kept` for measurements.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np

from calostudy.files import atomic_path
from calostudy.generation import generate_showers
from calostudy.models.surrogate import Surrogate
from calostudy.provenance import source_digest
from calostudy.showers import Showers, concatenate

BLOCK = 250
"""Showers in one file; samples of different size share the blocks that they have in common."""


def shared_showers(
    surrogate: Surrogate, energies: np.ndarray, seed: int, folder: str | Path
) -> Showers:
    """The showers of `generate_showers`, made here or read from ``folder``.

    energies: incident energies (N,) in MeV.
    """
    identity = "/".join(
        (surrogate.name, surrogate.dataset.name, surrogate.size, surrogate.fingerprint())
    )
    parts = []
    for first in range(0, len(energies), BLOCK):
        own = np.asarray(energies[first : first + BLOCK], dtype=np.float64)
        key = f"{source_digest()}/{identity}/{seed}/{first}/".encode() + own.tobytes()
        path = Path(folder) / f"{hashlib.sha256(key).hexdigest()[:32]}.npz"
        parts.append(_read(path, surrogate) or _made(path, surrogate, own, seed, first))
    return concatenate(parts)


def _read(path: Path, surrogate: Surrogate) -> Showers | None:
    try:
        with np.load(path) as arrays:
            return Showers(surrogate.dataset.calorimeter, **arrays)
    except (FileNotFoundError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _made(path: Path, surrogate: Surrogate, energies: np.ndarray, seed: int, first: int) -> Showers:
    showers = generate_showers(surrogate, energies, seed=seed, first=first)
    arrays = {"incident_energy": showers.incident_energy, "cells": showers.cells}
    if showers.overflow is not None:
        arrays["overflow"] = showers.overflow
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)
    return showers
