"""Samplers that are made of the weights of a network, and again when those change."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import nn

from calostudy.errors import UsageError

PRECISIONS = ("float32", "float64")

ON_GPU = ("graph", "cached", "eager", "plain", "nflows")
"""Samplers that run where torch does, the fastest first; all others are compiled for the CPU."""


def checked_precision(precision: str | None) -> str:
    """The precision of a sampler, by default torch's; UsageError unless one of `PRECISIONS`."""
    precision = precision or str(torch.get_default_dtype()).removeprefix("torch.")
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r}: expected {' or '.join(PRECISIONS)}")
    return precision


def here(samplers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those of some samplers by name that run on torch's default device, the default one first.

    >>> here({"fused": 1, "eager": 2})
    {'fused': 1, 'eager': 2}
    >>> with torch.device("meta"):
    ...     here({"fused": 1, "eager": 2})
    {'eager': 2}
    """
    if torch.get_default_device().type == "cpu":
        return samplers
    return {name: samplers[name] for name in ON_GPU if name in samplers}


class Compiled:
    """What was made of a network's weights, for as long as the weights stay as they are."""

    def __init__(self):
        self._made: dict[Hashable, tuple] = {}

    def of(self, network: nn.Module, key: Hashable, make: Callable[[nn.Module], Any]) -> Any:
        """make(network), called anew after the weights of the network have changed.

        `key` tells apart what is made of one network in several ways; what is made on one device
        is not used on another.
        """
        key = key, torch.get_default_device()
        # Keeping the parameters saves a walk through all modules, which takes a small network
        # longer than a shower.
        of, parameters, versions, made = self._made.get((id(network), key), (None,) * 4)
        if of is not network or versions != [p._version for p in parameters]:
            parameters, made = tuple(network.parameters()), make(network)
            versions = [p._version for p in parameters]
            self._made[id(network), key] = network, parameters, versions, made
        return made
