"""Weights on disk: what eight bits keep, what comes back, what is refused."""

import pytest
import torch
from surrogates import shaken
from toy_showers import toy_showers

from calostudy import models, rounding
from calostudy.datasets import load
from calostudy.errors import DataError
from calostudy.models import caloflow
from calostudy.models.caloflow import LAYERS, VOXELS
from calostudy.models.storage import LARGE, SCALE, restore, stored
from calostudy.networks.adversarial import Adversaries
from calostudy.networks.lagan import LocallyConnected
from calostudy.showers import write
from calostudy.training import train

FINAL = "_transform._transforms.0.autoregressive_net.final_layer.weight"
TEACHER = ("caloflow-teacher", "calogan-eplus", "embedded")


@pytest.fixture
def teacher(monkeypatch):
    """One whose output layers are large enough for eight bits, and nothing else is."""
    tiny = {
        LAYERS: caloflow.Structure(1, 8, 1, 0.0, tail_bound=6.0),
        VOXELS: caloflow.Structure(2, 8, 1, 0.1, degrees="spread", tail_bound=6.0),
    }
    monkeypatch.setitem(caloflow.STRUCTURE["embedded"], "calogan", tiny)
    return shaken(models.build(*TEACHER))


@pytest.fixture
def dense():
    """A network with a matrix without a mask, a row of zeros and one of tiny numbers in it."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Linear(30, LARGE // 30 + 1))
    with torch.no_grad():
        network[1].weight[:2] = torch.tensor([0.0, 1e-41])[:, None]
    return network


def state(network):
    return {key: tensor.clone() for key, tensor in network.state_dict().items()}


def test_eight_bits_are_next_to_every_entry_that_takes_part(teacher):
    network = teacher.networks[VOXELS]
    with torch.no_grad():
        torch.manual_seed(3)
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    before, found = state(network), stored(network, torch.int8)
    assert {key for key, t in found.items() if t.dtype is torch.int8} == {
        FINAL.replace(".0.", f".{block}.") for block in (0, 2)
    }
    assert all(t.dtype is torch.float16 for k, t in found.items() if k.endswith("bias"))
    restore(network, found)
    mask = network.get_submodule(FINAL.removesuffix(".weight")).mask.bool()
    assert found[FINAL].shape == (mask.sum(),) and found[FINAL + SCALE].shape == mask.shape[:1]
    weight, original = network.state_dict()[FINAL], before[FINAL] * mask
    largest = original.abs().amax(dim=1, keepdim=True)
    # half a step, and the eight bits of the scale itself
    assert ((weight - original).abs() <= largest / 127 * (0.5 + 127 / 256)).all()
    assert ((weight - original).abs() > 0).any() and not weight[~mask].any()


def test_what_came_from_disk_is_stored_as_it_was(teacher, dense):
    for network in (teacher.networks[VOXELS], dense):
        found = stored(network, torch.int8)
        assert any(key.endswith(SCALE) for key in found)
        restore(network, found)
        again = stored(network, torch.int8)
        assert again.keys() == found.keys()
        assert all(torch.equal(tensor, again[key]) for key, tensor in found.items())
    assert not dense[1].weight[:2].any() and dense[1].weight.isfinite().all()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda found: found.pop(FINAL + SCALE), "scale is missing"),
        (lambda found: found.update({FINAL + SCALE: torch.ones(3)}), "scale has shape"),
        (lambda found: found.update({FINAL: found[FINAL].float()}), "scale is unexpected"),
        (lambda found: found.update({FINAL: found[FINAL][1:]}), "weight has shape"),
        (lambda found: found.pop(FINAL), "weight is missing|scale is unexpected"),
    ],
)
def test_matrix_and_scales_that_do_not_fit_are_refused_and_nothing_changes(teacher, damage, said):
    network = teacher.networks[VOXELS]
    found = stored(network, torch.int8)
    damage(found)
    before = state(network)
    with pytest.raises(KeyError, match=said):
        restore(network, found)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_weights_of_another_precision_are_read_as_they_are(teacher, tmp_path, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(caloflow.CaloFlow, "storage", torch.float16)
        shaken(teacher, by=0.1).save(tmp_path)
    back = models.load(tmp_path)
    assert models.read_card(tmp_path)["weights_precision"] == "float16"
    assert back.fingerprint() == teacher.fingerprint()
    back.save(tmp_path)
    assert models.read_card(tmp_path)["weights_precision"] == "int8"
    assert models.load(tmp_path).fingerprint() != teacher.fingerprint()


@pytest.fixture
def trained(teacher, tmp_path, monkeypatch):
    """The folder of weights trained on the data set's training showers and stored in float16."""
    monkeypatch.setenv("CALOSTUDY_DATA", str(tmp_path / "data"))
    path = tmp_path / "data" / "showers" / "calogan-eplus" / "train.h5"
    path.parent.mkdir(parents=True)
    write(path, toy_showers("calogan-eplus", 60, 1))
    with monkeypatch.context() as earlier:
        earlier.setattr(caloflow.CaloFlow, "storage", torch.float16)
        train(teacher, load("calogan-eplus"), tmp_path / "out", seed=4, epochs=1, progress=False)
    return tmp_path / "out"


def test_trained_weights_are_rounded_in_place_and_their_history_stays(trained):
    before, fingerprint = models.read_card(trained), models.load(trained).fingerprint()
    assert rounding.main([str(trained)]) == 0
    after, rounded = models.read_card(trained), models.load(trained)
    assert after["weights_precision"] == "int8"
    for key in ("training", "loss_curve", "best_epoch", "machine"):
        assert after[key] == before[key]
    assert after["rounded_from"] == {
        **{k: before[k] for k in ("weights_precision", "weights_sha256", "validation_loss")},
        "fingerprint": fingerprint,
    }
    assert rounded.fingerprint() != fingerprint
    # the loss on the same showers with the same noise, of other weights
    for network, loss in before["validation_loss"].items():
        assert after["validation_loss"][network] == pytest.approx(loss, rel=1e-2)
    assert after["validation_loss"][VOXELS] != before["validation_loss"][VOXELS]
    assert after["validation_loss"][LAYERS] == before["validation_loss"][LAYERS]


def test_weights_of_other_showers_are_not_rounded(trained, tmp_path, capsys):
    write(
        tmp_path / "data" / "showers" / "calogan-eplus" / "train.h5",
        toy_showers("calogan-eplus", 60, 2),
    )
    before = (trained / models.WEIGHTS).read_bytes()
    assert rounding.main([str(trained)]) == 1
    assert "not trained on the shipped showers" in capsys.readouterr().err
    assert (trained / models.WEIGHTS).read_bytes() == before
    with pytest.raises(DataError, match="no such file"):
        rounding.store_anew(tmp_path)


def test_a_matrix_for_each_place_has_a_scale_for_each_place():
    torch.manual_seed(0)
    local = LocallyConnected(8, 8, (2, 2), (8, 8))
    before, found = local.weight.detach().clone(), stored(local, torch.int8)
    assert found["weight"].dtype is torch.int8 and found["weight" + SCALE].shape == (49,)
    restore(local, found)
    largest = before.abs().amax(dim=(1, 2), keepdim=True)
    assert ((local.weight - before).abs() <= largest / 127 * (0.5 + 127 / 256)).all()
    assert torch.equal(stored(local, torch.int8)["weight"], found["weight"])


def test_what_only_a_training_needs_is_not_stored():
    adversaries = Adversaries(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    found = stored(adversaries, torch.float32)
    assert set(found) == {"generator.weight", "generator.bias"}
    critic = adversaries.critic.weight.detach().clone()
    changed = {key: tensor + 1.0 for key, tensor in found.items()}
    restore(adversaries, changed)
    assert torch.equal(adversaries.generator.bias.detach(), changed["generator.bias"])
    assert torch.equal(adversaries.critic.weight, critic)
