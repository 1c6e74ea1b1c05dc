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

from calostudy.networks import simd, spline_vectors
from calostudy.networks.simd import Lanes, lanes_of, source_stamp
from calostudy.networks.spline_vectors import emit_forward, emit_gradients
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


# ---- kernels: one vector of neighbouring samples of one feature ---------------------------


class Access:
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
        at = Access(context, builder, signature, args)
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
        at = Access(context, builder, signature, args)
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


_forward, _gradients = _compiled(source_stamp(simd, spline_vectors))


def in_parts(work, rows):
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

        in_parts(work, len(x))
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

        in_parts(work, len(x))
        return torch.from_numpy(g_x), torch.from_numpy(g_raw), None


def torch_bins(position, parameters, settings, inverse=False):
    """Edges and derivatives of the bins that hold positions (features, samples), in plain torch:
    left, right, low, high, left and right derivative; `inverse`: the positions are values of the
    spline."""
    bins, bound = settings.bins, settings.tail_bound
    raw = parameters.view(len(position), settings.parameters, -1)

    def knots(unnormalised, minimum):
        sizes = minimum + (1.0 - minimum * bins) * torch.softmax(unnormalised, dim=1)
        inner = 2.0 * bound * torch.cumsum(sizes, dim=1)[:, :-1] - bound
        return F.pad(F.pad(inner, (0, 0, 1, 0), value=-bound), (0, 0, 0, 1), value=bound)

    x_knots = knots(raw[:, :bins], settings.min_bin_width)
    y_knots = knots(raw[:, bins : 2 * bins], settings.min_bin_height)
    derivatives = settings.min_derivative + F.softplus(
        F.pad(raw[:, 2 * bins :], (0, 0, 1, 1), value=settings.edge)
    )
    search = y_knots if inverse else x_knots
    chosen = (position.unsqueeze(1) >= search[:, 1:-1]).sum(dim=1, keepdim=True)
    return tuple(
        values.gather(1, chosen + step).squeeze(1)
        for values in (x_knots, y_knots, derivatives)
        for step in (0, 1)
    )


def _with_torch(inputs, parameters, settings):
    """The same function in plain torch, for devices that numba cannot reach."""
    bound = settings.tail_bound
    inside = inputs.abs() <= bound
    position = inputs.clamp(-bound, bound)
    left, right, low, high, d0, d1 = torch_bins(position, parameters, settings)
    slope = (high - low) / (right - left)
    theta = (position - left) / (right - left)
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
