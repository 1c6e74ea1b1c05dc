"""Explicit vector instructions inside numba functions, without a C compiler.

numba hands its loops to LLVM's automatic vectoriser, which gives up on long bodies, on many
arrays that might overlap, and on exp and log. The kernels of this package therefore write their
inner statements themselves: a numba intrinsic opens `Lanes` on LLVM's builder and then plain
Python arithmetic on `Vector` objects emits one instruction on all lanes at a time. LLVM splits
the 64-byte vectors to whatever the processor has.

exp and log are polynomials (Taylor series after the usual range reduction), correct to the
last one or two bits of float32 and float64; they do not treat infinities, NaN or subnormals.
"""

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils, types

BYTES = 64


def lanes_of(dtype) -> int:
    """Lanes of one vector for a numpy dtype: 16 for float32, 8 for float64."""
    return BYTES // dtype.itemsize


@dataclass(frozen=True)
class _Format:
    """Layout of an IEEE number, and the terms its series need."""

    scalar: ir.Type
    integer: ir.IntType
    mantissa: int
    bias: int
    smallest_exponent: float  # exp() is clamped below this argument
    exp_terms: int
    log_terms: int


_FORMATS = {
    types.float32: _Format(ir.FloatType(), ir.IntType(32), 23, 127, -87.0, 8, 6),
    types.float64: _Format(ir.DoubleType(), ir.IntType(64), 52, 1023, -708.0, 14, 12),
}


class Vector:
    """One LLVM vector value; operators emit the instruction on every lane."""

    def __init__(self, lanes, value):
        self.lanes, self.value = lanes, value

    def _binary(self, other, emit):
        return Vector(self.lanes, emit(self.value, self.lanes.vector(other).value))

    def __add__(self, other):
        return self._binary(other, self.lanes.builder.fadd)

    def __sub__(self, other):
        return self._binary(other, self.lanes.builder.fsub)

    def __mul__(self, other):
        return self._binary(other, self.lanes.builder.fmul)

    def __truediv__(self, other):
        return self._binary(other, self.lanes.builder.fdiv)

    def __rsub__(self, other):
        return self.lanes.vector(other) - self

    def __rtruediv__(self, other):
        return self.lanes.vector(other) / self

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self):
        return Vector(self.lanes, self.lanes.builder.fneg(self.value))

    def _compare(self, other, operator):
        other = self.lanes.vector(other)
        return self.lanes.builder.fcmp_ordered(operator, self.value, other.value)

    def __ge__(self, other):
        return self._compare(other, ">=")

    def __gt__(self, other):
        return self._compare(other, ">")

    def __le__(self, other):
        return self._compare(other, "<=")

    def equals(self, other):
        return self._compare(other, "==")


class Lanes:
    """Vector arithmetic on numbers of one numba type, emitted through an LLVM builder.

    stored: the type in memory of what is loaded, where that is a signed integer.
    """

    def __init__(self, builder, numba_type, count=None, stored=None):
        self.builder, self.format = builder, _FORMATS[numba_type]
        self.whole = isinstance(stored, types.Integer)
        self.stored = ir.IntType(stored.bitwidth) if self.whole else self.format.scalar
        self.size = BYTES * 8 // self.format.integer.width if count is None else count
        self.type = ir.VectorType(self.format.scalar, self.size)
        self.integers = ir.VectorType(self.format.integer, self.size)
        self.bytes = self.format.integer.width // 8
        self._mangled = f"v{self.size}f{self.format.integer.width}"

    # constants and memory

    def constant(self, number):
        return Vector(self, ir.Constant(self.type, [float(number)] * self.size))

    def _integer(self, number):
        return ir.Constant(self.integers, [int(number)] * self.size)

    def splat(self, scalar):
        """All lanes equal to one LLVM scalar."""
        index = ir.Constant(ir.IntType(32), 0)
        one = self.builder.insert_element(ir.Constant(self.type, ir.Undefined), scalar, index)
        order = ir.Constant(ir.VectorType(ir.IntType(32), self.size), [0] * self.size)
        return Vector(self, self.builder.shuffle_vector(one, one, order))

    def wrap(self, value):
        """An LLVM vector value as a Vector."""
        return Vector(self, value)

    def vector(self, number):
        return number if isinstance(number, Vector) else self.constant(number)

    def address(self, pointer, index):
        """Address of element `index` (an LLVM integer) of an array of scalars."""
        return self.builder.gep(pointer, [index], source_etype=self.stored)

    def load(self, address):
        pointer = self.builder.bitcast(address, ir.VectorType(self.stored, self.size).as_pointer())
        value = self.builder.load(
            pointer, align=self.stored.width // 8 if self.whole else self.bytes
        )
        return Vector(self, self.builder.sitofp(value, self.type) if self.whole else value)

    def store(self, vector, address):
        pointer = self.builder.bitcast(address, self.type.as_pointer())
        self.builder.store(vector.value, pointer, align=self.bytes)

    def load_scalar(self, address):
        """One number from memory on all lanes."""
        value = self.builder.load(address)
        return self.splat(self.builder.sitofp(value, self.format.scalar) if self.whole else value)

    # functions

    def _call(self, name, *vectors):
        function_type = ir.FunctionType(self.type, [self.type] * len(vectors))
        function = cgutils.get_or_insert_function(
            self.builder.module, function_type, f"llvm.{name}.{self._mangled}"
        )
        return Vector(self, self.builder.call(function, [v.value for v in vectors]))

    def fma(self, a, b, c):
        """a b + c, rounded once."""
        return self._call("fma", self.vector(a), self.vector(b), self.vector(c))

    def sqrt(self, a):
        return self._call("sqrt", a)

    def maximum(self, a, b):
        return self.select(a > b, a, b)

    def minimum(self, a, b):
        return self.select(a > b, b, a)

    def select(self, condition, a, b):
        a, b = self.vector(a), self.vector(b)
        return Vector(self, self.builder.select(condition, a.value, b.value))

    def both(self, a, b):
        return self.builder.and_(a, b)

    def sum(self, vector):
        """Sum over the lanes (an LLVM scalar), in a fixed pairwise order."""
        value, width = vector.value, self.size
        while width > 1:
            width //= 2
            halves = [
                ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(start, start + width)))
                for start in (0, width)
            ]
            low, high = (self.builder.shuffle_vector(value, value, half) for half in halves)
            value = self.builder.fadd(low, high)
        return self.builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    def polynomial(self, x, coefficients):
        """Horner's rule, coefficients from the constant term upwards."""
        result = self.constant(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            result = self.fma(result, x, coefficient)
        return result

    def exp(self, x):
        """exp, for arguments below 88 (float32) or 709 (float64); tiny below the smallest."""
        layout, builder = self.format, self.builder
        x = self.maximum(x, self.constant(layout.smallest_exponent))
        # Adding 1.5 2^mantissa rounds to an integer and leaves it in the lowest bits.
        magic = self.constant(1.5 * 2.0**layout.mantissa)
        shifted = self.fma(x, 1.0 / math.log(2.0), magic)
        power = shifted - magic
        high, low = _split_log2(layout.mantissa)
        rest = self.fma(power, -low, self.fma(power, -high, x))
        series = self.polynomial(rest, [1.0 / math.factorial(n) for n in range(layout.exp_terms)])
        bits = builder.bitcast(shifted.value, self.integers)
        bits = builder.shl(bits, self._integer(layout.mantissa))
        bits = builder.add(bits, builder.bitcast(series.value, self.integers))
        return Vector(self, builder.bitcast(bits, self.type))

    def log(self, x):
        """Natural logarithm of positive normal numbers."""
        layout, builder = self.format, self.builder
        bits = builder.bitcast(x.value, self.integers)
        # Reduce to [sqrt(1/2), sqrt(2)): log x = power log 2 + log reduced.
        offset = _bits_of(math.sqrt(0.5), layout)
        power = builder.ashr(
            builder.sub(bits, self._integer(offset)), self._integer(layout.mantissa)
        )
        scaled = builder.shl(power, self._integer(layout.mantissa))
        reduced = Vector(self, builder.bitcast(builder.sub(bits, scaled), self.type))
        magic = 1.5 * 2.0**layout.mantissa
        shifted = builder.add(power, self._integer(_bits_of(magic, layout)))
        power = Vector(self, builder.bitcast(shifted, self.type)) - magic
        # log(1 + f) = 2 artanh(f / (2 + f))
        ratio = (reduced - 1.0) / (reduced + 1.0)
        series = self.polynomial(
            ratio * ratio, [2.0 / (2 * n + 1) for n in range(layout.log_terms)]
        )
        high, low = _split_log2(layout.mantissa)
        return self.fma(power, high, self.fma(ratio, series, power * low))

    def softplus(self, x):
        """log(1 + exp(x)), and x above 20, as torch computes it."""
        small = self.exp(self.minimum(x, self.constant(20.0)))
        one_plus = small + 1.0
        # What the sum rounded away comes back to first order.
        correction = (small - (one_plus - 1.0)) / one_plus
        return self.select(x > 20.0, x, self.log(one_plus) + correction)

    def sigmoid_of_softplus(self, x):
        """Derivative of `softplus` (1 above 20)."""
        small = self.exp(self.minimum(x, self.constant(20.0)))
        return self.select(x > 20.0, 1.0, small / (small + 1.0))


def _bits_of(number, layout):
    mantissa, exponent = math.frexp(number)
    fraction = round((2.0 * mantissa - 1.0) * 2.0**layout.mantissa)
    return ((exponent - 1 + layout.bias) << layout.mantissa) + fraction


def _split_log2(mantissa):
    """log 2 as a short number, whose products with small integers are exact, plus the rest."""
    scale = 2.0 ** (mantissa - 11)
    high = math.floor(math.log(2.0) * scale) / scale
    # log 2 in twice the precision: the second term is what float64 rounds away.
    return high, (math.log(2.0) - high) + 2.319046813846299617e-17


def host_registers() -> tuple[int, int]:
    """(bytes of the widest vector register, number of such registers) of this processor."""
    features = get_host_cpu_features()
    return (64, 32) if features.get("avx512f") else (32, 16)


def array_pointer(context, builder, array_type, value):
    """Address of the first element of a numba array inside an intrinsic."""
    return context.make_array(array_type)(context, builder, value).data


def source_stamp(*modules) -> int:
    """Checksum of the source of modules that emit instructions into compiled functions.

    numba's cache on disk notices changes of the file of a function, not of the files that its
    intrinsics come from: functions that close over this number are compiled anew.
    """
    return zlib.crc32(b"".join(Path(module.__file__).read_bytes() for module in modules))
