"""Drawings of calorimeters: borders of their cells from the front and in space."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d.art3d import Line3DCollection, Poly3DCollection

from calostudy.calorimeter import Calorimeter, Layer


def front_view(calorimeter: Calorimeter, columns: int = 4) -> Figure:
    """The cell borders of each distinct layer, seen along the shower axis."""
    layers = _distinct(calorimeter)
    columns = min(columns, len(layers))
    rows = -(-len(layers) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(max(2.9 * columns, 4.2), 3.1 * rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(layers) :]:
        axis.remove()
    for axis, (layer, count) in zip(axes.flat, layers, strict=False):
        borders = _borders(layer)
        width = np.clip(25 / len(borders), 0.15, 0.5)
        axis.add_collection(LineCollection(borders, colors="#5c6770", linewidths=width))
        axis.autoscale_view()
        same = f" and {count - 1} like it" if count > 1 else ""
        axis.set_title(f"layer {layer.id}{same}: {layer.shape[0]} x {layer.shape[1]} cells")
        axis.set(xlabel="$\\eta$ [mm]", ylabel="$\\varphi$ [mm]", aspect="equal")
        axis.grid(False)
    return figure


def _borders(layer: Layer) -> list[np.ndarray]:
    """The borders of a layer's cells as lines of points (points, 2) in mm."""
    first, second = layer.edges
    if layer.view == "cartesian":
        lines = [np.array([(x, second[0]), (x, second[-1])]) for x in first]
        return lines + [np.array([(first[0], y), (first[-1], y)]) for y in second]
    circle = np.linspace(-np.pi, np.pi, 181)
    unit = np.stack([np.cos(circle), np.sin(circle)], axis=1)
    rings = [r * unit for r in second if r > 0]
    spokes = first[:-1] if len(first) > 2 else []
    directions = [np.array([np.cos(alpha), np.sin(alpha)]) for alpha in spokes]
    return rings + [np.stack([second[0] * d, second[-1] * d]) for d in directions]


def _distinct(calorimeter: Calorimeter) -> list[tuple[Layer, int]]:
    """Layers that differ in their binning, each with the number of layers that share it."""
    groups: dict[tuple, list[Layer]] = {}
    for layer in calorimeter.layers:
        groups.setdefault(_key(layer), []).append(layer)
    return [(group[0], len(group)) for group in groups.values()]


def in_space(calorimeter: Calorimeter, most: int = 24) -> Figure:
    """The layers in space along the shower axis, with at most ``most`` borders per axis on each.

    Cells are drawn on the front of layers that differ from the one before, else the rim alone.
    Layers much wider than the narrowest are cut at twice its size; gaps in depth are left open.
    """
    layers = calorimeter.layers
    known = all(layer.depth is not None for layer in layers)
    spans = [layer.depth if known else (i, i + 0.8) for i, layer in enumerate(layers)]
    reach = min(2 * min(map(_reach, layers)), max(map(_reach, layers)))
    figure = plt.figure(figsize=(7.4, 4.4), layout="constrained")
    axis = figure.add_subplot(projection="3d", computed_zorder=False)
    colours = plt.get_cmap("viridis")(np.linspace(0.15, 0.9, len(layers)))
    before = None
    for number in reversed(range(len(layers))):  # far ones first, near ones in front of them
        layer, (near, far) = layers[number], spans[number]
        before = layers[number - 1] if number else None
        rim = _rim(layer, reach)
        face = Poly3DCollection([_at(rim, near)], facecolor=colours[number], alpha=0.35)
        axis.add_collection3d(face)
        axis.add_collection3d(
            Line3DCollection(
                [_at(rim, near), _at(rim, far)], colors=[colours[number]], linewidths=0.7
            )
        )
        if before is None or _key(before) != _key(layer):
            lines = [
                _at(line, near) for line in _drawn(_borders(layer), most) if _inside(line, reach)
            ]
            axis.add_collection3d(Line3DCollection(lines, colors="#2b333a", linewidths=0.4))
    axis.set(
        xlim=(spans[0][0], spans[-1][1]),
        ylim=(-reach, reach),
        zlim=(-reach, reach),
        xlabel="depth [mm]" if known else "layer",
        ylabel="$\\eta$ [mm]",
        zlabel="$\\varphi$ [mm]",
    )
    axis.set_box_aspect((1.9, 1, 1), zoom=1.1)
    for across, ticks in ((axis.xaxis, 6), (axis.yaxis, 4), (axis.zaxis, 4)):
        across.set_major_locator(MaxNLocator(ticks))
    axis.view_init(elev=18, azim=-125)
    cut = f", drawn to {reach:.0f} mm from the axis" if reach < max(map(_reach, layers)) else ""
    axis.set_title(f"{len(layers)} layers, {calorimeter.cells:,} cells{cut}")
    return figure


def _reach(layer: Layer) -> float:
    """How far a layer extends from the axis, mm."""
    slow, fast = layer.edges
    return float(fast[-1] if layer.view == "cylindrical" else max(slow[-1], fast[-1]))


def _rim(layer: Layer, reach: float) -> np.ndarray:
    slow, fast = (np.clip(edges, -reach, reach) for edges in layer.edges)
    if layer.view == "cylindrical":
        circle = np.linspace(-np.pi, np.pi, 61)
        return fast[-1] * np.stack([np.cos(circle), np.sin(circle)], axis=1)
    x, y = slow[[0, -1, -1, 0, 0]], fast[[0, 0, -1, -1, 0]]
    return np.stack([x, y], axis=1)


def _at(line: np.ndarray, depth: float) -> np.ndarray:
    return np.column_stack([np.full(len(line), depth), line])


def _inside(line: np.ndarray, reach: float) -> bool:
    return bool(np.abs(line).max() <= reach * 1.001)


def _drawn(lines: list[np.ndarray], most: int) -> list[np.ndarray]:
    step = -(-len(lines) // (2 * most))
    return lines[::step]


def _key(layer: Layer) -> tuple:
    return (layer.shape, *(edges.tobytes() for edges in layer.edges))
