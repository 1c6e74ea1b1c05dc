"""One initialised Geant4: geometry, physics tables, primary particle, event loop.

Geant4 can be initialised once in a process. Every event is seeded on its own, from
(seed, event) only.
"""

from __future__ import annotations

import time

import numpy as np

from calostudy.clouds import PointClouds
from calostudy.geant4.bridge import INT, POINTER, g4, library
from calostudy.geant4.detectors import DETECTORS
from calostudy.geant4.physics import physics_list
from calostudy.geant4.scoring import FRAMES, HEAD, NativeScorer
from calostudy.geant4.setups import CUT_MM, Setup

MOST_HITS = 1 << 23  # in one event; memory is taken as it fills

PARTICLES = {
    "e-": lambda: g4.G4Electron.Electron(),
    "e+": lambda: g4.G4Positron.Positron(),
    "gamma": lambda: g4.G4Gamma.Gamma(),
    "pi+": lambda: g4.G4PionPlus.PionPlus(),
}


_set_the_seeds = library["_ZN5CLHEP9HepRandom11setTheSeedsEPKli"]
_set_the_seeds.restype, _set_the_seeds.argtypes = None, [POINTER, INT]


class _Gun(g4.G4VUserPrimaryGeneratorAction):
    """Seeds Geant4 and shoots the next event's particle."""

    def __init__(self, particle: str, axis):
        super().__init__()
        self.gun = g4.G4ParticleGun(1)
        self.gun.SetParticleDefinition(PARTICLES[particle]())
        position, direction = axis
        self.gun.SetParticlePosition(g4.G4ThreeVector(*position))
        self.gun.SetParticleMomentumDirection(g4.G4ThreeVector(*direction))

    def load(self, energies: np.ndarray, seeds: np.ndarray) -> None:
        self.energies, self.next = energies, 0
        self.seeds = np.ascontiguousarray(seeds, dtype=np.int64)  # the generator keeps its address

    def GeneratePrimaries(self, event):
        words = self.seeds[self.next]
        _set_the_seeds(words.ctypes.data, len(words))
        self.gun.SetParticleEnergy(float(self.energies[self.next]) * g4.MeV)
        self.next += 1
        self.gun.GeneratePrimaryVertex(event)


class _Record(g4.G4UserEventAction):
    """Takes the scorer's sums at the end of every event."""

    def __init__(self):
        super().__init__()
        self.scorer, self.tick, self.keep_hits = None, None, False

    def start(self, count: int, tick) -> None:
        self.hits: list[np.ndarray] = []
        self.tick, self.next = tick, 0
        self.cpu = np.zeros(count)
        self.heads = np.zeros((count, HEAD))
        self.cells = np.zeros((count, self.scorer.cells), dtype=np.float32)

    def BeginOfEventAction(self, event):
        self.scorer.sums[:] = 0.0
        self.begun = time.process_time()

    def EndOfEventAction(self, event):
        self.cpu[self.next] = time.process_time() - self.begun
        self.heads[self.next] = self.scorer.sums[:HEAD]
        self.cells[self.next] = self.scorer.sums[HEAD:]
        self.next += 1
        if self.keep_hits:
            self.hits.append(self.scorer.kept_hits())
        if self.tick is not None:
            self.tick()


class Session:
    """Geant4 initialised for a `Setup`, physics tables built; ``hits`` keeps every stored hit."""

    def __init__(
        self, setup: Setup, physics: str = "data-free", brem: str = "rel", hits: bool = False
    ):
        self.setup = setup
        self.interface = g4.G4UImanager.GetUIpointer()
        g4.G4EmParameters.Instance()  # creates the commands of /process/em
        self.manager = g4.G4RunManagerFactory.CreateRunManager(g4.G4RunManagerType.Serial)
        self.detector = DETECTORS[setup.detector]()
        self.physics = physics_list(physics, brem, setup.hadronic, CUT_MM)
        self.manager.SetUserInitialization(self.detector)
        self.manager.SetUserInitialization(self.physics)
        self.record = _Record()
        self.gun = gun = _Gun(setup.particle, self.detector.axis)
        record = self.record

        class Actions(g4.G4VUserActionInitialization):
            def Build(self):
                self.SetUserAction(gun)
                self.SetUserAction(record)

        self.actions = Actions()
        self.manager.SetUserInitialization(self.actions)
        for command in ("/process/em/verbose 0", "/process/verbose 0", "/run/verbose 0"):
            self.interface.ApplyCommand(command)
        self.interface.ApplyCommand(f"/run/setCut {CUT_MM} mm")
        self.manager.Initialize()
        self.scorer = NativeScorer(
            setup.calorimeter, self.detector.active, setup.stored, MOST_HITS if hits else 0
        )
        self.record.scorer, self.record.keep_hits = self.scorer, hits
        self.scorer.install()
        self.manager.BeamOn(0)  # builds the physics tables

    def run(self, energies: np.ndarray, seeds: np.ndarray, tick=None) -> dict[str, np.ndarray]:
        """Simulate events of ``energies`` (n,) MeV with ``seeds`` (n, 4).

        Returns arrays of n rows: incident_energy (MeV), cells (n, mesh cells; MeV, float32), steps,
        deposited, visible (in the active materials), outside (stored but outside the mesh; all in
        MeV), hits (stored steps) and cpu_seconds. ``tick()`` is called after every event. The
        hits themselves, where they are kept, are in `clouds`.
        """
        self.gun.load(energies, seeds)
        self.record.start(len(energies), tick)
        self.manager.BeamOn(len(energies))
        steps, deposited, visible, outside, hits = self.record.heads.T
        return {
            "incident_energy": np.asarray(energies, dtype=np.float64),
            "cells": self.record.cells,
            "steps": steps.astype(np.int64),
            "deposited": deposited.copy(),
            "visible": visible.copy(),
            "outside": outside.copy(),
            "hits": hits.astype(np.int64),
            "cpu_seconds": self.record.cpu,
        }

    def clouds(self) -> PointClouds:
        """The kept hits of the last run, in the frame of the shower."""
        record = self.record
        hits = np.concatenate(record.hits) if record.hits else np.zeros((0, 4))
        offsets = np.cumsum([0, *(len(one) for one in record.hits)])
        x, y, z, energy = hits.T
        position = np.column_stack(FRAMES[self.setup.detector](x, y, z))
        return PointClouds(self.gun.energies, offsets, position, energy)
