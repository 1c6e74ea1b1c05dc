"""Figures of one model on many segmentations, after arXiv:2212.08233."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from calostudy.plots.comparison import ratio_grid
from calostudy.plots.style import COLOURS, ENERGY_MAP, GEANT4, INK, bins_for, log_axis, log_norm
from calostudy.showers import Showers

Values = Mapping[str, np.ndarray]


def average_images(cases: Sequence[tuple[str, int, Mapping[str, Showers]]]) -> Figure:
    """Mean showers on one scale per row (figure 3): each case is (title, layer, samples)."""
    columns = max(len(samples) for *_, samples in cases)
    figure, axes = plt.subplots(
        len(cases), columns, figsize=(3.3 * columns, 3.1 * len(cases)), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for row, (title, number, samples) in zip(axes, cases, strict=True):
        images = {name: s.layer(number).mean(axis=0) for name, s in samples.items()}
        norm = log_norm(next(iter(images.values())))
        for axis, (name, image) in zip(row, images.items(), strict=True):
            layer = samples[name].calorimeter.layers[number]
            eta, phi = np.meshgrid(*layer.edges, indexing="ij")
            drawn = axis.pcolormesh(
                eta, phi, np.ma.masked_less_equal(image, 0), norm=norm, cmap=ENERGY_MAP,
                rasterized=True,
            )  # fmt: skip
            axis.set(title=f"{name}\n{title}", aspect="equal", xlabel="$\\eta$ [mm]")
            axis.grid(False)
        row[0].set_ylabel("$\\varphi$ [mm]")
        figure.colorbar(drawn, ax=row[-1], label="mean energy [MeV]")
    return figure


def value_panels(panels: Sequence[tuple[Values, str]], columns: int = 4) -> Figure:
    """Histograms of quantities with ratios to the first sample (figures 4 and 5): each panel is
    (sample to values, label)."""
    drawn = []
    for samples, label in panels:
        reference = next(iter(samples.values()))
        low, high = np.quantile(reference, (0.005, 0.995))
        edges = np.linspace(low, high, bins_for(len(reference), 30) + 1)
        drawn.append((samples, edges, label, ""))
    return ratio_grid(drawn, columns=columns)


def transition_profile(samples: Mapping[str, Showers], number: int) -> Figure:
    """Mean energy of the columns of cells in eta, as it is and for each mm, where the size of the
    cells changes."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.9), layout="constrained")
    styles = zip((GEANT4, *COLOURS), samples.items(), strict=False)
    for colour, (name, showers) in styles:
        edges = showers.calorimeter.layers[number].edges[0]
        columns = showers.layer(number).sum(axis=2, dtype=np.float64)
        mean, error = columns.mean(axis=0), columns.std(axis=0) / np.sqrt(len(columns))
        first = name == next(iter(samples))
        for axis, unit in zip(axes, (1.0, np.diff(edges)), strict=True):
            axis.stairs(
                mean / unit, edges, color=colour, lw=1.5, label=name, fill=first,
                alpha=0.55 if first else 1.0, baseline=1e-9,
            )  # fmt: skip
            middle = 0.5 * (edges[1:] + edges[:-1])
            axis.errorbar(middle, mean / unit, error / unit, fmt="none", color=colour)
    for axis, label in zip(axes, ("energy of a column [MeV]", "energy [MeV / mm]"), strict=True):
        axis.axvline(0, color=INK, lw=0.8, ls=":")
        axis.set(xlim=(-150, 150), yscale="log", xlabel="$\\eta$ [mm]", ylabel=label)
        low = min(patch.get_data().values.min() for patch in axis.patches)
        axis.set_ylim(max(low, 1e-2), None)
    axes[0].legend(fontsize="small")
    return figure


def means_by_size(
    panels: Mapping[str, Sequence[tuple[str, Values]]], left_out: Mapping[str, Collection[str]]
) -> Figure:
    """Mean (points) and standard deviation (bars) of a quantity on each segmentation; each panel is
    label to [(size, sample to values)]. `left_out` sizes of a label are shaded."""
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(10, 2.7 * len(panels)), layout="constrained", squeeze=False
    )
    for axis, (label, cases) in zip(axes[:, 0], panels.items(), strict=True):
        for place, (size, samples) in enumerate(cases):
            if size in left_out[label]:
                axis.axvspan(place - 0.5, place + 0.5, color=GEANT4, alpha=0.2, lw=0)
            styles = zip((INK, *COLOURS), samples.items(), strict=False)
            for shift, (colour, (name, values)) in enumerate(styles):
                axis.errorbar(
                    place + 0.18 * (shift - 0.5 * (len(samples) - 1)), values.mean(), values.std(),
                    fmt="o", ms=4, capsize=2, color=colour, label=name if place == 0 else None,
                )  # fmt: skip
        axis.set_xticks(range(len(cases)), [size for size, _ in cases])
        axis.set(ylabel=label, xlim=(-0.6, len(cases) - 0.4))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def distances_by_size(found, groups: Sequence[str], layers, left_out, floor: str) -> Figure:
    """Wasserstein distances on each segmentation: a row for each layer, a panel for each group of
    quantities, a colour for each model; the floor is grey, sizes left out of training are shaded.

    `found` are `calostudy.zero_shot.Distance`s, `layers` and `left_out` sizes by layer.
    """
    figure, axes = plt.subplots(
        len(layers), len(groups), figsize=(3.6 * len(groups), 3.0 * len(layers)),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    names = list(dict.fromkeys(each.sample for each in found if each.sample != floor))
    for row, (layer, sizes) in zip(axes, layers.items(), strict=True):
        for axis, group in zip(row, groups, strict=True):
            own = [each for each in found if (each.layer, each.group) == (layer, group)]
            for each in own:
                place, spread = sizes.index(each.size), np.std(each.replicas[1:], ddof=1)
                colour = INK if each.sample == floor else COLOURS[names.index(each.sample)]
                axis.errorbar(
                    place, each.replicas[0], spread, fmt="_" if each.sample == floor else "o",
                    ms=9 if each.sample == floor else 4, capsize=2, color=colour,
                    label=each.sample if place == 0 else None,
                )  # fmt: skip
            for place, size in enumerate(sizes):
                if size in left_out[layer]:
                    axis.axvspan(place - 0.5, place + 0.5, color=GEANT4, alpha=0.2, lw=0)
            axis.set(yscale="log", title=f"{layer}, {group}", xlim=(-0.6, len(sizes) - 0.4))
            log_axis(axis.yaxis)
            axis.set_xticks(
                range(len(sizes)), [f"{a}x{b}" for a, b in sizes], rotation=60, fontsize="small"
            )
    for row in axes:
        row[0].set_ylabel("Wasserstein distance [$\\sigma$]")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure
