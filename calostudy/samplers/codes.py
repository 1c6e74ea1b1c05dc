"""How a transformer of codes is sampled: one code after the other, each given all before it.

`cached` keeps the keys and values of the places before, so that a place costs one place's work;
`plain` asks for the whole sequence anew at each place. It is the same function; the order of
additions apart.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from calostudy.networks.code_transformer import CodeTransformer

Draw = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Conditions (N, 1) and uniform random numbers (N, T): codes (N, T)."""


def cached(network: CodeTransformer, precision: str) -> Draw:
    """Sequences by one pass over their places."""
    network = copy.deepcopy(network).to(getattr(torch, precision)).eval()

    def begin(n: int) -> Callable[[int, Tensor, Tensor], Tensor]:
        kept = network.nothing_kept(n)

        def logits(place: int, codes: Tensor, condition: Tensor) -> Tensor:
            code = codes[:, place - 1] if place else None
            return network.step(place, code, condition, kept)

        return logits

    return _draw(network, begin)


def plain(network: CodeTransformer, precision: str) -> Draw:
    """Sequences by a pass over all places so far for each place."""
    network = copy.deepcopy(network).to(getattr(torch, precision)).eval()

    def begin(n: int) -> Callable[[int, Tensor, Tensor], Tensor]:
        return lambda place, codes, condition: network(codes[:, :place], condition)[:, -1]

    return _draw(network, begin)


SAMPLERS: dict[str, Callable[[CodeTransformer, str], Draw]] = {"cached": cached, "plain": plain}


def _draw(network: CodeTransformer, begin) -> Draw:
    @torch.no_grad()
    def draw(condition: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        given, random = torch.as_tensor(condition).to(network.places), torch.as_tensor(uniform)
        codes = torch.zeros(random.shape, dtype=torch.int64)
        logits = begin(len(codes))
        for place in range(codes.shape[1]):
            chances = logits(place, codes, given).double().softmax(dim=1).cumsum(dim=1)
            above = chances[:, :-1] < random[:, place : place + 1] * chances[:, -1:]
            codes[:, place] = above.sum(dim=1)
        return codes.numpy(force=True)

    return draw
