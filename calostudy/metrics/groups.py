"""Energies in groups of five consecutive layers, in ranges of incident energy.

The layer energies of F. Y. Ahmad, V. Venkataswamy, G. Fox (Evaluating Generative AI Inference
Performance on AI for Science Calorimeter Simulations), figures 3 to 12: deep calorimeters in
groups of five layers, others (CaloGAN there, dataset 1 here) layer by layer; in MeV, not relative
to the incident energy; in ranges of incident energy. The bins are those of the layer energies of
the dataset, up to the largest energy of the reference in that range.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from calostudy.calorimeter import Calorimeter
from calostudy.metrics.histograms import binning
from calostudy.metrics.measurement import Measurement, Options
from calostudy.metrics.ranges import ALL, filled_ranges
from calostudy.metrics.replicas import (
    KIND,
    pair_weights,
    parts,
    separation_replicas,
    unlike,
    with_spread,
)
from calostudy.metrics.sample import Sample

SIZE = 5  # layers of a group


def layer_groups(calorimeter: Calorimeter) -> dict[str, list[int]]:
    """Name of each group of layers -> positions of its layers in the calorimeter.

    Groups of five, the last with what is left; of fewer than two such groups, layer by layer.

    >>> from calostudy.calorimeter import calorimeter
    >>> list(layer_groups(calorimeter("ds2")))[-2:]
    ['layers 35-39', 'layers 40-44']
    >>> list(layer_groups(calorimeter("ds1-photons")))
    ['layer 0', 'layer 1', 'layer 2', 'layer 3', 'layer 12']
    """
    ids = calorimeter.layer_ids
    if len(ids) < 2 * SIZE:
        return {f"layer {number}": [position] for position, number in enumerate(ids)}
    starts = range(0, len(ids), SIZE)
    chosen = [list(range(start, min(start + SIZE, len(ids)))) for start in starts]
    return {f"layers {ids[each[0]]}-{ids[each[-1]]}": each for each in chosen}


def group_energies(
    observables: Mapping[str, np.ndarray], calorimeter: Calorimeter
) -> dict[str, np.ndarray]:
    """Energy in each group of layers, (N,) MeV, from the observables `E_layer/L`."""
    ids = calorimeter.layer_ids
    return {
        name: np.sum([observables[f"E_layer/{ids[position]}"] for position in positions], axis=0)
        for name, positions in layer_groups(calorimeter).items()
    }


def measure_groups(
    generated: Sample, reference: Sample, options: Options, ruler: Sample
) -> dict[str, Measurement]:
    """Mean separation power of the energies in groups of layers, all incident energies.

    `details` has each group in all energies and in each range, `by_energy` the means over groups.
    """
    entry = reference.entry
    samples = (generated, reference, ruler)
    ranges, warnings = filled_ranges(entry, generated.incident_energy, reference.incident_energy)
    rows = {ALL: [np.ones(len(each), bool) for each in samples]} | {
        own.label: [own.holds(each.incident_energy) for each in samples] for own in ranges
    }
    energies = [group_energies(each.observables, entry.calorimeter) for each in samples]
    weights = pair_weights(generated, reference, options)
    found, lost = {}, []
    for name in energies[0]:
        for label, held in rows.items():
            first, second, unit = (
                np.where(mask, own[name], np.nan) for mask, own in zip(held, energies, strict=True)
            )
            bins = binning(f"E_layer/{name}", entry, unit[held[2]])
            found[label, name] = separation_replicas((first, second), bins, weights)
            outside = [
                bins.indices(own[mask]) < 0
                for own, mask in zip((first, second), held, strict=False)
            ]
            if words := unlike(outside):
                lost.append(f"{name}, {label} ({words})")
    if lost:
        words = "generated and reference showers outside the histogram of the energy in"
        warnings += (f"{words} {'; '.join(lost)}",)
    means = {
        label: np.mean([each for (own, _), each in found.items() if own == label], axis=0)
        for label in rows
    }
    return {
        "separation_groups": Measurement(
            *with_spread(means.pop(ALL)),
            KIND,
            details=parts({f"{name}, {label}": each for (label, name), each in found.items()}),
            settings={"groups": len(energies[0]), "replicas": options.replicas},
            warnings=warnings,
            by_energy=parts(means),
        )
    }
