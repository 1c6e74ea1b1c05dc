"""Showers moved by fractions of a cell: what a generator of points can do and one of cells cannot.

``python -m calostudy.shifts OUT.csv -n 60`` moves the same number of ILD-like showers of Geant4 and
of each model, at the same incident energies, and sums them into cells on an area nine times as
large, so that nothing is cut off (Buhmann et al., 2024, slide "No Box Cut"). Clouds move as they
are. Of cells nobody knows where in them the energy is: it is spread evenly over `FACTOR` x `FACTOR`
points of each. Geant4's own cells, treated so, tell what the grid costs whatever filled it.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from calostudy.calorimeter import Calorimeter
from calostudy.clouds import FACTOR, PointClouds
from calostudy.datasets import dataset, load_clouds
from calostudy.errors import UsageError
from calostudy.files import atomic_path
from calostudy.models import MODELS, load, shipped_weights
from calostudy.provenance import code_version
from calostudy.showers import Showers

DATASET = "ild-photons"
SHIFTS = ((0.0, 0.0), (1 / 3, 0.0), (1 / 3, 1 / 3), (0.5, 0.5))
"""In cells, along eta and phi."""
WIDER = 3
"""How many times as wide and as high the area is that showers are summed on."""
FIELDS = (
    *("showers_of", "kept_as", "shift_eta", "shift_phi", "hits", "difference", "uncertainty"),
    *("outside", "showers", "seed", "weights_sha256", "code_version"),
)


def widened(geometry: Calorimeter, times: int = WIDER) -> Calorimeter:
    """The calorimeter with cells of the same size on `times` the width and height; `times` odd.

    Raises:
        UsageError: `times` is even, so that cells would not lie where they did, or not positive.
    """
    if times < 1 or times % 2 == 0:
        raise UsageError(f"{times} times as wide: expected an odd number")
    layers = []
    for layer in geometry.layers:
        edges = tuple(
            np.linspace(times * axis[0], times * axis[-1], times * (len(axis) - 1) + 1)
            for axis in layer.edges
        )
        layers.append(replace(layer, edges=edges))
    return replace(geometry, layers=tuple(layers))


def spread_evenly(showers: Showers, factor: int = FACTOR) -> PointClouds:
    """Points instead of cells: `factor` x `factor` of equal energy in each cell, evenly placed."""
    geometry = showers.calorimeter
    shower, cell = np.nonzero(showers.cells)
    layer = np.searchsorted([s.stop for s in geometry.slices], cell, side="right")
    middle = np.array([np.mean(one.depth) for one in geometry.layers])
    centre = np.column_stack([
        np.concatenate([one.eta for one in geometry.layers])[cell],
        np.concatenate([one.phi for one in geometry.layers])[cell],
    ])  # fmt: skip
    pitch = np.array([np.diff(axis).mean() for axis in geometry.layers[0].edges])
    steps = (np.arange(factor) + 0.5) / factor - 0.5
    within = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2) * pitch
    points = len(within)
    across = (centre[:, None] + within).reshape(-1, 2)
    counts = points * np.bincount(shower, minlength=len(showers))
    return PointClouds(
        np.asarray(showers.incident_energy),
        np.concatenate([[0], np.cumsum(counts)]),
        np.column_stack([across, np.repeat(middle[layer], points)]),
        np.repeat(showers.cells[shower, cell].astype(np.float64) / points, points),
    )


def hits_moved(
    clouds: PointClouds, geometry: Calorimeter, shift: tuple[float, float], threshold: float
) -> np.ndarray:
    """Cells above the threshold (MeV) of each shower moved by `shift` cells, (N,)."""
    pitch = np.array([np.diff(axis).mean() for axis in geometry.layers[0].edges])
    moved = np.tile(np.array(shift) * pitch, (len(clouds), 1))
    showers = clouds.to_showers(geometry, shift=moved)
    return (showers.above_threshold(threshold).cells > 0).sum(axis=1)


def outside(clouds: PointClouds, geometry: Calorimeter) -> float:
    """Share of the energy that is not within the cells of a calorimeter."""
    kept = clouds.to_showers(geometry).cells.sum(dtype=np.float64)
    return 1.0 - kept / clouds.energy.sum()


def rows(contestants: Mapping[tuple[str, str], PointClouds]) -> Iterator[dict[str, float | str]]:
    """One row for each contestant and shift; the first contestant is what others differ from.

    Contestants are named by whose showers they are and what they were kept as. `difference` is
    that of the mean hits over the first's, its `uncertainty` one standard error over showers,
    which are compared one by one at the same incident energy.
    """
    entry = dataset(DATASET)
    wide = widened(entry.calorimeter)
    for shift in SHIFTS:
        truth = None
        for (whose, kept_as), clouds in contestants.items():
            hits = hits_moved(clouds, wide, shift, entry.threshold)
            truth = hits if truth is None else truth
            off = (hits - truth) / truth.mean()
            yield {
                "showers_of": whose,
                "kept_as": kept_as,
                "shift_eta": f"{shift[0]:.3f}",
                "shift_phi": f"{shift[1]:.3f}",
                "hits": f"{hits.mean():.1f}",
                "difference": f"{off.mean():.4f}",
                "uncertainty": f"{off.std(ddof=1) / len(off) ** 0.5:.4f}",
                "outside": f"{outside(clouds, entry.calorimeter):.5f}",
                "showers": len(clouds),
            }


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("-n", type=int, default=60, help="showers of each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", default="caloclouds,caloclouds-cm,l2lflows")
    options = parser.parse_args()
    entry = dataset(DATASET)
    truth = load_clouds(DATASET, "evaluation", rows=slice(0, options.n))
    cells = truth.to_showers(entry.calorimeter)
    contestants = {
        ("geant4", "points"): truth,
        ("geant4", "cells"): spread_evenly(cells),
    }
    hashes = {}
    for name in options.models.split(","):
        directory = shipped_weights(name, DATASET, "embedded") if name in MODELS else None
        if directory is None:
            parser.error(f"no weights of {name} are shipped")
        model = load(directory)
        hashes[name] = model.weights_sha256
        if hasattr(model, "sample_clouds"):
            found = model.sample_clouds(truth.incident_energy, seed=options.seed)
            contestants[name, "points"] = found
        else:
            found = model.sample(truth.incident_energy, seed=options.seed)
            contestants[name, "cells"] = spread_evenly(found)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.out) as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows(contestants):
            weights = hashes.get(row["showers_of"], "")
            made = {"seed": options.seed, "weights_sha256": weights, "code_version": code_version()}
            writer.writerow({**row, **made})


if __name__ == "__main__":
    main()
