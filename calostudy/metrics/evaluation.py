"""Metrics: generated showers against reference showers, each number with its uncertainty.

`evaluate` gives a `Score` per metric: the value, its uncertainty and of which kind that is, and the
floor, the same metric between two independent Geant4 samples. The metrics are those of
:mod:`calostudy.metrics.measures`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.stats import ks_2samp
from tqdm import tqdm

from calostudy.datasets import Dataset
from calostudy.datasets import dataset as catalogue_entry
from calostudy.errors import DataError, UsageError
from calostudy.metrics import kept
from calostudy.metrics.measurement import EPOCHS, Measurement, Options, Parts
from calostudy.metrics.measures import (
    CLOUD_METRICS,
    HALF,
    METRICS,
    SHRINKING,
    TWO_SIDED,
    WHOLE,
)
from calostudy.metrics.ranges import filled_ranges
from calostudy.metrics.replicas import OUTSIDE
from calostudy.metrics.sample import RATIO, Sample
from calostudy.showers import Showers

Pair = tuple[float, float]
"""A value and its uncertainty."""

Comparisons = dict[str, tuple[Measurement, Measurement]]
"""Metric -> generated against the reference, and its floor."""

UNKNOWN: Pair = (float("nan"), float("nan"))

OTHER_UNIT = 3.0  # factor between median responses from which another unit is suspected
TINY = 1e-12

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
    details: the metric's parts by name, by_energy: the metric in ranges of the incident energy,
    each with value, uncertainty, floor, floor_uncertainty and significance. What is not a finite
    number is None.
    """

    name: str
    value: float | None
    uncertainty: float | None
    uncertainty_kind: str
    generated: int
    reference: int
    floor: float | None = None
    floor_uncertainty: float | None = None
    floor_kind: str = ""
    significance: float | None = None
    details: dict[str, dict[str, float | None]] = field(default_factory=dict, repr=False)
    by_energy: dict[str, dict[str, float | None]] = field(default_factory=dict, repr=False)
    settings: dict[str, float | int | str | None] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict:
        """Plain values for JSON."""
        return asdict(self) | {"warnings": list(self.warnings)}


# ---- evaluation -------------------------------------------------------------------------------


def _sample_warnings(generated: Sample, reference: Sample) -> tuple[str, ...]:
    warnings = []
    p_value = ks_2samp(generated.incident_energy, reference.incident_energy).pvalue
    if p_value < 1e-3:
        warnings.append(
            "the incident energies of the two samples are distributed differently "
            f"(Kolmogorov-Smirnov p = {p_value:.1e}): every metric sees that too"
        )
    if generated.empty > reference.empty + OUTSIDE:
        warnings.append(
            f"{generated.empty:.1%} of the generated showers are empty "
            f"({reference.empty:.1%} of the reference)"
        )
    outside = [sample.outside for sample in (generated, reference)]
    if outside[0] > np.nan_to_num(outside[1]) + OUTSIDE:
        known = "" if np.isnan(outside[1]) else f" ({outside[1]:.1%} of the reference's)"
        warnings.append(
            f"{outside[0]:.1%} of the energy of the generated points{known} is in no cell above "
            "the threshold: metrics of cells do not see it"
        )
    if (generated.points is None) != (reference.points is None):
        warnings.append(
            "one sample holds point clouds, the other cells alone: compared by their cells"
        )
    response = [float(np.median(s.distributions[RATIO])) for s in (generated, reference)]
    if not 1 / OTHER_UNIT < (response[0] + TINY) / (response[1] + TINY) < OTHER_UNIT:
        warnings.append(
            f"half of the generated showers deposit less than {response[0]:.3g} of their incident "
            f"energy ({response[1]:.3g} in the reference): are the cells in another unit than MeV?"
        )
    return tuple(warnings)


def check_names(metrics: Sequence[str]) -> None:
    """Raise UsageError for names that are no metric, and for none at all."""
    catalogue = METRICS | CLOUD_METRICS
    unknown = [name for name in metrics if name not in catalogue]
    if unknown or not metrics:
        raise UsageError(
            f"metrics {', '.join(unknown) or '(none)'}: choose from {', '.join(catalogue)}"
        )


def evaluate(
    generated: Showers | Sample,
    reference: Showers | Sample,
    dataset: Dataset | str,
    metrics: Sequence[str] = ("separation_power", "auc_low", "jsd_low"),
    repeats: int = 5,
    seed: int = 0,
    floor: Showers | Sample | None = None,
    *,
    hidden: int | None = None,
    epochs: int = EPOCHS,
    replicas: int = 100,
    device: str = "cpu",
    progress: bool = False,
    by_energy: bool = False,
    keep: Path | None = None,
) -> list[Score]:
    """Score generated showers against the reference, with uncertainties and the Geant4 floor.

    metrics: names of `METRICS`, and of `CLOUD_METRICS` for samples with point clouds. repeats:
    trainings of each classifier. floor: an independent Geant4 sample, of which as many showers as
    there are generated ones are compared with the reference; without it two random halves of the
    reference are compared. Floors that are noise alone are scaled from the halves' size to that of
    the comparison, those of neighbours extrapolated to it.
    hidden, epochs, device: of the classifiers; replicas: of the bootstrap.
    by_energy: also score the showers of each range of incident energies by themselves.
    keep: a folder for what is measured; a run that was killed goes on at the metric it was in.

    Raises DataError for samples that cannot be compared, UsageError for unknown names.
    """
    entry = catalogue_entry(dataset) if isinstance(dataset, str) else dataset
    check_names(metrics)
    catalogue = METRICS | CLOUD_METRICS
    generated = _sample(generated, entry, "generated", metrics)
    reference = _sample(reference, entry, "reference", metrics)
    floor = None if floor is None else _sample(floor, entry, "floor", metrics)
    pair, floor_kind = _floor_pair(len(generated), reference, floor, seed)
    options = Options(repeats, seed, hidden, epochs, replicas, device, progress)
    functions = list(dict.fromkeys(catalogue[name] for name in metrics))

    def compared(rows: Sequence, chosen: Sequence[Callable]) -> Comparisons:
        samples = [s[r] for s, r in zip((generated, reference, *pair), rows, strict=True)]
        noise = _noise(*samples[:2]) / _noise(*samples[2:])
        result = {}
        for function in tqdm(chosen, "metrics", disable=None if progress else True):
            found, floors = (
                kept.measure(function, (*two, reference), options, keep)
                for two in (samples[:2], samples[2:])
            )
            result |= {
                name: (each, _scaled(floors[name], each, noise ** SHRINKING.get(name, 0.0)))
                for name, each in found.items()
            }
        return result

    whole = compared([slice(None)] * 4, functions)
    ranges: dict[str, Comparisons] = {}
    warnings = _sample_warnings(generated, reference)
    apart = [function for function in functions if function not in WHOLE]
    if by_energy:
        samples = (generated, reference, *pair)
        filled, left_out = filled_ranges(entry, *(sample.incident_energy for sample in samples))
        warnings += left_out
        for each in filled:
            rows = [each.holds(sample.incident_energy) for sample in samples]
            ranges[each.label] = compared(rows, apart)
    sizes = len(generated), len(reference)
    return [_score(name, whole[name], ranges, sizes, floor_kind, warnings) for name in metrics]


def _sample(
    showers: Showers | Sample, entry: Dataset, label: str, metrics: Sequence[str]
) -> Sample:
    sample = showers if isinstance(showers, Sample) else Sample.of(showers, entry, label)
    if not sample.radial.any():
        raise DataError(
            f"all {len(sample):,} {label} showers are empty, expected cells with "
            f"{entry.threshold:g} MeV or more"
        )
    of_points = [name for name in metrics if name in CLOUD_METRICS]
    if of_points and sample.points is None:
        raise DataError(
            f"{', '.join(of_points)}: the {label} showers are cells alone, expected point clouds"
        )
    return sample


def _noise(a: Showers, b: Showers) -> float:
    return 1 / len(a) + 1 / len(b)


def _floor_pair(
    n: int, reference: Sample, floor: Sample | None, seed: int
) -> tuple[tuple[Sample, Sample], str]:
    """The two Geant4 samples whose difference is the floor."""
    if floor is not None:
        return (floor[:n], reference), FLOOR_SAMPLE
    half = len(reference) // 2
    if not half:
        raise DataError("the reference has one shower, expected two at least for the Geant4 floor")
    order = np.random.default_rng([seed, 2]).permutation(len(reference))
    return (reference[order[:half]], reference[order[half : 2 * half]]), FLOOR_HALVES


def _scaled(floor: Measurement, found: Measurement, factor: float) -> Measurement:
    """The floor at the size of the comparison: times `factor`, or extrapolated.

    A metric that says what half the showers give is extrapolated from n/2 and n showers by a
    straight line in the logarithm of n.
    """
    if HALF in floor.details:
        sizes = [each.settings["showers_per_sample"] for each in (found, floor)]
        doublings = float(np.log2(sizes[0] / sizes[1]))
        return replace(
            floor,
            value=np.maximum(0.0, floor.value + doublings * (floor.value - floor.details[HALF][0])),
            uncertainty=floor.uncertainty * float(np.hypot(1.0, doublings)),
        )

    def times(parts: Parts) -> Parts:
        return {name: (v * factor, u * factor) for name, (v, u) in parts.items()}

    return replace(
        floor,
        value=floor.value * factor,
        uncertainty=floor.uncertainty * factor,
        details=times(floor.details),
        by_energy=times(floor.by_energy),
    )


def _significance(name: str, found: Pair, floor: Pair) -> float | None:
    """Distance from the floor in standard deviations of both."""
    spread = float(np.hypot(found[1], floor[1]))
    difference = found[0] - floor[0]
    if name in TWO_SIDED:
        difference = abs(difference)
    return _finite(difference / spread) if spread > 0 else None


def _score(
    name: str,
    whole: tuple[Measurement, Measurement],
    ranges: Mapping[str, Comparisons],
    sizes: tuple[int, int],
    floor_kind: str,
    common: tuple[str, ...],
) -> Score:
    found, floor = whole
    significance = _significance(name, _pair(found), _pair(floor))
    warnings = [*common, *found.warnings]
    if not np.isfinite(found.value):
        warnings.append(f"{name}: not a finite number for these samples")
    if significance is not None and significance < DISTINCT:
        warnings.append(
            f"{name}: {significance:.1f} standard deviations from the floor between Geant4 "
            f"samples; this metric sees no difference with {min(sizes)} showers"
        )
    in_ranges = {
        label: tuple(map(_pair, results[name]))
        for label, results in ranges.items()
        if name in results
    }
    in_ranges |= {
        label: (pair, floor.by_energy.get(label, UNKNOWN))
        for label, pair in found.by_energy.items()
        if label in ranges
    }
    return Score(
        name=name,
        value=_finite(found.value),
        uncertainty=_finite(found.uncertainty),
        uncertainty_kind=found.kind,
        generated=sizes[0],
        reference=sizes[1],
        floor=_finite(floor.value),
        floor_uncertainty=_finite(floor.uncertainty),
        floor_kind=floor_kind,
        significance=significance,
        details={
            part: _plain(name, pair, floor.details.get(part, UNKNOWN))
            for part, pair in found.details.items()
        },
        by_energy={label: _plain(name, *pairs) for label, pairs in in_ranges.items()},
        settings={
            key: _finite(each) if isinstance(each, float) else each
            for key, each in found.settings.items()
        },
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _pair(measurement: Measurement) -> Pair:
    return measurement.value, measurement.uncertainty


def _plain(name: str, found: Pair, floor: Pair) -> dict[str, float | None]:
    return {
        "value": _finite(found[0]),
        "uncertainty": _finite(found[1]),
        "floor": _finite(floor[0]),
        "floor_uncertainty": _finite(floor[1]),
        "significance": _significance(name, found, floor),
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
