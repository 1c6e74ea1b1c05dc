"""Networks as CUDA graphs: a GPU is told once what to do, not kernel by kernel at every call.

Small networks keep a GPU busy for less time than it takes to start their hundreds of kernels. A
graph of them, recorded for tensors of one shape, is started as a whole.
"""

import warnings
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

WARM_UP = 3
"""Calls before a graph is recorded: libraries choose their algorithms in the first ones."""


class Graphed:
    """A function of tensors on a GPU to one tensor, the same by a graph for each kind of shapes.

    What cannot be recorded is called as it is, with a warning.
    """

    def __init__(self, call: Callable[..., Tensor]):
        self.call = call
        self.graphs: dict[Hashable, tuple | None] = {}

    def __call__(self, *given: Tensor) -> Tensor:
        kinds = tuple((tensor.shape, tensor.dtype) for tensor in given)
        key = kinds, torch.is_autocast_enabled("cuda"), torch.get_float32_matmul_precision()
        if key not in self.graphs:
            try:
                self.graphs[key] = _recorded(self.call, given)
            except RuntimeError as error:
                warnings.warn(f"no CUDA graph: {error}", stacklevel=2)
                self.graphs[key] = None
        if self.graphs[key] is None:
            return self.call(*given)
        graph, inputs, output = self.graphs[key]
        for kept, new in zip(inputs, given, strict=True):
            kept.copy_(new)
        graph.replay()
        return output.clone()


def _recorded(call: Callable[..., Tensor], given: tuple[Tensor, ...]) -> tuple:
    inputs = [tensor.clone() for tensor in given]
    # What autocast keeps of one call may not be there in the next.
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside), torch.no_grad():
            for _ in range(WARM_UP):
                call(*inputs)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph), torch.no_grad():
            output = call(*inputs)
    finally:
        torch.set_autocast_cache_enabled(cached)
    return graph, inputs, output
