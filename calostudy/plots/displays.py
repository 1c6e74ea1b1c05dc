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


def _displays_in_space(showers: Showers, events: Sequence[int], title: str) -> Figure:
    calorimeter = showers.calorimeter
    figure = plt.figure(figsize=(4.6 * len(events), 4.4), layout="constrained")
    middle = np.array([np.mean(layer.depth) for layer in calorimeter.layers])
    for place, event in enumerate(events):
        axis = figure.add_subplot(1, len(events), place + 1, projection="3d")
        cells = showers.cells[event]
        hit = np.flatnonzero(cells)
        hit = hit[np.argsort(cells[hit])]
        drawn = axis.scatter(
            middle[calorimeter.layer_index[hit]],
            calorimeter.eta[hit],
            calorimeter.phi[hit],
            c=cells[hit],
            s=3 + 40 * np.sqrt(cells[hit] / cells.max()),
            norm=log_norm(cells, 5),
            cmap=ENERGY_MAP + "_r",
            alpha=0.75,
            linewidth=0,
        )
        axis.set(xlabel="depth [mm]", ylabel="$\\eta$ [mm]", zlabel="$\\varphi$ [mm]")
        axis.set_title(f"{showers.incident_energy[event] / 1e3:.1f} GeV, {len(hit)} cells hit")
        axis.set_box_aspect((2, 1, 1))
        figure.colorbar(drawn, ax=axis, label="MeV", shrink=0.55, pad=0.08)
    figure.suptitle(title)
    return figure
