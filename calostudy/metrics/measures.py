"""The catalogue of metrics: what `evaluate` computes, each as a function of two samples.

A metric is one function in `METRICS`, of (generated, reference, options, the sample that decides
bins and units); adding one there is all that a new metric needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from calostudy.metrics import distances
from calostudy.metrics.classifier import Classification, classify
from calostudy.metrics.cloud_shapes import CLOUD, measure_clouds, measure_profiles
from calostudy.metrics.features import high_level_features
from calostudy.metrics.groups import measure_groups
from calostudy.metrics.histograms import mean_separation, separations
from calostudy.metrics.measurement import Measurement, Options
from calostudy.metrics.neighbours import HALVES, NAMES, NEIGHBOURS, log_cells, neighbour_metrics
from calostudy.metrics.ranges import energy_ranges
from calostudy.metrics.replicas import KIND, OUTSIDE, parts, with_spread
from calostudy.metrics.response import measure_response
from calostudy.metrics.sample import RATIO, Sample
from calostudy.metrics.shapes import measure_shapes
from calostudy.metrics.spectra import measure_spectra
from calostudy.metrics.texture import measure_texture

EMPTY_CELL = 0.1  # MeV, in logarithms of cells: of the CaloChallenge evaluation
HALF = "half the showers"  # detail of a metric: what half as many showers give
PER_FEATURE = 5  # showers in an FPD batch, below which its covariance is mostly noise
MOST_NEIGHBOURS = 10_000  # showers per sample in the search for neighbours


# ---- the metrics ------------------------------------------------------------------------------


def measure_separation(
    generated: Sample, reference: Sample, options: Options, ruler: Sample
) -> dict[str, Measurement]:
    """Mean separation power over all observables; `details` has each."""
    table = separations(
        generated,
        reference,
        replicas=options.replicas,
        seed=options.seed,
        bins_from=ruler,
    )
    value, uncertainty = mean_separation(table)
    lost = [
        f"separation power of {name}: {s.generated_outside:.1%} of the generated and "
        f"{s.reference_outside:.1%} of the reference entries lie outside the histogram"
        for name, s in table.items()
        if abs(s.generated_outside - s.reference_outside) > OUTSIDE
    ]
    return {
        "separation_power": Measurement(
            value,
            uncertainty,
            KIND,
            details={name: (s.value, s.uncertainty) for name, s in table.items()},
            settings={"observables": len(table), "replicas": options.replicas},
            warnings=tuple(lost),
        )
    }


def _classifier(inputs: str) -> Callable[..., dict[str, Measurement]]:
    def measure(
        generated: Sample, reference: Sample, options: Options, ruler: Sample
    ) -> dict[str, Measurement]:
        generated, reference, note = _equal_sizes(generated, reference, options.seed, "classifier")
        result = classify(
            generated.showers,
            reference.showers,
            reference.entry,
            inputs=inputs,
            hidden=options.hidden,
            repeats=options.repeats,
            epochs=options.epochs,
            seed=options.seed,
            device=options.device,
            progress=options.progress,
        )
        energies = generated.incident_energy, reference.incident_energy
        ranges = energy_ranges(reference.entry)
        return {
            f"{score}_{inputs.replace('-', '_')}": replace(
                _summary(result, score, note, options),
                by_energy=result.by_range(*energies, ranges, score),
            )
            for score in ("auc", "jsd")
        }

    measure.__qualname__ = f"measure_{inputs}"
    measure.__doc__ = f"AUC and JSD of the classifier with {inputs}-level inputs."
    return measure


def _summary(
    result: Classification, score: str, note: tuple[str, ...], options: Options
) -> Measurement:
    value, uncertainty, kind = result.summary(score)
    settings = {
        "showers_per_class": "/".join(map(str, result.showers)),
        "hidden": result.hidden,
        "epochs": result.epochs,
        "repeats": options.repeats,
    }
    return Measurement(value, uncertainty, kind, {}, settings, note + result.warnings)


def _equal_sizes(
    generated: Sample, reference: Sample, seed: int, what: str
) -> tuple[Sample, Sample, tuple[str, ...]]:
    """Cut the larger sample, at random, to the size of the smaller: `what` needs that."""
    sizes = len(generated), len(reference)
    n = min(sizes)
    if sizes == (n, n):
        return generated, reference, ()
    rows = np.sort(np.random.default_rng([seed, 1]).choice(max(sizes), n, replace=False))
    note = (f"{what}: {n} of the {max(sizes)} showers of the larger sample, drawn at random",)
    if sizes[0] > n:
        return generated[rows], reference, note
    return generated, reference[rows], note


measure_low = _classifier("low")
measure_high = _classifier("high")
measure_low_normed = _classifier("low-normed")
measure_resnet = _classifier("resnet")


def _features(sample: Sample) -> np.ndarray:
    return high_level_features(sample.observables, sample.incident_energy)


def measure_physics_distances(
    generated: Sample, reference: Sample, options: Options, ruler: Sample
) -> dict[str, Measurement]:
    """FPD and KPD on the inputs of the high-level classifier."""
    x, y = distances.scaled(
        *(_features(sample) for sample in (generated, reference)), _features(ruler)
    )
    smaller = min(len(x), len(y))
    seed = distances.SEED + options.seed
    frechet = distances.frechet_physics_distance(x, y, seed=seed)
    batches = distances.kernel_batches(x, y, seed=seed)
    size = min(distances.KERNEL_SIZE, smaller)
    note = []
    if smaller < distances.FRECHET_SIZES[1]:
        note.append(
            f"FPD and KPD: batches of {frechet.sizes[0]:,} to {frechet.sizes[-1]:,} and {size:,} "
            "showers drawn from these samples; published values have batches of 10,000 to 50,000 "
            "and 10,000: not comparable with them"
        )
    if frechet.sizes[0] < PER_FEATURE * x.shape[1]:
        note.append(
            f"FPD: batches of {frechet.sizes[0]:,} showers do not determine the covariance of "
            f"{x.shape[1]} features: far from 0 for Geant4 itself, compare with the floor alone"
        )
    return {
        "fpd": Measurement(
            frechet.value,
            float(np.hypot(frechet.fit_error, frechet.spread)),
            "bootstrap over showers and fit",
            details={"extrapolation": (frechet.value, frechet.fit_error)},
            settings={
                "features": x.shape[1],
                "batch_sizes": "/".join(map(str, frechet.sizes)),
                "batches": distances.FRECHET_BATCHES,
                "seed": seed,
            },
            warnings=tuple(note),
        ),
        "kpd": Measurement(
            *distances.median_and_spread(batches),
            "spread over batches of showers",
            settings={
                "features": x.shape[1],
                "batch_size": size,
                "batches": len(batches),
                "seed": seed,
            },
            warnings=tuple(note[:1]),
        ),
    }


def measure_neighbours(
    generated: Sample, reference: Sample, options: Options, ruler: Sample
) -> dict[str, Measurement]:
    """Precision, recall, density and coverage in the space of the cells' logarithms."""
    generated, reference, note = _equal_sizes(generated, reference, options.seed, "neighbours")
    if len(generated) > MOST_NEIGHBOURS:
        note += (
            f"neighbours: {MOST_NEIGHBOURS:,} of the {len(generated):,} showers of each, at random",
        )
        rng = np.random.default_rng([options.seed, 3])
        generated, reference = (
            sample[rng.choice(len(sample), MOST_NEIGHBOURS, replace=False)]
            for sample in (generated, reference)
        )
    # The published 0.1 MeV for empty cells would be above the threshold of a CaloGAN cell.
    entry = reference.entry
    official = entry.calorimeter.file_format == "calochallenge"
    empty = EMPTY_CELL if official else entry.threshold
    points = [
        log_cells(sample.showers.above_threshold(entry.threshold).cells, empty)
        for sample in (generated, reference)
    ]
    settings = {
        "neighbours": NEIGHBOURS,
        "empty_cell_MeV": empty,
        "halves": HALVES,
        "showers_per_sample": len(generated),
    }
    found = neighbour_metrics(*points, seed=options.seed)
    return {
        name: Measurement(
            *found[name],
            "spread over halves of both samples",
            {HALF: found[f"{name}/half"]},
            settings,
            note,
        )
        for name in NAMES
    }


def measure_correlations(
    generated: Sample, reference: Sample, options: Options, ruler: Sample
) -> dict[str, Measurement]:
    """Mean absolute difference of the Pearson coefficients of pairs of layer energies."""
    layers = [sample.layer_energies for sample in (generated, reference)]
    found = distances.correlation_distance(*layers, options.replicas, options.seed)
    settings = {"layers": layers[0].shape[1], "replicas": options.replicas}
    return {"pcc": Measurement(*found, KIND, settings=settings)}


def measure_wasserstein(
    generated: Sample, reference: Sample, options: Options, ruler: Sample
) -> dict[str, Measurement]:
    """Mean Wasserstein distance of the observables in standard deviations of the reference."""
    first, second, unit = (
        {n: v for n, v in sample.distributions.items() if not n.startswith(f"{RATIO}/")}
        for sample in (generated, reference, ruler)
    )
    found = distances.wasserstein_distances(first, second, unit, options.replicas, options.seed)
    left_out = sorted(set(unit) - set(found))
    differ = [n for n in left_out if not np.isin(first[n], unit[n]).all()]
    note = [f"wasserstein: {n} is constant in the reference and left out" for n in differ]
    mean = np.mean(list(found.values()), axis=0)
    return {
        "wasserstein": Measurement(
            *with_spread(mean),
            KIND,
            details=parts(found),
            settings={"observables": len(found), "replicas": options.replicas},
            warnings=tuple(note),
        )
    }


Metric = Callable[[Sample, Sample, Options, Sample], dict[str, Measurement]]

METRICS: dict[str, Metric] = {
    "separation_power": measure_separation,
    "separation_groups": measure_groups,
    "separation_spectra": measure_spectra,
    "separation_shapes": measure_shapes,
    "separation_hits": measure_profiles,
    "separation_longitudinal": measure_profiles,
    "separation_radial": measure_profiles,
    "wasserstein": measure_wasserstein,
    "wasserstein_shapes": measure_shapes,
    "wasserstein_hits": measure_profiles,
    "wasserstein_longitudinal": measure_profiles,
    "wasserstein_radial": measure_profiles,
    "mean_response": measure_response,
    "rms_response": measure_response,
    "chi2_response": measure_response,
    "pcc": measure_correlations,
    "pcc_neighbours": measure_texture,
    "morans_i": measure_texture,
    "fpd": measure_physics_distances,
    "kpd": measure_physics_distances,
    "precision": measure_neighbours,
    "recall": measure_neighbours,
    "density": measure_neighbours,
    "coverage": measure_neighbours,
    "auc_low": measure_low,
    "jsd_low": measure_low,
    "auc_high": measure_high,
    "jsd_high": measure_high,
    "auc_low_normed": measure_low_normed,
    "jsd_low_normed": measure_low_normed,
    "auc_resnet": measure_resnet,
    "jsd_resnet": measure_resnet,
}
"""Metric name -> function of (generated, reference, options, sample that decides bins and units).

One function may give several metrics, which it computes together.
"""

CLOUD_METRICS: dict[str, Metric] = {
    f"{CLOUD}{name}": measure_clouds
    for name, metric in METRICS.items()
    if metric is measure_profiles
}
"""The same for samples with point clouds."""

DEFAULT = tuple(
    name for name, metric in METRICS.items() if metric not in (measure_low_normed, measure_resnet)
)
"""All but the two classifiers that take longest and see least beyond the others."""

# Between samples of one distribution these are noise alone, a power of 1/N + 1/M: which one.
SHRINKING: dict[str, float] = {
    "separation_power": 1.0,
    "separation_groups": 1.0,
    "separation_spectra": 1.0,
    "separation_shapes": 1.0,
    "separation_hits": 1.0,
    "separation_longitudinal": 1.0,
    "separation_radial": 1.0,
    "wasserstein": 0.5,
    "wasserstein_shapes": 0.5,
    "wasserstein_hits": 0.5,
    "wasserstein_longitudinal": 0.5,
    "wasserstein_radial": 0.5,
    "mean_response": 0.5,
    "rms_response": 0.5,
    "pcc": 0.5,
    "pcc_neighbours": 0.5,
    "morans_i": 0.5,
    "fpd": 1.0,
    "kpd": 1.0,
}
SHRINKING |= {name: SHRINKING[name.removeprefix(CLOUD)] for name in CLOUD_METRICS}

# A difference on either side of the floor is one: a model that keeps to the crowded places has a
# higher density and precision than Geant4 itself.
TWO_SIDED = frozenset({"precision", "recall", "density", "coverage"})

# Computed once for all incident energies, these say themselves what each range gives.
WHOLE = frozenset(
    {
        measure_low,
        measure_high,
        measure_low_normed,
        measure_resnet,
        measure_groups,
        measure_response,
    }
)
