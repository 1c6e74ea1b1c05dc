"""The physics checks find what was put into showers made of formulas."""

import numpy as np
import pytest
from toy_showers import toy_showers

from calostudy.calorimeter import calorimeter
from calostudy.datasets import DATASETS, dataset
from calostudy.errors import DataError
from calostudy.metrics import materials, profiles, published
from calostudy.metrics.physics import Check, checks
from calostudy.showers import Showers
from calostudy.tables import check_rows


def showers_of(name: str, energies, layers, radial=None) -> Showers:
    """Showers with these energies per layer (N, layers), spread by ``radial(r)`` over the cells."""
    geometry = dataset(name).calorimeter
    weights = (np.ones_like(geometry.r) if radial is None else radial(geometry.r)) * geometry.size
    for place in geometry.slices:
        weights[place] /= weights[place].sum()
    cells = layers[:, geometry.layer_index] * weights
    return Showers(geometry, np.asarray(energies, dtype=float), cells.astype(np.float32))


def em_showers(name: str, n: int, offset: float, seed: int = 1, growth: float = 1.0) -> Showers:
    """Showers whose maximum lies at growth * ln(E/E_c) + offset, with some fluctuation."""
    geometry = dataset(name).calorimeter
    rng = np.random.default_rng(seed)
    energies = rng.uniform(5e3, 9e4, n)
    critical = materials.critical_energy(materials.bulk(geometry)[0])
    maxima = growth * np.log(energies / critical) + offset + rng.normal(0, 0.2, n)
    model = profiles.shower_shape(geometry)
    shares = np.array([model(None, 1 + 0.5 * t, 0.5) for t in maxima])
    layers = np.zeros((n, len(geometry.layers)))
    layers[:, materials.electromagnetic(geometry)] = shares * energies[:, None]
    return showers_of(name, energies, layers)


def found(showers: Showers, name: str) -> dict[str, Check]:
    return {check.quantity: check for check in checks(showers, dataset(name))}


@pytest.mark.parametrize("name", ["ds2", "calogan-eplus", "ds1-photons", "ild-photons"])
def test_the_shower_maximum_is_found_where_it_was_put(name):
    result = found(em_showers(name, 400, offset=0.3), name)
    growth = result["growth of the shower maximum per factor e in energy"]
    assert growth.value == pytest.approx(1.0, abs=0.08)
    assert abs(growth.difference[0]) < 5 * growth.uncertainty
    assert result["shower maximum - ln(E/E_c)"].value == pytest.approx(0.3, abs=0.1)


def test_a_maximum_that_grows_too_fast_is_told():
    result = found(em_showers("ds2", 400, offset=0.0, growth=1.4), "ds2")
    growth = result["growth of the shower maximum per factor e in energy"]
    assert growth.value == pytest.approx(1.4, abs=0.08)
    assert growth.difference[0] > 5 * growth.difference[1]


def test_the_resolution_fit_finds_both_terms():
    rng = np.random.default_rng(0)
    energies = np.exp(rng.uniform(np.log(1e3), np.log(1e5), 8000))
    sigma = np.hypot(0.12 / np.sqrt(energies / 1e3), 0.02)
    layers = np.zeros((len(energies), 3))
    layers[:, 1] = energies * rng.normal(0.9, 0.9 * sigma)
    showers = showers_of("calogan-eplus", energies, layers)
    fit = profiles.resolution_fit(profiles.resolution(showers))
    for term, truth in (("a", 0.12), ("b", 0.02)):
        assert abs(fit.values[term] - truth) < 4 * fit.errors[term]
        assert fit.errors[term] < 0.2 * truth
    assert fit.chi2 < 4 * fit.ndf


def test_a_response_without_a_peak_has_no_resolution_fit():
    rng = np.random.default_rng(0)
    energies = rng.uniform(1e4, 1e5, 500)
    layers = np.zeros((500, 3))
    layers[:, 1] = energies * rng.choice([0.01, 0.8], 500)
    showers = showers_of("calogan-piplus", energies, layers)
    assert profiles.resolution_fit(profiles.resolution(showers)) is None


def test_a_response_that_grows_with_the_logarithm_is_told():
    energies = np.geomspace(1e3, 1e5, 600)
    layers = np.zeros((600, 3))
    noise = np.random.default_rng(0).normal(0, 0.01, 600)
    layers[:, 1] = energies * (0.9 + 0.02 * np.log(energies / 1e3) + noise)
    check = found(showers_of("calogan-eplus", energies, layers), "calogan-eplus")[
        "growth of the response per factor e in energy"
    ]
    mean = 0.9 + 0.02 * np.log(10)
    assert check.value == pytest.approx(0.02 / mean, rel=0.05)
    assert check.difference[0] > 10 * check.difference[1]


def test_layers_of_thicker_absorbers_count_more():
    geometry = dataset("ild-photons").calorimeter
    energies = np.geomspace(1e4, 9e4, 300)
    noise = np.random.default_rng(0).normal(0, 0.01, 300)
    layers = np.zeros((300, 30))
    late = np.linspace(0.1, 0.6, 300)  # of the energy in layers that sample half as often
    layers[:, 10] = energies * (1 - late) * (0.02 + 0.02 * noise)
    layers[:, 25] = energies * late * (0.02 + 0.02 * noise) / materials.layer_weights(geometry)[25]
    showers = showers_of("ild-photons", energies, layers)
    result = found(showers, "ild-photons")
    growth = result["growth of the response per factor e in energy"]
    assert abs(growth.value) < 4 * growth.uncertainty
    assert "weighted" in growth.source
    assert result["response"].value < 0.95 * 0.02  # what is seen is as it is


@pytest.mark.parametrize("name", ["ds2", "ild-photons", "segmentations", "ds1-photons"])
def test_the_radius_with_90_percent_of_the_energy_is_found(name):
    scale = 12.0 if name != "segmentations" else 25.0

    def density(r):  # 90 % inside 3.89 scales, as the integral of r exp(-r) has it
        return np.exp(-r / scale)

    entry = dataset(name)
    energies = np.full(60, 50e3)
    layers = np.zeros((60, len(entry.calorimeter.layers)))
    layers[:, 1] = energies
    across = profiles.lateral(showers_of(name, energies, layers, density))
    edge = max(entry.calorimeter.layers[1].edges[1])
    r = np.linspace(0, edge, 4001)
    inside = np.cumsum(r * density(r))
    truth = r[np.searchsorted(inside, 0.9 * inside[-1])]
    assert across.contained(0.9)[0] == pytest.approx(truth, rel=0.06)
    assert np.all(np.diff(across.share.mean(axis=0)) >= -1e-9)


def test_coarse_cells_are_not_asked_for_a_radius():
    quantities = found(toy_showers("calogan-eplus", 100, 1), "calogan-eplus")
    assert "r90, with 90 % of the energy" not in quantities
    assert any(name.endswith("in its central cells") for name in quantities)


def test_the_axis_of_showers_beside_the_centre_is_found():
    geometry = dataset("ild-photons").calorimeter
    cells = np.zeros((5, geometry.cells), np.float32)
    cells[:, np.flatnonzero(np.hypot(geometry.eta - 12.72, geometry.phi + 7.63) < 0.1)] = 1.0
    showers = Showers(geometry, np.full(5, 1e4), cells)
    assert profiles.axis_of(showers) == pytest.approx((12.72, -7.63), abs=0.05)
    assert profiles.lateral(showers).contained(0.9)[0] < 5.0


def test_pions_that_only_ionise_are_counted():
    rng = np.random.default_rng(3)
    energies = rng.uniform(2e4, 1e5, 2000)
    layers = np.zeros((2000, 3))
    layers[:, 1] = np.where(rng.random(2000) < 0.3, 350.0, 0.5 * energies)
    check = found(showers_of("calogan-piplus", energies, layers), "calogan-piplus")[
        "pions above 10 GeV that only ionise"
    ]
    assert check.value == pytest.approx(0.3, abs=4 * check.uncertainty)
    assert check.expected == pytest.approx(np.exp(-160 / 199.3 - 320 / 1067))


def test_layers_like_the_published_ones_differ_by_nothing():
    reference = published.ild_layers(toy_showers("ild-photons", 20, 1)).reference
    energies = np.array([25e3, 75e3, 50e3])
    layers = energies[:, None] / 50e3 * reference
    compared = published.ild_layers(showers_of("ild-photons", energies, layers))
    np.testing.assert_allclose(compared.value, reference, rtol=1e-5)
    assert compared.difference < 1e-5
    assert reference.sum() == pytest.approx(1223.2, abs=0.1)  # MeV per shower


def test_a_damaged_table_of_references_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CALOSTUDY_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"expectations\.csv"):
        published.expectations("ds2")
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "expectations.csv").write_text("dataset,quantity\nds2,x\n")
    with pytest.raises(DataError, match="expected a table of dataset, quantity, value"):
        published.expectations("ds2")


def test_every_expectation_names_a_dataset_and_its_source():
    for name in DATASETS:
        for value, uncertainty, source in published.expectations(name).values():
            assert value > 0 and (uncertainty is None or uncertainty > 0) and source


@pytest.mark.parametrize("name", sorted(DATASETS))
@pytest.mark.parametrize(("n", "single"), [(60, False), (30, True), (3, False), (2, True)])
def test_checks_stand_any_energies_and_few_showers(name, n, single):
    showers = toy_showers(name, n, seed=2)
    if single:
        showers = Showers(showers.calorimeter, np.full(n, 65e3), showers.cells)
    rows = checks(showers, dataset(name))
    assert len({check.quantity for check in rows}) == len(rows) >= 2
    assert all(np.isfinite(check.value) for check in rows)
    growing = [check for check in rows if "per factor e" in check.quantity]
    assert not (single and growing)


def test_public_numbers_stand_beside_the_twin_at_the_public_energies_only():
    rows = found(toy_showers("ds2", 200, 1), "ds2")
    assert rows["empty cells"].expected is None
    extrapolated = rows["empty cells, extrapolated to the public energies"]
    assert extrapolated.expected == pytest.approx(0.7565, abs=1e-4)
    public = {c.quantity: c for c in checks(toy_showers("ds2", 200, 1), dataset("ds2"), "public")}
    assert public["empty cells"].expected == pytest.approx(0.7565, abs=1e-4)


def test_an_extrapolation_covers_the_forms_it_could_have_had():
    rng = np.random.default_rng(0)
    entry = dataset("ds2")
    energies = np.exp(rng.uniform(np.log(1e3), np.log(1e5), 600))
    rise = np.log(energies / 1e3)
    cells = np.zeros((600, entry.calorimeter.cells), np.float32)
    for row, share in zip(cells, (0.25 + 0.06 * rise) ** 3, strict=True):
        row[: round(share * len(row))] = 1.0
    showers = Showers(entry.calorimeter, energies, cells)
    check = found(showers, "ds2")["empty cells, extrapolated to the public energies"]
    grid = np.linspace(0, np.log(1000), 1000)
    truth = 1 - np.mean((0.25 + 0.06 * grid) ** 3)
    assert abs(check.value - truth) < 3 * check.uncertainty
    assert 1e-4 < check.uncertainty < 0.1  # far more than the counts alone would say


def test_the_cut_on_passing_pions_is_told_with_its_influence():
    energies = np.full(300, 5e4)
    layers = np.zeros((300, 3))
    layers[:, 1] = np.repeat([300.0, 550.0, 650.0], 100)
    check = found(showers_of("calogan-piplus", energies, layers), "calogan-piplus")[
        "pions above 10 GeV that only ionise"
    ]
    assert check.value == pytest.approx(2 / 3)
    assert "0.333 below 500, 1.000 below 700 MeV" in check.source


def test_a_pull_needs_an_expectation_with_an_uncertainty():
    assert Check("x", 1.2, 0.3, expected=1.0, expected_uncertainty=0.4).pull == pytest.approx(0.4)
    assert Check("x", 1.2, 0.3, expected=1.0).pull is None
    assert Check("x", 1.2, 0.3).difference is None
    rows = check_rows([Check("x", 1.2, 0.3, "mm", 1.0, 0.4, "a book"), Check("y", 1.0, None)])
    assert rows[0]["difference"] == "0.20 ± 0.50 (+0.4 σ)"
    assert rows[0]["measured"] == "1.20 ± 0.30 mm"
    assert rows[0]["where the expectation comes from"] == "a book"
    assert rows[1]["expected"] == rows[1]["difference"] == "-"


@pytest.mark.parametrize("name", sorted(materials.STACKS))
def test_a_stack_fills_its_calorimeter(name):
    geometry = calorimeter(name)
    bounds = materials.depths(geometry)
    assert np.all(np.diff(bounds, axis=1) > 0)
    assert np.all(bounds[1:, 0] >= bounds[:-1, 1] - 1e-9)
    for layer, plates in zip(geometry.layers, materials.periods(geometry), strict=True):
        periods = (layer.depth[1] - layer.depth[0]) / materials.thickness(plates)
        if name not in ("calogan", "segmentations"):  # whose layers end within a plate
            assert periods == pytest.approx(round(periods), abs=1e-6)
