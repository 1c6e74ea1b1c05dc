"""The command line is a contract: names, options, exit status, and JSON that is JSON alone."""

import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from fileserver import FileServer
from toy_showers import toy_showers

from calostudy import cli
from calostudy.calorimeter import calorimeter
from calostudy.datasets import DATASETS, clouds_path, load
from calostudy.metrics import CLOUD_METRICS
from calostudy.showers import read, write

COMMANDS = (
    *("datasets", "models", "fetch", "inspect", "simulate", "train", "distill"),
    *("generate", "features"),
    *("evaluate", "rank", "time", "run"),
)


@pytest.fixture
def run(monkeypatch, capsys):
    """Call the command line; returns (exit status, standard output, standard error)."""

    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["calostudy", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def showers_file(tmp_path):
    path = tmp_path / "showers.h5"
    write(path, toy_showers("calogan-eplus", 120, seed=1))
    return path


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "run"])
def test_every_command_explains_itself_with_an_example(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0
    assert "Example" in out


def test_the_help_lists_every_command(run):
    status, out, _ = run("--help")
    assert status == 0
    assert all(command in out for command in COMMANDS)


def test_datasets_as_json_is_json_alone(run):
    status, out, _ = run("datasets", "--json", "-")
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == 0
    assert rows["ds2"]["cells"] == 6480
    assert rows["calogan-eplus"]["cells"] == 504
    assert rows["ds1-pions"]["layers"] == 7


def test_models_tells_the_published_parameter_counts(run):
    status, out, _ = run("models", "--json", "-")
    counts = {
        (row["dataset"], row["size"]): row["parameters_by_network"]
        for row in json.loads(out)
        if row["model"] == "caloflow-teacher"
    }
    assert status == 0
    # Krause and Shih's networks, counted: flow-I and flow-II of CaloGAN, photons and pions of DS1
    assert counts["calogan-eplus", "paper"] == {"flow-I": 79_134, "flow-II": 37_835_280}
    assert counts["ds1-photons", "paper"] == {"flow-I": 97_842, "flow-II": 27_945_968}
    assert counts["ds1-pions", "paper"] == {"flow-I": 116_550, "flow-II": 56_962_776}


def test_json_goes_to_a_file_beside_the_table(run, tmp_path):
    status, out, _ = run("datasets", "--json", tmp_path / "datasets.json")
    assert status == 0
    assert "ds2" in out
    assert len(json.loads((tmp_path / "datasets.json").read_text())) == 9


@pytest.fixture
def public_file(showers_file, tmp_path, monkeypatch):
    """The catalogue names a file of a server on this machine as CaloGAN's e+, without an MD5."""
    monkeypatch.setenv("CALOSTUDY_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FileServer({"/eplus.hdf5": showers_file.read_bytes()}) as server:
        entry = DATASETS["calogan-eplus"]
        file = replace(entry.public_files[0], url=f"{server.url}/eplus.hdf5", events=120)
        monkeypatch.setitem(DATASETS, entry.name, replace(entry, public_files=(file,)))
        yield server


def test_fetch_says_what_came_and_how_it_was_verified(run, public_file, tmp_path):
    status, out, err = run("fetch", "calogan-eplus")
    assert status == 0
    assert public_file.url in err
    assert "no MD5 of eplus.hdf5 is published" in err
    assert "structure alone" in out
    assert (tmp_path / "data" / "public" / "calogan-eplus" / "eplus.hdf5").is_file()
    _, out, _ = run("datasets", "--json", "-")
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["calogan-eplus"]["sources"]["public"] == ["train", "evaluation"]


def test_fetch_as_json_is_json_alone(run, public_file):
    for downloaded in (True, False):
        status, out, _ = run("fetch", "calogan-eplus", "--split", "train", "--json", "-")
        (row,) = json.loads(out)
        assert status == 0
        assert (row["downloaded"], row["verified"], row["events"]) == (downloaded, False, 120)


def test_fetch_of_what_does_not_come_is_status_1_and_says_where_to_put_it(
    run, public_file, tmp_path
):
    public_file.files.clear()
    status, _, err = run("fetch", "calogan-eplus")
    assert status == 1
    assert f"download {public_file.url}/eplus.hdf5" in err
    assert f"to {tmp_path / 'data' / 'public' / 'calogan-eplus' / 'eplus.hdf5'}" in err


def test_inspect_says_what_a_good_file_is(run, showers_file):
    status, out, _ = run("inspect", showers_file, "--json", "-")
    report = json.loads(out)
    assert status == 0
    assert report["events"] == 120
    assert report["format"] == "calogan"
    assert not report["problems"]


def test_inspect_of_a_truncated_file_is_status_1_and_names_it(run, showers_file):
    showers_file.write_bytes(showers_file.read_bytes()[:2000])
    status, _, err = run("inspect", showers_file)
    assert status == 1
    assert "showers.h5" in err.replace("\n", "")


def test_features_writes_every_observable(run, showers_file, tmp_path):
    out = tmp_path / "features.h5"
    status, _, _ = run("features", showers_file, "--dataset", "calogan-eplus", "--out", out)
    assert status == 0
    showers = read(showers_file, calorimeter("calogan"))
    with h5py.File(out) as file:
        for layer in range(3):
            for kind in ("E_layer", "EC_eta", "EC_phi", "EC_r", "width_r", "sparsity"):
                assert file[f"{kind}/{layer}"].shape == (120,)
        kept = showers.above_threshold(0.001)
        np.testing.assert_allclose(file["E_tot"][:], kept.total_energy(), rtol=1e-12)


def test_evaluate_scores_a_file_against_a_reference(run, tmp_path):
    for name, seed, scale in (("generated", 2, 1.1), ("reference", 3, 1.0)):
        write(tmp_path / f"{name}.h5", toy_showers("calogan-eplus", 600, seed, scale=scale))
    status, out, _ = run(
        *("evaluate", tmp_path / "generated.h5", "--dataset", "calogan-eplus"),
        *("--reference", tmp_path / "reference.h5", "--metrics", "separation_power"),
        *("--json", "-", "--report", tmp_path / "report"),
    )
    result = json.loads(out)
    assert status == 0
    score = result["scores"]["separation_power"]
    assert score["value"] > score["floor"]
    assert score["details"]["E_tot/E_inc"]["value"] > 0.9  # a scale off by 10 %, resolved to 2 %
    assert result["provenance"]["machine"]["cores"] >= 1
    assert set(score["by_energy"]) == {"1-25 GeV", "25-50 GeV", "50-75 GeV", "75-100 GeV"}
    page = (tmp_path / "report" / "index.html").read_text()
    assert "separation_power" in page
    assert "25-50 GeV" in page
    assert (tmp_path / "report" / "figure-0.png").stat().st_size > 1000


def test_an_unknown_metric_is_told_before_the_file_is_read(run, tmp_path):
    status, _, err = run(
        *("evaluate", tmp_path / "nothing.h5", "--dataset", "ds2", "--metrics", "fpd,fid")
    )
    assert status == 2
    assert "metrics fid: choose from separation_power" in " ".join(err.split())


def test_evaluate_of_another_datasets_file_is_status_1(run, showers_file):
    status, _, err = run("evaluate", showers_file, "--dataset", "ds2")
    assert status == 1
    assert "calogan" in err


@pytest.fixture(scope="module")
def photons(tmp_path_factory):
    """A data folder with some photons in ILD, and files of point clouds beside it.

    "same": other Geant4 showers, not on the lattice of clustered points; "wide": 1.3 times as wide.
    """
    folder = tmp_path_factory.mktemp("photons")
    home = folder / "showers" / "ild-photons"
    home.mkdir(parents=True)
    for split in ("train", "evaluation"):
        write(home / f"{split}.h5", load("ild-photons", split, rows=slice(0, 250)))
        write_clouds(home / f"{split}.clouds.h5", split, slice(0, 250))
    for name, scale in (("same", 1.0), ("wide", 1.3)):
        write_clouds(folder / f"{name}.h5", "train", slice(250, 500), 0.4, scale)
    return folder


def write_clouds(path, split, rows, shift=0.0, scale=1.0):
    """Shipped point clouds, each point moved at random by up to so many mm, then scaled."""
    with h5py.File(clouds_path("ild-photons", split)) as shipped, h5py.File(path, "w") as file:
        file.attrs.update(shipped.attrs)
        file["energy"], events = shipped["energy"][rows], shipped["events"][rows]
        moved = events[..., ::2] + np.random.default_rng(1).uniform(
            -shift, shift, (*events.shape[:2], 2)
        )
        events[..., ::2] = scale * moved
        file["events"] = events


FEW = "separation_radial,wasserstein_radial"
EVALUATION = "showers/ild-photons/evaluation.clouds.h5"


@pytest.mark.parametrize(
    ("reference", "floor", "ranges"),
    [
        ((), "another Geant4 sample", ["10-40 GeV", "40-70 GeV", "70-100 GeV"]),
        (("--reference", EVALUATION), "two halves of the reference", []),  # too few for ranges
    ],
    ids=["of the dataset", "a file"],
)
def test_evaluate_of_point_clouds_sees_a_wrong_width_and_nothing_between_geant4(
    run, photons, monkeypatch, reference, floor, ranges
):
    monkeypatch.setenv("CALOSTUDY_DATA", str(photons))
    monkeypatch.chdir(photons)
    monkeypatch.setattr("calostudy.metrics.DEFAULT", tuple(FEW.split(",")))
    found = {}
    for name in ("same", "wide"):
        status, out, err = run(
            *("evaluate", f"{name}.h5", "--dataset", "ild-photons", *reference),
            *("--json", "-"),
        )
        assert status == 0, err
        assert not any(words in err for words in ("empty", "in no cell", "cells alone"))
        found[name] = json.loads(out)["scores"]
    for metric in (*FEW.split(","), *CLOUD_METRICS):
        same, wide = (found[name][metric] for name in ("same", "wide"))
        assert abs(same["significance"]) < 3
        assert same["floor_kind"] == floor
        assert (same["generated"], same["reference"]) == (250, 250)
        assert list(same["by_energy"]) == ranges
        if metric.endswith("radial"):
            assert wide["significance"] > 10
        elif metric.startswith("cloud"):
            assert wide["value"] == pytest.approx(same["value"])


def _point(column, value):
    def change(events):
        events[3, 0, column] = value
        return events

    return change


def _moved(column):
    return lambda events: events + 1e4 * (np.arange(4) == column)


@pytest.mark.parametrize(
    ("dataset", "changes", "said"),
    [
        ("ds2", {}, "holds point clouds, expected cells: ds2 has none"),
        ("ild-photons", {"events": _point(0, np.nan)}, "events has NaN"),
        ("ild-photons", {"events": _point(3, -0.01)}, "negative or zero energies"),
        ("ild-photons", {"energy": lambda energy: 10 * energy}, "incident energies are not"),
        ("ild-photons", {"events": _moved(0)}, "showers are empty"),
        ("ild-photons", {"events": _moved(1)}, "showers are empty"),
    ],
    ids=["no clouds", "NaN", "negative", "energies", "beside the cells", "behind the cells"],
)
def test_evaluate_of_impossible_point_clouds_is_status_1_with_one_clear_error(
    run, photons, tmp_path, monkeypatch, dataset, changes, said
):
    monkeypatch.setenv("CALOSTUDY_DATA", str(photons))
    path = tmp_path / "mine.h5"
    write_clouds(path, "train", slice(0, 20))
    with h5py.File(path, "r+") as file:
        for key, change in changes.items():
            file[key][...] = change(file[key][...])
    status, out, err = run("evaluate", path, "--dataset", dataset, "--metrics", FEW)
    assert status == 1
    assert said in err.replace("\n", "") and err.count("error") == 1
    assert not out


def test_evaluate_says_what_cells_alone_cannot_tell(run, photons, monkeypatch):
    monkeypatch.setenv("CALOSTUDY_DATA", str(photons))
    grid = photons / "showers" / "ild-photons" / "train.h5"
    arguments = ("--dataset", "ild-photons", "--no-by-energy", "--json", "-")
    status, _, err = run("evaluate", grid, *arguments, "--metrics", "cloud_separation_hits")
    assert status == 1
    assert "generated showers are cells alone" in err
    for pair in ((photons / "same.h5", grid), (grid, photons / "same.h5")):
        status, out, _ = run(
            *("evaluate", pair[0], *arguments, "--reference", pair[1], "--metrics", FEW)
        )
        assert status == 0
        warnings = json.loads(out)["scores"]["separation_radial"]["warnings"]
        assert any("compared by their cells" in text for text in warnings)


def test_points_beside_the_cells_are_warned_about(run, photons, tmp_path, monkeypatch):
    monkeypatch.setenv("CALOSTUDY_DATA", str(photons))
    path = tmp_path / "mine.h5"
    write_clouds(path, "train", slice(0, 60))
    with h5py.File(path, "r+") as file:
        file["events"][:, ::4, 0] += 200  # mm
    status, out, _ = run(
        *("evaluate", path, "--dataset", "ild-photons", "--metrics", FEW, "--json", "-")
    )
    assert status == 0
    (warning,) = (
        text
        for text in json.loads(out)["scores"]["separation_radial"]["warnings"]
        if "in no cell above the threshold" in text
    )
    assert warning.startswith("2") and "(1." in warning  # a quarter, and what Geant4 has there


def test_clouds_of_other_showers_than_the_cells_are_refused(run, photons, tmp_path, monkeypatch):
    home = tmp_path / "showers" / "ild-photons"
    shutil.copytree(photons / "showers" / "ild-photons", home)
    shutil.copy(photons / "same.h5", home / "evaluation.clouds.h5")
    monkeypatch.setenv("CALOSTUDY_DATA", str(tmp_path))
    status, _, err = run("evaluate", photons / "wide.h5", "--dataset", "ild-photons")
    assert status == 1
    assert "evaluation.clouds.h5" in err.replace("\n", "")
    assert "expected the same showers" in " ".join(err.split())


@pytest.fixture
def models(tmp_path):
    """Files of two models, one of them off by 30 %, and of Geant4."""
    for name, seed, scale in (("good", 2, 1.0), ("bad", 3, 1.3), ("geant4", 4, 1.0)):
        write(tmp_path / f"{name}.h5", toy_showers("calogan-eplus", 500, seed, scale=scale))
    return tmp_path


def test_rank_says_which_model_is_closest_to_geant4(run, models):
    status, out, _ = run(
        *("rank", models / "bad.h5", models / "good.h5", "--dataset", "calogan-eplus"),
        *("--reference", models / "geant4.h5", "--repeats", 2, "--hidden", 128),
        *("--json", models / "ranking.json", "--report", models / "report"),
    )
    assert status == 0
    assert out.index("good") < out.index("bad")  # the first table has the best first
    assert "spread over repeats" in out
    assert "taken for bad" in out
    result = json.loads((models / "ranking.json").read_text())
    good, bad = (result["ranking"]["models"][name] for name in ("good", "bad"))
    assert good["log_posterior"] > result["ranking"]["uniform"] > bad["log_posterior"]
    assert good["uncertainty"] > 0
    assert result["ranking"]["cross_check"]["bad"]["bad"] > result["ranking"]["uniform"]
    assert result["provenance"]["machine"]["cores"] >= 1
    page = (models / "report" / "index.html").read_text()
    assert "taken for good" in page
    for figure in (0, 1):
        assert (models / "report" / f"figure-{figure}.png").stat().st_size > 1000


def test_rank_as_json_is_json_alone(run, models):
    status, out, _ = run(
        *("rank", models / "bad.h5", models / "good.h5", "--dataset", "calogan-eplus"),
        *("--reference", models / "geant4.h5", "--repeats", 1, "--hidden", 8, "--json", "-"),
    )
    assert status == 0
    assert set(json.loads(out)["ranking"]["models"]) == {"good", "bad"}


def test_rank_of_a_broken_file_is_status_1_and_names_it(run, models):
    (models / "bad.h5").write_bytes(b"no showers")
    arguments = ("rank", models / "good.h5", models / "bad.h5", "--dataset", "calogan-eplus")
    status, out, err = run(*arguments)
    assert status == 1
    assert str(models / "bad.h5") in err
    assert err.count("error") == 1
    assert not out


@pytest.mark.parametrize(
    ("files", "said"), [(("good.h5",), "1 model"), (("good.h5", "good.h5"), "good, good")]
)
def test_rank_needs_two_models_with_names_of_their_own(run, models, files, said):
    paths = [models / file for file in files]
    status, _, err = run(
        "rank", *paths, "--dataset", "calogan-eplus", "--reference", models / "geant4.h5"
    )
    assert status == 2
    assert said in err


def test_generate_untrained_writes_showers_in_the_public_format(run, tmp_path):
    out = tmp_path / "generated.h5"
    status, _, _ = run(
        *("generate", "caloflow-teacher", "calogan-gamma", "-n", 7, "--untrained"),
        *("--seed", 3, "--out", out),
    )
    assert status == 0
    showers = read(out, calorimeter("calogan"))
    assert len(showers) == 7
    assert showers.incident_energy.min() >= 1000


def test_generate_emulates_a_format_and_says_so_in_the_file(run, tmp_path):
    wanted = "generate", "dnn-calosim", "ds1-photons", "-n", 5, "--seed", 1
    plain, rounded = tmp_path / "plain.h5", tmp_path / "rounded.h5"
    assert run(*wanted, "--out", plain)[0] == 0
    assert run(*wanted, "--emulate", "mxfp4", "--out", rounded)[0] == 0
    with h5py.File(plain) as one, h5py.File(rounded) as other:
        assert "emulated" not in one.attrs and other.attrs["emulated"] == "mxfp4"
    one, other = (read(path, calorimeter("ds1-photons")) for path in (plain, rounded))
    np.testing.assert_array_equal(one.incident_energy, other.incident_energy)
    assert (one.cells != other.cells).any() and len(other) == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("generate", "caloinn", "ds1-photons", "-n", 1, "--emulate", "nvfp4", "--out", "x.h5"),
            "--emulate",
        ),
        (("time", "dnn-calosim", "ds1-photons", "--target", "cpu-1/nvfp4"), "--emulate nvfp4"),
        (("generate", "caloflow", "ds2", "-n", 1, "--out", "x.h5", "--untrained"), "caloflow"),
        (("fetch", "ds9"), "ds9"),
        (("fetch", "ds2", "--split", "half"), "half"),
        (("features", "none.h5", "--dataset", "ds9", "--out", "x.h5"), "ds9"),
        (("simulate", "nosuch", "-n", 1, "--out", "x.h5"), "ds3"),
        (
            ("generate", "caloflow-teacher", "ds1-pions", "--size", "paper", "-n", 1, "--out", "x"),
            "no trained weights",
        ),
        (("generate", "caloflow-teacher", "calogan-eplus", "--out", "x.h5"), "--energies"),
        (("time", "caloflow-teacher", "ds1-pions", "--untrained", "--batch", "0"), "--batch"),
        (("inspect",), "Missing argument"),
    ],
    ids=[
        "format of a model",
        "time of a format",
        "model",
        "public dataset",
        "split",
        "dataset",
        "no simulation",
        "no weights",
        "no number",
        "batch",
        "argument",
    ],
)
def test_bad_usage_is_status_2_with_one_clear_error(run, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(*arguments)
    assert status == 2
    assert said in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
