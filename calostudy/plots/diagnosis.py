"""Figures of a diagnosis: in which cells and layers generated showers differ from Geant4's."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from calostudy.metrics.diagnosis import Diagnosis
from calostudy.plots.displays import draw_cells, reach_of
from calostudy.plots.style import GEANT4, INK, SURROGATE, THIRD

MOST_LAYERS = 6
CLEAR = 5.0  # standard deviations that the colours of a difference reach at least


def importance_images(
    diagnosis: Diagnosis, layers: Sequence[int] | None = None, title: str = ""
) -> Figure:
    """Cells of each layer: what the classifier goes by (above), and the single differences.

    ``layers`` are positions in the calorimeter; by default all, or of many the six with the largest
    shares. Above: part of the separation in per cent; brown cells give the model away. Below:
    difference of the means in standard deviations; red where generated showers have more.
    """
    geometry = diagnosis.calorimeter
    cells = diagnosis.cells()
    rows = {
        "share of the separation [%]": (100 * cells / abs(cells.sum()), "PuOr_r", 0.0),
        "difference of means [$\\sigma$]": (diagnosis.significance, "RdBu_r", CLEAR),
    }
    positions = sorted(_most_important(diagnosis) if layers is None else layers)
    figure, axes = plt.subplots(
        len(rows),
        len(positions),
        figsize=(2.75 * len(positions) + 1.2, 2.9 * len(rows)),
        squeeze=False,
        layout="constrained",
    )
    for drawn, (label, (values, colours, least)) in zip(axes, rows.items(), strict=True):
        shown = np.concatenate([values[geometry.slices[i]] for i in positions])
        norm = CenteredNorm(0, max(float(np.abs(shown).max()), least) or 1.0)
        for axis, position in zip(drawn, positions, strict=True):
            layer, place = geometry.layers[position], geometry.slices[position]
            reach = reach_of(layer, np.abs(cells[place]).reshape(layer.shape))
            image = values[place].reshape(layer.shape)
            mesh = draw_cells(axis, layer, image, norm, reach, colours)
            axis.set_title(f"layer {layer.id}")
            axis.xaxis.set_major_locator(MaxNLocator(3))
            axis.yaxis.set_major_locator(MaxNLocator(3))
        figure.colorbar(mesh, ax=drawn, label=label, pad=0.01)
    figure.suptitle(title)
    return figure


def _most_important(diagnosis: Diagnosis) -> list[int]:
    geometry = diagnosis.calorimeter
    chosen = list(diagnosis.shares())[:MOST_LAYERS]
    return [geometry.layer_ids.index(each) for each in chosen]


def layer_shares(diagnosis: Diagnosis) -> Figure:
    """Share of the separation of each layer, and the differences of single numbers in it."""
    geometry = diagnosis.calorimeter
    shares = diagnosis.shares()
    value, spread = np.array([shares[i] for i in geometry.layer_ids]).T
    largest = [np.abs(diagnosis.significance[place]).max() for place in geometry.slices]
    place = np.arange(len(geometry.layers))
    width = float(np.clip(0.22 * len(place), 5, 11))
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(width, 5), sharex=True, layout="constrained"
    )
    upper.bar(place, 100 * value, yerr=100 * spread, color=SURROGATE, alpha=0.85, ecolor=INK)
    upper.axhline(0, color=INK, lw=0.8)
    upper.set(ylabel="share of the\nseparation [%]")
    upper.set_title(f"classifier of all cells, AUC {diagnosis.auc.mean():.3f}")
    lower.plot(place, np.abs(diagnosis.layer_significance), "o", color=THIRD, label="layer energy")
    lower.plot(place, largest, "^", color=GEANT4, label="cell that differs most")
    lower.set(ylabel="difference of\nmeans [$\\sigma$]", xlabel="layer", ylim=(0, None))
    lower.legend(fontsize="small")
    if len(place) <= 12:
        lower.set_xticks(place, [str(i) for i in geometry.layer_ids])
    else:
        lower.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    return figure
