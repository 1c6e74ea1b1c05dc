"""Where time goes: stages add up, operations are told apart, limits follow from measured rates."""

import numpy as np
import pytest
import torch

from calostudy import models
from calostudy.hardware import target
from calostudy.models import caloflow
from calostudy.models.caloflow import LAYERS, VOXELS
from calostudy.profiling import (
    MASKS,
    PRODUCTS,
    REST,
    SPLINES,
    STAGES,
    Limits,
    limits,
    nflows_operations,
    reached,
    stages,
    weights_in_use,
)
from calostudy.samplers.compiled import Compiled


@pytest.fixture
def teacher(monkeypatch):
    """A teacher of few and narrow blocks."""
    tiny = {
        LAYERS: caloflow.Structure(1, 8, 1, 0.0, tail_bound=6.0),
        VOXELS: caloflow.Structure(1, 8, 1, 0.0, degrees="spread", tail_bound=6.0),
    }
    monkeypatch.setitem(caloflow.STRUCTURE["embedded"], "ds1-photons", tiny)
    return models.build("caloflow-teacher", "ds1-photons")


def test_the_stages_are_those_of_a_sampling_and_take_time(teacher):
    with target("cpu-1/fp32").active():
        found = stages(teacher, 2, rounds=2)
    assert tuple(found) == STAGES
    assert all(found[name] > 0 for name in STAGES if name != REST) and found[REST] >= 0


def test_the_operations_of_nflows_share_its_time(teacher):
    with target("cpu-1/fp32").active():
        found = nflows_operations(teacher, 1)
    assert set(found) == {MASKS, PRODUCTS, SPLINES}
    assert sum(found.values()) == pytest.approx(1.0) and min(found.values()) > 0


def test_weights_that_a_mask_removes_are_not_counted(teacher):
    made = teacher.networks[VOXELS]._transform._transforms[0].autoregressive_net
    masked = [made.initial_layer, made.blocks[0].linear, made.final_layer]
    kept = sum(int(layer.mask.sum()) for layer in masked) + made.context_layer.weight.numel()
    assert weights_in_use(teacher.networks[VOXELS]) == kept
    assert kept < sum(layer.weight.numel() for layer in masked)


def test_the_least_time_is_that_of_reading_or_of_multiplying():
    found = Limits(bytes_per_second=1e9, flops=1e10, nbytes=4000)
    assert found.seconds(1000, batch=1) == pytest.approx(4e-6)
    assert found.seconds(1000, batch=100) == pytest.approx(2e-5)


def test_the_rates_of_the_machine_are_measured(teacher):
    found = limits(1 << 16, rounds=1)
    assert 1e5 < found.bytes_per_second < 1e13 and 1e7 < found.flops < 1e14
    row = reached(teacher, 1, milliseconds=10.0)
    assert row["fraction"] == pytest.approx(row["least ms"] / 10.0)


def test_what_is_made_of_weights_is_made_again_when_they_change():
    compiled, network, calls = Compiled(), torch.nn.Linear(2, 2), []

    def make(network):
        calls.append(network.weight.detach().numpy().copy())
        return len(calls)

    assert [compiled.of(network, "a", make) for _ in range(3)] == [1, 1, 1]
    assert compiled.of(network, "b", make) == 2
    with torch.no_grad():
        network.weight.add_(1.0)
    assert compiled.of(network, "a", make) == 3
    assert not np.array_equal(calls[0], calls[2])
    assert compiled.of(torch.nn.Linear(2, 2), "a", make) == 4
