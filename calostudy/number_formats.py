"""Number formats of eight and four bits, emulated: numbers rounded to what a format can hold.

Block formats share a scale among neighbours along the last axis, which is the one that products of
matrices sum over: MX of the Open Compute Project (OCP Microscaling Formats v1.0: 32 numbers, a
power of two) and NVFP4 of NVIDIA (16 numbers, a scale in E4M3, and one in float32 for the whole).
The rounding is to the nearest, ties to even, too large numbers to the largest. Tests compare with
torchao's formats, number by number.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

E2M1_LARGEST, E4M3_LARGEST = 6.0, 448.0
E4M3_SMALLEST = torch.finfo(torch.float8_e4m3fn).tiny
"""Of the scales of NVFP4: the smallest normal number."""


def e2m1(values: Tensor) -> Tensor:
    """Values rounded to the numbers 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.

    >>> e2m1(torch.tensor([0.25, 0.26, 2.5, 5.0, -7.0]))
    tensor([ 0.0000,  0.5000,  2.0000,  4.0000, -6.0000])
    """
    size = values.abs().clamp(max=E2M1_LARGEST)
    # Half steps below 2, whole ones below 4, then steps of two.
    step = torch.where(size < 2.0, 0.5, torch.where(size < 4.0, 1.0, 2.0))
    return torch.copysign((size / step).round() * step, values)


def e4m3(values: Tensor) -> Tensor:
    """Values rounded to the eight-bit numbers of four bits of exponent and three of mantissa."""
    return values.clamp(-E4M3_LARGEST, E4M3_LARGEST).to(torch.float8_e4m3fn).float()


def nvfp4(values: Tensor) -> Tensor:
    """Float32 values (..., K) as NVFP4 holds them."""
    blocks, shape = _blocks(values, 16)
    tensor = blocks.abs().amax() / (E4M3_LARGEST * E2M1_LARGEST)
    if tensor == 0:
        return torch.zeros_like(values)
    scale = blocks.abs().amax(dim=-1, keepdim=True) / E2M1_LARGEST / tensor
    scale = e4m3(scale.clamp(E4M3_SMALLEST, E4M3_LARGEST))
    held = e2m1(blocks * ((1.0 / tensor) / scale))
    return _together(held * (scale * tensor), shape)


def mxfp4(values: Tensor) -> Tensor:
    """Float32 values (..., K) as MXFP4 holds them."""
    return _mx(values, e2m1, largest_power=2)


def mxfp8(values: Tensor) -> Tensor:
    """Float32 values (..., K) as MXFP8 with elements in E4M3 holds them."""
    return _mx(values, e4m3, largest_power=8)


def _mx(values: Tensor, element: Callable[[Tensor], Tensor], largest_power: int) -> Tensor:
    blocks, shape = _blocks(values, 32)
    most = blocks.abs().amax(dim=-1, keepdim=True)
    # The power of two below the largest; frexp gives a mantissa in [0.5, 1).
    power = torch.where(most > 0, torch.frexp(most).exponent - 1, -127) - largest_power
    scale = torch.ldexp(torch.ones_like(most), power.clamp(-126, 127))
    return _together(element(blocks / scale) * scale, shape)


def int8(values: Tensor) -> Tensor:
    """Float32 values (..., K) as whole numbers from -127 to 127 times a scale for each row."""
    scale = values.abs().amax(dim=-1, keepdim=True) / 127.0
    return (values / torch.where(scale > 0, scale, 1.0)).round() * scale


def _through(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda values: values.to(dtype).to(values.dtype)


FORMATS: dict[str, Callable[[Tensor], Tensor]] = {
    "bf16": _through(torch.bfloat16),
    "fp16": _through(torch.float16),
    "mxfp8": mxfp8,
    "int8": int8,
    "nvfp4": nvfp4,
    "mxfp4": mxfp4,
}
"""By name; each rounds values (..., K) along the last axis."""


def _blocks(values: Tensor, size: int) -> tuple[Tensor, torch.Size]:
    """Float32 blocks (..., n, size), the last filled with zeros, and the shape to come back to."""
    padded = F.pad(values.float(), (0, -values.shape[-1] % size))
    return padded.unflatten(-1, (-1, size)), values.shape


def _together(blocks: Tensor, shape: torch.Size) -> Tensor:
    return blocks.flatten(-2)[..., : shape[-1]]
