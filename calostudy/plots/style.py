"""The study's look: colours, style, labels."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.ticker import (
    FuncFormatter,
    LogFormatterSciNotation,
    LogLocator,
    MaxNLocator,
    NullFormatter,
)
from matplotlib_inline.config import InlineBackend

from calostudy.calorimeter import Calorimeter

GEANT4, SURROGATE, THIRD = "#8d99a6", "#c8553d", "#2a6f97"
INK = "#4a5560"
COLOURS = (SURROGATE, THIRD, "#588157", "#9d4edd", "#e09f3e", "#3a86c8", "#8d6e63", "#d81b60")
ENERGY_MAP = "magma"


def use_style() -> None:
    """The study's look, for all figures drawn afterwards."""
    # The layout is constrained: a notebook's tight box would draw each figure twice for nothing.
    InlineBackend.instance().print_figure_kwargs = {"bbox_inches": None}
    sns.set_theme(
        context="notebook",
        style="ticks",
        rc={
            "figure.constrained_layout.use": True,
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "axes.titlesize": "medium",
            "legend.frameon": False,
            "font.size": 10.5,
            "axes.prop_cycle": plt.cycler(color=COLOURS),
        },
    )


def some_layers(calorimeter: Calorimeter, most: int = 6, deepest: float = 0.6) -> list[int]:
    """Positions of all layers, or of ``most`` spread evenly over a share of a deep calorimeter."""
    count = len(calorimeter.layers)
    if count <= max(most, 8):
        return list(range(count))
    return [int(i) for i in np.linspace(1, deepest * (count - 1), most)]


def log_norm(values: np.ndarray, decades: float = 6.0) -> LogNorm:
    """A logarithmic scale of at most ``decades`` up to the largest value."""
    top = float(values.max()) if values.size and values.max() > 0 else 1.0
    positive = values[values > 0]
    bottom = float(positive.min()) if positive.size else top / 10
    return LogNorm(max(bottom, top * 10**-decades), top)


def log_axis(axis) -> None:
    """A logarithmic scale with plain numbers, few enough to stand beside each other."""
    low, high = sorted(axis.get_view_interval())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    decades = np.log10(high / low)
    if decades < 0.4:  # 1, 2 and 5 are too few, all of ten too many
        axis.set_major_locator(MaxNLocator(4))
    elif decades < 2.5:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    elif decades > 4:
        axis.set_major_formatter(LogFormatterSciNotation())


def energy_axis(axes, energy: np.ndarray) -> None:
    """A logarithmic axis for these incident energies in GeV, one single energy included."""
    axes.set(xscale="log", xlim=(0.88 * np.min(energy), 1.14 * np.max(energy)))
    axes.set_xlabel("incident energy [GeV]")
    log_axis(axes.xaxis)


def bins_for(showers: int, most: int) -> int:
    """As many bins as so few showers fill."""
    return int(np.clip(1.6 * np.sqrt(showers), 6, most))


def log_edges(values: np.ndarray, bins: int, quantile: float = 0.0) -> np.ndarray:
    """Logarithmic bins from a quantile of the positive values to a little above the largest."""
    positive = values[values > 0]
    if not positive.size:
        return np.geomspace(0.1, 1.0, bins + 1)
    low, high = float(np.quantile(positive, quantile)), float(positive.max()) * 1.001
    return np.geomspace(min(low, high / 2), high, bins + 1)


def label_of(name: str) -> str:
    """The name of an observable in words, with its unit.

    >>> label_of("width_r/12"), label_of("E_tot/E_inc/2^10")
    ('width in $r$ [mm], layer 12', '$E_{tot}/E_{inc}$, $2^{10}$ MeV')
    """
    kind, _, layer = name.partition("/")
    words = {
        "E_tot": "total energy [MeV]",
        "E_layer": "energy [MeV]",
        "EC_eta": "centre in $\\eta$ [mm]",
        "EC_phi": "centre in $\\varphi$ [mm]",
        "EC_r": "centre in $r$ [mm]",
        "width_eta": "width in $\\eta$ [mm]",
        "width_phi": "width in $\\varphi$ [mm]",
        "width_r": "width in $r$ [mm]",
        "sparsity": "sparsity",
        "E_tot/E_inc": "$E_{tot}/E_{inc}$",
    }
    ratio, _, energy = name.partition("/2^")
    if ratio in words:
        return words[ratio] + (f", $2^{{{energy}}}$ MeV" if energy else "")
    return words.get(kind, kind) + (f", layer {layer}" if layer else "")
