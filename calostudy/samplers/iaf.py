"""Exact fast sampling of inverse autoregressive flows.

One pass through each block, as with nflows, but every mask is a prefix after sorting the hidden
units by degree (see `maf`): what masks remove is neither stored nor multiplied, half of the
weights; they are read once, in sequence, and nothing is allocated or masked anew. Splines are
inverted where their parameters were computed, without the logarithm of their derivative. It is
the same function, the order of additions apart.
"""

import numpy as np
from numba import njit

from calostudy.networks import simd, spline_vectors
from calostudy.networks.iaf import inverse_autoregressive_steps
from calostudy.networks.simd import host_registers, source_stamp
from calostudy.networks.threads import in_threads
from calostudy.samplers import maf_kernels
from calostudy.samplers.maf import (
    checked_dtype,
    checked_inputs,
    common_settings,
    pack,
    reach,
    sampling_steps,
    sorted_made,
    tiles,
)
from calostudy.samplers.maf_kernels import GROUP, add_products, fill, invert_splines

# Samples that share one reading of the weights; above it their hidden units leave the caches.
PANEL = 256


class OnePassSampler:
    """Noise to samples of a flow of `calostudy.networks.iaf`.

    Reads the weights of the nflows modules once, at construction; build a new sampler after
    training further. dtype: "float32" or "float64".

    Raises UsageError for a flow that holds other transforms, or masks that are not those of
    ordered degrees.
    """

    def __init__(self, flow, dtype="float32"):
        self.dtype = checked_dtype(flow, dtype)
        blocks, order, self._last_order = sampling_steps(inverse_autoregressive_steps(flow))
        settings = common_settings(blocks)
        mades = [sorted_made(block.autoregressive_net) for block in blocks]
        packed = pack(mades, self.dtype)
        self.features, self.context = order.shape[1], packed.context
        self.nbytes = packed.weights.nbytes
        self._lanes = host_registers()[0] // self.dtype.itemsize
        seen = np.array([reach(made) for made in mades])
        self._tables = (*packed.tables, seen, order, settings.numbers(self.dtype))
        self._sizes = (((0,) * GROUP, (0,) * packed.outputs), settings.marker)

    def inverse(self, noise, context=None, threads=1):
        """noise (N, features), context (N, context) -> samples (N, features), of the sampler's
        dtype. A sample depends on its own noise and context only: neither the size of the batch
        nor the number of threads changes a bit of it."""
        noise, context = checked_inputs(noise, context, self.features, self.context, self.dtype)
        output = np.empty_like(noise)

        def work(panel):
            first, last, vectors, lanes = panel
            shape = ((0,) * vectors, (0,) * lanes)
            rows = slice(first, last)
            transform(noise[rows], context[rows], output[rows], *self._tables, *self._sizes, shape)

        in_threads(work, panels(len(noise), threads, self._lanes), threads)
        return output if self._last_order is None else output[:, self._last_order]


def panels(samples, threads, lanes):
    """Neighbouring tiles of equal shape, joined up to `PANEL` samples and to one share of the
    threads: list of (first, last, vectors, lanes per vector)."""
    share, joined = -(-samples // threads), []
    for first, last, vectors, width in tiles(samples, threads, lanes):
        if joined:
            start, _, *shape = joined[-1]
            if shape == [vectors, width] and last - start <= min(PANEL, max(share, width)):
                joined[-1] = (start, last, vectors, width)
                continue
        joined.append((first, last, vectors, width))
    return joined


def _compiled(sources):
    """The compiled pass; `sources` is part of the key of numba's cache on disk."""

    @njit(nogil=True, cache=True)
    def transform(
        noise, context, output,
        weights, final_at, final_bias, hidden_at, hidden_bias, context_at, context_bias,
        known, seen, order, numbers, rows, bins, shape,
    ):  # fmt: skip
        """One panel of noise (n, D) to output (n, D), a tile of samples at a time.

        Arguments as for `maf_kernels.invert`, and seen (blocks, layers, groups): inputs that a
        packed group of hidden units depends on.
        """
        _ = sources
        group, lanes = len(rows[0]), len(shape[1])
        tile = len(shape[0]) * lanes
        samples, features = noise.shape
        count = (samples + tile - 1) // tile
        blocks, layers, units = hidden_bias.shape
        conditions = context.shape[1]
        zero = weights[0] * 0
        given = np.zeros((count, conditions * tile), weights.dtype)
        state = np.zeros((count, features * tile), weights.dtype)
        position = np.zeros((count, features * tile), weights.dtype)
        below = np.zeros((count, units * tile), weights.dtype)
        above = np.zeros((count, units * tile), weights.dtype)
        total = np.zeros(group * tile, weights.dtype)
        raw = np.zeros(len(rows[1]) * tile, weights.dtype)

        for s in range(samples):
            t, b = s // tile, s % tile
            for c in range(conditions):
                given[t, c * tile + b] = context[s, c]
            for f in range(features):
                state[t, f * tile + b] = noise[s, f]
        for block in range(blocks):
            for t in range(count):
                for f in range(features):
                    source = order[block, f] * tile
                    for b in range(tile):
                        position[t, f * tile + b] = state[t, source + b]
            for layer in range(layers):
                for g in range(units // group):
                    bias = hidden_bias[block, layer, g * group : (g + 1) * group]
                    start, inputs = hidden_at[block, layer, g], seen[block, layer, g]
                    for t in range(count):
                        if layer == 0:
                            fill(total, context_bias[block, g * group : (g + 1) * group], tile)
                            add_products(
                                weights, context_at[block, g], given[t], 0, conditions,
                                total, rows[0], shape,
                            )  # fmt: skip
                            for r in range(group):
                                for b in range(tile):
                                    i = r * tile + b
                                    total[i] = max(total[i], zero) + bias[r]
                            add_products(
                                weights, start, position[t], 0, inputs, total, rows[0], shape
                            )
                        else:
                            fill(total, bias, tile)
                            add_products(weights, start, below[t], 0, inputs, total, rows[0], shape)
                        for i in range(group * tile):
                            above[t, g * group * tile + i] = max(total[i], zero)
                below, above = above, below
            for f in range(features):
                up, start = known[block, f], final_at[block, f]
                for t in range(count):
                    fill(raw, final_bias[block, f], tile)
                    add_products(weights, start, below[t], 0, up, raw, rows[1], shape)
                    for lane in range(0, tile, lanes):
                        invert_splines(
                            raw, position[t], state[t], f * tile, lane, numbers, bins, shape
                        )
        for s in range(samples):
            t, b = s // tile, s % tile
            for f in range(features):
                output[s, f] = state[t, f * tile + b]

    return transform


transform = _compiled(source_stamp(simd, spline_vectors, maf_kernels))
