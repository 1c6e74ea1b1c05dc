"""The inverse of `spline`'s rational quadratic splines, differentiable.

Same conventions as there: elements in columns, the parameters of one feature in consecutive rows.
An inverse autoregressive flow applies this direction in one pass, from noise to data.

The derivatives come from the spline itself, at the result x of the inversion: with y = f(x; p),
dx/dy = 1 / f'(x) and dx/dp = -(df/dp) / f'(x). No root is differentiated, so that an element in a
nearly flat bin gives no overflow.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit, types
from numba.extending import intrinsic

from calostudy.networks import simd, spline, spline_vectors
from calostudy.networks.simd import lanes_of, source_stamp
from calostudy.networks.spline import PARTS, Access, in_parts, torch_bins
from calostudy.networks.spline_vectors import emit_forward, emit_gradients, emit_inverse


@intrinsic
def _inverse_vector(_context, inputs, parameters, numbers, outputs, logs, bins, row, column):
    def codegen(context, builder, signature, args):
        at = Access(context, builder, signature, args)
        v = at.v
        raw = [v.load(address) for address in at.rows(1, 3 * at.bins - 1)]
        (position,), (output,), log = at.rows(0, 1), at.rows(3, 1), at.column_of(4)
        numbers = at.scalars(2, 5)
        result = emit_inverse(v, v.load(position), raw, at.bins, numbers)
        _, log_derivative = emit_forward(v, result, raw, at.bins, numbers)
        v.store(result, output)
        v.store(v.load(log) - log_derivative, log)
        return context.get_dummy_value()

    return types.void(inputs, parameters, numbers, outputs, logs, bins, row, column), codegen


@intrinsic
def _gradient_vector(
    _context, outputs, parameters, numbers, g_outputs, g_inputs, g_parameters, bins, row, column
):
    def codegen(context, builder, signature, args):
        at = Access(context, builder, signature, args)
        v, count = at.v, 3 * at.bins - 1
        raw = [v.load(address) for address in at.rows(1, count)]
        (output,), (g_output,), (g_input,) = (at.rows(k, 1) for k in (0, 3, 4))
        derivative, derivatives = emit_gradients(
            v, v.load(output), raw, at.bins, at.scalars(2, 5), v.constant(1.0), v.constant(0.0)
        )
        gradient = v.load(g_output) / derivative
        v.store(gradient, g_input)
        for value, address in zip(derivatives, at.rows(5, count), strict=True):
            v.store(-(gradient * value), address)
        return context.get_dummy_value()

    signature = types.void(
        outputs, parameters, numbers, g_outputs, g_inputs, g_parameters, bins, row, column
    )
    return signature, codegen


def _compiled(sources):
    """Loops over the kernels; `sources` is part of the key of numba's cache on disk."""

    @njit(nogil=True, cache=True)
    def inverse(inputs, parameters, numbers, outputs, logs, bins, lanes):
        _ = sources
        for row in range(inputs.shape[0]):
            for column in range(0, inputs.shape[1], lanes):
                _inverse_vector(inputs, parameters, numbers, outputs, logs, bins, row, column)

    @njit(nogil=True, cache=True)
    def gradients(outputs, parameters, numbers, g_outputs, g_inputs, g_parameters, bins, lanes):
        _ = sources
        for row in range(outputs.shape[0]):
            for column in range(0, outputs.shape[1], lanes):
                _gradient_vector(
                    outputs, parameters, numbers, g_outputs, g_inputs, g_parameters,
                    bins, row, column,
                )  # fmt: skip

    return inverse, gradients


_inverse, _gradients = _compiled(source_stamp(simd, spline, spline_vectors))


class _InverseFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, parameters, settings):
        y, raw = inputs.detach().numpy(), parameters.detach().numpy()
        count, numbers = settings.parameters, settings.numbers(y.dtype)
        outputs, logs = np.empty_like(y), np.zeros((PARTS, y.shape[1]), y.dtype)

        def work(part, rows):
            own = slice(rows.start * count, rows.stop * count)
            lanes = lanes_of(y.dtype)
            _inverse(y[rows], raw[own], numbers, outputs[rows], logs[part], settings.marker, lanes)

        in_parts(work, len(y))
        result, logabsdet = torch.from_numpy(outputs), torch.from_numpy(logs.sum(axis=0))
        ctx.save_for_backward(result, parameters)
        ctx.settings = settings
        ctx.mark_non_differentiable(logabsdet)
        return result, logabsdet

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_outputs, _g_logs):
        outputs, parameters = ctx.saved_tensors
        settings = ctx.settings
        x, raw = outputs.detach().numpy(), parameters.detach().numpy()
        count, numbers = settings.parameters, settings.numbers(x.dtype)
        g_x = g_outputs.contiguous().numpy()
        g_y, g_raw = np.empty_like(x), np.empty_like(raw)

        def work(_part, rows):
            own = slice(rows.start * count, rows.stop * count)
            lanes = lanes_of(x.dtype)
            _gradients(
                x[rows], raw[own], numbers, g_x[rows], g_y[rows], g_raw[own],
                settings.marker, lanes,
            )  # fmt: skip

        in_parts(work, len(x))
        return torch.from_numpy(g_y), torch.from_numpy(g_raw), None


def inverse_by_torch(inputs, parameters, settings):
    """The same function in plain torch, for devices that numba cannot reach."""
    bound = settings.tail_bound
    inside = inputs.abs() <= bound
    position = inputs.clamp(-bound, bound)
    left, right, low, high, d0, d1 = torch_bins(position, parameters, settings, inverse=True)
    width, height = right - left, high - low
    slope = height / width
    rise, curvature = position - low, d0 + d1 - 2.0 * slope
    b = height * d0 - rise * curvature
    a = rise * curvature + height * (slope - d0)
    discriminant = (b * b + 4.0 * a * slope * rise).clamp_min(0.0)
    theta = 2.0 * slope * rise / (b + torch.sqrt(discriminant))
    mixed = theta * (1.0 - theta)
    middle = d1 * theta**2 + 2.0 * slope * mixed + d0 * (1.0 - theta) ** 2
    logs = 2.0 * torch.log(slope / (slope + curvature * mixed)) + torch.log(middle)
    return (
        torch.where(inside, left + theta * width, inputs),
        -torch.where(inside, logs, 0.0).sum(dim=0).detach(),
    )


def inverse_rational_quadratic_spline(inputs, parameters, settings):
    """x with spline(x) = inputs, and the sum over features of the log derivatives dx / dinputs.

    inputs: (features, samples); parameters: (features * settings.parameters, samples), as for
    `spline.rational_quadratic_spline`, whose inverse this is. Returns outputs (features, samples),
    differentiable once in both arguments, and logabsdet (samples,), which carries no gradient.
    float32 and float64; on a CPU by the kernels above, elsewhere by torch.
    """
    if inputs.device.type != "cpu":
        return inverse_by_torch(inputs, parameters, settings)
    samples = inputs.shape[1]
    missing = -samples % lanes_of(np.dtype(str(inputs.dtype).removeprefix("torch.")))
    if missing:
        inputs, parameters = F.pad(inputs, (0, missing)), F.pad(parameters, (0, missing))
    outputs, logs = _InverseFunction.apply(inputs.contiguous(), parameters.contiguous(), settings)
    return (outputs[:, :samples], logs[:samples]) if missing else (outputs, logs)
