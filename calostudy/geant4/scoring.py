"""Native scoring: the energy of every step goes to its cell without touching Python.

A numba function is placed in a hand-made virtual table of G4UserSteppingAction. It reads G4Step
and G4StepPoint at fixed offsets, which `calostudy.geant4.probe` compares with the bindings'
own values at every start. ``cell_calogan`` and ``cell_ds2`` are ordinary functions as well, so
that a Python stepping action can be held against the native one.

Accumulator (float64): steps, deposited, deposited in the active material, stored energy outside
the mesh, then the mesh. Energies in MeV.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from calostudy.geant4.bridge import BOOL, POINTER, address, static, string

HEAD = 4  # numbers before the mesh
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


@numba.njit
def cell_ds2(x, y, z):
    """Voxel (0-6479) of a position in mm, -1 outside: 45 layers of 3.4 mm, 16 angles, 9 radii of
    4.65 mm; CaloChallenge's order."""
    layer = math.floor((y - 800.0) / 3.4)
    radius = int(math.sqrt(x * x + z * z) / 4.65)
    if layer < 0 or layer >= 45 or radius >= 9:
        return -1
    angle = math.floor((math.pi + math.atan2(z, x)) / (2 * math.pi) * 16) % 16
    return (layer * 16 + angle) * 9 + radius


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


def _stepping(cell, midpoint: float):
    """A native UserSteppingAction; position = pre-step + ``midpoint`` x (post-step - pre-step).

    Object: virtual table, stepping manager, accumulator, active material, the mesh's material or 0.
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
        if material == _word(this + 24):
            _add(sums + 16, energy)
        stored = _word(this + 32)
        if stored != 0 and material != stored:
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
        index = cell(x, y, z)
        if index < 0:
            _add(sums + 24, energy)
        else:
            _add(sums + 8 * (HEAD + index), energy)

    return step_action


@numba.cfunc(types.void(types.int64))
def _nothing(this):
    """Destructor of an object that Python owns."""


#: detector -> (cell function, number of mesh cells, where in the step the energy is)
MESHES = {"calogan": (cell_calogan, 507, 0.0), "ds2": (cell_ds2, 6480, 0.5)}


class NativeScorer:
    """Installs native scoring for a detector; ``stored`` is "all" or "active"."""

    def __init__(self, detector: str, active: str, stored: str):
        cell, self.cells, midpoint = MESHES[detector]
        self.function = _stepping(cell, midpoint)
        self.sums = np.zeros(HEAD + self.cells)
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
        material = static(
            "G4Material", "GetMaterial", "RK8G4Stringb", string(active), True, types=[POINTER, BOOL]
        )
        mesh_material = material if stored == "active" else 0
        # the virtual pointer points behind offset-to-top and type information
        fields = [self.table.ctypes.data + 16, 0, self.sums.ctypes.data, material, mesh_material]
        self.object = np.array(fields, dtype=np.int64)

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
