"""How showers spread: response, depth and width against incident energy, with uncertainties.

Pure functions of ``Showers``; they work on any calorimeter and any law of incident energies, one
single energy included. Uncertainties of what is fitted to mean showers come from a jackknife over
ten groups of showers, since the layers of one shower are not independent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import curve_fit, nnls
from scipy.special import gammainc

from calostudy.calorimeter import Calorimeter, Layer
from calostudy.energies import GEV, energy_groups
from calostudy.metrics.materials import (
    STACKS,
    depths,
    electromagnetic,
    layer_weights,
    periods,
    radiation_lengths,
    thickness,
)
from calostudy.showers import Showers

PIECES = 40  # at most, along each axis of a cell, over which its energy counts as spread evenly
NO_PEAK = 0.4  # a response that spreads more has no resolution to be fitted
JACKKNIFE = 10
SHAPE_LAYERS = 6  # fewer layers do not tell both parameters of a gamma distribution
FIXED_B = 0.5  # then this one, which the Review of Particle Physics gives for electrons


@dataclass(frozen=True)
class Curve:
    """A quantity against incident energy: all (groups,), energy in GeV, ``error`` statistical."""

    energy: np.ndarray
    value: np.ndarray
    error: np.ndarray
    showers: np.ndarray


@dataclass(frozen=True)
class Fit:
    """Parameters by name with their errors, and chi2 over ``ndf`` degrees of freedom."""

    values: dict[str, float]
    errors: dict[str, float]
    chi2: float
    ndf: int


def by_energy(
    showers: Showers, statistic: Callable[[np.ndarray], tuple[float, float]], bins: int = 8
) -> Curve:
    """``statistic`` of the indices of each group of like incident energy: value and error."""
    groups = energy_groups(showers.incident_energy, bins)
    found = np.array([statistic(group) for group in groups], dtype=np.float64)
    energy = [np.exp(np.log(showers.incident_energy[g] / GEV).mean()) for g in groups]
    return Curve(np.array(energy), found[:, 0], found[:, 1], np.array([len(g) for g in groups]))


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean and its error; the error is 0 for a single value."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()), float(error)


def response(showers: Showers) -> np.ndarray:
    """Energy in the cells over the incident energy, (N,)."""
    return showers.total_energy() / showers.incident_energy


def weighted_response(showers: Showers) -> np.ndarray:
    """Response with every layer by its weight (`materials.layer_weights`), (N,)."""
    return showers.layer_energies() @ layer_weights(showers.calorimeter) / showers.incident_energy


def linearity(showers: Showers) -> Curve:
    """Mean of the weighted response against incident energy."""
    values = weighted_response(showers)
    return by_energy(showers, lambda group: mean_and_error(values[group]))


def resolution(showers: Showers) -> Curve:
    """RMS over mean of the weighted response against incident energy."""
    values = weighted_response(showers)

    def spread(group: np.ndarray) -> tuple[float, float]:
        own, n = values[group], len(group)
        if n < 3 or own.mean() <= 0 or own.std() == 0:
            return 0.0, 0.0
        relative = own.std(ddof=1) / own.mean()
        fourth = np.mean(((own - own.mean()) / own.std()) ** 4)  # 3 for a normal distribution
        return relative, relative * np.sqrt(max(fourth - 1, 2.0) / (4 * (n - 1)))

    return by_energy(showers, spread)


def resolution_fit(curve: Curve) -> Fit | None:
    """a / sqrt(E/GeV) (+) b, added in quadrature.

    The square of the resolution is linear in a^2 and b^2, so the fit is a non-negative linear one;
    it is repeated with the errors scaled to the fitted values, since small ones fluctuate less. A
    term that comes out as 0 has as error the largest value within one standard deviation. None for
    fewer than three energies, or where the response has no peak (pions that may pass unseen).
    """
    use = (curve.value > 0) & (curve.error > 0)
    if use.sum() < 3 or np.median(curve.value[use]) > NO_PEAK:
        return None
    energy, square = curve.energy[use], curve.value[use] ** 2
    relative = curve.error[use] / curve.value[use]
    expected = square
    for _ in range(4):
        weight = 1 / (2 * expected * relative)
        design = np.stack([1 / energy, np.ones_like(energy)], axis=1) * weight[:, None]
        terms, distance = nnls(design, square * weight)
        expected = np.maximum(terms[0] / energy + terms[1], 1e-3 * square)
    spread = np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    roots = np.sqrt(terms)
    errors = np.where(terms > spread / 4, spread / (2 * np.maximum(roots, 1e-12)), np.sqrt(spread))
    names = ("a", "b")
    return Fit(
        dict(zip(names, map(float, roots), strict=True)),
        dict(zip(names, map(float, errors), strict=True)),
        float(distance**2),
        int(use.sum()) - 2,
    )


def slope(curve: Curve) -> Fit | None:
    """Line through a curve in ln E: value = offset + slope ln(E/GeV); None for one energy."""
    use = curve.error > 0
    x, y, error = np.log(curve.energy[use]), curve.value[use], curve.error[use]
    if len(x) < 2 or np.ptp(x) < 1e-6:
        return None
    design = np.stack([x, np.ones_like(x)], axis=1) / error[:, None]
    covariance = np.linalg.inv(design.T @ design)
    (growth, offset) = covariance @ design.T @ (y / error)
    residual = (y - offset - growth * x) / error
    errors = np.sqrt(np.diag(covariance))
    return Fit(
        {"slope": float(growth), "offset": float(offset)},
        {"slope": float(errors[0]), "offset": float(errors[1])},
        float(residual @ residual),
        len(x) - 2,
    )


def occupied(showers: Showers, threshold: float) -> np.ndarray:
    """Number of cells of each layer at or above the threshold (MeV), (N, layers)."""
    above = showers.cells >= max(threshold, np.nextafter(0.0, 1.0, dtype=np.float32))
    slices = showers.calorimeter.slices
    return np.stack([np.count_nonzero(above[:, s], axis=1) for s in slices], axis=1)


# ---- along the shower ---------------------------------------------------------------------------


def layer_depths(calorimeter: Calorimeter) -> tuple[np.ndarray, str]:
    """The middle of each layer and the name of its unit: X0, else mm, else the layer's number."""
    if any(layer.depth is None for layer in calorimeter.layers):
        return np.arange(len(calorimeter.layers), dtype=float), "layer"
    if calorimeter.name in STACKS:
        return depths(calorimeter).mean(axis=1), "$X_0$"
    return np.array([np.mean(layer.depth) for layer in calorimeter.layers]), "mm"


def shower_shape(calorimeter: Calorimeter) -> Callable[[np.ndarray, float, float], np.ndarray]:
    """Shares of the electromagnetic layers' energy for a gamma distribution in depth.

    dE/dt ~ (b t)^(a - 1) exp(-b t), t in X0 (Review of Particle Physics). Cells with every deposit
    hold its integral over the layer; cells of sensors the density at the planes of the sensors.
    """
    places, bounds = electromagnetic(calorimeter), depths(calorimeter)
    if STACKS[calorimeter.name].every_deposit:
        low, high = bounds[places].T

        def shares(_, a, b):
            energy = gammainc(a, b * high) - gammainc(a, b * low)
            return energy / energy.sum()

        return shares
    planes, owner = [], []
    for number, position in enumerate(places):
        layer, plates = calorimeter.layers[position], periods(calorimeter)[position]
        count = max(1, round((layer.depth[1] - layer.depth[0]) / thickness(plates)))
        sensor = 0.5 * radiation_lengths(plates[-1:])
        step = (bounds[position, 1] - bounds[position, 0]) / count
        planes.append(bounds[position, 0] + step * np.arange(1, count + 1) - sensor)
        owner.append(np.full(count, number))
    depth, layer_of = np.concatenate(planes), np.concatenate(owner)

    def shares(_, a, b):
        density = np.exp((a - 1) * np.log(depth / depth.mean()) - b * (depth - depth.mean()))
        energy = np.bincount(layer_of, density)
        return energy / energy.sum()

    return shares


def maximum_of(calorimeter: Calorimeter) -> Callable[[np.ndarray], float]:
    """A function: mean energies of the layers (layers,) -> depth in X0 of the shower maximum.

    It fits `shower_shape`; calorimeters of few layers leave b = 0.5 as it is. NaN where there is
    no fit.
    """
    places, model = electromagnetic(calorimeter), shower_shape(calorimeter)
    free = len(places) >= SHAPE_LAYERS
    function = model if free else (lambda x, a: model(x, a, FIXED_B))
    start = (4.0, FIXED_B) if free else (4.0,)
    bounds = ([1.01, 0.1], [60.0, 3.0]) if free else ([1.01], [60.0])

    def maximum(profile: np.ndarray) -> float:
        shares = profile[places] / max(profile[places].sum(), 1e-30)
        sigma = np.sqrt(np.maximum(shares, 1e-4))
        try:
            found, _ = curve_fit(function, places, shares, start, sigma=sigma, bounds=bounds)
        except (RuntimeError, ValueError):
            return float("nan")
        a, b = (*found, FIXED_B)[:2]
        return float((a - 1) / b)

    return maximum


def jackknife(values: np.ndarray, statistic: Callable) -> tuple[float, float]:
    """``statistic`` of the mean over rows, and its error from leaving out groups of rows."""
    groups = np.array_split(np.arange(len(values)), min(JACKKNIFE, len(values)))
    value = statistic(values.mean(axis=0))
    if len(groups) < 2:
        return value, float("nan")
    left = np.array([statistic(np.delete(values, group, axis=0).mean(axis=0)) for group in groups])
    spread = (len(groups) - 1) / len(groups) * np.sum((left - left.mean()) ** 2)
    return value, float(np.sqrt(spread))


def shower_maximum(showers: Showers) -> Curve:
    """Depth of the maximum of the mean profile in X0 against incident energy.

    Only for calorimeters whose stack is known; energies without a fit are left out.
    """
    fractions = showers.layer_energies() / showers.incident_energy[:, None]
    maximum = maximum_of(showers.calorimeter)
    curve = by_energy(showers, lambda group: jackknife(fractions[group], maximum))
    use = np.isfinite(curve.value) & np.isfinite(curve.error) & (curve.error > 0)
    return Curve(curve.energy[use], curve.value[use], curve.error[use], curve.showers[use])


# ---- across the shower --------------------------------------------------------------------------


def _points(layer: Layer, centre: tuple[float, float], step: float) -> np.ndarray:
    """Distances from the axis in mm of points half a step apart in every cell, (cells, points)."""
    slow, fast = layer.edges
    if layer.view == "cylindrical":
        square = fast[:-1, None] ** 2 + np.diff(fast**2)[:, None] * _shares(np.diff(fast), step)
        return np.tile(np.sqrt(square), (len(slow) - 1, 1))
    x, y = (
        edges[:-1, None] + np.diff(edges)[:, None] * _shares(np.diff(edges), step) - middle
        for edges, middle in zip(layer.edges, centre, strict=True)
    )
    return np.hypot(x[:, None, :, None], y[None, :, None, :]).reshape(layer.cells, -1)


def _shares(widths: np.ndarray, step: float) -> np.ndarray:
    pieces = int(np.clip(np.ceil(2 * widths.max() / step), 4, PIECES))
    return (np.arange(pieces) + 0.5) / pieces


def axis_of(showers: Showers) -> tuple[float, float]:
    """Where the showers' axis crosses the layers, (eta, phi) in mm: their mean centre of energy.

    It is 0 where that is within a quarter of the smallest cell of it.
    """
    calorimeter = showers.calorimeter
    energy = showers.cells.sum(axis=0, dtype=np.float64)
    energy /= max(energy.sum(), 1e-30)
    centre = float(calorimeter.eta @ energy), float(calorimeter.phi @ energy)
    near = 0.25 * np.sqrt(calorimeter.size.min())
    return (0.0, 0.0) if max(map(abs, centre)) < near else centre


@dataclass(frozen=True)
class Lateral:
    """Share of the energy against the distance from the axis.

    radius: (rings + 1,) edges in mm; share: (groups, rings + 1) of the energy inside each of them,
    for groups of showers (for the uncertainty); pitch: how far apart the cells let one see, mm.
    """

    radius: np.ndarray
    share: np.ndarray
    pitch: float

    def contained(self, share: float) -> tuple[float, float]:
        """Radius in mm of the cylinder with this share of the energy in the cells, and its error.

        Between two edges the energy outside falls off exponentially.
        """

        def radius(mean: np.ndarray) -> float:
            outside = -np.log(np.maximum(1 - mean, 1e-9))
            return float(np.interp(-np.log(1 - share), outside, self.radius))

        return jackknife(self.share, radius)

    def density(self) -> tuple[np.ndarray, np.ndarray]:
        """Share of the energy per mm^2 in each ring, and its error, (rings,)."""
        rings = np.diff(self.share, axis=1) / (np.pi * np.diff(self.radius**2))
        groups = max(len(rings) - 1, 1)
        return rings.mean(axis=0), rings.std(axis=0) / np.sqrt(groups)


def lateral(showers: Showers) -> Lateral:
    """Share of the energy in the cells against the distance from the showers' axis.

    The energy of a cell counts as spread evenly over it: nothing finer than a cell is seen, and
    ``pitch`` says how fine that is where the energy is.
    """
    calorimeter = showers.calorimeter
    centre = axis_of(showers)
    total = np.maximum(showers.total_energy(), 1e-30)
    groups = np.array_split(np.arange(len(showers)), min(2 * JACKKNIFE, len(showers)))
    means = np.stack([(1 / total[g] / len(g)) @ showers.cells[g] for g in groups])
    mean = means.mean(axis=0)
    near = np.exp(-calorimeter.r / max(float(calorimeter.r @ mean), 1e-6)) * mean
    pitch = float(_widths(calorimeter) @ near / max(near.sum(), 1e-30))
    radius = _rings(calorimeter, mean, pitch / 3)
    share = np.zeros((len(groups), len(radius)))
    for layer, place in zip(calorimeter.layers, calorimeter.slices, strict=True):
        points = np.sort(_points(layer, centre, radius[1]), axis=1)
        inside = [np.searchsorted(row, radius, side="right") for row in points]
        share += means[:, place] @ (np.array(inside) / points.shape[1])
    return Lateral(radius, share, pitch)


def _rings(calorimeter: Calorimeter, mean: np.ndarray, step: float) -> np.ndarray:
    """Radii from 0 to around 99.8 % of the energy, ``step`` apart, later a tenth of themselves."""
    layers = calorimeter.layers
    if len({layer.edges[1].tobytes() for layer in layers}) == 1 and layers[0].view == "cylindrical":
        return layers[0].edges[1]  # nothing finer is known
    order = np.argsort(calorimeter.r)
    inside = np.cumsum(mean[order])
    found = np.searchsorted(inside, 0.998 * inside[-1])
    reach = float(calorimeter.r[order][min(found, len(order) - 1)]) + step
    radii = [0.0, step]
    while radii[-1] < reach:
        radii.append(radii[-1] + max(step, 0.1 * radii[-1]))
    return np.array(radii)


def _widths(calorimeter: Calorimeter) -> np.ndarray:
    """How far apart the cells let one see the distance from the axis, (cells,) mm."""
    widths = []
    for layer in calorimeter.layers:
        slow, fast = (np.diff(edges) for edges in layer.edges)
        if layer.view == "cartesian":
            widths.append(np.maximum.outer(slow, fast).ravel())
        else:
            widths.append(np.tile(fast, len(slow)))
    return np.concatenate(widths)


def central_share(showers: Showers) -> tuple[float, float, float, int]:
    """Share of a layer's energy in the cells around its centre, for cells too coarse for more.

    Of the layer with most energy, of cartesian cells. Returns the share, its error, the radius in
    mm of a circle as large as those cells, and the position of the layer.
    """
    position = int(showers.layer_energies().sum(axis=0).argmax())
    layer, cells = showers.calorimeter.layers[position], showers.layer(position)
    middle = [slice((n - 1) // 2, n // 2 + 1) for n in layer.shape]
    inner = cells[:, middle[0], middle[1]].sum(axis=(1, 2), dtype=np.float64)
    total = cells.sum(axis=(1, 2), dtype=np.float64)
    area = layer.size.reshape(layer.shape)[middle[0], middle[1]].sum()
    value, error = mean_and_error((inner / np.maximum(total, 1e-30))[total > 0])
    return value, error, float(np.sqrt(area / np.pi)), position
