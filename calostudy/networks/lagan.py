"""Networks of images whose every place has weights of its own.

CaloGAN's generator and discriminator (Paganini, de Oliveira & Nachman, arXiv:1712.10321 and
arXiv:1705.02355), in the line of LAGAN (de Oliveira et al., arXiv:1701.05927). Images are
(N, channels, rows, columns).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.3  # of Keras' leaky ReLU below zero
Size = tuple[int, int]


class LocallyConnected(nn.Module):
    """A convolution without padding whose kernel and bias differ from place to place."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Size,
        size: Size,
        stride: Size = (1, 1),
        bias: bool = True,
    ):
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.rows, self.columns = (
            (n - k) // s + 1 for n, k, s in zip(size, kernel, stride, strict=True)
        )
        places, seen = self.rows * self.columns, inputs * kernel[0] * kernel[1]
        bound = math.sqrt(6.0 / (seen + outputs))  # Glorot's, as Keras begins
        self.weight = nn.Parameter(torch.empty(places, seen, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(places, outputs)) if bias else None

    @property
    def size(self) -> Size:
        """Rows and columns of what comes out."""
        return self.rows, self.columns

    def forward(self, images: Tensor) -> Tensor:
        # Places first, then images: so each place is a product of two matrices as they lie.
        images = images.permute(2, 3, 0, 1)
        (high, wide), (down, right) = self.kernel, self.stride
        seen = [
            images[
                i : i + (self.rows - 1) * down + 1 : down,
                j : j + (self.columns - 1) * right + 1 : right,
            ]
            for i in range(high)
            for j in range(wide)
        ]
        found = torch.bmm(torch.cat(seen, dim=3).flatten(0, 1), self.weight)
        if self.bias is not None:
            found = found + self.bias[:, None]
        return found.unflatten(0, self.size).permute(2, 3, 0, 1)


class HandOver(nn.Module):
    """An image and what the layer before would hand over to it, mixed: each place weighs the two by
    what it sees of both around it. At first, nothing is handed over."""

    def __init__(self, size: Size):
        super().__init__()
        padded = size[0] + 2, size[1] + 2
        self.weigh = LocallyConnected(2, 2, (3, 3), padded)
        with torch.no_grad():
            self.weigh.bias[:, 1] = -10.0

    def forward(self, own: Tensor, before: Tensor) -> Tensor:
        both = torch.cat([own, before], dim=1)
        return (both * self.weigh(F.pad(both, (1, 1, 1, 1))).softmax(dim=1)).sum(
            dim=1, keepdim=True
        )


@dataclass(frozen=True)
class Widths:
    """Hyperparameters: what the generator is given; channels of its steps and of the
    discriminator's; features and numbers of each in the comparisons within a batch; numbers that
    the discriminator is told beside the shower."""

    inputs: int
    generator: tuple[int, int, int]
    discriminator: tuple[int, int, int, int]
    features: int
    dimensions: int
    conditions: int = 0


def _normed(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)  # Keras'


def _branch(widths: Widths, size: Size) -> nn.Sequential:
    """What the generator is given to an image of one layer."""
    first, second, third = widths.generator
    rows, columns = size[0] + 2, size[1] + 2
    lower = LocallyConnected(second, third, (2, 2), (rows, columns))
    return nn.Sequential(
        nn.Linear(widths.inputs, rows * columns * first),
        nn.Unflatten(1, (first, rows, columns)),
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(first, second, 2),
        nn.LeakyReLU(SLOPE),
        _normed(second),
        lower,
        nn.LeakyReLU(SLOPE),
        LocallyConnected(third, 1, (2, 2), lower.size, bias=False),
    )


class Generator(nn.Module):
    """Numbers (N, inputs), random and of the incident energy, to those of the cells (N, V), none
    negative. A layer has as many rows as
    the one before or a multiple, and a part of its columns."""

    def __init__(self, sizes: Sequence[Size], widths: Widths):
        super().__init__()
        self.sizes = tuple(sizes)
        self.branches = nn.ModuleList(_branch(widths, size) for size in sizes)
        self.hand_over = nn.ModuleList(HandOver(size) for size in sizes[1:])

    def forward(self, given: Tensor) -> Tensor:
        image, *others = (branch(given) for branch in self.branches)
        images = [image]
        for own, mix, size in zip(others, self.hand_over, self.sizes[1:], strict=True):
            image = mix(own, resized(image, size))
            images.append(image)
        return torch.cat([image.flatten(1) for image in images], dim=1).relu()


def resized(images: Tensor, size: Size) -> Tensor:
    """Rows are repeated, columns averaged.

    >>> resized(torch.tensor([[[[1.0, 3.0]]]]), (2, 1))
    tensor([[[[2.],
              [2.]]]])
    """
    images = images.repeat_interleave(size[0] // images.shape[2], dim=2)
    return F.avg_pool2d(images, (1, images.shape[3] // size[1]))


class BatchComparison(nn.Module):
    """How near each shower of a batch is to the others, in `features` respects (minibatch
    discrimination, Salimans et al., arXiv:1606.03498): what tells that a generator makes the same
    shower again and again."""

    def __init__(self, inputs: int, features: int, dimensions: int):
        super().__init__()
        self.project = nn.Linear(inputs, features * dimensions, bias=False)
        self.features = features

    def forward(self, values: Tensor) -> Tensor:
        """Values (N, inputs) to (N, features)."""
        found = self.project(values).tanh().unflatten(1, (self.features, -1))
        distance = (found[:, None] - found[None]).abs().sum(dim=3)
        return (-distance).exp().sum(dim=1) / len(values)


class Discriminator(nn.Module):
    """Numbers of the cells (N, V), energies of the layers (N, L) and incident energies (N,), these
    two in GeV, and conditions (N, conditions) to a logit of being real (N,)."""

    def __init__(self, sizes: Sequence[Size], widths: Widths):
        super().__init__()
        self.sizes = tuple(sizes)
        self.layers = nn.ModuleList(_Layer(size, widths) for size in sizes)
        sums = len(sizes) + 1
        self.compare_energies = BatchComparison(sums, widths.features, widths.dimensions)
        inside = sum(layer.outputs for layer in self.layers)
        self.tell = nn.Linear(inside + sums + 2 + widths.features + widths.conditions, 1)

    def forward(
        self, numbers: Tensor, energies: Tensor, incident: Tensor, conditions: Tensor
    ) -> Tensor:
        parts = numbers.split([rows * columns for rows, columns in self.sizes], dim=1)
        seen = [
            net(part.unflatten(1, (1, *size)))
            for net, part, size in zip(self.layers, parts, self.sizes, strict=True)
        ]
        total = energies.sum(dim=1, keepdim=True)
        gap = (total - incident[:, None]).abs()
        sums = torch.cat([energies / 10.0, total / 100.0], dim=1)
        far = 10.0 * (gap > 5.0).to(gap)
        known = sums, gap, far, self.compare_energies(sums), conditions
        return self.tell(torch.cat([*seen, *known], dim=1))[:, 0]


class _Layer(nn.Module):
    """What the discriminator sees in one layer."""

    def __init__(self, size: Size, widths: Widths):
        super().__init__()
        first, *others = widths.discriminator
        steps = [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(1, first, 2), nn.LeakyReLU(SLOPE)]
        channels, at = first, size
        for width, kernel, stride in zip(
            others, ((3, 3), (2, 2), (2, 2)), ((1, 2), (1, 1), (1, 2)), strict=True
        ):
            local = LocallyConnected(channels, width, kernel, (at[0] + 2, at[1] + 2), stride)
            steps += [nn.ZeroPad2d(1), local, nn.LeakyReLU(SLOPE), _normed(width)]
            channels, at = width, local.size
        self.image = nn.Sequential(*steps, nn.Flatten())
        inside = channels * at[0] * at[1]
        compared = widths.features, widths.dimensions
        self.compare = BatchComparison(inside, *compared)
        self.compare_hits = BatchComparison(1, *compared)
        self.outputs = inside + 2 * widths.features + 1

    def forward(self, image: Tensor) -> Tensor:
        found = self.image(image)
        hits = (image > 0).to(image).mean(dim=(1, 2, 3))[:, None]
        return torch.cat([found, self.compare(found), hits, self.compare_hits(hits)], dim=1)
