"""From noise to data along a path, by networks that know the way: diffusion and flow matching.

On a path, data x and Gaussian noise e are mixed, x_t = alpha(t) x + sigma(t) e, from the data at
t = 0 to noise at t = 1. Whatever a network was trained to say of x_t (the noise, v, a velocity),
it says what x and what e it believes in; a `Denoise` gives both. A solver goes from noise to data
with a denoiser alone, so that every solver works with every network and every path.

Dividing by alpha + sigma turns any path into a straight one, with time sigma / (alpha + sigma):
there the velocity is e - x, and Euler's step is that of DDIM (Song et al., arXiv:2010.02502) as
well as of flow matching (Lipman et al., arXiv:2210.02747).
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from calostudy import devices
from calostudy.errors import UsageError

Denoise = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""x_t (B, ...) and t: the data and the noise in it, both (B, ...)."""

Noise = Callable[[int], Tensor]
"""Standard normal numbers like x: 0 those to begin with, k those of step k."""


# ---- paths --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Path:
    """alpha(t) and sigma(t) of times (...,) in [0, 1], float64; both take and give tensors."""

    alpha: Callable[[Tensor], Tensor]
    sigma: Callable[[Tensor], Tensor]

    def at(self, time: float) -> tuple[float, float]:
        """alpha and sigma of one time."""
        return _at(self, time)


@lru_cache(maxsize=10_000)  # of few times, and always the same; a traced graph reads no tensors
def _at(path: Path, time: float) -> tuple[float, float]:
    t = torch.tensor(time, dtype=torch.float64, device="cpu")
    return path.alpha(t).item(), path.sigma(t).item()


STRAIGHT = Path(lambda t: 1.0 - t, lambda t: t)
"""Of flow matching: alpha = 1 - t, sigma = t."""


def cosine_path(limit: float = 20.0) -> Path:
    """The cosine path of Nichol & Dhariwal (arXiv:2102.09672) in continuous time, its log of the
    signal-to-noise ratio kept within +- `limit`, as in CaloScore v2 (arXiv:2308.03847)."""
    start = math.atan(math.exp(-0.5 * limit))
    stretch = math.atan(math.exp(0.5 * limit)) - start

    def log_snr(t: Tensor) -> Tensor:
        return -2.0 * torch.tan(stretch * t + start).log()

    return Path(
        lambda t: torch.sigmoid(log_snr(t)).sqrt(),
        lambda t: torch.sigmoid(-log_snr(t)).sqrt(),
    )


def discrete_cosine_path(steps: int = 400, offset: float = 0.008) -> Path:
    """The cosine path in `steps` steps with betas in [1e-4, 0.9999], as in CaloDiffusion
    (arXiv:2308.03876): a time is rounded to the nearest k / steps, k = 0 being the data."""
    grid = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)
    signal = torch.cos((grid + offset) / (1.0 + offset) * math.pi / 2.0).square()
    betas = (1.0 - signal[1:] / signal[:-1]).clamp(1e-4, 0.9999)
    squared = torch.cat([torch.ones(1, dtype=torch.float64), (1.0 - betas).cumprod(0)])
    alphas, sigmas = squared.sqrt(), (1.0 - squared).sqrt()

    def look_up(table: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda t: devices.moved(table, t.device)[(t.double() * steps).round().long()]

    return Path(look_up(alphas), look_up(sigmas))


LEAST = 0.002
"""Lowest noise level of `karras_path`, where a consistency model says what it sees."""


def karras_path(low: float = LEAST, high: float = 80.0, power: float = 7.0) -> Path:
    """The noise levels of Karras et al. (arXiv:2206.00364, Eq. 5): x + s e with s from `low` at t =
    0 to `high` at t = 1, divided by the root of 1 + s^2."""

    def level(t: Tensor) -> Tensor:
        ends = low ** (1.0 / power), high ** (1.0 / power)
        return (ends[0] + t * (ends[1] - ends[0])) ** power

    return Path(
        lambda t: (1.0 + level(t).square()).rsqrt(),
        lambda t: level(t) * (1.0 + level(t).square()).rsqrt(),
    )


# ---- what a network says ------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """What a network is trained to say.

    target: (data, noise, alpha, sigma) to what it should say; read: (what it said, x_t, alpha,
    sigma) to (data, noise).
    """

    target: Callable[..., Tensor]
    read: Callable[..., tuple[Tensor, Tensor]]


def _hybrid_read(said, x, alpha, sigma):
    variance = sigma * sigma
    data = x / (1.0 + variance) + said * sigma / (1.0 + variance) ** 0.5
    return data, (x - alpha * data) / sigma


def _hybrid_target(data, noise, alpha, sigma):
    variance = sigma * sigma
    x = alpha * data + sigma * noise
    return (data - x / (1.0 + variance)) * (1.0 + variance) ** 0.5 / sigma


def _v_target(data, noise, alpha, sigma):
    return (alpha * noise - sigma * data) / (alpha**2 + sigma**2) ** 0.5


def _v_read(said, x, alpha, sigma):
    square = alpha**2 + sigma**2
    x, said = x / square, said / square**0.5
    return alpha * x - sigma * said, sigma * x + alpha * said


def preconditioned(level, least: float = 0.0) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of a noise level (Karras et al., arXiv:2206.00364, table 1), for data of
    deviation 0.5; at `least` the network has no say (Song et al., arXiv:2303.01469, appendix C)."""
    square, above = DEVIATION**2, level - least
    out = DEVIATION * (above if least else level) / (square + level**2) ** 0.5
    return square / (above**2 + square), out


def _edm_read(said, x, alpha, sigma, least=0.0):
    skip, out = preconditioned(sigma / alpha, least)
    data = skip * x / alpha + out * said
    return data, (x - alpha * data) / sigma


def _edm_target(data, noise, alpha, sigma, least=0.0):
    skip, out = preconditioned(sigma / alpha, least)
    return (data - skip * (data + noise * sigma / alpha)) / out


DEVIATION = 0.5
"""Of the data, where networks say what is left after `preconditioned`."""

PREDICTIONS: dict[str, Prediction] = {
    "noise": Prediction(
        lambda data, noise, alpha, sigma: noise,
        lambda said, x, alpha, sigma: ((x - sigma * said) / alpha, said),
    ),
    "v": Prediction(_v_target, _v_read),
    "velocity": Prediction(
        lambda data, noise, alpha, sigma: noise - data,
        lambda said, x, alpha, sigma: (x - sigma * said, x + alpha * said),
    ),
    "hybrid": Prediction(_hybrid_target, _hybrid_read),
    "edm": Prediction(_edm_target, _edm_read),
    "consistency": Prediction(
        lambda *given: _edm_target(*given, least=LEAST),
        lambda *given: _edm_read(*given, least=LEAST),
    ),
}
"""noise: of Ho et al. (arXiv:2006.11239); v: alpha e - sigma x (Salimans & Ho, arXiv:2202.00512)
over the root of alpha^2 + sigma^2, whose mean given x_t is 0 wherever the data are standard normal
numbers; velocity: e - x, for the straight path; hybrid: that of CaloDiffusion on dataset 3, x =
x_t / (1 + sigma^2) + F sigma / sqrt(1 + sigma^2): its squared error of x with weight 1 + 1 /
sigma^2 is the plain squared error of F; edm and consistency: F of `preconditioned`."""


@dataclass(frozen=True)
class Process:
    """A path, and what networks are trained to say on it."""

    path: Path
    prediction: str

    def loss(
        self, predict: Callable[[Tensor, Tensor], Tensor], data: Tensor, time: Tensor, noise: Tensor
    ) -> Tensor:
        """Mean squared error (B,) of predict(x_t, time) for data (B, ...), times (B,) in (0, 1]."""
        shape = (-1,) + (1,) * (data.ndim - 1)
        alpha, sigma = (
            f(time.double()).to(data).view(shape) for f in (self.path.alpha, self.path.sigma)
        )
        said = predict(alpha * data + sigma * noise, time.to(data))
        target = PREDICTIONS[self.prediction].target(data, noise, alpha, sigma)
        return (said - target).square().flatten(1).mean(1)

    def denoiser(self, predict: Callable[[Tensor, float], Tensor]) -> Denoise:
        """The denoiser of a network that predict(x_t, t) evaluates."""
        read = PREDICTIONS[self.prediction].read

        def denoise(x: Tensor, time: float) -> tuple[Tensor, Tensor]:
            return read(predict(x, time), x, *self.path.at(time))

        return denoise


def spread_times(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Random times (count,) in (0, 1], each uniform, together spread evenly: one in each of
    `count` equal intervals, in random order (Kingma et al., arXiv:2107.00630, appendix I.1)."""
    order = torch.randperm(count, generator=generator)
    return 1.0 - (order + torch.rand(count, generator=generator)) / count


# ---- solvers ------------------------------------------------------------------------------------


def _ddim(denoise: Denoise, path: Path, times: Sequence[float], noise: Noise) -> Tensor:
    x = noise(0)
    for now, after in itertools.pairwise(times):
        data, error = denoise(x, now)
        alpha, sigma = path.at(after)
        x = alpha * data + sigma * error if after else data
    return x


def _ddpm(denoise: Denoise, path: Path, times: Sequence[float], noise: Noise) -> Tensor:
    x = noise(0)
    for step, (now, after) in enumerate(itertools.pairwise(times), 1):
        data, _ = denoise(x, now)
        if not after:
            return data
        (alpha, sigma), (alpha_after, sigma_after) = path.at(now), path.at(after)
        shrink = alpha / alpha_after
        added = sigma**2 - (shrink * sigma_after) ** 2  # noise from `after` to `now`
        x = (shrink * sigma_after**2 * x + alpha_after * added * data) / sigma**2
        x = x + math.sqrt(added) * sigma_after / sigma * noise(step)
    return x


def _consistency(denoise: Denoise, path: Path, times: Sequence[float], noise: Noise) -> Tensor:
    x = noise(0)
    for step, (now, after) in enumerate(itertools.pairwise(times), 1):
        data, _ = denoise(x, now)
        if not after:
            return data
        alpha, sigma = path.at(after)
        x = alpha * data + sigma * noise(step)
    return x


def _dpm(denoise: Denoise, path: Path, times: Sequence[float], noise: Noise) -> Tensor:
    x, before, stride = noise(0), None, math.nan
    for now, after in itertools.pairwise(times):
        data, error = denoise(x, now)
        if not after:
            return data
        (alpha, sigma), (alpha_after, sigma_after) = path.at(now), path.at(after)
        if not alpha:  # pure noise has no log-SNR: DDIM's step
            x = alpha_after * data + sigma_after * error
            continue
        step = math.log(alpha_after / sigma_after) - math.log(alpha / sigma)
        # Extrapolated to the middle of the step from this and the step before.
        guess = data if before is None else data + 0.5 * step / stride * (data - before)
        x = sigma_after / sigma * x - alpha_after * math.expm1(-step) * guess
        before, stride = data, step
    return x


def _straightened(path: Path, time: float) -> tuple[float, float]:
    """The scale alpha + sigma at a time, and the time of the straightened path."""
    alpha, sigma = path.at(time)
    return alpha + sigma, sigma / (alpha + sigma)


def _heun(denoise: Denoise, path: Path, times: Sequence[float], noise: Noise) -> Tensor:
    def velocity(z: Tensor, scale: float, time: float) -> Tensor:
        data, error = denoise(scale * z, time)
        return error - data

    scale, place = _straightened(path, times[0])
    z = noise(0) / scale
    for now, after in itertools.pairwise(times):
        scale, place = _straightened(path, now)
        if not after:
            return denoise(scale * z, now)[0]
        scale_after, place_after = _straightened(path, after)
        slope, step = velocity(z, scale, now), place_after - place
        slope_after = velocity(z + step * slope, scale_after, after)
        z = z + 0.5 * step * (slope + slope_after)
    return z


def _midpoint(denoise: Denoise, path: Path, times: Sequence[float], noise: Noise) -> Tensor:
    def velocity(z: Tensor, scale: float, time: float) -> Tensor:
        data, error = denoise(scale * z, time)
        return error - data

    z = noise(0) / _straightened(path, times[0])[0]
    for now, after in itertools.pairwise(times):
        middle = 0.5 * (now + after)
        scale, place = _straightened(path, now)
        scale_middle, place_middle = _straightened(path, middle)
        place_after = _straightened(path, after)[1] if after else 0.0
        half = z + (place_middle - place) * velocity(z, scale, now)
        z = z + (place_after - place) * velocity(half, scale_middle, middle)
    return z


@dataclass(frozen=True)
class Solver:
    """solve(denoise, path, times, noise) gives the data; `times` (steps + 1,) fall to 0.

    per_step: network evaluations of a step; last: those of the last one; fresh: whether each step
    draws noise, not only the first.
    """

    solve: Callable[[Denoise, Path, Sequence[float], Noise], Tensor]
    per_step: int = 1
    last: int = 1
    fresh: bool = False

    def steps(self, evaluations: int) -> int:
        """The steps that so many network evaluations allow, one at least."""
        return max(1, 1 + (evaluations - self.last) // self.per_step)

    def evaluations(self, steps: int) -> int:
        """The network evaluations of so many steps."""
        return (steps - 1) * self.per_step + self.last


SOLVERS: dict[str, Solver] = {
    "ddpm": Solver(_ddpm, fresh=True),
    "ddim": Solver(_ddim),
    "dpm++2m": Solver(_dpm),
    "heun": Solver(_heun, per_step=2),
    "midpoint": Solver(_midpoint, per_step=2, last=2),
    "consistency": Solver(_consistency, fresh=True),
}
"""ddpm: ancestral sampling (arXiv:2006.11239); ddim: deterministic, also Euler's method of flow
matching; dpm++2m: DPM-Solver++(2M) (Lu et al., arXiv:2211.01095, algorithm 2); heun and midpoint:
of second order (Karras et al., arXiv:2206.00364, algorithm 1), on the straightened path;
consistency: to the data at once, and back to less noise (Song et al., arXiv:2303.01469,
algorithm 1). The last step of each but midpoint is the network's own word on the data."""


@dataclass(frozen=True)
class Sampling:
    """How a model goes from noise to data.

    solver: one of `SOLVERS`; evaluations: at most so many of the network; start: the time of the
    first; power: times are start * (1 - k / steps)**power, so that more than 1 makes the steps
    near the data the smaller ones.
    """

    solver: str
    evaluations: int
    start: float = 1.0
    power: float = 1.0

    def times(self) -> list[float]:
        """From `start` down to 0, one more than steps."""
        steps = SOLVERS[self.solver].steps(self.evaluations)
        return [self.start * (1.0 - k / steps) ** self.power for k in range(steps)] + [0.0]

    @property
    def counted(self) -> int:
        """The network evaluations that it takes indeed."""
        solver = SOLVERS[self.solver]
        return solver.evaluations(solver.steps(self.evaluations))

    def changed(self, solver: str | None, evaluations: int | None) -> "Sampling":
        """The same with another solver or number of evaluations, where they are given.

        Raises:
            UsageError: there is no such solver, or no evaluation.
        """
        solver = solver or self.solver
        if solver not in SOLVERS:
            raise UsageError(f"no solver {solver!r}; there are {', '.join(SOLVERS)}")
        evaluations = self.evaluations if evaluations is None else evaluations
        if evaluations < SOLVERS[solver].last:
            raise UsageError(
                f"{evaluations} network evaluations, {solver} needs {SOLVERS[solver].last} or more"
            )
        start = self.start if (solver, evaluations) == (self.solver, self.evaluations) else 1.0
        return Sampling(solver, evaluations, start, self.power)

    def solve(self, denoise: Denoise, path: Path, noise: Noise) -> Tensor:
        """Data from noise."""
        return SOLVERS[self.solver].solve(denoise, path, self.times(), noise)
