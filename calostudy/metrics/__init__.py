"""Metrics: generated showers against reference showers, each number with its uncertainty.

`evaluate` gives a `Score` per metric: the value, its uncertainty and of which kind that is, and the
floor, the same metric between two independent Geant4 samples. The metrics are those of
:mod:`calostudy.metrics.measures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from scipy.stats import ks_2samp

from calostudy.datasets import Dataset
from calostudy.datasets import dataset as catalogue_entry
from calostudy.errors import DataError, UsageError
from calostudy.metrics.classifier import EPOCHS
from calostudy.metrics.measures import (
    HALF,
    METRICS,
    OUTSIDE,
    SHRINKING,
    TWO_SIDED,
    Measurement,
    Options,
)
from calostudy.showers import Showers

__all__ = ["METRICS", "Measurement", "Options", "Score", "evaluate"]

FLOOR_SAMPLE = "another Geant4 sample"
FLOOR_HALVES = "two halves of the reference"
DISTINCT = 2.0  # standard deviations above the floor from which a difference counts as seen


@dataclass(frozen=True)
class Score:
    """One metric of one generated sample.

    generated, reference: showers compared. uncertainty_kind: for example "bootstrap over
    showers" or "spread over repeats". floor: the metric between Geant4 samples, `floor_kind` says
    which. significance: distance to the floor in standard deviations; for metrics of `TWO_SIDED`
    its size, of either sign.
    details: the metric's parts by name with value, uncertainty and floor.
    """

    name: str
    value: float
    uncertainty: float | None
    uncertainty_kind: str
    generated: int
    reference: int
    floor: float | None = None
    floor_uncertainty: float | None = None
    floor_kind: str = ""
    significance: float | None = None
    details: dict[str, dict[str, float | None]] = field(default_factory=dict, repr=False)
    settings: dict[str, float | int | str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict:
        """Plain values for JSON."""
        return asdict(self) | {"warnings": list(self.warnings)}


# ---- evaluation -------------------------------------------------------------------------------


def check_compatible(
    generated: Showers, reference: Showers, entry: Dataset, label: str = "generated"
) -> None:
    """Refuse to compare what cannot be compared.

    Raises DataError for another calorimeter, no showers, energies that are not finite or negative,
    and incident energies that the dataset's law cannot give.
    """
    for name, showers in ((label, generated), ("reference", reference)):
        if showers.calorimeter.name != entry.calorimeter.name:
            raise DataError(
                f"{name} showers are on the calorimeter {showers.calorimeter.name}, "
                f"expected {entry.calorimeter.name} for {entry.name}"
            )
        if not len(showers):
            raise DataError(f"there are no {name} showers, expected at least one")
        if not np.isfinite(showers.cells.sum(dtype=np.float64)) or showers.cells.min() < 0:
            raise DataError(f"{name} showers have cells that are negative or not finite")
        energies = np.asarray(showers.incident_energy, dtype=np.float64)
        impossible = energies[~entry.energies.contains(energies)]
        if impossible.size:
            raise DataError(
                f"{name} showers: {impossible.size} of {len(showers)} incident energies are not "
                f"those of {entry.name} ({entry.energies}), the first is {impossible[0]:g} MeV"
            )


def _sample_warnings(generated: Showers, reference: Showers) -> tuple[str, ...]:
    warnings = []
    p_value = ks_2samp(generated.incident_energy, reference.incident_energy).pvalue
    if p_value < 1e-3:
        warnings.append(
            "the incident energies of the two samples are distributed differently "
            f"(Kolmogorov-Smirnov p = {p_value:.1e}): every metric sees that too"
        )
    empty = [float(np.mean(~s.cells.any(axis=1))) for s in (generated, reference)]
    if empty[0] > empty[1] + OUTSIDE:
        warnings.append(
            f"{empty[0]:.1%} of the generated showers are empty ({empty[1]:.1%} of the reference)"
        )
    return tuple(warnings)


def evaluate(
    generated: Showers,
    reference: Showers,
    dataset: Dataset | str,
    metrics: Sequence[str] = ("separation_power", "auc_low", "jsd_low"),
    repeats: int = 5,
    seed: int = 0,
    floor: Showers | None = None,
    *,
    hidden: int | None = None,
    epochs: int = EPOCHS,
    replicas: int = 100,
    device: str = "cpu",
    progress: bool = False,
) -> list[Score]:
    """Score generated showers against the reference, with uncertainties and the Geant4 floor.

    metrics: names of `METRICS`. repeats: trainings of each classifier. floor: an independent
    Geant4 sample, of which as many showers as there are generated ones are compared with the
    reference; without it two random halves of the reference are compared. Floors that are noise
    alone are scaled from the halves' size to that of the comparison, those of neighbours
    extrapolated to it.
    hidden, epochs, device: of the classifiers; replicas: of the bootstrap.

    Raises DataError for samples that cannot be compared, UsageError for unknown names.
    """
    entry = catalogue_entry(dataset) if isinstance(dataset, str) else dataset
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise UsageError(
            f"metrics {', '.join(unknown) or '(none)'}: choose from {', '.join(METRICS)}"
        )
    check_compatible(generated, reference, entry)
    options = Options(repeats, seed, hidden, epochs, replicas, device, progress)
    pair, floor_kind = _floor_pair(len(generated), reference, floor, entry, seed)
    common = _sample_warnings(generated, reference)

    found: dict[str, Measurement] = {}
    floors: dict[str, Measurement] = {}
    for function in dict.fromkeys(METRICS[name] for name in metrics):
        found |= function(generated, reference, entry, options, reference)
        floors |= function(*pair, entry, options, reference)
    noise = _noise(generated, reference) / _noise(*pair)
    sizes = len(generated), len(reference)
    return [
        _score(
            name,
            found[name],
            _scaled(_at_size(floors[name], found[name]), noise ** SHRINKING.get(name, 0.0)),
            sizes,
            floor_kind,
            common,
        )
        for name in metrics
    ]


def _noise(a: Showers, b: Showers) -> float:
    return 1 / len(a) + 1 / len(b)


def _floor_pair(
    n: int, reference: Showers, floor: Showers | None, entry: Dataset, seed: int
) -> tuple[tuple[Showers, Showers], str]:
    """The two Geant4 samples whose difference is the floor."""
    if floor is not None:
        check_compatible(floor, reference, entry, label="floor")
        return (floor[:n], reference), FLOOR_SAMPLE
    order = np.random.default_rng([seed, 2]).permutation(len(reference))
    half = len(reference) // 2
    if not half:
        raise DataError("the reference has one shower, expected two at least for the Geant4 floor")
    halves = reference[np.sort(order[:half])], reference[np.sort(order[half : 2 * half])]
    return halves, FLOOR_HALVES


def _at_size(floor: Measurement, found: Measurement) -> Measurement:
    """The floor of a metric that says what half the showers give, at the size of the comparison.

    From n/2 and n showers by a straight line in the logarithm of n.
    """
    if HALF not in floor.details:
        return floor
    sizes = [each.settings["showers_per_sample"] for each in (found, floor)]
    doublings = float(np.log2(sizes[0] / sizes[1]))
    return replace(
        floor,
        value=max(0.0, floor.value + doublings * (floor.value - floor.details[HALF][0])),
        uncertainty=floor.uncertainty * float(np.hypot(1.0, doublings)),
    )


def _scaled(measurement: Measurement, factor: float) -> Measurement:
    return Measurement(
        measurement.value * factor,
        measurement.uncertainty * factor,
        measurement.kind,
        {name: (v * factor, u * factor) for name, (v, u) in measurement.details.items()},
        measurement.settings,
        measurement.warnings,
    )


def _score(
    name: str,
    found: Measurement,
    floor: Measurement,
    sizes: tuple[int, int],
    floor_kind: str,
    common: tuple[str, ...],
) -> Score:
    spread = float(np.hypot(found.uncertainty, floor.uncertainty))
    difference = found.value - floor.value
    if name in TWO_SIDED:
        difference = abs(difference)
    significance = difference / spread if spread > 0 else None
    warnings = [*common, *found.warnings]
    if significance is not None and significance < DISTINCT:
        warnings.append(
            f"{name}: {significance:.1f} standard deviations from the floor between Geant4 "
            f"samples; this metric sees no difference with {min(sizes)} showers"
        )
    return Score(
        name=name,
        value=found.value,
        uncertainty=_finite(found.uncertainty),
        uncertainty_kind=found.kind,
        generated=sizes[0],
        reference=sizes[1],
        floor=floor.value,
        floor_uncertainty=_finite(floor.uncertainty),
        floor_kind=floor_kind,
        significance=significance,
        details={
            part: {
                "value": value,
                "uncertainty": _finite(uncertainty),
                "floor": floor.details.get(part, (None, None))[0],
            }
            for part, (value, uncertainty) in found.details.items()
        },
        settings=found.settings,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
