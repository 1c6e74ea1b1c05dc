"""Everything about the simulation that needs no Geant4."""

import importlib.metadata
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calostudy.calorimeter import calorimeter
from calostudy.datasets import dataset
from calostudy.errors import UsageError
from calostudy.geant4 import SETUPS, environment, setups, sidecar_path, simulate
from calostudy.geant4.production import cells_of
from calostudy.geant4.shipped import SHIPPED
from calostudy.paths import data_dir
from calostudy.showers import count


def test_the_package_is_importable_without_geant4():
    code = (
        "import sys; sys.modules['geant4_pybind'] = None; import calostudy.geant4; "
        "assert 'calostudy.geant4.bridge' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_geant4_the_error_says_what_to_install(tmp_path, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(UsageError) as error:
        simulate("ds2", 1, 1, tmp_path / "x.h5")
    assert 'pip install "calostudy[geant4]"' in str(error.value)
    assert "libgl1 libx11-6 libxext6 libice6 libsm6" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_another_wheel_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1.4")
    with pytest.raises(UsageError, match=r"geant4-pybind 0\.1\.4 .* 0\.1\.3"):
        environment.check_installation()


def test_another_platform_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: environment.WHEEL)
    monkeypatch.setattr(environment.platform, "machine", lambda: "aarch64")
    with pytest.raises(UsageError, match="Linux x86_64 only"):
        environment.check_installation()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "ds4"}, "no Geant4 simulation of dataset 'ds4'; there is calogan-eplus"),
        ({"n": 0}, "n = 0"),
        ({"workers": 0}, "workers = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"emin": 5.0, "emax": 2.0}, "from 5.0 to 2.0 GeV"),
        ({"emax": 100_000.0}, "GeV"),
        ({"physics": "QGSP"}, "no physics list 'QGSP'; there is data-free, ftfp_bert"),
        ({"brem": "SB"}, "no bremsstrahlung tables 'SB'; there is rel, sb"),
    ],
)
def test_bad_arguments_are_usage_errors(tmp_path, arguments, message):
    call = {"dataset": "ds2", "n": 1, "seed": 1, "out": tmp_path / "x.h5", **arguments}
    with pytest.raises(UsageError, match=message):
        simulate(**call)
    assert not list(tmp_path.iterdir())


def test_a_finished_file_is_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "check_installation", lambda: None)
    (tmp_path / "x.h5").write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        simulate("ds2", 1, 1, tmp_path / "x.h5")
    assert (tmp_path / "x.h5").read_text() == "precious"


@pytest.mark.parametrize("physics", ["ftfp_bert", "em-option4"])
def test_stock_lists_without_official_data_are_refused(tmp_path, monkeypatch, physics):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match="official data sets, not found: G4ENSDFSTATEDATA, G4LE"):
        environment.geant4_environment(physics, "rel", tmp_path, {})


def test_official_data_are_found_by_variable_and_by_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    names = {v: f"{d}9.9" for v, d in environment.OFFICIAL.items()}
    for name in names.values():
        (tmp_path / "sets" / name).mkdir(parents=True)
        (tmp_path / "sets" / name / "table").touch()
    expected = {v: str(tmp_path / "sets" / name) for v, name in names.items()}
    here = {"GEANT4_DATA_DIR": str(tmp_path / "sets")}
    assert environment.official_data(here) == expected
    assert environment.official_data(expected) == expected
    found = environment.geant4_environment("ftfp_bert", "rel", tmp_path / "s", here)
    assert found == {**expected, **here}


def test_seltzer_berger_tables_must_come_from_somewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs bremsstrahlung tables"):
        environment.seltzer_berger_tables({}, {})
    (tmp_path / "brem_SB").mkdir()
    official = {"G4LEDATA": str(tmp_path)}
    assert environment.seltzer_berger_tables(official, {}) == str(tmp_path)


def test_stand_ins_are_empty(tmp_path):
    variables = environment.geant4_environment("data-free", "rel", tmp_path, {})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in files] == ["ENSDFSTATE.dat"]
    assert files[0].stat().st_size == 0
    assert set(variables) > {"GEANT4_DATA_DIR", "G4LEDATA", "G4ENSDFSTATEDATA"}


def test_nrc_tables_become_geant4_tables():
    text = "Z,1.0,10.0\n0.0,1.5,2.5\n0.5,3.5,4.5\n1.0,5.5,6.5\n"
    lines = environment.nrc_to_geant4(text).splitlines()
    assert lines[0] == "0 3 2"
    assert [float(x) for x in lines[1].split()] == [0.0, 0.5, 1.0]
    assert [float(x) for x in lines[2].split()] == [0.0, math.log(10.0)]
    assert lines[3:] == ["1.5 3.5 5.5", "2.5 4.5 6.5"]


@given(n=st.integers(1, 200), more=st.integers(0, 200), seed=st.integers(0, 2**40))
def test_first_energies_do_not_depend_on_n(n, more, seed):
    for setup in SETUPS.values():
        if setup.name == "segmentations":  # one energy
            continue
        few = setups.incident_energies(setup, seed, n, 1.0, 100.0)
        many = setups.incident_energies(setup, seed, n + more, 1.0, 100.0)
        np.testing.assert_array_equal(few, many[:n])
        assert ((few >= 1e3) & (few <= 1e5 * (1 + 1e-12))).all()


def test_energies_follow_their_laws():
    n = 20_000
    energies = {k: setups.incident_energies(s, 3, n, 1.0, 100.0) for k, s in SETUPS.items()}
    assert energies["calogan-eplus"].mean() == pytest.approx(50_500, rel=0.02)
    assert np.log10(energies["ds2"]).mean() == pytest.approx(4.0, abs=0.02)
    np.testing.assert_array_equal(energies["ds2"], energies["ds3"])


def test_discrete_energies_come_in_turn_and_equally_often():
    setup = SETUPS["ds1-photons"]
    energies = setups.incident_energies(setup, 3, 90, setup.emin, setup.emax)
    values, counts = np.unique(energies, return_counts=True)
    np.testing.assert_array_equal(values, 2.0 ** np.arange(8, 17))
    assert set(counts) == {10}
    with pytest.raises(UsageError, match="no power of two"):
        setups.incident_energies(setup, 3, 9, 0.3, 0.4)


def test_event_seeds_depend_on_seed_and_event_only():
    seeds = setups.event_seeds(7, 0, 50)
    np.testing.assert_array_equal(setups.event_seeds(7, 20, 5), seeds[20:25])
    assert len(np.unique(seeds, axis=0)) == 50
    assert not (setups.event_seeds(8, 0, 50) == seeds).all(axis=1).any()
    assert seeds.min() >= 0 and seeds.max() < 2**32


def test_ds2_cells_are_silicon_above_half_a_kev_over_the_sampling_fraction():
    scored = np.array([[0.0, 0.49e-3, 0.51e-3, 1.0]], dtype=np.float32)
    cells = cells_of(SETUPS["ds2"], scored)
    np.testing.assert_allclose(cells, [[0, 0, 0.51e-3 / 0.033, 1 / 0.033]], rtol=1e-6)
    np.testing.assert_array_equal(cells_of(SETUPS["calogan-eplus"], scored), scored)


def test_ds1_layers_have_sampling_fractions_of_their_own():
    geometry = calorimeter("ds1-pions")
    cells = cells_of(SETUPS["ds1-pions"], np.ones((1, geometry.cells), np.float32))
    energies = geometry.layer_energies(cells)[0] / [layer.cells for layer in geometry.layers]
    np.testing.assert_allclose(energies, 1 / np.array([0.05, *[0.245] * 3, *[0.0324] * 3]))


def test_the_sidecar_lies_beside_the_file(tmp_path):
    assert sidecar_path(tmp_path / "train.h5") == tmp_path / "train.geant4.h5"


def test_the_readme_of_the_shipped_showers_has_the_commands_that_made_them():
    readme = (data_dir() / "showers" / "README.md").read_text()
    for sample in SHIPPED:
        name = f"{sample.dataset}/{sample.split}.h5"
        command = (
            f"calostudy simulate {sample.dataset} -n {sample.n} --seed {sample.seed} "
            f"--out data/showers/{name}"
        )
        assert f"| `{name}` | {sample.n:,} " in readme
        assert f"`{command}`" in readme
        assert count(sample.path, dataset(sample.dataset).calorimeter) == sample.n
    # DS3-like showers are those of DS2-like, read in finer voxels
    seeds = [sample.seed for sample in SHIPPED if sample.dataset != "ds3"]
    assert len(set(seeds)) == len(seeds)
    assert {s.seed for s in SHIPPED if s.dataset == "ds3"} < set(seeds)
