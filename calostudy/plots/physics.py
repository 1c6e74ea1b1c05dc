"""Curves against incident energy, depth and distance from the axis, and what is fitted to them."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from calostudy.energies import GEV, energy_groups
from calostudy.metrics import materials, profiles
from calostudy.metrics.physics import MAXIMUM_OFFSET
from calostudy.metrics.published import LayerComparison
from calostudy.plots.style import COLOURS, GEANT4, INK, SURROGATE, energy_axis, some_layers
from calostudy.showers import Showers

LINES = (INK, *COLOURS)


def _points(axis, curve: profiles.Curve, colour: str, name: str, scale: float = 1.0) -> None:
    axis.errorbar(
        curve.energy,
        scale * curve.value,
        scale * curve.error,
        fmt="o",
        ms=4,
        capsize=2,
        color=colour,
        label=name,
    )


def response_against_energy(samples: Mapping[str, Showers]) -> Figure:
    """Mean of E_tot/E_inc (linearity) and RMS over mean (resolution) with a/sqrt(E) (+) b.

    Layers of thicker absorbers count more; the figure says so where there are any.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.7), layout="constrained")
    for colour, (name, showers) in zip(LINES, samples.items(), strict=False):
        mean, spread = profiles.linearity(showers), profiles.resolution(showers)
        _points(left, mean, colour, name)
        fit = profiles.resolution_fit(spread)
        words = name
        if fit is not None:
            (a, b), (da, db) = fit.values.values(), fit.errors.values()
            x = np.geomspace(spread.energy.min(), spread.energy.max(), 100)
            right.plot(x, 100 * np.hypot(a / np.sqrt(x), b), color=colour, lw=1.2)
            words += (
                f"\n({100 * a:.2f} ± {100 * da:.2f}) %/$\\sqrt{{E}}$"
                f" ⊕ ({100 * b:.2f} ± {100 * db:.2f}) %"
                f"\nχ²/ndf = {fit.chi2:.1f}/{fit.ndf}"
            )
        _points(right, spread, colour, words, 100)
        line = profiles.slope(mean)
        if line is not None:
            x = np.geomspace(mean.energy.min(), mean.energy.max(), 100)
            height = line.values["offset"] + line.values["slope"] * np.log(x)
            left.plot(x, height, color=colour, lw=1, ls=":")
    left.set(ylabel="$\\langle E_{tot}/E_{inc}\\rangle$")
    right.set(ylabel="RMS / mean [%]")
    for axis in (left, right):
        energy_axis(axis, showers.incident_energy / GEV)
        axis.legend(fontsize="small")
    right.set_ylim(bottom=0)
    if np.ptp(materials.layer_weights(showers.calorimeter)):
        figure.suptitle("layers weighted by their radiation lengths", fontsize="small")
    return figure


def longitudinal_profile(samples: Mapping[str, Showers], groups: int = 4) -> Figure:
    """Mean fraction of the incident energy per layer, with the error of the mean.

    A single sample is drawn for groups of like incident energy as well.
    """
    figure, axis = plt.subplots(figsize=(6.8, 4), layout="constrained")
    calorimeter = next(iter(samples.values())).calorimeter
    depth, unit = profiles.layer_depths(calorimeter)
    few = len(depth) <= 10
    places = np.arange(len(depth)) if few else depth
    for colour, (name, showers) in zip(LINES, samples.items(), strict=False):
        _profile(axis, places, showers, colour, name)
    parts = energy_groups(showers.incident_energy, groups) if len(samples) == 1 else []
    if 1 < len(parts) <= 32:
        chosen = [parts[i] for i in np.unique(np.linspace(0, len(parts) - 1, groups).astype(int))]
        for colour, group in zip(COLOURS, chosen, strict=False):
            energy = showers.incident_energy[group].mean() / GEV
            _profile(axis, places, showers[group], colour, f"around {energy:.3g} GeV")
    words = unit if unit == "layer" else f"middle of the layer [{unit}]"
    if few:
        ids = [f"layer {layer}" for layer in calorimeter.layer_ids]
        if unit != "layer":
            ids = [f"{i}\n{x:.3g} {unit}" for i, x in zip(ids, depth, strict=True)]
        axis.set_xticks(places, ids, fontsize="small")
        words = ""
    axis.set(xlabel=words, ylabel="$\\langle E_{layer}/E_{inc}\\rangle$", yscale="log")
    axis.legend(fontsize="small")
    return figure


def _profile(axis, depth: np.ndarray, showers: Showers, colour: str, name: str) -> None:
    fraction = showers.layer_energies() / showers.incident_energy[:, None]
    mean, error = fraction.mean(axis=0), fraction.std(axis=0) / np.sqrt(len(showers))
    shown = mean > 1.5 * error  # the axis is logarithmic
    axis.errorbar(
        depth[shown], mean[shown], error[shown], marker="o", ms=3, lw=1, color=colour, label=name
    )


def shower_maximum(samples: Mapping[str, Showers], particle: str) -> Figure | None:
    """Depth of the shower maximum against ln E, beside ln(E/E_c) -+ 0.5; None if not applicable."""
    showers = next(iter(samples.values()))
    if showers.calorimeter.name not in materials.STACKS or particle not in MAXIMUM_OFFSET:
        return None
    critical = materials.critical_energy(materials.bulk(showers.calorimeter)[0])
    figure, axis = plt.subplots(figsize=(6.2, 3.8), layout="constrained")
    for colour, (name, showers) in zip(LINES, samples.items(), strict=False):
        curve = profiles.shower_maximum(showers)
        _points(axis, curve, colour, name)
        line = profiles.slope(curve)
        if line is not None:
            x = np.geomspace(curve.energy.min(), curve.energy.max(), 50)
            values, errors = line.values, line.errors
            words = f"line, {values['slope']:.2f} ± {errors['slope']:.2f} $X_0$ per factor e"
            height = values["offset"] + values["slope"] * np.log(x)
            axis.plot(x, height, color=colour, lw=1, label=words)
    low, high = np.min(showers.incident_energy) / GEV, np.max(showers.incident_energy) / GEV
    x = np.geomspace(0.9 * low, 1.1 * high, 50)
    offset = MAXIMUM_OFFSET[particle]
    words = f"ln(E / {critical:.2f} MeV) {'-' if offset < 0 else '+'} 0.5"
    axis.plot(x, np.log(GEV * x / critical) + offset, color=SURROGATE, ls="--", label=words)
    axis.set_ylabel("shower maximum [$X_0$]")
    energy_axis(axis, showers.incident_energy / GEV)
    axis.legend(fontsize="small")
    return figure


def lateral_profile(samples: Mapping[str, Showers]) -> Figure:
    """Energy density against the distance from the axis, and the share within a radius."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.7), layout="constrained")
    calorimeter = next(iter(samples.values())).calorimeter
    for colour, (name, showers) in zip(LINES, samples.items(), strict=False):
        across = profiles.lateral(showers)
        density, error = across.density()
        shown = density > 0
        low, high = np.maximum(density - error, 0.1 * density)[shown], (density + error)[shown]
        left.stairs(
            np.where(shown, density, np.nan), across.radius, baseline=None, color=colour, label=name
        )
        middle = 0.5 * (across.radius[1:] + across.radius[:-1])[shown]
        left.vlines(middle, low, high, color=colour, lw=1)
        right.plot(across.radius, across.share.mean(axis=0), color=colour, marker=".", ms=3)
        for share, style in ((0.5, ":"), (0.9, "--")):
            radius, uncertainty = across.contained(share)
            words = f"$r_{{{100 * share:.0f}}}$ = {radius:.2f} ± {uncertainty:.2f} mm"
            right.plot([radius, radius], [0, share], color=colour, ls=style, label=words)
    pitch = across.pitch
    if calorimeter.name in materials.STACKS:
        moliere = materials.moliere_radius(*materials.bulk(calorimeter))
        words = f"Molière radius, {moliere:.1f} mm"
        right.axvline(moliere, color=SURROGATE, lw=1, label=words)
        if across.pitch > moliere:
            right.set_title("the cells do not resolve these radii", fontsize="small")
    left.set(
        yscale="log", ylabel="share of the energy per mm²", xlabel="distance from the axis [mm]"
    )
    right.set(ylabel="share of the energy inside", xlabel="radius [mm]", ylim=(0, 1.02))
    left.set_title(f"cells of about {pitch:.2g} mm where the energy is", fontsize="small")
    left.legend(fontsize="small")
    right.legend(fontsize="small", loc="lower right")
    return figure


def occupancy(samples: Mapping[str, Showers], threshold: float) -> Figure:
    """Cells at or above the threshold (MeV): all against the energy, and each layer's share."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.7), layout="constrained")
    calorimeter = next(iter(samples.values())).calorimeter
    cells = np.array([layer.cells for layer in calorimeter.layers])
    for colour, (name, showers) in zip(LINES, samples.items(), strict=False):
        hits = profiles.occupied(showers, threshold)
        total = hits.sum(axis=1)
        energy = showers.incident_energy / GEV
        if len(samples) == 1:
            left.scatter(energy, total, s=4, color=GEANT4, alpha=0.4, linewidth=0)
        curve = profiles.by_energy(
            showers, lambda group, v=total: profiles.mean_and_error(v[group])
        )
        _points(left, curve, colour, name)
        share = hits / cells
        mean, error = share.mean(axis=0), share.std(axis=0) / np.sqrt(len(showers))
        places = np.arange(len(cells))
        right.errorbar(places, mean, error, marker="o", ms=3, lw=1, color=colour, label=name)
    shown = some_layers(calorimeter, 10, deepest=1.0)
    right.set_xticks(shown, [calorimeter.layers[i].id for i in shown])
    left.set_ylabel("cells above threshold")
    energy_axis(left, energy)
    right.set(xlabel="layer", ylabel="share of cells above threshold")
    left.legend(fontsize="small")
    return figure


def layers_beside(compared: LayerComparison, name: str) -> Figure:
    """Mean visible energy per layer (MeV) beside a published reference, and their ratio."""
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(6.8, 4.6), sharex=True, height_ratios=(3, 1.2), layout="constrained"
    )
    places = np.arange(len(compared.value))
    edges = np.arange(len(places) + 1) - 0.5
    upper.stairs(
        compared.reference, edges, color=GEANT4, fill=True, alpha=0.55, label=compared.source
    )
    upper.errorbar(
        places, compared.value, compared.error, fmt="o", ms=3.5, color=SURROGATE, label=name
    )
    lower.errorbar(
        places,
        compared.value / compared.reference,
        compared.error / compared.reference,
        fmt="o",
        ms=3.5,
        color=SURROGATE,
    )
    lower.axhline(1, color=INK, lw=0.8)
    upper.set(ylabel="visible energy [MeV per shower]", ylim=(0, 1.35 * compared.reference.max()))
    upper.legend(fontsize="small", loc="upper right")
    lower.set(xlabel="layer", ylabel="/ reference")
    return figure
