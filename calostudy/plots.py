"""Figures of the study. Nothing is measured here: a function takes showers or results and draws.

Geant4 is always the filled grey histogram, a surrogate a coloured line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import hist
import matplotlib.pyplot as plt
import mplhep as mh
import numpy as np
import seaborn as sns
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from calostudy.calorimeter import Calorimeter, Layer
from calostudy.showers import Showers

GEANT4, SURROGATE, THIRD = "#8d99a6", "#c8553d", "#2a6f97"
COLOURS = (SURROGATE, THIRD, "#588157", "#9d4edd", "#e09f3e")
ENERGY_MAP = "magma"


def use_style() -> None:
    """The study's look, for all figures drawn afterwards."""
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


# ------------------------------------------------------------------ calorimeters and showers


def front_view(calorimeter: Calorimeter, columns: int = 4) -> Figure:
    """The cell borders of each distinct layer, seen along the shower axis."""
    layers = _distinct(calorimeter)
    columns = min(columns, len(layers))
    rows = -(-len(layers) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.9 * columns, 3.1 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(layers) :]:
        axis.remove()
    for axis, (layer, count) in zip(axes.flat, layers, strict=False):
        axis.add_collection(LineCollection(_borders(layer), colors="#5c6770", linewidths=0.5))
        axis.autoscale_view()
        same = f" and {count - 1} like it" if count > 1 else ""
        axis.set_title(f"layer {layer.id}{same}: {layer.shape[0]} x {layer.shape[1]} cells")
        axis.set(xlabel="$\\eta$ [mm]", ylabel="$\\varphi$ [mm]", aspect="equal")
        axis.grid(False)
    return figure


def _borders(layer: Layer) -> list[np.ndarray]:
    """The borders of a layer's cells as lines of points (points, 2) in mm."""
    first, second = layer.edges
    if layer.view == "cartesian":
        lines = [np.array([(x, second[0]), (x, second[-1])]) for x in first]
        return lines + [np.array([(first[0], y), (first[-1], y)]) for y in second]
    circle = np.linspace(-np.pi, np.pi, 181)
    unit = np.stack([np.cos(circle), np.sin(circle)], axis=1)
    rings = [r * unit for r in second if r > 0]
    spokes = first[:-1] if len(first) > 2 else []
    directions = [np.array([np.cos(alpha), np.sin(alpha)]) for alpha in spokes]
    return rings + [np.stack([second[0] * d, second[-1] * d]) for d in directions]


def _distinct(calorimeter: Calorimeter) -> list[tuple[Layer, int]]:
    """Layers that differ in their binning, each with the number of layers that share it."""
    groups: dict[tuple, list[Layer]] = {}
    for layer in calorimeter.layers:
        key = (layer.shape, *(tuple(edges) for edges in layer.edges))
        groups.setdefault(key, []).append(layer)
    return [(group[0], len(group)) for group in groups.values()]


def _draw_cells(axis, layer: Layer, energies, norm):
    """One layer as an image in the plane across the shower: ``energies`` has the layer's shape."""
    if layer.view == "cylindrical":
        alpha, r = layer.edges
        if len(alpha) == 2:  # a ring of one alpha bin is drawn as a full circle
            alpha = np.linspace(alpha[0], alpha[1], 61)
            energies = np.repeat(energies, 60, axis=0)
        angle, radius = np.meshgrid(alpha, r, indexing="ij")
        x, y = radius * np.cos(angle), radius * np.sin(angle)
    else:
        x, y = np.meshgrid(*layer.edges, indexing="ij")
    mesh = axis.pcolormesh(x, y, energies, norm=norm, cmap=ENERGY_MAP, rasterized=True)
    axis.set(xlabel="$\\eta$ [mm]", ylabel="$\\varphi$ [mm]", aspect="equal")
    axis.grid(False)
    return mesh


def layer_images(
    samples: Mapping[str, Showers], layers: Sequence[int] | None = None, title: str = ""
) -> Figure:
    """Mean energy per cell (MeV), one row per sample and one column per layer position.

    ``layers`` are positions in the calorimeter; by default all, or six spread over a deep one.
    """
    calorimeter = next(iter(samples.values())).calorimeter
    positions = _some_layers(calorimeter) if layers is None else list(layers)
    means = {
        name: [showers.layer(i).mean(axis=0, dtype=np.float64) for i in positions]
        for name, showers in samples.items()
    }
    figure, axes = plt.subplots(
        len(samples),
        len(positions),
        figsize=(2.75 * len(positions) + 0.8, 2.9 * len(samples)),
        squeeze=False,
        layout="constrained",
    )
    for column, position in enumerate(positions):
        images = [rows[column] for rows in means.values()]
        norm = _log_norm(np.concatenate([image.ravel() for image in images]))
        for row, (name, image) in enumerate(zip(means, images, strict=True)):
            layer = calorimeter.layers[position]
            mesh = _draw_cells(axes[row, column], layer, _masked(image), norm)
            axes[row, column].set_title(f"{name}, layer {layer.id}")
        figure.colorbar(mesh, ax=axes[:, column], location="bottom", label="MeV", aspect=30)
    if title:
        figure.suptitle(title)
    return figure


def _some_layers(calorimeter: Calorimeter, most: int = 6) -> list[int]:
    count = len(calorimeter.layers)
    if count <= most:
        return list(range(count))
    return [int(i) for i in np.linspace(1, 0.6 * count, most)]


def _log_norm(values: np.ndarray, decades: float = 6.0) -> LogNorm:
    top = float(values.max()) if values.size and values.max() > 0 else 1.0
    positive = values[values > 0]
    bottom = float(positive.min()) if positive.size else top / 10
    return LogNorm(max(bottom, top * 10**-decades), top)


def _masked(image: np.ndarray) -> np.ma.MaskedArray:
    return np.ma.masked_less_equal(image, 0.0)


def event_displays(showers: Showers, events: Sequence[int], title: str = "") -> Figure:
    """Single showers: images of every layer, or cells in space for a calorimeter of many layers."""
    if len(showers.calorimeter.layers) > 7:
        return _displays_in_space(showers, events, title)
    calorimeter = showers.calorimeter
    figure, axes = plt.subplots(
        len(events),
        len(calorimeter.layers),
        figsize=(2.9 * len(calorimeter.layers), 2.75 * len(events)),
        squeeze=False,
        layout="constrained",
    )
    for row, event in enumerate(events):
        norm = _log_norm(showers.cells[event])
        for column, layer in enumerate(calorimeter.layers):
            image = _masked(showers.layer(column)[event])
            mesh = _draw_cells(axes[row, column], layer, image, norm)
            energy = showers.incident_energy[event] / 1e3
            axes[row, column].set_title(f"{energy:.1f} GeV, layer {layer.id}")
        figure.colorbar(mesh, ax=axes[row], label="MeV", pad=0.01)
    figure.suptitle(title)
    return figure


def _displays_in_space(showers: Showers, events: Sequence[int], title: str) -> Figure:
    calorimeter = showers.calorimeter
    figure = plt.figure(figsize=(4.6 * len(events), 4.4), layout="constrained")
    middle = np.array([np.mean(layer.depth) for layer in calorimeter.layers])
    for place, event in enumerate(events):
        axis = figure.add_subplot(1, len(events), place + 1, projection="3d")
        cells = showers.cells[event]
        hit = np.flatnonzero(cells)
        hit = hit[np.argsort(cells[hit])]
        drawn = axis.scatter(
            middle[calorimeter.layer_index[hit]],
            calorimeter.eta[hit],
            calorimeter.phi[hit],
            c=cells[hit],
            s=3 + 40 * np.sqrt(cells[hit] / cells.max()),
            norm=_log_norm(cells, 5),
            cmap=ENERGY_MAP + "_r",
            alpha=0.75,
            linewidth=0,
        )
        axis.set(xlabel="depth [mm]", ylabel="$\\eta$ [mm]", zlabel="$\\varphi$ [mm]")
        axis.set_title(f"{showers.incident_energy[event] / 1e3:.1f} GeV, {len(hit)} cells hit")
        axis.set_box_aspect((2, 1, 1))
        figure.colorbar(drawn, ax=axis, label="MeV", shrink=0.55, pad=0.08)
    figure.suptitle(title)
    return figure


# ------------------------------------------------------------------ histograms with a ratio


def ratio_panel(
    figure: Figure,
    place,
    samples: Mapping[str, np.ndarray],
    edges: np.ndarray,
    xlabel: str,
    log: str = "",
    legend: bool = False,
) -> None:
    """Densities of several samples and their ratio to the first, the reference.

    ``place`` is a cell of a grid of the figure, ``log`` any of "x", "y", "xy". Bars are statistical
    (Poisson, scaled to the reference's number of entries); entries outside ``edges`` are dropped.
    """
    grid = place.subgridspec(2, 1, height_ratios=(3, 1.1), hspace=0.04)
    upper = figure.add_subplot(grid[0])
    lower = figure.add_subplot(grid[1], sharex=upper)
    (first, reference), *others = samples.items()
    truth = _histogram(reference, edges)
    mh.histplot(
        truth, ax=upper, histtype="fill", color=GEANT4, alpha=0.55, label=first, flow="none"
    )
    mh.histplot(truth, ax=upper, yerr=False, color="#4a5560", linewidth=1, flow="none")
    for colour, (name, values) in zip(COLOURS, others, strict=False):
        drawn = _histogram(values, edges) * (len(reference) / max(len(values), 1))
        mh.histplot(drawn, ax=upper, color=colour, label=name, linewidth=1.6, flow="none")
        mh.comp.comparison(
            drawn, truth, lower, comparison="split_ratio", color=colour, flow="none", markersize=3
        )
    lower.axhline(1, color="#4a5560", lw=0.8)
    lower.set(ylim=(0.5, 1.5), xlabel=xlabel, ylabel=f"/ {first}")
    upper.set(ylabel="showers", xlim=(edges[0], edges[-1]))
    upper.tick_params(labelbottom=False)
    upper.set_xlabel("")
    if "x" in log:
        upper.set_xscale("log")
    if "y" in log:
        upper.set_yscale("log")
    if legend:
        upper.legend(fontsize="small")


def _histogram(values: np.ndarray, edges: np.ndarray) -> hist.Hist:
    histogram = hist.Hist(hist.axis.Variable(edges), storage=hist.storage.Weight())
    return histogram.fill(np.asarray(values, dtype=np.float64))


def ratio_grid(
    panels: Sequence[tuple[Mapping[str, np.ndarray], np.ndarray, str, str]],
    columns: int = 3,
    title: str = "",
) -> Figure:
    """A page of ratio panels: each (samples, edges, x label, log axes)."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = plt.figure(figsize=(4.1 * columns, 3.5 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    for number, (samples, edges, xlabel, log) in enumerate(panels):
        ratio_panel(figure, grid[number], samples, edges, xlabel, log, legend=number == 0)
    if title:
        figure.suptitle(title)
    return figure


def layer_energies(samples: Mapping[str, Showers], bins: int = 40) -> Figure:
    """Energy per layer (all, or six of a deep calorimeter) with ratio panels, log bins in MeV."""
    reference = next(iter(samples.values()))
    energies = {name: showers.layer_energies() for name, showers in samples.items()}
    truth = next(iter(energies.values()))
    panels = []
    for position in _some_layers(reference.calorimeter):
        positive = truth[:, position][truth[:, position] > 0]
        edges = np.geomspace(*np.quantile(positive, (0.005, 1.0)), bins + 1)
        panel = {name: values[:, position] for name, values in energies.items()}
        identity = reference.calorimeter.layers[position].id
        panels.append((panel, edges, f"energy in layer {identity} [MeV]", "xy"))
    return ratio_grid(panels, title="Layer energies")


def energy_response(samples: Mapping[str, Showers], bins: int = 40) -> Figure:
    """E_tot/E_inc, incident energies and the spectrum of cell energies, with ratio panels."""
    response = {k: s.total_energy() / s.incident_energy for k, s in samples.items()}
    incident = {k: s.incident_energy / 1e3 for k, s in samples.items()}
    cells = {k: s.cells[s.cells > 0] for k, s in samples.items()}
    truth = next(iter(response.values()))
    low, high = np.quantile(truth, (0.002, 0.998))
    pad = 0.15 * (high - low)
    spectrum = next(iter(cells.values()))
    span = next(iter(incident.values()))
    panels = [
        (response, np.linspace(low - pad, high + pad, bins + 1), "$E_{tot}/E_{inc}$", "y"),
        (incident, np.linspace(span.min(), span.max(), 21), "incident energy [GeV]", ""),
        (
            cells,
            np.geomspace(max(spectrum.min(), spectrum.max() * 1e-8), spectrum.max(), 50),
            "cell energy [MeV]",
            "xy",
        ),
    ]
    return ratio_grid(panels)


def observable_grid(
    observables: Mapping[str, Mapping[str, np.ndarray]],
    edges: Mapping[str, np.ndarray],
    names: Sequence[str],
    title: str = "",
) -> Figure:
    """Ratio panels of named observables; ``observables`` maps sample -> name -> (N,) values."""
    panels = [
        (
            {sample: values[name] for sample, values in observables.items()},
            edges[name],
            _label(name),
            "y",
        )
        for name in names
    ]
    return ratio_grid(panels, columns=3, title=title)


def _label(name: str) -> str:
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
    if name in words:
        return words[name]
    return words.get(kind, kind) + (f", layer {layer}" if layer else "")


# ------------------------------------------------------------------ profiles and physics


def longitudinal_profile(samples: Mapping[str, Showers]) -> Figure:
    """Mean fraction of the incident energy per layer, with the error of the mean."""
    figure, axis = plt.subplots(figsize=(6.2, 3.8), layout="constrained")
    for colour, (name, showers) in zip((GEANT4, *COLOURS), samples.items(), strict=False):
        fraction = showers.layer_energies() / showers.incident_energy[:, None]
        mean = fraction.mean(0)
        error = fraction.std(0) / np.sqrt(len(showers))
        layers = np.arange(len(mean))
        axis.errorbar(layers, mean, error, marker="o", ms=3.5, color=colour, label=name)
    identities = [layer.id for layer in showers.calorimeter.layers]
    if len(identities) <= 10:
        axis.set_xticks(layers, identities)
    axis.set(xlabel="layer", ylabel="$\\langle E_{layer}/E_{inc}\\rangle$", yscale="log")
    axis.legend()
    return figure


def response_against_energy(samples: Mapping[str, Showers], bins: int = 8) -> Figure:
    """Mean and relative spread of E_tot/E_inc in bins of incident energy."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for colour, (name, showers) in zip((GEANT4, *COLOURS), samples.items(), strict=False):
        energy = showers.incident_energy / 1e3
        response = showers.total_energy() / showers.incident_energy
        edges = np.quantile(energy, np.linspace(0, 1, bins + 1))
        place = np.clip(np.digitize(energy, edges) - 1, 0, bins - 1)
        groups = [response[place == k] for k in range(bins)]
        x = [energy[place == k].mean() for k in range(bins)]
        mean = np.array([g.mean() for g in groups])
        rms = np.array([g.std() for g in groups])
        count = np.array([len(g) for g in groups])
        axes[0].errorbar(
            x, mean, rms / np.sqrt(count), marker="o", ms=3.5, color=colour, label=name
        )
        axes[1].errorbar(
            x,
            rms / mean,
            rms / mean / np.sqrt(2 * count),
            marker="o",
            ms=3.5,
            color=colour,
            label=name,
        )
    axes[0].set(xlabel="incident energy [GeV]", ylabel="$\\langle E_{tot}/E_{inc}\\rangle$")
    axes[1].set(xlabel="incident energy [GeV]", ylabel="RMS / mean")
    axes[0].legend()
    return figure


# ------------------------------------------------------------------ training, scores, times


def loss_curve(log: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Training and validation loss of each network; ``log`` maps network -> epochs as logged."""
    figure, axes = plt.subplots(
        1, len(log), figsize=(4.6 * len(log), 3.4), squeeze=False, layout="constrained"
    )
    for axis, (network, epochs) in zip(axes[0], log.items(), strict=True):
        number = [entry["epoch"] for entry in epochs]
        axis.plot(number, [e["train_loss"] for e in epochs], color=GEANT4, label="training")
        axis.plot(
            number, [e["validation_loss"] for e in epochs], color=SURROGATE, label="validation"
        )
        best = min(epochs, key=lambda entry: entry["validation_loss"])
        axis.axvline(best["epoch"], color="#4a5560", lw=0.8, ls=":", label="weights kept")
        axis.set(title=network, xlabel="epoch", ylabel="negative log-likelihood")
        axis.legend(fontsize="small")
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
    axis.set_yticks(place, [_label(r["name"]) for r in rows], fontsize="small")
    axis.set(xlabel=xlabel)
    axis.legend()
    return figure


def times_by_batch(
    rows: Sequence[Mapping[str, object]], geant4: Mapping[str, float] | None
) -> Figure:
    """ms per shower against batch size, bars from the 16 to the 84 % quantile.

    ``rows`` have label, batch, value, low, high (ms per shower); ``geant4`` value, uncertainty.
    """
    figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained")
    labels = list(dict.fromkeys(row["label"] for row in rows))
    for colour, label in zip(COLOURS, labels, strict=False):
        own = [row for row in rows if row["label"] == label]
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
            label=label,
            capsize=3,
        )
    if geant4:
        axis.axhline(geant4["value"], color="#4a5560", label="Geant4, one shower at a time")
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
    energy: np.ndarray, milliseconds: np.ndarray, fit: Callable | None, label: str
) -> Figure:
    """Geant4's CPU time per shower (ms) against the incident energy (GeV), with its fit."""
    figure, axis = plt.subplots(figsize=(6.2, 3.8), layout="constrained")
    axis.scatter(energy, milliseconds, s=5, color=GEANT4, alpha=0.5, linewidth=0, label=label)
    if fit is not None:
        x = np.geomspace(energy.min(), energy.max(), 100)
        axis.plot(x, fit(x), color=SURROGATE, label="fit")
    axis.set(xscale="log", yscale="log", xlabel="incident energy [GeV]", ylabel="CPU ms per shower")
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
    axis.axvline(1, color="#4a5560", lw=0.8)
    axis.set_yticks(place, labels, fontsize="x-small")
    axis.set(xscale="log", xlabel="speed-up over one Geant4 process on one core")
    return figure
