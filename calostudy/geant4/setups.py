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

    ``law``: "uniform", "log-uniform", or "powers of two": 2^k MeV in turn, as many of each.
    ``stored``: "all" stores every deposit, "active" the active materials' only. Cells below
    ``threshold`` (MeV, before scaling) become 0; the rest is divided by ``sampling_fraction``, one
    number or one for each layer. ``clouds``: the hits are kept too, clustered. Stored values keep
    ``mantissa_bits``: a relative error of at most 2^-(bits + 1), far below the resolution.
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
    sampling_fraction: float | tuple[float, ...] = 1.0
    clouds: bool = False
    mantissa_bits: int = 7

    @property
    def hadronic(self) -> bool:
        return self.particle not in ("e-", "e+", "gamma")


def _calogan(particle: str, suffix: str) -> Setup:
    return Setup(f"calogan-{suffix}", "calogan", "calogan", particle, "uniform", 1.0, 100.0,
                 mantissa_bits=10)  # fmt: skip


#: Share of the deposited energy that is active in layers 0 to 3 and 12 to 14. Measured with 60
#: photons of 10 GeV in lead and argon alone, 0.2448 +- 0.0005, and in iron and scintillator alone,
#: 0.0324 +- 0.0002; 0.05 is chosen for the presampler, which speaks for the aluminium before it.
_LAR_AND_TILES = (0.05, 0.245, 0.245, 0.245, 0.0324, 0.0324, 0.0324)


def _ds1(particle: str, word: str, fractions: tuple[float, ...]) -> Setup:
    low, high = 2**8 / 1000, 2**16 / 1000
    return Setup(
        f"ds1-{word}", "ds1", f"ds1-{word}", particle, "powers of two", low, high, "active",
        sampling_fraction=fractions,
    )  # fmt: skip


SETUPS = {
    setup.name: setup
    for setup in (
        _calogan("e+", "eplus"),
        _calogan("gamma", "gamma"),
        _calogan("pi+", "piplus"),
        # CaloChallenge: 0.5 keV threshold in silicon, then 1/f with f = 0.033 (arXiv:2410.21611)
        Setup(
            "ds2",
            "ds2",
            "ds2",
            "e-",
            "log-uniform",
            1.0,
            100.0,
            "active",
            0.5e-3,
            0.033,
            mantissa_bits=10,
        ),
        Setup("ds3", "ds2", "ds3", "e-", "log-uniform", 1.0, 100.0, "active", 0.5e-3, 0.033),
        _ds1("gamma", "photons", _LAR_AND_TILES[:5]),
        _ds1("pi+", "pions", _LAR_AND_TILES),
        Setup("ild-photons", "ild", "ild", "gamma", "uniform", 10.0, 90.0, "active", clouds=True),
        # 0.1 MeV: a tenth of the unit in which the paper counts energies (arXiv:2212.08233)
        Setup(
            "segmentations",
            "calogan",
            "segmentations",
            "gamma",
            "uniform",
            65.0,
            65.0,
            threshold=0.1,
        ),
    )
}


def setup(name: str) -> Setup:
    """The set-up of a dataset. Raises UsageError for a dataset that is not simulated."""
    if name not in SETUPS:
        raise UsageError(f"no Geant4 simulation of dataset {name!r}; there is {', '.join(SETUPS)}")
    return SETUPS[name]


def _powers_of_two(u: np.ndarray, low: float, high: float) -> np.ndarray:
    first, last = np.ceil(np.log2(1000 * low) - 1e-9), np.floor(np.log2(1000 * high) + 1e-9)
    if last < first:
        raise UsageError(f"no power of two in MeV between {low} and {high} GeV")
    return 2.0 ** (first + np.arange(len(u)) % (last - first + 1)) / 1000


_LAWS = {
    "uniform": lambda u, low, high: low + (high - low) * u,
    "log-uniform": lambda u, low, high: low * np.exp(np.log(high / low) * u),
    "powers of two": _powers_of_two,
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
