"""Shower-shape observables: one pass over the cells, all moments of every layer at once.

Definitions are those of the CaloChallenge evaluation (arXiv:2410.21611, section 4): for the
energies E of the cells of a layer and their positions x (eta, phi or r in mm),

    E_layer = sum E,   EC_x = sum(x E) / (sum E + eps),
    width_x = sqrt(max(0, sum(x^2 E) / (sum E + eps) - EC_x^2)),   eps = 1e-16,
    sparsity = share of the layer's cells without energy,

after every cell below the readout threshold is set to zero. On a cylindrical calorimeter eta and
phi are the Cartesian coordinates r cos(alpha) and r sin(alpha) of the cell centre, and a layer
with a single alpha bin has no centre or width in eta and phi.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numba
import numpy as np

from calostudy.calorimeter import Calorimeter
from calostudy.datasets import DATASETS, Dataset, dataset
from calostudy.errors import UsageError
from calostudy.files import atomic_path
from calostudy.showers import Showers, iterate

EPSILON = 1e-16  # in every denominator, as in the CaloChallenge evaluation
MOMENTS = ("energy", "eta", "eta2", "phi", "phi2", "r", "r2", "hits")

# A variance below this share of the second moment is float64 rounding of an exact zero
# (one hit, or all hits at one position): sums of 10^3 terms agree to some 10 epsilons.
ROUNDING = 64 * np.finfo(np.float64).eps


def observable_names(calorimeter: Calorimeter) -> list[str]:
    """Keys that `observables` returns for this calorimeter, in the order of the dictionary."""
    names = ["E_tot", *(f"E_layer/{layer.id}" for layer in calorimeter.layers)]
    for prefix in ("EC", "width"):
        for axis in ("eta", "phi"):
            names += [
                f"{prefix}_{axis}/{layer.id}"
                for layer in calorimeter.layers
                if layer.two_dimensional
            ]
        names += [f"{prefix}_r/{layer.id}" for layer in calorimeter.layers]
    return names + [f"sparsity/{layer.id}" for layer in calorimeter.layers]


def minimum_energy(calorimeter: Calorimeter) -> float:
    """The minimum cell energy in MeV of the datasets on this calorimeter.

    Raises UsageError if no dataset uses the calorimeter, or several with different thresholds.
    """
    thresholds = {
        entry.threshold for entry in DATASETS.values() if entry.calorimeter.name == calorimeter.name
    }
    if len(thresholds) != 1:
        raise UsageError(
            f"calorimeter {calorimeter.name!r}: the catalogue gives {len(thresholds)} thresholds; "
            "give the threshold in MeV"
        )
    return float(thresholds.pop())


# Sums may be reordered (vectorised), but NaN and infinity keep their meaning. One thread: the pass
# is as fast as memory, and a parallel loop of Numba would change PyTorch's number of threads.
@numba.njit(fastmath={"reassoc", "contract", "nsz"}, error_model="numpy", cache=True)
def _sum_moments(cells, positions, bounds, threshold, out):
    eta, eta2, phi, phi2, r, r2 = positions
    for i in range(cells.shape[0]):
        for layer in range(len(bounds) - 1):
            row = cells[i, bounds[layer] : bounds[layer + 1]]
            x = eta[bounds[layer] : bounds[layer + 1]]
            xx = eta2[bounds[layer] : bounds[layer + 1]]
            y = phi[bounds[layer] : bounds[layer + 1]]
            yy = phi2[bounds[layer] : bounds[layer + 1]]
            z = r[bounds[layer] : bounds[layer + 1]]
            zz = r2[bounds[layer] : bounds[layer + 1]]
            energy = sx = sxx = sy = syy = sz = szz = hits = 0.0
            for j in range(len(row)):
                value = np.float64(row[j])
                hit = 1.0 if value >= threshold else 0.0
                value *= hit
                hits += hit
                energy += value
                sx += value * x[j]
                sxx += value * xx[j]
                sy += value * y[j]
                syy += value * yy[j]
                sz += value * z[j]
                szz += value * zz[j]
            out[i, layer, 0] = energy
            out[i, layer, 1] = sx
            out[i, layer, 2] = sxx
            out[i, layer, 3] = sy
            out[i, layer, 4] = syy
            out[i, layer, 5] = sz
            out[i, layer, 6] = szz
            out[i, layer, 7] = hits


def moments(showers: Showers, threshold: float) -> np.ndarray:
    """Energy-weighted sums of every layer, float64 (N, L, 8), in the order of `MOMENTS`.

    Sums of E, eta E, eta^2 E, phi E, phi^2 E, r E, r^2 E (MeV, mm) and the number of cells with
    energy; cells strictly below `threshold` (MeV) count as empty.
    """
    calorimeter = showers.calorimeter
    # Comparing with the smallest positive number makes "no cut" count the cells with E > 0.
    cut = max(float(threshold), np.nextafter(0.0, 1.0))
    bounds = np.array([part.start for part in calorimeter.slices] + [calorimeter.cells])
    positions = tuple(
        np.ascontiguousarray(values, dtype=np.float64)
        for axis in (calorimeter.eta, calorimeter.phi, calorimeter.r)
        for values in (axis, axis**2)
    )
    out = np.empty((len(showers), len(calorimeter.layers), len(MOMENTS)))
    if len(showers):
        _sum_moments(np.ascontiguousarray(showers.cells), positions, bounds, cut, out)
    return out


def observables(showers: Showers, threshold: float | None = None) -> dict[str, np.ndarray]:
    """All observables of each shower: a dictionary of float64 arrays (N,), MeV and mm.

    Keys: `E_tot`, and for the layer with public number L `E_layer/L`, `EC_eta/L`, `EC_phi/L`,
    `EC_r/L`, `width_eta/L`, `width_phi/L`, `width_r/L`, `sparsity/L` (see `observable_names`).

    threshold: minimum cell energy in MeV, strictly smaller energies are set to zero; the default
    is the one of the datasets on this calorimeter, 0 switches the cut off.
    """
    if threshold is None:
        threshold = minimum_energy(showers.calorimeter)
    sums = moments(showers, threshold)
    layers = showers.calorimeter.layers
    energy = sums[:, :, 0]
    result = {"E_tot": energy.sum(axis=1)}
    result |= {f"E_layer/{layer.id}": energy[:, i].copy() for i, layer in enumerate(layers)}
    centres, widths = {}, {}
    for axis, column in (("eta", 1), ("phi", 3), ("r", 5)):
        for i, layer in enumerate(layers):
            if axis == "r" or layer.two_dimensional:
                weight = energy[:, i] + EPSILON
                centre = sums[:, i, column] / weight
                second = sums[:, i, column + 1] / weight
                variance = second - centre**2
                variance[variance < ROUNDING * second] = 0.0
                centres[f"EC_{axis}/{layer.id}"] = centre
                widths[f"width_{axis}/{layer.id}"] = np.sqrt(variance)
    sizes = np.array([layer.cells for layer in layers])
    sparsity = 1.0 - sums[:, :, 7] / sizes
    result |= centres | widths
    return result | {f"sparsity/{layer.id}": sparsity[:, i] for i, layer in enumerate(layers)}


def collect(chunks: Iterable[Showers], entry: Dataset) -> dict[str, np.ndarray]:
    """Observables and `incident_energy` (MeV) of a row of `Showers`, joined: arrays (N,).

    No showers at all give an empty dictionary.
    """
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("incident_energy", *observable_names(entry.calorimeter))
    }
    for part in _in_parts(chunks, entry):
        for name, pieces in parts.items():
            pieces.append(part[name])
    if not parts["incident_energy"]:
        return {}
    # one by one, so that pieces and whole are not all in memory together
    return {name: np.concatenate(parts.pop(name)) for name in list(parts)}


def _in_parts(chunks: Iterable[Showers], entry: Dataset) -> Iterator[dict[str, np.ndarray]]:
    for showers in chunks:
        energy = np.asarray(showers.incident_energy, dtype=np.float64)
        yield {"incident_energy": energy} | observables(showers, entry.threshold)


def stream_observables(
    path: str | Path, entry: Dataset | str, chunk: int = 1000
) -> dict[str, np.ndarray]:
    """Observables of a whole file in the dataset's public format, read in chunks of showers.

    Memory is one chunk of cells plus the results. Beside the keys of `observables` there is
    `incident_energy` (N,) in MeV. Raises DataError for a file that is not of the dataset's
    calorimeter or holds impossible values.
    """
    entry = dataset(entry) if isinstance(entry, str) else entry
    return collect(iterate(path, entry.calorimeter, chunk=chunk), entry)


def write_observables(
    path: str | Path, entry: Dataset | str, out: str | Path, chunk: int = 1000
) -> Path:
    """Write all observables of a file of showers to an HDF5 file, one array (N,) per key.

    Memory is a few chunks, whatever the number of showers.

    `E_layer/3` is dataset `3` of group `E_layer`, and so on; MeV and mm. The attributes name the
    dataset, its threshold and the source. Raises DataError as `stream_observables` does.
    """
    entry = dataset(entry) if isinstance(entry, str) else entry
    chunks = iterate(path, entry.calorimeter, chunk=chunk)
    with atomic_path(out) as temporary, h5py.File(temporary, "w") as file:
        while columns := collect(itertools.islice(chunks, 10), entry):
            _append(file, columns)
        file.attrs.update(
            dataset=entry.name, threshold_mev=float(entry.threshold), source=Path(path).name
        )
    return Path(out)


def _append(file: h5py.File, columns: dict[str, np.ndarray]) -> None:
    for name, values in columns.items():
        if name not in file:
            options = {"chunks": (10_000,), "compression": "gzip", "shuffle": True}
            file.create_dataset(name, (0,), values.dtype, maxshape=(None,), **options)
        before = len(file[name])
        file[name].resize(before + len(values), axis=0)
        file[name][before:] = values
