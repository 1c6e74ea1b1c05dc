"""The inverse autoregressive flow: one pass equals nflows, its traces retrace a teacher's."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from nflows.transforms.permutations import Permutation
from toy_flows import bent, noise_and_context

from calostudy.errors import UsageError
from calostudy.networks import spline_inverse
from calostudy.networks.flows import maf_flow
from calostudy.networks.iaf import iaf_flow, trace_to_data, trace_to_noise
from calostudy.networks.spline import SplineSettings, rational_quadratic_spline
from calostudy.networks.spline_inverse import inverse_rational_quadratic_spline
from calostudy.samplers.iaf import PANEL, OnePassSampler, panels

FLOWS = {
    "flow-II": {
        "features": 40, "context": 6, "hidden": 43, "blocks": 4, "hidden_blocks": 1,
        "layer_sizes": (8, 20, 12),
    },
    "spread": {
        "features": 40, "context": 4, "hidden": 17, "blocks": 3, "hidden_blocks": 3,
        "layer_sizes": (8, 20, 12), "degrees": "spread", "tail_bound": 4.0,
    },
    "conditioned": {
        "features": 40, "context": 4, "hidden": 17, "blocks": 3, "hidden_blocks": 1,
        "layer_sizes": (8, 20, 12), "degrees": "conditioned",
    },
    "permuted behind": {
        "features": 5, "context": 1, "hidden": 20, "blocks": 3, "hidden_blocks": 2,
    },
    "one feature": {"features": 1, "context": 2, "hidden": 9, "blocks": 2, "hidden_blocks": 0},
}  # fmt: skip
SPLINE = SplineSettings(8, 4.0, 1e-6, 1e-6, 1e-6)


def make(kind, scale=1.0):
    return bent(iaf_flow(**FLOWS[kind], seed=2).double(), scale)


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["as initialised", "scaled up"])
@pytest.mark.parametrize("kind", FLOWS)
def test_one_pass_equals_nflows(kind, scale):
    flow = make(kind, scale)
    noise, context = noise_and_context(FLOWS[kind], 12)
    # a width of 6 puts many numbers into the tails beyond 4, some beyond 14
    noise[0, 0], noise[1, -1] = 200.0, -14.0
    with torch.no_grad():
        data, _ = flow._transform.inverse(torch.tensor(noise), torch.tensor(context))
    actual = OnePassSampler(flow, "float64").inverse(noise, context)
    assert np.abs(actual - data.numpy()).max() <= 1e-10


@pytest.mark.parametrize("kind", FLOWS)
def test_the_slow_direction_undoes_the_fast_one(kind):
    flow = make(kind)
    noise, context = (torch.tensor(a) for a in noise_and_context(FLOWS[kind], 12, width=2.0))
    with torch.no_grad():
        data, logabsdet = flow._transform.inverse(noise, context)
        back, back_logs = flow._transform(data, context)
    torch.testing.assert_close(back, noise, rtol=0, atol=1e-7)
    torch.testing.assert_close(back_logs, -logabsdet, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sample_is_the_same_bits_in_every_batch_and_on_every_number_of_threads(dtype):
    sampler = OnePassSampler(make("flow-II"), dtype)
    noise, context = noise_and_context(FLOWS["flow-II"], 150)
    whole = sampler.inverse(noise, context)
    cuts = (0, 1, 4, 21, 90, 150)
    parts = [sampler.inverse(noise[a:b], context[a:b]) for a, b in pairwise(cuts)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    np.testing.assert_array_equal(whole, sampler.inverse(noise, context, threads=3))


@pytest.mark.parametrize(("samples", "threads"), [(1, 1), (7, 2), (100, 1), (3000, 2), (3, 3)])
def test_panels_cover_each_sample_once_and_occupy_every_thread(samples, threads):
    found = panels(samples, threads, 16)
    ends = [(first, last) for first, last, *_ in found]
    assert ends[0][0] == 0 and ends[-1][1] == samples
    assert all(a[1] == b[0] for a, b in pairwise(ends))
    assert len(found) >= min(threads, samples // 16)
    assert max(last - first for first, last in ends) <= PANEL


def test_what_the_sampler_cannot_do_is_a_usage_error():
    maf = maf_flow(**FLOWS["flow-II"])
    with pytest.raises(UsageError, match="InverseAutoregressiveSplines"):
        OnePassSampler(maf)
    sampler = OnePassSampler(make("flow-II"))
    with pytest.raises(UsageError, match="float16"):
        OnePassSampler(make("flow-II"), "float16")
    with pytest.raises(UsageError, match="noise"):
        sampler.inverse(np.zeros((2, 3)), np.zeros((2, 6)))
    with pytest.raises(UsageError, match="context"):
        sampler.inverse(np.zeros((2, 40)))


def spline_problem(features=5, samples=37):
    torch.manual_seed(1)
    inputs = 3.0 * torch.randn(features, samples, dtype=torch.float64)
    parameters = torch.randn(features * SPLINE.parameters, samples, dtype=torch.float64)
    return inputs, parameters


def gradients_of(function, inputs, parameters, weights):
    inputs, parameters = (a.clone().requires_grad_() for a in (inputs, parameters))
    (function(inputs, parameters, SPLINE)[0] * weights).sum().backward()
    return inputs.grad, parameters.grad


def test_the_inverse_spline_undoes_the_spline_in_value_and_derivative():
    inputs, parameters = spline_problem()
    values, logs = inverse_rational_quadratic_spline(inputs, parameters, SPLINE)
    back, back_logs = rational_quadratic_spline(values, parameters, SPLINE)
    torch.testing.assert_close(back, inputs, rtol=0, atol=1e-10)
    torch.testing.assert_close(back_logs, -logs, rtol=0, atol=1e-10)


def test_gradients_of_the_kernels_equal_those_of_torch():
    inputs, parameters = spline_problem()
    weights = torch.randn_like(inputs)
    ours, plain = (
        gradients_of(f, inputs, parameters, weights)
        for f in (inverse_rational_quadratic_spline, spline_inverse.inverse_by_torch)
    )
    torch.testing.assert_close(ours, plain, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(
        inverse_rational_quadratic_spline(inputs, parameters, SPLINE),
        spline_inverse.inverse_by_torch(inputs, parameters, SPLINE),
        rtol=1e-9,
        atol=1e-9,
    )


def test_the_trace_to_data_is_nflows_with_its_gradients():
    flow = make("flow-II")
    noise, context = (torch.tensor(a) for a in noise_and_context(FLOWS["flow-II"], 9, width=2.0))
    trace = trace_to_data(flow, noise, context)
    data, logabsdet = flow._transform.inverse(noise, context)
    torch.testing.assert_close(trace.states[0].t(), data, rtol=0, atol=1e-10)
    torch.testing.assert_close(trace.logabsdet, logabsdet, rtol=0, atol=1e-9)
    assert [len(s) for s in trace.states] == [40] * 5
    parameters = list(flow.parameters())
    found, expected = (
        torch.autograd.grad(x.square().sum(), parameters) for x in (trace.states[0], data)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_a_flow_that_is_the_inverse_of_another_walks_the_same_states():
    # Blocks that look at the condition alone: the same weights predict the same splines.
    student, teacher = make("flow-II"), maf_flow(**FLOWS["flow-II"], seed=2).eval().double()
    for flow in (student, teacher):
        with torch.no_grad():
            for step in flow._transform._transforms:
                if not isinstance(step, Permutation):
                    step.autoregressive_net.initial_layer.weight.zero_()
    data, context = (torch.tensor(a) for a in noise_and_context(FLOWS["flow-II"], 9))
    down = trace_to_noise(teacher, data, context)
    up = trace_to_data(student, down.states[-1].t(), context)
    torch.testing.assert_close(up.states, down.states, rtol=0, atol=1e-9)
    torch.testing.assert_close(up.parameters, down.parameters, rtol=0, atol=1e-12)
    torch.testing.assert_close(up.logabsdet, -down.logabsdet, rtol=0, atol=1e-9)
