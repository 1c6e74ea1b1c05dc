"""The incremental inverse is nflows' inverse; noise belongs to showers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nflows.flows import Flow
from nflows.transforms import CompositeTransform
from nflows.transforms.permutations import Permutation
from scipy.stats import kstest
from toy_flows import bent, noise_and_context

from calostudy.errors import UsageError
from calostudy.networks.flows import maf_flow, to_noise
from calostudy.samplers.maf import IncrementalSampler, tiles
from calostudy.samplers.maf_torch import TriangularSampler
from calostudy.samplers.noise import normal, uniform

FLOWS = {
    "flow-I": {"features": 5, "context": 1, "hidden": 64, "blocks": 6, "hidden_blocks": 2},
    "three features": {"features": 3, "context": 1, "hidden": 20, "blocks": 3, "hidden_blocks": 2},
    "one feature": {"features": 1, "context": 2, "hidden": 9, "blocks": 2, "hidden_blocks": 1},
    "flow-II": {
        "features": 40, "context": 6, "hidden": 43, "blocks": 4, "hidden_blocks": 1,
        "layer_sizes": (8, 20, 12),
    },
    "narrow": {
        "features": 40, "context": 4, "hidden": 17, "blocks": 3, "hidden_blocks": 1,
        "layer_sizes": (8, 20, 12),
    },
    "spread": {
        "features": 40, "context": 4, "hidden": 17, "blocks": 3, "hidden_blocks": 3,
        "layer_sizes": (8, 20, 12), "degrees": "spread",
    },
    "conditioned": {
        "features": 40, "context": 4, "hidden": 17, "blocks": 3, "hidden_blocks": 1,
        "layer_sizes": (8, 20, 12), "degrees": "conditioned",
    },
    "ten bins": {
        "features": 7, "context": 3, "hidden": 12, "blocks": 2, "hidden_blocks": 0, "bins": 10,
    },
}  # fmt: skip


def make(kind, scale=1.0):
    return bent(maf_flow(**FLOWS[kind], seed=2), scale)


def with_nflows(flow, noise, context):
    with torch.no_grad():
        return flow._transform.inverse(torch.tensor(noise), torch.tensor(context))[0].numpy()


@pytest.mark.parametrize("kind", FLOWS)
def test_the_inverse_for_gpus_is_the_same(kind):
    flow = make(kind, 3.0).double()
    noise, context = noise_and_context(FLOWS[kind], 12)
    noise[0, 0], noise[1, -1] = 200.0, -14.0
    wanted = IncrementalSampler(flow, "float64").inverse(noise, context)
    found = TriangularSampler(flow, "float64").inverse(noise, context)
    assert np.abs(found - wanted).max() <= 1e-10


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["as initialised", "scaled up"])
@pytest.mark.parametrize("kind", FLOWS)
def test_the_inverse_equals_that_of_nflows(kind, scale):
    flow = make(kind, scale).double()
    # A standard deviation of 6 puts two per cent of the numbers in the tails beyond 14.
    noise, context = noise_and_context(FLOWS[kind], 12)
    noise[0, 0], noise[1, -1] = 200.0, -14.0
    actual = IncrementalSampler(flow, "float64").inverse(noise, context)
    assert np.abs(actual - with_nflows(flow, noise, context)).max() <= 1e-10


def test_of_a_chaotic_flow_the_inverse_is_as_good_as_that_of_nflows():
    # Slopes up to a million amplify the last bit: the yardstick is what it does to nflows itself.
    flow = make("flow-II", 12.0).double()
    noise, context = noise_and_context(FLOWS["flow-II"], 12)
    expected = with_nflows(flow, noise, context)
    moved = with_nflows(flow, noise * (1 + 2.0**-52), context)
    error = np.abs(IncrementalSampler(flow, "float64").inverse(noise, context) - expected)
    assert np.abs(moved - expected).max() > 1e-13
    assert error.max() <= max(1e-10, 30 * np.abs(moved - expected).max())


def test_the_density_takes_the_samples_back_to_their_noise():
    flow = make("flow-II").double()
    noise, context = noise_and_context(FLOWS["flow-II"], 12, width=2.0)
    samples = IncrementalSampler(flow, "float64").inverse(noise, context)
    with torch.no_grad():
        back, _ = to_noise(flow, torch.from_numpy(samples), torch.from_numpy(context))
    np.testing.assert_allclose(back.numpy(), noise, atol=1e-9)


def test_float32_is_close_to_float64():
    flow = make("flow-II")
    noise, context = noise_and_context(FLOWS["flow-II"], 12, width=2.0)
    exact = IncrementalSampler(flow, "float64").inverse(noise, context)
    single = IncrementalSampler(flow, "float32").inverse(noise, context)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, exact, atol=1e-3)


def test_a_sample_has_the_same_bits_in_any_batch_and_on_any_number_of_threads():
    sampler = IncrementalSampler(make("flow-II", 3.0), "float32")
    noise, context = noise_and_context(FLOWS["flow-II"], 70)
    together = sampler.inverse(noise, context)
    for size in (1, 7, 20):
        for first in (0, 70 - size):
            part = slice(first, first + size)
            np.testing.assert_array_equal(
                sampler.inverse(noise[part], context[part]), together[part]
            )
    for threads in (2, 3):
        np.testing.assert_array_equal(sampler.inverse(noise, context, threads), together)


def test_an_empty_batch_is_an_empty_batch():
    sampler = IncrementalSampler(make("flow-I"))
    assert sampler.inverse(np.zeros((0, 5)), np.zeros((0, 1))).shape == (0, 5)


@given(
    samples=st.integers(0, 3000), threads=st.integers(1, 9), lanes=st.sampled_from([2, 4, 8, 16])
)
def test_tiles_cover_every_sample_once(samples, threads, lanes):
    cut = tiles(samples, threads, lanes)
    covered = [i for first, last, _, _ in cut for i in range(first, last)]
    assert covered == list(range(samples))
    assert all(0 < last - first <= vectors * wide for first, last, vectors, wide in cut)
    if samples >= threads:
        assert len(cut) >= min(threads, 2)


def test_a_permutation_before_the_first_block_is_undone_last():
    flow = make("flow-II").double()
    order = torch.from_numpy(np.random.default_rng(0).permutation(40))
    flow = Flow(
        CompositeTransform([Permutation(order), *flow._transform._transforms]),
        flow._distribution,
    )
    noise, context = noise_and_context(FLOWS["flow-II"], 12)
    actual = IncrementalSampler(flow, "float64").inverse(noise, context)
    assert np.abs(actual - with_nflows(flow, noise, context)).max() <= 1e-10


def test_a_flow_without_context_needs_none():
    flow = maf_flow(6, None, 9, 2, 1, seed=1).double()
    noise = np.random.default_rng(1).normal(size=(12, 6))
    with torch.no_grad():
        expected = flow._transform.inverse(torch.tensor(noise))[0].numpy()
    actual = IncrementalSampler(flow, "float64").inverse(noise)
    assert np.abs(actual - expected).max() <= 1e-10


def test_splines_that_make_nflows_abort_are_sampled():
    # In float32, rounding makes nflows' discriminant negative for some of these.
    sampler = IncrementalSampler(make("flow-II", 12.0), "float32")
    noise, context = noise_and_context(FLOWS["flow-II"], 70)
    assert np.isfinite(sampler.inverse(noise, context)).all()


def test_wrong_arguments_are_refused():
    flow = make("flow-I")
    with pytest.raises(UsageError, match="dtype"):
        IncrementalSampler(flow, "float16")
    sampler = IncrementalSampler(flow)
    with pytest.raises(UsageError, match="noise of shape"):
        sampler.inverse(np.zeros((2, 4)), np.zeros((2, 1)))
    with pytest.raises(UsageError, match="context of shape"):
        sampler.inverse(np.zeros((2, 5)), np.zeros((3, 1)))
    flow._transform._transforms[0].autoregressive_net.final_layer.mask[0, 0] = 1.0
    with pytest.raises(UsageError, match="mask"):
        IncrementalSampler(flow)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**63), first=st.integers(0, 10**9), cut=st.integers(0, 20),
    dims=st.integers(1, 30),
)  # fmt: skip
def test_noise_does_not_depend_on_the_batch(seed, first, cut, dims):
    whole = normal(seed, first, 20, dims)
    parts = [normal(seed, first, cut, dims), normal(seed, first + cut, 20 - cut, dims)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_noise_is_standard_normal_and_uniform():
    assert kstest(normal(1, 0, 20_000, 5).ravel(), "norm").pvalue > 1e-3
    numbers = uniform(1, 0, 20_000, 5)
    assert kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    assert numbers.min() > 0.0
    assert numbers.max() < 1.0
    assert abs(np.corrcoef(numbers, rowvar=False) - np.eye(5)).max() < 0.03


def test_seeds_and_streams_are_different_noise():
    draws = [normal(1, 0, 3, 7), normal(2, 0, 3, 7), normal(1, 0, 3, 7, stream=1)]
    values = np.concatenate([draw.ravel() for draw in draws])
    assert len(np.unique(values)) == values.size


def test_negative_numbers_are_refused():
    with pytest.raises(UsageError, match="negative"):
        normal(1, -1, 2, 3)
