"""The figure of quality against network evaluations."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from calostudy.plots.style import COLOURS, GEANT4, INK

STYLES = ("o-", "s--", "^:", "D-.")


def quality_by_evaluations(
    table: pd.DataFrame, titles: Mapping[str, str], own: pd.DataFrame | None = None
) -> Figure:
    """A panel for each score, a colour for each model, a style for each solver; the Geant4 floor
    is a band.

    `table` is one of `calostudy.evaluations`; `own` is another, drawn as crosses.
    """
    figure, axes = plt.subplots(
        1, len(titles), figsize=(4.2 * len(titles), 3.9), layout="constrained", squeeze=False
    )
    models = [name for name in table["model"].unique() if name != "Geant4"]
    solvers = [name for name in table["solver"].dropna().unique() if name]
    for axis, (quantity, title) in zip(axes[0], titles.items(), strict=True):
        lines = table[table["quantity"] == quantity]
        for row in lines[lines["model"] == "Geant4"].itertuples():
            low, high = row.value - row.uncertainty, row.value + row.uncertainty
            axis.axhspan(low, high, color=GEANT4, alpha=0.4, lw=0)
            axis.axhline(row.value, color=INK, lw=1, label="Geant4 floor")
        for model, colour in zip(models, COLOURS, strict=False):
            for solver, style in zip(solvers, STYLES, strict=False):
                found = lines[(lines["model"] == model) & (lines["solver"] == solver)]
                if len(found):
                    _points(axis, found, style, colour, f"{model}, {solver}")
            if own is not None:
                _points(
                    axis, own[(own["quantity"] == quantity) & (own["model"] == model)], "x", INK
                )
        counts = sorted(lines["evaluations"][lines["evaluations"] > 0].unique())
        axis.set(xscale="log", xlabel="network evaluations", title=title)
        if title.startswith(("FPD", "separation")):
            axis.set_yscale("log")
        axis.set_xticks(counts, [str(int(count)) for count in counts])
        axis.xaxis.set_minor_locator(NullLocator())
    axes[0][-1].legend(fontsize="small")
    return figure


def _points(axis, lines: pd.DataFrame, style: str, colour: str, label: str | None = None) -> None:
    found = lines.sort_values("evaluations")
    axis.errorbar(
        found["evaluations"],
        found["value"],
        found["uncertainty"],
        fmt=style,
        ms=4,
        capsize=2,
        color=colour,
        label=label,
    )
