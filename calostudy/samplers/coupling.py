"""Exact fast sampling of coupling flows.

`fused` keeps a tile of samples in the caches while it goes through all blocks: weights are packed
in the order of use and read once per panel, permutations and ActNorms are one gather, and each
spline is inverted where its parameters were computed, without the logarithm of its derivative.
It is the same function as `eager`, the plain torch inverse; the order of additions apart.

`int8` is `fused` with weights of eight bits, a scale for each output of a layer: a batch of one
takes as long as its weights take from memory. It is another function, nearly the same; biases,
ActNorms, activations and splines stay in the flow's precision.
"""

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor, nn

from calostudy.errors import UsageError
from calostudy.networks import cubic_spline, cubic_vectors, simd, spline_vectors
from calostudy.networks.coupling import SLOPE, CouplingBlock, CouplingFlow
from calostudy.networks.cubic_spline import CubicSettings, inverse_cubic_spline
from calostudy.networks.cubic_vectors import emit_inverse_cubic
from calostudy.networks.simd import Lanes, array_pointer, host_registers, source_stamp
from calostudy.networks.spline import SplineSettings
from calostudy.networks.spline_vectors import emit_inverse
from calostudy.networks.threads import in_threads
from calostudy.samplers import maf_kernels
from calostudy.samplers.iaf import panels
from calostudy.samplers.maf import aligned, checked_inputs
from calostudy.samplers.maf_kernels import GROUP, add_products, fill

Inverse = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(noise (N, D), context (N, C)) to samples (N, D)."""


# ---- plain torch ----------------------------------------------------------------------


def eager(flow: CouplingFlow, precision: str) -> Inverse:
    """The inverse of a flow in plain torch, with nflows' rational-quadratic splines."""
    dtype = getattr(torch, precision)
    blocks = copy.deepcopy(flow.blocks).to(dtype).eval()

    @torch.no_grad()
    def inverse(noise, context):
        noise, context = (torch.as_tensor(array).to(dtype) for array in (noise, context))
        return inverted(blocks, noise, context).numpy(force=True)

    return inverse


def inverted(
    blocks: nn.ModuleList, noise: Tensor, context: Tensor, splines: Mapping | None = None
) -> Tensor:
    """noise (N, D) and context (N, C) to samples (N, D) of the blocks of a coupling flow.

    splines: other ways to invert splines, by the type of their settings.
    """
    columns, context = noise.t().contiguous(), context.t().contiguous()
    for block in reversed(blocks):
        columns = _inverted(block, columns, context, splines or _INVERSE_SPLINES)
    return columns.t()


def _inverted(block: CouplingBlock, columns: Tensor, context: Tensor, splines: Mapping) -> Tensor:
    columns = columns[torch.argsort(block.permutation)]
    passive, active = columns.split([block.passive, block.active])
    raw = block.parameters_of_splines(passive, context)
    bent = splines[type(block.spline)](active, raw, block.spline)
    if block.by_shower:
        bent = torch.where(block.within_bound(active), bent, active)
    columns = torch.cat([passive, bent])
    return (columns - block.shift[:, None]) * (-block.log_scale).exp()[:, None]


def _with_nflows(inputs: Tensor, parameters: Tensor, settings: SplineSettings) -> Tensor:
    bins = settings.bins
    raw = parameters.view(len(inputs), settings.parameters, -1).permute(0, 2, 1)
    return unconstrained_rational_quadratic_spline(
        inputs,
        *raw.split([bins, bins, bins - 1], dim=-1),
        inverse=True,
        tail_bound=settings.tail_bound,
        min_bin_width=settings.min_bin_width,
        min_bin_height=settings.min_bin_height,
        min_derivative=settings.min_derivative,
    )[0]


_INVERSE_SPLINES = {SplineSettings: _with_nflows, CubicSettings: inverse_cubic_spline}


# ---- compiled ----------------------------------------------------------------------


def fused(flow: CouplingFlow, precision: str) -> Inverse:
    """The inverse of a flow, compiled; reads the weights once, now."""
    sampler = CouplingSampler(flow, precision)

    def inverse(noise, context):
        return sampler.inverse(noise, context, threads=torch.get_num_threads())

    return inverse


def int8(flow: CouplingFlow, precision: str) -> Inverse:
    """The inverse of a flow whose weights are rounded to eight bits; all else in `precision`."""
    sampler = CouplingSampler(flow, precision, stored="int8")

    def inverse(noise, context):
        return sampler.inverse(noise, context, threads=torch.get_num_threads())

    return inverse


class CouplingSampler:
    """Noise to samples of a `CouplingFlow`.

    Reads the weights once, at construction; build a new sampler after training further. dtype:
    "float32" or "float64", else UsageError. stored: of the weights in memory, "int8" or None for
    dtype.
    """

    def __init__(self, flow: CouplingFlow, dtype: str = "float32", stored: str | None = None):
        if dtype not in ("float32", "float64"):
            raise UsageError(f"dtype {dtype!r}, expected 'float32' or 'float64'")
        self.dtype = np.dtype(dtype)
        self.features, self.context = flow.features, flow.context
        self._lanes = host_registers()[0] // self.dtype.itemsize
        blocks, settings = list(flow.blocks)[::-1], flow.structure.spline
        packed = _packed(blocks, self.dtype, np.dtype(stored or dtype))
        spline_bias = packed[4]
        self.nbytes = packed[0].nbytes
        self._tables = (
            *packed,
            *_gathers(blocks, self.dtype), settings.numbers(self.dtype),
            np.array([SLOPE], self.dtype),
        )  # fmt: skip
        kind = (0,) * list(_EMITTERS).index(type(settings))
        rows = (0,) * GROUP, (0,) * spline_bias.shape[-1]
        sizes = blocks[0].passive, flow.structure.hidden, flow.structure.by_shower
        self._sizes = (*sizes, rows, settings.marker, kind)

    def inverse(self, noise, context, threads=1):
        """noise (N, features), context (N, context) -> samples (N, features), of the sampler's
        dtype. A sample depends on its own noise and context only: neither the size of the batch
        nor the number of threads changes a bit of it."""
        noise, context = checked_inputs(noise, context, self.features, self.context, self.dtype)
        output = np.empty_like(noise)

        def work(panel):
            first, last, vectors, lanes = panel
            shape, rows = ((0,) * vectors, (0,) * lanes), slice(first, last)
            # A sample alone fills the lanes with the splines of several of its numbers.
            bent = shape if vectors * lanes > 1 else ((0,), (0,) * self._lanes)
            arrays = noise[rows], context[rows], output[rows]
            transform(*arrays, *self._tables, *self._sizes, shape, bent)

        in_threads(work, panels(len(noise), threads, self._lanes), threads)
        return output


def _numbers(tensor):
    return tensor.detach().cpu().double().numpy()


def _gathers(blocks, dtype):
    """Before each block (in sampling order) and after the last, which value goes where, minus
    what, times what: the ActNorm of the block before and the permutation of this one, inverted.
    Three arrays (blocks + 1, D)."""
    identity = np.arange(len(blocks[0].shift))
    order = [*(np.argsort(_numbers(b.permutation)) for b in blocks), identity]
    shift = [np.zeros(len(identity)), *(_numbers(b.shift) for b in blocks)]
    factor = [np.ones(len(identity)), *(np.exp(-_numbers(b.log_scale)) for b in blocks)]
    shift, factor = (
        np.array([row[o] for row, o in zip(rows, order, strict=True)], dtype)
        for rows in (shift, factor)
    )
    return np.array(order), shift, factor


def _packed(blocks, dtype, stored):
    """Weights in the order of use: a group of R rows on K inputs is stored as (K, R).

    Returns the weights, where the groups (blocks, layers, groups) of each hidden layer and the
    splines (blocks, active) start, the biases (blocks, layers, H), (blocks, active, P), and scales
    of the same shapes, by which the sums of weights and biases are to be multiplied; rows are
    padded to whole groups.
    """
    chunks, position = [], 0

    def add(rows, group):
        nonlocal position
        chunk = np.zeros((rows.shape[1], group), stored)
        chunk[:, : len(rows)] = rows.T
        chunks.append(chunk.ravel())
        start, position = position, position + chunk.size
        return start

    def padded(array, size):
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, size - array.shape[-1])])

    def whole(count):
        return -(-count // GROUP) * GROUP

    layer_at, spline_at, layer_bias, spline_bias, layer_scale, spline_scale = ([] for _ in range(6))
    for block in blocks:
        *hidden, final = block.network
        units, count = final.in_features, block.spline.parameters
        starts = range(0, units, GROUP)
        rounded = [_rounded(layer, stored) for layer in hidden]
        layer_at.append([[add(w[g : g + GROUP], GROUP) for g in starts] for w, _, _ in rounded])
        layer_bias.append([padded(bias, whole(units)) for _, bias, _ in rounded])
        layer_scale.append([padded(scale, whole(units)) for _, _, scale in rounded])
        weight, bias, scale = _rounded(final, stored)
        splines = weight.reshape(block.active, count, units)
        spline_at.append([add(rows, whole(count)) for rows in splines])
        spline_bias.append(padded(bias.reshape(-1, count), whole(count)))
        spline_scale.append(padded(scale.reshape(-1, count), whole(count)))
    return (
        aligned(np.concatenate(chunks)),
        np.array(layer_at),
        np.array(spline_at),
        np.array(layer_bias, dtype),
        np.array(spline_bias, dtype),
        np.array(layer_scale, dtype),
        np.array(spline_scale, dtype),
    )


def _rounded(layer, stored):
    """Weight (rows, inputs), bias (rows,) and scale (rows,) of a layer: scale times the first two
    is the layer. Floating-point weights stay as they are."""
    weight, bias = _numbers(layer.weight), _numbers(layer.bias)
    if stored.kind == "f":
        return weight, bias, np.ones(len(bias))
    scale = np.abs(weight).max(axis=1) / np.iinfo(stored).max
    scale = np.where(scale > 0, scale, 1.0)
    return np.rint(weight / scale[:, None]), bias / scale, scale


_EMITTERS = {SplineSettings: emit_inverse, CubicSettings: emit_inverse_cubic}
_EMITTER_OF = list(_EMITTERS.values())


@intrinsic
def _invert_splines(_context, raw, position, output, o, lane, numbers, bins, kind, shape):
    """output[o + lane...] = inverse splines of position[o + lane...] with the parameters
    raw[r, lane...], for one vector of samples; the length of `kind` tells which splines."""

    def codegen(context, builder, signature, args):
        dtype, (bins, kind) = signature.args[0].dtype, (signature.args[i].count for i in (6, 7))
        vectors, lanes = (part.count for part in signature.args[8].types)
        v, integer = Lanes(builder, dtype, lanes), args[3].type
        raw, position, output, numbers = (
            array_pointer(context, builder, signature.args[i], args[i]) for i in (0, 1, 2, 5)
        )
        settings = [v.load_scalar(v.address(numbers, integer(i))) for i in range(5)]
        raw, count = v.address(raw, args[4]), (3 * bins - 1, 2 * bins + 2)[kind]
        parameters = [v.load(v.address(raw, integer(r * vectors * lanes))) for r in range(count)]
        at = builder.add(args[3], args[4])
        found = _EMITTER_OF[kind](v, v.load(v.address(position, at)), parameters, bins, settings)
        v.store(found, v.address(output, at))
        return context.get_dummy_value()

    return types.void(raw, position, output, o, lane, numbers, bins, kind, shape), codegen


def _compiled(sources):
    """The compiled pass; `sources` is part of the key of numba's cache on disk."""

    @njit(nogil=True, cache=True)
    def transform(
        noise, context, output,
        weights, layer_at, spline_at, layer_bias, spline_bias, layer_scale, spline_scale,
        order, shift, factor, numbers, leak,
        passive, hidden, by_shower, rows, bins, kind, shape, bent,
    ):  # fmt: skip
        """One panel of noise (n, D) to output (n, D), a tile of samples at a time.

        Tables as from `_packed` and `_gathers`; numbers: the spline's settings; leak (1,): slope
        of the leaky ReLU below zero; the tuples are sizes, by their lengths; `bent` is the shape
        of what the splines bend at once, the tile of one number or of several.
        """
        _ = sources
        group, lanes = len(rows[0]), len(shape[1])
        tile = len(shape[0]) * lanes
        samples, features = noise.shape
        count = (samples + tile - 1) // tile
        blocks, layers, units = layer_bias.shape
        conditions, active, bound = context.shape[1], features - passive, numbers[0]
        wide = len(bent[0]) * len(bent[1])
        state = np.zeros((count, features * tile + wide), noise.dtype)
        position = np.zeros((count, features * tile + wide), noise.dtype)
        given = np.zeros((count, conditions * tile), noise.dtype)
        below = np.zeros((count, units * tile), noise.dtype)
        above = np.zeros((count, units * tile), noise.dtype)
        total = np.zeros(group * tile, noise.dtype)
        single = np.zeros(len(rows[1]) * tile, noise.dtype)
        raw = np.zeros(len(rows[1]) * wide, noise.dtype)

        for s in range(samples):
            t, b = s // tile, s % tile
            for c in range(conditions):
                given[t, c * tile + b] = context[s, c]
            for f in range(features):
                state[t, f * tile + b] = noise[s, f]
        for block in range(blocks + 1):
            for t in range(count):
                for f in range(features):
                    source = order[block, f] * tile
                    for b in range(tile):
                        value = (state[t, source + b] - shift[block, f]) * factor[block, f]
                        position[t, f * tile + b] = value
            if block == blocks:
                break
            for layer in range(layers):
                for g in range(units // group):
                    start = layer_at[block, layer, g]
                    bias = layer_bias[block, layer, g * group : (g + 1) * group]
                    for t in range(count):
                        fill(total, bias, tile)
                        if layer == 0:
                            add_products(
                                weights, start, position[t], 0, passive, total, rows[0], shape
                            )
                            add_products(
                                weights, start + passive * group, given[t], 0, conditions,
                                total, rows[0], shape,
                            )  # fmt: skip
                        else:
                            add_products(weights, start, below[t], 0, hidden, total, rows[0], shape)
                        for r in range(group):
                            scale = layer_scale[block, layer, g * group + r]
                            for b in range(tile):
                                value = scale * total[r * tile + b]
                                above[t, (g * group + r) * tile + b] = max(value, leak[0] * value)
                below, above = above, below
            for first in range(0, active, wide // tile):
                at = (passive + first) * tile
                for t in range(count):
                    for f in range(first, min(active, first + wide // tile)):
                        fill(single, spline_bias[block, f], tile)
                        start, lane = spline_at[block, f], (f - first) * tile
                        add_products(weights, start, below[t], 0, hidden, single, rows[1], shape)
                        for r in range(len(rows[1])):
                            for b in range(tile):
                                value = spline_scale[block, f, r] * single[r * tile + b]
                                raw[r * wide + lane + b] = value
                    for lane in range(0, wide, len(bent[1])):
                        _invert_splines(
                            raw, position[t], state[t], at, lane, numbers, bins, kind, bent
                        )
            for t in range(count):
                for i in range(passive * tile):
                    state[t, i] = position[t, i]
                for b in range(tile if by_shower else 0):
                    inside = True
                    for f in range(passive, features):
                        inside = inside and abs(position[t, f * tile + b]) <= bound
                    for f in range(passive, 0 if inside else features):
                        state[t, f * tile + b] = position[t, f * tile + b]
        for s in range(samples):
            t, b = s // tile, s % tile
            for f in range(features):
                output[s, f] = position[t, f * tile + b]

    return transform


transform = _compiled(source_stamp(simd, spline_vectors, cubic_spline, cubic_vectors, maf_kernels))
