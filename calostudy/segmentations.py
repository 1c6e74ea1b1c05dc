"""One detector read in many ways: the segmentations of arXiv:2212.08233.

The calorimeter ``segmentations`` has the finest binning that all of them share; every other one
follows by adding whole cells, without the hits. Sizes are (cells in eta, cells in phi).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from calostudy.calorimeter import Calorimeter, Layer, calorimeter
from calostudy.errors import UsageError
from calostudy.showers import Showers

INNER: tuple[tuple[int, int], ...] = tuple(
    (12 * eta, 12 * num // den) for eta in (4, 16) for num, den in ((1, 3), (1, 1), (2, 1), (4, 1))
)
"""Of the inner layer: 12 x 12 times 4 or 16 in eta and 1/3, 1, 2 or 4 in phi."""

MIDDLE: tuple[tuple[int, int], ...] = ((12, 12), (48, 24), (48, 48), (36, 48))
"""Of the middle layer. 36 is the transition region: 12 wide cells at eta < 0, 24 narrow ones at
eta > 0."""

OUTER: tuple[int, int] = (24, 24)
"""Of the outer layer."""


@cache
def segmentation(inner: tuple[int, int], middle: tuple[int, int]) -> Calorimeter:
    """Return the calorimeter with these cells in its inner and middle layer.

    >>> segmentation((48, 4), (36, 48))
    Calorimeter('segmentation-48x4-36x48', 3 layers, 2496 cells)

    Raises:
        UsageError: a size that the paper does not have.
    """
    for what, size, known in (("inner", inner, INNER), ("middle", middle, MIDDLE)):
        if size not in known:
            listed = ", ".join(f"{a}x{b}" for a, b in known)
            raise UsageError(f"no {what} layer of {size}; there are {listed}")
    finest = calorimeter("segmentations")
    layers = tuple(coarse_layer(*each) for each in enumerate((inner, middle, OUTER)))
    name = "segmentation-" + "-".join(f"{a}x{b}" for a, b in (inner, middle))
    title = f"Segmentation {inner[0]} x {inner[1]}, {middle[0]} x {middle[1]}, 24 x 24"
    return Calorimeter(name, title, finest.file_format, layers, finest.source)


def coarse_layer(number: int, size: tuple[int, int]) -> Layer:
    """Layer 0, 1 or 2 with this size, also one that the paper does not have.

    >>> coarse_layer(1, (24, 12)).shape
    (24, 12)

    Raises:
        UsageError: no such cells follow by adding the finest ones.
    """
    layer = calorimeter("segmentations").layers[number]
    for count, finest in zip(size, layer.shape, strict=True):
        if count < 1 or (finest % count and count != 36):
            raise UsageError(f"no layer of {size} follows from one of {layer.shape}")
    return Layer(layer.id, layer.view, tuple(map(_edges, layer.edges, size)), layer.depth)


def _edges(finest: np.ndarray, count: int) -> np.ndarray:
    """Every k-th of the finest edges, exactly; 36 has different k on the two sides."""
    cells = len(finest) - 1
    if count == 36:
        coarse, fine = finest[: cells // 2 : cells // 24], finest[cells // 2 :: cells // 48]
        return np.concatenate([coarse, fine])
    return finest[:: cells // count]


def resegment(showers: Showers, inner: tuple[int, int], middle: tuple[int, int]) -> Showers:
    """Add the cells of showers on ``segmentations`` to those of another segmentation.

    Raises:
        UsageError: showers on another calorimeter, or an unknown size.
    """
    finest = calorimeter("segmentations")
    if showers.calorimeter is not finest:
        raise UsageError(f"showers on {showers.calorimeter.name}, expected segmentations")
    target = segmentation(inner, middle)
    images = []
    for number, layer in enumerate(target.layers):
        image = showers.layer(number).astype(np.float64)
        for axis, edges in enumerate(layer.edges):
            starts = np.searchsorted(finest.layers[number].edges[axis], edges[:-1])
            image = np.add.reduceat(image, starts, axis=axis + 1)
        images.append(image.reshape(len(showers), -1))
    return Showers(target, showers.incident_energy, np.concatenate(images, axis=1))
