"""The figure of a leaderboard: quality against time, and the front of both."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from calostudy.plots.style import GEANT4, INK, SURROGATE, log_axis


def quality_against_time(
    panels: Mapping[str, tuple[pd.DataFrame, tuple[float, float]]], batch: int
) -> Figure:
    """A panel for each quality, lower is better: one numbered point per model with its
    uncertainties, the fuller the more often it is on the front; the Geant4 floor is a band.

    `panels` maps a title to points (model, time and time_error in ms per shower, value, error,
    on_front, chance_of_front; all panels in the same order) and the floor with its uncertainty.
    """
    rows = len(panels) // 2 + 1  # one place more for the names
    figure, axes = plt.subplots(rows, 2, figsize=(9.4, 3.8 * rows), layout="constrained")
    table = pd.DataFrame({"model": []})
    for axis, (title, (table, floor)) in zip(axes.flat, panels.items(), strict=False):
        value, error = floor
        axis.axhspan(value - error, value + error, color=GEANT4, alpha=0.4, lw=0)
        axis.axhline(value, color=INK, lw=1, ls=":", label="Geant4 floor")
        ends = table[table["on_front"]].sort_values("time")
        axis.step(ends["time"], ends["value"], where="post", color=INK, lw=1, label="front")
        for place, row in enumerate(table.itertuples(), 1):
            axis.errorbar(
                *(row.time, row.value, row.error, row.time_error),
                **{"fmt": "o", "ms": 6, "color": SURROGATE, "ecolor": INK, "elinewidth": 0.8},
                **{"mfc": to_rgba(SURROGATE, row.chance_of_front), "mec": SURROGATE},
            )
            axis.annotate(
                *(str(place), (row.time, row.value)),
                **{"xytext": (5, 4), "textcoords": "offset points", "fontsize": "small"},
            )
        axis.set(xscale="log", title=title, xlabel=f"ms per shower, batch {batch}")
        if not title.startswith("AUC"):
            axis.set_yscale("log")
            log_axis(axis.yaxis)
        axis.margins(x=0.1, y=0.08)
        log_axis(axis.xaxis)
    axes.flat[0].legend(fontsize="small")
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    names = [f"{place}  {name}" for place, name in enumerate(table["model"], 1)]
    axes.flat[len(panels)].text(
        *(0.04, 0.97, "\n".join(names)),
        **{"transform": axes.flat[len(panels)].transAxes, "va": "top", "fontsize": "small"},
    )
    return figure
