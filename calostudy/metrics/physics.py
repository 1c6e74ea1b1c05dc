"""Do the showers behave as showers should: response, resolution, depth, interaction probability.

Pure functions of ``Showers``; every number with its statistical uncertainty, energies in GeV
where a name says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import curve_fit

from calostudy.datasets import Dataset
from calostudy.showers import Showers

#: Nuclear interaction lengths in mm and thicknesses in mm along the CaloGAN shower axis: 80 x (2 mm
#: Pb + 4 mm LAr); lengths from the Particle Data Group's table of atomic and nuclear properties.
CALOGAN_INTERACTION_LENGTHS = (80 * 2 / 175.9) + (80 * 4 / 857.7)

#: A particle that only ionises leaves about 0.3 GeV in the 480 mm of lead and argon.
IONISING_GEV = 0.5


@dataclass(frozen=True)
class Check:
    """A measured quantity, its statistical uncertainty, and what it should be near."""

    quantity: str
    value: float
    uncertainty: float
    expected: str = ""


def deposited(showers: Showers) -> np.ndarray:
    """Energy in cells and overflow over the incident energy, (N,)."""
    total = showers.total_energy()
    if showers.overflow is not None:
        total = total + showers.overflow.sum(axis=1, dtype=np.float64)
    return total / showers.incident_energy


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def resolution(showers: Showers, bins: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Fit of RMS/mean of the response to a / sqrt(E / GeV) (+) b, the terms added in quadrature.

    The response is that of the cells; the showers are cut into ``bins`` of equal size in incident
    energy, and the response of each is taken relative to its mean. Returns (a, b), their errors.
    """
    order = np.argsort(showers.incident_energy)
    energy = showers.incident_energy[order] / 1e3
    response = (showers.total_energy() / showers.incident_energy)[order]
    groups = np.array_split(np.arange(len(order)), bins)
    centre = np.array([np.exp(np.log(energy[g]).mean()) for g in groups])
    spread = np.array([response[g].std(ddof=1) / response[g].mean() for g in groups])
    error = spread / np.sqrt([2 * (len(g) - 1) for g in groups])
    values, covariance = curve_fit(
        lambda e, a, b: np.sqrt(a**2 / e + b**2), centre, spread, (0.1, 0.01), sigma=error,
        absolute_sigma=True, bounds=(0, np.inf),
    )  # fmt: skip
    return values, np.sqrt(np.diag(covariance))


def mean_depth(showers: Showers) -> np.ndarray:
    """Energy-weighted depth of each shower in mm from the front face, (N,)."""
    middle = np.array([np.mean(layer.depth) for layer in showers.calorimeter.layers])
    energies = showers.layer_energies()
    return energies @ middle / np.maximum(energies.sum(axis=1), 1e-12)


def depth_growth(showers: Showers) -> tuple[float, float]:
    """Growth of the mean depth (mm) per factor e in incident energy, with its error."""
    x = np.log(showers.incident_energy)
    (slope, _), covariance = np.polyfit(x, mean_depth(showers), 1, cov=True)
    return float(slope), float(np.sqrt(covariance[0, 0]))


def checks(showers: Showers, entry: Dataset) -> list[Check]:
    """The checks that make sense for a dataset's particle and calorimeter."""
    occupied = (showers.cells >= max(entry.threshold, 1e-30)).mean(axis=1)
    result = [
        Check(
            "deposited / incident energy", *_mean(deposited(showers)), _RESPONSE.get(entry.name, "")
        ),
        Check("empty cells", *_mean(1 - occupied), _EMPTY.get(entry.name, "")),
    ]
    sampling = entry.calorimeter.name != "calogan"  # whose cells hold every deposit
    if sampling and entry.particle in ("e+", "e-", "gamma"):
        (a, b), (error_a, error_b) = resolution(showers)
        result += [
            Check("resolution, stochastic term a (GeV½)", a, error_a),
            Check("resolution, constant term b", b, error_b),
        ]
    if entry.calorimeter.name in ("ds2", "ds3"):
        result.append(
            Check(
                "growth of the mean depth per factor e in energy (mm)",
                *depth_growth(showers),
                "about one radiation length, 4.2 mm of this stack",
            )
        )
    if entry.name == "calogan-piplus":
        fast = showers[showers.incident_energy > 1e4]
        total = deposited(fast) * fast.incident_energy / 1e3
        share = float((total < IONISING_GEV).mean())
        result.append(
            Check(
                "pions above 10 GeV that only ionise",
                share,
                np.sqrt(share * (1 - share) / len(fast)),
                f"exp(-L/λ) = {np.exp(-CALOGAN_INTERACTION_LENGTHS):.3f}",
            )
        )
    return result


#: Expectations that come from elsewhere, by dataset.
_RESPONSE = {
    "calogan-eplus": "0.994 in 51 showers by stock Geant4 10.5",
    "ds2": "0.95-0.96: the evaluation of CaloChallenge divides by 0.033",
}
_EMPTY = {"ds2": "75.65 % in the public sample, whose energies reach 1 TeV"}
