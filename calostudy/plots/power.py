"""Figures of the power study: what a planted defect does, and which metric sees it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from scipy.optimize import isotonic_regression

from calostudy.metrics import METRICS
from calostudy.metrics.defects import DEFECTS, brightest_layer
from calostudy.metrics.discrimination import SEEN, in_words
from calostudy.plots.comparison import ratio_panel
from calostudy.plots.displays import draw_cells, reach_of
from calostudy.plots.style import ENERGY_MAP, GEANT4, INK, label_of, log_axis, log_norm
from calostudy.showers import Showers

RANGE = 0.5, 300.0  # discriminations beyond are drawn at its ends
Observed = tuple[str, np.ndarray, np.ndarray]
STYLES = ("-", "--", ":", "-.")


def defect_picture(clean: Showers, spoiled: Showers, defect: str, observable: Observed) -> Figure:
    """What a defect changes in one shower, and an observable of all, without and with it.

    Of the shower, the brightest layer is shown; 90 % of those in which it changed, changed less, by
    the sum of the changes over the energy.
    observable: its name, and its values (N,) without and with the defect.
    """
    position = brightest_layer(clean)
    layer = clean.calorimeter.layers[position]
    before, after = (s.layer(position).astype(np.float64) for s in (clean, spoiled))
    change = np.abs(after - before).sum(axis=(1, 2)) / np.maximum(before.sum(axis=(1, 2)), 1e-30)
    order = np.argsort(change)[np.count_nonzero(change == 0) :]
    event = order[int(0.9 * (len(order) - 1))] if len(order) else 0
    image, added = before[event], after[event] - before[event]
    top = float(np.abs(added).max()) or 1.0
    energy = clean.incident_energy[event] / 1e3
    shown = (
        (image, log_norm(image), ENERGY_MAP, f"layer {layer.id} of a shower of {energy:.3g} GeV"),
        (added, SymLogNorm(1e-2 * top, vmin=-top, vmax=top), "RdBu_r", "what the defect adds"),
    )
    figure = plt.figure(figsize=(11.5, 3.8), layout="constrained")
    grid = figure.add_gridspec(1, 3, width_ratios=(1, 1, 1.25))
    for column, (values, norm, cmap, words) in enumerate(shown):
        axis = figure.add_subplot(grid[column])
        masked = np.ma.masked_equal(values, 0.0)
        reach = reach_of(layer, clean.layer(position))
        mesh = draw_cells(axis, layer, masked, norm, reach, cmap)
        axis.set_title(words)
        bar = figure.colorbar(mesh, ax=axis, label="MeV")
    decade = 10 ** np.floor(np.log10(top))
    bar.set_ticks([s * decade * f for s, f in ((-1, 1), (-1, 0.1), (0, 0), (1, 0.1), (1, 1))])
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.ax.minorticks_off()
    name, *values = observable
    ends = np.quantile(np.concatenate(values), (0.005, 0.995))
    edges = np.linspace(ends[0], max(ends[1], ends[0] + 1e-9), 41)
    samples = dict(zip(("Geant4", "with the defect"), values, strict=True))
    ratio_panel(figure, grid[2], samples, edges, label_of(name), "y", legend=True)
    figure.suptitle(DEFECTS[defect].at())
    return figure


# ---- which metric sees what ---------------------------------------------------------------------


def _in_order(metrics: Sequence[str]) -> list[str]:
    """As in the catalogue."""
    return [name for name in METRICS if name in set(metrics)]


def seen_matrix(seen: pd.DataFrame) -> Figure:
    """From how many showers on each metric sees each defect; the table is of `first_seen`."""
    metrics = _in_order(seen["metric"])
    defects = [name for name in DEFECTS if name in set(seen["defect"])]
    by_pair = seen.set_index(["metric", "defect"])
    numbers = by_pair["seen_from"].unstack().reindex(index=metrics, columns=defects)
    words = by_pair.apply(in_words, axis=1).unstack().reindex(index=metrics, columns=defects)
    low, high = np.log2(seen["tried_from"].min()), np.log2(seen["tried_to"].max())
    figure, axis = plt.subplots(
        figsize=(2.0 + 1.15 * len(defects), 1.4 + 0.4 * len(metrics)), layout="constrained"
    )
    axis.set_facecolor("#e9ecef")
    axis.grid(False)
    seaborn.heatmap(
        np.log2(numbers),
        ax=axis,
        vmin=low,
        vmax=high + 1,
        cmap="YlGn_r",
        linewidths=1,
        cbar=False,
    )
    for row, metric in enumerate(metrics):
        for column, defect in enumerate(defects):
            value, text = numbers.loc[metric, defect], words.loc[metric, defect]
            dark = np.isfinite(value) and np.log2(value) < (low + high) / 2
            axis.text(
                column + 0.5,
                row + 0.5,
                "" if pd.isna(text) else text.replace("not seen, ", ""),
                ha="center",
                va="center",
                fontsize=9,
                color="white" if dark else INK,
            )
    axis.set(xlabel="", ylabel="")
    axis.tick_params(length=0, labelsize=9.5)
    axis.xaxis.tick_top()
    wrapped = [
        "\n".join(textwrap.wrap(DEFECTS[name].at().replace(" %", "\N{NO-BREAK SPACE}%"), 15))
        for name in defects
    ]
    axis.set_xticks(np.arange(len(defects)) + 0.5, wrapped)
    axis.set_yticks(np.arange(len(metrics)) + 0.5, [_words(name) for name in metrics], rotation=0)
    axis.set_title(
        f"showers in each sample from which on d ≥ {SEEN:g};\n"
        f"grey: not with {seen['tried_to'].max():,} showers, but with this d"
    )
    return figure


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def power_by_showers(found: pd.DataFrame) -> Figure:
    """Discrimination against the showers in each sample, a panel per defect, a line per metric.

    Metrics that see the defect nowhere are grey and have no name.
    found: of `discriminations`, of one strength for each defect.
    """
    return _curves(found, "showers", "showers in each sample")


def power_by_strength(found: pd.DataFrame) -> Figure:
    """Discrimination against the strength, a panel per defect, a line per metric.

    Metrics that see the defect nowhere are grey and have no name.
    found: of `discriminations`, of one number of showers.
    """
    return _curves(found, "strength", "")


def _looks(metrics: Sequence[str]) -> dict[str, tuple]:
    """Colour and style of each line: what one function gives has one colour."""
    functions = list(dict.fromkeys(METRICS[metric] for metric in metrics))
    colours = seaborn.husl_palette(len(functions), s=0.9, l=0.45)
    looks, used = {}, dict.fromkeys(functions, 0)
    for metric in metrics:
        function = METRICS[metric]
        looks[metric] = colours[functions.index(function)], STYLES[used[function] % len(STYLES)]
        used[function] += 1
    return looks


def _curves(found: pd.DataFrame, by: str, xlabel: str) -> Figure:
    metrics = _in_order(found["metric"])
    defects = [name for name in DEFECTS if name in set(found["defect"])]
    looks = _looks(metrics)
    columns = min(2, len(defects))
    rows = -(-len(defects) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(5.4 * columns, 0.6 + rows * (1.6 + 0.14 * len(metrics))),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis, defect in zip(axes.flat, defects, strict=False):
        own = found[found["defect"] == defect]
        axis.set(xscale="log", yscale="log", ylim=(0.8 * RANGE[0], 1.25 * RANGE[1]))
        ends = {}
        for metric, (colour, style) in looks.items():
            line = own[own["metric"] == metric].sort_values(by)
            d = line["d"].clip(*RANGE)
            if not (line["d"] >= SEEN).any():
                axis.plot(line[by], d, "-", color=GEANT4, lw=0.7)
                continue
            axis.plot(line[by], d, style, color=colour, marker="o", ms=3, lw=1.4)
            low, high = ((line["d"] + sign * line["uncertainty"]).clip(*RANGE) for sign in (-1, 1))
            axis.fill_between(line[by], low, high, color=colour, alpha=0.12, lw=0)
            ends[metric] = (line[by].iloc[-1], d.iloc[-1])
        axis.axhline(SEEN, color=INK, lw=0.9, ls=(0, (1, 2)))
        log_axis(axis.xaxis)
        log_axis(axis.yaxis)
        nominal = by == "showers"
        axis.set_title(DEFECTS[defect].at() if nominal else DEFECTS[defect].title)
        axis.set(xlabel=xlabel or f"strength [{DEFECTS[defect].unit}]", ylabel="")
        _label_ends(axis, ends, looks)
    for axis in axes[:, 0]:
        axis.set_ylabel("discrimination d")
    for axis in axes.flat[len(defects) :]:
        axis.set_visible(False)
    return figure


def _label_ends(axis: Axes, ends: Mapping[str, tuple[float, float]], looks: Mapping) -> None:
    """Names of the lines at their right ends, moved apart where they would overlap."""
    if not ends:
        return
    low, high = np.log(axis.get_ylim())
    order = sorted(ends, key=lambda metric: ends[metric][1])
    wanted = np.array([(np.log(ends[metric][1]) - low) / (high - low) for metric in order])
    gaps = np.arange(len(order)) * min(0.055, 1 / len(order))
    # The nearest places that keep the order with at least these gaps.
    places = np.clip(isotonic_regression(wanted - gaps).x, 0, 1 - gaps[-1]) + gaps
    for metric, place in zip(order, places, strict=True):
        axis.annotate(
            _words(metric),
            xy=ends[metric],
            xycoords="data",
            xytext=(1.03, place),
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            color=looks[metric][0],
            arrowprops={
                "arrowstyle": "-",
                "color": GEANT4,
                "lw": 0.5,
                "shrinkB": 2,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )
