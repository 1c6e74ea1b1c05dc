"""Compiled inner loops of the incremental inverse of a masked autoregressive flow.

A tile is a set of samples that go through the network together, innermost in every array:
hidden unit k of sample b lies at k * tile + b. Sizes that the compiler must know travel as tuples,
whose length is part of their type: `shape` is (vectors per tile, lanes per vector).
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from calostudy.networks.simd import Lanes, array_pointer, host_registers
from calostudy.networks.spline import emit_inverse

GROUP = 8  # hidden units, and parameters, are packed in rows of this many
# Accumulators that stay in registers: the rest is for the hidden units and the weights.
ACCUMULATORS = host_registers()[1] * 3 // 4
UNROLL = 4
AHEAD = 4096  # bytes that the weights of one sample are prefetched ahead


def _counts(shape):
    return [part.count for part in shape.types]


def _accumulators(builder, vectors):
    """Vectors in memory slots, which LLVM turns into registers."""
    slots = [cgutils.alloca_once(builder, v.value.type) for v in vectors]
    for slot, vector in zip(slots, vectors, strict=True):
        builder.store(vector.value, slot)
    return slots


def _emit_tile(builder, dtype, weights, hidden, count, output, rows, vectors, lanes):
    """output[r, :] += sum over k of weights[k, r] hidden[k, :], some rows at a time."""
    v = Lanes(builder, dtype, lanes)
    integer, tile = count.type, vectors * lanes
    together = max(r for r in range(1, rows + 1) if rows % r == 0 and r * vectors <= ACCUMULATORS)
    for first in range(0, rows, together):
        addresses = [
            v.address(output, integer((first + r) * tile + i * lanes))
            for r in range(together)
            for i in range(vectors)
        ]
        slots = _accumulators(builder, [v.load(address) for address in addresses])
        with cgutils.for_range(builder, count) as loop:
            row = v.address(weights, builder.mul(loop.index, integer(rows)))
            column = v.address(hidden, builder.mul(loop.index, integer(tile)))
            units = [v.load(v.address(column, integer(i * lanes))) for i in range(vectors)]
            for r in range(together):
                weight = v.load_scalar(v.address(row, integer(first + r)))
                for i, unit in enumerate(units):
                    slot = slots[r * vectors + i]
                    total = v.fma(weight, unit, v.wrap(builder.load(slot)))
                    builder.store(total.value, slot)
        for address, slot in zip(addresses, slots, strict=True):
            v.store(v.wrap(builder.load(slot)), address)


def _emit_single(builder, dtype, weights, hidden, count, output, rows):
    """The same for one sample: the lanes are the rows. Additions come in the order of a tile's,
    so that a sample has the same bits in a batch of any size."""
    v = Lanes(builder, dtype, GROUP)
    integer, parts = count.type, rows // GROUP
    addresses = [v.address(output, integer(i * GROUP)) for i in range(parts)]
    slots = _accumulators(builder, [v.load(a) for a in addresses])
    prefetch = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(ir.VoidType(), [weights.type, *[ir.IntType(32)] * 3]),
        "llvm.prefetch.p0",
    )

    def add(k):
        row = v.address(weights, builder.mul(k, integer(rows)))
        unit = v.load_scalar(v.address(hidden, k))
        for i, slot in enumerate(slots):
            weight = v.load(v.address(row, integer(i * GROUP)))
            builder.store(v.fma(weight, unit, v.wrap(builder.load(slot))).value, slot)
        return row

    unrolled = builder.udiv(count, integer(UNROLL))
    with cgutils.for_range(builder, unrolled) as loop:
        start = builder.mul(loop.index, integer(UNROLL))
        for u in range(UNROLL):
            row = add(builder.add(start, integer(u)))
            if AHEAD:
                far = v.address(row, integer(AHEAD // v.bytes))
                builder.call(prefetch, [far, *(ir.IntType(32)(n) for n in (0, 3, 1))])
    done = builder.mul(unrolled, integer(UNROLL))
    with cgutils.for_range(builder, builder.sub(count, done)) as loop:
        add(builder.add(done, loop.index))
    for address, slot in zip(addresses, slots, strict=True):
        v.store(v.wrap(builder.load(slot)), address)


@intrinsic
def add_products(_context, weights, w, hidden, h, count, output, o, rows, shape):
    """output[o + r, :] += sum over k < count of weights[w + k, r] hidden[h + k, :], for the
    len(rows) rows of one packed group; all arrays flat, w, h and o offsets of elements."""

    def codegen(context, builder, signature, args):
        dtype = signature.args[0].dtype
        v = Lanes(builder, dtype, 1)
        weights, hidden, output = (
            v.address(array_pointer(context, builder, signature.args[i], args[i]), args[i + 1])
            for i in (0, 2, 5)
        )
        vectors, lanes = _counts(signature.args[8])
        common = (builder, dtype, weights, hidden, args[4], output, signature.args[7].count)
        if vectors * lanes == 1:
            _emit_single(*common)
        else:
            _emit_tile(*common, vectors, lanes)
        return context.get_dummy_value()

    return types.void(weights, w, hidden, h, count, output, o, rows, shape), codegen


@intrinsic
def invert_splines(_context, raw, position, output, o, numbers, bins, shape):
    """output[o, :] = inverse spline of position[o, :] with the parameters raw[r, :]."""

    def codegen(context, builder, signature, args):
        dtype, bins = signature.args[0].dtype, signature.args[5].count
        vectors, lanes = _counts(signature.args[6])
        v, integer = Lanes(builder, dtype, lanes), args[3].type
        raw, position, output, numbers = (
            array_pointer(context, builder, signature.args[i], args[i]) for i in (0, 1, 2, 4)
        )
        settings = [v.load_scalar(v.address(numbers, integer(i))) for i in range(5)]
        for i in range(vectors):
            at = builder.add(args[3], integer(i * lanes))
            parameters = [
                v.load(v.address(raw, integer((r * vectors + i) * lanes)))
                for r in range(3 * bins - 1)
            ]
            position_ = v.load(v.address(position, at))
            v.store(emit_inverse(v, position_, parameters, bins, settings), v.address(output, at))
        return context.get_dummy_value()

    return types.void(raw, position, output, o, numbers, bins, shape), codegen


@njit(nogil=True, cache=True)
def invert(
    noise,
    context,
    output,
    first,
    last,
    weights,
    final_at,
    final_bias,
    hidden_at,
    hidden_bias,
    context_at,
    context_bias,
    known,
    order,
    numbers,
    rows,
    bins,
    shape,
):
    """Invert samples first ... last - 1 of noise (N, D) into output (N, D).

    weights: all packed weights; *_at: where the packed group of (block, feature) or (block,
    layer, group) starts; known (blocks, D): hidden units of degree at most f;
    order (blocks, D): feature of the previous values that block b takes as its f-th.
    """
    tile = len(shape[0]) * len(shape[1])
    group, outputs = len(rows[0]), len(rows[1])
    blocks, features = known.shape
    layers, units = hidden_bias.shape[1:]
    conditions = context.shape[1]
    dtype = weights.dtype
    given = np.zeros(conditions * tile, dtype)
    values = np.zeros(features * tile, dtype)
    position = np.zeros(features * tile, dtype)
    hidden = np.zeros((layers, units * tile), dtype)
    sums = np.zeros((layers, group * tile), dtype)
    raw = np.zeros(outputs * tile, dtype)
    active = np.zeros(layers, np.int64)
    seen = np.zeros(layers, np.int64)
    zero = weights[0] * 0

    for start in range(first, last, tile):
        size = min(tile, last - start)
        for b in range(size):
            for c in range(conditions):
                given[c * tile + b] = context[start + b, c]
            for f in range(features):
                values[f * tile + b] = noise[start + b, f]
        for block in range(blocks):
            for f in range(features):
                source = order[block, f] * tile
                for b in range(tile):
                    position[f * tile + b] = values[source + b]
            active[:] = -1
            done = 0
            for f in range(features):
                up = known[block, f]
                if up > done:
                    for layer in range(layers):
                        for g in range(done // group, (up - 1) // group + 1):
                            total = sums[layer]
                            if active[layer] != g:
                                active[layer], seen[layer] = g, 0
                                for r in range(group):
                                    bias = hidden_bias[block, layer, g * group + r]
                                    if layer == 0:
                                        bias = context_bias[block, g * group + r]
                                    for b in range(tile):
                                        total[r * tile + b] = bias
                                if layer == 0:
                                    add_products(
                                        weights,
                                        context_at[block, g],
                                        given,
                                        0,
                                        conditions,
                                        total,
                                        0,
                                        rows[0],
                                        shape,
                                    )
                                    for r in range(group):
                                        bias = hidden_bias[block, 0, g * group + r]
                                        for b in range(tile):
                                            total[r * tile + b] = (
                                                max(total[r * tile + b], zero) + bias
                                            )
                            # Sources that became known since, all of them of lower degree.
                            old, new = seen[layer], f if layer == 0 else up
                            at = hidden_at[block, layer, g] + old * group
                            if layer == 0:
                                add_products(
                                    weights,
                                    at,
                                    values,
                                    old * tile,
                                    new - old,
                                    total,
                                    0,
                                    rows[0],
                                    shape,
                                )
                            else:
                                add_products(
                                    weights,
                                    at,
                                    hidden[layer - 1],
                                    old * tile,
                                    new - old,
                                    total,
                                    0,
                                    rows[0],
                                    shape,
                                )
                            seen[layer] = new
                            for j in range(max(done, g * group), min(up, (g + 1) * group)):
                                r = j - g * group
                                for b in range(tile):
                                    hidden[layer, j * tile + b] = max(total[r * tile + b], zero)
                    done = up
                for r in range(outputs):
                    bias = final_bias[block, f, r]
                    for b in range(tile):
                        raw[r * tile + b] = bias
                add_products(
                    weights,
                    final_at[block, f],
                    hidden[layers - 1],
                    0,
                    up,
                    raw,
                    0,
                    rows[1],
                    shape,
                )
                invert_splines(raw, position, values, f * tile, numbers, bins, shape)
        for b in range(size):
            for f in range(features):
                output[start + b, f] = values[f * tile + b]
