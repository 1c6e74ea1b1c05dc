"""The catalogue of data sets, and how their showers are found."""

import re

import numpy as np
import pytest

from calostudy import clouds
from calostudy.calorimeter import CALORIMETERS, calorimeter
from calostudy.datasets import (
    DATASETS,
    SPLITS,
    EnergyLaw,
    clouds_path,
    dataset,
    iterate,
    load,
    load_clouds,
    showers_path,
    showers_paths,
    sources_present,
)
from calostudy.errors import DataError, UsageError
from calostudy.paths import data_dir
from calostudy.showers import Showers, write


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("CALOSTUDY_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture(params=DATASETS)
def entry(request):
    return dataset(request.param)


def showers(name, n, first=0):
    """Showers that can be told apart by their energy: 10 GeV and 1 MeV more each."""
    target = calorimeter(name)
    energy = 1e4 + first + np.arange(n, dtype=np.float64)
    cells = np.zeros((n, target.cells))
    cells[:, 1] = energy
    return Showers(target, energy, cells)


# --- the catalogue -------------------------------------------------------------------------------


def test_every_calorimeter_has_a_data_set():
    assert {entry.calorimeter.name for entry in DATASETS.values()} == set(CALORIMETERS)


def test_entries_are_complete(entry):
    assert entry.particle in {"e+", "e-", "gamma", "pi+"}
    assert entry.threshold > 0
    assert entry.references
    assert all("arXiv:" in reference for reference in entry.references)
    assert re.match(r"10\.\d+/", entry.record)
    for split in SPLITS:
        found = any(file.split in (None, split) for file in entry.public_files)
        assert found or entry.name == "segmentations"  # never published
    for file in entry.public_files:
        assert file.md5 is None or re.fullmatch(r"[0-9a-f]{32}", file.md5)
        assert file.events > 0 if file.events is not None else file.clouds


def test_twins_never_carry_a_public_name(entry):
    if entry.twin_name is None:
        assert entry.twin_energies is None
        assert not entry.twin_events
        return
    assert "-like" in entry.twin_name
    assert entry.twin_name != entry.public_name
    assert set(entry.twin_events) == set(SPLITS)


def test_thresholds_are_the_challenges():
    assert dataset("ds1-photons").threshold == 1.0
    assert dataset("ds2").threshold == dataset("ds3").threshold == pytest.approx(0.0151515151515)


def test_the_energies_of_dataset_1_are_those_of_a_public_file():
    for name, total in (("ds1-photons", 121000), ("ds1-pions", 120800)):
        law = dataset(name).energies
        assert law.values == tuple(2.0**k for k in range(8, 23))
        assert sum(law.weights) == total == dataset(name).public_files[0].events
        assert sum(dataset(name).classifier_split) == total


def test_public_and_simulated_energies_of_ds2_differ_and_say_so():
    entry = dataset("ds2")
    assert entry.law("public").range == (1e3, 1e6)
    assert entry.law("simulated").range == (1e3, 1e5)
    assert str(entry.law("simulated")) == "1-100 GeV, log-uniform"
    assert entry.title_of("simulated") == "DS2-like"


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UsageError, match="calogan-eplus"):
        dataset("calogan")
    with pytest.raises(UsageError, match="evaluation"):
        showers_path("ds2", "test")
    with pytest.raises(UsageError, match="public"):
        load("ds2", source="elsewhere")


# --- energy laws ---------------------------------------------------------------------------------


def test_samples_stay_within_their_law_and_repeat(entry):
    for law in filter(None, (entry.energies, entry.twin_energies)):
        energies = law.sample(2000, np.random.default_rng(3))
        assert energies.shape == (2000,)
        assert energies.dtype == np.float64
        assert law.contains(energies).all()
        np.testing.assert_array_equal(energies, law.sample(2000, np.random.default_rng(3)))


@pytest.mark.parametrize(("kind", "middle"), [("uniform", 50.5e3), ("log-uniform", 1e4)])
def test_the_median_of_a_law_is_its_middle(kind, middle):
    energies = EnergyLaw(kind, 1e3, 1e5).sample(20000, np.random.default_rng(1))
    assert np.median(energies) == pytest.approx(middle, rel=0.05)


def test_discrete_energies_come_with_their_weights():
    law = dataset("ds1-pions").energies
    energies = law.sample(50000, np.random.default_rng(1))
    expected = np.array(law.weights) / sum(law.weights)
    found = [np.mean(energies == value) for value in law.values]
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(0.1 / 50000))


def test_what_a_law_cannot_give_is_told():
    assert EnergyLaw("uniform", 1e3, 1e5).contains([999.0, 1e3, 1e5, 1.1e5]).tolist() == [
        False,
        True,
        True,
        False,
    ]
    assert dataset("ds1-photons").energies.contains([256, 300, 4194304]).tolist() == [
        True,
        False,
        True,
    ]


# --- files ---------------------------------------------------------------------------------------


def test_files_are_under_the_data_folder(data):
    assert data_dir() == data
    assert showers_path("ds2", "train") == data / "showers" / "ds2" / "train.h5"
    public = showers_path("ds2", "evaluation", "public")
    assert public == data / "public" / "ds2" / "dataset_2_2.hdf5"
    names = [path.name for path in showers_paths("ds3", "train", "public")]
    assert names == ["dataset_3_1.hdf5", "dataset_3_2.hdf5"]
    with pytest.raises(UsageError, match=r"dataset_3_1\.hdf5, dataset_3_2\.hdf5"):
        showers_path("ds3", "train", "public")


def test_a_simulated_sample_is_loaded(data):
    write(showers_path("calogan-gamma", "train"), showers("calogan", 12))
    found = load("calogan-gamma", rows=slice(3, 6))
    assert found.incident_energy.tolist() == [10003.0, 10004.0, 10005.0]
    assert sources_present("calogan-gamma") == {"simulated": ["train"], "public": []}
    parts = [len(part) for part in iterate("calogan-gamma", chunk=5)]
    assert parts == [5, 5, 2]


@pytest.mark.parametrize("rows", [slice(None), slice(4, 9), [8, 0, 5, 4], slice(None, None, -2)])
def test_several_public_files_are_one_sample(data, rows):
    first, second = showers_paths("ds3", "evaluation", "public")
    write(first, showers("ds3", 5))
    write(second, showers("ds3", 5, first=5))
    found = load("ds3", "evaluation", "public", rows)
    assert found.incident_energy.tolist() == (1e4 + np.arange(10)[rows]).tolist()


def test_one_public_file_is_split_without_overlap(data):
    write(data / "public" / "calogan-eplus" / "eplus.hdf5", showers("calogan", 10))
    train = load("calogan-eplus", "train", "public").incident_energy
    evaluation = load("calogan-eplus", "evaluation", "public").incident_energy
    assert len(train) == 7
    assert [*train, *evaluation] == [1e4 + i for i in range(10)]


def test_rows_that_are_not_there_are_bad_usage(data):
    write(showers_path("calogan-gamma", "train"), showers("calogan", 3))
    for rows in (slice(5, 9), [7]):
        with pytest.raises(UsageError, match="3 showers"):
            load("calogan-gamma", rows=rows)


def test_a_missing_file_comes_with_how_to_get_it(data):
    with pytest.raises(DataError, match="calostudy simulate calogan-piplus -n 5000") as caught:
        load("calogan-piplus", "evaluation")
    assert str(showers_path("calogan-piplus", "evaluation")) in str(caught.value)
    with pytest.raises(DataError, match=r"zenodo\.org/records/6366271/files/dataset_2_1\.hdf5"):
        load("ds2", "train", "public")
    with pytest.raises(DataError, match=r"doi\.org/10\.17632/pvn3xc3wy5\.1"):
        load("calogan-gamma", "train", "public")
    with pytest.raises(DataError, match="CaloCloudsData"):
        load_clouds("ild-photons", "train", "public")


def test_showers_that_were_never_published_say_so(data):
    assert sources_present("segmentations")["public"] == []
    with pytest.raises(UsageError, match="not published"):
        load("segmentations", "train", "public")


def test_public_point_clouds_are_split_as_cells_are(data):
    path = clouds_path("ild-photons", "train", "public")
    assert path == clouds_path("ild-photons", "evaluation", "public")
    energy = np.arange(10, 20) * 1e3
    path.parent.mkdir(parents=True)
    with clouds.Writer(path, 1) as writer:
        position = np.tile([0.0, 0.0, 3.0], (10, 1))
        writer.append(clouds.PointClouds(energy, np.arange(11), position, np.ones(10)))
    assert load_clouds("ild-photons", "train", "public").incident_energy.tolist() == [*energy[:7]]
    last = load_clouds("ild-photons", "evaluation", "public", slice(1, 3))
    assert last.incident_energy.tolist() == [*energy[8:]]


def test_only_ild_has_point_clouds():
    with pytest.raises(UsageError, match="no point clouds"):
        clouds_path("ds2", "train")


def test_a_sample_in_the_wrong_unit_is_refused(data):
    wrong = showers("ds2", 4)
    wrong = Showers(wrong.calorimeter, wrong.incident_energy / 1e3, wrong.cells / 1e3)
    write(showers_path("ds2", "train"), wrong)
    with pytest.raises(DataError, match="GeV"):
        load("ds2")
