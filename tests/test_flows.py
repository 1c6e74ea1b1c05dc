"""Autoregressive flows: published sizes, and a density equal to nflows' own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from nflows.flows import Flow
from nflows.transforms import (
    CompositeTransform,
    MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
)
from nflows.transforms.permutations import Permutation
from nflows.transforms.splines.rational_quadratic import (
    unconstrained_rational_quadratic_spline,
)
from numba import njit, types
from numba.extending import intrinsic

from calostudy.errors import UsageError
from calostudy.networks import masked
from calostudy.networks.flows import (
    log_prob,
    maf_flow,
    permutations_within_layers,
    to_noise,
)
from calostudy.networks.simd import Lanes, array_pointer, lanes_of
from calostudy.networks.spline import SplineSettings, _with_torch, rational_quadratic_spline

CALOGAN, PHOTONS, PIONS = (288, 144, 72), (8, 160, 190, 5, 5), (8, 100, 100, 5, 150, 160, 10)
SPLINE = SplineSettings(8, 14.0, 1e-6, 1e-6, 1e-6)


def parameters_of(flow):
    return sum(p.numel() for p in flow.parameters())


@pytest.mark.parametrize(
    ("layers", "context", "hidden", "published"),
    [(CALOGAN, 4, 378, 37_835_280), (PHOTONS, 6, 378, 27_945_968), (PIONS, 8, 533, 56_962_776)],
)
def test_flow_two_has_the_published_number_of_parameters(layers, context, hidden, published):
    flow = maf_flow(sum(layers), context, hidden, 8, 1, layers, dropout=0.05)
    assert parameters_of(flow) == published


@pytest.mark.parametrize(
    ("layers", "published"), [(CALOGAN, 79_134), (PHOTONS, 97_842), (PIONS, 116_550)]
)
def test_flow_one_has_the_published_number_of_parameters(layers, published):
    assert parameters_of(maf_flow(len(layers), 1, 64, 6, 2)) == published


def test_permutations_stay_within_layers_and_alternate_reversal_and_shuffle():
    first, second, third = permutations_within_layers((3, 5), 3, seed=1)
    assert first.tolist() == third.tolist() == [2, 1, 0, 7, 6, 5, 4, 3]
    assert sorted(second[:3]) == [0, 1, 2]
    assert sorted(second[3:]) == [3, 4, 5, 6, 7]


def test_flow_two_ends_with_an_autoregressive_block_and_flow_one_with_a_permutation():
    steps = maf_flow(8, 1, 4, 3, 1, (3, 5))._transform._transforms
    assert [isinstance(step, Permutation) for step in steps] == [False, True, False, True, False]
    assert isinstance(maf_flow(3, 1, 4, 2, 1)._transform._transforms[-1], Permutation)


def test_the_seed_decides_weights_and_permutations_and_leaves_torch_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    states = [maf_flow(8, 1, 6, 3, 1, (3, 5), seed=seed).state_dict() for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(*map(dict.values, states[:2]), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(*map(dict.values, states[1:]), strict=True))


def test_sequential_degrees_ignore_late_features_and_spread_degrees_use_all_but_the_last():
    used = {}
    for degrees in ("sequential", "spread"):
        flow = maf_flow(40, 2, 10, 1, 1, (40,), degrees=degrees)
        inputs = torch.zeros(1, 40, requires_grad=True)
        parameters = flow._transform._transforms[0].autoregressive_net(inputs, torch.ones(1, 2))
        # Weights are random: a feature that reaches any unit changes some parameter.
        by_feature = torch.autograd.functional.jacobian(
            lambda x, net=flow._transform._transforms[0].autoregressive_net: net(
                x, torch.ones(1, 2)
            ),
            inputs,
        )[0, :, 0].reshape(40, 23, 40)
        assert parameters.shape == (1, 40 * 23)
        assert not by_feature.abs().amax(dim=1).triu().any()
        used[degrees] = by_feature.abs().amax(dim=(0, 1)).nonzero().max().item() + 1
    assert used["sequential"] <= 10
    assert used["spread"] > 30


@pytest.mark.parametrize(("degrees", "told"), [("spread", False), ("conditioned", True)])
def test_the_first_feature_is_told_of_the_context_where_degrees_are_conditioned(degrees, told):
    made = maf_flow(40, 2, 24, 1, 1, (40,), degrees=degrees)._transform._transforms[0]
    contexts = torch.tensor([[0.0, 0.0], [3.0, -3.0]])
    one, other = made.autoregressive_net(torch.zeros(2, 40), contexts).view(2, 40, 23)
    assert torch.equal(one[0], other[0]) != told
    assert not torch.equal(one[1:], other[1:])


def scaled(flow):
    """Weights large enough for splines that are far from straight lines. (Much larger ones make
    the flow chaotic: then even nflows differs from itself when an input moves by one bit.)"""
    with torch.no_grad():
        for step in flow._transform._transforms:
            if not isinstance(step, Permutation):
                step.autoregressive_net.final_layer.weight *= 3
    return flow


FLOWS = {
    "flow-I": {"features": 5, "context": 1, "hidden": 64, "blocks": 6, "hidden_blocks": 2},
    "flow-II": {
        "features": 40, "context": 6, "hidden": 39, "blocks": 4, "hidden_blocks": 1,
        "layer_sizes": (8, 20, 12),
    },
    "spread": {
        "features": 40, "context": 4, "hidden": 17, "blocks": 3, "hidden_blocks": 1,
        "layer_sizes": (8, 20, 12), "degrees": "spread",
    },
    "ten bins": {
        "features": 7, "context": 3, "hidden": 12, "blocks": 2, "hidden_blocks": 1, "bins": 10,
    },
}  # fmt: skip


def gradients(density, flow, inputs, context):
    inputs = inputs.clone().requires_grad_()
    values = density(flow, inputs, context)
    return values.detach(), torch.autograd.grad(values.mean(), [inputs, *flow.parameters()])


@pytest.mark.parametrize("staircase", [False, True])
@pytest.mark.parametrize("kind", FLOWS)
def test_log_prob_and_its_gradients_equal_those_of_nflows(kind, staircase, monkeypatch):
    if staircase:
        monkeypatch.setattr(masked, "SMALL", 0)
    sizes = FLOWS[kind]
    flow = scaled(maf_flow(**sizes, seed=3)).double()
    generator = torch.Generator().manual_seed(4)
    # A standard deviation of 8: one in twelve inputs lies in the linear tails beyond 14.
    inputs = 8.0 * torch.randn(21, sizes["features"], generator=generator, dtype=torch.float64)
    context = torch.randn(21, sizes["context"], generator=generator, dtype=torch.float64)
    assert (inputs.abs() > 14.0).any()
    expected, expected_gradients = gradients(Flow.log_prob, flow, inputs, context)
    actual, actual_gradients = gradients(log_prob, flow, inputs, context)
    assert (actual - expected).abs().max() <= 1e-10
    for a, e in zip(actual_gradients, expected_gradients, strict=True):
        assert (a - e).abs().max() <= 1e-10 * max(1.0, e.abs().max())


def test_log_prob_in_float32_is_close_to_nflows():
    flow = maf_flow(**FLOWS["flow-II"], seed=3)
    generator = torch.Generator().manual_seed(4)
    inputs, context = (3 * torch.randn(50, n, generator=generator) for n in (40, 6))
    expected = flow.double().log_prob(inputs.double(), context.double())
    torch.testing.assert_close(
        log_prob(flow.float(), inputs, context).double(), expected, rtol=1e-4, atol=1e-2
    )


def test_noise_and_log_determinant_equal_those_of_nflows():
    flow = scaled(maf_flow(**FLOWS["flow-II"])).double()
    inputs, context = torch.randn(9, 40).double() * 6, torch.randn(9, 6).double()
    expected = flow._transform(inputs, context)
    for a, e in zip(to_noise(flow, inputs, context), expected, strict=True):
        assert (a - e).abs().max() <= 1e-10


def test_dropout_is_active_in_training_only():
    flow = maf_flow(6, 2, 30, 2, 1, dropout=0.5)
    inputs, context = torch.randn(4, 6), torch.randn(4, 2)
    flow.train()
    assert not torch.equal(log_prob(flow, inputs, context), log_prob(flow, inputs, context))
    flow.eval()
    assert torch.equal(log_prob(flow, inputs, context), log_prob(flow, inputs, context))


def test_loading_weights_with_other_masks_is_noticed(monkeypatch):
    monkeypatch.setattr(masked, "SMALL", 0)
    sizes = FLOWS["spread"]
    spread, flow = (maf_flow(**(sizes | {"degrees": d})) for d in ("spread", "sequential"))
    inputs, context = torch.randn(5, 40), torch.randn(5, 4)
    log_prob(flow, inputs, context)
    flow.load_state_dict(spread.state_dict())
    torch.testing.assert_close(
        log_prob(flow, inputs, context), spread.log_prob(inputs, context), rtol=1e-4, atol=1e-3
    )


def test_what_the_fast_density_does_not_know_is_refused():
    residual = MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
        4, 8, context_features=1, tails="linear", use_residual_blocks=True
    )
    flow = Flow(CompositeTransform([residual]), maf_flow(4, 1, 8, 1, 1)._distribution)
    with pytest.raises(UsageError, match="not a transform"):
        log_prob(flow, torch.zeros(2, 4), torch.zeros(2, 1))


@pytest.mark.parametrize(
    "wrong", [{"layer_sizes": (3, 3)}, {"degrees": "even"}], ids=["layers", "degrees"]
)
def test_sizes_that_do_not_fit_are_refused(wrong):
    with pytest.raises(UsageError):
        maf_flow(7, 1, 8, 1, 1, **wrong)


def random_spline(seed, features=3, samples=5, spread=3.0, bins=8):
    generator = torch.Generator().manual_seed(seed)
    raw = spread * torch.randn(features * (3 * bins - 1), samples, generator=generator).double()
    return 9.0 * torch.randn(features, samples, generator=generator).double(), raw


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), spread=st.floats(0.0, 4.0))
def test_the_spline_and_its_gradients_equal_those_of_nflows(seed, spread):
    inputs, raw = random_spline(seed, spread=spread)
    weights = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(seed)).double()

    def ours(x, p):
        y, log = rational_quadratic_spline(x, p, SPLINE)
        return y, log

    def in_torch(x, p):
        return _with_torch(x, p, SPLINE)

    def nflows(x, p):
        p = p.view(3, 23, 5).permute(0, 2, 1)
        y, log = unconstrained_rational_quadratic_spline(
            x, p[..., :8], p[..., 8:16], p[..., 16:], tail_bound=14.0,
            min_bin_width=1e-6, min_bin_height=1e-6, min_derivative=1e-6,
        )  # fmt: skip
        return y, log.sum(dim=0)

    results = []
    for spline in (nflows, ours, in_torch):
        x, p = inputs.clone().requires_grad_(), raw.clone().requires_grad_()
        y, log = spline(x, p)
        results.append([y, log, *torch.autograd.grad((weights * y).sum() + log.sum(), [x, p])])
    expected, *others = results
    for other in others:
        for a, e in zip(other, expected, strict=True):
            assert (a - e).abs().max() <= 1e-9 * max(1.0, e.abs().max())


def test_the_gradients_of_the_spline_are_those_of_finite_differences():
    inputs, raw = random_spline(11, samples=3, spread=1.0)
    assert torch.autograd.gradcheck(
        lambda x, p: rational_quadratic_spline(x, p, SPLINE),
        (inputs.requires_grad_(), raw.requires_grad_()),
        atol=1e-6,
    )


def test_the_spline_has_the_same_bits_on_any_number_of_threads():
    inputs, raw = random_spline(2, features=30, samples=70)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(rational_quadratic_spline(inputs, raw, SPLINE))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@intrinsic
def _apply(_context, numbers, output, start, function):
    """output[start:] = exp, log, softplus or its derivative (by the length of a tuple)."""

    def codegen(context, builder, signature, args):
        v = Lanes(builder, numbers.dtype)
        source, target = (
            v.address(array_pointer(context, builder, signature.args[i], args[i]), args[2])
            for i in (0, 1)
        )
        functions = v.exp, v.log, v.softplus, v.sigmoid_of_softplus
        v.store(functions[function.count](v.load(source)), target)
        return context.get_dummy_value()

    return types.void(numbers, output, start, function), codegen


@njit
def _apply_all(numbers, output, lanes, function):
    for start in range(0, len(numbers), lanes):
        _apply(numbers, output, start, function)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("number", "reference", "low", "high"),
    [
        (0, np.exp, -80, 80),
        (1, lambda x: np.log(x), 1e-30, 1e30),
        (2, lambda x: np.where(x > 20, x, np.log1p(np.exp(x))), -60, 40),
        (3, lambda x: np.where(x > 20, 1, 1 / (1 + np.exp(-x))), -60, 40),
    ],
)
def test_vector_functions_are_right_to_the_last_bits(number, reference, low, high, dtype):
    space = np.geomspace if number == 1 else np.linspace
    numbers = space(low, high, 6400).astype(dtype)
    output = np.empty_like(numbers)
    _apply_all(numbers, output, lanes_of(numbers.dtype), (0,) * number)
    expected = reference(numbers.astype(np.longdouble))
    # log crosses zero at one: there the error is measured against one unit
    scale = np.maximum(np.abs(expected), 1e-2) if number == 1 else np.abs(expected)
    assert (np.abs(output - expected) / scale).max() < 4 * np.finfo(dtype).eps


def test_padding_of_odd_batches_changes_nothing():
    inputs, raw = random_spline(5, samples=13)
    whole = rational_quadratic_spline(inputs, raw, SPLINE)
    part = rational_quadratic_spline(inputs[:, :9], raw[:, :9], SPLINE)
    assert torch.equal(whole[0][:, :9], part[0])
    assert torch.equal(whole[1][:9], part[1])
    assert F.softplus(torch.tensor(SPLINE.edge)) + SPLINE.min_derivative == pytest.approx(1.0)
