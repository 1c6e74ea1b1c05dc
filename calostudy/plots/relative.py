"""The figure of times over a reference model, source by source."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from calostudy.plots.style import COLOURS, INK

MARKERS = ("o", "s", "^", "D")


def times_over_reference(
    relatives: Mapping[str, pd.DataFrame], references: Mapping[str, str], sources: tuple[str, ...]
) -> Figure:
    """A panel for each data set: models against their time over the reference model's of the same
    source, a marker for each source; the reference is the line at 1.

    `relatives`: of `calostudy.relative_times.relative`, by data set.
    """
    tallest = max(table["model"].nunique() for table in relatives.values())
    columns = min(2, len(relatives))
    rows = -(-len(relatives) // columns)
    size = (6.2 * columns, rows * (0.27 * tallest + 1.2) + 0.4)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat[len(relatives) :]:
        axis.set_visible(False)
    handles = {}
    for axis, (dataset, table) in zip(axes.flat, relatives.items(), strict=False):
        order = table.groupby("model")["ratio"].median().sort_values(ascending=False).index
        place = {model: i for i, model in enumerate(order)}
        axis.axvline(1.0, color=INK, lw=1, ls="--")
        for i, source in enumerate(sources):
            own = table[table["source"] == source]
            if own.empty:
                continue
            handles[source] = axis.errorbar(
                own["ratio"],
                own["model"].map(place) + 0.12 * (i - 1.5),
                xerr=np.nan_to_num(own["error"].to_numpy(float)),
                fmt=MARKERS[i % len(MARKERS)],
                ms=5,
                capsize=2,
                color=COLOURS[i],
            )
        axis.set_yticks(range(len(order)), order, fontsize="small")
        axis.set(xscale="log", title=dataset, xlabel=f"time over that of {references[dataset]}")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles))
    return figure
