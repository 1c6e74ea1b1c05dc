"""The convolutional flow is invertible, knows its determinant, and folds to the same function."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calostudy.errors import UsageError
from calostudy.networks.glow import GlowStructure, ImageFlow, Mixing
from calostudy.networks.spline import SplineSettings
from calostudy.samplers.glow import eager, folded

TINY = GlowStructure(
    (2, 2), 2, (3, 4, 5), ((1, 3), (2, 1)), 2, SplineSettings(8, 3.0, 1e-3, 1e-3, 1e-3), False
)
SHAPE = (4, 6)


def shaken(structure, shape=SHAPE, context=3, embed=True, size=0.1):
    """A flow with random weights, and batch norms that have seen images, in double precision."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(2)
        flow = ImageFlow(shape, context, structure, embed).double()
        for parameter in flow.parameters():
            parameter.add_(size * torch.randn_like(parameter))
        flow.train()
        flow(*images(7, shape, context))
    return flow.eval()


def images(n, shape=SHAPE, context=3, seed=1, spread=1.0):
    generator = torch.Generator().manual_seed(seed)

    def normal(channels):
        return torch.randn(n, channels, *shape, dtype=torch.float64, generator=generator)

    return spread * normal(1), normal(context)


@settings(max_examples=15, deadline=None)
@given(
    squeeze=st.sampled_from([(2, 2), (1, 2), (3, 1)]),
    circular=st.booleans(),
    embed=st.booleans(),
    spread=st.sampled_from([0.1, 1.0, 10.0]),
    seed=st.integers(0, 1000),
)
def test_images_come_back_from_their_noise(squeeze, circular, embed, spread, seed):
    structure = replace(TINY, squeeze=squeeze, strides=((1, 1), (2, 1)), circular=circular)
    flow = shaken(structure, (12, 4), embed=embed)
    data, context = images(3, (12, 4), seed=seed, spread=spread)
    with torch.no_grad():
        noise, _ = flow(data, context)
        assert noise.shape == (3, *flow.noise_shape)
        for inverse in (flow.inverse, eager(flow, "float64"), folded(flow, "float64")):
            found = inverse(noise, context)
            assert (found - data).abs().max() <= 1e-9 * max(1.0, spread)


@pytest.mark.parametrize("embed", [True, False])
@pytest.mark.parametrize("circular", [True, False])
def test_the_log_determinant_is_that_of_the_jacobian(embed, circular):
    flow = shaken(replace(TINY, circular=circular), embed=embed)
    data, context = images(2)
    _, logs = flow(data, context)
    for i in range(2):

        def noise(pixels, i=i):
            return flow(pixels.view(1, 1, *SHAPE), context[i : i + 1])[0].flatten()

        jacobian = torch.autograd.functional.jacobian(noise, data[i].flatten())
        found = torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(logs[i], found, rtol=1e-9, atol=1e-9)


def test_log_prob_is_a_density():
    """Of a flow of images of two pixels, integrated over a grid."""
    structure = replace(TINY, squeeze=(1, 2), strides=((1, 1), (1, 1)))
    flow = shaken(structure, (1, 2), context=1)
    axis = torch.linspace(-12.0, 12.0, 241, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)
    with torch.no_grad():
        density = flow.log_prob(grid, torch.zeros_like(grid[:, :, :, :2])).exp()
    assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=1e-3)


def test_a_fresh_flow_only_mixes_channels():
    flow = ImageFlow(SHAPE, 3, TINY).double().eval()
    data, context = images(2)
    with torch.no_grad():
        noise, logs = flow(data, context)
    torch.testing.assert_close(logs, torch.zeros(2).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        noise.flatten(1).sort().values, data.flatten(1).sort().values, rtol=0, atol=1e-5
    )


def test_initialise_normalises_what_each_block_sees():
    flow = shaken(TINY, size=0.0)
    data, context = images(50, spread=7.0)
    flow.initialise(data + 3.0, context)
    with torch.no_grad():
        seen = flow.blocks[0].normalised(flow.squeezed(data + 3.0))
    deviation, mean = torch.std_mean(seen, dim=(0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros(4).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(deviation, torch.ones(4).double(), rtol=0, atol=1e-9)


def test_a_circular_flow_turns_with_its_images():
    """By whole squeezes and strides; one that is not circular has edges."""

    def differences(circular):
        flow = shaken(replace(TINY, circular=circular, strides=((1, 1), (2, 1))), (4, 12))
        data, context = images(2, (4, 12))
        with torch.no_grad():
            noise, _ = flow(data, context)
            turned, _ = flow(data.roll(2, -1), context.roll(2, -1))
        return (turned - noise.roll(1, -1)).abs().max()

    assert differences(True) <= 1e-12
    assert differences(False) > 1e-3


def test_channels_are_mixed_by_an_invertible_matrix():
    mixing = Mixing(torch.tensor([2, 0, 1])).double()
    with torch.no_grad():
        assert torch.equal(mixing.matrix().round(decimals=6).sum(0), torch.ones(3).double())
        for parameter in mixing.parameters():
            parameter.add_(torch.arange(len(parameter)) - 0.5)
        matrix = mixing.matrix()
        found = torch.linalg.slogdet(matrix).logabsdet
    torch.testing.assert_close(found, mixing.diagonal.log().sum())
    pixels = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    there = mixing(pixels)
    expected = (
        np.einsum("ij,bjhw->bihw", matrix, pixels) + mixing.bias.detach().numpy()[:, None, None]
    )
    np.testing.assert_allclose(there.detach(), expected, atol=1e-12)
    torch.testing.assert_close(mixing.inverse(there), pixels, rtol=0, atol=1e-12)


@pytest.mark.parametrize("circular", [True, False])
def test_the_folded_inverse_equals_the_eager_one(circular):
    flow = shaken(replace(TINY, circular=circular))
    noise, context = torch.randn(5, *flow.noise_shape).double() * 4.0, images(5)[1]
    slow, fast = (make(flow, "float64")(noise, context) for make in (eager, folded))
    assert (fast - slow).abs().max() <= 1e-10
    single = folded(flow, "float32")(noise.float(), context.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), slow, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("change", [{"squeeze": (3, 2)}, {"strides": ((2, 2), (2, 2))}])
def test_images_that_do_not_divide_are_usage_errors(change):
    with pytest.raises(UsageError, match="does not divide"):
        ImageFlow(SHAPE, 1, replace(TINY, **change))
    with pytest.raises(UsageError, match="two channels"):
        ImageFlow(SHAPE, 1, replace(TINY, squeeze=(1, 1), strides=((1, 1), (1, 1))))
