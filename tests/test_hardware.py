"""Hardware targets: names, what they fix while active, what a machine or a surrogate lacks."""

import json
import platform

import numba
import pytest
import threadpoolctl
import torch
from hypothesis import given
from hypothesis import strategies as st

from calostudy import hardware
from calostudy.errors import UsageError
from calostudy.hardware import (
    COMPILERS,
    PRECISIONS,
    HardwareTarget,
    available_cores,
    describe_machine,
    library_versions,
    require_support,
    target,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpu-1/fp32", HardwareTarget("cpu", 1, "fp32")),
        ("cpu-16/fp64", HardwareTarget("cpu", 16, "fp64")),
        ("cpu-all/bf16", HardwareTarget("cpu", available_cores(), "bf16")),
        ("cpu/fp32", HardwareTarget("cpu", available_cores(), "fp32")),
        ("cuda/fp16/compile", HardwareTarget("cuda", 1, "fp16", "compile")),
        ("cuda/tf32", HardwareTarget("cuda", 1, "tf32")),
    ],
)
def test_names_are_device_threads_precision_compiler(name, expected):
    assert target(name) == expected
    assert target(expected) is expected
    assert str(target(expected.name)) == expected.name  # canonical names are names


@given(
    device=st.sampled_from(["cpu-1", "cpu-7", "cuda"]),
    precision=st.sampled_from(sorted(PRECISIONS)),
    compiler=st.sampled_from(COMPILERS),
)
def test_canonical_names_parse_to_themselves(device, precision, compiler):
    found = target(f"{device}/{precision}/{compiler}")
    assert target(found.name) == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu/fp32", "no device 'gpu'"),
        ("cpu-0/fp32", "no device 'cpu-0'"),
        ("cpu-1", "no precision ''"),
        ("cpu-1/fp31", "no precision 'fp31'"),
        ("cpu-1/fp32/jit", "no compiler 'jit'"),
        ("cpu-1/fp32/eager/x", "no compiler 'eager/x'"),
        ("cuda-4/fp32", "threads are a matter of the CPU"),
        ("", "no device ''"),
    ],
)
def test_names_that_do_not_exist_are_refused_with_what_does(name, message):
    with pytest.raises(UsageError, match=message) as error:
        target(name)
    assert "cpu-1/fp32" in str(error.value)


def test_threads_and_precision_hold_inside_and_come_back_after():
    before = numba.get_num_threads(), torch.get_num_threads(), torch.get_default_dtype()
    with target("cpu-1/fp64").active() as active:
        assert active.dtype is torch.float64 is torch.get_default_dtype()
        assert torch.get_num_threads() == numba.get_num_threads() == 1
        pools = [p for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"]
        assert all(pool["num_threads"] == 1 for pool in pools)
        assert torch.ones(1).dtype is torch.float64
    assert (numba.get_num_threads(), torch.get_num_threads(), torch.get_default_dtype()) == before


def test_the_state_comes_back_after_an_error():
    before = torch.get_num_threads(), torch.get_default_dtype()
    with pytest.raises(ZeroDivisionError), target("cpu-1/fp64").active():
        1 / 0  # noqa: B018
    assert (torch.get_num_threads(), torch.get_default_dtype()) == before


def test_two_threads_are_two_threads(monkeypatch):
    monkeypatch.setattr(hardware, "available_cores", lambda: 2)
    with target("cpu-2/fp32").active():
        assert torch.get_num_threads() == 2


def test_half_precisions_are_automatic_mixed_precision():
    with target("cpu-1/bf16").active():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16
        assert torch.ones(1).dtype is torch.float32
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32


def test_a_target_that_the_machine_lacks_says_why_and_does_not_start(monkeypatch):
    many = target(f"cpu-{available_cores() + 1}/fp32")
    assert f"may use {available_cores()} cores" in many.missing()
    with pytest.raises(UsageError, match="cores"), many.active():
        pass
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "CUDA" in target("cuda/fp32").missing()
    assert "tensor cores" in target("cpu-1/tf32").missing()
    monkeypatch.setattr(hardware, "_c_compiler", lambda: None)
    assert "compiler" in target("cpu-1/fp32/compile").missing()
    assert target("cpu-1/fp32").missing() is None


def test_a_surrogate_does_only_what_it_lists():
    class Plain:
        def __repr__(self):
            return "plain"

    class Versatile(Plain):
        def __init__(self):
            self.runs_on = {"cpu": ("fp32",), "cuda": ("fp32", "bf16")}
            self.compilers = "eager", "compile"

    require_support(Plain(), target("cpu-1/fp64"))
    require_support(Versatile(), target("cuda/bf16/compile"))
    for surrogate, name in (
        (Plain(), "cpu-1/bf16"),
        (Plain(), "cuda/fp32"),
        (Plain(), "cpu-1/fp32/compile"),
        (Versatile(), "cpu-1/fp64"),
    ):
        with pytest.raises(UsageError, match="plain has no"):
            require_support(surrogate, target(name))


def test_the_description_of_the_machine_is_plain_and_names_no_host():
    machine = describe_machine()
    assert json.loads(json.dumps(machine)) == machine
    assert machine["cores"] >= 1
    assert machine["memory_gib"] > 0.1
    assert machine["cpu"]
    assert isinstance(machine["vector_extensions"], list)
    assert platform.node() == "" or platform.node() not in json.dumps(machine).split('"')


def test_libraries_that_decide_results_have_their_versions():
    versions = library_versions()
    assert {"python", "numpy", "torch", "nflows", "numba", "scikit-learn"} <= set(versions)
    assert versions["torch"] == torch.__version__
