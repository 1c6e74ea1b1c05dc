"""The student: published counts, exact showers, a distillation that learns and resumes exactly."""

import json

import numpy as np
import pytest
import torch
from nflows.transforms.permutations import Permutation
from surrogates import assert_learns_from_its_teacher_only, assert_samplers_agree
from toy_showers import toy_showers

from calostudy import cli, models, training
from calostudy.datasets import dataset
from calostudy.errors import UsageError
from calostudy.models import caloflow, caloflow_student
from calostudy.models.caloflow import LAYERS, VOXELS
from calostudy.models.surrogate import TrainingRecipe
from calostudy.showers import Showers, read, write
from calostudy.training import train

EPLUS = ("caloflow-student", "calogan-eplus", "embedded")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Size `embedded`, far smaller: what is tested does not depend on the size."""
    flows = {
        LAYERS: caloflow.Structure(2, 8, 1, 0.0, tail_bound=6.0),
        VOXELS: caloflow.Structure(2, 8, 1, 0.1, degrees="spread", tail_bound=6.0),
    }
    recipe = TrainingRecipe(4, 16, 5e-3, "multistep", {"milestones": (3,), "factor": 0.5}, 0.25)
    for name in caloflow.STRUCTURE["embedded"]:
        monkeypatch.setitem(caloflow.STRUCTURE["embedded"], name, flows)
        monkeypatch.setitem(caloflow_student.HIDDEN["embedded"], name, 12)
        monkeypatch.setitem(caloflow_student.RECIPES["embedded"], name, recipe)


def blocks(surrogate):
    steps = surrogate.networks[VOXELS]._transform._transforms
    return [step for step in steps if not isinstance(step, Permutation)]


def taught(name="calogan-eplus", seed=1):
    """A student with a teacher whose splines and layer energies are far from the identity."""
    teacher = models.build("caloflow-teacher", name, "embedded", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for network in teacher.networks.values():
            for parameter in network.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    for network in teacher.networks:
        teacher.round_weights(network)
        teacher.constants[f"{network}.mean"] -= 3.0
        teacher.constants[f"{network}.deviation"] *= 2.0
    student = models.build("caloflow-student", name, "embedded", seed=seed + 1)
    student.learn_from(teacher)
    return student, teacher


def showers(name="calogan-eplus", n=48):
    calorimeter, random = dataset(name).calorimeter, np.random.default_rng(0)
    cells = random.exponential(1.0, (n, calorimeter.cells))
    cells *= random.random(cells.shape) < 0.4
    energy = cells.sum(axis=1) * random.uniform(1.0, 1.1, n)
    return Showers(calorimeter, energy, cells.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "layers", "voxels"),
    [
        ("calogan-eplus", 79_134, 50_924_160),
        ("ds1-photons", 97_842, 56_457_088),
        ("ds1-pions", 116_550, 53_310_072),
    ],
)
def test_paper_size_has_the_published_numbers_of_parameters(name, layers, voxels):
    counts = models.build("caloflow-student", name, "paper").parameters_by_network()
    assert counts == {LAYERS: layers, VOXELS: voxels}


@pytest.mark.parametrize("name", ["calogan-eplus", "ds1-photons", "ds1-pions"])
def test_layers_have_the_energies_of_flow_one_and_showers_do_not_depend_on_the_batch(name):
    student, _ = taught(name)
    energies = np.linspace(2e3, 9e4, 7)
    whole = student.sample(energies, seed=5)
    parts = [student.sample(energies[a:b], seed=5, first=a) for a, b in ((0, 1), (1, 4), (4, 7))]
    np.testing.assert_array_equal(whole.cells, np.concatenate([p.cells for p in parts]))
    assert np.isfinite(whole.cells).all() and (whole.cells >= 0).all() and whole.cells.any()
    # no more than the largest response; lost is only what the threshold removes
    total = whole.cells.sum(axis=1)
    assert (total <= student.preparation.response * energies * (1 + 1e-5)).all()
    noise = caloflow.normal(5, 0, 7, len(whole.calorimeter.layers) + whole.calorimeter.cells)
    incident = torch.as_tensor(energies / 1e5)
    layers = noise[:, : len(whole.calorimeter.layers)]
    wanted = 1e5 * student._layer_energies(layers, incident, None, "float32").numpy()
    cut = max(student.dataset.threshold, caloflow.SMALLEST_CELL)
    sizes = np.array([layer.cells for layer in whole.calorimeter.layers])
    missing = wanted - whole.layer_energies()
    assert (missing >= -1e-3 - 1e-5 * wanted).all()
    assert (missing <= cut * sizes + 1e-3 + 1e-5 * wanted).all()


def test_both_samplers_give_the_same_showers():
    student, _ = taught()
    assert_samplers_agree(student, None, "nflows", energies=np.array([1e4, 5e4]))
    with pytest.raises(UsageError, match="one-pass"):
        student.sample(np.array([1e4]), sampler="incremental")


def test_a_student_takes_over_what_it_does_not_learn():
    student, teacher = taught()
    energies = np.array([1e4, 5e4])
    layers = [s.sample(energies, seed=3).layer_energies() for s in (student, teacher)]
    # different shapes, equal energies up to what the threshold removes
    np.testing.assert_allclose(layers[0], layers[1], rtol=0.05, atol=6.0)
    for own, given in zip(
        student.networks[VOXELS]._transform._transforms,
        teacher.networks[VOXELS]._transform._transforms,
        strict=True,
    ):
        if isinstance(own, Permutation):
            assert torch.equal(own._permutation, given._permutation)
    assert all(torch.equal(student.constants[k], v) for k, v in teacher.constants.items())


def losses(student, n=12):
    sample = showers(student.dataset.name, n)
    student.fit_constants(sample)
    batch = student.prepare(VOXELS, sample)
    torch.manual_seed(0)
    return student.x_loss(batch), student.z_loss(batch), student.divergence(batch)


@pytest.mark.parametrize("name", ["calogan-eplus", "ds1-photons", "ds1-pions"])
def test_the_inverse_of_the_teacher_has_no_loss_and_no_divergence(name, monkeypatch):
    # Splines that follow from the conditions alone: the same weights invert them.
    monkeypatch.setitem(caloflow_student.HIDDEN["embedded"], dataset(name).calorimeter.name, 8)
    student, teacher = taught(name)
    assert all(loss.min() > 1.0 for loss in losses(student)[:2])
    with torch.no_grad():
        for own, given in zip(blocks(student), blocks(teacher), strict=True):
            given.autoregressive_net.initial_layer.weight.zero_()
            own.load_state_dict(given.state_dict())
    for surrogate in (student, teacher):
        surrogate.networks[VOXELS].double()
    monkeypatch.setattr(caloflow.CaloFlow, "precision", torch.float64)
    x_loss, z_loss, divergence = losses(student)
    assert x_loss.max() < 1e-9 and z_loss.max() < 1e-9
    assert divergence.abs().max() < 1e-6


def test_the_divergence_is_the_difference_of_nflows_log_densities(monkeypatch):
    student, teacher = taught()
    for surrogate in (student, teacher):
        surrogate.networks[VOXELS].double()
    monkeypatch.setattr(caloflow.CaloFlow, "precision", torch.float64)
    incident = torch.linspace(0.05, 0.5, 3, dtype=torch.float64)
    student._bounds = (0.05, 0.5)
    torch.manual_seed(4)
    trace, context = student._from_noise(incident)
    torch.manual_seed(4)
    found = student.divergence({"incident": incident})
    x = trace.states[0].t()
    with torch.no_grad():
        log_q, log_p = (s.networks[VOXELS].log_prob(x, context) for s in (student, teacher))
    torch.testing.assert_close(found, log_q - log_p, rtol=1e-6, atol=1e-4)


def test_the_incident_energies_of_the_noise_follow_the_law_of_the_calorimeter():
    incident = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64).repeat(100)
    assert sorted(caloflow_student.NOISE_ENERGIES["ds1-photons"](incident, (0.1, 0.4))) == sorted(
        incident
    )
    for name in ("calogan", "ds1-pions"):
        drawn = caloflow_student.NOISE_ENERGIES[name](incident, (0.1, 0.4))
        assert drawn.min() >= 0.1 and drawn.max() <= 0.4 and len(drawn.unique()) == 300


def test_distillation_brings_the_student_nearer_and_leaves_flow_one_alone(tmp_path):
    student, teacher = taught()
    before = {k: v.clone() for k, v in teacher.networks[LAYERS].state_dict().items()}
    divergence = losses(student, 48)[2].mean()
    train(student, showers(), tmp_path, epochs=12, progress=False)
    log = [json.loads(line) for line in (tmp_path / training.LOG).read_text().splitlines()]
    assert {entry["network"] for entry in log} == {VOXELS}
    assert log[-1]["validation_loss"] < 0.8 * log[0]["validation_loss"]
    assert losses(student, 48)[2].mean() < divergence
    for key, tensor in student.networks[LAYERS].state_dict().items():
        assert torch.equal(tensor, before[key])
    card = models.read_card(tmp_path)
    # the epoch that was kept is the one nearest to the teacher, as Kullback and Leibler measure
    found = [entry["divergence"] for entry in log]
    assert card["best_epoch"] == {VOXELS: 1 + found.index(min(found))}
    assert card["training"]["teacher"] == teacher.fingerprint()
    assert models.load(tmp_path).fingerprint() == student.fingerprint()


def test_a_broken_off_distillation_resumes_to_the_same_bits(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(taught()[0], showers(), whole, seed=5, progress=False)
    student, calls = taught()[0], []
    loss = student.loss

    def breaking(network, batch):
        calls.append(network)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return loss(network, batch)

    student.loss = breaking
    with pytest.raises(KeyboardInterrupt):
        train(student, showers(), broken, seed=5, progress=False)
    train(taught()[0], showers(), broken, seed=5, resume=True, progress=False)
    assert (whole / models.WEIGHTS).read_bytes() == (broken / models.WEIGHTS).read_bytes()
    with pytest.raises(UsageError, match="teacher"):
        train(taught(seed=2)[0], showers(), broken, seed=5, resume=True, progress=False)


def test_the_command_line_distils_what_generate_then_uses(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["calostudy", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0, capsys.readouterr().err

    _, teacher = taught()
    teacher.save(tmp_path / "teacher")
    write(tmp_path / "train.h5", toy_showers("calogan-eplus", 40, seed=1))
    distil = ("distill", *EPLUS[:2], "--out", tmp_path / "student", "--epochs", 1)
    distil += ("--showers", tmp_path / "train.h5", "-n", 32, "--teacher")
    assert run(*distil, tmp_path / "teacher")[0] == 0
    card = models.read_card(tmp_path / "student")
    assert card["training"]["showers"] == 32 and card["data"]["file"] == "train.h5"
    generate = ("generate", *EPLUS[:2], "-n", 5, "--out", tmp_path / "generated.h5")
    assert run(*generate, "--weights", tmp_path / "student")[0] == 0
    assert len(read(tmp_path / "generated.h5", dataset("calogan-eplus").calorimeter)) == 5
    # a student is no teacher, and without shipped weights the way to get them is told
    status, said = run(*distil, tmp_path / "student", "--resume")
    assert status == 2 and "caloflow-teacher" in said
    monkeypatch.setattr(models, "shipped_weights", lambda *name: None)
    status, said = run("generate", *EPLUS[:2], "-n", 5, "--out", tmp_path / "x.h5")
    assert status == 2 and "calostudy distill caloflow-student" in said


def test_a_student_without_its_teacher_is_a_usage_error(tmp_path):
    stranger = models.build("caloflow-teacher", "ds1-photons", "embedded")
    assert_learns_from_its_teacher_only(*taught(), stranger, showers(), tmp_path)
