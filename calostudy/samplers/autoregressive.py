"""Cells one after the other from an autoregressive network of `calostudy.networks.autoregressive`.

Both ways turn the same random numbers into the same categories. `plain` evaluates the whole
network for each cell. `triangular` evaluates for each cell what became computable with the one
before it and nothing twice: all cells together cost one pass of the network.
"""

import copy
from collections.abc import Callable
from functools import singledispatch

import numpy as np
import torch
from scipy.special import erf
from torch import nn

from calostudy.errors import UsageError
from calostudy.networks.autoregressive import SUMS, MaskedCells, SharedCells, drawn
from calostudy.networks.spiral import FEATURES, NEIGHBOURS, Spiral
from calostudy.networks.threads import in_threads
from calostudy.samplers.autoregressive_kernels import draw_cells

Sampler = Callable[[Spiral, np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]
"""(spiral, conditions (N, C), uniform numbers (N, n), first categories (N,) or None) to categories
(N, n): int64, in the order of the spiral."""


def plain(network: nn.Module, precision: str) -> Sampler:
    """One pass of the network for each cell, by plain torch."""
    dtype = getattr(torch, precision)
    network = copy.deepcopy(network).to(dtype).eval()

    @torch.no_grad()
    def draw(spiral, conditions, random, first=None):
        given = torch.as_tensor(np.asarray(conditions)).to(dtype)
        uniform = torch.as_tensor(np.asarray(random))
        found = torch.zeros(uniform.shape, dtype=torch.int64)
        if first is not None:
            found[:, 0] = torch.as_tensor(first)
        for cell in range(0 if first is None else 1, len(spiral)):
            logits = network(spiral, found, given)[:, cell]
            found[:, cell] = drawn(logits.double(), uniform[:, cell])
        return found.numpy(force=True)

    return draw


def triangular(network: nn.Module, precision: str) -> Sampler:
    """One pass of the network for all cells."""
    return _triangular(network, np.dtype(precision))


@singledispatch
def _triangular(network: nn.Module, dtype: np.dtype) -> Sampler:
    raise TypeError(f"no triangular sampler of {type(network).__name__}")


@_triangular.register
def _(network: SharedCells, dtype: np.dtype) -> Sampler:
    def numbers(tensor):
        return np.ascontiguousarray(tensor.detach().double().numpy(force=True).astype(dtype))

    parts = [FEATURES, NEIGHBOURS, NEIGHBOURS, SUMS]
    parts.append(network.first.in_features - sum(parts))
    of_features, small, large, *rest = network.first.weight.double().T.split(parts)
    # What the first layer makes of a neighbour: a row for each category.
    scales = network.scales(torch.arange(network.head.out_features))
    of_seen = scales[0][:, None] * small[:, None] + scales[1][:, None] * large[:, None]
    layers = list(network.hidden)
    width = network.first.out_features
    hidden = torch.stack([layer.weight.T for layer in layers] or [torch.empty(0, width)])
    bias = torch.stack([layer.bias for layer in layers] or [torch.empty(width)])
    head = copy.deepcopy(network).double().head_weight()
    weights = [numbers(each) for each in (of_seen, *rest, hidden, bias)]
    weights += [numbers(head.T), numbers(network.head.bias)]
    of_features, bias = of_features.detach().double(), network.first.bias.detach().double()
    static: dict[Spiral, np.ndarray] = {}

    def draw(spiral, conditions, random, first=None):
        if first is not None:
            raise UsageError("this network generates the first cell, too")
        if spiral not in static:
            static[spiral] = numbers(spiral.features.double() @ of_features + bias)
        found = np.zeros(random.shape, np.int64)
        tables = (
            static[spiral],
            spiral.neighbours.numpy(force=True),
            spiral.centres.numpy(force=True),
        )

        def part(rows):
            draw_cells(conditions[rows], random[rows], found[rows], *tables, *weights)

        threads = torch.get_num_threads()
        share = -(-len(found) // threads)
        parts = [slice(start, start + share) for start in range(0, len(found), share)]
        in_threads(part, parts, threads)
        return found

    return draw


@_triangular.register
def _(network: MaskedCells, dtype: np.dtype) -> Sampler:
    def numbers(tensor):
        return tensor.detach().numpy(force=True).astype(dtype, copy=False)

    layers = [(each.inputs, each.outputs, numbers(each.weight), numbers(each.bias))
              for each in network.hidden]  # fmt: skip
    head, head_bias = numbers(network.head.weight[:, :, 0]), numbers(network.head.bias)

    def one(sizes, random, first):
        """Categories (n,) of one shower. A product of a matrix with one vector has the same bits
        in every batch."""
        n = len(sizes)
        found = np.zeros(n, np.int64)
        state = [np.empty(n * inputs, dtype) for inputs, *_ in layers]
        state.append(np.empty(n * layers[-1][1], dtype))
        state[0].reshape(n, -1)[:, :2] = sizes
        for cell in range(n):
            state[0][3 * cell + 2] = found[cell - 1] / 16.0 if cell else 0.0
            # No mask is needed: of the rows of a cell, this is what the mask leaves.
            for (inputs, outputs, weight, bias), x, y in zip(
                layers, state, state[1:], strict=False
            ):
                rows, columns = slice(cell * outputs, (cell + 1) * outputs), (cell + 1) * inputs
                value = weight[rows, :columns] @ x[:columns] + bias[rows]
                y[rows] = 0.5 * value * (1.0 + erf(value / np.sqrt(2.0)))
            if cell == 0 and first is not None:
                found[0] = first
                continue
            logits = (head @ state[-1][rows] + head_bias).astype(np.float64)
            weight = np.exp(logits - logits.max()).cumsum()
            place = np.searchsorted(weight, random[cell] * weight[-1], side="right")
            found[cell] = min(place, len(weight) - 1)
        return found

    def draw(spiral, conditions, random, first=None):
        sizes = spiral.sizes.numpy(force=True)
        firsts = [None] * len(random) if first is None else first
        return np.stack([one(sizes, *each) for each in zip(random, firsts, strict=True)])

    return draw
