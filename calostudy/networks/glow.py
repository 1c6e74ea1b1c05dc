"""A convolutional flow of images: Glow's steps with splines between U-Nets.

An image (1, H, W) is squeezed to fewer pixels with more channels. Each block then shifts and scales
the channels (ActNorm) and bends the first half of them by rational-quadratic splines, whose
parameters a U-Net computes from the other half and a context; an invertible 1x1 convolution mixes
the channels (Kingma & Dhariwal, arXiv:1807.03039; Buss et al., arXiv:2405.20407). Both
directions take one evaluation of each U-Net.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calostudy.errors import UsageError
from calostudy.networks.flows import random_permutations
from calostudy.networks.spline import SplineSettings, rational_quadratic_spline
from calostudy.networks.spline_inverse import inverse_rational_quadratic_spline

SMALLEST_DIAGONAL = 1e-3


@dataclass(frozen=True)
class GlowStructure:
    """Hyperparameters.

    squeeze: pixels that become channels, (rows, columns); widths: channels of the U-Net at each of
    its levels; strides: (rows, columns) from each level to the next, one fewer; embedding: channels
    that the context is reduced to; circular: whether the last axis goes around.
    """

    squeeze: tuple[int, int]
    blocks: int
    widths: tuple[int, ...]
    strides: tuple[tuple[int, int], ...]
    embedding: int
    spline: SplineSettings
    circular: bool


class Convolution(nn.Conv2d):
    """3 x 3, of as many pixels as it is given; `circular`: the last axis goes around."""

    def __init__(self, inputs: int, outputs: int, circular: bool):
        super().__init__(inputs, outputs, 3, padding=(1, 0 if circular else 1))
        self.circular = circular

    def forward(self, images: Tensor) -> Tensor:
        if self.circular:
            images = F.pad(images, (1, 1, 0, 0), mode="circular")
        return super().forward(images)


def _stage(inputs, width, outputs, circular, last=False) -> nn.Sequential:
    """Two convolutions, each followed by batch norm and leaky ReLU; of the `last`, only one is."""
    layers = [
        Convolution(inputs, width, circular),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(),
        Convolution(width, outputs, circular),
    ]
    return nn.Sequential(*layers, *([] if last else [nn.BatchNorm2d(outputs), nn.LeakyReLU()]))


class UNet(nn.Module):
    """Images (B, inputs, h, w) to images (B, outputs, h, w).

    From level to level by convolutions and transposed ones whose kernel is their stride.
    """

    def __init__(self, inputs: int, outputs: int, structure: GlowStructure):
        super().__init__()
        widths, circular = structure.widths, structure.circular
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.encoders, self.decoders = nn.ModuleList(), nn.ModuleList()
        levels = zip(widths[:-1], widths[1:], structure.strides, strict=True)
        for level, (width, below, stride) in enumerate(levels):
            end = outputs if level == 0 else width
            self.encoders.append(_stage(width if level else inputs, width, width, circular))
            self.decoders.append(_stage(2 * width, width, end, circular, last=level == 0))
            self.down.append(nn.Conv2d(width, below, stride, stride))
            self.up.append(nn.ConvTranspose2d(below, width, stride, stride))

    def forward(self, images: Tensor) -> Tensor:
        skipped = []
        for encoder, down in zip(self.encoders, self.down, strict=True):
            skipped.append(encoder(images))
            images = down(skipped[-1])
        images = F.leaky_relu(images)
        for decoder, up in zip(reversed(self.decoders), reversed(self.up), strict=True):
            images = decoder(torch.cat([up(images), skipped.pop()], dim=1))
        return images


class Mixing(nn.Module):
    """Invertible 1 x 1 convolution of C channels: a permutation (C,), then L U (PLU without P
    trained, arXiv:1807.03039, section 3.2) and a bias; begins as the permutation."""

    def __init__(self, permutation: Tensor):
        super().__init__()
        channels = len(permutation)
        entries = channels * (channels - 1) // 2
        self.lower, self.upper = (nn.Parameter(torch.zeros(entries)) for _ in range(2))
        # Softplus of it is 1.
        one = math.log(math.expm1(1.0 - SMALLEST_DIAGONAL))
        self.raw_diagonal = nn.Parameter(torch.full((channels,), one))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("permutation", permutation)

    @property
    def diagonal(self) -> Tensor:
        """Of U, all positive."""
        return F.softplus(self.raw_diagonal) + SMALLEST_DIAGONAL

    def matrix(self) -> Tensor:
        """What the channels are multiplied with, (C, C)."""
        diagonal = self.diagonal
        rows, columns = torch.tril_indices(*2 * [len(diagonal)], -1, device=diagonal.device)
        lower = torch.eye(len(diagonal), dtype=diagonal.dtype, device=diagonal.device)
        lower = lower.index_put((rows, columns), self.lower)
        upper = torch.diag(diagonal).index_put((columns, rows), self.upper)
        return (lower @ upper).index_select(1, torch.argsort(self.permutation))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, h, w)."""
        return F.conv2d(images, self.matrix()[:, :, None, None], self.bias)

    def inverse(self, images: Tensor) -> Tensor:
        """The images that `forward` makes these of."""
        matrix = torch.linalg.inv(self.matrix())
        return F.conv2d(images, matrix[:, :, None, None], -(matrix @ self.bias))


class GlowBlock(nn.Module):
    """ActNorm, coupling, mixing of the channels."""

    def __init__(self, context: int, structure: GlowStructure, permutation: Tensor):
        super().__init__()
        channels = len(permutation)
        self.active, self.spline = channels // 2, structure.spline
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        passive = channels - self.active
        self.network = UNet(passive + context, self.active * self.spline.parameters, structure)
        self.mixing = Mixing(permutation)
        # Every spline begins as the identity.
        last = self.network.decoders[0][-1]
        with torch.no_grad():
            last.weight.zero_()
            last.bias.zero_()
            last.bias.view(self.active, -1)[:, 2 * self.spline.bins :] = self.spline.edge

    def coupled(self, images: Tensor, context: Tensor, function) -> tuple[Tensor, Tensor]:
        """The coupling by one of the two directions of the splines: images (B, C, h, w) and the
        log determinants (B,)."""
        active, passive = images.split([self.active, images.shape[1] - self.active], dim=1)
        raw = self.network(torch.cat([passive, context], dim=1))
        columns, parameters = (each.transpose(0, 1).flatten(1) for each in (active, raw))
        bent, logs = function(columns, parameters, self.spline)
        bent = bent.view(self.active, len(images), *images.shape[2:]).transpose(0, 1)
        return torch.cat([bent, passive], dim=1), logs.view(len(images), -1).sum(dim=1)

    def normalised(self, images: Tensor) -> Tensor:
        """ActNorm of images (B, C, h, w)."""
        return images * self.log_scale.exp()[:, None, None] + self.shift[:, None, None]

    def forward(self, images: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, h, w), context (B, E, h, w) -> images and log determinants (B,)."""
        pixels = images.shape[2] * images.shape[3]
        images = self.normalised(images)
        images, logs = self.coupled(images, context, rational_quadratic_spline)
        constant = self.log_scale.sum() + self.mixing.diagonal.log().sum()
        return self.mixing(images), logs + pixels * constant

    def inverse(self, images: Tensor, context: Tensor) -> Tensor:
        """The images that `forward` makes these of."""
        images = self.mixing.inverse(images)
        images, _ = self.coupled(images, context, inverse_rational_quadratic_spline)
        return (images - self.shift[:, None, None]) * (-self.log_scale).exp()[:, None, None]


def _embedding(context: int, structure: GlowStructure) -> nn.Sequential:
    """Context (B, context, H, W) to (B, embedding, h, w)."""
    width, squeeze = structure.embedding, structure.squeeze
    # Wider squeezes are averaged over in the authors' code.
    convolved = [nn.Conv2d(width, width, squeeze, squeeze), nn.LeakyReLU()]
    return nn.Sequential(
        nn.Conv2d(context, width, 1),
        nn.LeakyReLU(),
        Convolution(width, width, structure.circular),
        nn.LeakyReLU(),
        *(convolved if max(squeeze) <= 2 else [nn.AvgPool2d(squeeze)]),
        Convolution(width, width, structure.circular),
    )


class _Subsample(nn.Module):
    """One of the pixels that become channels: enough for a context without structure."""

    def __init__(self, squeeze: tuple[int, int]):
        super().__init__()
        self.squeeze = squeeze

    def forward(self, context: Tensor) -> Tensor:
        rows, columns = self.squeeze
        return context[:, :, ::rows, ::columns]


class ImageFlow(nn.Module):
    """A density of images (1, H, W) given a context (C, H, W); the base is standard normal.

    shape: (H, W); context: number of channels C; embed: whether a network reduces the context, else
    it is subsampled; seed: of the permutations, the weights come from torch's global generator.

    Raises UsageError for a shape that the squeeze and the strides do not divide, or fewer than
    two channels.
    """

    def __init__(self, shape, context: int, structure: GlowStructure, embed=True, seed: int = 0):
        super().__init__()
        rows, columns = structure.squeeze
        channels = rows * columns
        sizes = shape
        for stride in (structure.squeeze, *structure.strides):
            if sizes[0] % stride[0] or sizes[1] % stride[1]:
                raise UsageError(f"images of {shape} pixels: {stride} does not divide {sizes}")
            sizes = sizes[0] // stride[0], sizes[1] // stride[1]
        if channels < 2:
            raise UsageError("squeeze (1, 1): a coupling needs two channels")
        self.shape, self.structure = tuple(shape), structure
        self.noise_shape = channels, shape[0] // rows, shape[1] // columns
        self.embedding = _embedding(context, structure) if embed else _Subsample(structure.squeeze)
        width = structure.embedding if embed else context
        permutations = random_permutations(channels, structure.blocks, seed)
        self.blocks = nn.ModuleList(
            GlowBlock(width, structure, torch.from_numpy(order)) for order in permutations
        )

    def squeezed(self, images: Tensor) -> Tensor:
        """Images (B, 1, H, W) as (B, channels, h, w)."""
        (rows, columns), (_, h, w) = self.structure.squeeze, self.noise_shape
        parts = images.reshape(-1, h, rows, w, columns).permute(0, 2, 4, 1, 3)
        return parts.reshape(-1, *self.noise_shape)

    def unsqueezed(self, images: Tensor) -> Tensor:
        """The inverse of `squeezed`."""
        (rows, columns), (_, h, w) = self.structure.squeeze, self.noise_shape
        parts = images.reshape(-1, rows, columns, h, w).permute(0, 3, 1, 4, 2)
        return parts.reshape(-1, 1, *self.shape)

    def forward(self, images: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 1, H, W), context (B, C, H, W) -> noise (B, *noise_shape), logabsdet (B,)."""
        images, context = self.squeezed(images), self.embedding(context)
        logabsdet = 0.0
        for block in self.blocks:
            images, logs = block(images, context)
            logabsdet = logabsdet + logs
        return images, logabsdet

    def inverse(self, noise: Tensor, context: Tensor) -> Tensor:
        """Noise (B, channels, h, w), context (B, C, H, W) -> images (B, 1, H, W)."""
        context = self.embedding(context)
        for block in reversed(self.blocks):
            noise = block.inverse(noise, context)
        return self.unsqueezed(noise)

    def log_prob(self, images: Tensor, context: Tensor) -> Tensor:
        """Log density of images (B, 1, H, W) given context (B, C, H, W): (B,), differentiable."""
        noise, logabsdet = self(images, context)
        noise = noise.flatten(1)
        normal = -0.5 * noise.square().sum(dim=1) - 0.5 * noise.shape[1] * math.log(2.0 * math.pi)
        return normal + logabsdet

    @torch.no_grad()
    def initialise(self, images: Tensor, context: Tensor) -> None:
        """Set every ActNorm so that what it puts out on these data has mean 0 and variance 1."""
        images, context = self.squeezed(images), self.embedding(context)
        for block in self.blocks:
            deviation, mean = torch.std_mean(images, dim=(0, 2, 3))
            block.log_scale.copy_(-torch.where(deviation > 1e-3, deviation, 1.0).log())
            block.shift.copy_(-mean * block.log_scale.exp())
            images, _ = block(images, context)
