"""The three figures of the landing page: how right, how fast, and what one costs of the other."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from calostudy.plots.style import COLOURS, GEANT4, INK, log_axis

# An entry has model, title, separation, floor and speed_ups, as calostudy.walks.answers.Entry has.
Boards = Mapping[str, Sequence]


def accuracy_of_all(boards: Boards) -> Figure:
    """Separation power of every surrogate, one panel per data set; the Geant4 floor is a band."""
    figure, axes = _panels(boards)
    for axis, board in zip(axes, boards.values(), strict=True):
        value, error = board[0].floor
        axis.axvspan(value - error, value + error, color=GEANT4, alpha=0.5, lw=0)
        axis.axvline(value, color=INK, lw=1, ls=":", label="Geant4 floor")
        _points(axis, [entry.separation for entry in board], COLOURS[0], "o", "surrogate")
        axis.set(xlabel="separation power", title=board[0].title)
        _names(axis, board)
    _legend(figure, axes[0])
    return figure


def speed_up_of_all(boards: Boards) -> Figure:
    """Speed-up over Geant4 of every surrogate, one by one and in batches."""
    figure, axes = _panels(boards)
    for axis, board in zip(axes, boards.values(), strict=True):
        # First, as the ticks are chosen for what is drawn when the points are.
        axis.axvline(1.0, color=INK, lw=1, ls=":", label="as fast as Geant4")
        for colour, marker, batch in zip(COLOURS, "os", board[0].speed_ups, strict=False):
            pairs = [entry.speed_ups[batch] for entry in board]
            _points(axis, pairs, colour, marker, f"batch {batch}")
        axis.set(xlabel="speed-up over Geant4, one core", title=board[0].title)
        _names(axis, board)
    _legend(figure, axes[0])
    return figure


def accuracy_against_speed_up(boards: Boards, batch: int, named: Container) -> Figure:
    """Separation power in units of the floor against the speed-up: the best are right and low.

    named: the entries whose model's name is written beside them.
    """
    figure, axis = plt.subplots(figsize=(7.4, 4.4), layout="constrained")
    for colour, board in zip(COLOURS, boards.values(), strict=False):
        x = [entry.speed_ups[batch][0] for entry in board]
        y = [entry.separation[0] / entry.floor[0] for entry in board]
        axis.plot(x, y, "o", color=colour, label=board[0].title)
        for entry, across, up in zip(board, x, y, strict=True):
            if entry not in named:
                continue
            style = {"xytext": (4, 3), "textcoords": "offset points", "fontsize": "x-small"}
            axis.annotate(entry.model, (across, up), color=colour, **style)
    axis.axhline(1.0, color=INK, lw=1, ls=":", label="Geant4 floor")
    axis.set(
        xscale="log",
        yscale="log",
        xlabel=f"speed-up over Geant4, batch {batch}",
        ylabel="separation power / floor",
    )
    axis.margins(x=0.14)
    log_axis(axis.xaxis)
    log_axis(axis.yaxis)
    axis.legend(fontsize="small")
    return figure


def _legend(figure: Figure, axis) -> None:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)


def _panels(boards: Boards):
    """A figure with a panel for each board, two to a row, as high as the longest of the row."""
    across = min(len(boards), 2)
    lengths = [len(board) for board in boards.values()]
    heights = [max(lengths[i : i + across]) + 3 for i in range(0, len(boards), across)]
    figure, axes = plt.subplots(
        *(len(heights), across),
        figsize=(4.8 * across, 0.24 * sum(heights) + 0.6),
        squeeze=False,
        layout="constrained",
        height_ratios=heights,
    )
    for axis in axes.flat[len(boards) :]:
        axis.remove()
    return figure, list(axes.flat[: len(boards)])


def _points(axis, pairs, colour: str, marker: str, label: str) -> None:
    values, errors = zip(*pairs, strict=True)
    style = {"fmt": marker, "ms": 5, "color": colour, "label": label}
    axis.errorbar(values, range(len(values)), xerr=errors, **style)
    axis.set_xscale("log")
    log_axis(axis.xaxis)


def _names(axis, board) -> None:
    axis.set_yticks(range(len(board)), [entry.model for entry in board], fontsize="small")
    axis.invert_yaxis()
