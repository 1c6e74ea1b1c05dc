"""Response: mean and RMS of E_tot/E_inc against incident energy, and chi2/NDF of its histograms.

Figures 8 to 10 and table 5 of C. Krause, I. Pang, D. Shih (CaloFlow for CaloChallenge Dataset 1,
arXiv:2210.14245): one histogram of E_tot/E_inc for each incident energy, in 30 bins (their NDF is
450 for 15 energies), mean and RMS from the histograms, without outliers, and chi2 summed over all
energies. Two rules that the paper leaves open are chosen here:

- a histogram reaches five standard deviations to both sides of the median, the standard deviation
  being half of the central 68 %; outliers are what lies beyond. Mean and RMS leave out the outliers
  of each sample, so that a response that is elsewhere as a whole is not one; in chi2 the bins are
  those of the reference, of which the outer ones hold what is beyond;
- chi2 compares two samples, each with its own statistical error, and a histogram with n filled bins
  has n - 1 degrees of freedom, since both are normalised: samples of one distribution have
  chi2/NDF = 1 on average, whatever their sizes, and a difference grows with the number of showers.

Laws of continuous energy have one histogram for each range of `energy_ranges`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from calostudy.metrics.histograms import Binning, bootstrap_weights, weighted_histograms
from calostudy.metrics.measurement import Measurement, Options
from calostudy.metrics.ranges import ALL, EnergyRange, filled_ranges
from calostudy.metrics.replicas import KIND, pair_weights, parts, unlike, with_spread
from calostudy.metrics.sample import RATIO, Sample

BINS = 30
REACH = 5.0  # standard deviations
CENTRAL = (0.1587, 0.8413)  # one standard deviation to both sides


def response_bins(reference: np.ndarray) -> Binning:
    """Bins of E_tot/E_inc around the median of the reference's values (M,).

    >>> response_bins(np.linspace(0.8, 1.0, 201)).edges[[0, -1]].round(3)
    array([0.559, 1.241])
    """
    low, middle, high = np.quantile(reference, (CENTRAL[0], 0.5, CENTRAL[1]))
    width = 0.5 * (high - low) or float(np.std(reference)) or 1.0
    edges = np.linspace(max(0.0, middle - REACH * width), middle + REACH * width, BINS + 1)
    return Binning(edges)


def mean_and_rms(
    values: np.ndarray, bins: Binning, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the values (N,) inside the bins, per column of weights (N, R).

    Two arrays (R,), NaN where nothing is inside.
    """
    inside = bins.indices(values) >= 0
    values, weights = values[inside], weights[inside]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = values @ weights / weights.sum(axis=0)
        square = ((values[:, None] - mean) ** 2 * weights).sum(axis=0) / weights.sum(axis=0)
    return mean, np.sqrt(square)


def chi_squared(generated: np.ndarray, reference: np.ndarray) -> tuple[float, int]:
    """chi2 of two histograms of counts (bins,) of samples of any size, and its degrees of freedom.

    sum (g sqrt(M/N) - r sqrt(N/M))^2 / (g + r) over the filled bins, N = sum g, M = sum r.

    >>> chi_squared(np.array([30, 10, 0]), np.array([10, 30, 0]))
    (20.0, 1)
    """
    filled = generated + reference > 0
    g, r = generated[filled].astype(float), reference[filled].astype(float)
    if not (g.any() and r.any()):
        return float("nan"), max(int(filled.sum()) - 1, 0)
    balance = np.sqrt(r.sum() / g.sum())
    return float(np.sum((g * balance - r / balance) ** 2 / (g + r))), len(g) - 1


def chi_squared_per_ndf(chi2: float, ndf: int) -> tuple[float, float]:
    """chi2/NDF and its standard deviation, that of a noncentral chi2 distribution."""
    ndf = max(ndf, 1)  # all showers of both samples in one bin: no difference
    return chi2 / ndf, float(np.sqrt(2 * ndf + 4 * max(chi2 - ndf, 0.0))) / ndf


def response_ranges(*samples: Sample) -> tuple[list[EnergyRange], tuple[str, ...]]:
    """The energies at which samples are compared: all of them together if every range is too small.

    With a warning that names the ranges left out.
    """
    found, warnings = filled_ranges(samples[0].entry, *(each.incident_energy for each in samples))
    return found or [EnergyRange(ALL, 0.0, np.inf)], warnings


def response_curve(sample: Sample, ranges: Sequence[EnergyRange], options: Options) -> np.ndarray:
    """Mean and RMS of E_tot/E_inc in each range, without the sample's outliers.

    Returns (2, 1 + R, ranges), bootstrap replicas after the numbers themselves.
    """
    weights = bootstrap_weights(len(sample), options.replicas, np.random.default_rng(options.seed))
    moments = []
    for own in ranges:
        rows = own.holds(sample.incident_energy)
        values = sample.distributions[RATIO][rows]
        moments.append(mean_and_rms(values, response_bins(values), weights[rows]))
    return np.stack(moments, axis=2)


def measure_response(
    generated: Sample, reference: Sample, options: Options, ruler: Sample
) -> dict[str, Measurement]:
    """Differences of mean and RMS of E_tot/E_inc from the reference's, and chi2/NDF.

    `mean_response` and `rms_response`: absolute relative difference, mean over the energies, with
    the signed differences in `details`. `chi2_response`: chi2/NDF of all histograms.
    """
    samples = (generated, reference)
    ranges, warnings = response_ranges(*samples)
    weights = pair_weights(generated, reference, options)
    differences: dict[str, dict[str, np.ndarray]] = {"mean_response": {}, "rms_response": {}}
    chi2 = {}
    for own in ranges:
        rows = [own.holds(each.incident_energy) for each in samples]
        bins = response_bins(ruler.distributions[RATIO][own.holds(ruler.incident_energy)])
        values = [each.distributions[RATIO][mask] for each, mask in zip(samples, rows, strict=True)]
        drawn = [each[mask] for each, mask in zip(weights, rows, strict=True)]
        windows = [response_bins(each) for each in values]
        statistics = [mean_and_rms(*each) for each in zip(values, windows, drawn, strict=True)]
        for found, first, second in zip(differences.values(), *statistics, strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):
                # no energy at all: all of the response is missing
                found[own.label] = np.nan_to_num(first / second, nan=0.0, posinf=0.0) - 1
        filled = replace(bins, open_ended=True)
        chi2[own.label] = chi_squared(
            *(weighted_histograms(v, filled, np.ones((len(v), 1)))[0] for v in values)
        )
        if words := unlike([b.indices(v) < 0 for b, v in zip(windows, values, strict=True)]):
            warnings += (
                f"response at {own.label}: of the generated and reference showers {words} are "
                "outliers, which mean and RMS leave out",
            )
    settings = {"energies": len(chi2), "bins": BINS, "replicas": options.replicas}
    total = np.sum(list(chi2.values()), axis=0)
    return {
        name: Measurement(
            *with_spread(np.mean(np.abs(list(found.values())), axis=0)),
            KIND,
            details=parts(found),
            settings=settings,
            warnings=warnings,
            by_energy=parts({label: np.abs(each) for label, each in found.items()}),
        )
        for name, found in differences.items()
    } | {
        "chi2_response": Measurement(
            *chi_squared_per_ndf(float(total[0]), int(total[1])),
            "width of the chi2 distribution",
            settings=settings | {"chi2": float(total[0]), "ndf": int(total[1])},
            warnings=warnings,
            by_energy={label: chi_squared_per_ndf(*each) for label, each in chi2.items()},
        )
    }
