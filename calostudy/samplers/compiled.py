"""Samplers that are compiled from the weights of a network, and again when those change."""

from collections.abc import Callable, Hashable
from typing import Any

from torch import nn


class Compiled:
    """What was made of a network's weights, for as long as the weights stay as they are."""

    def __init__(self):
        self._made: dict[Hashable, tuple] = {}

    def of(self, network: nn.Module, key: Hashable, make: Callable[[], Any]) -> Any:
        """The result of `make`, called anew after the weights of the network have changed.

        `key` tells apart what is made of one network in several ways.
        """
        # Keeping the parameters saves a walk through all modules, which takes a small network
        # longer than a shower.
        of, parameters, versions, made = self._made.get((id(network), key), (None,) * 4)
        if of is not network or versions != [p._version for p in parameters]:
            parameters, made = tuple(network.parameters()), make()
            versions = [p._version for p in parameters]
            self._made[id(network), key] = network, parameters, versions, made
        return made
