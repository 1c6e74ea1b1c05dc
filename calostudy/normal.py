"""The normal distribution and its quantiles by arithmetic alone, in double precision.

For engines that have no such functions. The distribution function is that of Cody (ACM Trans. Math.
Softw. 19 (1993) 22, algorithm 715), the quantile that of Wichura (J. R. Stat. Soc. C 37 (1988) 477,
algorithm AS 241, PPND16): ratios of polynomials, each good to about 1e-16 of its value in a range
of its own. Far out, the distribution function is a continued fraction (Abramowitz & Stegun,
26.2.14).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Ratio = tuple[Sequence[float], Sequence[float]]
"""Coefficients of numerator and denominator, the highest power first."""

_CENTRAL: Ratio = (
    (0.065682337918207449113, 2.2352520354606839287, 161.02823106855587881, 1067.6894854603709582,
     18154.981253343561249),
    (1.0, 47.20258190468824187, 976.09855173777669322, 10260.932208618978205,
     45507.789335026729956),
)  # fmt: skip
_FLANK: Ratio = (
    (1.0765576773720192317e-8, 0.39894151208813466764, 8.8831497943883759412, 93.506656132177855979,
     597.27027639480026226, 2494.5375852903726711, 6848.1904505362823326, 11602.651437647350124,
     9842.7148383839780218),
    (1.0, 22.266688044328115691, 235.38790178262499861, 1519.377599407554805, 6485.558298266760755,
     18615.571640885098091, 34900.952721145977266, 38912.003286093271411, 19685.429676859990727),
)  # fmt: skip
_FAR_OUT, _STEPS = math.sqrt(32.0), 40

_MIDDLE: Ratio = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
     4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3,
     1.3314166789178437745e2, 3.3871328727963666080),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4,
     2.1213794301586595867e4, 5.3941960214247511077e3, 6.8718700749205790830e2,
     4.2313330701600911252e1, 1.0),
)  # fmt: skip
_SIDE: Ratio = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
     1.27045825245236838258, 3.64784832476320460504, 5.76949722146069140550,
     4.63033784615654529590, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2,
     1.48103976427480074590e-1, 6.89767334985100004550e-1, 1.67638483018380384940,
     2.05319162663775882187, 1.0),
)  # fmt: skip
_FAR: Ratio = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3,
     2.65321895265761230930e-2, 2.96560571828504891230e-1, 1.78482653991729133580,
     5.46378491116411436990, 6.65790464350110377720),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5,
     7.86869131145613259100e-4, 1.48753612908506148525e-2, 1.36929880922735805310e-1,
     5.99832206555887937690e-1, 1.0),
)  # fmt: skip


def ndtr(x: Tensor) -> Tensor:
    """Probability of less than x, in x's precision; down to x = -37 to 1e-14 of its value.

    >>> ndtr(torch.tensor([0.0, -1.0]).double())
    tensor([0.5000, 0.1587], dtype=torch.float64)
    """
    given = x.double()
    size = given.abs()
    square = size.square()
    near = 0.5 + given * _ratio(_CENTRAL, square.clamp(max=0.5))
    # exp(-x²/2) in two parts, the first of which is exact.
    coarse = (size * 16.0).floor() / 16.0
    bell = (-0.5 * coarse.square()).exp() * (-0.5 * (size - coarse) * (size + coarse)).exp()
    flank = bell * _ratio(_FLANK, size.clamp(max=6.0))
    far = fraction = size.clamp_min(5.0)
    for step in range(_STEPS, 0, -1):
        fraction = far + step / fraction
    below = torch.where(size < _FAR_OUT, flank, bell / (math.sqrt(2.0 * math.pi) * fraction))
    outside = torch.where(given > 0, 1.0 - below, below)
    return torch.where(size < 0.67448975, near, outside).to(x.dtype)


def ndtri(probability: Tensor) -> Tensor:
    """The x below which a probability lies, in its precision; infinite at 0 and 1.

    >>> ndtri(torch.tensor([0.5, 0.975]).double())
    tensor([0.0000, 1.9600], dtype=torch.float64)
    """
    given = probability.double()
    off = given - 0.5
    middle = off * _ratio(_MIDDLE, (0.180625 - off.square()).clamp_min(0.0))
    less = torch.minimum(given, 1.0 - given)
    depth = (-less.clamp_min(1e-300).log()).sqrt()
    side = _ratio(_SIDE, (depth - 1.6).clamp(max=3.4))
    outside = torch.where(depth <= 5.0, side, _ratio(_FAR, (depth - 5.0).clamp_min(0.0)))
    outside = torch.where(less > 0.0, outside, math.inf)
    outside = torch.where(off < 0, -outside, outside)
    return torch.where(off.abs() <= 0.425, middle, outside).to(probability.dtype)


def _ratio(of: Ratio, x: Tensor) -> Tensor:
    above, below = (_polynomial(coefficients, x) for coefficients in of)
    return above / below


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    found = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        found = found * x + coefficient
    return found
