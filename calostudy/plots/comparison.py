"""Histograms of several samples with their ratio to the first, the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import hist
import matplotlib.pyplot as plt
import mplhep as mh
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from calostudy.energies import GEV, energy_groups
from calostudy.plots.style import (
    COLOURS,
    GEANT4,
    INK,
    bins_for,
    label_of,
    log_axis,
    log_edges,
    some_layers,
)
from calostudy.showers import Showers


def ratio_panel(
    figure: Figure,
    place,
    samples: Mapping[str, np.ndarray],
    edges: np.ndarray,
    xlabel: str,
    log: str = "",
    legend: bool = False,
    ylabel: str = "showers",
) -> None:
    """Densities of several samples and their ratio to the first, the reference.

    ``place`` is a cell of a grid of the figure, ``log`` any of "x", "y", "xy". Bars are statistical
    (Poisson, scaled to the reference's number of entries); entries outside ``edges`` are dropped. A
    single sample has no panel of ratios.
    """
    (first, reference), *others = samples.items()
    if others:
        grid = place.subgridspec(2, 1, height_ratios=(3, 1.1), hspace=0.04)
        upper = figure.add_subplot(grid[0])
        lower = figure.add_subplot(grid[1], sharex=upper)
        lower.axhline(1, color=INK, lw=0.8)
    else:
        upper, lower = figure.add_subplot(place), None
    truth = _histogram(reference, edges)
    mh.histplot(
        truth, ax=upper, histtype="fill", color=GEANT4, alpha=0.55, label=first, flow="none"
    )
    error = False if others else np.sqrt(truth.values())  # none on empty bins
    mh.histplot(truth, ax=upper, yerr=error, color=INK, linewidth=1, flow="none")
    for colour, (name, values) in zip(COLOURS, others, strict=False):
        drawn = _histogram(values, edges) * (len(reference) / max(len(values), 1))
        mh.histplot(drawn, ax=upper, color=colour, label=name, linewidth=1.6, flow="none")
        mh.comp.comparison(
            drawn, truth, lower, comparison="split_ratio", color=colour, flow="none", markersize=3
        )
    if others:  # mplhep has labels and limits of its own
        lower.set(ylim=(0.5, 1.5), xlabel=xlabel, ylabel=f"/ {first}")
    upper.set(ylabel=ylabel, xlim=(edges[0], edges[-1]), xlabel="" if others else xlabel)
    upper.tick_params(labelbottom=not others)
    if "x" not in log:
        upper.xaxis.set_major_locator(MaxNLocator(5))
    if "x" in log:
        upper.set_xscale("log")
        log_axis(upper.xaxis)
    if "y" in log and truth.values().max() > 0:
        upper.set_ylim(0.5, 2 * truth.values().max())
        upper.set_yscale("log", nonpositive="clip")
        log_axis(upper.yaxis)
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


def layer_energies(samples: Mapping[str, Showers], bins: int = 40, most: int = 8) -> Figure:
    """Energy per layer (all, or ``most`` of a deep calorimeter), logarithmic bins in MeV."""
    calorimeter = next(iter(samples.values())).calorimeter
    energies = {name: showers.layer_energies() for name, showers in samples.items()}
    truth = next(iter(energies.values()))
    panels = []
    for position in some_layers(calorimeter, most, deepest=0.95):
        edges = log_edges(truth[:, position], bins_for(len(truth), bins), quantile=0.005)
        panel = {name: values[:, position] for name, values in energies.items()}
        words = f"energy in layer {calorimeter.layers[position].id} [MeV]"
        panels.append((panel, edges, words, "xy"))
    return ratio_grid(panels, columns=4 if len(panels) > 6 else 3)


def energy_response(samples: Mapping[str, Showers], bins: int = 40) -> Figure:
    """E_tot/E_inc, incident energies and the spectrum of cell energies, with ratio panels."""
    response = {k: s.total_energy() / s.incident_energy for k, s in samples.items()}
    incident = {k: s.incident_energy / GEV for k, s in samples.items()}
    cells = {k: s.cells[s.cells > 0] for k, s in samples.items()}
    truth = next(iter(response.values()))
    spectrum = next(iter(cells.values()))
    panels = [
        (response, _response_edges(truth, bins), "$E_{tot}/E_{inc}$", "y"),
        (incident, *_energy_axis(next(iter(incident.values())))),
        (
            cells,
            log_edges(spectrum[spectrum > 1e-8 * spectrum.max()], 49),
            "cell energy [MeV]",
            "xy",
        ),
    ]
    return ratio_grid(panels)


def _response_edges(values: np.ndarray, bins: int) -> np.ndarray:
    low, high = np.quantile(values, (0.002, 0.998))
    pad = 0.15 * (high - low) + 1e-4 * abs(high) + 1e-12
    return np.linspace(low - pad, high + pad, bins + 1)


def _energy_axis(energy: np.ndarray) -> tuple[np.ndarray, str, str]:
    """Edges, label and log axes for incident energies in GeV, whatever their law."""
    words = "incident energy [GeV]"
    values = np.unique(energy)
    if len(values) == 1:
        return np.linspace(0.9, 1.1, 12) * values[0], words, ""
    if len(values) <= min(32, len(energy) // 2):  # each energy in the middle of its own bin
        between = np.sqrt(values[1:] * values[:-1])
        ends = values[0] ** 2 / between[0], values[-1] ** 2 / between[-1]
        return np.concatenate([ends[:1], between, ends[1:]]), words, "x"
    low, high = values[0], values[-1]
    if np.median(energy) < 0.3 * (low + high):
        return np.geomspace(low, high, 25), words, "x"
    return np.linspace(low, high, 21), words, ""


def incident_energies(samples: Mapping[str, Showers]) -> Figure:
    """Incident energies in GeV: bins as their law asks for."""
    energies = {name: showers.incident_energy / GEV for name, showers in samples.items()}
    figure = plt.figure(figsize=(5.6, 3.4), layout="constrained")
    panel = figure.add_gridspec(1, 1)[0]
    edges, words, log = _energy_axis(next(iter(energies.values())))
    ratio_panel(figure, panel, energies, edges, words, log, legend=True)
    return figure


def response_by_energy(samples: Mapping[str, Showers], bins: int = 30, most: int = 9) -> Figure:
    """E_tot/E_inc of all showers and for each incident energy, or in bins of a continuous law."""
    reference = next(iter(samples.values()))
    response = {k: s.total_energy() / s.incident_energy for k, s in samples.items()}
    truth = next(iter(response.values()))
    panels = [
        (response, _response_edges(truth, bins_for(len(truth), bins)), "$E_{tot}/E_{inc}$, all", "")
    ]
    groups = energy_groups(reference.incident_energy, most - 1)
    for group in groups if len(groups) > 1 else []:
        low, high = (f(reference.incident_energy[group]) / GEV for f in (np.min, np.max))
        words = f"{low:.3g} GeV" if high - low < 1e-3 * high else f"{low:.3g}-{high:.3g} GeV"
        panel = {
            name: values[(s.incident_energy >= low * GEV) & (s.incident_energy <= high * GEV)]
            for (name, values), s in zip(response.items(), samples.values(), strict=True)
        }
        panels.append(
            (
                panel,
                _response_edges(truth[group], bins_for(len(group), 25)),
                f"$E_{{tot}}/E_{{inc}}$, {words}",
                "",
            )
        )
    return ratio_grid(panels, columns=3 if len(panels) <= 9 else 4)


def cell_spectrum(samples: Mapping[str, Showers], threshold: float, bins: int = 60) -> Figure:
    """Energies of the cells that received any (MeV), over all decades, and the threshold (MeV)."""
    cells = {name: showers.cells[showers.cells > 0] for name, showers in samples.items()}
    figure = plt.figure(figsize=(6.4, 3.8), layout="constrained")
    first = next(iter(cells.values()))
    edges = log_edges(first[first > 1e-10 * first.max()] if first.size else first, bins)
    edges = np.geomspace(min(edges[0], 0.7 * threshold), edges[-1], bins + 1)
    place = figure.add_gridspec(1, 1)[0]
    ratio_panel(figure, place, cells, edges, "cell energy [MeV]", "xy", ylabel="cells")
    upper = figure.axes[0]
    upper.axvline(threshold, color=INK, ls="--", lw=1, label=f"threshold, {threshold:.3g} MeV")
    upper.legend(fontsize="small")
    return figure


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
            label_of(name),
            "y",
        )
        for name in names
    ]
    return ratio_grid(panels, columns=3, title=title)
