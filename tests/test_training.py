"""Training is repeatable, resumes exactly after a kill, and keeps the best weights."""

import json
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch

from calostudy import models, training
from calostudy.datasets import dataset
from calostudy.errors import CaloStudyError, DataError, UsageError
from calostudy.models import caloflow
from calostudy.models.caloflow import LAYERS, VOXELS
from calostudy.models.surrogate import TrainingRecipe
from calostudy.showers import Showers
from calostudy.training import showers_sha256, train

# A teacher that trains in a second; also run in a process of its own, to be killed.
SETUP = """
import numpy as np, torch
from calostudy.datasets import dataset
from calostudy.models import build, caloflow
from calostudy.models.caloflow import LAYERS, VOXELS
from calostudy.models.surrogate import TrainingRecipe
from calostudy.showers import Showers

torch.set_num_threads(1)
cycle = {"rise": 0.3, "start": 25, "end": 100.0}
step = {"milestones": (2,), "factor": 0.5}
caloflow.STRUCTURE["embedded"]["calogan"] = {
    LAYERS: caloflow.Structure(1, 8, 1, 0.0, tail_bound=6.0),
    VOXELS: caloflow.Structure(1, 4, 1, 0.1, degrees="spread", tail_bound=6.0),
}
caloflow.RECIPES["embedded"]["calogan"] = {
    LAYERS: TrainingRecipe(4, 16, 1e-2, "onecycle", cycle, validation=0.25, clip=10.0),
    VOXELS: TrainingRecipe(3, 16, 1e-2, "multistep", step, validation=0.25, average=0.5),
}

def teacher():
    return build("caloflow-teacher", "calogan-eplus", "embedded", seed=1)

def showers(n=48):
    random = np.random.default_rng(0)
    cells = random.exponential(1.0, (n, 504)) * (random.random((n, 504)) < 0.4)
    energy = cells.sum(axis=1) * random.uniform(1.0, 1.1, n)
    return Showers(dataset("calogan-eplus").calorimeter, energy, cells.astype(np.float32))
"""


@pytest.fixture
def tiny(monkeypatch):
    """`SETUP`'s names, its changes to the catalogue undone afterwards."""
    for table in (caloflow.STRUCTURE, caloflow.RECIPES):
        monkeypatch.setitem(table["embedded"], "calogan", table["embedded"]["calogan"])
    threads = torch.get_num_threads()
    names = {}
    exec(SETUP, names)
    yield names
    torch.set_num_threads(threads)


def log_of(out):
    return [json.loads(line) for line in (out / training.LOG).read_text().splitlines()]


def test_a_killed_training_resumes_to_the_same_bits(tiny, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = train(tiny["teacher"](), tiny["showers"](), whole, seed=5, progress=False)
    # kill -9 in the middle of the second epoch of each network, three batches per epoch
    for death in (5, 3 * 3 + 4):
        script = SETUP + textwrap.dedent(f"""
            import os, signal
            from calostudy.training import train
            model, calls = teacher(), []
            loss = model.loss
            def dying(network, batch):
                calls.append(model.networks[network].training)
                if sum(calls) == {death}:
                    os.kill(os.getpid(), signal.SIGKILL)
                return loss(network, batch)
            model.loss = dying
            train(model, showers(), {str(killed)!r}, seed=5, resume=True, progress=False)
        """)
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert not (killed / models.WEIGHTS).exists()
    resumed = train(
        tiny["teacher"](), tiny["showers"](), killed, seed=5, resume=True, progress=False
    )
    assert resumed.fingerprint() == uninterrupted.fingerprint()
    assert (whole / models.WEIGHTS).read_bytes() == (killed / models.WEIGHTS).read_bytes()
    losses = [[(e["train_loss"], e["validation_loss"]) for e in log_of(o)] for o in (whole, killed)]
    assert losses[0] == losses[1] and len(losses[0]) == 7
    assert not (killed / training.CHECKPOINT).exists()


def test_the_card_tells_how_the_weights_came_about(tiny, tmp_path):
    data = tmp_path / "train.h5"
    data.write_bytes(b"showers")
    trained = train(
        tiny["teacher"](), tiny["showers"](), tmp_path / "out", progress=False, data_path=data
    )
    card = models.read_card(tmp_path / "out")
    assert card["training"]["seed"] == 0 and card["training"]["showers"] == 48
    assert card["data"] == {"file": "train.h5"}
    assert card["training"]["showers_sha256"] == showers_sha256(tiny["showers"]())
    for network, epochs in ((LAYERS, 4), (VOXELS, 3)):
        curve = card["loss_curve"][network]
        assert [e["epoch"] for e in curve] == list(range(1, epochs + 1))
        best = min(e["validation_loss"] for e in curve)
        assert card["validation_loss"][network] == pytest.approx(best, rel=1e-2)
        assert curve[card["best_epoch"][network] - 1]["validation_loss"] == best
        assert card["training_seconds"][network] >= 0
    assert {"cpu", "torch_threads"} <= set(card["machine"])
    # what is returned is what is on disk
    assert models.load(tmp_path / "out").fingerprint() == trained.fingerprint()
    json.dumps(card, allow_nan=False)


def test_the_loss_falls(tiny, tmp_path):
    train(tiny["teacher"](), tiny["showers"](), tmp_path / "out", epochs=8, progress=False)
    for network in (LAYERS, VOXELS):
        losses = [e["validation_loss"] for e in log_of(tmp_path / "out") if e["network"] == network]
        assert len(losses) == 8 and min(losses[4:]) < losses[0]


def test_the_moving_average_of_the_weights_is_what_is_kept(tiny, tmp_path, monkeypatch):
    def weights(decay):
        recipes = caloflow.RECIPES["embedded"]["calogan"]
        changed = {name: replace(recipe, average=decay) for name, recipe in recipes.items()}
        monkeypatch.setitem(caloflow.RECIPES["embedded"], "calogan", changed)
        surrogate = train(tiny["teacher"](), tiny["showers"](), tmp_path / str(decay))
        return torch.cat([p.flatten() for p in surrogate.networks[VOXELS].parameters()])

    plain, latest, slow = weights(None), weights(0.0), weights(0.9)
    assert torch.equal(plain, latest)  # an average that forgets at once
    assert not torch.equal(plain, slow)


def test_parts_of_a_network_learn_at_rates_of_their_own():
    network = torch.nn.ModuleDict(
        {"generator": torch.nn.Linear(2, 2), "critic": torch.nn.Linear(2, 1)}
    )
    recipe = TrainingRecipe(
        4, 8, 1e-3, "cosine", {"rise": 0.5, "end": 10}, beta=0.5, rates={"critic": 0.1}
    )
    optimizer = training._optimizer(network, recipe)
    schedule = training.SCHEDULES["cosine"](optimizer, recipe, recipe.epochs, 3)
    critic = set(map(id, network["critic"].parameters()))
    for _ in range(11):
        by_group = {
            {id(p) in critic for p in group["params"]}.pop(): group["lr"]
            for group in optimizer.param_groups
        }
        assert by_group[True] == pytest.approx(0.1 * by_group[False])
        optimizer.step()
        schedule.step()
    assert {group["betas"] for group in optimizer.param_groups} == {(0.5, 0.999)}


def test_a_recipe_is_recorded_without_what_it_does_not_set():
    plain = TrainingRecipe(4, 8, 1e-3, "multistep", {"milestones": (), "factor": 1.0})
    assert not {"average", "beta", "rates"} & training._recorded(plain).keys()
    assert training._recorded(replace(plain, rates={"critic": 0.1}))["rates"] == {"critic": 0.1}


def test_a_network_may_learn_from_a_part_of_the_showers(tiny, monkeypatch):
    surrogate, showers = tiny["teacher"](), tiny["showers"]()
    surrogate.fit_constants(showers)
    prepare, part = surrogate.prepare, len(showers) // 2
    monkeypatch.setattr(surrogate, "prepare", lambda name, every: prepare(name, every[:part]))
    recipe = surrogate.recipe(LAYERS)
    fit = training._Fit(surrogate, LAYERS, recipe, showers, [0, 0], torch.device("cpu"))
    rows = torch.cat([fit.validation_rows, fit.training])
    assert sorted(rows.tolist()) == list(range(part))
    assert len(fit.validation_rows) == round(recipe.validation * part)


def test_other_parameters_and_other_trainings_are_not_overwritten(tiny, tmp_path):
    out = tmp_path / "out"
    train(tiny["teacher"](), tiny["showers"](), out, epochs=1, progress=False)
    with pytest.raises(UsageError, match="finished"):
        train(tiny["teacher"](), tiny["showers"](), out, epochs=1, progress=False)
    with pytest.raises(UsageError, match="seed"):
        train(tiny["teacher"](), tiny["showers"](), out, 9, resume=True, epochs=1, progress=False)
    with pytest.raises(UsageError, match="showers"):
        train(tiny["teacher"](), tiny["showers"](40), out, resume=True, epochs=1, progress=False)
    before = (out / models.WEIGHTS).stat().st_mtime_ns
    again = train(tiny["teacher"](), tiny["showers"](), out, resume=True, epochs=1, progress=False)
    assert (out / models.WEIGHTS).stat().st_mtime_ns == before
    assert again.weights_sha256 == models.read_card(out)["weights_sha256"]


def test_a_damaged_checkpoint_is_one_clear_error(tiny, tmp_path):
    (tmp_path / training.CHECKPOINT).write_bytes(b"nothing")
    with pytest.raises(DataError, match=training.CHECKPOINT):
        train(tiny["teacher"](), tiny["showers"](), tmp_path, resume=True, progress=False)


def test_batches_that_are_not_finite_are_skipped_and_counted(tiny, tmp_path):
    model, calls = tiny["teacher"](), []
    loss = model.loss

    def sometimes(network, batch):
        calls.append(network)
        return loss(network, batch) * (float("nan") if len(calls) == 2 else 1.0)

    model.loss = sometimes
    train(model, tiny["showers"](), tmp_path / "out", epochs=2, progress=False)
    assert [e["skipped"] for e in log_of(tmp_path / "out")] == [1, 0, 0, 0]


def test_a_training_that_diverges_is_an_error(tiny, tmp_path):
    model = tiny["teacher"]()
    loss = model.loss
    model.loss = lambda network, batch: loss(network, batch) * float("nan")
    with pytest.raises(CaloStudyError, match="diverged"):
        train(model, tiny["showers"](), tmp_path / "out", epochs=1, progress=False)


def test_one_shower_is_not_enough(tiny, tmp_path):
    with pytest.raises(DataError, match="at least 2"):
        train(tiny["teacher"](), tiny["showers"](1), tmp_path / "out", progress=False)


def rates(recipe, steps):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], recipe.learning_rate)
    schedule = training.SCHEDULES[recipe.schedule](optimizer, recipe, recipe.epochs, steps)
    found = []
    for _ in range(recipe.epochs * steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return np.array(found)


@pytest.mark.filterwarnings("ignore:To get the last learning rate")
def test_schedules_follow_the_published_shapes():
    options = {"rise": 0.4, "start": 25, "end": 1e4}
    one = rates(TrainingRecipe(10, 8, 1e-3, "onecycle", options), 10)
    assert one[0] == pytest.approx(4e-5) and one.max() == pytest.approx(1e-3)
    assert abs(one.argmax() - 40) <= 1 and one[-1] == pytest.approx(4e-9)
    options = {"base": 5e-5, "rise_epochs": 5}
    cyclic = rates(TrainingRecipe(20, 8, 2e-3, "triangular2", options), 10)
    assert cyclic[50] == pytest.approx(2e-3) and cyclic[100] == pytest.approx(5e-5)
    assert cyclic[150] - 5e-5 == pytest.approx((2e-3 - 5e-5) / 2)
    options = {"milestones": (5, 15), "factor": 0.5}
    falling = rates(TrainingRecipe(20, 8, 1e-4, "multistep", options), 10)
    assert falling[[49, 50, 149, 150]] == pytest.approx([1e-4, 5e-5, 5e-5, 2.5e-5])
    smooth = rates(TrainingRecipe(20, 8, 1e-3, "cosine", {"rise": 0.1, "end": 1e2}), 10)
    assert smooth[0] == pytest.approx(4e-5) and abs(smooth.argmax() - 20) <= 1
    assert smooth[-1] == pytest.approx(4e-7)


def test_every_recipe_can_be_scheduled():
    for name in ("calogan-eplus", "ds1-photons", "ds1-pions"):
        for size in ("paper", "embedded"):
            surrogate = models.build("caloflow-teacher", name, size)
            assert surrogate.dataset.calorimeter is dataset(name).calorimeter
            for network in (LAYERS, VOXELS):
                assert rates(surrogate.recipe(network), 2).max() <= 2.0001e-3
                assert isinstance(surrogate.recipe(network), TrainingRecipe)


def test_the_showers_of_a_training_may_be_empty(tiny, tmp_path):
    calorimeter = dataset("calogan-eplus").calorimeter
    empty = Showers(calorimeter, np.full(8, 1e4), np.zeros((8, 504), np.float32))
    train(tiny["teacher"](), empty, tmp_path / "out", epochs=1, progress=False)
    assert all(np.isfinite(e["validation_loss"]) for e in log_of(tmp_path / "out"))


def test_the_learning_rates_of_a_recipe_are_those_of_its_training(tiny, tmp_path):
    out = tmp_path / "weights"
    surrogate, showers = tiny["teacher"](), tiny["showers"]()
    train(surrogate, showers, out, seed=1, progress=False)
    for name in surrogate.networks:
        epochs, rates = training.learning_rates(surrogate.recipe(name), len(showers))
        log = [line for line in map(json.loads, (out / "log.jsonl").read_text().splitlines())
               if line["network"] == name]  # fmt: skip
        steps = len(rates) // len(log)
        assert epochs[steps] == 1.0
        # The log has the rate of the first step of the next epoch.
        logged = [line["learning_rate"] for line in log[:-1]]
        assert list(rates[steps::steps]) == pytest.approx(logged)
