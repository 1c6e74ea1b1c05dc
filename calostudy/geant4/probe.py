"""Start-up checks that the Geant4 library is laid out as the native scorer assumes.

One small event is simulated twice with the same seeds: with a Python stepping action, which asks
the bindings, and natively. In every step of the first, the raw memory at the assumed offsets must
hold the bindings' own values; the sums of both must agree. (G4VEmModel's layout is checked where
it is used, in `calostudy.geant4.bridge`.)
"""

from __future__ import annotations

import ctypes

import numpy as np

from calostudy.geant4.bridge import g4, instance_address
from calostudy.geant4.scoring import (
    HEAD,
    POINT_MATERIAL,
    POINT_XYZ,
    STEP_EDEP,
    STEP_POST,
    STEP_PRE,
    mesh,
)


def _double(address: int) -> float:
    return ctypes.c_double.from_address(address).value


def _pointer(address: int) -> int:
    return ctypes.c_void_p.from_address(address).value


def layout_problems(step) -> list[str]:
    """What in a G4Step does not lie where the native scorer reads it; empty when all is well."""
    raw = instance_address(step)
    pre, post = step.GetPreStepPoint(), step.GetPostStepPoint()
    problems = []
    if _double(raw + STEP_EDEP) != step.GetTotalEnergyDeposit():
        problems.append("G4Step energy deposit")
    for name, offset, point in (("pre", STEP_PRE, pre), ("post", STEP_POST, post)):
        address = instance_address(point)
        if _pointer(raw + offset) != address:
            problems.append(f"G4Step {name}-step point")
            continue
        place = point.GetPosition()
        found = [_double(address + POINT_XYZ + 8 * i) for i in range(3)]
        if found != [place.x, place.y, place.z]:
            problems.append(f"G4StepPoint position ({name})")
        if _pointer(address + POINT_MATERIAL) != instance_address(point.GetMaterial()):
            problems.append(f"G4StepPoint material ({name})")
    return problems


class PythonScorer(g4.G4UserSteppingAction):
    """The native scorer's twin, written with the bindings: slow, and the yardstick."""

    def __init__(self, name: str, active: tuple[str, ...], stored: str):
        super().__init__()
        self.cell, self.cells, self.midpoint = mesh(name)
        self.active, self.stored = active, stored
        self.sums = np.zeros(HEAD + self.cells)
        self.problems: set[str] = set()

    def UserSteppingAction(self, step):
        if step.GetPostStepPoint().GetMaterial() is not None:  # none beyond the world
            self.problems.update(layout_problems(step))
        self.sums[0] += 1.0
        energy = step.GetTotalEnergyDeposit()
        if energy <= 0.0:
            return
        self.sums[1] += energy
        pre, post = step.GetPreStepPoint().GetPosition(), step.GetPostStepPoint().GetPosition()
        is_active = step.GetPreStepPoint().GetMaterial().GetName() in self.active
        if is_active:
            self.sums[2] += energy
        if self.stored == "active" and not is_active:
            return
        begin, end = np.array([pre.x, pre.y, pre.z]), np.array([post.x, post.y, post.z])
        self.sums[4] += 1.0
        index = self.cell(*(begin + self.midpoint * (end - begin)))
        self.sums[3 if index < 0 else HEAD + index] += energy


def compare_scorers(session, energies: np.ndarray, seeds: np.ndarray) -> dict:
    """The same events with both scorers; returns {"native", "python": sums, "problems": names}.

    The native scorer is installed again afterwards, but Geant4's state is used: call it in a
    process that simulates nothing else.
    """
    native = session.run(energies, seeds)
    setup, record = session.setup, session.record
    scorer = PythonScorer(setup.calorimeter, session.detector.active, setup.stored)
    session.manager.SetUserAction(scorer)
    keep_hits, record.keep_hits, record.scorer = record.keep_hits, False, scorer
    python = session.run(energies, seeds)
    record.keep_hits, record.scorer = keep_hits, session.scorer
    session.scorer.install()
    return {"native": native, "python": python, "problems": sorted(scorer.problems)}


def problems(session) -> list[str]:
    """Simulate one 20 MeV event with both scorers; what does not agree, empty when all is well."""
    seeds = np.array([[1, 2, 3, 4]], dtype=np.int64)
    both = compare_scorers(session, np.array([20.0]), seeds)
    native, python = both["native"], both["python"]
    names = ("cells", "steps", "deposited", "visible", "outside", "hits")
    different = [
        f"scored {name}" for name in names if not np.array_equal(native[name], python[name])
    ]
    nothing = [] if native["steps"][0] > 10 else ["the number of steps of the probe event"]
    return both["problems"] + different + nothing
