"""The figure of quality against number formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from calostudy.plots.style import COLOURS, GEANT4, INK


def quality_by_format(
    table: pd.DataFrame, titles: Mapping[str, str], order: Sequence[str]
) -> Figure:
    """A panel for each score, the formats of `order` across, a line for each model; the Geant4
    floor is a band. `table` is one of `calostudy.precision_quality`."""
    figure, axes = plt.subplots(
        1, len(titles), figsize=(4.2 * len(titles), 3.9), layout="constrained", squeeze=False
    )
    models = [name for name in table["model"].unique() if name != "Geant4"]
    places = {name: i for i, name in enumerate(order)}
    for axis, (quantity, title) in zip(axes[0], titles.items(), strict=True):
        lines = table[table["quantity"] == quantity]
        for row in lines[lines["model"] == "Geant4"].itertuples():
            axis.axhspan(
                row.value - row.uncertainty,
                row.value + row.uncertainty,
                color=GEANT4,
                alpha=0.4,
                lw=0,
            )
            axis.axhline(row.value, color=INK, lw=1, label="Geant4 floor")
        for shift, (model, colour) in enumerate(zip(models, COLOURS, strict=False)):
            own = lines[(lines["model"] == model) & lines["format"].isin(order)]
            at = [places[name] + 0.06 * (shift - len(models) / 2) for name in own["format"]]
            axis.errorbar(
                at, own["value"], own["uncertainty"], fmt="o-", ms=4, capsize=2, color=colour,
                label=model,
            )  # fmt: skip
        axis.set_xticks(range(len(order)), order, rotation=45)
        axis.set_title(title)
        if title != "AUC high":
            axis.set_yscale("log")
    axes[0][-1].legend(fontsize="small")
    return figure
