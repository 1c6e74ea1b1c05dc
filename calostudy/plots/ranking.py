"""Figures of the ranking of models by the multi-class classifier."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import TwoSlopeNorm, to_rgba
from matplotlib.figure import Figure

from calostudy.metrics.ranking import Ranking
from calostudy.plots.style import INK, SURROGATE

FAR = 6.0
"""So many times as far below the best as the median model, a model is no more drawn to scale."""


def log_posteriors(ranking: Ranking) -> Figure:
    """Mean log-posterior of each model on Geant4 showers, the best on top, and the guess."""
    summary = ranking.summary()
    figure, axis = plt.subplots(figsize=(7, 0.4 * len(summary) + 1.6), layout="constrained")
    place = np.arange(len(summary))[::-1]
    value, uncertainty = np.transpose(list(summary.values()))
    axis.errorbar(value, place, xerr=uncertainty, fmt="o", ms=4, color=SURROGATE, capsize=3)
    words = f"guess, $-\\ln {len(summary)}$"
    axis.axvline(ranking.uniform, color=INK, lw=1, ls="--", label=words)
    axis.set_yticks(place, list(summary))
    axis.set(
        ylim=(-0.6, len(summary) - 0.4),
        xlabel="mean log-posterior on Geant4 showers (higher: closer)",
    )
    axis.grid(axis="y", visible=False)
    axis.legend(fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    return figure


def time_against_log_posterior(table: pd.DataFrame, batch: int) -> Figure:
    """Time of a shower against mean log-posterior, one point per model with its uncertainties, and
    the front: who is on it for sure is filled. A model far below the best stands at the lower edge,
    its value behind its name, so that the others can be told apart.

    `table` has model, time, time_error (ms per shower), log_posterior, log_posterior_error,
    on_front and chance_of_front; the rows are numbered in their order.
    """
    table = table[table["time"].notna()]
    value = table["log_posterior"]
    edge = value.max() - FAR * (value.max() - value.median())
    table = table.assign(
        height=value.clip(edge),
        height_error=table["log_posterior_error"].where(value >= edge, 0.0),
        marker=np.where(value < edge, "v", "o"),
        value=value.map(" ({:.1f})".format).where(value < edge, ""),
    )
    figure, axis = plt.subplots(figsize=(9, 5.2), layout="constrained")
    ends = table[table["on_front"]].sort_values("time")
    axis.step(ends["time"], ends["height"], where="post", color=INK, lw=1, label="front")
    for place, row in enumerate(table.itertuples(), 1):
        axis.errorbar(
            *(row.time, row.height, row.height_error, row.time_error, row.marker),
            **{"ms": 6, "color": SURROGATE, "ecolor": INK, "elinewidth": 0.8},
            **{"mfc": to_rgba(SURROGATE, row.chance_of_front), "mec": SURROGATE},
        )
        axis.annotate(
            *(str(place), (row.time, row.height)),
            **{"xytext": (5, 4), "textcoords": "offset points", "fontsize": "small"},
        )
    if (value < edge).any():
        words = "below this scale: value in the list"
        axis.plot([], [], "v", mfc="none", color=SURROGATE, label=words)
    names = [f"{i}  {row.model}{row.value}" for i, row in enumerate(table.itertuples(), 1)]
    axis.text(
        *(1.02, 1.0, "\n".join(names)),
        **{"transform": axis.transAxes, "va": "top", "fontsize": "small"},
    )
    axis.set(
        xscale="log",
        xlabel=f"ms per shower, one processor, batch {batch} (left: faster)",
        ylabel="mean log-posterior on Geant4 showers (up: closer)",
    )
    axis.margins(x=0.08)
    axis.legend(fontsize="small", ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    return figure


def cross_check(ranking: Ranking) -> Figure:
    """Mean log-posteriors of every model on held-out showers of each, and on Geant4 showers.

    Blue: above a guess, red: below.
    """
    order = list(ranking.summary())
    matrix = pd.DataFrame(
        np.vstack([ranking.log_posterior.mean(axis=0), ranking.cross_check.mean(axis=0)]),
        index=["Geant4", *ranking.models],
        columns=ranking.models,
    ).loc[["Geant4", *order], order]
    n = len(order)
    size = max(0.85 * n, 3.0)
    figure, axis = plt.subplots(figsize=(size + 3.4, 0.6 * n + 2.6), layout="constrained")
    lowest = min(matrix.to_numpy().min(), 1.5 * ranking.uniform)
    sns.heatmap(
        matrix,
        ax=axis,
        norm=TwoSlopeNorm(ranking.uniform, lowest, 0.0),
        cmap="RdBu",
        annot=True,
        fmt=".2f",
        annot_kws={"size": "small"},
        linewidths=0.5,
        cbar_kws={"label": f"mean log-posterior, guess {ranking.uniform:.2f}"},
    )
    axis.axhline(1, color=INK, lw=2)
    axis.set(xlabel="model they are taken for", ylabel="showers of")
    axis.tick_params(axis="x", rotation=35, length=0)
    axis.tick_params(axis="y", rotation=0, length=0)
    plt.setp(axis.get_xticklabels(), ha="right", rotation_mode="anchor")
    axis.grid(False)
    return figure
