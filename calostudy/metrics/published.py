"""What others found of showers like these, beside the showers at hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from calostudy.errors import DataError
from calostudy.paths import data_dir
from calostudy.showers import Showers

ILD_MEAN_MEV = 50e3  # mean incident energy of the reference, uniform from 10 to 90 GeV


def _table(name: str, columns: list[str]) -> pd.DataFrame:
    path = data_dir() / "published" / f"{name}.csv"
    try:
        return pd.read_csv(path)[columns]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: expected a table of {', '.join(columns)} ({error})") from None


def expectations(dataset: str) -> dict[str, tuple[float, float | None, str]]:
    """Quantity -> (value, uncertainty or None, source) that others found for a dataset.

    Raises:
        DataError: the table is missing or damaged.
    """
    table = _table("expectations", ["dataset", "quantity", "value", "uncertainty", "source"])
    own = table[table["dataset"] == dataset]
    return {
        row.quantity: (
            float(row.value),
            None if pd.isna(row.uncertainty) else float(row.uncertainty),
            row.source,
        )
        for row in own.itertuples()
    }


@dataclass(frozen=True)
class LayerComparison:
    """Mean visible energy per shower and layer in MeV, (layers,), ours with its error."""

    value: np.ndarray
    error: np.ndarray
    reference: np.ndarray
    source: str

    @property
    def difference(self) -> float:
        """RMS over the layers of ours minus the reference, over the mean of the reference."""
        square = np.mean((self.value - self.reference) ** 2)
        return float(np.sqrt(square) / self.reference.mean())

    @property
    def chi2(self) -> float:
        """Sum of squared differences over ours' errors: statistical, layers as if independent."""
        good = self.error > 0
        return float((((self.value - self.reference)[good] / self.error[good]) ** 2).sum())


def ild_layers(showers: Showers) -> LayerComparison:
    """Visible energy per layer beside 100,000 photons of 10-90 GeV in ILD.

    The reference is for a mean incident energy of 50 GeV: ours is scaled to that.

    Raises:
        DataError: the table is missing or damaged, or has other layers than the showers.
    """
    table = _table("ild_reference", ["layer", "visible_MeV", "source"])
    energies = showers.layer_energies()
    if len(table) != energies.shape[1]:
        raise DataError(
            f"ild_reference.csv has {len(table)} layers, expected {energies.shape[1]}, as the "
            "showers have"
        )
    incident = showers.incident_energy.astype(np.float64)
    share = energies.sum(axis=0) / incident.sum()
    scatter = (energies - incident[:, None] * share).std(axis=0) / incident.mean()
    return LayerComparison(
        share * ILD_MEAN_MEV,
        scatter * ILD_MEAN_MEV / np.sqrt(len(showers)),
        table["visible_MeV"].to_numpy(),
        table["source"].iloc[0],
    )
