"""Pictures of calorimeters and of showers in them: cells, single showers, average showers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from calostudy.calorimeter import Layer
from calostudy.plots.style import ENERGY_MAP, log_norm, some_layers
from calostudy.showers import Showers


def draw_cells(axis, layer: Layer, energies, norm, reach: float, cmap: str = ENERGY_MAP):
    """One layer as an image in the plane across the shower: ``energies`` has the layer's shape.

    ``reach``: how far from the axis a layer of rings is drawn, mm.
    """
    if layer.view == "cylindrical":
        alpha, r = layer.edges
        pieces = -(-60 // (len(alpha) - 1))  # that arcs look round
        bins = np.arange((len(alpha) - 1) * pieces + 1) / pieces
        alpha = np.interp(bins, np.arange(len(alpha)), alpha)
        energies = np.repeat(energies, pieces, axis=0)
        angle, radius = np.meshgrid(alpha, r, indexing="ij")
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach))
    else:
        x, y = np.meshgrid(*layer.edges, indexing="ij")
    mesh = axis.pcolormesh(x, y, energies, norm=norm, cmap=cmap, rasterized=True)
    axis.set(xlabel="$\\eta$ [mm]", ylabel="$\\varphi$ [mm]", aspect="equal")
    axis.grid(False)
    return mesh


def reach_of(layer: Layer, energies: np.ndarray, share: float = 0.999) -> float:
    """The r edge inside which most of a layer's energy is, mm; ``energies`` end in its shape."""
    edges = layer.edges[1]
    if layer.view != "cylindrical":
        return float(edges[-1])
    rings = energies.reshape(-1, *layer.shape).sum(axis=(0, 1), dtype=np.float64)
    inside = np.cumsum(rings) / max(rings.sum(), 1e-30)
    return float(edges[1 + min(np.searchsorted(inside, share), len(rings) - 1)])


def layer_images(
    samples: Mapping[str, Showers], layers: Sequence[int] | None = None, title: str = ""
) -> Figure:
    """Mean energy per cell (MeV), one row per sample and one column per layer position.

    ``layers`` are positions in the calorimeter; by default all, or six spread over a deep one.
    Rings are drawn as far as there is energy in them.
    """
    calorimeter = next(iter(samples.values())).calorimeter
    positions = some_layers(calorimeter) if layers is None else list(layers)
    means = {
        name: [showers.layer(i).mean(axis=0, dtype=np.float64) for i in positions]
        for name, showers in samples.items()
    }
    figure, axes = plt.subplots(
        len(samples),
        len(positions),
        figsize=(2.75 * len(positions) + 0.8, 2.9 * len(samples)),
        squeeze=False,
        layout="constrained",
    )
    for column, position in enumerate(positions):
        images = [rows[column] for rows in means.values()]
        norm = log_norm(np.concatenate([image.ravel() for image in images]))
        for row, (name, image) in enumerate(zip(means, images, strict=True)):
            layer = calorimeter.layers[position]
            reach = max(reach_of(layer, own) for own in images)
            mesh = draw_cells(axes[row, column], layer, _masked(image), norm, reach)
            axes[row, column].set_title(f"{name}, layer {layer.id}")
        figure.colorbar(mesh, ax=axes[:, column], location="bottom", label="MeV", aspect=30)
    if title:
        figure.suptitle(title)
    return figure


def _masked(image: np.ndarray) -> np.ma.MaskedArray:
    return np.ma.masked_less_equal(image, 0.0)


def event_displays(showers: Showers, events: Sequence[int], title: str = "") -> Figure:
    """Single showers: images of every layer, or cells in space for a calorimeter of many layers."""
    if len(showers.calorimeter.layers) > 7:
        return _displays_in_space(showers, events, title)
    calorimeter = showers.calorimeter
    figure, axes = plt.subplots(
        len(events),
        len(calorimeter.layers),
        figsize=(2.9 * len(calorimeter.layers), 2.75 * len(events)),
        squeeze=False,
        layout="constrained",
    )
    for row, event in enumerate(events):
        norm = log_norm(showers.cells[event])
        for column, layer in enumerate(calorimeter.layers):
            image = _masked(showers.layer(column)[event])
            reach = reach_of(layer, showers.layer(column))
            mesh = draw_cells(axes[row, column], layer, image, norm, reach)
            energy = showers.incident_energy[event] / 1e3
            axes[row, column].set_title(f"{energy:.1f} GeV, layer {layer.id}")
        figure.colorbar(mesh, ax=axes[row], label="MeV", pad=0.01)
    figure.suptitle(title)
    return figure


def gallery(samples: Mapping[str, Showers]) -> Figure:
    """The first shower of each sample, all on one scale of energies: a row of layers for each, or
    cells in space for a calorimeter of many layers."""
    first = next(iter(samples.values()))
    norm = log_norm(np.concatenate([showers.cells[0] for showers in samples.values()]))
    layers = first.calorimeter.layers
    if len(layers) > 7:
        rows = -(-len(samples) // 3)
        figure = plt.figure(figsize=(13, 3.9 * rows), layout="constrained")
        for place, (name, showers) in enumerate(samples.items(), 1):
            axis = figure.add_subplot(rows, 3, place, projection="3d")
            drawn = cells_in_space(axis, showers, 0, norm)
            axis.set_title(f"{name}: {np.count_nonzero(showers.cells[0]):,} cells hit")
        figure.colorbar(drawn, ax=figure.axes, label="MeV", shrink=0.4, pad=0.03)
    else:
        size = (2.5 * len(layers) + 0.8, 2.4 * len(samples))
        figure, axes = plt.subplots(
            len(samples), len(layers), figsize=size, squeeze=False, layout="constrained"
        )
        reach = [reach_of(layer, first.layer(column)) for column, layer in enumerate(layers)]
        for row, (name, showers) in zip(axes, samples.items(), strict=True):
            for column, (axis, layer) in enumerate(zip(row, layers, strict=True)):
                image = _masked(showers.layer(column)[0])
                mesh = draw_cells(axis, layer, image, norm, reach[column])
                axis.set_title(f"{name}, layer {layer.id}", fontsize="small")
        figure.colorbar(mesh, ax=axes, label="MeV", pad=0.01, shrink=0.6)
    figure.suptitle(f"{first.incident_energy[0] / 1e3:.1f} GeV")
    return figure


def _displays_in_space(showers: Showers, events: Sequence[int], title: str) -> Figure:
    figure = plt.figure(figsize=(4.6 * len(events), 4.4), layout="constrained")
    for place, event in enumerate(events):
        axis = figure.add_subplot(1, len(events), place + 1, projection="3d")
        drawn = cells_in_space(axis, showers, event, log_norm(showers.cells[event], 5))
        hit = np.count_nonzero(showers.cells[event])
        axis.set_title(f"{showers.incident_energy[event] / 1e3:.1f} GeV, {hit} cells hit")
        figure.colorbar(drawn, ax=axis, label="MeV", shrink=0.55, pad=0.08)
    figure.suptitle(title)
    return figure


def cells_in_space(axis, showers: Showers, event: int, norm):
    """The cells of one shower as points in space, larger with more energy."""
    calorimeter, cells = showers.calorimeter, showers.cells[event]
    middle = np.array([np.mean(layer.depth) for layer in calorimeter.layers])
    hit = np.flatnonzero(cells)
    hit = hit[np.argsort(cells[hit])]
    drawn = axis.scatter(
        middle[calorimeter.layer_index[hit]],
        calorimeter.eta[hit],
        calorimeter.phi[hit],
        c=cells[hit],
        s=3 + 40 * np.sqrt(cells[hit] / max(cells.max(), 1e-30)),
        norm=norm,
        cmap=ENERGY_MAP + "_r",
        alpha=0.75,
        linewidth=0,
    )
    axis.set(xlabel="depth [mm]", ylabel="$\\eta$ [mm]", zlabel="$\\varphi$ [mm]")
    axis.set_box_aspect((2, 1, 1))
    return drawn
