"""A cylindrical U-Net that sees and says cells: the network of CaloDiffusion."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calostudy.calorimeter import Calorimeter
from calostudy.networks.cylindrical import CylindricalUNet, Sizes, UNetStructure, set_plain
from calostudy.networks.glam import GeometryMap, Grid, common_edges
from calostudy.networks.kept import OfConditions, OfTimes
from calostudy.networks.products import by_products, each, product


@dataclass(frozen=True)
class ShowerStructure:
    """What is around the U-Net.

    patch: so many neighbours in (Z, phi, R) become channels of one place; split: see
    `GeometryMap`; angle: whether the network sees where phi begins; layers: whether the conditions
    are the incident energy and those of the layers, which it sees as images too.
    """

    unet: UNetStructure
    patch: Sizes = (1, 1, 1)
    split: bool = True
    angle: bool = False
    layers: bool = False


class ShowerUNet(nn.Module):
    """(x (B, V), time (B,), conditions (B, K)) to (B, V)."""

    def __init__(self, calorimeter: Calorimeter, structure: ShowerStructure):
        super().__init__()
        self.structure = structure
        gridded = calorimeter.shape is not None
        self.geometry = Grid(calorimeter) if gridded else GeometryMap(calorimeter, structure.split)
        self.sizes, self.patch = self.geometry.sizes, structure.patch
        self.margin = [-n % k for n, k in zip(self.sizes, self.patch, strict=True)]
        self.places = tuple(-(-n // k) for n, k in zip(self.sizes, self.patch, strict=True))
        images = self._images(calorimeter)
        self.register_buffer("images", images, persistent=False)
        numbers = int(np.prod(self.patch))
        seen = numbers + len(images[0]) + (self.patch[0] if structure.layers else 0)
        conditions = 1 + (len(calorimeter.layers) if structure.layers else 0)
        periodic = all(layer.view == "cylindrical" for layer in calorimeter.layers)
        self.unet = CylindricalUNet(
            self.places, seen, numbers, conditions, structure.unet, periodic
        )

    def _images(self, calorimeter: Calorimeter) -> Tensor:
        """Where radius, layer and angle of the grid are, (1, 2 or 3, Z, phi, R), each up to 1."""
        edges = common_edges(calorimeter.layers)
        radii = 0.5 * (edges[1:] + edges[:-1])
        layers, angles, _ = self.sizes
        axes = [
            (radii / np.abs(radii).max())[None, None, :],
            (np.arange(layers) / layers)[:, None, None],
        ]
        if self.structure.angle:
            axes.append(np.linspace(0.0, 1.0, angles)[None, :, None])
        images = np.stack([np.broadcast_to(axis, self.sizes) for axis in axes])
        images = self._patched(torch.as_tensor(images, dtype=torch.float32)[None])
        return images.unflatten(1, (len(axes), -1)).mean(2)

    def _patched(self, images: Tensor) -> Tensor:
        """Images (B, C, Z, phi, R) to (B, C * numbers of a patch, places of Z, phi, R)."""
        if self.patch == (1, 1, 1):
            return images
        images = F.pad(images, (0, self.margin[2], 0, self.margin[1], 0, self.margin[0]))
        count, channels = images.shape[:2]
        places = zip(self.places, self.patch, strict=True)
        images = images.view(count, channels, *(n for pair in places for n in pair))
        return images.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(count, -1, *self.places)

    def _unpatched(self, images: Tensor) -> Tensor:
        """The inverse of `_patched` for one channel."""
        if self.patch == (1, 1, 1):
            return images
        images = images.reshape(images.shape[0], 1, *self.patch, *self.places)
        images = images.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(
            images.shape[0], 1, *(n * k for n, k in zip(self.places, self.patch, strict=True))
        )
        z, a, r = self.sizes
        return images[:, :, :z, :a, :r]

    def background(self, conditions: Tensor) -> Tensor:
        """What the U-Net sees besides cells: geometry and energies of the layers, (B, C, ...)."""
        images = self.images.expand(conditions.shape[0], *([-1] * 4))
        if not self.structure.layers:
            return images
        energies = F.pad(conditions[:, 1:], (0, self.margin[0]))
        energies = energies.unflatten(1, (self.places[0], -1, 1, 1)).transpose(1, 2)
        return torch.cat([images, energies.expand(-1, -1, *self.places)], dim=1)

    def forward(self, x: Tensor, time: Tensor, conditions: Tensor) -> Tensor:
        cells = self._patched(self.geometry.encode(x))
        seen = torch.cat([cells, self.background(conditions)], dim=1)
        found = self.unet(_channels_last(seen), time, conditions)
        return self.geometry.decode(self._unpatched(found))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


Evaluate = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x (B, V), time (B,), conditions (B, K)) to (B, V)."""


def eager(network: ShowerUNet, precision: str) -> Evaluate:
    """The network by plain torch: the yardstick."""
    network = _copied(network, precision)
    set_plain(network.modules(), True)
    return network


class Fused:
    """The same function, without what need not be done at every step of a solver.

    What depends on the geometry and on the conditions alone is kept for as long as the conditions
    stay, what depends on the time alone for all times that there are.
    """

    def __init__(self, network: ShowerUNet, precision: str):
        self.network = network = by_products(_copied(network, precision))
        unet = network.unet.to(memory_format=torch.channels_last_3d)
        cells = int(np.prod(network.patch))
        weight = unet.begin.weight
        self.of_cells, self.of_background = map(
            _channels_last, (weight[:, :cells], weight[:, cells:])
        )
        tells = unet.tells()
        self.channels = [len(tell.weight) for tell in tells]
        weight = torch.cat([tell.weight for tell in tells]).t()
        by_time, self.by_condition = (part.contiguous() for part in weight.chunk(2))
        self.bias = torch.cat([tell.bias for tell in tells])
        self.matrices = network.geometry.matrices()
        self.of_times = OfTimes(lambda t: F.silu(unet.time(t[:, None])) @ by_time, self.bias)
        self.of_conditions = OfConditions(self._learned)

    @torch.no_grad()
    def __call__(self, x: Tensor, time: Tensor, conditions: Tensor) -> Tensor:
        network, unet = self.network, self.network.unet
        begun, told = self.of_conditions(conditions)
        told = told + self.of_times(time)
        there, back = self.matrices
        cells = _channels_last(network._patched(network.geometry.encode(x, there)))
        begun = unet.begin.convolved(cells, self.of_cells, None) + begun
        found = unet.behind(begun, iter(told.split(self.channels, dim=1)))
        return network.geometry.decode(network._unpatched(found), back)

    def _learned(self, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Of conditions (B, K): what the first convolution makes of them, and what residual
        blocks are told."""
        unet = self.network.unet
        background = _channels_last(self.network.background(conditions))
        begun = unet.begin.convolved(background, self.of_background, unet.begin.bias)
        embedding = each(lambda told: F.silu(unet.condition(told)), conditions)
        return begun, product(embedding, self.by_condition, self.bias)


def _copied(network: ShowerUNet, precision: str) -> ShowerUNet:
    return copy.deepcopy(network).to(getattr(torch, precision)).eval().requires_grad_(False)


SAMPLERS: dict[str, Callable[[ShowerUNet, str], Evaluate]] = {"fused": Fused, "eager": eager}
