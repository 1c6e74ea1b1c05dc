"""Real Geant4 showers: the same bits always, nothing lost, physics as known figures say."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from calostudy import clouds
from calostudy.calorimeter import calorimeter
from calostudy.errors import UsageError
from calostudy.geant4 import (
    SETUPS,
    clouds_path,
    environment,
    production,
    sidecar_path,
    simulate,
)
from calostudy.geant4.joining import join
from calostudy.geant4.shipped import SHIPPED
from calostudy.geant4.validation import REFERENCE, Point, measure
from calostudy.showers import attributes, read

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("geant4_pybind") is None, reason="needs calostudy[geant4]"
    ),
    pytest.mark.xdist_group("geant4"),
]

LOW = {"emin": 0.1, "emax": 0.6, "progress": False}  # GeV


def showers_of(dataset, path):
    return read(path, calorimeter(SETUPS[dataset].calorimeter))


def side_of(path):
    with h5py.File(sidecar_path(path)) as file:
        return {name: file[name][:] for name in file}


def same(a, b):
    np.testing.assert_array_equal(a.incident_energy, b.incident_energy)
    np.testing.assert_array_equal(a.cells, b.cells)
    if a.overflow is not None:
        np.testing.assert_array_equal(a.overflow, b.overflow)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """60 low-energy showers of a dataset, two workers; made once."""
    made = {}

    def path(dataset):
        if dataset not in made:
            out = tmp_path_factory.mktemp(dataset) / "few.h5"
            made[dataset] = simulate(dataset, 60, 7, out, workers=2, **LOW)
        return made[dataset]

    return path


@pytest.mark.parametrize("dataset", ["calogan-eplus", "calogan-piplus", "ds2"])
def test_showers_depend_neither_on_workers_nor_on_n(few, tmp_path, dataset):
    one = simulate(dataset, 30, 7, tmp_path / "one.h5", workers=1, **LOW)
    same(showers_of(dataset, one), showers_of(dataset, few(dataset))[:30])
    here, there = side_of(one), side_of(few(dataset))
    for name in ("steps", "deposited", "visible"):
        np.testing.assert_array_equal(here[name], there[name][:30])


def test_another_seed_gives_other_showers(few, tmp_path):
    other = simulate("calogan-eplus", 5, 8, tmp_path / "other.h5", **LOW)
    cells = showers_of("calogan-eplus", few("calogan-eplus")).cells[:5]
    assert not np.array_equal(showers_of("calogan-eplus", other).cells, cells)


def test_a_killed_run_keeps_its_shards_and_resumes_to_the_same_bits(few, tmp_path):
    out = tmp_path / "killed.h5"
    call = f"from calostudy.geant4 import simulate; simulate('ds2', 60, 7, {str(out)!r}, **{LOW})"
    process = subprocess.Popen([sys.executable, "-c", call])
    folder = tmp_path / "killed.h5.shards"
    while not (finished := list(folder.glob("*.npz"))) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert finished and not out.exists(), "the run ended before it could be killed"
    times = {path: path.stat().st_mtime_ns for path in finished}
    time.sleep(0.3)  # the kernel ends the orphaned workers
    with pytest.raises(UsageError, match="seed = 7 there, 8 now"):
        simulate("ds2", 60, 8, out, **LOW)
    assert all(path.stat().st_mtime_ns == when for path, when in times.items())
    simulate("ds2", 60, 7, out, **LOW)
    same(showers_of("ds2", out), showers_of("ds2", few("ds2")))
    assert not folder.exists()


@pytest.mark.parametrize("dataset", ["calogan-eplus", "ds2"])
def test_energy_is_conserved(few, dataset):
    showers, side = showers_of(dataset, few(dataset)), side_of(few(dataset))
    # an annihilated positron adds two electron masses
    assert (side["deposited"] <= showers.incident_energy + 1.1).all()
    assert (side["deposited"] / showers.incident_energy).mean() > 0.97
    assert (side["visible"] < 0.5 * side["deposited"]).all()
    assert (side["cpu_seconds"] > 0).all() and (side["steps"] > 100).all()


def test_calogan_cells_and_overflow_hold_every_deposit(few):
    showers = showers_of("calogan-eplus", few("calogan-eplus"))
    deposited = side_of(few("calogan-eplus"))["deposited"]
    stored = showers.cells.sum(axis=1) + showers.overflow.sum(axis=1)
    np.testing.assert_allclose(stored, deposited, rtol=5e-4)  # of the rounded mantissa


def test_ds2_voxels_hold_the_silicon_energy_over_the_sampling_fraction(few):
    showers, side = showers_of("ds2", few("ds2")), side_of(few("ds2"))
    silicon = 0.033 * showers.total_energy()
    assert (silicon <= side["visible"] * (1 + 5e-4)).all()
    assert silicon.sum() > 0.97 * side["visible"].sum()  # the rest: below threshold or outside
    positive = showers.cells[showers.cells > 0]
    assert positive.min() >= 0.5e-3 / 0.033 * (1 - 5e-4)


def test_ds3_showers_are_those_of_ds2_in_finer_voxels(few):
    coarse, fine = (showers_of(name, few(name)) for name in ("ds2", "ds3"))
    np.testing.assert_array_equal(coarse.incident_energy, fine.incident_energy)
    for name in ("deposited", "visible", "steps", "hits"):
        np.testing.assert_array_equal(side_of(few("ds2"))[name], side_of(few("ds3"))[name])
    # rings of 4.65 mm are two of 2.325 mm; the threshold takes a little more in the finer voxels
    rings = coarse.cells.reshape(60, 45, 16, 9).sum(axis=2)
    pairs = fine.cells.reshape(60, 45, 50, 9, 2).sum(axis=(2, 4))
    np.testing.assert_allclose(pairs.sum(axis=(1, 2)), rings.sum(axis=(1, 2)), rtol=0.02)
    strong = rings > 20.0
    assert strong.sum() > 100
    np.testing.assert_allclose(pairs[strong], rings[strong], rtol=0.05)


def test_ild_grid_and_point_clouds_are_of_the_same_hits(few):
    grid, points = showers_of("ild-photons", few("ild-photons")), side_of(few("ild-photons"))
    found = clouds.read(clouds_path(few("ild-photons")))
    projected = found.to_showers(grid.calorimeter)
    # 7 bits of the mantissa are stored, in both files
    np.testing.assert_allclose(projected.cells, grid.cells, rtol=2**-7, atol=1e-6)
    np.testing.assert_allclose(found.total_energy(), points["visible"], rtol=2**-7)
    assert (found.counts <= points["hits"]).all()
    assert found.counts.sum() < 0.8 * points["hits"].sum()


def test_every_hit_is_kept_on_request(tmp_path):
    arguments = {"emin": 0.2, "emax": 0.2, "progress": False}
    path = simulate("segmentations", 3, 4, tmp_path / "a.h5", steps=True, **arguments)
    hits = clouds.read(clouds_path(path, "steps"))
    side = side_of(path)
    np.testing.assert_array_equal(hits.counts, side["hits"])
    np.testing.assert_allclose(hits.total_energy(), side["deposited"], rtol=1e-5)
    binned = hits.to_showers(calorimeter("segmentations")).cells
    stored = showers_of("segmentations", path).cells
    kept = stored > 0
    np.testing.assert_allclose(binned[kept], stored[kept], rtol=2**-7)
    assert (binned[~kept] <= 0.1 * (1 + 2**-7)).all()


def test_pions_reach_the_iron_and_photons_do_not(tmp_path):
    share = {}
    for name in ("ds1-photons", "ds1-pions"):
        path = simulate(name, 20, 3, tmp_path / f"{name}.h5", emin=4, emax=5, progress=False)
        energies = showers_of(name, path).layer_energies()
        share[name] = energies[:, 4:].sum() / energies.sum()
    assert share["ds1-photons"] < 0.02 < 0.1 < share["ds1-pions"]


IN_GEANT4 = """
import json, os, pathlib, sys, tempfile
from calostudy.geant4 import environment, setups
variables = environment.geant4_environment("data-free", "rel", pathlib.Path(tempfile.mkdtemp()), {})
os.environ.update(variables)
import numpy as np
from calostudy.geant4 import probe
from calostudy.geant4.session import Session
setup = setups.setup(sys.argv[1])
session = Session(setup)
energies, seeds = np.array([60.0, 150.0, 400.0]), setups.event_seeds(5, 0, 3)
both = probe.compare_scorers(session, energies, seeds)
again = session.run(energies, seeds)
names = ("cells", "steps", "deposited", "visible", "outside", "hits")
equal = {n: bool(np.array_equal(both["native"][n], both["python"][n])) for n in names}
repeated = all(np.array_equal(both["native"][n], again[n]) for n in names)
steps, cells = both["native"]["steps"], both["native"]["cells"]
problems = probe.problems(session)
probe.STEP_POST, probe.POINT_MATERIAL = 8, 88
wrong = probe.problems(session)
pathlib.Path(sys.argv[2]).write_text(json.dumps({
    "equal": equal, "repeated": repeated, "problems": both["problems"] + problems, "wrong": wrong,
    "steps": int(steps.sum()), "filled": int((cells > 0).sum())}))
os._exit(0)
"""


@pytest.mark.parametrize(
    "dataset",
    [
        "calogan-eplus",
        "calogan-piplus",
        "ds1-photons",
        "ds2",
        "ds3",
        "ild-photons",
        "segmentations",
    ],
)
def test_native_scorer_equals_a_python_stepping_action(tmp_path, dataset):
    answer = tmp_path / "answer.json"
    log = subprocess.run(
        [sys.executable, "-c", IN_GEANT4, dataset, answer], capture_output=True, text=True
    )
    assert answer.exists(), log.stdout + log.stderr
    found = json.loads(answer.read_text())
    assert all(found["equal"].values()), found
    assert found["repeated"] and found["problems"] == []
    assert found["steps"] > 500 and found["filled"] > 20
    # the start-up check sees offsets that are not the library's
    assert "G4Step post-step point" in found["wrong"]
    assert "G4StepPoint material (pre)" in found["wrong"]


STOCK = """
import os, pathlib, sys, tempfile
from calostudy.geant4 import environment
os.environ.update(environment.stand_in(pathlib.Path(tempfile.mkdtemp())))
from calostudy.geant4.physics import g4, physics_list
manager = g4.G4RunManagerFactory.CreateRunManager(g4.G4RunManagerType.Serial)
physics = physics_list(sys.argv[1], "rel", False, 0.7)
parts, i = [], 0
while (part := physics.GetPhysics(i)) is not None:
    parts.append(part.GetPhysicsName())
    i += 1
pathlib.Path(sys.argv[2]).write_text("|".join(parts))
os._exit(0)
"""


@pytest.mark.parametrize(
    ("physics", "electromagnetic"),
    [("ftfp_bert", "G4EmStandard"), ("em-option4", "G4EmStandard_opt4")],
)
def test_stock_lists_are_ftfp_bert_with_either_electromagnetic_part(
    tmp_path, physics, electromagnetic
):
    answer = tmp_path / "answer"
    log = subprocess.run(
        [sys.executable, "-c", STOCK, physics, answer], capture_output=True, text=True
    )
    assert answer.exists(), log.stdout + log.stderr
    parts = answer.read_text().split("|")
    assert parts[0] == electromagnetic
    assert len(parts) == 8 and "hInelastic FTFP_BERT" in parts


def test_a_library_with_another_layout_is_refused(tmp_path, monkeypatch):
    words = "not as the native scorer assumes: G4Step energy deposit"
    monkeypatch.setattr(
        production, "_command", lambda job: ["/bin/sh", "-c", f"echo '{words}'; exit 3"]
    )
    with pytest.raises(UsageError, match="not laid out as geant4-pybind") as error:
        simulate("ds2", 1, 1, tmp_path / "x.h5", progress=False)
    assert words in str(error.value)


def within(found, dataset, energy, quantity, source, relative=0.0, absolute=0.0):
    """Three standard deviations, plus what the models may differ by."""
    (value, error), (expected, uncertainty) = found, REFERENCE[dataset, energy, quantity, source]
    allowed = 3 * np.hypot(error, uncertainty or 0.0) + relative * expected + absolute
    assert abs(value - expected) < allowed, (quantity, source, value, error, expected)


def test_eplus_in_lead_and_argon_as_stock_geant4_and_as_with_nrc_tables():
    found = measure(Point("calogan-eplus", 6.6, 60), "rel", seed=11, workers=2)
    assert found["deposited fraction"][0] == pytest.approx(0.996, abs=0.003)
    # "rel" shifts the visible fraction by one or two per cent
    assert found["visible fraction"][0] == pytest.approx(0.188, rel=0.03)
    assert found["resolution x sqrt(E/GeV)"][0] == pytest.approx(0.075, abs=0.03)
    for source in ("stock", "NRC"):
        for layer in range(3):
            for kind, absolute in (("fraction", 0.01), ("occupancy", 0.03)):
                name = f"{kind} layer {layer}"
                within(found[name], "calogan-eplus", 6.6, name, source, absolute=absolute)


def test_electrons_in_tungsten_and_silicon_as_with_nrc_tables():
    found = measure(Point("ds2", 3, 60), "rel", seed=12, workers=2)
    assert found["deposited fraction"][0] == pytest.approx(0.9965, abs=0.003)
    within(found["visible fraction"], "ds2", 3, "visible fraction", "NRC", relative=0.03)
    # silicon sees the maximum 0.3 radiation lengths before all materials together do
    value, error = found["shower maximum in silicon"]
    within((value + 0.3, error), "ds2", 3, "shower maximum", "NRC", absolute=0.2)


def test_pions_pass_without_interaction_as_often_as_expected():
    found = measure(Point("calogan-piplus", 10, 120), "rel", seed=13, workers=2)
    name = "non-interacting fraction"
    within(found[name], "calogan-piplus", 10, name, "NRC")


@pytest.mark.parametrize("sample", SHIPPED, ids=lambda s: f"{s.dataset}-{s.split}")
def test_the_first_shipped_showers_are_made_again_bit_for_bit(sample, tmp_path):
    again = simulate(sample.dataset, 2, sample.seed, tmp_path / "again.h5", progress=False)
    shipped = showers_of(sample.dataset, sample.path)
    assert len(shipped) == sample.n
    same(showers_of(sample.dataset, again), shipped[:2])
    found = attributes(sample.path)
    assert found["seed"] == sample.seed and found["bremsstrahlung"] == "rel"
    assert found["geant4_pybind"] == environment.WHEEL


@pytest.mark.parametrize("energy", [6.6, 26.9, 55.5, 88.7])
@pytest.mark.parametrize(
    "sample", [s for s in SHIPPED if s.dataset == "calogan-eplus"], ids=lambda s: s.split
)
def test_shipped_eplus_agree_with_stock_geant4(sample, energy):
    """Layer fractions and occupancy against 51 showers by stock Geant4 10.5, in four groups."""
    showers = showers_of("calogan-eplus", sample.path)
    gev = showers.incident_energy / 1000
    showers = showers[np.flatnonzero(abs(gev - energy) < 0.1 * energy)]
    fractions = showers.layer_energies() / showers.incident_energy[:, None]
    for layer in range(3):
        occupied = (showers.layer(layer) > 0).mean(axis=(1, 2))
        # ours fills a few per cent fewer cells: no Rayleigh scattering, no fluorescence
        for kind, values, absolute in (
            ("fraction", fractions[:, layer], 0.005),
            ("occupancy", occupied, 0.03),
        ):
            found = values.mean(), values.std() / np.sqrt(len(values))
            name = f"{kind} layer {layer}"
            within(found, "calogan-eplus", energy, name, "stock", absolute=absolute)


def test_samples_are_joined_with_their_clouds_and_sidecars(tmp_path):
    arguments = {"emin": 0.3, "emax": 0.5, "progress": False}
    parts = [
        simulate("ild-photons", n, seed, tmp_path / f"{seed}.h5", **arguments)
        for n, seed in ((3, 5), (2, 6))
    ]
    out = join(parts, tmp_path / "all.h5")
    whole = showers_of("ild-photons", out)
    same(whole[:3], showers_of("ild-photons", parts[0]))
    same(whole[3:], showers_of("ild-photons", parts[1]))
    steps = np.concatenate([side_of(part)["steps"] for part in parts])
    np.testing.assert_array_equal(side_of(out)["steps"], steps)
    points = np.concatenate([clouds.read(clouds_path(part)).energy for part in parts])
    np.testing.assert_array_equal(clouds.read(clouds_path(out)).energy, points)
    assert json.loads(attributes(out)["seed"]) == [5, 6]
    with pytest.raises(UsageError, match="exists already"):
        join(parts, out)
    with pytest.raises(UsageError, match="share a seed"):
        join([parts[0], parts[0]], tmp_path / "twice.h5")
    assert not (tmp_path / "twice.h5").exists()
