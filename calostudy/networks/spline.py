"""Monotone rational quadratic splines with linear tails (Durkan et al., arXiv:1906.04032).

The function is the one of nflows' `unconstrained_rational_quadratic_spline`, with the same
conventions: `bins` unnormalised widths, `bins` unnormalised heights and `bins - 1` unnormalised
inner derivatives per element, identity outside [-tail_bound, tail_bound]. What differs is the
cost: each element is read once and written once, 64 bytes of neighbours at a time, both forwards
and in the derivatives, where nflows makes some fifty passes with boolean indexing.

Elements live in COLUMNS: inputs are (features, samples) and parameters (features * (3 bins - 1),
samples), so that neighbouring samples are neighbours in memory and the parameters are exactly
weight @ hidden.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit, types
from numba.extending import intrinsic

from calostudy.networks import simd
from calostudy.networks.simd import Lanes, lanes_of, source_stamp
from calostudy.networks.threads import in_threads

# Rows are worked off in this many parts whatever the number of threads, so that sums over
# features are added in the same order on every machine.
PARTS = 8


@dataclass(frozen=True)
class SplineSettings:
    """Number of bins, tail bound and smallest bin width, bin height and derivative."""

    bins: int
    tail_bound: float
    min_bin_width: float
    min_bin_height: float
    min_derivative: float

    @property
    def parameters(self) -> int:
        """Unnormalised parameters per element."""
        return 3 * self.bins - 1

    @property
    def edge(self) -> float:
        """Unnormalised derivative at the tails, where the derivative is one."""
        return math.log(math.expm1(1.0 - self.min_derivative))

    def numbers(self, dtype) -> np.ndarray:
        """What the kernels read: bound, smallest width, height, derivative, edge."""
        return np.array(
            [
                self.tail_bound,
                self.min_bin_width,
                self.min_bin_height,
                self.min_derivative,
                self.edge,
            ],
            dtype,
        )

    @property
    def marker(self) -> tuple:
        """A tuple of length `bins`: numba compiles the kernels for its type."""
        return (0,) * self.bins


# ---- the spline on vectors: each function below emits straight-line code -----------------


class _Knots:
    """Softmax shares and positions of the knots of one axis."""

    def __init__(self, v, raw, minimum, bound):
        bins = len(raw)
        largest = raw[0]
        for other in raw[1:]:
            largest = v.maximum(largest, other)
        exponentials = [v.exp(r - largest) for r in raw]
        total = exponentials[0]
        for e in exponentials[1:]:
            total = total + e
        inverse = 1.0 / total
        self.shares = [e * inverse for e in exponentials]
        self.scale = v.constant(1.0) - minimum * float(bins)
        self.edges = [-bound]
        position, width = v.constant(0.0), bound + bound
        for share in self.shares[:-1]:
            position = position + v.fma(self.scale, share, minimum)
            self.edges.append(v.fma(width, position, -bound))
        self.edges.append(bound)

    def gradients(self, below, at, inside):
        """Derivatives with respect to the raw numbers, from those with respect to the left
        edge and the size of the chosen bin; `inside[k]` tells below, at or above bin k."""
        terms = [inside(k, below, at) for k in range(len(self.shares))]
        mean = self.shares[0] * terms[0]
        for share, term in zip(self.shares[1:], terms[1:], strict=True):
            mean = mean + share * term
        return [
            self.scale * share * (term - mean)
            for share, term in zip(self.shares, terms, strict=True)
        ]


class _Bin:
    """The bin that holds a position: its edges on both axes, its derivatives, its number."""

    def __init__(self, v, position, search, widths, heights, derivatives, edge):
        bins = len(widths.shares)
        derivatives = [edge, *derivatives, edge]
        self.number = v.constant(0.0)
        self.left, right = widths.edges[:2]
        self.low, high = heights.edges[:2]
        self.raw0, self.raw1 = derivatives[:2]
        for k in range(1, bins):
            beyond = position >= search.edges[k]
            self.number = v.select(beyond, float(k), self.number)
            self.left = v.select(beyond, widths.edges[k], self.left)
            right = v.select(beyond, widths.edges[k + 1], right)
            self.low = v.select(beyond, heights.edges[k], self.low)
            high = v.select(beyond, heights.edges[k + 1], high)
            self.raw0 = v.select(beyond, derivatives[k], self.raw0)
            self.raw1 = v.select(beyond, derivatives[k + 1], self.raw1)
        self.width, self.height = right - self.left, high - self.low
        self.slope = self.height / self.width


class _Spline:
    """Knots and bin of one vector of elements, in either direction."""

    def __init__(self, v, position, raw, bins, numbers, inverse):
        self.bound, min_width, min_height, self.min_derivative, edge = numbers
        self.inside = v.both(position >= -self.bound, position <= self.bound)
        self.position = v.maximum(v.minimum(position, self.bound), -self.bound)
        self.widths = _Knots(v, raw[:bins], min_width, self.bound)
        self.heights = _Knots(v, raw[bins : 2 * bins], min_height, self.bound)
        search = self.heights if inverse else self.widths
        self.bin = _Bin(v, self.position, search, self.widths, self.heights, raw[2 * bins :], edge)
        self.d0 = self.min_derivative + v.softplus(self.bin.raw0)
        self.d1 = self.min_derivative + v.softplus(self.bin.raw1)
        self.curvature = self.d0 + self.d1 - 2.0 * self.bin.slope


def emit_inverse(v, position, raw, bins, numbers):
    """Vector of x with spline(x) = position."""
    s = _Spline(v, position, raw, bins, numbers, inverse=True)
    chosen = s.bin
    rise = s.position - chosen.low
    b = chosen.height * s.d0 - rise * s.curvature
    a = rise * s.curvature + chosen.height * (chosen.slope - s.d0)
    c = -chosen.slope * rise
    # Rounding can push the discriminant of a monotone spline below zero; nflows aborts there.
    discriminant = v.maximum(b * b - 4.0 * a * c, v.constant(0.0))
    root = 2.0 * c / (-b - v.sqrt(discriminant))
    return v.select(s.inside, v.fma(root, chosen.width, chosen.left), position)


def emit_forward(v, position, raw, bins, numbers):
    """Vectors of spline(position) and of the logarithm of its derivative."""
    s = _Spline(v, position, raw, bins, numbers, inverse=False)
    chosen = s.bin
    theta = (s.position - chosen.left) / chosen.width
    rest = 1.0 - theta
    mixed = theta * rest
    denominator = chosen.slope + s.curvature * mixed
    rise = chosen.height * (chosen.slope * theta * theta + s.d0 * mixed) / denominator
    middle = s.d1 * theta * theta + 2.0 * chosen.slope * mixed + s.d0 * rest * rest
    ratio = chosen.slope / denominator
    log_derivative = v.log(ratio * ratio * middle)
    return (
        v.select(s.inside, chosen.low + rise, position),
        v.select(s.inside, log_derivative, 0.0),
    )


def emit_gradients(v, position, raw, bins, numbers, g_output, g_log):
    """Derivatives with respect to the position and to each raw parameter, from those with
    respect to the output and to the logarithm of the derivative."""
    s = _Spline(v, position, raw, bins, numbers, inverse=False)
    chosen, d0, d1, slope = s.bin, s.d0, s.d1, s.bin.slope
    g_outside = g_output
    g_output = v.select(s.inside, g_output, 0.0)
    g_log = v.select(s.inside, g_log, 0.0)

    inverse_width = 1.0 / chosen.width
    theta = (s.position - chosen.left) * inverse_width
    rest = 1.0 - theta
    mixed, square, tilt = theta * rest, theta * theta, rest - theta
    inverse_denominator = 1.0 / (slope + s.curvature * mixed)
    shape = slope * square + d0 * mixed
    middle = d1 * square + 2.0 * slope * mixed + d0 * rest * rest

    g_shape = g_output * chosen.height * inverse_denominator
    g_middle = g_log / middle
    g_denominator = -(g_shape * shape + 2.0 * g_log) * inverse_denominator
    g_slope = (
        g_shape * square
        + g_denominator * (1.0 - 2.0 * mixed)
        + 2.0 * g_middle * mixed
        + 2.0 * g_log / slope
    )
    g_theta = (
        g_shape * (2.0 * slope * theta + d0 * tilt)
        + g_denominator * s.curvature * tilt
        + 2.0 * g_middle * (d1 * theta + slope * tilt - d0 * rest)
    )
    g_d0 = (g_shape + g_denominator) * mixed + g_middle * rest * rest
    g_d1 = g_denominator * mixed + g_middle * square
    g_height = g_output * shape * inverse_denominator + g_slope * inverse_width
    g_position = g_theta * inverse_width
    g_width = -(g_slope * slope + g_theta * theta) * inverse_width

    def inside(k, below, at):
        return v.select(
            chosen.number > float(k), below, v.select(chosen.number >= float(k), at, 0.0)
        )

    span = s.bound + s.bound
    g_raw0 = g_d0 * v.sigmoid_of_softplus(chosen.raw0)
    g_raw1 = g_d1 * v.sigmoid_of_softplus(chosen.raw1)
    gradients = s.widths.gradients(-g_position * span, g_width * span, inside)
    gradients += s.heights.gradients(g_output * span, g_height * span, inside)
    for k in range(1, bins):  # the derivative at knot k closes bin k-1 and opens bin k
        gradients.append(
            v.select(
                chosen.number.equals(float(k)),
                g_raw0,
                v.select(chosen.number.equals(float(k - 1)), g_raw1, 0.0),
            )
        )
    return v.select(s.inside, g_position, g_outside), gradients


# ---- kernels: one vector of neighbouring samples of one feature ---------------------------


class _Access:
    """Loads and stores of one vector inside an intrinsic's code generation."""

    def __init__(self, context, builder, signature, args):
        self.builder, self.bins = builder, signature.args[-3].count
        self.row, self.column = args[-2:]
        self.v = Lanes(builder, signature.args[0].dtype)
        self.arrays = [
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args[:-3], args[:-3], strict=True)
        ]
        shape = self.builder.extract_value(self.arrays[0].shape, 1)
        self.samples = shape

    def _address(self, array, row):
        offset = self.builder.add(self.builder.mul(row, self.samples), self.column)
        return self.v.address(self.arrays[array].data, offset)

    def rows(self, array, count):
        """Addresses of this feature's `count` consecutive rows."""
        integer = self.row.type
        first = self.builder.mul(self.row, integer(count))
        return [self._address(array, self.builder.add(first, integer(k))) for k in range(count)]

    def column_of(self, array):
        """Address in a one-dimensional array of one number per sample."""
        return self.v.address(self.arrays[array].data, self.column)

    def scalars(self, array, count):
        integer = self.row.type
        return [
            self.v.load_scalar(self.v.address(self.arrays[array].data, integer(k)))
            for k in range(count)
        ]


@intrinsic
def _forward_vector(_context, inputs, parameters, numbers, outputs, logs, bins, row, column):
    def codegen(context, builder, signature, args):
        at = _Access(context, builder, signature, args)
        v = at.v
        raw = [v.load(address) for address in at.rows(1, 3 * at.bins - 1)]
        (position,), (output,), log = at.rows(0, 1), at.rows(3, 1), at.column_of(4)
        result, log_derivative = emit_forward(v, v.load(position), raw, at.bins, at.scalars(2, 5))
        v.store(result, output)
        v.store(v.load(log) + log_derivative, log)
        return context.get_dummy_value()

    return types.void(inputs, parameters, numbers, outputs, logs, bins, row, column), codegen


@intrinsic
def _gradient_vector(
    _context,
    inputs,
    parameters,
    numbers,
    g_outputs,
    g_logs,
    g_inputs,
    g_parameters,
    bins,
    row,
    column,
):
    def codegen(context, builder, signature, args):
        at = _Access(context, builder, signature, args)
        v, count = at.v, 3 * at.bins - 1
        raw = [v.load(address) for address in at.rows(1, count)]
        (position,), (g_output,), (g_input,) = (at.rows(k, 1) for k in (0, 3, 5))
        gradient, gradients = emit_gradients(
            v,
            v.load(position),
            raw,
            at.bins,
            at.scalars(2, 5),
            v.load(g_output),
            v.load(at.column_of(4)),
        )
        v.store(gradient, g_input)
        for value, address in zip(gradients, at.rows(6, count), strict=True):
            v.store(value, address)
        return context.get_dummy_value()

    signature = types.void(
        inputs,
        parameters,
        numbers,
        g_outputs,
        g_logs,
        g_inputs,
        g_parameters,
        bins,
        row,
        column,
    )
    return signature, codegen


def _compiled(sources):
    """Loops over the kernels; `sources` is part of the key of numba's cache on disk."""

    @njit(nogil=True, cache=True)
    def forward(inputs, parameters, numbers, outputs, logs, bins, lanes):
        _ = sources
        for row in range(inputs.shape[0]):
            for column in range(0, inputs.shape[1], lanes):
                _forward_vector(inputs, parameters, numbers, outputs, logs, bins, row, column)

    @njit(nogil=True, cache=True)
    def gradients(
        inputs, parameters, numbers, g_outputs, g_logs, g_inputs, g_parameters, bins, lanes
    ):  # fmt: skip
        _ = sources
        for row in range(inputs.shape[0]):
            for column in range(0, inputs.shape[1], lanes):
                _gradient_vector(
                    inputs, parameters, numbers, g_outputs, g_logs, g_inputs, g_parameters,
                    bins, row, column,
                )  # fmt: skip

    return forward, gradients


_forward, _gradients = _compiled(source_stamp(simd))


def _in_parts(work, rows):
    """work(part, slice of rows) for the fixed parts, on torch's number of threads."""
    bounds = np.linspace(0, rows, min(PARTS, rows) + 1).astype(int)
    parts = [(i, slice(a, b)) for i, (a, b) in enumerate(pairwise(bounds))]
    in_threads(lambda part: work(*part), parts, torch.get_num_threads())


class _SplineFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, parameters, settings):
        ctx.save_for_backward(inputs, parameters)
        ctx.settings = settings
        x, raw = inputs.detach().numpy(), parameters.detach().numpy()
        count, numbers = settings.parameters, settings.numbers(x.dtype)
        outputs, logs = np.empty_like(x), np.zeros((PARTS, x.shape[1]), x.dtype)

        def work(part, rows):
            own = slice(rows.start * count, rows.stop * count)
            _forward(
                x[rows],
                raw[own],
                numbers,
                outputs[rows],
                logs[part],
                settings.marker,
                lanes_of(x.dtype),
            )

        _in_parts(work, len(x))
        return torch.from_numpy(outputs), torch.from_numpy(logs.sum(axis=0))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_outputs, g_logs):
        inputs, parameters = ctx.saved_tensors
        settings = ctx.settings
        x, raw = inputs.detach().numpy(), parameters.detach().numpy()
        count, numbers = settings.parameters, settings.numbers(x.dtype)
        g_y, g_log = g_outputs.contiguous().numpy(), g_logs.contiguous().numpy()
        g_x, g_raw = np.empty_like(x), np.empty_like(raw)

        def work(_part, rows):
            own = slice(rows.start * count, rows.stop * count)
            _gradients(
                x[rows],
                raw[own],
                numbers,
                g_y[rows],
                g_log,
                g_x[rows],
                g_raw[own],
                settings.marker,
                lanes_of(x.dtype),
            )

        _in_parts(work, len(x))
        return torch.from_numpy(g_x), torch.from_numpy(g_raw), None


def _with_torch(inputs, parameters, settings):
    """The same function in plain torch, for devices that numba cannot reach."""
    bins, bound = settings.bins, settings.tail_bound
    raw = parameters.view(len(inputs), settings.parameters, -1)
    inside = inputs.abs() <= bound
    position = inputs.clamp(-bound, bound).unsqueeze(1)

    def knots(unnormalised, minimum):
        sizes = minimum + (1.0 - minimum * bins) * torch.softmax(unnormalised, dim=1)
        inner = 2.0 * bound * torch.cumsum(sizes, dim=1)[:, :-1] - bound
        return F.pad(F.pad(inner, (0, 0, 1, 0), value=-bound), (0, 0, 0, 1), value=bound)

    x_knots = knots(raw[:, :bins], settings.min_bin_width)
    y_knots = knots(raw[:, bins : 2 * bins], settings.min_bin_height)
    derivatives = settings.min_derivative + F.softplus(
        F.pad(raw[:, 2 * bins :], (0, 0, 1, 1), value=settings.edge)
    )
    chosen = (position >= x_knots[:, 1:-1]).sum(dim=1, keepdim=True)
    left, right, low, high, d0, d1 = (
        values.gather(1, chosen + step).squeeze(1)
        for values in (x_knots, y_knots, derivatives)
        for step in (0, 1)
    )
    slope = (high - low) / (right - left)
    theta = (position.squeeze(1) - left) / (right - left)
    mixed = theta * (1.0 - theta)
    denominator = slope + (d0 + d1 - 2.0 * slope) * mixed
    rise = (high - low) * (slope * theta**2 + d0 * mixed) / denominator
    middle = d1 * theta**2 + 2.0 * slope * mixed + d0 * (1.0 - theta) ** 2
    logs = 2.0 * torch.log(slope / denominator) + torch.log(middle)
    return torch.where(inside, low + rise, inputs), torch.where(inside, logs, 0.0).sum(dim=0)


def rational_quadratic_spline(inputs, parameters, settings):
    """Spline of each element, and the sum over features of the log derivatives.

    inputs: (features, samples); parameters: (features * settings.parameters, samples), the
    parameters of one feature in consecutive rows (widths, heights, derivatives).
    Returns outputs (features, samples) and logabsdet (samples,); differentiable once in both
    arguments. float32 and float64; on a CPU by the kernels above, elsewhere by torch.
    """
    if inputs.device.type != "cpu":
        return _with_torch(inputs, parameters, settings)
    samples = inputs.shape[1]
    missing = -samples % lanes_of(np.dtype(str(inputs.dtype).removeprefix("torch.")))
    if missing:
        inputs, parameters = F.pad(inputs, (0, missing)), F.pad(parameters, (0, missing))
    outputs, logs = _SplineFunction.apply(inputs.contiguous(), parameters.contiguous(), settings)
    return (outputs[:, :samples], logs[:samples]) if missing else (outputs, logs)
