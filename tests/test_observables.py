"""Observables: the CaloChallenge evaluation's own numbers, and what a shower shape must obey."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calostudy.calorimeter import CALORIMETERS, Calorimeter, calorimeter
from calostudy.datasets import DATASETS, dataset
from calostudy.errors import DataError
from calostudy.metrics.observables import (
    minimum_energy,
    observable_names,
    observables,
    stream_observables,
    write_observables,
)
from calostudy.showers import Showers, write

GOLDEN = json.loads((Path(__file__).parent / "golden_observables.json").read_text())


def formula_showers(geometry: Calorimeter, n: int = 5) -> Showers:
    e = np.arange(1, n + 1)[:, None]
    v = np.arange(geometry.cells)[None, :]
    cells = 1000.0 * e * np.maximum(0, np.sin(0.37 * e + 0.11 * v)) ** 3
    return Showers(geometry, cells.sum(axis=1) * 1.1, cells)


def sparse_showers(geometry: Calorimeter, seed: int, n: int = 6, dtype=np.float32) -> Showers:
    rng = np.random.default_rng(seed)
    hit = rng.random((n, geometry.cells)) < rng.choice([0.0, 0.01, 0.3, 1.0], size=(n, 1))
    # At least 1 MeV: the eps of the definitions is a width of its own for energies below 1e-3 MeV.
    cells = ((1 + rng.lognormal(0, 3, hit.shape)) * hit).astype(dtype)
    return Showers(geometry, 1e3 + 1.1 * cells.sum(axis=1, dtype=np.float64), cells)


def transcription(showers: Showers, threshold: float) -> dict[str, np.ndarray]:
    """The definitions, layer by layer, as one would write them down."""
    cells = np.where(showers.cells < threshold, 0, showers.cells).astype(np.float64)
    result = {"E_tot": cells.sum(axis=1)}
    for layer, part in zip(showers.calorimeter.layers, showers.calorimeter.slices, strict=True):
        own = cells[:, part]
        energy = own.sum(axis=1)
        result[f"E_layer/{layer.id}"] = energy
        result[f"sparsity/{layer.id}"] = 1 - (own > 0).mean(axis=1)
        axes = {"r": layer.r}
        if layer.view == "cartesian" or layer.shape[0] > 1:
            axes |= {"eta": layer.eta, "phi": layer.phi}
        for name, x in axes.items():
            centre = (x * own).sum(axis=1) / (energy + 1e-16)
            second = (x**2 * own).sum(axis=1) / (energy + 1e-16)
            result[f"EC_{name}/{layer.id}"] = centre
            result[f"width_{name}/{layer.id}"] = np.sqrt(np.maximum(0, second - centre**2))
    return result


@pytest.mark.parametrize("name", ["ds1-photons", "ds2"])
def test_observables_are_the_golden_figures_of_the_calochallenge_evaluation(name):
    found = observables(formula_showers(calorimeter(name)))
    for key, expected in GOLDEN[name].items():
        np.testing.assert_allclose(found[key], expected, rtol=1e-9, atol=0, err_msg=key)


@pytest.mark.parametrize("name", CALORIMETERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_observables_agree_with_a_transcription_of_the_definitions(name, dtype):
    showers = sparse_showers(calorimeter(name), seed=3, dtype=dtype)
    found = observables(showers, threshold=2.0)
    expected = transcription(showers, threshold=2.0)
    assert set(found) == set(expected)
    for key, values in expected.items():
        # Widths are square roots of differences: a rounding of x^2 is 1e-7 of x.
        atol = 3e-5 if key.startswith("width") else 1e-10
        np.testing.assert_allclose(found[key], values, rtol=1e-9, atol=atol, err_msg=key)
        assert found[key].dtype == np.float64
        assert found[key].shape == (len(showers),)


def test_keys_are_those_of_the_command_line_contract():
    names = observable_names(calorimeter("ds1-photons"))
    assert "EC_eta/1" in names and "EC_eta/12" not in names  # layer 12 has one alpha bin
    assert "width_r/12" in names and "sparsity/12" in names and "E_layer/12" in names
    calogan = observable_names(calorimeter("calogan"))
    assert {"EC_eta/0", "EC_phi/0", "EC_r/2", "width_phi/2", "E_tot"} <= set(calogan)
    for name in CALORIMETERS:
        found = observables(formula_showers(calorimeter(name), 1))
        assert list(found) == observable_names(calorimeter(name))


def test_the_cut_removes_what_is_strictly_below_it():
    geometry = calorimeter("calogan")
    cells = np.zeros((1, geometry.cells))
    cells[0, :3] = 0.5, 1.0, 2.0
    showers = Showers(geometry, np.array([1e3]), cells)
    assert observables(showers, threshold=1.0)["E_tot"] == 3.0
    assert observables(showers, threshold=1.0)["sparsity/0"] == pytest.approx(1 - 2 / 288)
    assert observables(showers, threshold=0.0)["sparsity/0"] == pytest.approx(1 - 3 / 288)


def test_the_cut_is_the_catalogue_s_where_none_is_given():
    for entry in DATASETS.values():
        assert minimum_energy(entry.calorimeter) == entry.threshold
    geometry = calorimeter("ds2")
    cells = np.full((1, geometry.cells), 0.0151)
    assert observables(Showers(geometry, np.array([1e3]), cells))["E_tot"] == 0.0


def test_empty_showers_and_empty_samples_give_zeros_and_nothing():
    geometry = calorimeter("ds1-pions")
    empty = Showers(geometry, np.array([256.0]), np.zeros((1, geometry.cells)))
    for key, values in observables(empty).items():
        assert values == (1.0 if key.startswith("sparsity") else 0.0), key
    assert all(len(values) == 0 for values in observables(empty[:0]).values())


def test_one_hit_has_no_width_and_sits_at_its_cell():
    geometry = calorimeter("ds3")
    cells = np.zeros((1, geometry.cells), dtype=np.float32)
    cells[0, geometry.slices[7].start + 431] = 123.4
    found = observables(Showers(geometry, np.array([1e3]), cells))
    layer = geometry.layers[7]
    assert found["EC_eta/7"] == pytest.approx(layer.eta[431])
    assert found["EC_r/7"] == pytest.approx(layer.r[431])
    assert found["width_eta/7"] == found["width_phi/7"] == found["width_r/7"] == 0.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.01, 100))
def test_scaling_all_energies_scales_energies_and_keeps_shapes(seed, factor):
    showers = sparse_showers(calorimeter("ds1-photons"), seed, dtype=np.float64)
    scaled = Showers(showers.calorimeter, showers.incident_energy, showers.cells * factor)
    before, after = observables(showers, 0.0), observables(scaled, 0.0)
    for key in before:
        scale = factor if key.startswith("E_") else 1.0
        atol = 3e-5 if key.startswith("width") else 1e-12
        np.testing.assert_allclose(after[key], before[key] * scale, rtol=1e-9, atol=atol)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_observables_stay_inside_the_calorimeter(seed):
    geometry = calorimeter("calogan")
    showers = sparse_showers(geometry, seed)
    found = observables(showers, 0.0)
    layers = [found[f"E_layer/{i}"] for i in geometry.layer_ids]
    np.testing.assert_allclose(np.sum(layers, axis=0), found["E_tot"])
    for layer in geometry.layers:
        edge = np.abs(layer.eta).max()
        assert (np.abs(found[f"EC_eta/{layer.id}"]) <= edge * (1 + 1e-12)).all()
        assert (found[f"width_eta/{layer.id}"] <= edge * (1 + 1e-12)).all()
        assert ((found[f"sparsity/{layer.id}"] >= 0) & (found[f"sparsity/{layer.id}"] <= 1)).all()


def test_nan_in_a_cell_is_not_hidden():
    showers = sparse_showers(calorimeter("calogan"), seed=1)
    showers.cells[2, 5] = np.nan
    assert np.isnan(observables(showers, 0.001)["E_tot"][2])


def test_streaming_a_file_gives_the_same_arrays_whatever_the_chunk(tmp_path):
    entry = dataset("calogan-eplus")
    showers = sparse_showers(entry.calorimeter, seed=9, n=23)
    path = tmp_path / "showers.h5"
    write(path, showers)
    whole = observables(showers, entry.threshold)
    for chunk in (1, 7, 1000):
        streamed = stream_observables(path, "calogan-eplus", chunk=chunk)
        np.testing.assert_allclose(streamed.pop("incident_energy"), showers.incident_energy)
        assert list(streamed) == list(whole)
        for key in whole:
            np.testing.assert_array_equal(streamed[key], whole[key], err_msg=key)


def test_written_observables_hold_every_key_and_say_where_they_come_from(tmp_path):
    entry = dataset("ds1-photons")
    showers = sparse_showers(entry.calorimeter, seed=2, n=8)
    write(tmp_path / "showers.h5", showers)
    out = write_observables(tmp_path / "showers.h5", entry, tmp_path / "features.h5")
    with h5py.File(out) as file:
        for key, values in observables(showers, entry.threshold).items():
            np.testing.assert_array_equal(file[key][:], values)
        assert file.attrs["dataset"] == "ds1-photons"
        assert file.attrs["threshold_mev"] == 1.0


def test_a_file_of_another_data_set_is_refused(tmp_path):
    write(tmp_path / "showers.h5", sparse_showers(calorimeter("ds1-photons"), seed=2))
    with pytest.raises(DataError):
        stream_observables(tmp_path / "showers.h5", "ds2")
    with pytest.raises(DataError):
        write_observables(tmp_path / "showers.h5", "ds2", tmp_path / "features.h5")
    assert not (tmp_path / "features.h5").exists()


def test_a_file_of_features_does_not_depend_on_how_it_was_read(tmp_path):
    showers = sparse_showers(calorimeter("ds1-photons"), seed=3, n=50)
    write(tmp_path / "showers.h5", showers)
    found = []
    for chunk in (2, 1000):  # 25 chunks, more than are held at once, and one
        out = tmp_path / f"{chunk}.h5"
        write_observables(tmp_path / "showers.h5", "ds1-photons", out, chunk)
        with h5py.File(out) as file:
            found.append({key: file[key][:] for key in ("E_tot", "E_layer/2", "width_r/12")})
    for key, values in found[0].items():
        assert len(values) == 50
        np.testing.assert_array_equal(values, found[1][key])
