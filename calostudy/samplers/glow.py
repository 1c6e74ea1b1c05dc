"""Sampling of `calostudy.networks.glow`: as written down, and with all constants worked out before.

Folded, batch norms are part of the convolutions before them, and what lies between two couplings
(the inverses of ActNorm and of the mixing) is one 1 x 1 convolution, inverted once in double
precision. It is the same function.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from calostudy.networks.glow import GlowBlock, ImageFlow
from calostudy.networks.spline_inverse import inverse_rational_quadratic_spline

Inverse = Callable[[Tensor, Tensor], Tensor]
"""(noise (B, channels, h, w), context (B, C, H, W)) to images (B, 1, H, W)."""


def eager(flow: ImageFlow, precision: str) -> Inverse:
    """The inverse of a flow as it is written down."""
    return torch.no_grad()(copy.deepcopy(flow).to(getattr(torch, precision)).eval().inverse)


def folded(flow: ImageFlow, precision: str) -> Inverse:
    """The inverse of a flow with its constants folded; reads the weights once, now."""
    dtype = getattr(torch, precision)
    flow = copy.deepcopy(flow).double().eval()
    with torch.no_grad():
        between = [(w.to(dtype), b.to(dtype)) for w, b in _between(list(flow.blocks))]
    for stage in filter(lambda module: isinstance(module, nn.Sequential), flow.modules()):
        for i, layer in enumerate(stage):
            if isinstance(layer, nn.BatchNorm2d):
                stage[i - 1], stage[i] = fuse_conv_bn_eval(stage[i - 1], layer), nn.Identity()
    # Neighbouring channels in memory suit small images.
    flow = flow.to(dtype).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def inverse(noise, context):
        context = flow.embedding(context)
        for block, linear in zip(reversed(flow.blocks), between, strict=False):
            images = F.conv2d(noise, *linear)
            noise, _ = block.coupled(images, context, inverse_rational_quadratic_spline)
        return flow.unsqueezed(F.conv2d(noise, *between[-1]))

    return inverse


def _between(blocks: list[GlowBlock]) -> list[tuple[Tensor, Tensor]]:
    """Weights (C, C, 1, 1) and biases (C,) before each coupling, in the order of sampling, and
    after the last one."""
    found = []
    for after, block in zip([None, *blocks[:0:-1], blocks[0]], [*blocks[::-1], None], strict=True):
        weight = torch.eye(len(blocks[0].shift), dtype=blocks[0].shift.dtype)
        bias = torch.zeros_like(blocks[0].shift)
        if after is not None:
            scale = (-after.log_scale).exp()
            weight, bias = weight * scale[:, None], -after.shift * scale
        if block is not None:
            matrix = torch.linalg.inv(block.mixing.matrix())
            weight, bias = matrix @ weight, matrix @ (bias - block.mixing.bias)
        found.append((weight[:, :, None, None], bias))
    return found
