"""Do the showers behave as showers should? Each check with its expectation and where that is from.

Response and its linearity, resolution, depth of the shower maximum, containment radius, pions that
do not interact, empty cells. Pure functions of ``Showers``, for any calorimeter and energy law; a
check that the energies, the particle or the calorimeter do not allow is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from calostudy.datasets import Dataset
from calostudy.energies import GEV
from calostudy.metrics import materials, profiles
from calostudy.metrics.published import expectations, ild_layers
from calostudy.showers import Showers

ELECTROMAGNETIC = ("e+", "e-", "gamma")

REVIEW = "Review of Particle Physics"

#: t_max = ln(E/E_c) + this, Review of Particle Physics, "Electromagnetic cascades".
MAXIMUM_OFFSET = {"e+": -0.5, "e-": -0.5, "gamma": 0.5}

#: Pions from this incident energy on (MeV) are seen to interact; one that leaves less than the
#: second number (MeV) in the layers of these ids has not. Ionisation is 0.27 GeV at least in the
#: CaloGAN-like stack, and counts as 0.37 GeV in the scaled liquid argon of the DS1-like one.
PASSING = {
    "calogan-piplus": (1e4, 600.0, (0, 1, 2)),
    "ds1-pions": (8e3, 800.0, (0, 1, 2, 3)),
}


@dataclass(frozen=True)
class Check:
    """A measured quantity and what it should be near.

    uncertainty: statistical, None where there is none to give; expected, expected_uncertainty: a
    number, where the expectation is one; source: where the expectation comes from, or a remark.
    """

    quantity: str
    value: float
    uncertainty: float | None
    unit: str = ""
    expected: float | None = None
    expected_uncertainty: float | None = None
    source: str = ""

    @property
    def difference(self) -> tuple[float, float] | None:
        """Measured minus expected, with both uncertainties in quadrature."""
        if self.expected is None:
            return None
        error = np.hypot(self.uncertainty or 0.0, self.expected_uncertainty or 0.0)
        return self.value - self.expected, float(error)

    @property
    def pull(self) -> float | None:
        """The difference over its uncertainty, where the expectation has an uncertainty."""
        if self.expected is None or self.expected_uncertainty is None or not self.difference[1]:
            return None
        return self.difference[0] / self.difference[1]


def deposited(showers: Showers) -> np.ndarray:
    """Energy in cells and overflow over the incident energy, (N,)."""
    total = showers.total_energy()
    if showers.overflow is not None:
        total = total + showers.overflow.sum(axis=1, dtype=np.float64)
    return total / showers.incident_energy


def checks(showers: Showers, entry: Dataset, source: str = "simulated") -> list[Check]:
    """The checks that make sense for a dataset's particle and calorimeter."""
    known = expectations(entry.name)
    found: list[Check] = [*_response(showers, entry, known)]
    if entry.calorimeter.name in materials.STACKS:
        if entry.particle in ELECTROMAGNETIC:
            found += [*_resolution(showers, entry, known)]
            found += [*_maximum(showers, entry.particle), *_containment(showers)]
        if entry.name in PASSING:
            found += [*_passing(showers, entry.name)]
    found += [*_empty(showers, entry, known, source)]
    if entry.name == "ild-photons":
        found += [*_ild(showers)]
    return [check for check in found if np.isfinite(check.value)]


def _response(showers: Showers, entry: Dataset, known: dict) -> Iterator[Check]:
    remark = {
        "ds2": "silicon over the sampling fraction of 0.033 that CaloChallenge uses",
        "ds3": "silicon over the sampling fraction of 0.033 that CaloChallenge uses",
    }.get(entry.name, "")
    name = "response" if "response" in known else "deposited / incident energy"
    value, error, origin = known.get(name, (None, None, remark))
    yield Check(name, *profiles.mean_and_error(deposited(showers)), "", value, error, origin)
    fit = profiles.slope(profiles.linearity(showers))
    if fit is None:
        return
    mean = float(profiles.weighted_response(showers).mean())
    flat = entry.particle in ELECTROMAGNETIC
    yield Check(
        "growth of the response per factor e in energy",
        fit.values["slope"] / mean,
        fit.errors["slope"] / mean,
        "",
        0.0 if flat else None,
        None,
        f"a linear calorimeter; χ²/ndf of the line {_ratio(fit)}{_weighted(entry)}"
        if flat
        else "not flat for hadrons: leakage, and other responses to π⁰ and π±",
    )


def _weighted(entry: Dataset) -> str:
    weights = materials.layer_weights(entry.calorimeter)
    return "; layers weighted by their X₀" if np.ptp(weights) else ""


def _ratio(fit: profiles.Fit) -> str:
    return f"{fit.chi2:.1f}/{fit.ndf}"


def _resolution(showers: Showers, entry: Dataset, known: dict) -> Iterator[Check]:
    fit = profiles.resolution_fit(profiles.resolution(showers))
    if fit is None:
        return
    every = materials.STACKS[entry.calorimeter.name].every_deposit
    plates = materials.STACKS[entry.calorimeter.name].default
    rule = materials.stochastic_term(plates), None, "2.7 % √(d/f), rule for liquid argon and tiles"
    if plates[-1][0] == "Si":
        rule = (*rule[:2], rule[2] + "; thin silicon is worse (CALICE: 16.6 %)")
    leaks = None, None, "no sampling: the cells hold every deposit, only leakage fluctuates"
    names = {
        "a": ("resolution, stochastic term a", "√GeV", leaks if every else rule),
        "b": ("resolution, constant term b", "", (None, None, f"χ²/ndf of the fit {_ratio(fit)}")),
    }
    for key, (name, unit, else_expected) in names.items():
        value, error, origin = known.get(name, else_expected)
        origin += _weighted(entry)
        yield Check(name, fit.values[key], fit.errors[key], unit, value, error, origin)


def _maximum(showers: Showers, particle: str) -> Iterator[Check]:
    """Shower maximum against ln(E/E_c), as the Review of Particle Physics has it."""
    plates, _ = materials.bulk(showers.calorimeter)
    critical = materials.critical_energy(plates)
    curve = profiles.shower_maximum(showers)
    if not len(curve.value):
        return
    fit = profiles.slope(curve)
    if fit is not None:
        yield Check(
            "growth of the shower maximum per factor e in energy",
            fit.values["slope"],
            fit.errors["slope"],
            "X₀",
            1.0,
            None,
            f"{REVIEW}; χ²/ndf of the line {_ratio(fit)}",
        )
    weight = curve.error**-2
    offset = curve.value - np.log(curve.energy * GEV / critical)
    few = len(materials.electromagnetic(showers.calorimeter)) < profiles.SHAPE_LAYERS
    yield Check(
        "shower maximum - ln(E/E_c)",
        float(offset @ weight / weight.sum()),
        float(weight.sum() ** -0.5),
        "X₀",
        MAXIMUM_OFFSET[particle],
        None,
        f"{REVIEW}, E_c = {critical:.2f} MeV of this stack"
        + (f"; few layers, b = {profiles.FIXED_B} assumed" if few else ""),
    )


def _containment(showers: Showers) -> Iterator[Check]:
    plates, length = materials.bulk(showers.calorimeter)
    radius = materials.moliere_radius(plates, length)
    across = profiles.lateral(showers)
    if across.pitch <= radius:
        origin = f"Molière radius of the stack, {REVIEW}; cells of {across.pitch:.2g} mm"
        yield Check(
            "r90, with 90 % of the energy", *across.contained(0.9), "mm", radius, None, origin
        )
        return
    value, error, size, position = profiles.central_share(showers)
    times = size / radius
    yield Check(
        f"energy of layer {showers.calorimeter.layers[position].id} in its central cells",
        value,
        error,
        "",
        float(np.interp(times, [0, 1, 2, 3.5], [0, 0.9, 0.95, 0.99])),
        None,
        f"{REVIEW}: 90 % within the Molière radius of {radius:.1f} mm, 95 % within two; these "
        f"cells are as large as a circle of {times:.2f}",
    )


def _passing(showers: Showers, name: str) -> Iterator[Check]:
    least, most, identities = PASSING[name]
    calorimeter = showers.calorimeter
    fast = showers.incident_energy >= least
    if not fast.any():
        return
    places = [i for i, layer in enumerate(calorimeter.layers) if layer.id in identities]
    energy = showers.layer_energies()[fast][:, places].sum(axis=1)
    if showers.overflow is not None:
        energy = energy + showers.overflow[fast].sum(axis=1)
    share = float((energy < most).mean())
    lower, higher = (float((energy < factor * most).mean()) for factor in (5 / 6, 7 / 6))
    pion, nuclear = (_lengths(calorimeter, places, kind) for kind in ("pion", "nuclear"))
    yield Check(
        f"pions above {least / GEV:g} GeV that only ionise"
        + ("" if len(places) == len(calorimeter.layers) else " before the tiles"),
        share,
        float(np.sqrt(max(share * (1 - share), 1 / len(energy)) / len(energy))),
        "",
        float(np.exp(-pion)),
        None,
        f"exp(-L/λ), L = {pion:.2f} pion interaction lengths; {np.exp(-nuclear):.3f} with the "
        f"nucleons' lengths. Ours is below {most:g} MeV, chosen at the dip of the spectrum; "
        f"{lower:.3f} below {most * 5 / 6:.0f}, {higher:.3f} below {most * 7 / 6:.0f} MeV",
    )


def _lengths(calorimeter, places: list[int], kind: str) -> float:
    periods = materials.periods(calorimeter)
    inside = sum(
        (layer.depth[1] - layer.depth[0])
        / materials.thickness(periods[i])
        * materials.interaction_lengths(periods[i], kind)
        for i, layer in enumerate(calorimeter.layers)
        if i in places
    )
    front = materials.STACKS[calorimeter.name].front
    return inside + materials.interaction_lengths(front, kind)


def _empty(showers: Showers, entry: Dataset, known: dict, source: str) -> Iterator[Check]:
    hits = profiles.occupied(showers, entry.threshold).sum(axis=1) / showers.calorimeter.cells
    name, hottest = "empty cells", "largest cell"
    expected = known.get(name, (None, None, ""))
    measured = profiles.mean_and_error(1 - hits)
    if source == "public" or name not in known:
        yield Check(name, *measured, "", *expected)
    else:
        low, high = entry.law(source).range
        remark = f"{low / GEV:g}-{high / GEV:g} GeV: not to be compared with the public energies"
        yield Check(name, *measured, source=remark)
        yield Check(
            f"{name}, extrapolated to the public energies",
            *_over_public_energies(showers.incident_energy, hits, entry),
            "",
            *expected[:2],
            f"{expected[2]}; median and spread of ten forms of extrapolation",
        )
    if hottest not in known:
        return
    expected = known[hottest]
    yield Check(hottest, float(showers.cells.max()), None, "MeV", source="of these showers")
    if source == "simulated":
        yield Check(
            f"{hottest}, extrapolated to the public energies",
            *_hottest_cell(showers, entry),
            "MeV",
            *expected[:2],
            f"{expected[2]}; the error is that of a line in ln E and of as many showers",
        )


#: Forms in which the share of cells hit is extrapolated as a polynomial in ln E: there and back.
FORMS = (
    (lambda y: y, lambda z: z),
    (np.sqrt, np.square),
    (np.cbrt, lambda z: z**3),
    (np.log, np.exp),
    (lambda y: np.log(y / (1 - y)), lambda z: 1 / (1 + np.exp(-z))),
)


def _over_public_energies(
    energy: np.ndarray, hits: np.ndarray, entry: Dataset
) -> tuple[float, float]:
    """Mean share of empty cells over the public log-uniform energies, and its uncertainty.

    Nothing says how the share of cells hit (N,) goes on beyond our energies: parabolas and cubics
    in ln E are fitted to it in every one of `FORMS`. The result is their median, and their
    standard deviation joins the statistical error.
    """
    use = (hits > 0) & (hits < 1)
    x, hits = np.log(energy[use] / entry.energies.low), hits[use]
    if len(x) < 20 or np.ptp(x) < 1:
        return float("nan"), float("nan")
    grid = np.linspace(0, np.log(entry.energies.high / entry.energies.low), 500)

    def empty(x: np.ndarray, hits: np.ndarray) -> np.ndarray:
        return np.array(
            [
                1 - np.clip(back(np.polyval(np.polyfit(x, there(hits), degree), grid)), 0, 1).mean()
                for there, back in FORMS
                for degree in (2, 3)
            ]
        )

    folds = [np.arange(len(x)) % 10 != k for k in range(10)]
    spread = np.std([np.median(empty(x[f], hits[f])) for f in folds]) * np.sqrt(9)
    values = empty(x, hits)
    return float(np.median(values)), float(np.hypot(spread, values.std(ddof=1)))


def _hottest_cell(
    showers: Showers, entry: Dataset, events: int = 3910, replicas: int = 200
) -> tuple[float, float]:
    """Largest cell in MeV among as many showers as the public number is of, and its spread.

    The logarithm of the hottest cell's share of the incident energy is fitted by a line in ln E in
    the upper half of the energies; lines within its error and residuals are drawn.
    """
    order = np.argsort(showers.incident_energy)[len(showers) // 2 :]
    x = np.log(showers.incident_energy[order] / entry.energies.low)
    if len(x) < 20 or np.ptp(x) < 1:
        return float("nan"), float("nan")
    share = np.log(showers.cells[order].max(axis=1) / showers.incident_energy[order])
    line, covariance = np.polyfit(x, share, 1, cov=True)
    late = (share - np.polyval(line, x))[len(x) // 2 :]
    rng = np.random.default_rng(0)
    energy = rng.uniform(0, np.log(entry.energies.high / entry.energies.low), (replicas, events))
    growth, offset = rng.multivariate_normal(line, covariance, replicas).T[:, :, None]
    cells = np.exp(energy + growth * energy + offset + rng.choice(late, energy.shape))
    low, middle, high = np.quantile(cells.max(axis=1) * entry.energies.low, (0.16, 0.5, 0.84))
    return float(middle), float(high - low) / 2


def _ild(showers: Showers) -> Iterator[Check]:
    compared = ild_layers(showers)
    yield Check(
        "visible energy per shower at 50 GeV",
        float(compared.value.sum()),
        float(np.sqrt((compared.error**2).sum())),
        "MeV",
        float(compared.reference.sum()),
        None,
        f"{compared.source}; ours within 30 x 30 cells, theirs within 400 mm",
    )
    yield Check(
        "energy per layer, RMS difference over the mean",
        compared.difference,
        None,
        "",
        0.0,
        None,
        f"{compared.source}; χ²-like {compared.chi2:.0f} over {len(compared.value)} layers",
    )
