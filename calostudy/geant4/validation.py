"""Physics of the simulated showers at fixed energies, beside figures by other hands.

``python -m calostudy.geant4.validation OUT.csv`` simulates a few showers per point and writes one
line per quantity, with its statistical uncertainty and, where there is one, a reference value:

- "stock": 51 e+ showers of the CaloGAN set-up by stock Geant4 10.5, in four groups of energy;
- "NRC": the prototype of this simulation with the NRC bremsstrahlung tables (``brem="sb"``).

With ``--sb`` (needs the tables, see `calostudy.geant4.environment`) the points are simulated with
both bremsstrahlung models, so that the shift of the default one can be read off.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from calostudy.calorimeter import calorimeter
from calostudy.files import atomic_path
from calostudy.geant4 import setups
from calostudy.geant4.environment import GEANT4_VERSION
from calostudy.geant4.production import sidecar_path, simulate
from calostudy.showers import Showers, read

#: Below this a 10 GeV pi+ has only ionised; its track alone leaves about 0.35 GeV.
TRACK_MEV = 600.0

#: W/Si: 3.4 mm of a layer in radiation lengths (X0: W 3.504 mm, Si 93.7 mm).
DS2_LAYER_X0 = 2 * (1.4 / 3.504 + 0.3 / 93.7)


@dataclass(frozen=True)
class Point:
    """Showers of one energy (GeV)."""

    dataset: str
    energy: float
    n: int


POINTS = (
    *(Point("calogan-eplus", e, n) for e, n in ((1, 200), (6.6, 120), (10, 120), (26.9, 40))),
    *(Point("calogan-eplus", e, n) for e, n in ((55.5, 24), (88.7, 16))),
    Point("calogan-gamma", 10, 100),
    Point("calogan-piplus", 10, 250),
    *(Point("ds2", e, n) for e, n in ((1, 200), (3, 120), (10, 80), (30, 25))),
)

#: e+ in the CaloGAN set-up, by layer: value, statistical uncertainty (None where not stated).
_EPLUS = {
    ("fraction", "stock"): {
        6.6: ((0.314, 0.047), (0.684, 0.046), (0.0015, 0.0007)),
        26.9: ((0.238, 0.033), (0.761, 0.032), (0.0013, 0.0002)),
        55.5: ((0.159, 0.013), (0.839, 0.013), (0.0017, 0.0002)),
        88.7: ((0.135, 0.008), (0.863, 0.008), (0.0021, 0.0003)),
    },
    ("occupancy", "stock"): {
        6.6: ((0.207, 0.021), (0.475, 0.052), (0.074, 0.023)),
        26.9: ((0.389, 0.012), (0.734, 0.018), (0.175, 0.026)),
        55.5: ((0.497, 0.011), (0.874, 0.010), (0.324, 0.015)),
        88.7: ((0.578, 0.015), (0.925, 0.005), (0.434, 0.011)),
    },
    ("fraction", "NRC"): {
        6.6: ((0.344, 0.006), (0.656, 0.006), (0.0008, None)),
        26.9: ((0.209, 0.004), (0.790, 0.004), (0.0013, None)),
        55.5: ((0.166, 0.005), (0.832, 0.005), (0.0021, None)),
        88.7: ((0.135, 0.004), (0.863, 0.004), (0.0020, None)),
    },
    ("occupancy", "NRC"): {
        6.6: ((0.22, None), (0.48, None), (0.04, None)),
        26.9: ((0.37, None), (0.73, None), (0.18, None)),
        55.5: ((0.47, None), (0.85, None), (0.32, None)),
        88.7: ((0.55, None), (0.91, None), (0.43, None)),
    },
}

#: (dataset, energy, quantity, source) -> (value, statistical uncertainty or None)
REFERENCE = {
    **{
        ("calogan-eplus", energy, f"{kind} layer {layer}", source): found
        for (kind, source), energies in _EPLUS.items()
        for energy, layers in energies.items()
        for layer, found in enumerate(layers)
    },
    **{("calogan-eplus", e, "visible fraction", "NRC"): (0.188, 0.001) for e in (1, 10)},
    ("calogan-piplus", 10, "non-interacting fraction", "NRC"): (0.282, None),
    **{("ds2", e, "visible fraction", "NRC"): (0.03175, 0.00015) for e in (1, 3, 10, 30)},
    **{
        ("ds2", e, "shower maximum", "NRC"): (value, None)
        for e, value in ((1, 4.19), (3, 5.33), (10, 6.52), (30, 7.68))
    },
}


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _maximum(profile: np.ndarray) -> float:
    """Depth in X0 of the maximum of a longitudinal profile: a parabola in its logarithm."""
    depth = (np.arange(len(profile)) + 0.5) * DS2_LAYER_X0
    top = int(profile.argmax())
    near = slice(max(top - 2, 0), top + 3)
    square, linear, _ = np.polyfit(depth[near], np.log(profile[near]), 2)
    return float(-linear / (2 * square))


def _jackknife(values: np.ndarray, statistic, groups: int = 10) -> tuple[float, float]:
    """``statistic`` of the mean over rows, with its uncertainty from leaving out groups of rows."""
    parts = np.array_split(np.arange(len(values)), groups)
    left = [statistic(np.delete(values, part, axis=0).mean(axis=0)) for part in parts]
    spread = np.sqrt((groups - 1) / groups * np.sum((np.array(left) - np.mean(left)) ** 2))
    return statistic(values.mean(axis=0)), float(spread)


def _common(showers: Showers, side: dict) -> dict:
    energy = showers.incident_energy
    visible = side["visible"] / energy
    n = len(energy)
    resolution = side["visible"].std(ddof=1) / side["visible"].mean()
    return {
        "deposited fraction": _mean(side["deposited"] / energy),
        "visible fraction": _mean(visible),
        "resolution x sqrt(E/GeV)": (
            float(resolution * np.sqrt(energy.mean() / 1000)),
            float(resolution * np.sqrt(energy.mean() / 1000) / np.sqrt(2 * (n - 1))),
        ),
        "cpu seconds": _mean(side["cpu_seconds"]),
        "steps per GeV": _mean(side["steps"] / energy * 1000),
    }


def _calogan(showers: Showers, side: dict) -> dict:
    layers = showers.layer_energies()
    quantities = {}
    for i, layer in enumerate(showers.calorimeter.layer_ids):
        quantities[f"fraction layer {layer}"] = _mean(layers[:, i] / showers.incident_energy)
        occupied = (showers.layer(i) > 0).mean(axis=(1, 2))
        quantities[f"occupancy layer {layer}"] = _mean(occupied)
    return quantities


def _piplus(showers: Showers, side: dict) -> dict:
    return _calogan(showers, side) | {
        "non-interacting fraction": _mean(side["deposited"] < TRACK_MEV)
    }


def _ds2(showers: Showers, side: dict) -> dict:
    empty = (showers.cells == 0).mean(axis=1)
    return {
        "shower maximum in silicon": _jackknife(showers.layer_energies(), _maximum),
        "total / incident energy": _mean(showers.total_energy() / showers.incident_energy),
        "empty voxels": _mean(empty),
    }


_QUANTITIES = {
    "calogan-eplus": _calogan,
    "calogan-gamma": _calogan,
    "calogan-piplus": _piplus,
    "ds2": _ds2,
}


def quantities(dataset: str, path: Path) -> dict[str, tuple[float, float]]:
    """Physics of a file of ``dataset`` made by `simulate`: name -> (value, uncertainty)."""
    showers = read(path, calorimeter(setups.setup(dataset).calorimeter))
    with h5py.File(sidecar_path(path)) as file:
        side = {name: file[name][:].astype(np.float64) for name in file}
    return _common(showers, side) | _QUANTITIES[dataset](showers, side)


def measure(point: Point, brem: str, seed: int, workers: int = 1) -> dict[str, tuple[float, float]]:
    """Simulate a point and return its `quantities`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "showers.h5"
        energy = {"emin": point.energy, "emax": point.energy}
        simulate(point.dataset, point.n, seed, out, workers, brem=brem, progress=False, **energy)
        return quantities(point.dataset, out)


def rows(points, brems, seed: int, workers: int = 1):
    """One dict per quantity of every point and bremsstrahlung model, and per reference."""
    for point in points:
        for brem in brems:
            for name, (value, error) in measure(point, brem, seed, workers).items():
                row = {
                    "dataset": point.dataset,
                    "particle": setups.setup(point.dataset).particle,
                    "energy_GeV": point.energy,
                    "quantity": name,
                    "source": f"this simulation, {brem}",
                    "value": f"{value:.6g}",
                    "uncertainty": f"{error:.2g}",
                    "showers": point.n,
                    "seed": seed,
                    "geant4": GEANT4_VERSION,
                }
                yield row
        for (dataset, energy, name, source), (value, error) in REFERENCE.items():
            if (dataset, energy) == (point.dataset, point.energy):
                yield {
                    "dataset": dataset,
                    "particle": setups.setup(dataset).particle,
                    "energy_GeV": energy,
                    "quantity": name,
                    "source": SOURCES[source],
                    "value": value,
                    "uncertainty": "" if error is None else error,
                    "geant4": "10.5" if source == "stock" else GEANT4_VERSION,
                }


SOURCES = {
    "stock": "51 showers of the CaloGAN set-up by stock Geant4 10.5",
    "NRC": "our measurements with NRC tables",
}

FIELDS = (
    "dataset", "particle", "energy_GeV", "quantity", "source", "value", "uncertainty", "showers",
    "seed", "geant4",
)  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="CSV file to write")
    parser.add_argument("--sb", action="store_true", help="simulate with brem='sb' as well")
    parser.add_argument("--seed", type=int, default=900)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(argv)
    brems = ("rel", "sb") if options.sb else ("rel",)
    with atomic_path(options.out) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
        writer.writeheader()
        for row in rows(POINTS, brems, options.seed, options.workers):
            writer.writerow(row)
            stream.flush()


if __name__ == "__main__":
    main()
