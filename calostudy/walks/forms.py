"""What a dataset has beside cells: point clouds, other segmentations; as tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import h5py
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from calostudy import plots, tables
from calostudy.datasets import clouds_path, load_clouds, showers_path
from calostudy.geant4 import sidecar_path
from calostudy.metrics.forms import shifted, sizes
from calostudy.showers import Showers
from calostudy.walks.dataset import DatasetWalk

#: Showers within so many GeV of the largest incident energy are "the highest".
TOP_GEV = 10.0


def _point_clouds(walk: DatasetWalk, showers: Showers) -> Iterator[object]:
    if walk.source == "public" and not clouds_path(walk.dataset, "evaluation", "public").exists():
        return  # the grid alone was fetched: the clouds are a record of their own
    clouds = load_clouds(walk.dataset, "evaluation", walk.source, slice(0, walk.n))
    geometry, threshold = walk.entry.calorimeter, walk.entry.threshold
    yield plots.point_cloud(clouds, int(clouds.incident_energy.argmax()), geometry)
    if walk.source == "simulated":
        with h5py.File(sidecar_path(showers_path(walk.dataset, "evaluation"))) as file:
            hits = file["hits"][: len(clouds)]
        counts = sizes(clouds, hits, geometry, threshold)
        rows = size_rows(counts, clouds.incident_energy / 1e3)
        yield tables.shown(rows, "Points per shower")
    found = shifted(clouds, geometry)
    yield plots.moved_showers(found)
    yield tables.shown(shift_rows(found), "Moved showers in the box of 30 x 30 cells")


def size_rows(counts: dict[str, np.ndarray], gev: np.ndarray) -> list[dict[str, str]]:
    """The result of `sizes` beside the published figures; ``gev``: incident energies (N,)."""
    top = gev > gev.max() - TOP_GEV
    return [
        {
            "form": row["form"],
            "all incident energies": _mean(counts[row["form"]]),
            f"highest {TOP_GEV:g} GeV": _mean(counts[row["form"]][top]),
            "published": f"{row['points']:,}",
            "source": row["source"],
        }
        for row in tables.published("ild_points").to_dict("records")
    ]


def shift_rows(found: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[dict[str, str]]:
    """The result of `shifted` as a table."""
    return [
        {"incident point": words, "energy in the box": _mean(inside), "cells hit": _mean(cells)}
        for words, (inside, cells) in found.items()
    ]


def _mean(values: np.ndarray) -> str:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
    return tables.plus_minus(float(values.mean()), error)


def _segmentations(walk: DatasetWalk, showers: Showers) -> Iterator[object]:
    yield plots.segmentation_images(showers)


#: dataset -> what to show of its other forms
FORMS: dict[str, Callable[[DatasetWalk, Showers], Iterator[object]]] = {
    "ild-photons": _point_clouds,
    "segmentations": _segmentations,
}


def other_forms(walk: DatasetWalk, showers: Showers) -> list[object]:
    """Tables and figures of the forms that a dataset has beside its cells; most have none."""
    shown = list(FORMS[walk.dataset](walk, showers)) if walk.dataset in FORMS else []
    for form in shown:
        if isinstance(form, Figure):
            plt.close(form)  # else a notebook would draw it twice
    return shown
