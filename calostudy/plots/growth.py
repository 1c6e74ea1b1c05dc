"""Figures of growth: time against cells, speed-up against energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from calostudy.growth import PowerLaw
from calostudy.plots.style import INK, energy_axis

MARKERS = "osD^vPX*<>hp"


def _looks(models: list[str]) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each model, so that dozens can be told apart."""
    colours = sns.color_palette("husl", len(models))
    return {
        model: {"color": colours[i], "marker": MARKERS[i % len(MARKERS)]}
        for i, model in enumerate(models)
    }


def time_against_cells(
    panels: Mapping[str, pd.DataFrame], laws: Mapping[str, Mapping[str, PowerLaw]], batch: int
) -> Figure:
    """A panel for each title: ms per shower against the number of cells, a line for each model with
    a power law; steps of slope one are dotted.

    `panels` have model, cells, value and error (ms per shower).
    """
    models = sorted({model for table in panels.values() for model in table["model"]})
    looks = _looks(models)
    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(
        *(rows, 2),
        **{"figsize": (10, 4.4 * rows + 1.2), "layout": "constrained"},
        **{"squeeze": False, "sharey": True},
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    handles = {}
    times = np.concatenate([table["value"].to_numpy(float) for table in panels.values()])
    low, high = 0.6 * times.min(), 1.7 * times.max()
    for axis, (title, table) in zip(axes.flat, panels.items(), strict=False):
        for model, group in table.groupby("model"):
            fitted = laws[title].get(model)
            handles[model] = axis.errorbar(
                *(group["cells"], group["value"], np.nan_to_num(group["error"].to_numpy(float))),
                **{"fmt": looks[model]["marker"], "ms": 6, "capsize": 2},
                **{"color": looks[model]["color"], "alpha": 1.0 if fitted else 0.45},
            )
            if fitted:
                ends = np.array([group["cells"].min(), group["cells"].max()])
                axis.plot(ends, fitted.at(ends), color=looks[model]["color"], lw=1.2)
        axis.set(xscale="log", yscale="log", title=title, xlabel="cells of the calorimeter")
        ends = np.array([300.0, 5e4])
        for start in 10.0 ** np.arange(np.floor(np.log10(low)) - 2, np.ceil(np.log10(high))):
            axis.plot(ends, start * ends / ends[0], color=INK, lw=0.5, ls=":", zorder=0)
        axis.set_ylim(low, high)
    for axis in axes[:, 0]:
        axis.set_ylabel(f"ms per shower, batch {batch}")
    _legend(figure, handles)
    return figure


def speed_up_against_energy(found: Mapping[str, Mapping[str, Any]], columns: int = 2) -> Figure:
    """A panel for each data set: Geant4's time over a surrogate's against the incident energy,
    dashed for single showers and full for batches of 100; break-even is the line at 1.

    `found`: energies in GeV and lines by (model, batch), of each data set.
    """
    models = sorted({model for each in found.values() for model, _ in each["lines"]})
    looks = _looks(models)
    columns = min(columns, len(found))
    rows = -(-len(found) // columns)
    figure, axes = plt.subplots(
        *(rows, columns),
        **{"figsize": (5 * columns, 3.3 * rows + 1), "layout": "constrained"},
        squeeze=False,
    )
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    handles = {}
    for axis, (dataset, each) in zip(axes.flat, found.items(), strict=False):
        axis.axhline(1.0, color=INK, lw=1)
        for (model, batch), ratio in each["lines"].items():
            axis.plot(
                *(each["energy"], np.where(ratio > 0, ratio, np.nan)),
                **{"color": looks[model]["color"], "marker": looks[model]["marker"]},
                **{"markevery": 14, "ms": 4, "lw": 1.2, "ls": "--" if batch == 1 else "-"},
            )
            handles[model] = Line2D([], [], **looks[model], ms=5)
        axis.set(yscale="log", title=dataset, ylabel="Geant4 / surrogate")
        energy_axis(axis, each["energy"])
    _legend(figure, handles)
    return figure


def _legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """All models below the panels."""
    ordered = sorted(handles)
    figure.legend(
        [handles[model] for model in ordered],
        ordered,
        **{"loc": "outside lower center", "fontsize": "small", "ncols": 5},
    )
