"""Solvers turn noise into the data that a denoiser knows, on every path."""

import itertools
import math

import pytest
import torch

from calostudy.errors import UsageError
from calostudy.samplers.diffusion import (
    PREDICTIONS,
    SOLVERS,
    STRAIGHT,
    Path,
    Process,
    Sampling,
    cosine_path,
    discrete_cosine_path,
    spread_times,
)

MEAN, DEVIATION = 1.5, 0.3
PATHS = {"straight": STRAIGHT, "cosine": cosine_path(), "discrete": discrete_cosine_path()}
CIRCLES = {name: path for name, path in PATHS.items() if name != "straight"}


def exact(path: Path, calls: list | None = None):
    """The denoiser of normal data: E[x | x_t], in closed form."""

    def denoise(x, time):
        if calls is not None:
            calls.append(time)
        alpha, sigma = path.at(time)
        variance = (alpha * DEVIATION) ** 2 + sigma**2
        data = MEAN + alpha * DEVIATION**2 / variance * (x - alpha * MEAN)
        return data, (x - alpha * data) / sigma

    return denoise


def noise(count=20_000):
    generator = torch.Generator().manual_seed(1)
    return lambda step: torch.randn(count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "consistency"])
def test_a_solver_with_an_exact_denoiser_ends_at_the_data(path, solver):
    found = Sampling(solver, 200).solve(exact(path), path, noise())
    assert found.mean().item() == pytest.approx(MEAN, abs=0.01)
    # The last step goes to the mean of the data that are possible, which costs some of the spread.
    assert found.std().item() == pytest.approx(DEVIATION, rel=0.035)


@pytest.mark.parametrize("path", [STRAIGHT, cosine_path()], ids=["straight", "cosine"])
def test_more_evaluations_come_closer_and_second_order_comes_closest(path):
    def end(solver, count):
        return Sampling(solver, count).solve(exact(path), path, noise(100))

    target = end("ddim", 10_000)
    errors = {
        solver: [(end(solver, n) - target).abs().mean().item() for n in (100, 400)]
        for solver in ("ddim", "dpm++2m", "heun", "midpoint")
    }
    assert all(
        errors[solver][1] < 0.3 * errors[solver][0] for solver in ("ddim", "dpm++2m", "heun")
    )
    assert all(few < 0.3 * errors["ddim"][0] for few, _ in list(errors.values())[1:])


def test_multistep_consistency_keeps_what_a_consistency_function_maps():
    # Of data that are one point, the denoiser is a consistency function.
    def point(x, time):
        return torch.full_like(x, MEAN), x

    found = Sampling("consistency", 4).solve(point, STRAIGHT, noise(10))
    assert (found == MEAN).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("count", [2, 3, 7, 16])
def test_a_solver_takes_the_evaluations_that_it_says(solver, count):
    calls = []
    sampling = Sampling(solver, count)
    sampling.solve(exact(STRAIGHT, calls), STRAIGHT, noise(2))
    assert len(calls) == sampling.counted <= count
    assert all(0.0 < time <= 1.0 for time in calls)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        *((name, where) for name in ("noise", "v", "hybrid") for where in CIRCLES),
        *((name, "straight") for name in ("noise", "v", "velocity", "hybrid")),
    ],
)
def test_what_a_network_should_say_is_read_back_as_data_and_noise(name, where):
    path = PATHS[where]
    data, error = torch.randn(2, 50, dtype=torch.float64)
    for time in (0.1, 0.5, 0.9):
        alpha, sigma = path.at(time)
        said = PREDICTIONS[name].target(data, error, alpha, sigma)
        read = PREDICTIONS[name].read(said, alpha * data + sigma * error, alpha, sigma)
        torch.testing.assert_close(read, (data, error), rtol=0, atol=1e-8)


@pytest.mark.parametrize("path", CIRCLES.values(), ids=CIRCLES)
def test_cosine_paths_keep_the_variance_and_fall(path):
    times = torch.linspace(0, 1, 401, dtype=torch.float64)
    alpha, sigma = path.alpha(times), path.sigma(times)
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones_like(alpha))
    assert (alpha.diff() <= 0).all() and alpha[0] > 1 - 1e-8 and alpha[-1] < 0.01


def test_the_discrete_path_has_the_betas_of_its_source():
    steps, offset = 400, 0.008
    alpha = discrete_cosine_path(steps, offset).alpha(torch.arange(steps + 1) / steps)
    betas = 1 - (alpha[1:] / alpha[:-1]).square()
    f = [math.cos((k / steps + offset) / (1 + offset) * math.pi / 2) ** 2 for k in range(steps + 1)]
    expected = [min(max(1 - f[k + 1] / f[k], 1e-4), 0.9999) for k in range(steps)]
    torch.testing.assert_close(betas, torch.tensor(expected, dtype=torch.float64))


def test_the_loss_of_a_network_that_knows_is_zero():
    data, error = torch.randn(2, 6, 4)
    process = Process(STRAIGHT, "velocity")
    loss = process.loss(lambda x, time: error - data, data, spread_times(6), error)
    assert loss.shape == (6,) and loss.max() < 1e-10


def test_spread_times_fall_one_into_each_interval():
    times = spread_times(64, torch.Generator().manual_seed(0))
    assert ((times > 0) & (times <= 1)).all()
    assert sorted(((1 - times) * 64).long().tolist()) == list(range(64))


def test_times_begin_at_the_start_and_are_finer_near_the_data_with_a_power():
    assert Sampling("ddpm", 398, start=398 / 400).times()[0] == 398 / 400
    times = Sampling("ddim", 10, power=2.0).times()
    steps = [a - b for a, b in itertools.pairwise(times)]
    assert times[-1] == 0.0 and steps == sorted(steps, reverse=True)


def test_unknown_solvers_and_too_few_evaluations_are_usage_errors():
    sampling = Sampling("ddim", 8)
    with pytest.raises(UsageError, match=r"no solver 'rk9'; there are ddpm"):
        sampling.changed("rk9", None)
    with pytest.raises(UsageError, match="midpoint needs 2"):
        sampling.changed("midpoint", 1)
