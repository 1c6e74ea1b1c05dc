"""Figures of results: training, scores, times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from calostudy.metrics import Score
from calostudy.plots.style import COLOURS, GEANT4, INK, SURROGATE, THIRD, label_of, log_axis

CHOSEN_BY = ("divergence", "energy_score")
"""What an epoch may be chosen by instead of its validation loss."""


def loss_curve(log: Mapping[str, Sequence[Mapping[str, float]]], ylabel: str = "loss") -> Figure:
    """Training and validation loss of each network; ``log`` maps network -> epochs as logged.

    Where the epoch was chosen by another number, this has an axis of its own on the right. A
    positive loss that falls by more than a decade has a logarithmic axis.
    """
    figure, axes = plt.subplots(
        1, len(log), figsize=(4.6 * len(log), 3.4), squeeze=False, layout="constrained"
    )
    for axis, (network, epochs) in zip(axes[0], log.items(), strict=True):
        number = [entry["epoch"] for entry in epochs]
        axis.plot(number, [e["train_loss"] for e in epochs], color=GEANT4, label="training")
        axis.plot(
            number, [e["validation_loss"] for e in epochs], color=SURROGATE, label="validation"
        )
        chosen_by = next((key for key in CHOSEN_BY if key in epochs[0]), "validation_loss")
        best = min(epochs, key=itemgetter(chosen_by))
        axis.axvline(best["epoch"], color=INK, lw=0.8, ls=":", label="weights kept")
        axis.set(title=network, xlabel="epoch", ylabel=ylabel)
        losses = [e["validation_loss"] for e in epochs]
        if min(losses) > 0 and max(losses) > 10 * min(losses):
            axis.set_yscale("log")
        lines = axis.get_lines()
        if chosen_by != "validation_loss":
            right, name = axis.twinx(), chosen_by.replace("_", " ")
            values = [e[chosen_by] for e in epochs]
            (line,) = right.plot(number, values, color=THIRD, lw=1.0, label=name)
            right.set_ylabel(name, color=THIRD)
            right.set_ylim(top=min(values) + 3.0 * (np.quantile(values, 0.8) - min(values)))
            lines = [*lines, line]
        axis.legend(handles=lines, fontsize="small")
    return figure


def score_bars(rows: Sequence[Mapping[str, float]], xlabel: str) -> Figure:
    """Values beside their Geant4 floor; rows have name, value, uncertainty, floor."""
    figure, axis = plt.subplots(figsize=(7, 0.3 * len(rows) + 1.2), layout="constrained")
    place = np.arange(len(rows))[::-1]
    axis.barh(place, [r["floor"] for r in rows], color=GEANT4, alpha=0.6, label="Geant4 floor")
    axis.errorbar(
        [r["value"] for r in rows],
        place,
        xerr=[r["uncertainty"] for r in rows],
        fmt="o",
        ms=4,
        color=SURROGATE,
        label="surrogate",
    )
    axis.set_yticks(place, [label_of(r["name"]) for r in rows], fontsize="small")
    axis.set(xlabel=xlabel)
    axis.legend()
    return figure


def significance_by_energy(scores: Sequence[Score]) -> Figure:
    """Distance of every metric from the Geant4 floor, in standard deviations, by energy range."""
    shown = [score for score in scores if score.by_energy]
    table = pd.DataFrame(
        {s.name: {label: p["significance"] for label, p in s.by_energy.items()} for s in shown},
        dtype=float,
    ).T
    table.insert(0, "all", [score.significance for score in shown])
    size = (1.1 + 0.75 * (1 + len(table.columns)), 2.2 + 0.3 * len(table))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    seaborn.heatmap(
        table.astype(float),
        ax=axis,
        vmin=0,
        vmax=10,
        cmap="rocket_r",
        annot=True,
        fmt=".1f",
        annot_kws={"size": "small"},
        linewidths=0.5,
        cbar_kws={"label": "distance from the floor (σ)", "extend": "max"},
    )
    axis.set(xlabel="incident energy", ylabel="")
    axis.set_xticks(axis.get_xticks(), table.columns, rotation=40, ha="right")
    axis.tick_params(length=0)
    axis.set_yticks(axis.get_yticks(), [label_of(name) for name in table.index], rotation=0)
    return figure


def times_by_batch(
    rows: Sequence[Mapping[str, object]], geant4: Mapping[str, float] | None
) -> Figure:
    """ms per shower against batch size, bars from the 16 to the 84 % quantile.

    ``rows`` have label, batch, value, low, high (ms per shower); ``geant4`` value, uncertainty.
    """
    figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained")
    labels = list(dict.fromkeys(row["label"] for row in rows))
    for colour, name in zip(COLOURS, labels, strict=False):
        own = [row for row in rows if row["label"] == name]
        value = np.array([row["value"] for row in own])
        spread = np.array(
            [[v - r["low"], r["high"] - v] for v, r in zip(value, own, strict=True)]
        ).T
        axis.errorbar(
            [row["batch"] for row in own],
            value,
            np.clip(spread, 0, None),
            marker="o",
            color=colour,
            label=name,
            capsize=3,
        )
    if geant4:
        axis.axhline(geant4["value"], color=INK, label="Geant4, one shower at a time")
        axis.axhspan(
            geant4["value"] - geant4["uncertainty"],
            geant4["value"] + geant4["uncertainty"],
            color=GEANT4,
            alpha=0.4,
        )
    axis.set(xscale="log", yscale="log", xlabel="batch size", ylabel="ms per shower")
    axis.legend(fontsize="small")
    return figure


def time_against_energy(
    energy: np.ndarray,
    milliseconds: np.ndarray,
    fit: Callable | None,
    label: str,
    means: Sequence[Mapping[str, float]] = (),
) -> Figure:
    """Geant4's CPU time per shower (ms) against the incident energy (GeV), with its fit.

    ``means``: energy, value and uncertainty of groups of showers. Showers of one single energy are
    shown as a histogram of their times.
    """
    figure, axis = plt.subplots(figsize=(6.4, 3.9), layout="constrained")
    if np.ptp(energy) < 1e-6 * np.max(energy):
        axis.hist(milliseconds, bins=30, color=GEANT4, alpha=0.6, label=label)
        middle = np.mean(milliseconds)
        axis.axvline(middle, color=SURROGATE, label=f"mean {middle:.0f} ms")
        axis.set(xlabel=f"CPU ms per shower of {np.mean(energy):g} GeV", ylabel="showers")
        axis.legend()
        return figure
    axis.scatter(energy, milliseconds, s=5, color=GEANT4, alpha=0.4, linewidth=0, label=label)
    if fit is not None:
        x = np.geomspace(np.min(energy), np.max(energy), 100)
        axis.plot(x, fit(x), color=SURROGATE, label="fit")
    if means:
        axis.errorbar(
            [row["energy"] for row in means],
            [row["value"] for row in means],
            [row["uncertainty"] for row in means],
            fmt="o",
            ms=4,
            color=INK,
            capsize=2,
            label="means",
        )
    axis.set(xscale="log", yscale="log", xlabel="incident energy [GeV]", ylabel="CPU ms per shower")
    log_axis(axis.xaxis)
    log_axis(axis.yaxis)
    axis.legend()
    return figure


def speed_up_bars(rows: Sequence[Mapping[str, object]]) -> Figure:
    """Speed-up over Geant4, a group of bars per model and target; rows as ``tables.times_rows``."""
    labels = [f"{r['model']}, {r['size']}\n{r['target']}, batch {r['batch']:,}" for r in rows]
    figure, axis = plt.subplots(figsize=(7.5, 0.42 * len(rows) + 1.2), layout="constrained")
    place = np.arange(len(rows))[::-1]
    axis.barh(
        place,
        [row["speed_up"] for row in rows],
        xerr=[row["speed_up_uncertainty"] for row in rows],
        color=[GEANT4 if "untrained" in row["size"] else SURROGATE for row in rows],
        alpha=0.85,
    )
    axis.axvline(1, color=INK, lw=0.8)
    axis.set_yticks(place, labels, fontsize="x-small")
    axis.set(xscale="log", xlabel="speed-up over one Geant4 process on one core")
    return figure
