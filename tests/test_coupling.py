"""Coupling flows: exact densities and inverses, and the splines that only they use."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nflows.transforms.splines.cubic import unconstrained_cubic_spline

from calostudy.errors import UsageError
from calostudy.networks.coupling import CouplingFlow, CouplingStructure
from calostudy.networks.cubic_spline import CubicSettings, cubic_spline, inverse_cubic_spline
from calostudy.networks.spline import SplineSettings
from calostudy.samplers.coupling import CouplingSampler, eager, fused, int8

BOUND = 2.5
SPLINES = {
    "rational-quadratic": SplineSettings(5, BOUND, 1e-3, 1e-3, 1e-3),
    "cubic": CubicSettings(4, BOUND, 1e-3, 1e-3),
}
CASES = [(spline, by_shower) for spline in SPLINES for by_shower in (True, False)]


def coupling_flow(spline, by_shower=True, features=7, context=2, blocks=3, hidden=11, scale=0.3):
    """A flow in float64 whose splines bend and whose ActNorms shift and scale."""
    structure = CouplingStructure(blocks, hidden, 3, SPLINES[spline], by_shower)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        flow = CouplingFlow(features, context, structure, seed=1).double()
        for parameter in flow.parameters():
            parameter.add_(scale * torch.randn(parameter.shape))
    return flow.eval()


def normal_noise(n, features=7, context=2, width=1.0):
    random = np.random.default_rng(n)
    return width * random.normal(size=(n, features)), random.normal(size=(n, context))


@pytest.mark.parametrize(("spline", "by_shower"), CASES)
def test_the_log_determinant_is_that_of_the_jacobian(spline, by_shower):
    flow = coupling_flow(spline, by_shower)
    inputs, context = map(torch.tensor, normal_noise(6))
    _, logabsdet = flow(inputs, context)
    for i in range(len(inputs)):
        # The splines' own derivatives are checked against differences, not against themselves.
        def to_noise(x, c=context[i]):
            return flow(x, c.expand(len(x), -1))[0]

        expected = torch.linalg.slogdet(numerical_jacobian(to_noise, inputs[i])).logabsdet
        torch.testing.assert_close(logabsdet[i], expected, rtol=0, atol=1e-6)
        autograd = torch.autograd.functional.jacobian(
            lambda x, f=to_noise: f(x[None])[0], inputs[i]
        )
        expected = torch.linalg.slogdet(autograd).logabsdet
        torch.testing.assert_close(logabsdet[i], expected, rtol=0, atol=1e-10)


def numerical_jacobian(function, point, step=1e-6):
    steps = step * torch.eye(len(point), dtype=point.dtype)
    with torch.no_grad():
        return ((function(point + steps) - function(point - steps)) / (2 * step)).t()


@pytest.mark.parametrize(("spline", "by_shower"), CASES)
def test_the_density_integrates_to_one(spline, by_shower):
    flow = coupling_flow(spline, by_shower, features=2, context=1, blocks=2, scale=0.15)
    axis = torch.linspace(-8.0, 8.0, 501, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = flow.log_prob(grid, torch.full((len(grid), 1), 2.0).double()).exp()
    # The density jumps where a cubic spline ends: half a cell of the grid may be missed there.
    assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=5e-3)


@pytest.mark.parametrize("name", ["fused", "eager"])
@pytest.mark.parametrize(("spline", "by_shower"), CASES)
@given(width=st.floats(0.1, 5.0), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=15)
def test_both_inverses_undo_the_flow(name, spline, by_shower, width, seed):
    flow = coupling_flow(spline, by_shower)
    random = np.random.default_rng(seed)
    noise, context = width * random.normal(size=(5, 7)), random.normal(size=(5, 2))
    inverse = {"fused": fused, "eager": eager}[name](flow, "float64")
    with torch.no_grad():
        back, _ = flow(torch.tensor(inverse(noise, context)), torch.tensor(context))
    np.testing.assert_allclose(back.numpy(), noise, atol=1e-8)


@pytest.mark.parametrize("layers", [2, 4])
@pytest.mark.parametrize(("spline", "by_shower"), CASES)
def test_the_fused_inverse_equals_the_eager_one(spline, by_shower, layers):
    structure = CouplingStructure(4, 19, layers, SPLINES[spline], by_shower)
    torch.manual_seed(layers)
    flow = CouplingFlow(26, 3, structure, seed=2).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    noise, context = normal_noise(12, 26, 3)
    noise[1] *= 5.0
    noise[2, 4] = BOUND
    fast, slow = (make(flow, "float64")(noise, context) for make in (fused, eager))
    assert np.abs(fast - slow).max() <= 1e-10


@pytest.mark.parametrize(
    ("spline", "dtype"), [("rational-quadratic", "float32"), ("cubic", "float64")]
)
def test_a_sample_has_the_same_bits_in_every_batch_and_on_every_number_of_threads(spline, dtype):
    sampler = CouplingSampler(coupling_flow(spline, blocks=2), dtype)
    noise, context = normal_noise(40)
    whole = sampler.inverse(noise, context)
    assert whole.dtype == dtype
    for rows in (slice(0, 1), slice(3, 6), slice(6, 40)):
        for threads in (1, 2):
            part = sampler.inverse(noise[rows], context[rows], threads=threads)
            np.testing.assert_array_equal(part, whole[rows])


@pytest.mark.parametrize("spline", SPLINES)
def test_one_number_outside_the_bound_leaves_its_shower_unbent(spline):
    rows = torch.zeros(2, 7, dtype=torch.float64)
    rows[1, -1] = BOUND + 0.1  # one of the active half, before any permutation
    context = torch.zeros(2, 2, dtype=torch.float64)
    for by_shower in (True, False):
        flow = coupling_flow(spline, by_shower, blocks=1)
        with torch.no_grad():
            for norm in (flow.blocks[0].log_scale, flow.blocks[0].shift):
                norm.zero_()
        noise, logabsdet = flow(rows, context)
        moved = (noise != rows[:, flow.blocks[0].permutation]).sum(dim=1).tolist()
        # of the three active numbers
        assert moved == ([3, 0] if by_shower else [3, 2])
        assert (logabsdet[1] == 0.0) == by_shower


@pytest.mark.parametrize("spline", SPLINES)
def test_a_fresh_flow_only_permutes(spline):
    flow = coupling_flow(spline, scale=0.0)
    noise, context = map(torch.tensor, normal_noise(4, width=3.0))
    forward, logabsdet = flow(noise, context)
    order = torch.arange(7)
    for block in flow.blocks:
        order = order[block.permutation]
    # The weights were drawn in float32.
    torch.testing.assert_close(forward, noise[:, order], rtol=0, atol=1e-6)
    torch.testing.assert_close(logabsdet, torch.zeros(4).double(), rtol=0, atol=1e-6)


def test_initialisation_normalises_what_every_block_sees():
    flow = coupling_flow("rational-quadratic", scale=0.2)
    inputs, context = map(torch.tensor, normal_noise(400, width=30.0))
    inputs = inputs + 100.0
    inputs[:, 3] = 7.0  # never varies
    flow.initialise(inputs, context)
    columns = inputs.t().contiguous()
    varies = torch.arange(7) != 3
    for block in flow.blocks:
        columns = block.normalised(columns)
        torch.testing.assert_close(columns.mean(dim=1), torch.zeros(7).double())
        # A number that is shifted only may come to vary a little in later blocks.
        deviations = columns.std(dim=1)
        expected = torch.where(varies, 1.0, 0.0).double()
        torch.testing.assert_close(deviations[varies], expected[varies])
        columns, _ = block.couple(columns, context.t().contiguous())
        varies = varies[block.permutation]
    assert torch.isfinite(flow.log_prob(inputs, context)).all()


def test_a_flow_of_one_number_is_refused():
    with pytest.raises(UsageError, match="two"):
        coupling_flow("cubic", features=1)


def test_a_precision_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match="float16"):
        CouplingSampler(coupling_flow("cubic"), "float16")


# ---- cubic splines ----------------------------------------------------------------------------


def random_splines(shape, seed, scale=2.0):
    """Positions, some of them outside, and parameters of as many splines: (features, samples)."""
    random = np.random.default_rng(seed)
    count = SPLINES["cubic"].parameters
    positions = 1.5 * BOUND * random.uniform(-1.0, 1.0, shape)
    parameters = scale * random.normal(size=(shape[0] * count, shape[1]))
    return torch.tensor(positions), torch.tensor(parameters)


def test_cubic_splines_are_those_of_nflows():
    spline = SPLINES["cubic"]
    positions, parameters = random_splines((6, 50), 1)
    outputs, logs = cubic_spline(positions, parameters, spline)
    raw = parameters.view(6, spline.parameters, 50).permute(0, 2, 1)
    expected, expected_logs = unconstrained_cubic_spline(
        positions,
        *raw.split([spline.bins, spline.bins, 1, 1], dim=-1),
        tail_bound=spline.tail_bound,
        min_bin_width=spline.min_bin_width,
        min_bin_height=spline.min_bin_height,
    )
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(logs, expected_logs.sum(dim=0), rtol=0, atol=1e-9)


@given(seed=st.integers(0, 10_000), scale=st.floats(0.0, 6.0))
@settings(deadline=None, max_examples=50)
def test_cubic_splines_rise_and_their_inverse_returns(seed, scale):
    spline = SPLINES["cubic"]
    positions, parameters = random_splines((4, 30), seed, scale)
    values, logs = cubic_spline(positions, parameters, spline)
    assert torch.isfinite(logs).all()
    assert ((values.abs() <= BOUND) == (positions.abs() <= BOUND)).all()
    there = cubic_spline(inverse_cubic_spline(values, parameters, spline), parameters, spline)[0]
    torch.testing.assert_close(there, values, rtol=0, atol=1e-10)
    further = cubic_spline(positions + 1e-3, parameters, spline)[0]
    assert (further > values - 1e-12).all()


def test_gradients_of_cubic_splines_are_those_of_differences():
    positions, parameters = random_splines((2, 3), 5, scale=1.0)
    positions.requires_grad_(True)
    parameters.requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda x, p: cubic_spline(x, p, SPLINES["cubic"]), (positions, parameters)
    )


def test_parameters_of_the_identity():
    spline = SPLINES["cubic"]
    positions, _ = random_splines((3, 20), 2)
    identity = torch.tensor(spline.identity).repeat(3)[:, None].expand(-1, 20)
    values, logs = cubic_spline(positions, identity, spline)
    torch.testing.assert_close(values, positions, rtol=0, atol=1e-12)
    torch.testing.assert_close(logs, torch.zeros(20).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("spline", SPLINES)
def test_weights_of_eight_bits_are_exact_where_eight_bits_are_enough(spline):
    flow, (noise, context) = coupling_flow(spline), normal_noise(9)
    random = np.random.default_rng(5)
    with torch.no_grad():
        for layer in (layer for block in flow.blocks for layer in block.network):
            whole = random.integers(-126, 127, layer.weight.shape)
            whole[:, 0] = 127  # the largest of each row sets its scale
            scale = random.uniform(1e-4, 3e-3, (len(whole), 1))
            layer.weight.copy_(torch.from_numpy(scale * whole))
    exact = fused(flow, "float64")(noise, context)
    np.testing.assert_allclose(int8(flow, "float64")(noise, context), exact, rtol=0, atol=1e-10)
    assert not np.allclose(exact, noise, atol=1e-3)


def test_weights_of_eight_bits_take_a_byte_each_and_change_samples_little():
    flow, (noise, context) = coupling_flow("cubic"), normal_noise(200)
    full, small = CouplingSampler(flow, "float64"), CouplingSampler(flow, "float64", "int8")
    assert 8 * small.nbytes == full.nbytes
    whole = small.inverse(noise, context)
    difference = np.abs(whole - full.inverse(noise, context))
    assert 0 < np.median(difference) < 0.02
    parts = [small.inverse(noise[i : i + 1], context[i : i + 1]) for i in range(5)]
    np.testing.assert_array_equal(np.concatenate(parts), whole[:5])
