"""The evaluation as a whole: streamed files, breakdown by energy, resuming, refused samples."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_showers import toy_showers

from calostudy import showers as shower_files
from calostudy.clouds import Writer
from calostudy.datasets import dataset, load, load_clouds
from calostudy.errors import DataError
from calostudy.metrics import CLOUD_METRICS, Options, Sample, evaluate, kept
from calostudy.metrics.measures import METRICS
from calostudy.metrics.observables import observables
from calostudy.metrics.rings import cloud_profiles
from calostudy.showers import Showers
from calostudy.tables import score_rows

EPLUS = dataset("calogan-eplus")
CHEAP = ("separation_power", "fpd", "pcc", "wasserstein")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    paths = []
    for seed, scale in ((1, 1.0), (2, 1.04)):
        path = folder / f"{seed}.h5"
        shower_files.write(path, toy_showers("calogan-eplus", 450, seed, scale=scale))
        paths.append(path)
    return paths


def test_a_file_read_in_chunks_gives_the_scores_of_showers_in_memory(files):
    whole = [shower_files.read(path, EPLUS.calorimeter) for path in files]
    streamed = [Sample.open(path, EPLUS, chunk=64) for path in files]
    for a, b in zip(
        evaluate(whole[1], whole[0], EPLUS, CHEAP, replicas=10),
        evaluate(streamed[1], streamed[0], EPLUS, CHEAP, replicas=10),
        strict=True,
    ):
        assert a == b


@given(rows=st.lists(st.integers(0, 59), min_size=1, max_size=60, unique=True))
@settings(max_examples=20, deadline=None)
def test_rows_of_a_sample_are_those_rows_of_everything_in_it(rows):
    showers = toy_showers("calogan-eplus", 60, 3)
    chunks = [showers[start : start + 7] for start in range(0, 60, 7)]
    parts = replace(Sample.of(showers, EPLUS), chunks=lambda: chunks)
    chosen = parts[np.array(rows)]
    expected = showers[np.sort(rows)]
    np.testing.assert_array_equal(chosen.showers.cells, expected.cells)
    np.testing.assert_array_equal(chosen.largest, expected.cells.max(axis=1))
    found = observables(expected, EPLUS.threshold)
    assert all((chosen.observables[name] == found[name]).all() for name in found)
    np.testing.assert_array_equal(chosen.radial, Sample.of(expected, EPLUS).radial)
    assert (chosen.hits == (expected.cells >= EPLUS.threshold).sum(axis=1)).all()


def test_each_range_of_energy_has_its_own_score_and_floor():
    reference = toy_showers("calogan-eplus", 900, 1)
    generated = toy_showers("calogan-eplus", 900, 2)
    off = np.where(generated.incident_energy < 25e3, 1.1, 1.0)[:, None]
    generated = Showers(generated.calorimeter, generated.incident_energy, generated.cells * off)
    (score,) = evaluate(generated, reference, EPLUS, ["wasserstein"], replicas=30, by_energy=True)
    low, *others = score.by_energy.values()
    assert len(others) == 3
    assert low["significance"] > 5
    assert all(abs(other["significance"]) < 3 for other in others)
    assert all(other["floor"] > 0 for other in (low, *others))


def test_a_range_with_few_showers_is_left_out_and_said_so():
    showers = [toy_showers("calogan-eplus", 400, seed) for seed in (1, 2)]
    few = [s[(s.incident_energy > 25e3) | (np.arange(400) < 40)] for s in showers]
    (score,) = evaluate(*few, EPLUS, ["pcc"], replicas=5, by_energy=True)
    assert "1-25 GeV" not in score.by_energy
    assert any("1-25 GeV" in text and "left out" in text for text in score.warnings)


@pytest.mark.parametrize("wanted", [True, False])
def test_without_a_breakdown_by_energy_no_metric_has_one(wanted):
    showers = [toy_showers("calogan-eplus", 500, seed) for seed in (1, 2)]
    names = ["chi2_response", "separation_groups", "pcc"]
    scores = evaluate(*showers, EPLUS, names, replicas=5, by_energy=wanted)
    assert [bool(score.by_energy) for score in scores] == [wanted] * 3


def test_a_killed_evaluation_goes_on_at_the_metric_it_was_in(tmp_path, monkeypatch):
    showers = [toy_showers("calogan-eplus", 120, seed) for seed in (1, 2)]
    calls = []

    def counted(name):
        function = METRICS[name]

        def measure(*arguments):
            calls.append(name)
            if name == "pcc" and calls.count("pcc") == 1:
                raise KeyboardInterrupt
            return function(*arguments)

        measure.__qualname__ = name
        return measure

    wanted = ("separation_power", "pcc")
    for name in wanted:
        monkeypatch.setitem(METRICS, name, counted(name))
    with pytest.raises(KeyboardInterrupt):
        evaluate(*showers, EPLUS, wanted, replicas=5, keep=tmp_path)
    resumed = evaluate(*showers, EPLUS, wanted, replicas=5, keep=tmp_path)
    assert calls.count("separation_power") == 2  # once for the showers, once for the floor
    assert resumed == evaluate(*showers, EPLUS, wanted, replicas=5)


def test_point_clouds_read_in_chunks_are_their_cells_and_their_profiles(tmp_path):
    entry = dataset("ild-photons")
    clouds = load_clouds("ild-photons", "evaluation", rows=slice(0, 30))
    with Writer(tmp_path / "clouds.h5", mantissa_bits=10, front_face=0) as writer:
        writer.append(clouds)
    sample = Sample.open(tmp_path / "clouds.h5", entry, chunk=7)
    for found, rows in ((sample, slice(None)), (sample[3:20], slice(3, 20))):
        expected = clouds[rows].to_showers(entry.calorimeter)
        np.testing.assert_allclose(found.showers.cells, expected.cells, rtol=1e-5)
        np.testing.assert_allclose(found.points.hits, clouds[rows].counts)
        radial = cloud_profiles(clouds[rows], entry.calorimeter).radial
        np.testing.assert_allclose(found.points.radial, radial, rtol=1e-5)


def test_of_showers_whose_first_have_clouds_these_are_the_sample(tmp_path):
    entry = dataset("ild-photons")
    clouds = load_clouds("ild-photons", "evaluation", rows=slice(0, 9))
    shower_files.write(tmp_path / "cells.h5", load("ild-photons", "evaluation", rows=slice(0, 12)))
    with Writer(tmp_path / "clouds.h5", mantissa_bits=10, front_face=0) as writer:
        writer.append(clouds)
    sample = Sample.open(tmp_path / "cells.h5", entry, clouds=tmp_path / "clouds.h5")
    np.testing.assert_allclose(sample.incident_energy, clouds.incident_energy)
    np.testing.assert_allclose(sample.points.hits, clouds.counts)
    assert sample.showers.cells.shape[0] == len(sample) == 9


def test_what_is_kept_of_other_points_of_the_same_cells_is_not_taken(tmp_path):
    cells = Sample.of(toy_showers("calogan-eplus", 80, 1), EPLUS)
    points = replace(cells.profiles, hits=cells.profiles.hits + np.arange(80))
    samples = [replace(cells, points=each) for each in (cells.profiles, points)]
    found = [
        kept.measure(CLOUD_METRICS["cloud_wasserstein_hits"], pair, Options(replicas=5), tmp_path)
        for pair in ((samples[0],) * 3, (samples[1], samples[0], samples[0]))
    ]
    same, other = (each["cloud_wasserstein_hits"].value for each in found)
    assert same < 1e-12 < other


@pytest.mark.parametrize("change", ["showers", "options", "broken"])
def test_what_is_kept_is_not_taken_for_something_else(tmp_path, change):
    samples = [Sample.of(toy_showers("calogan-eplus", 80, seed), EPLUS) for seed in (1, 2, 3)]
    options = Options(replicas=5)
    measured = METRICS["pcc"]
    kept.measure(measured, (samples[0], samples[1], samples[1]), options, tmp_path)
    if change == "showers":
        samples[0] = samples[2]
    elif change == "options":
        options = Options(replicas=6)
    else:
        next(tmp_path.glob("*.json")).write_text('{"pcc": {"value"')
    found = kept.measure(measured, (samples[0], samples[1], samples[1]), options, tmp_path)
    assert found == measured(samples[0], samples[1], options, samples[1])


def _broken(showers, **changes):
    fields = {"incident_energy": showers.incident_energy, "cells": showers.cells} | changes
    return Showers(showers.calorimeter, **fields)


GOOD = toy_showers("calogan-eplus", 60, 5)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (toy_showers("ds1-photons", 20, 1), "calorimeter"),
        (GOOD[:0], "no generated showers"),
        (_broken(GOOD, cells=-GOOD.cells), "negative"),
        (_broken(GOOD, cells=np.where(GOOD.cells > 0, np.nan, 0)), "not finite"),
        (_broken(GOOD, incident_energy=GOOD.incident_energy / 1e3), "incident energies"),
        (_broken(GOOD, cells=0 * GOOD.cells), "all 60 generated showers are empty"),
        (_broken(GOOD, cells=np.minimum(GOOD.cells, 0.9e-3)), "expected cells with 0.001 MeV"),
    ],
    ids=["another dataset", "none", "negative", "NaN", "GeV for MeV", "empty", "faint"],
)
def test_showers_that_cannot_be_of_the_dataset_are_refused(broken, message):
    with pytest.raises(DataError, match=message):
        evaluate(broken, GOOD, EPLUS, ["pcc"])


def test_what_is_no_number_is_none_with_a_warning():
    lonely = _broken(GOOD, cells=np.where(np.arange(60)[:, None] > 0, 0, GOOD.cells))
    (score,) = evaluate(lonely, GOOD, EPLUS, ["wasserstein_shapes"], replicas=5)
    assert score.value is None and score.significance is None
    assert "wasserstein_shapes: not a finite number for these samples" in score.warnings
    (row,) = score_rows([score])
    assert row["value"] == row["distance"] == "-"
    assert '"value": null' in json.dumps(score.as_dict(), allow_nan=False)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_cells_in_another_unit_are_told(factor):
    other = _broken(GOOD, cells=GOOD.cells * factor)
    (score,) = evaluate(other, GOOD, EPLUS, ["pcc"], replicas=5)
    assert any("another unit" in text for text in score.warnings)
    (score,) = evaluate(GOOD, GOOD, EPLUS, ["pcc"], replicas=5)
    assert not any("another unit" in text for text in score.warnings)
