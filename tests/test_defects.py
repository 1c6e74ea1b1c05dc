"""A planted defect spoils what it says, by as much as it says, and nothing else."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_showers import toy_showers

from calostudy.datasets import DATASETS, load
from calostudy.errors import DataError, UsageError
from calostudy.metrics.defects import DEFECTS, NEAREST, brightest_layer, lateness
from calostudy.metrics.observables import observables
from calostudy.showers import Showers

SEEDS = st.integers(0, 2**32 - 1)
KEEPS_LAYERS = ("widths_narrower", "cells_permuted")
DETERMINISTIC = ("energy_scale", "widths_narrower", "layer_shuffled_alike")  # if planted in full
KEEPS_TOTALS = (*KEEPS_LAYERS, "layer_shuffled", "layer_shuffled_alike")


POSITRONS = load("calogan-eplus", "evaluation", rows=slice(0, 200))


@cache
def small_showers(name: str) -> Showers:
    return toy_showers(name, 30, seed=1)


def strengths(defect: str) -> st.SearchStrategy:
    nominal = DEFECTS[defect].strength
    return st.floats(nominal / 16, min(100, 4 * nominal))


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_changes_cells_of_every_calorimeter_and_no_incident_energy(defect, name):
    showers = small_showers(name)
    before = showers.cells.copy()
    spoiled = DEFECTS[defect](showers, 100 if defect == "cells_permuted" else None, seed=2)
    np.testing.assert_array_equal(showers.cells, before)
    np.testing.assert_array_equal(spoiled.incident_energy, showers.incident_energy)
    assert spoiled.calorimeter is showers.calorimeter
    assert spoiled.cells.dtype == showers.cells.dtype
    assert np.isfinite(spoiled.cells).all()
    assert spoiled.cells.min() >= 0
    assert (spoiled.cells != before).any()


@pytest.mark.parametrize("defect", DEFECTS)
def test_no_strength_is_no_defect_and_the_same_seed_the_same_one(defect):
    plant = DEFECTS[defect]
    np.testing.assert_allclose(plant(POSITRONS, 0).cells, POSITRONS.cells, rtol=1e-6)
    once, again, other = (plant(POSITRONS, seed=seed).cells for seed in (3, 3, 4))
    np.testing.assert_array_equal(once, again)
    assert (once != other).any() != (defect in DETERMINISTIC)


@pytest.mark.parametrize("strength", [-1, 100.5, float("nan")])
def test_a_strength_that_is_none_is_refused(strength):
    with pytest.raises(UsageError, match="0 to 100"):
        DEFECTS["energy_scale"](POSITRONS, strength)


@settings(max_examples=10, deadline=None)
@given(data=st.data(), defect=st.sampled_from(KEEPS_TOTALS), seed=SEEDS)
def test_energy_that_is_said_to_stay_stays(data, defect, seed):
    spoiled = DEFECTS[defect](POSITRONS, data.draw(strengths(defect)), seed)
    before, after = POSITRONS.layer_energies(), spoiled.layer_energies()
    np.testing.assert_allclose(after.sum(axis=0), before.sum(axis=0), rtol=1e-6)
    if defect in KEEPS_LAYERS:
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(strength=st.floats(0.1, 20))
def test_an_energy_scale_is_off_by_its_strength_in_every_cell(strength):
    spoiled = DEFECTS["energy_scale"](POSITRONS, strength)
    np.testing.assert_allclose(spoiled.cells, POSITRONS.cells * (1 + strength / 100), rtol=1e-6)
    overflow = POSITRONS.overflow * (1 + strength / 100)
    np.testing.assert_allclose(spoiled.overflow, overflow, rtol=1e-6)


@settings(max_examples=10, deadline=None)
@given(strength=st.floats(0.5, 15), n=st.integers(50, 200))
def test_measured_widths_fall_by_the_strength_on_a_cartesian_grid(strength, n):
    showers = POSITRONS[:n]
    before, after = (
        observables(each, 0.0) for each in (showers, DEFECTS["widths_narrower"](showers, strength))
    )
    for name in before:
        if name.startswith(("width_eta", "width_phi")):
            ratio = after[name].mean() / before[name].mean()
            assert ratio == pytest.approx(1 - strength / 100, abs=1e-4)


@pytest.mark.parametrize("name", ["ds1-photons", "ds2"])
def test_measured_widths_fall_by_the_strength_on_a_cylindrical_grid(name):
    showers = load(name, "evaluation", rows=slice(0, 100))
    before, after = (
        observables(each, 0.0) for each in (showers, DEFECTS["widths_narrower"](showers, 5.0))
    )
    wide = [name for name in before if name.startswith("width_r") and before[name].any()]
    ratios = [after[name].mean() / before[name].mean() for name in wide]
    assert len(wide) > 3
    np.testing.assert_allclose(ratios, 0.95, atol=1e-4)


def test_widths_that_cannot_fall_are_an_error():
    cells = np.zeros_like(POSITRONS.cells[:3])
    cells[:, :2] = 1.0  # two equal ones are equally far from their centre
    pairs = Showers(POSITRONS.calorimeter, POSITRONS.incident_energy[:3], cells)
    with pytest.raises(DataError, match="layer 0"):
        DEFECTS["widths_narrower"](pairs)


@settings(max_examples=10, deadline=None)
@given(
    defect=st.sampled_from(["layer_shuffled", "layer_shuffled_alike"]),
    strength=st.floats(5, 100),
    seed=SEEDS,
)
def test_a_shuffled_layer_goes_as_it_is_to_another_shower(defect, strength, seed):
    spoiled = DEFECTS[defect](POSITRONS, strength, seed)
    layer = brightest_layer(POSITRONS)
    part = POSITRONS.calorimeter.slices[layer]
    elsewhere = np.ones(POSITRONS.calorimeter.cells, bool)
    elsewhere[part] = False
    np.testing.assert_array_equal(spoiled.cells[:, elsewhere], POSITRONS.cells[:, elsewhere])
    with_overflow = [
        np.column_stack([s.cells[:, part], s.overflow[:, layer]]) for s in (POSITRONS, spoiled)
    ]
    before, after = (sorted(map(bytes, np.ascontiguousarray(x))) for x in with_overflow)
    assert before == after
    moved = (spoiled.cells[:, part] != POSITRONS.cells[:, part]).any(axis=1).sum()
    share = round(strength / 100 * len(POSITRONS))
    assert moved == (share if defect == "layer_shuffled" else share // 2 * 2)


def test_a_layer_shuffled_at_like_energies_stays_near_its_incident_energy():
    layer = brightest_layer(POSITRONS)
    part = POSITRONS.calorimeter.slices[layer]
    row_of = {bytes(row): i for i, row in enumerate(POSITRONS.cells[:, part])}
    distances = {}
    for defect in ("layer_shuffled", "layer_shuffled_alike"):
        source = [row_of[bytes(row)] for row in DEFECTS[defect](POSITRONS).cells[:, part]]
        energy = POSITRONS.incident_energy
        ranks = energy.argsort().argsort()
        distances[defect] = np.abs(ranks[source] - ranks)
    assert set(distances["layer_shuffled_alike"]) == {1}
    assert distances["layer_shuffled"].mean() > 30


@settings(max_examples=10, deadline=None)
@given(strength=st.floats(1, 40), seed=SEEDS)
def test_the_latest_showers_are_replaced_by_others_of_like_energy(strength, seed):
    spoiled = DEFECTS["mode_dropped"](POSITRONS, strength, seed)
    changed = (spoiled.cells != POSITRONS.cells).any(axis=1)
    late = lateness(POSITRONS)
    assert changed.sum() == round(strength / 100 * len(POSITRONS))
    if not changed.any():
        return
    assert late[changed].min() >= late[~changed].max()
    # What came instead is a shower that stayed, scaled to the incident energy.
    energy = POSITRONS.incident_energy
    response, kept = (
        s.cells / s.incident_energy[:, None] for s in (spoiled[changed], POSITRONS[~changed])
    )
    for row, own in zip(response, energy[changed], strict=True):
        source = np.abs(kept - row).max(axis=1).argmin()
        np.testing.assert_allclose(kept[source], row, rtol=1e-5)
        between = np.sort([own, energy[~changed][source]])
        inside = (energy[~changed] > between[0]) & (energy[~changed] < between[1])
        assert inside.sum() < NEAREST


def test_lateness_knows_the_depth_but_not_the_incident_energy():
    showers = load("ds2", "evaluation", rows=slice(0, 400))
    layers = showers.layer_energies()
    depth = layers @ np.arange(45) / layers.sum(axis=1)
    log_energy = np.log(showers.incident_energy)
    assert np.corrcoef(depth, log_energy)[0, 1] > 0.5
    assert abs(np.corrcoef(lateness(showers), log_energy)[0, 1]) < 0.1
    alike = np.argsort(log_energy)[100:130]
    assert np.corrcoef(depth[alike], lateness(showers)[alike])[0, 1] > 0.9


@settings(max_examples=10, deadline=None)
@given(strength=st.floats(0.5, 100), seed=SEEDS)
def test_permuted_cells_stay_in_their_layer_and_as_many_as_said_move(strength, seed):
    geometry = POSITRONS.calorimeter
    distinct = np.arange(1, 101 * geometry.cells, dtype=np.float32)[: 100 * geometry.cells]
    showers = Showers(geometry, POSITRONS.incident_energy[:100], distinct.reshape(100, -1))
    spoiled = DEFECTS["cells_permuted"](showers, strength, seed)
    for part in geometry.slices:
        layers = (np.sort(s.cells[:, part], axis=1) for s in (showers, spoiled))
        np.testing.assert_array_equal(*layers)
    moved = (spoiled.cells != showers.cells).sum()
    # A cell that is chosen alone in its layer has no other place.
    p, sizes = strength / 100, np.array([layer.cells for layer in geometry.layers])
    expected = 100 * (sizes * p - sizes * p * (1 - p) ** (sizes - 1)).sum()
    assert moved == pytest.approx(expected, abs=5 * np.sqrt(expected) + 5)
