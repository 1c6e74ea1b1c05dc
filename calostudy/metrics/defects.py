"""Defects planted into real showers, each of a known strength: what a metric should see.

A defect is a pure function of (showers, strength, random numbers). It leaves the incident energies
as they are, works on every calorimeter, and spoils one thing: what stays the same is said of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import root

from calostudy.calorimeter import Layer
from calostudy.errors import DataError, UsageError
from calostudy.metrics.observables import ROUNDING
from calostudy.showers import Showers

ALIKE = 40  # showers that are neighbours in incident energy and count as of one energy
NEAREST = 10  # of which one takes the place of a dropped shower

Plant = Callable[[Showers, float, np.random.Generator], Showers]


@dataclass(frozen=True)
class Defect:
    """A planted defect: its name in words, the unit of the strength, the nominal strength.

    plant: puts it into showers.
    """

    title: str
    unit: str
    strength: float
    plant: Plant

    def at(self, strength: float | None = None) -> str:
        """The defect with a strength, by default the nominal one.

        >>> DEFECTS["energy_scale"].at(0.5)
        'energy scale off: 0.5 %'
        """
        return f"{self.title}: {self.strength if strength is None else strength:g} {self.unit}"

    def __call__(self, showers: Showers, strength: float | None = None, seed: int = 0) -> Showers:
        """Showers with the defect, of the nominal strength if none is given.

        Raises:
            UsageError: a strength that is not from 0 to 100 %.
        """
        strength = self.strength if strength is None else strength
        if not 0 <= strength <= 100:
            raise UsageError(f"{self.title}: strength {strength:g}, expected 0 to 100 {self.unit}")
        return self.plant(showers, strength / 100, np.random.default_rng(seed))


def _changed(showers: Showers, cells: np.ndarray, overflow: np.ndarray | None) -> Showers:
    return replace(showers, cells=cells.astype(showers.cells.dtype, copy=False), overflow=overflow)


# ---- energy -----------------------------------------------------------------------------------


def scale_energy(showers: Showers, strength: float, rng: np.random.Generator) -> Showers:
    """Every cell times 1 + strength."""
    factor = 1 + strength
    overflow = None if showers.overflow is None else showers.overflow * factor
    return _changed(showers, showers.cells * factor, overflow)


# ---- correlations -----------------------------------------------------------------------------


def brightest_layer(showers: Showers) -> int:
    """Position of the layer with most energy, over all showers."""
    return int(showers.layer_energies().sum(axis=0).argmax())


def _exchange(showers: Showers, to: np.ndarray, source: np.ndarray) -> Showers:
    """The brightest layer of the showers `source` given to the showers `to`."""
    layer = brightest_layer(showers)
    cells = showers.cells.copy()
    part = showers.calorimeter.slices[layer]
    cells[to, part] = showers.cells[source, part]
    overflow = showers.overflow
    if overflow is not None:
        overflow = overflow.copy()
        overflow[to, layer] = showers.overflow[source, layer]
    return _changed(showers, cells, overflow)


def _some(showers: Showers, share: float, rng: np.random.Generator) -> np.ndarray:
    """A share of the showers, drawn at random, in random order."""
    return rng.permutation(len(showers))[: round(share * len(showers))]


def shuffle_layer(showers: Showers, strength: float, rng: np.random.Generator) -> Showers:
    """The brightest layer of a share of the showers, passed round among them."""
    chosen = _some(showers, strength, rng)
    return _exchange(showers, chosen, np.roll(chosen, 1))


def shuffle_layer_alike(showers: Showers, strength: float, rng: np.random.Generator) -> Showers:
    """The brightest layer of a share of the showers, swapped between next incident energies.

    Of an odd number of showers one keeps its layer.
    """
    chosen = _some(showers, strength, rng)
    chosen = chosen[np.argsort(showers.incident_energy[chosen], kind="stable")]
    pairs = chosen[: len(chosen) // 2 * 2].reshape(-1, 2)
    return _exchange(showers, pairs.ravel(), pairs[:, ::-1].ravel())


# ---- widths -----------------------------------------------------------------------------------


def narrow(showers: Showers, strength: float, rng: np.random.Generator) -> Showers:
    """Energy moved, within each layer of each shower, from far cells to near ones.

    Cells are weighted by exp(-a d), d their distance from the shower axis: in r from the axis of
    the calorimeter, on a Cartesian grid in eta and in phi from the energy's centre in the layer.
    The layer's energy is then restored. The a of a layer are those with which the mean width of
    these showers, `width_r` or `width_eta` and `width_phi`, falls by `strength`.

    Raises:
        DataError: a layer whose width does not fall so far.
    """
    cells = showers.cells.astype(np.float64)
    for layer, part in zip(showers.calorimeter.layers, showers.calorimeter.slices, strict=True):
        axes = (layer.r,) if layer.view == "cylindrical" else (layer.eta, layer.phi)
        cells[:, part] = _narrowed(cells[:, part], np.stack(axes), layer, strength)
    return _changed(showers, cells, showers.overflow)


def _narrowed(cells: np.ndarray, axes: np.ndarray, layer: Layer, strength: float) -> np.ndarray:
    """Cells (N, cells) of a layer with smaller widths along the axes (A, cells)."""
    centres, widths = _moments(cells, axes)
    wide = widths.any(axis=1)
    if not wide.any():
        return cells
    axes, centres, widths = axes[wide], centres[wide], widths[wide]
    origin = np.zeros_like(centres) if layer.view == "cylindrical" else centres
    unit = [own[own > 0].mean() for own in widths]
    distances = np.abs(axes[:, None] - origin[..., None]) / np.reshape(unit, (-1, 1, 1))
    energy = cells.sum(axis=1, keepdims=True)

    def moved(a: np.ndarray) -> np.ndarray:
        exponent = np.where(cells > 0, np.tensordot(-a, distances, 1), -np.inf)
        nearest = exponent.max(axis=1, keepdims=True)  # whose weight is 1
        weighted = cells * np.exp(exponent - np.where(energy > 0, nearest, 0))
        total = weighted.sum(axis=1, keepdims=True)
        return weighted * np.divide(energy, total, out=np.zeros_like(total), where=total > 0)

    def missing(a: np.ndarray) -> np.ndarray:
        after = _moments(moved(a), axes)[1]
        return after.mean(axis=1) / widths.mean(axis=1) - (1 - strength)

    found = root(missing, np.full(len(axes), strength), tol=1e-6)
    if not found.success:
        raise DataError(
            f"layer {layer.id}: no widths found that are {strength:.1%} smaller ({found.message})"
        )
    return moved(found.x)


def _moments(cells: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres and widths (A, N) of cells (N, cells) along the axes (A, cells)."""
    energy = cells.sum(axis=1)
    share = np.divide(1, energy, out=np.zeros_like(energy), where=energy > 0)
    centres, squares = (axes**k @ cells.T * share for k in (1, 2))
    variances = squares - centres**2
    return centres, np.sqrt(np.where(variances > ROUNDING * squares, variances, 0))


# ---- modes ------------------------------------------------------------------------------------


def lateness(showers: Showers) -> np.ndarray:
    """How late each shower deposits its energy among those of like incident energy, (N,).

    The mean layer, weighted with energy, less its course with the logarithm of the incident
    energy (a parabola); then less its mean and over its standard deviation among about `ALIKE`
    showers of next incident energies.
    """
    layers = showers.layer_energies()
    total = np.maximum(layers.sum(axis=1), np.finfo(float).tiny)
    depth = layers @ np.arange(layers.shape[1]) / total
    energy = np.log(np.asarray(showers.incident_energy, dtype=np.float64))
    degree = min(2, len(np.unique(energy)) - 1)
    depth -= np.polynomial.Polynomial.fit(energy, depth, degree)(energy)
    order = np.argsort(energy, kind="stable")
    for rows in np.array_split(order, max(1, len(order) // ALIKE)):
        depth[rows] -= depth[rows].mean()
        depth[rows] /= depth[rows].std() or 1
    return depth


def drop_mode(showers: Showers, strength: float, rng: np.random.Generator) -> Showers:
    """The latest share of the showers, each replaced by another of like incident energy.

    The other is drawn from the `NEAREST` next in incident energy that stay, and scaled by the
    ratio of the two incident energies; those stay as they are.
    """
    lost, stay = np.split(
        np.argsort(-lateness(showers), kind="stable"), [round(strength * len(showers))]
    )
    if not len(lost) or not len(stay):
        return showers
    stay = stay[np.argsort(showers.incident_energy[stay], kind="stable")]
    energy = np.asarray(showers.incident_energy, dtype=np.float64)
    window = min(NEAREST, len(stay))
    first = np.searchsorted(energy[stay], energy[lost]) - window // 2
    first = np.clip(first, 0, len(stay) - window)
    other = stay[first + rng.integers(0, window, len(lost))]
    ratio = (energy[lost] / energy[other])[:, None]
    changed = {}
    for name in ("cells", "overflow"):
        values = getattr(showers, name)
        if values is not None:
            values = values.copy()
            values[lost] = values[other] * ratio
        changed[name] = values
    return _changed(showers, **changed)


# ---- cells ------------------------------------------------------------------------------------


def permute_cells(showers: Showers, strength: float, rng: np.random.Generator) -> Showers:
    """A share of each layer's cells, other ones in each shower, passed round among themselves."""
    cells = showers.cells.copy()
    for part in showers.calorimeter.slices:
        layer = cells[:, part]
        keys = rng.random(layer.shape)
        chosen = (keys < strength).sum(axis=1, keepdims=True)
        order = keys.argsort(axis=1)  # the chosen cells first
        place = np.arange(layer.shape[1])
        source = np.where(place < chosen, (place - 1) % np.maximum(chosen, 1), place)
        moved = np.take_along_axis(layer, np.take_along_axis(order, source, axis=1), axis=1)
        np.put_along_axis(layer, order, moved, axis=1)
    return _changed(showers, cells, showers.overflow)


DEFECTS: dict[str, Defect] = {
    "energy_scale": Defect(
        "energy scale off",
        "%",
        2.0,
        scale_energy,
    ),
    "widths_narrower": Defect(
        "widths narrower",
        "%",
        5.0,
        narrow,
    ),
    "layer_shuffled": Defect(
        "a layer shuffled",
        "% of the showers",
        100.0,
        shuffle_layer,
    ),
    "layer_shuffled_alike": Defect(
        "a layer shuffled at like energies",
        "% of the showers",
        100.0,
        shuffle_layer_alike,
    ),
    "mode_dropped": Defect(
        "a mode dropped",
        "% of the showers",
        10.0,
        drop_mode,
    ),
    "cells_permuted": Defect(
        "cells permuted",
        "% of a layer's cells",
        1.0,
        permute_cells,
    ),
}
"""Defect name -> defect."""
