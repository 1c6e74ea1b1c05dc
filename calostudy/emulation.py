"""A surrogate whose products of matrices have rounded operands: its quality in another format.

Weights are rounded once, what goes into a layer at every call; sums, biases, activations and all
between numbers and energies stay as they are, as on hardware that multiplies in a format and sums
in float32. This says what a format does to showers, not how fast it would be.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from calostudy.errors import UsageError
from calostudy.models.surrogate import Surrogate
from calostudy.number_formats import FORMATS

SAMPLERS = {
    "caloflow-student": "nflows",
    "caloscore-single-shot": "eager",
    "caloscore-distilled": "eager",
    "flow-matching": "eager",
    "calodiffusion": "eager",
    "caloscore": "eager",
    "dnn-calosim": None,
    "bologan": None,
    "caloshowergan": None,
}
"""Surrogates that can be emulated, and their sampler in plain torch; None: they have no other."""

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose operands are rounded; along the inputs that are summed over."""


@contextmanager
def emulated(surrogate: Surrogate, name: str) -> Iterator[Surrogate]:
    """A copy of a surrogate, its layers in a format of `calostudy.number_formats.FORMATS`.

    Its samplers have to ask the layers themselves: by default it has that of `SAMPLERS`. Its
    attribute `emulated` is the format.

    Raises:
        UsageError: there is no such format; or, at the end, no layer of a network was asked, so
            that showers were made by other means.
    """
    if name not in FORMATS:
        raise UsageError(f"no number format {name!r}; there are {', '.join(FORMATS)}")
    rounded, twin = FORMATS[name], copy.deepcopy(surrogate)
    twin.__dict__.pop("compiled", None)
    twin.emulated = name
    if SAMPLERS.get(surrogate.name):
        twin.sample = partial(twin.sample, sampler=SAMPLERS[surrogate.name])
    asked: dict[str, int] = {}
    for network, module in twin.networks.items():
        for place, layer in module.named_modules():
            if isinstance(layer, LAYERS):
                key = f"{network}.{place}"
                asked[key] = 0
                _round_weight(layer, rounded)
                layer.register_forward_pre_hook(_Rounding(rounded, asked, key))
    yield twin
    # Some are for training alone, as those of an encoder.
    heard = {key.partition(".")[0] for key, count in asked.items() if count}
    silent = sorted({key.partition(".")[0] for key in asked} - heard)
    if silent:
        raise UsageError(
            f"{surrogate}: the layers of {', '.join(silent)} were not asked, so that its showers "
            "do not tell what a format does; choose a sampler in plain torch"
        )


class _Rounding:
    """Rounds what goes into a layer, and counts. One object for all copies of a network."""

    def __init__(self, rounded, asked: dict[str, int], key: str):
        self.rounded, self.asked, self.key = rounded, asked, key

    def __deepcopy__(self, memo) -> "_Rounding":
        return self

    def __call__(self, layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.asked[self.key] += 1
        x, *rest = given
        if isinstance(layer, nn.Linear):
            return self.rounded(x).to(x.dtype), *rest
        return self.rounded(x.movedim(1, -1)).movedim(-1, 1).to(x.dtype), *rest


def _round_weight(layer: nn.Module, rounded) -> None:
    with torch.no_grad():
        if isinstance(layer, nn.Linear):
            masked = layer.weight * layer.mask if hasattr(layer, "mask") else layer.weight
            layer.weight.copy_(rounded(masked))
        else:
            # Of one output, all that it sums over.
            layer.weight.copy_(rounded(layer.weight.flatten(1)).view_as(layer.weight))
