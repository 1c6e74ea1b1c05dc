"""Native scoring: the energy of every step goes to its cell without touching Python.

A numba function is placed in a hand-made virtual table of G4UserSteppingAction. It reads G4Step
and G4StepPoint at fixed offsets, which `calostudy.geant4.probe` compares with the bindings'
own values at every start. The cell functions are ordinary functions as well, so that a Python
stepping action can be held against the native one.

Accumulator (float64): steps, deposited, deposited in the active materials, stored energy outside
the mesh, stored hits, then the mesh. Energies in MeV. Hits, where they are kept, go to a buffer of
rows (x, y, z, energy).
"""

from __future__ import annotations

import math
from functools import cache

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from calostudy.binning import locator
from calostudy.calorimeter import calorimeter
from calostudy.geant4.bridge import BOOL, POINTER, address, static, string

HEAD = 5  # numbers before the mesh
HIT_BYTES = 32  # four float64
# bytes; Geant4 11.4, checked by the probe
STEP_EDEP, STEP_PRE, STEP_POST, POINT_XYZ, POINT_MATERIAL = 0, 16, 24, 0, 96


@numba.njit
def cell_calogan(x, y, z):
    """Cell (0-503) or overflow of its layer (504-506) of a position in mm: layers 3x96, 12x12, 12x6
    over 480 mm x 480 mm, borders in depth 90 mm and 437 mm behind the front face."""
    layer = 0 if z < -150.0 else (1 if z < 197.0 else 2)
    if abs(x) >= 240.0 or abs(y) >= 240.0:
        return 504 + layer
    rows, columns, first = 3, 96, 0
    if layer == 1:
        rows, columns, first = 12, 12, 288
    if layer == 2:
        rows, columns, first = 12, 6, 432
    # a position one rounding below the edge may not fall into the next row
    row = min(int((x + 240.0) * rows / 480.0), rows - 1)
    column = min(int((y + 240.0) * columns / 480.0), columns - 1)
    return first + row * columns + column


def _cylinder(angles: int, radii: int, width: float):
    """Cell function of CaloChallenge's silicon-tungsten cylinder: 45 layers of 3.4 mm, ``angles``
    and ``radii`` of ``width`` mm, in CaloChallenge's order; -1 outside."""

    @numba.njit
    def cell(x, y, z):
        layer = math.floor((y - 800.0) / 3.4)
        radius = int(math.sqrt(x * x + z * z) / width)
        if layer < 0 or layer >= 45 or radius >= radii:
            return -1
        angle = math.floor((math.pi + math.atan2(z, x)) / (2 * math.pi) * angles) % angles
        return (layer * angles + angle) * radii + radius

    return cell


#: detector -> function of a position in the world to (eta, phi, depth) in mm
FRAMES = {
    "calogan": numba.njit(lambda x, y, z: (x, y, z + 240.0)),
    "ds2": numba.njit(lambda x, y, z: (x, z, y - 800.0)),
    "ds1": numba.njit(lambda x, y, z: (x, y, z)),
    "ild": numba.njit(lambda x, y, z: (x, y, z)),
}


def _cells_of(name: str, detector: str):
    """Cell function of a calorimeter from its data file, behind the frame of the detector."""
    locate, frame = locator(calorimeter(name)), FRAMES[detector]

    @numba.njit
    def cell(x, y, z):
        eta, phi, depth = frame(x, y, z)
        return locate(eta, phi, depth)

    return cell


_MESHES = {
    "calogan": lambda: (cell_calogan, 507, 0.0),
    "ds2": lambda: (_cylinder(16, 9, 4.65), 6480, 0.5),
    "ds3": lambda: (_cylinder(50, 18, 2.325), 40500, 0.5),
    "ds1-photons": lambda: (_cells_of("ds1-photons", "ds1"), 368, 0.5),
    "ds1-pions": lambda: (_cells_of("ds1-pions", "ds1"), 533, 0.5),
    "ild": lambda: (_cells_of("ild", "ild"), 27000, 0.5),
    "segmentations": lambda: (_cells_of("segmentations", "calogan"), 12096, 0.0),
}


@cache
def mesh(name: str) -> tuple:
    """Of a calorimeter: cell function, number of mesh cells, where in the step the energy is."""
    return _MESHES[name]()


def _load(number, word):
    @intrinsic
    def load(typing, place):
        def code(context, builder, signature, arguments):
            return builder.load(builder.inttoptr(arguments[0], word.as_pointer()))

        return number(types.int64), code

    return load


_double = _load(types.float64, ir.DoubleType())
_word = _load(types.int64, ir.IntType(64))


@intrinsic
def _add(typing, place, value):
    def code(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.DoubleType().as_pointer())
        builder.store(builder.fadd(builder.load(pointer), arguments[1]), pointer)
        return context.get_dummy_value()

    return types.void(types.int64, types.float64), code


@intrinsic
def _store(typing, place, value):
    def code(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.DoubleType().as_pointer())
        builder.store(arguments[1], pointer)
        return context.get_dummy_value()

    return types.void(types.int64, types.float64), code


def _stepping(cell, midpoint: float):
    """A native UserSteppingAction; position = pre-step + ``midpoint`` x (post-step - pre-step).

    Object: virtual table, stepping manager, accumulator, two active materials, whether only their
    deposits are stored, buffer of hits or 0, its capacity in hits.
    """

    @numba.cfunc(types.void(types.int64, types.int64))
    def step_action(this, step):
        sums = _word(this + 16)
        _add(sums, 1.0)
        energy = _double(step + STEP_EDEP)
        if energy <= 0.0:
            return
        _add(sums + 8, energy)
        pre = _word(step + STEP_PRE)
        material = _word(pre + POINT_MATERIAL)
        active = material == _word(this + 24) or material == _word(this + 32)
        if active:
            _add(sums + 16, energy)
        elif _word(this + 40) != 0:
            return
        x, y, z = (
            _double(pre + POINT_XYZ),
            _double(pre + POINT_XYZ + 8),
            _double(pre + POINT_XYZ + 16),
        )
        if midpoint > 0.0:
            post = _word(step + STEP_POST)
            x += midpoint * (_double(post + POINT_XYZ) - x)
            y += midpoint * (_double(post + POINT_XYZ + 8) - y)
            z += midpoint * (_double(post + POINT_XYZ + 16) - z)
        hits = _word(this + 48)
        if hits != 0:
            number = int(_double(sums + 32))
            if number < _word(this + 56):
                place = hits + HIT_BYTES * number
                _store(place, x)
                _store(place + 8, y)
                _store(place + 16, z)
                _store(place + 24, energy)
        _add(sums + 32, 1.0)
        index = cell(x, y, z)
        if index < 0:
            _add(sums + 24, energy)
        else:
            _add(sums + 8 * (HEAD + index), energy)

    return step_action


@numba.cfunc(types.void(types.int64))
def _nothing(this):
    """Destructor of an object that Python owns."""


class NativeScorer:
    """Installs native scoring into the mesh of a calorimeter.

    ``name``: the calorimeter; ``active``: names of one or two materials; ``stored`` is "all" or
    "active"; ``hits``: how many hits of an event to keep, 0 for none.
    """

    def __init__(self, name: str, active: tuple[str, ...], stored: str, hits: int = 0):
        cell, self.cells, midpoint = mesh(name)
        self.function = _stepping(cell, midpoint)
        self.sums = np.zeros(HEAD + self.cells)
        self.hits = np.zeros((hits, 4))
        action = "G4UserSteppingAction"
        manager = address(f"_ZN20{action}25SetSteppingManagerPointerEP17G4SteppingManager")
        table = [
            0,
            address(f"_ZTI20{action}"),
            _nothing.address,
            _nothing.address,
            manager,
            self.function.address,
        ]
        self.table = np.array(table, dtype=np.int64)
        materials = [
            static(
                "G4Material", "GetMaterial", "RK8G4Stringb", string(material), True,
                types=[POINTER, BOOL],
            )
            for material in active
        ]  # fmt: skip
        # the virtual pointer points behind offset-to-top and type information
        fields = [
            self.table.ctypes.data + 16,
            0,
            self.sums.ctypes.data,
            *materials,
            *[0] * (2 - len(materials)),
            int(stored == "active"),
            self.hits.ctypes.data if hits else 0,
            hits,
        ]
        self.object = np.array(fields, dtype=np.int64)

    def kept_hits(self) -> np.ndarray:
        """The event's hits (M, 4): x, y, z in mm, energy in MeV; a copy."""
        count = int(self.sums[HEAD - 1])
        if count > len(self.hits):
            raise RuntimeError(f"{count} hits in one event, room for {len(self.hits)}")
        return self.hits[:count].copy()

    def install(self) -> None:
        manager = static("G4RunManager", "GetRunManager", "v")
        types_ = [POINTER, POINTER]
        arguments = (manager, self.object.ctypes.data)
        static(
            "G4RunManager",
            "SetUserAction",
            "P20G4UserSteppingAction",
            *arguments,
            types=types_,
            result=None,
        )
