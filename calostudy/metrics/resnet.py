"""The convolutional classifier of the CaloChallenge evaluation: a ResNet-18 in three dimensions.

For calorimeters whose layers have one shape, such as those of datasets 2 and 3 (arXiv:2410.21611).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from calostudy.calorimeter import Calorimeter
from calostudy.errors import UsageError

STEM = 32
WIDTHS = (32, 64, 64, 128)  # of the four stages; each but the first halves the image
BLOCKS = 2  # per stage


def _convolution(width_in: int, width_out: int, size: int, stride: int = 1) -> nn.Conv3d:
    convolution = nn.Conv3d(width_in, width_out, size, stride, size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


class Block(nn.Module):
    """Two convolutions of 3 x 3 x 3 beside a shortcut: (N, in, *image) -> (N, out, *image')."""

    def __init__(self, width_in: int, width_out: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            _convolution(width_in, width_out, 3, stride),
            nn.BatchNorm3d(width_out),
            nn.ReLU(inplace=True),
            _convolution(width_out, width_out, 3),
            nn.BatchNorm3d(width_out),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or width_in != width_out:
            self.shortcut.append(_convolution(width_in, width_out, 1, stride))
            self.shortcut.append(nn.BatchNorm3d(width_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Low-level inputs (N, 1 + cells) -> one logit (N, 1).

    The first input, log10 of the incident energy, joins the 128 image features, batch-normalised,
    before the last layer.

    Raises UsageError for a calorimeter whose layers differ in shape.
    """

    def __init__(self, calorimeter: Calorimeter):
        super().__init__()
        if calorimeter.shape is None:
            raise UsageError(
                f"the ResNet needs layers of one shape, those of {calorimeter.name} differ; "
                "expected the calorimeter of ds2, ds3 or ild-photons"
            )
        self.shape = calorimeter.shape
        widths = (STEM, *WIDTHS)
        self.image = nn.Sequential(
            _convolution(1, STEM, 7, 2),
            nn.BatchNorm3d(STEM),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(3, 2, 1),
            *(
                Block(width_in if first else width_out, width_out, 2 if first and stage else 1)
                for stage, (width_in, width_out) in enumerate(pairwise(widths))
                for first in (True, *(False,) * (BLOCKS - 1))
            ),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
        )
        self.energy = nn.BatchNorm1d(1)
        self.logit = nn.Linear(WIDTHS[-1] + 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image = self.image(x[:, 1:].reshape(-1, 1, *self.shape))
        return self.logit(torch.cat([image, self.energy(x[:, :1])], dim=1))
