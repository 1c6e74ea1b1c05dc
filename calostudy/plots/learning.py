"""The figure of a learning curve."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calostudy.plots.style import COLOURS, GEANT4, INK, log_axis

PANELS = {"separation_power": "mean separation power", "auc_low": "AUC, low-level classifier"}


def learning_curve(table: pd.DataFrame) -> Figure:
    """Loss and scores against the number of training showers, the Geant4 floor as a band.

    `table` is one of `calostudy.learning`: its loss is that of the network that was trained last
    (of the voxels); one colour per number of epochs, the recipe's first.
    """
    trained = table[table["training_showers"].notna()]
    network = ([name.partition("/")[2] for name in trained["quantity"] if "/" in name] or [""])[-1]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.9), layout="constrained")
    curves = sorted(trained["epochs"].unique(), key=lambda name: name != "recipe")
    for colour, epochs in zip(COLOURS, curves, strict=False):
        own = trained[trained["epochs"] == epochs]
        words = "recipe" if epochs == "recipe" else epochs.replace(" each", " epochs")
        loss = own[own["quantity"] == f"training_loss/{network}"].sort_values("training_showers")
        style = {"color": colour, "ls": ":", "marker": "o", "ms": 3, "mfc": "none"}
        axes[0].plot(loss["training_showers"], loss["value"], **style, label=f"training, {words}")
        _points(axes[0], own, f"evaluation_loss/{network}", colour, f"evaluation, {words}")
        for axis, quantity in zip(axes[1:], PANELS, strict=True):
            _points(axis, own, quantity, colour, words)
    for axis, (quantity, ylabel) in zip(axes[1:], PANELS.items(), strict=True):
        _floor(axis, table[table["training_showers"].isna() & (table["quantity"] == quantity)])
        axis.set_ylabel(ylabel)
    axes[0].set_ylabel(f"loss of {network} per shower")
    for axis in axes:
        axis.set(xscale="log", xlabel="training showers")
        axis.margins(x=0.1)
        log_axis(axis.xaxis)
        axis.legend(fontsize="small")
    return figure


def _points(axis: Axes, table: pd.DataFrame, quantity: str, colour: str, label: str) -> None:
    own = table[table["quantity"] == quantity].sort_values("training_showers")
    if own.empty:
        return
    axis.errorbar(
        own["training_showers"],
        own["value"],
        own["uncertainty"].fillna(0),
        fmt="o-",
        ms=5,
        capsize=3,
        color=colour,
        label=label,
    )


def _floor(axis: Axes, floor: pd.DataFrame) -> None:
    for row in floor.itertuples():
        low, high = row.value - row.uncertainty, row.value + row.uncertainty
        axis.axhspan(low, high, color=GEANT4, alpha=0.4, lw=0)
        axis.axhline(row.value, color=INK, lw=1, label="Geant4 floor")
