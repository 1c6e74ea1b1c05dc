"""Detector geometries.

``calogan``: 80 x (2 mm Pb + 4 mm LAr), 1 m x 1 m plates in vacuum, shower axis +z from the world's
edge (CaloGAN, arXiv:1712.10321). ``ds2``: 90 x (1.4 mm W + 0.3 mm Si) in concentric cylinders
from r = 800 mm, shower axis +y from the origin (CaloChallenge dataset 2, arXiv:2410.21611; two such
pairs form one of the 45 layers). Of the cylinder only a wedge of +-0.15 rad about the axis is
built, 150 mm half length: overlapping bounding boxes of whole cylinders make navigation three
times slower, and the wedge is wider than every scored voxel (0.05 rad) and its shower.

``ds1``: what a particle meets in the ATLAS barrel at eta about 0.2, flattened into parallel plates
in vacuum, shower axis +z from the front face: 107 mm of aluminium (1.2 X0, for coil and cryostat),
11 mm of liquid argon (presampler), 14, 53 and 7 pairs of 1.53 mm Pb and 4.2 mm LAr (layers 1 to 3;
4.2, 16.1 and 2.1 X0), 17, 47 and 21 pairs of 14 mm iron and 3 mm scintillator (layers 12 to 14;
1.5, 4.1 and 1.8 interaction lengths). No accordion, no steel and glue in the lead, no slant, no
field.

``ild``: 30 layers of tungsten (20 of 2.1 mm, 10 of 4.2 mm) and 0.525 mm of silicon in air, the
silicon where the public point clouds have it, 3.1 and 9.3 mm apart in turn (5.2 and 11.4 mm
further back). Tungsten fills the narrow gaps; in the middle of a wide one it has 0.4 mm of copper
and 1.6 mm of bakelite on either side, for what carries and reads the silicon. Their thickness was
chosen for a mean visible energy near that of the public showers (arXiv:2309.05704). No field.
"""

from __future__ import annotations

from calostudy.calorimeter import calorimeter
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

    active = ("G4_lAr",)
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

    active = ("G4_Si",)
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


class _Plates(_Detector):
    """Square plates behind each other in z from the front face at 0.

    A detector has ``plates()``, which yields (material, thickness, gap before it), and ``half``,
    the half width, all in mm.
    """

    axis = ((0.0, 0.0, -0.5), (0.0, 0.0, 1.0))
    surroundings = "G4_Galactic"

    def Construct(self):
        plates = list(self.plates())
        length = sum(thickness + gap for _, thickness, gap in plates) + 10.0
        half = self.half + 10.0
        box = g4.G4Box("World", half * mm, half * mm, length * mm)
        logical, world = self.place(box, self.surroundings)
        front = 0.0
        for number, (material, thickness, gap) in enumerate(plates):
            front += gap
            plate = g4.G4Box(material, self.half * mm, self.half * mm, 0.5 * thickness * mm)
            centre = g4.G4ThreeVector(0, 0, front + 0.5 * thickness)
            self.place(plate, material, logical, centre, number)
            front += thickness
        return world


class DS1(_Plates):
    """Aluminium, liquid argon, lead and liquid argon, iron and scintillator."""

    active = ("G4_lAr", "G4_POLYSTYRENE")
    half = 2000.0

    def plates(self):
        yield from (("G4_Al", 107.0, 0.0), ("G4_lAr", 11.0, 0.0))
        for pairs, absorber, sensor in (
            (14 + 53 + 7, ("G4_Pb", 1.53, 0.0), ("G4_lAr", 4.2, 0.0)),
            (17 + 47 + 21, ("G4_Fe", 14.0, 0.0), ("G4_POLYSTYRENE", 3.0, 0.0)),
        ):
            yield from (absorber, sensor) * pairs


class ILD(_Plates):
    """30 layers of tungsten and silicon."""

    active = ("G4_Si",)
    surroundings = "G4_AIR"
    half = 400.0

    def plates(self):
        end = 0.0
        for layer in calorimeter("ild").layers:
            near, far = layer.depth
            tungsten, gap = far - near - 0.525, near - end
            if gap < 3.0:
                yield "G4_W", tungsten, gap
            else:
                yield "G4_BAKELITE", 1.6, 0.0
                yield "G4_Cu", 0.4, 0.0
                yield "G4_W", tungsten, gap / 2 - 2.0
                yield "G4_Cu", 0.4, gap / 2 - 2.0
                yield "G4_BAKELITE", 1.6, 0.0
            yield "G4_Si", 0.525, 0.0
            end = far


DETECTORS = {"calogan": CaloGAN, "ds2": DS2, "ds1": DS1, "ild": ILD}
