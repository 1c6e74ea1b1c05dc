"""Hits into cells: where a position lies in a calorimeter, and energies summed into its cells.

Positions are in the frame of the shower: ``eta`` and ``phi`` across its axis, ``depth`` along it
from the front face, all in mm. Bins are closed below and open above.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numba
import numpy as np

from calostudy.calorimeter import Calorimeter
from calostudy.errors import UsageError


@numba.njit(cache=True, inline="always")
def _bin(value, edges, first, count, scale):
    """Number of the bin of ``value`` among ``count`` bins from ``edges[first]``, or -1.

    Bins of equal width have ``scale`` = 1 / width, others 0.
    """
    if not (edges[first] <= value < edges[first + count]):
        return -1
    if scale > 0.0:
        number = min(int((value - edges[first]) * scale), count - 1)
        # the product may be one rounding off; the edges decide
        if value < edges[first + number]:
            return number - 1
        if value >= edges[first + number + 1]:
            return number + 1
        return number
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        if value < edges[first + middle]:
            high = middle
        else:
            low = middle
    return low


@numba.njit(cache=True)
def _locate(eta, phi, depth, edges, ends, starts, counts, scales, cells, cylindrical):
    """Flat number of the cell of a position, or -1. Row 0 of ``starts``, ``counts``, ``scales`` is
    about the layers, rows 2i + 1 and 2i + 2 about the slow and the fast axis of layer i."""
    layer = _bin(depth, edges, starts[0], counts[0], scales[0])
    if layer < 0 or depth >= ends[layer]:
        return -1
    slow, fast = eta, phi
    if cylindrical:
        fast = np.sqrt(eta * eta + phi * phi)
        # a layer of rings needs no angle
        slow = np.arctan2(phi, eta) if counts[2 * layer + 1] > 1 else 0.0
        if slow >= np.pi:
            slow = -np.pi
    axis = 2 * layer + 1
    row = _bin(slow, edges, starts[axis], counts[axis], scales[axis])
    column = _bin(fast, edges, starts[axis + 1], counts[axis + 1], scales[axis + 1])
    if row < 0 or column < 0:
        return -1
    return cells[layer] + row * counts[axis + 1] + column


@cache
def _tables(calorimeter: Calorimeter) -> tuple:
    """The calorimeter as the arrays that `_locate` reads."""
    depths = [layer.depth for layer in calorimeter.layers]
    if None in depths:
        raise UsageError(f"{calorimeter.name}: the depth of its layers is not known")
    near, far = np.array(depths, dtype=np.float64).T
    far[:-1] = np.minimum(far[:-1], near[1:])  # neighbours may overlap by a rounding
    axes = [np.append(near, far[-1])]
    axes += [edges for layer in calorimeter.layers for edges in layer.edges]
    counts = np.array([len(edges) - 1 for edges in axes])
    starts = np.cumsum([0, *(len(edges) for edges in axes[:-1])])
    scales = np.array([_scale(edges) for edges in axes])
    cells = np.array([place.start for place in calorimeter.slices])
    cylindrical = calorimeter.layers[0].view == "cylindrical"
    return np.concatenate(axes), far, starts, counts, scales, cells, cylindrical


def _scale(edges: np.ndarray) -> float:
    widths = np.diff(edges)
    return 1 / widths.mean() if np.allclose(widths, widths[0], rtol=1e-9) else 0.0


@cache
def locator(calorimeter: Calorimeter) -> Callable[[float, float, float], int]:
    """Return a numba function (eta, phi, depth in mm) -> flat number of the cell, -1 if outside.

    >>> from calostudy.calorimeter import calorimeter
    >>> cell = locator(calorimeter("calogan"))
    >>> cell(-239.0, -239.0, 1.0), cell(0.0, 240.0, 1.0), cell(239.0, 239.0, 479.0)
    (0, -1, 503)

    Raises:
        UsageError: the depth of the layers is not known.
    """
    edges, ends, starts, counts, scales, cells, cylindrical = _tables(calorimeter)

    @numba.njit
    def cell(eta, phi, depth):
        return _locate(eta, phi, depth, edges, ends, starts, counts, scales, cells, cylindrical)

    return cell


@numba.njit(cache=True)
def _add(out, offsets, position, shift, energy, tables):
    edges, ends, starts, counts, scales, cells, cylindrical = tables
    for shower in range(len(offsets) - 1):
        row = out[shower]
        for hit in range(offsets[shower], offsets[shower + 1]):
            eta, phi = position[hit, 0] + shift[shower, 0], position[hit, 1] + shift[shower, 1]
            depth = position[hit, 2]
            index = _locate(
                eta, phi, depth, edges, ends, starts, counts, scales, cells, cylindrical
            )
            if index >= 0:
                row[index] += energy[hit]


def sum_into_cells(
    calorimeter: Calorimeter,
    offsets: np.ndarray,
    position: np.ndarray,
    energy: np.ndarray,
    shift: np.ndarray | None = None,
) -> np.ndarray:
    """Sum the energies of hits into the cells of a calorimeter; hits outside are left out.

    Args:
        calorimeter: with known depths.
        offsets: (N + 1,) where each shower's hits begin and end.
        position: (M, 3) eta, phi, depth in mm.
        energy: (M,) MeV.
        shift: (N, 2) mm, added to eta and phi of each shower's hits, or None.

    Returns:
        (N, cells) float64 MeV.

    Raises:
        UsageError: the arrays do not fit each other, or the depth of the layers is not known.
    """
    n, hits = len(offsets) - 1, len(energy)
    shift = np.zeros((n, 2)) if shift is None else np.ascontiguousarray(shift, dtype=np.float64)
    if position.shape != (hits, 3) or shift.shape != (n, 2) or offsets[-1] > hits:
        raise UsageError(
            f"positions {position.shape}, energies {energy.shape} and shifts {shift.shape} do not "
            f"fit {n} showers that end at hit {offsets[-1]}"
        )
    out = np.zeros((n, calorimeter.cells))
    _add(
        out, np.asarray(offsets, dtype=np.int64), np.ascontiguousarray(position), shift,
        np.ascontiguousarray(energy), _tables(calorimeter),
    )  # fmt: skip
    return out
