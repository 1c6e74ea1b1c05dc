"""Emulated formats hold what torchao's hold, bit by bit; surrogates are asked in them."""

import numpy as np
import pytest
import torch
from torchao.prototype.mx_formats.mx_tensor import MXTensor
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

from calostudy.emulation import emulated
from calostudy.errors import UsageError
from calostudy.models import build, load, shipped_weights
from calostudy.number_formats import FORMATS, mxfp4, mxfp8, nvfp4

NUMBERS = 100_000


def numbers(kind):
    """100,000 numbers in rows of 800: of all sizes, with empty blocks, or of one size."""
    generator = torch.Generator().manual_seed(3)
    found = torch.randn(NUMBERS // 800, 800, generator=generator)
    if kind == "of all sizes":
        found = found * torch.exp(8.0 * torch.randn(found.shape, generator=generator))
    if kind == "with empty blocks":
        found[:, 100:260] = 0.0
        found[3] = 0.0
    return found


KINDS = ("of one size", "of all sizes", "with empty blocks")


@pytest.mark.parametrize("kind", KINDS)
def test_nvfp4_is_torchaos(kind):
    values = numbers(kind)
    scale = per_tensor_amax_to_scale(values.abs().amax())
    wanted = NVFP4Tensor.to_nvfp4(values, per_tensor_scale=scale).dequantize(torch.float32)
    assert torch.equal(nvfp4(values), wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "ours, element", [(mxfp4, torch.float4_e2m1fn_x2), (mxfp8, torch.float8_e4m3fn)]
)
def test_mx_is_torchaos(kind, ours, element):
    values = numbers(kind)
    wanted = MXTensor.to_mx(values, element, 32).dequantize(torch.float32)
    assert torch.equal(ours(values), wanted)


@pytest.mark.parametrize("name", FORMATS)
def test_rounding_again_changes_nothing_and_any_length_goes(name):
    values = numbers("of one size")[:5, :77]
    once = FORMATS[name](values)
    assert once.shape == values.shape and torch.isfinite(once).all()
    tolerance = 0.0 if name != "int8" else 1e-6
    torch.testing.assert_close(FORMATS[name](once), once, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", FORMATS)
def test_zeros_stay_zeros(name):
    assert not FORMATS[name](torch.zeros(3, 40)).any()


def test_fewer_bits_round_more():
    values = numbers("of one size")
    errors = {name: (rounded(values) - values).norm().item() for name, rounded in FORMATS.items()}
    ordered = ("fp16", "bf16", "int8", "mxfp8", "nvfp4", "mxfp4")
    assert [errors[name] for name in ordered] == sorted(errors[name] for name in ordered)


def test_showers_in_a_format_are_other_showers_near_by():
    surrogate = load(shipped_weights("caloscore-single-shot", "ds1-photons", "embedded"))
    energies = np.geomspace(1e3, 6e4, 8)
    plain = surrogate.sample(energies, seed=1, sampler="eager").cells
    differ = {}
    for name in ("fp16", "mxfp8", "mxfp4"):
        with emulated(surrogate, name) as twin:
            found = twin.sample(energies, seed=1, sampler="eager").cells
        differ[name] = np.abs(found - plain).sum() / plain.sum()
    assert 0 < differ["fp16"] < differ["mxfp8"] < differ["mxfp4"] < 1
    np.testing.assert_array_equal(surrogate.sample(energies, seed=1, sampler="eager").cells, plain)


def test_a_sampler_that_does_not_ask_the_layers_is_refused():
    surrogate = build("caloflow-student", "ds1-photons")
    with pytest.raises(UsageError, match="were not asked"), emulated(surrogate, "int8") as twin:
        twin.sample(np.array([1e4]), seed=1, sampler="one-pass")


def test_an_emulated_surrogate_samples_in_plain_torch_by_itself():
    surrogate, energies = build("caloscore-single-shot", "ds1-photons"), np.array([1e4])
    with emulated(surrogate, "int8") as twin:
        found = twin.sample(energies, seed=1).cells
        expected = twin.sample(energies, seed=1, sampler="eager").cells
    np.testing.assert_array_equal(found, expected)
    assert twin.emulated == "int8" and not hasattr(surrogate, "emulated")


def test_showers_of_one_network_of_several_can_be_emulated():
    surrogate = build("bologan", "ds1-photons")
    with emulated(surrogate, "mxfp4") as twin:
        found = twin.sample(np.array([16384.0]), seed=1).cells
    assert (found != surrogate.sample(np.array([16384.0]), seed=1).cells).any()


def test_unknown_formats_are_refused():
    with pytest.raises(UsageError, match="no number format 'fp2'; there are bf16"):
        emulated(build("dnn-calosim", "ds1-photons"), "fp2").__enter__()
