"""Pictures of one shower in several forms: point clouds, moved showers, segmentations."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from calostudy.calorimeter import Calorimeter
from calostudy.clouds import PointClouds
from calostudy.plots.style import ENERGY_MAP, GEANT4, SURROGATE, THIRD, log_norm
from calostudy.segmentations import INNER, MIDDLE, OUTER, resegment
from calostudy.showers import Showers


def point_cloud(clouds: PointClouds, shower: int, geometry: Calorimeter) -> Figure:
    """One shower as clustered points, not cut at the box, and as the cells of the grid."""
    one = clouds[shower]
    cells = one.to_showers(geometry).cells[0]
    middle = np.array([np.mean(layer.depth) for layer in geometry.layers])
    hit = np.flatnonzero(cells > 0)
    forms = {
        f"{len(one.energy):,} points": (one.position, one.energy, 1.5),
        f"{len(hit):,} cells": (
            np.column_stack(
                [geometry.eta[hit], geometry.phi[hit], middle[geometry.layer_index[hit]]]
            ),
            cells[hit],
            5.0,
        ),
    }
    norm = log_norm(cells[hit], 4)
    reach = 1.15 * geometry.layers[0].edges[0][-1]
    figure = plt.figure(figsize=(9.5, 4.6), layout="constrained")
    for number, (title, (position, energy, size)) in enumerate(forms.items(), 1):
        axis = figure.add_subplot(1, 2, number, projection="3d")
        order = np.argsort(energy)
        eta, phi, depth = position[order].T
        shown = (np.abs(eta) < reach) & (np.abs(phi) < reach)
        dots = axis.scatter(
            depth[shown], eta[shown], phi[shown], c=energy[order][shown], s=size, norm=norm,
            cmap=ENERGY_MAP, linewidths=0, rasterized=True,
        )  # fmt: skip
        axis.set(xlabel="depth [mm]", ylabel="$\\eta$ [mm]", zlabel="$\\varphi$ [mm]", title=title)
        axis.set(ylim=(-reach, reach), zlim=(-reach, reach))
        axis.set_box_aspect((1.6, 1, 1), zoom=0.8)
    figure.colorbar(dots, ax=figure.axes, label="MeV", shrink=0.7, aspect=25)
    figure.suptitle(f"One shower of {one.incident_energy[0] / 1e3:.0f} GeV")
    return figure


def moved_showers(found: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Share of the energy in the box, and cells hit, for each range of incident points."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    colours = (GEANT4, THIRD, SURROGATE, "#588157")
    for column, (label, number) in enumerate(
        (("share of the energy in the box", 0), ("cells hit", 1))
    ):
        every = np.concatenate([pair[number] for pair in found.values()])
        edges = np.linspace(every.min(), every.max(), 31)
        for (words, pair), colour in zip(found.items(), colours, strict=False):
            axes[column].hist(pair[number], edges, histtype="step", color=colour, label=words)
        axes[column].set(xlabel=label, ylabel="showers", yscale="log")
    axes[0].legend(loc="upper left", fontsize="small")
    return figure


def segmentation_images(showers: Showers) -> Figure:
    """The average shower in every inner and middle segmentation, and in the outer layer (MeV)."""
    panels = [(0, inner, MIDDLE[0]) for inner in INNER] + [(1, INNER[0], m) for m in MIDDLE]
    images = []
    for layer, inner, middle in panels:
        found = resegment(showers, inner, middle)
        images.append((found.calorimeter.layers[layer], found.layer(layer).mean(axis=0)))
    outer = resegment(showers, INNER[0], MIDDLE[0])
    images.append((outer.calorimeter.layers[2], outer.layer(2).mean(axis=0)))
    titles = [f"inner {a} x {b}" for a, b in INNER] + [f"middle {a} x {b}" for a, b in MIDDLE]
    titles.append("outer {} x {}".format(*OUTER))
    figure, axes = plt.subplots(3, 5, figsize=(11, 6.6), layout="constrained")
    places = [*axes[0, :4], *axes[1, :4], *axes[2, :4], axes[2, 4]]
    for axis in (axes[0, 4], axes[1, 4]):
        axis.remove()
    for axis, title, (layer, image) in zip(places, titles, images, strict=True):
        eta, phi = np.meshgrid(*layer.edges, indexing="ij")
        norm = log_norm(image)
        axis.pcolormesh(
            eta, phi, np.ma.masked_less_equal(image, 0), norm=norm, cmap=ENERGY_MAP, rasterized=True
        )
        axis.set(title=title, aspect="equal", xticks=(-200, 0, 200), yticks=(-200, 0, 200))
        axis.grid(False)
    for axis in places[-5:]:
        axis.set_xlabel("$\\eta$ [mm]")
    for row in axes:
        row[0].set_ylabel("$\\varphi$ [mm]")
    return figure
