"""Exact fast sampling of masked autoregressive flows.

Inverting a MADE takes as many steps as it has features: feature f needs features 0 ... f - 1.
nflows evaluates the whole network at every step. Here the hidden units are sorted by degree, so
that every mask becomes a prefix; step f then evaluates only the hidden units that became
computable and the spline parameters of feature f, and the whole inverse costs one (triangular)
evaluation of the network. It is the same function: the order of additions apart, nothing is
approximated.
"""

from dataclasses import dataclass

import numpy as np
import torch
from nflows.transforms.permutations import Permutation

from calostudy.errors import UsageError
from calostudy.networks.flows import autoregressive_steps, spline_settings
from calostudy.networks.simd import host_registers
from calostudy.networks.threads import in_threads
from calostudy.samplers.maf_kernels import GROUP, invert

# Tiles of at most this many vectors; above it the hidden units of a tile leave the caches.
MOST_VECTORS = 4
# Up to this many samples per thread go one by one.
FEW = 1


class IncrementalSampler:
    """The inverse of a flow of `calostudy.networks.flows`, from noise to samples.

    Reads the weights of the nflows modules once, at construction; build a new sampler after
    training further. dtype: "float32" or "float64".

    Raises UsageError for a flow that holds other transforms, or masks that are not those of
    ordered degrees.
    """

    def __init__(self, flow, dtype="float32"):
        self.dtype = checked_dtype(flow, dtype)
        transforms, order, self._last_order = sampling_steps(autoregressive_steps(flow))
        settings = common_settings(transforms)
        packed = pack([sorted_made(t.autoregressive_net) for t in transforms], self.dtype)
        self.features = order.shape[1]
        self.context = packed.context
        self.nbytes = packed.weights.nbytes
        self._lanes = host_registers()[0] // self.dtype.itemsize
        self._tables = (*packed.tables, order, settings.numbers(self.dtype))
        self._sizes = (((0,) * GROUP, (0,) * packed.outputs), settings.marker)

    def inverse(self, noise, context=None, threads=1):
        """noise (N, features), context (N, context) -> samples (N, features), of the sampler's
        dtype. A sample depends on its own noise and context only: neither the size of the batch
        nor the number of threads changes a bit of it."""
        noise, context = checked_inputs(noise, context, self.features, self.context, self.dtype)
        output = np.empty_like(noise)

        def work(tile):
            first, last, vectors, lanes = tile
            shape = ((0,) * vectors, (0,) * lanes)
            invert(
                noise[first:last],
                context[first:last],
                output[first:last],
                *self._tables,
                *self._sizes,
                shape,
            )

        in_threads(work, tiles(len(noise), threads, self._lanes), threads)
        return output if self._last_order is None else output[:, self._last_order]


def tiles(samples, threads, lanes):
    """Cut a batch into tiles: list of (first, last, vectors, lanes per vector)."""
    share = -(-samples // threads)
    if share <= FEW:
        return [(i, i + 1, 1, 1) for i in range(samples)]
    if share <= lanes // 2:
        lanes //= 2
    vectors = -(-samples // lanes)
    count = max(-(-vectors // MOST_VECTORS), min(threads, vectors))
    ends = np.arange(1, count + 1) * vectors // count
    return [
        (int(start) * lanes, min(int(end) * lanes, samples), int(end - start), lanes)
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


def checked_dtype(flow, dtype) -> np.dtype:
    """The numpy type of a sampler, or UsageError; also for a flow that embeds its context."""
    if dtype not in ("float32", "float64"):
        raise UsageError(f"dtype {dtype!r}, expected 'float32' or 'float64'")
    if not isinstance(flow._embedding_net, torch.nn.Identity):
        raise UsageError("a flow with an embedding network of its context is not supported")
    return np.dtype(dtype)


def checked_inputs(noise, context, features, conditions, dtype):
    """noise (N, features) and context (N, conditions) as contiguous arrays of `dtype`, or
    UsageError."""
    noise = np.ascontiguousarray(noise, dtype)
    if noise.ndim != 2 or noise.shape[1] != features:
        raise UsageError(f"noise of shape {noise.shape}, expected (N, {features})")
    if context is None:
        context = np.zeros((len(noise), 0))
    context = np.ascontiguousarray(context, dtype)
    if context.shape != (len(noise), conditions):
        raise UsageError(f"context of shape {context.shape}, expected {(len(noise), conditions)}")
    return noise, context


def common_settings(transforms):
    """The spline settings that all blocks have, or UsageError."""
    settings = {spline_settings(transform) for transform in transforms}
    if len(settings) != 1:
        raise UsageError("the blocks of the flow have different splines, expected one kind")
    return settings.pop()


def sampling_steps(steps):
    """The blocks among the transforms of a flow, in sampling order; for each, which of the previous
    values it takes in which order (blocks, D); and the order of the last values, None if
    unchanged."""
    transforms, order = [], []
    pending = np.arange(_features(steps))
    for step in reversed(steps):
        if isinstance(step, Permutation):
            pending = pending[step._inverse_permutation.cpu().numpy()]
        else:
            transforms.append(step)
            order.append(pending)
            pending = np.arange(len(pending))
    last = None if (pending == np.arange(len(pending))).all() else pending
    return transforms, np.array(order), last


def _features(steps):
    (block, *_) = (step for step in steps if not isinstance(step, Permutation))
    return block.autoregressive_net.initial_layer.in_features


@dataclass(frozen=True)
class SortedMade:
    """A MADE with masked weights and hidden units sorted by degree (numpy, float64).

    hidden: per hidden layer (weight (H, inputs), bias (H,)); final: (weight (D, P, H), bias (D,
    P)); context: (weight (H, C), bias (H,)); degrees (H,); known (D,): hidden units of degree at
    most f, all that feature f depends on.
    """

    hidden: list
    final: tuple
    context: tuple
    degrees: np.ndarray
    known: np.ndarray


def sorted_made(made) -> SortedMade:
    """Sort the hidden units of an nflows MADE by degree."""

    def numbers(tensor):
        return tensor.detach().cpu().double().numpy()

    layers = [made.initial_layer, *(block.linear for block in made.blocks)]
    features, units = made.initial_layer.in_features, made.initial_layer.out_features
    degrees = made.initial_layer.degrees.cpu().numpy()
    order = np.argsort(degrees, kind="stable")
    before, hidden = np.arange(1, features + 1), []
    for layer in layers:
        expected = degrees[:, None] >= before
        if not np.array_equal(numbers(layer.mask), expected):
            raise UsageError("a mask of the flow is not the one of its degrees")
        weight = numbers(layer.weight * layer.mask)[order]
        hidden.append(
            (weight if layer is layers[0] else weight[:, order], numbers(layer.bias)[order])
        )
        before = degrees
    final = made.final_layer
    outputs = final.out_features // features
    expected = np.repeat(np.arange(1, features + 1), outputs)[:, None] > degrees
    if not np.array_equal(numbers(final.mask), expected):
        raise UsageError("the mask of the flow's last layer is not the one of its degrees")
    conditional = hasattr(made, "context_layer")
    return SortedMade(
        hidden=hidden,
        final=(
            numbers(final.weight * final.mask)[:, order].reshape(features, outputs, units),
            numbers(final.bias).reshape(features, outputs),
        ),
        context=(
            (numbers(made.context_layer.weight)[order], numbers(made.context_layer.bias)[order])
            if conditional
            else (np.zeros((units, 0)), np.zeros(units))
        ),
        degrees=degrees[order],
        known=np.searchsorted(degrees[order], np.arange(features), side="right"),
    )


@dataclass(frozen=True)
class Packed:
    """Weights of all blocks in the order of their use, and where each group of rows starts.

    A group of R rows on K inputs is stored as (K, R): whichever of its sums is wanted, the
    weights are read once, in sequence. Masked weights beyond a group's last input are left out.
    """

    weights: np.ndarray
    tables: tuple
    outputs: int
    context: int


def reach(made) -> list:
    """For each hidden layer, how many of its inputs each packed group of its units depends on."""
    tops = [made.degrees[g : g + GROUP][-1] for g in range(0, len(made.degrees), GROUP)]
    inner = np.searchsorted(made.degrees, tops, side="right")
    return [np.array(tops)] + [inner] * (len(made.hidden) - 1)


def pack(mades, dtype) -> Packed:
    """Pack sorted MADEs of equal sizes for `maf_kernels.invert`."""
    chunks, position = [], 0

    def add(rows, inputs, group):
        """Append (rows, inputs) weights, padded to `group` rows; returns where they start."""
        nonlocal position
        chunk = np.zeros((inputs, group))
        chunk[:, : len(rows)] = rows[:, :inputs].T
        chunks.append(chunk.ravel().astype(dtype))
        start, position = position, position + chunk.size
        return start

    def padded(array, size):
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, size - array.shape[-1])])

    first = mades[0]
    features, outputs, units = first.final[0].shape
    outputs = -(-outputs // GROUP) * GROUP
    groups = [slice(g, g + GROUP) for g in range(0, units, GROUP)]
    hidden_at, context_at, final_at = [], [], []
    for made in mades:
        context_at.append(
            [add(made.context[0][g], made.context[0].shape[1], GROUP) for g in groups]
        )
        hidden_at.append(
            [
                [add(weight[g], int(k), GROUP) for g, k in zip(groups, inputs, strict=True)]
                for (weight, _), inputs in zip(made.hidden, reach(made), strict=True)
            ]
        )
        final_at.append(
            [add(made.final[0][f], int(made.known[f]), outputs) for f in range(features)]
        )
    tables = (
        aligned(np.concatenate(chunks)),
        np.array(final_at),
        padded(np.stack([made.final[1] for made in mades]), outputs).astype(dtype),
        np.array(hidden_at),
        padded(
            np.stack([[bias for _, bias in made.hidden] for made in mades]), len(groups) * GROUP
        ).astype(dtype),
        np.array(context_at),
        padded(np.stack([made.context[1] for made in mades]), len(groups) * GROUP).astype(dtype),
        np.stack([made.known for made in mades]),
    )
    return Packed(tables[0], tables, outputs, first.context[0].shape[1])


def aligned(array):
    """A copy that starts at a multiple of 64 bytes."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    shift = -memory.ctypes.data % 64
    copy = memory[shift : shift + array.nbytes].view(array.dtype)
    copy[:] = array
    return copy
