"""Figures of an evaluation: what the physics metrics compare, sample beside sample.

The first sample is the reference. They take `Sample`s, so that they can be drawn from files that do
not fit into memory. Bars are standard deviations over bootstrap replicas of the showers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calostudy.calorimeter import Calorimeter
from calostudy.energies import GEV
from calostudy.metrics import groups, response, shapes, spectra, texture
from calostudy.metrics.distances import correlations
from calostudy.metrics.histograms import bootstrap_weights
from calostudy.metrics.measurement import Options
from calostudy.metrics.ranges import LEAST, EnergyRange
from calostudy.metrics.replicas import quantile_bins
from calostudy.metrics.rings import Profiles
from calostudy.metrics.sample import Sample
from calostudy.plots.comparison import ratio_grid, ratio_panel
from calostudy.plots.style import (
    COLOURS,
    GEANT4,
    INK,
    bins_for,
    energy_axis,
    log_axis,
    log_edges,
)

REPLICAS = 40
LINES = (INK, *COLOURS)

Samples = Mapping[str, Sample]


def _weights(sample: Sample | Profiles) -> np.ndarray:
    return bootstrap_weights(len(sample), REPLICAS, np.random.default_rng(0))


def _spread(replicas: np.ndarray) -> np.ndarray:
    return np.std(replicas[1:], axis=0, ddof=1)


def _layer_ticks(axis, calorimeter: Calorimeter, first: float = 0.0) -> None:
    """The public numbers of at most ten layers, the first of which is at ``first``."""
    count = len(calorimeter.layers)
    shown = range(0, count, -(-count // 10))
    axis.set_ticks([first + i for i in shown], [calorimeter.layer_ids[i] for i in shown])


def _two_panels(figure: Figure, place, reference: str):
    """An upper panel and one for ratios to the reference, which share their x axis."""
    grid = place.subgridspec(2, 1, height_ratios=(3, 1.2), hspace=0.04)
    upper = figure.add_subplot(grid[0])
    lower = figure.add_subplot(grid[1], sharex=upper)
    upper.tick_params(labelbottom=False)
    lower.axhline(1, color=INK, lw=0.8)
    lower.set_ylabel(f"/ {reference}")
    return upper, lower


def _binned(
    figure: Figure,
    place,
    curves: Mapping[str, np.ndarray],
    edges: np.ndarray,
    xlabel: str,
    ylabel: str,
    log: str = "",
    legend: bool = False,
) -> Axes:
    """Numbers per bin, (1 + R, bins) for each sample, with their ratio to the first.

    Returns the panel of ratios.
    """
    (first, truth), *others = curves.items()
    upper, lower = _two_panels(figure, place, first)
    middle = np.sqrt(edges[1:] * edges[:-1]) if "x" in log else 0.5 * (edges[1:] + edges[:-1])
    upper.stairs(truth[0], edges, fill=True, color=GEANT4, alpha=0.55, label=first)
    upper.stairs(truth[0], edges, color=INK)
    filled = truth[0] > 0
    relative = np.divide(_spread(truth), truth[0], out=np.zeros_like(middle), where=filled)
    lower.stairs(1 + relative, edges, baseline=1 - relative, fill=True, color=GEANT4, alpha=0.35)
    for colour, (name, each) in zip(COLOURS, others, strict=False):
        upper.stairs(each[0], edges, color=colour, lw=1.6, baseline=None, label=name)
        ratio = np.divide(each[0], truth[0], out=np.full_like(middle, np.nan), where=filled)
        error = np.divide(_spread(each), truth[0], out=np.zeros_like(middle), where=filled)
        lower.errorbar(middle, ratio, error, fmt="o", ms=2.5, lw=1, color=colour)
    lower.set(ylim=(0.5, 1.5), xlabel=xlabel, xlim=(edges[0], edges[-1]))
    upper.set_ylabel(ylabel)
    if "x" in log:
        upper.set_xscale("log")
        log_axis(lower.xaxis)
        upper.tick_params(labelbottom=False)
    if "y" in log and filled.any():
        upper.set_yscale("log", nonpositive="clip")
        upper.set_ylim(0.5 * truth[0][filled].min(), 2 * truth[0].max())
        log_axis(upper.yaxis)
    if legend:
        upper.legend(fontsize="small")
    return lower


def pearson_matrices(samples: Samples) -> Figure:
    """Pearson coefficients of the layer energies of each sample, and the differences."""
    matrices = {name: correlations(each.layer_energies) for name, each in samples.items()}
    (first, truth), *others = matrices.items()
    figure, axes = plt.subplots(
        max(len(others), 1), 3 if others else 1, squeeze=False, layout="constrained",
        figsize=(12.5 if others else 4.6, 3.9 * max(len(others), 1)),
    )  # fmt: skip
    largest = max((np.abs(each - truth).max() for _, each in others), default=0.0)
    for row in range(len(axes)):
        panels = [(first, truth, "viridis", {"vmin": min(0.0, truth.min()), "vmax": 1})]
        if others:
            name, each = others[row]
            panels.append((name, each, *panels[0][2:]))
            limits = {"vmin": -largest, "vmax": largest}
            panels.append((f"{name} − {first}", each - truth, "vlag", limits))
        for axis, (title, matrix, colours, limits) in zip(axes[row], panels, strict=True):
            sns.heatmap(matrix, ax=axis, cmap=colours, square=True, **limits)
            for side in (axis.xaxis, axis.yaxis):
                _layer_ticks(side, samples[first].entry.calorimeter, 0.5)
            axis.tick_params(labelrotation=0)
            axis.set(title=title, xlabel="layer", ylabel="layer")
    return figure


def group_energies(samples: Samples, own: EnergyRange | None = None) -> Figure:
    """Energies in groups of five layers, for all incident energies or those of one range."""
    chosen = {
        name: each if own is None else each[own.holds(each.incident_energy)]
        for name, each in samples.items()
    }
    energies = {
        name: groups.group_energies(each.observables, each.entry.calorimeter)
        for name, each in chosen.items()
    }
    truth = next(iter(energies.values()))
    panels = []
    for name, values in truth.items():
        edges = log_edges(values, bins_for(len(values), 40), quantile=0.005)
        wide = edges[-1] > 5 * edges[0]
        edges = edges if wide else np.linspace(edges[0], edges[-1], len(edges))
        panel = {sample: each[name] for sample, each in energies.items()}
        panels.append((panel, edges, f"energy in {name} [MeV]", "xy" if wide else "y"))
    return ratio_grid(panels, title=own.label if own else "")


def response_curves(samples: Samples) -> Figure:
    """Mean and RMS of E_tot/E_inc without outliers against incident energy, and their ratios."""
    (first, ruler), *_ = samples.items()
    ranges, _ = response.response_ranges(*samples.values())
    rows = [own.holds(ruler.incident_energy) for own in ranges]
    energy = [np.exp(np.log(ruler.incident_energy[each] / GEV).mean()) for each in rows]
    options = Options(replicas=REPLICAS)
    curves = {
        name: response.response_curve(each, ranges, options) for name, each in samples.items()
    }
    figure = plt.figure(figsize=(9.6, 4.4), layout="constrained")
    grid = figure.add_gridspec(1, 2)
    for number, words in enumerate(("mean", "RMS")):
        upper, lower = _two_panels(figure, grid[number], first)
        truth = curves[first][number, 0]
        for colour, (name, curve) in zip(LINES, curves.items(), strict=False):
            value, error = curve[number, 0], _spread(curve[number])
            style = {"fmt": "o", "ms": 4, "capsize": 2, "color": colour}
            upper.errorbar(energy, value, error, label=name, **style)
            lower.errorbar(energy, value / truth, error / truth, **style)
        upper.set_ylabel(f"{words} of $E_{{tot}}/E_{{inc}}$")
        energy_axis(lower, energy)
        upper.tick_params(labelbottom=False)
        upper.legend(fontsize="small")
    return figure


def cell_spectra(samples: Samples, by_depth: bool = False) -> Figure:
    """Cells per shower against their energy, over six decades; also in groups of layers."""
    ruler = next(iter(samples.values()))
    edges = spectra.spectrum_edges(float(ruler.largest.max()), ruler.entry.threshold)
    found = {
        name: spectra.spectra(each, edges, weights := _weights(each))
        / weights.sum(axis=0)[:, None, None]
        for name, each in samples.items()
    }
    panels = {"all layers": {name: each.sum(axis=1) for name, each in found.items()}}
    if by_depth:
        for number, words in enumerate(groups.layer_groups(ruler.entry.calorimeter)):
            panels[words] = {name: each[:, number] for name, each in found.items()}
    return _page(
        [
            (panel, edges, f"cell energy, {words} [MeV]", "cells per shower", "xy")
            for words, panel in panels.items()
        ]
    )


def _page(panels: Sequence[tuple], columns: int = 3) -> Figure:
    columns = 2 if len(panels) == 4 else min(columns, len(panels))
    rows = -(-len(panels) // columns)
    width = 6.4 if columns == 1 else 4.1 * columns
    figure = plt.figure(figsize=(width, 3.7 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    for number, panel in enumerate(panels):
        _binned(figure, grid[number], *panel, legend=number == 0)
    return figure


SHAPES: dict[str, str] = {"mean": "mean", "width": "width", "distance": "distance"}
AXES = {"eta": "$\\eta$", "phi": "$\\varphi$"}


def shape_grid(samples: Samples, kind: str = "width", most: int = 4) -> Figure:
    """Histograms of a kind of `SHAPES` for all layers, or ``most`` of a deep calorimeter.

    A distance is the difference between the means of neighbouring layers.
    """
    calorimeter = next(iter(samples.values())).entry.calorimeter
    found = {
        name: {
            key: values
            for key, values in shapes.shapes(each.observables, calorimeter)
            if key.startswith(kind)
        }
        for name, each in samples.items()
    }
    truth = next(iter(found.values()))
    panels = []
    for axis, words in AXES.items():
        own = [
            key
            for key, values in truth.items()
            if key.startswith(f"{kind}_{axis}/") and np.isfinite(values).sum() >= LEAST
        ]
        chosen = np.unique(np.linspace(0, len(own) - 1, min(most, len(own))).astype(int))
        for key in (own[i] for i in chosen):
            panel = {name: each[key][np.isfinite(each[key])] for name, each in found.items()}
            outer = quantile_bins(truth[key]).edges[[0, -1]]
            edges = np.linspace(*outer, bins_for(np.isfinite(truth[key]).sum(), 40) + 1)
            layers = key.partition("/")[2]
            place = f"layer{'s' * ('-' in layers)} {layers}"
            panels.append((panel, edges, f"{SHAPES[kind]} in {words}, {place} [mm]", "y"))
    return ratio_grid(panels, columns=min(3, max(len(panels) // 2, 1)))


def morans_i(samples: Samples) -> Figure:
    """Moran's I of each layer, mean over the showers, and its difference from the reference."""
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(6.8, 4.4), sharex=True, height_ratios=(3, 1.4), layout="constrained"
    )
    found = {name: texture.mean_morans_i(each, _weights(each)) for name, each in samples.items()}
    (first, truth), *_ = found.items()
    places = np.arange(truth.shape[1])
    for colour, (name, each) in zip(LINES, found.items(), strict=False):
        style = {"fmt": "o", "ms": 3.5, "lw": 1, "color": colour}
        upper.errorbar(places, each[0], _spread(each), label=name, **style)
        lower.errorbar(places, each[0] - truth[0], _spread(each), **style)
    _layer_ticks(lower.xaxis, samples[first].entry.calorimeter)
    lower.set(xlabel="layer", ylabel=f"− {first}")
    upper.set_ylabel("mean of Moran's I")
    upper.legend(fontsize="small")
    return figure


def profiles_beside(
    profiles: Mapping[str, Profiles], calorimeter: Calorimeter, hits: str = "cells hit"
) -> Figure:
    """Number of hits, energy by layer and energy density around the axis, of any form of shower.

    ``hits`` says what is counted. The outermost ring holds all beyond, too.
    """
    ruler = next(iter(profiles.values()))
    figure = plt.figure(figsize=(13, 3.9), layout="constrained")
    grid = figure.add_gridspec(1, 3)
    counts = {name: each.hits for name, each in profiles.items()}
    low, high = np.quantile(ruler.hits, (0.002, 0.998))
    edges = np.linspace(low, max(high, low + 1), bins_for(len(ruler), 40) + 1)
    ratio_panel(figure, grid[0], counts, edges, hits, "", legend=True)
    rings = ruler.rings()
    layers, around = {}, {}
    for name, each in profiles.items():
        weights = _weights(each)
        showers = weights.sum(axis=0)[:, None]
        layers[name] = weights.T @ each.longitudinal / showers
        around[name] = weights.T @ each.in_rings(rings) / showers / (np.pi * np.diff(rings**2))
    places = np.arange(len(calorimeter.layers) + 1) - 0.5
    lower = _binned(figure, grid[1], layers, places, "layer", "MeV per shower")
    _layer_ticks(lower.xaxis, calorimeter)
    rings[0] = rings[1] / 3  # zero has no place on the axis
    words = "distance from the axis [mm]"
    _binned(figure, grid[2], around, rings, words, "MeV per mm² and shower", "xy")
    return figure
