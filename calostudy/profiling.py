"""Where the time of CaloFlow's sampling goes, and how near it is to what the processor can do.

Of the study's samplers the stages are timed one by one, interleaved; of plain nflows torch's
profiler tells the operations. The limit is a roofline (Williams, Waterman & Patterson,
doi:10.1145/1498765.1498785): a batch needs every weight from memory once and two floating-point
operations per weight and shower; the processor's two rates are measured, not looked up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from calostudy.generation import draw_energies
from calostudy.models.caloflow import LAYERS, VOXELS, CaloFlow
from calostudy.samplers.noise import normal
from calostudy.timing import Timing, race

REST = "maps to energies"
STAGES = ("noise", LAYERS, VOXELS, REST)

MASKS, PRODUCTS, SPLINES = "weights times masks", "matrix products", "splines and the rest"
_PRODUCTS = ("aten::addmm", "aten::mm")
_SQUARE = 1024  # rows and columns of the matrices that measure floating-point operations


def stages(surrogate: CaloFlow, batch: int, rounds: int = 5, seed: int = 0) -> dict[str, float]:
    """ms of one batch in each of `STAGES`, of the default sampler and precision.

    The stages are timed alone and interleaved with the whole; `REST` is what is left of it.
    """
    timings = _race_stages(surrogate, batch, rounds, seed)
    found = {name: 1e3 * timings[name].median for name in STAGES[:-1]}
    return found | {REST: max(0.0, 1e3 * timings["all"].median - sum(found.values()))}


def _race_stages(surrogate: CaloFlow, batch: int, rounds: int, seed: int) -> dict[str, Timing]:
    energy, noise, conditions = _inputs(surrogate, batch, seed)

    def pass_of(network: str) -> Callable[[], object]:
        inverse = surrogate.inverse(network, None, None)
        return lambda: inverse(noise[network], conditions[network])

    numbers = sum(array.shape[1] for array in noise.values())
    cases = {
        "noise": lambda: normal(seed, 0, batch, numbers),
        LAYERS: pass_of(LAYERS),
        VOXELS: pass_of(VOXELS),
        "all": lambda: surrogate.sample(energy, seed=seed),
    }
    run = race(cases, rounds)
    return {name: run.timing(name) for name in cases}


def _inputs(
    surrogate: CaloFlow, batch: int, seed: int
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Incident energies (N,) in MeV; noise (N, D) and conditions (N, C) of both flows."""
    energy = draw_energies(surrogate.dataset, batch, seed)
    layers, cells = len(surrogate.dataset.calorimeter.layers), surrogate.dataset.calorimeter.cells
    noise = normal(seed, 0, batch, layers + cells)
    noise = {LAYERS: noise[:, :layers], VOXELS: noise[:, layers:]}
    return energy, noise, surrogate.conditions(energy, noise[LAYERS])


def nflows_operations(surrogate: CaloFlow, batch: int, seed: int = 0) -> dict[str, float]:
    """Shares of the processor's time in plain nflows' sampling, by kind of operation: of the first
    block of flow-II, the others being like it.

    Masks are multiplied with the weights at every call; products are those of the networks.
    """
    block = surrogate.networks[VOXELS]._transform._transforms[0]
    masked = [list(module.weight.shape) for module in block.modules() if hasattr(module, "mask")]
    _, noise, conditions = _inputs(surrogate, batch, seed)
    dtype = next(block.parameters()).dtype
    inputs = [torch.as_tensor(array).to(dtype) for array in (noise[VOXELS], conditions[VOXELS])]
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as record:
        block.inverse(*inputs)
    spent: Counter[str] = Counter({MASKS: 0.0, PRODUCTS: 0.0, SPLINES: 0.0})
    for event in record.key_averages(group_by_input_shape=True):
        by_mask = event.key == "aten::mul" and event.input_shapes[:1] * 2 == event.input_shapes[:2]
        if by_mask and event.input_shapes[0] in masked:
            kind = MASKS
        else:
            kind = PRODUCTS if event.key in _PRODUCTS else SPLINES
        spent[kind] += event.self_cpu_time_total
    return {kind: microseconds / spent.total() for kind, microseconds in spent.items()}


def weights_in_use(network: nn.Module) -> int:
    """Entries of the weight matrices that masks do not set to zero."""
    return sum(
        int(module.mask.sum()) if hasattr(module, "mask") else module.weight.numel()
        for module in network.modules()
        if hasattr(module, "weight") and module.weight.dim() == 2
    )


@dataclass(frozen=True)
class Limits:
    """What the active threads reach: bytes read per second, floating-point operations per second.

    The reading rate is that of `nbytes` bytes read again and again, as weights are: it is a
    cache's where they fit into one.
    """

    bytes_per_second: float
    flops: float
    nbytes: int

    def seconds(self, weights: int, batch: int) -> float:
        """The least time of a batch through so many weights of `nbytes` bytes together."""
        return max(self.nbytes / self.bytes_per_second, 2.0 * weights * batch / self.flops)


def limits(nbytes: int, rounds: int = 5) -> Limits:
    """The machine's rates at torch's default precision and number of threads, medians."""
    dtype = torch.get_default_dtype()
    numbers = torch.ones(max(1, nbytes // dtype.itemsize), dtype=dtype)
    matrix = torch.ones(_SQUARE, _SQUARE, dtype=dtype)
    run = race({"read": lambda: numbers.dot(numbers), "multiply": lambda: matrix @ matrix}, rounds)
    return Limits(
        bytes_per_second=nbytes / run.timing("read").median,
        flops=2.0 * _SQUARE**3 / run.timing("multiply").median,
        nbytes=nbytes,
    )


def reached(surrogate: CaloFlow, batch: int, milliseconds: float) -> dict[str, float]:
    """What flow-II's measured ms per batch is of the roofline, and what the roofline is."""
    weights = weights_in_use(surrogate.networks[VOXELS])
    nbytes = weights * torch.get_default_dtype().itemsize
    found = limits(nbytes)
    least = 1e3 * found.seconds(weights, batch)
    return {
        "batch": batch,
        "weights": weights,
        "GB/s": found.bytes_per_second / 1e9,
        "GFLOP/s": found.flops / 1e9,
        "least ms": least,
        "measured ms": milliseconds,
        "fraction": least / milliseconds,
    }
