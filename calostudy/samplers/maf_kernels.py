"""Compiled inner loops of the incremental inverse of a masked autoregressive flow.

A tile is a set of samples that go through the network together, innermost in every array:
hidden unit k of sample b lies at k * tile + b. Sizes that the compiler must know travel as tuples,
whose length is part of their type: `shape` is (vectors per tile, lanes per vector).
"""

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from calostudy.networks import simd, spline_vectors
from calostudy.networks.simd import Lanes, array_pointer, host_registers, source_stamp
from calostudy.networks.spline_vectors import emit_inverse

GROUP = 8  # hidden units, and parameters, are packed in rows of this many
# Accumulators that stay in registers: the rest is for the hidden units and the weights.
ACCUMULATORS = host_registers()[1] * 3 // 4
UNROLL = 4
AHEAD = 0


def _counts(shape):
    return [part.count for part in shape.types]


def _accumulators(builder, vectors):
    """Vectors in memory slots, which LLVM turns into registers."""
    slots = [cgutils.alloca_once(builder, v.value.type) for v in vectors]
    for slot, vector in zip(slots, vectors, strict=True):
        builder.store(vector.value, slot)
    return slots


def _emit_tile(builder, dtypes, weights, hidden, count, output, rows, vectors, lanes):
    """output[r, :] += sum over k of weights[k, r] hidden[k, :], some rows at a time."""
    v, w = Lanes(builder, dtypes[0], lanes), Lanes(builder, dtypes[0], lanes, dtypes[1])
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
            row = w.address(weights, builder.mul(loop.index, integer(rows)))
            column = v.address(hidden, builder.mul(loop.index, integer(tile)))
            units = [v.load(v.address(column, integer(i * lanes))) for i in range(vectors)]
            for r in range(together):
                weight = w.load_scalar(w.address(row, integer(first + r)))
                for i, unit in enumerate(units):
                    slot = slots[r * vectors + i]
                    total = v.fma(weight, unit, v.wrap(builder.load(slot)))
                    builder.store(total.value, slot)
        for address, slot in zip(addresses, slots, strict=True):
            v.store(v.wrap(builder.load(slot)), address)


def _emit_single(builder, dtypes, weights, hidden, count, output, rows):
    """The same for one sample: the lanes are the rows. Additions come in the order of a tile's,
    so that a sample has the same bits in a batch of any size."""
    v, w = Lanes(builder, dtypes[0], GROUP), Lanes(builder, dtypes[0], GROUP, dtypes[1])
    integer, parts = count.type, rows // GROUP
    addresses = [v.address(output, integer(i * GROUP)) for i in range(parts)]
    slots = _accumulators(builder, [v.load(a) for a in addresses])

    def add(k):
        row = w.address(weights, builder.mul(k, integer(rows)))
        unit = v.load_scalar(v.address(hidden, k))
        for i, slot in enumerate(slots):
            weight = w.load(w.address(row, integer(i * GROUP)))
            builder.store(v.fma(weight, unit, v.wrap(builder.load(slot))).value, slot)

    unrolled = builder.udiv(count, integer(UNROLL))
    with cgutils.for_range(builder, unrolled) as loop:
        start = builder.mul(loop.index, integer(UNROLL))
        for u in range(UNROLL):
            add(builder.add(start, integer(u)))
    done = builder.mul(unrolled, integer(UNROLL))
    with cgutils.for_range(builder, builder.sub(count, done)) as loop:
        add(builder.add(done, loop.index))
    for address, slot in zip(addresses, slots, strict=True):
        v.store(v.wrap(builder.load(slot)), address)


@intrinsic
def add_products(_context, weights, w, hidden, h, count, output, rows, shape):
    """output[r, :] += sum over k < count of weights[w + k, r] hidden[h + k, :], for the
    len(rows) rows of one packed group; all arrays flat, w and h offsets of elements. The weights
    may be integers."""

    def codegen(context, builder, signature, args):
        dtypes = signature.args[2].dtype, signature.args[0].dtype
        v, packed = Lanes(builder, dtypes[0], 1), Lanes(builder, dtypes[0], 1, dtypes[1])
        weights, hidden, output = (
            array_pointer(context, builder, signature.args[i], args[i]) for i in (0, 2, 5)
        )
        weights, hidden = packed.address(weights, args[1]), v.address(hidden, args[3])
        vectors, lanes = _counts(signature.args[7])
        common = (builder, dtypes, weights, hidden, args[4], output, signature.args[6].count)
        if vectors * lanes == 1:
            _emit_single(*common)
        else:
            _emit_tile(*common, vectors, lanes)
        return context.get_dummy_value()

    return types.void(weights, w, hidden, h, count, output, rows, shape), codegen


@intrinsic
def invert_splines(_context, raw, position, output, o, lane, numbers, bins, shape):
    """output[o + lane...] = inverse splines of position[o + lane...] with the parameters
    raw[r, lane...], for one vector of samples."""

    def codegen(context, builder, signature, args):
        dtype, bins = signature.args[0].dtype, signature.args[6].count
        vectors, lanes = _counts(signature.args[7])
        v, integer = Lanes(builder, dtype, lanes), args[3].type
        raw, position, output, numbers = (
            array_pointer(context, builder, signature.args[i], args[i]) for i in (0, 1, 2, 5)
        )
        settings = [v.load_scalar(v.address(numbers, integer(i))) for i in range(5)]
        raw = v.address(raw, args[4])
        parameters = [
            v.load(v.address(raw, integer(r * vectors * lanes))) for r in range(3 * bins - 1)
        ]
        at = builder.add(args[3], args[4])
        result = emit_inverse(v, v.load(v.address(position, at)), parameters, bins, settings)
        v.store(result, v.address(output, at))
        return context.get_dummy_value()

    return types.void(raw, position, output, o, lane, numbers, bins, shape), codegen


@njit(inline="always")
def fill(output, numbers, tile):
    for r in range(len(numbers)):
        for b in range(tile):
            output[r * tile + b] = numbers[r]


def _compiled(sources):
    """The compiled inverse; `sources` is part of the key of numba's cache on disk."""

    @njit(nogil=True, cache=True)
    def invert(
        noise, context, output,
        weights, final_at, final_bias, hidden_at, hidden_bias, context_at, context_bias,
        known, order, numbers, rows, bins, shape,
    ):  # fmt: skip
        """Invert one tile of noise (n, D) into output (n, D), n at most the size of the tile.

        weights: all packed weights; *_at: where the packed group (block, feature) or (block,
        layer, group) starts; *_bias: (blocks, D, P), (blocks, layers, H), (blocks, H);
        known (blocks, D): hidden units that feature f depends on; order (blocks, D): which of
        the previous values a block takes; rows: (rows of a hidden group, rows of a feature).
        """
        _ = sources
        group, lanes = len(rows[0]), len(shape[1])
        tile = len(shape[0]) * lanes
        samples, features = noise.shape
        blocks, layers, units = hidden_bias.shape
        conditions = context.shape[1]
        zero = weights[0] * 0
        given = np.zeros(conditions * tile, weights.dtype)
        position = np.zeros(features * tile, weights.dtype)
        # The values found so far, then the hidden units of each layer.
        state = np.zeros((features + layers * units) * tile, weights.dtype)
        sums = np.zeros((layers, group * tile), weights.dtype)
        raw = np.zeros(len(rows[1]) * tile, weights.dtype)
        active, seen = np.zeros(layers, np.int64), np.zeros(layers, np.int64)

        for b in range(samples):
            for c in range(conditions):
                given[c * tile + b] = context[b, c]
            for f in range(features):
                state[f * tile + b] = noise[b, f]
        for block in range(blocks):
            for f in range(features):
                source = order[block, f] * tile
                for b in range(tile):
                    position[f * tile + b] = state[source + b]
            active[:] = -1
            done = 0
            for f in range(features):
                up = known[block, f]
                # Hidden units that became computable, a group of rows at a time.
                for layer in range(layers if up > done else 0):
                    for g in range(done // group, (up - 1) // group + 1):
                        total, bias = sums[layer], hidden_bias[block, layer, g * group :]
                        if active[layer] != g:
                            active[layer], seen[layer] = g, 0
                            if layer == 0:
                                fill(total, context_bias[block, g * group : (g + 1) * group], tile)
                                add_products(
                                    weights, context_at[block, g], given, 0, conditions,
                                    total, rows[0], shape,
                                )  # fmt: skip
                                for r in range(group):
                                    for b in range(tile):
                                        i = r * tile + b
                                        total[i] = max(total[i], zero) + bias[r]
                            else:
                                fill(total, bias[:group], tile)
                        # Add the inputs that the group has not seen yet.
                        old, new = seen[layer], up
                        first = (features + (layer - 1) * units) * tile
                        if layer == 0:
                            new, first = f, 0
                        add_products(
                            weights, hidden_at[block, layer, g] + old * group,
                            state, first + old * tile, new - old,
                            total, rows[0], shape,
                        )  # fmt: skip
                        seen[layer] = new
                        first = (features + layer * units) * tile
                        for j in range(max(done, g * group), min(up, (g + 1) * group)):
                            for b in range(tile):
                                value = total[(j - g * group) * tile + b]
                                state[first + j * tile + b] = max(value, zero)
                done = up
                fill(raw, final_bias[block, f], tile)
                add_products(
                    weights, final_at[block, f],
                    state, (features + (layers - 1) * units) * tile, up,
                    raw, rows[1], shape,
                )  # fmt: skip
                for lane in range(0, tile, lanes):
                    invert_splines(raw, position, state, f * tile, lane, numbers, bins, shape)
        for b in range(samples):
            for f in range(features):
                output[b, f] = state[f * tile + b]

    return invert


invert = _compiled(source_stamp(simd, spline_vectors))
