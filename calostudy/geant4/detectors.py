"""Detector geometries.

``calogan``: 80 x (2 mm Pb + 4 mm LAr), 1 m x 1 m plates in vacuum, shower axis +z from the world's
edge (CaloGAN, arXiv:1712.10321). ``ds2``: 90 x (1.4 mm W + 0.3 mm Si) in concentric cylinders
from r = 800 mm, shower axis +y from the origin (CaloChallenge dataset 2, arXiv:2410.21611; two such
pairs form one of the 45 layers). Of the cylinder only a wedge of +-0.15 rad about the axis is
built, 150 mm half length: overlapping bounding boxes of whole cylinders make navigation three
times slower, and the wedge is wider than every scored voxel (0.05 rad) and its shower.
"""

from __future__ import annotations

from calostudy.geant4.bridge import g4

mm = g4.mm


class _Detector(g4.G4VUserDetectorConstruction):
    """Keeps what it builds alive: Geant4 holds it by address only."""

    def __init__(self):
        super().__init__()
        self.built = []

    def place(self, solid, material, mother=None, position=None, copy=0):
        """Place ``solid`` of a NIST material in ``mother``; returns (logical, physical volume)."""
        name = solid.GetName()
        material = g4.G4NistManager.Instance().FindOrBuildMaterial(material)
        logical = g4.G4LogicalVolume(solid, material, name)
        position = position or g4.G4ThreeVector()
        physical = g4.G4PVPlacement(None, position, logical, name, mother, False, copy)
        self.built += [solid, logical, physical]
        return logical, physical


class CaloGAN(_Detector):
    """80 layers of lead and liquid argon."""

    active = "G4_lAr"
    axis = ((0.0, 0.0, -288.0), (0.0, 0.0, 1.0))  # mm; where the particle starts and its direction

    def Construct(self):
        logical, world = self.place(g4.G4Box("World", 600 * mm, 600 * mm, 288 * mm), "G4_Galactic")
        for i in range(80):
            front = -240.0 + 6.0 * i
            for name, material, half, centre in (
                ("Pb", "G4_Pb", 1, front + 1),
                ("LAr", "G4_lAr", 2, front + 4),
            ):
                plate = g4.G4Box(name, 500 * mm, 500 * mm, half * mm)
                self.place(plate, material, logical, g4.G4ThreeVector(0, 0, centre), i)
        return world


class DS2(_Detector):
    """45 double layers of tungsten and silicon, a wedge of the cylinder."""

    active = "G4_Si"
    axis = ((0.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    half_angle = 0.15  # rad

    def Construct(self):
        logical, world = self.place(g4.G4Box("World", 2000 * mm, 2000 * mm, 2000 * mm), "G4_AIR")
        start, opening, r = g4.pi / 2 - self.half_angle, 2 * self.half_angle, 800.0
        for i in range(90):
            for j, (name, material, thickness) in enumerate(
                (("W", "G4_W", 1.4), ("Si", "G4_Si", 0.3))
            ):
                ring = g4.G4Tubs(name, r * mm, (r + thickness) * mm, 150 * mm, start, opening)
                self.place(ring, material, logical, copy=2 * i + j)
                r += thickness
        return world


DETECTORS = {"calogan": CaloGAN, "ds2": DS2}
