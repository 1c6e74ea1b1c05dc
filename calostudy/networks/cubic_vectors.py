"""Monotone cubic splines on vectors: the inverse (see `spline_vectors` for the conventions)."""

from itertools import pairwise

from calostudy.networks.cubic_spline import ITERATIONS
from calostudy.networks.spline_vectors import Knots


def emit_inverse_cubic(v, position, raw, bins, numbers):
    """Vector of x with cubic_spline(x) = position: `cubic_spline.inverse_cubic_spline`."""
    bound, min_width, min_height, *_ = numbers
    inside = v.both(position >= -bound, position <= bound)
    y = v.maximum(v.minimum(position, bound), -bound)
    x_edges = Knots(v, raw[:bins], min_width, bound).edges
    y_edges = Knots(v, raw[bins : 2 * bins], min_height, bound).edges
    widths, heights = (
        [after - before for before, after in pairwise(edges)] for edges in (x_edges, y_edges)
    )
    slopes = [height / width for height, width in zip(heights, widths, strict=True)]

    def end(number):
        # The larger exponent is never taken: nothing overflows.
        small = v.exp(v.minimum(number, -number))
        share = small / (1.0 + small)
        return 3.0 * v.select(number > 0.0, 1.0 - share, share)

    derivatives = [end(raw[2 * bins]) * slopes[0]]
    for k in range(1, bins):
        before, after, narrow, wide = slopes[k - 1], slopes[k], widths[k - 1], widths[k]
        mean = (wide * before + narrow * after) / (narrow + wide)
        derivatives.append(v.minimum(2.0 * v.minimum(before, after), mean))
    derivatives.append(end(raw[2 * bins + 1]) * slopes[-1])

    columns = (x_edges[:-1], widths, y_edges[:-1], heights, derivatives[:-1], derivatives[1:])
    chosen = [column[0] for column in columns]
    for k in range(1, bins):
        beyond = y >= y_edges[k]
        chosen = [v.select(beyond, c[k], old) for c, old in zip(columns, chosen, strict=True)]
    left, width, low, height, d0, d1 = chosen
    p, q = d0 * width / height, d1 * width / height
    a, b = p + q - 2.0, 3.0 - 2.0 * p - q
    target = v.maximum(v.minimum((y - low) / height, v.constant(1.0)), v.constant(0.0))
    t, below, above = target, v.constant(0.0), v.constant(1.0)
    for _ in range(ITERATIONS):
        rise = t * (p + t * (b + t * a))
        slope = p + t * (2.0 * b + 3.0 * a * t)
        below = v.select(rise <= target, t, below)
        above = v.select(rise >= target, t, above)
        step = t - (rise - target) / slope
        within = v.both(step >= below, step <= above)
        t = v.select(within, step, 0.5 * (below + above))
    return v.select(inside, left + width * t, position)
