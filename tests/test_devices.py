"""Losses stay on the device of their batch.

There need be no accelerator: torch's fake tensors have a device and no numbers, and refuse to mix
devices as an accelerator does.
"""

from contextlib import suppress

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from calostudy import datasets, devices
from calostudy.errors import UsageError
from calostudy.models import MODELS, build
from calostudy.training import training_device

# A device that torch knows,.
_setup_privateuseone_for_python_backend("gpu")
PRETEND = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)


def on_pretended_gpu(value):
    if isinstance(value, dict):
        return {key: on_pretended_gpu(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_pretended_gpu(each) for each in value)
    if not isinstance(value, torch.Tensor):
        return value
    with PRETEND:
        return PRETEND.from_tensor(value.detach()).to("gpu:0")


def put_on_pretended_gpu(surrogate):
    for network in surrogate.networks.values():
        for module in network.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(on_pretended_gpu(parameter))
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = on_pretended_gpu(buffer)
    surrogate.constants = on_pretended_gpu(surrogate.constants)


CASES = [
    (name, family.datasets[0] if name != "calopointflow" else "ds2")
    for name, family in MODELS.items()
]


@pytest.mark.parametrize("name, dataset", CASES, ids=[name for name, _ in CASES])
def test_losses_stay_on_the_device_of_their_batch(name, dataset, monkeypatch):
    surrogate = build(name, dataset)
    showers = datasets.load(dataset, "train", rows=slice(0, 40))
    if surrogate.teacher_name:
        teacher = build(surrogate.teacher_name, dataset)
        teacher.fit_constants(showers)
        surrogate.learn_from(teacher)
    surrogate.fit_constants(showers)
    batches = {
        network: {key: t[:8] for key, t in surrogate.prepare(network, showers).items()}
        for network in surrogate.trained_networks
    }
    put_on_pretended_gpu(surrogate)
    if surrogate.teacher_name:
        put_on_pretended_gpu(teacher)
    monkeypatch.setattr(devices, "moved", lambda value, device: on_pretended_gpu(value))
    for network, batch in batches.items():
        surrogate.networks[network].train()
        with PRETEND, torch.device("gpu:0"), suppress(GuardOnDataDependentSymNode):
            # What follows a choice by numbers, as of the hits, cannot be tried without numbers.
            assert surrogate.loss(network, on_pretended_gpu(batch)).device.type == "gpu"


def test_a_training_refuses_devices_that_are_not_there():
    with pytest.raises(UsageError, match="no device 'tpu'; there are cpu, cuda"):
        training_device("tpu")
