"""Figures of teacher and student: schedules, and where the time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from calostudy.plots.style import COLOURS, GEANT4, INK, energy_axis


def learning_rates(schedules: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> Figure:
    """Learning rate of every step, {panel: {label: (epochs, rates)}}."""
    figure, axes = plt.subplots(
        1, len(schedules), figsize=(5.2 * len(schedules), 3.4), squeeze=False, layout="constrained"
    )
    for axis, (title, curves) in zip(axes[0], schedules.items(), strict=True):
        for colour, (label, (epochs, rates)) in zip(COLOURS, curves.items(), strict=False):
            axis.plot(epochs, 1e3 * rates, color=colour, label=label)
        axis.set(title=title, xlabel="epoch", ylabel="learning rate [$10^{-3}$]", ylim=(0, None))
        axis.legend(fontsize="small")
    return figure


def times_by_energy(
    rows: Sequence[Mapping[str, float]], geant4: Sequence[Mapping[str, float]]
) -> Figure:
    """ms per shower against incident energy in GeV.

    ``rows`` have label, energy, value, low, high; ``geant4`` energy, value, uncertainty of groups.
    """
    figure, axis = plt.subplots(figsize=(6.8, 4.2), layout="constrained")
    axis.errorbar(
        [row["energy"] for row in geant4],
        [row["value"] for row in geant4],
        [row["uncertainty"] for row in geant4],
        fmt="s-",
        ms=4,
        capsize=3,
        color=INK,
        label="Geant4, one core",
    )
    labels = list(dict.fromkeys(row["label"] for row in rows))
    colours = dict.fromkeys(label.partition(",")[0] for label in labels)
    colours = dict(zip(colours, COLOURS, strict=False))
    for label in labels:
        own = [row for row in rows if row["label"] == label]
        value = np.array([row["value"] for row in own])
        ends = np.array([[row["low"], row["high"]] for row in own]).T
        axis.errorbar(
            [row["energy"] for row in own],
            value,
            np.abs(ends - value),
            fmt="o-" if label.endswith("batch 1") else "o:",
            mfc=None if label.endswith("batch 1") else "white",
            ms=5,
            capsize=3,
            color=colours[label.partition(",")[0]],
            label=label,
        )
    axis.set(yscale="log", ylabel="CPU ms per shower")
    energy_axis(axis, np.array([row["energy"] for row in [*rows, *geant4]]))
    axis.legend(fontsize="small", ncols=2)
    return figure


def time_profile(
    operations: Mapping[str, float],
    plain_ms: float,
    stages: Mapping[int, Mapping[str, float]],
    limits: Sequence[Mapping[str, float]],
) -> Figure:
    """Before and after: shares of operations of nflows at batch size 1, which takes ``plain_ms``,
    and ms per shower of the study's stages by batch size, with flow-II's roofline as a line.

    ``stages`` are ms per batch; ``limits`` have batch and least ms (per batch).
    """
    figure, (before, after) = plt.subplots(
        1, 2, figsize=(10.4, 4), width_ratios=(1, 2.2), layout="constrained"
    )
    bottom = 0.0
    for colour, (name, share) in zip(COLOURS, operations.items(), strict=False):
        label = f"{name}, {share:.0%}"
        before.bar(["1"], share * plain_ms, bottom=bottom, color=colour, width=0.5, label=label)
        bottom += share * plain_ms
    before.set(title="nflows", xlabel="batch size", ylabel="ms per shower", xlim=(-0.6, 0.6))
    before.set_ylim(0, 1.4 * plain_ms)
    before.legend(fontsize="small", loc="upper center")
    names = list(next(iter(stages.values())))
    places = np.arange(len(stages))
    bottom = np.zeros(len(stages))
    for colour, name in zip((GEANT4, *COLOURS[1:]), names, strict=False):
        heights = np.array([ms[name] / batch for batch, ms in stages.items()])
        after.bar(places, heights, bottom=bottom, color=colour, width=0.6, label=name)
        if name == names[2]:
            least = np.array([row["least ms"] / row["batch"] for row in limits])
            after.hlines(
                bottom + least, places - 0.3, places + 0.3, color=INK, lw=2, ls="--",
                label=f"least time of {name}",
            )  # fmt: skip
        bottom += heights
    after.set_xticks(places, [f"{batch:,}" for batch in stages])
    after.set(title="this study", xlabel="batch size", ylabel="ms per shower")
    after.legend(fontsize="small")
    return figure
