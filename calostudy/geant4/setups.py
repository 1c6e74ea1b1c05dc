"""What is simulated for each dataset: detector, particle, incident energies, what is stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calostudy.errors import UsageError

#: Events that share one freshly initialised Geant4. A constant: the showers depend on it.
SHARD_SIZE = 25

#: Production cut (range) in mm for gamma, e-, e+ and proton: Geant4's own default.
CUT_MM = 0.7

#: Physics lists, see `calostudy.geant4.physics`.
PHYSICS = ("data-free", "ftfp_bert", "em-option4")

#: Bremsstrahlung tables of the data-free list, see `calostudy.geant4.physics`.
BREMSSTRAHLUNG = ("rel", "sb")


@dataclass(frozen=True)
class Setup:
    """One dataset's simulation.

    ``stored``: "all" stores every deposit, "active" the active material's only. Cells below
    ``threshold`` (MeV, before scaling) become 0; the rest is divided by ``sampling_fraction``.
    """

    name: str
    detector: str
    calorimeter: str
    particle: str
    law: str
    emin: float
    emax: float
    stored: str = "all"
    threshold: float = 0.0
    sampling_fraction: float = 1.0

    @property
    def hadronic(self) -> bool:
        return self.particle not in ("e-", "e+", "gamma")


def _calogan(particle: str, suffix: str) -> Setup:
    return Setup(f"calogan-{suffix}", "calogan", "calogan", particle, "uniform", 1.0, 100.0)


SETUPS = {
    setup.name: setup
    for setup in (
        _calogan("e+", "eplus"),
        _calogan("gamma", "gamma"),
        _calogan("pi+", "piplus"),
        # CaloChallenge: 0.5 keV threshold in silicon, then 1/f with f = 0.033 (arXiv:2410.21611)
        Setup("ds2", "ds2", "ds2", "e-", "log-uniform", 1.0, 100.0, "active", 0.5e-3, 0.033),
    )
}


def setup(name: str) -> Setup:
    """The set-up of a dataset. Raises UsageError for a dataset that is not simulated."""
    if name not in SETUPS:
        raise UsageError(f"no Geant4 simulation of dataset {name!r}; there is {', '.join(SETUPS)}")
    return SETUPS[name]


_LAWS = {
    "uniform": lambda u, low, high: low + (high - low) * u,
    "log-uniform": lambda u, low, high: low * np.exp(np.log(high / low) * u),
}


def incident_energies(setup: Setup, seed: int, n: int, emin: float, emax: float) -> np.ndarray:
    """Incident energies in MeV, (n,); ``emin`` and ``emax`` in GeV.

    One stream of ``seed``: the first energies do not depend on ``n``.
    """
    u = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,))).random(n)
    return 1000.0 * _LAWS[setup.law](u, emin, emax)


def event_seeds(seed: int, first: int, count: int) -> np.ndarray:
    """Four 32-bit words per event for Geant4's generator, (count, 4); they depend on
    (``seed``, event) only."""
    words = [
        np.random.SeedSequence(seed, spawn_key=(1, event)).generate_state(4)
        for event in range(first, first + count)
    ]
    return np.array(words, dtype=np.int64).reshape(count, 4)
