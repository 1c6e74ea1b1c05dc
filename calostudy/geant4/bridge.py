"""C++ objects of the Geant4 wheel, reached through ctypes.

geant4-pybind wraps no single electromagnetic model or process, but its shared library exports
their C++ symbols; constructors and methods are called by their mangled names (Itanium C++ ABI,
libstdc++). Importing this module imports Geant4, so only a worker process does
(`calostudy.geant4.worker`), with the environment of `calostudy.geant4.environment`.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

from calostudy.errors import UsageError

# without this variable the wheel asks, at import, whether it may download the data sets
os.environ.setdefault("GEANT4_DATA_DIR", os.devnull)

import geant4_pybind as g4

POINTER, INT, BOOL, DOUBLE = ctypes.c_void_p, ctypes.c_int, ctypes.c_bool, ctypes.c_double

library = ctypes.CDLL(g4.__file__)
_operator_new = ctypes.CDLL("libstdc++.so.6")["_Znwm"]
_operator_new.restype, _operator_new.argtypes = POINTER, [ctypes.c_size_t]

_alive: list[object] = []  # what C++ holds by address must outlive every call


class _String(ctypes.Structure):
    """std::string of libstdc++; the characters are kept elsewhere."""

    _fields_ = [
        ("characters", ctypes.c_char_p),
        ("size", ctypes.c_size_t),
        ("local", ctypes.c_char * 16),
    ]


class _Vector(ctypes.Structure):
    """std::vector of libstdc++."""

    _fields_ = [("begin", POINTER), ("end", POINTER), ("capacity", POINTER)]


def string(text: str) -> int:
    """Address of a G4String."""
    value = _String(text.encode(), len(text))
    _alive.append(value)
    return ctypes.addressof(value)


def int_vector(values: list[int]) -> int:
    """Address of a std::vector<int>."""
    array = (ctypes.c_int * len(values))(*values)
    end = ctypes.addressof(array) + 4 * len(values)
    vector = _Vector(ctypes.addressof(array), end, end)
    _alive.extend((array, vector))
    return ctypes.addressof(vector)


def _symbol(name: str):
    try:
        return library[name]
    except AttributeError:
        raise UsageError(
            f"this Geant4 library has no symbol {name}: not the pinned wheel"
        ) from None


def address(name: str) -> int:
    """Address of an exported symbol."""
    return ctypes.cast(_symbol(name), POINTER).value


def _function(name: str, arguments: tuple, types: list | None, result):
    function = _symbol(name)
    function.restype, function.argtypes = result, types or [POINTER] * len(arguments)
    return function


def static(cls: str, name: str, signature: str, *arguments, types=None, result=POINTER):
    """Call ``cls::name``.

    ``signature`` is the mangled argument list; ``types`` of the arguments default to pointers.
    """
    symbol = f"_ZN{len(cls)}{cls}{len(name)}{name}E{signature}"
    return _function(symbol, arguments, types, result)(*arguments)


def method(this: int, cls: str, name: str, signature: str, *arguments, types=None, result=None):
    """Call ``this->name`` of class ``cls``."""
    types = [POINTER] + (types or [POINTER] * len(arguments))
    return static(cls, name, signature, this, *arguments, types=types, result=result)


def new(cls: str, signature: str, *arguments, types=None, size: int = 8192) -> int:
    """Construct a ``cls``; returns its address. ``size`` exceeds that of every class made here."""
    this = _operator_new(size)
    ctypes.memset(this, 0, size)
    types = [POINTER] + (types or [POINTER] * len(arguments))
    _function(f"_ZN{len(cls)}{cls}C1E{signature}", (this, *arguments), types, None)(
        this, *arguments
    )
    return this


def particle(cls: str, name: str) -> int:
    """Address of a G4ParticleDefinition, e.g. ``particle("G4Gamma", "Gamma")``."""
    return static(cls, name, "v")


def instance_address(wrapped: object) -> int:
    """Address of the C++ object in a pybind11 object.

    pybind11's instance: PyObject head, three words, weak references, flags (bit 1: simple layout).
    In the simple layout the first word is the address, else it points to the address.
    """
    head = id(wrapped) + object.__basicsize__
    simple = ctypes.c_uint8.from_address(head + 32).value & 2
    word = POINTER.from_address(head).value
    return word if simple else POINTER.from_address(word).value


def _limits_offset(model: int) -> int:
    """Offset of G4VEmModel's energy limits: lowLimit, highLimit, eMinActive, eMaxActive.

    They have inline setters, hence no symbols. The place is recognised by the four default values,
    and must be the only one.
    """
    raw = ctypes.string_at(model, 400)
    low_defaults = (0.0, 1e-4, 1e-3)  # MeV: by model
    matches = [
        offset
        for offset in range(0, 368, 8)
        for low, high, active_low, active_high in [struct.unpack_from("4d", raw, offset)]
        if high == 1e8
        and active_low == 0.0
        and active_high == sys.float_info.max
        and low in low_defaults
    ]
    if len(matches) != 1:
        raise UsageError("the layout of G4VEmModel in this Geant4 library is not the known one")
    return matches[0]


def set_limits(
    model: int, low: float | None = None, high: float | None = None, active_low: float | None = None
):
    """Set a G4VEmModel's energy limits in MeV. Raises UsageError when its layout is unknown."""
    place = model + _limits_offset(model)
    for shift, value in ((0, low), (8, high), (16, active_low)):
        if value is not None:
            DOUBLE.from_address(place + shift).value = value
