"""The numbers per shower that classifiers and physics distances see: shapes on common scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

LOG_FLOOR = 1e-8  # MeV, inside logarithms of energies
LENGTH_SCALE = 100.0  # mm, of centres and widths


def _log(energy: np.ndarray) -> np.ndarray:
    return np.log10(energy + LOG_FLOOR)


def _length(x: np.ndarray) -> np.ndarray:
    return x / LENGTH_SCALE


SCALINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "E_layer": _log,
    "EC_eta": _length,
    "EC_phi": _length,
    "width_eta": _length,
    "width_phi": _length,
    "E_tot": _log,
    "sparsity": np.asarray,
    "EC_r": _length,
    "width_r": _length,
}
"""Group of observables -> its scale, in the order of the CaloChallenge evaluation."""


def high_level_features(
    observables: Mapping[str, np.ndarray], incident_energy: np.ndarray
) -> np.ndarray:
    """Inputs of the high-level classifier, of FPD and of KPD: float64 (N, features).

    log10 of E_inc, of each E_layer and of E_tot (MeV); centres and widths in eta, phi and r in
    units of 100 mm; sparsity. observables: after the minimum-energy cut, each (N,).
    """
    columns = [np.log10(np.asarray(incident_energy, dtype=np.float64))]
    for group, scale in SCALINGS.items():
        columns += [scale(x) for name, x in observables.items() if name.split("/")[0] == group]
    return np.stack(columns, axis=1)
