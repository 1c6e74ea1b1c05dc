"""Monotone rational quadratic splines on vectors: value, inverse and derivatives.

Each `emit` function writes straight-line code for one vector of elements (see `simd`); `raw` are
their unnormalised widths, heights and inner derivatives, `numbers` the scalars of
`SplineSettings.numbers` on all lanes.
"""


class Knots:
    """Softmax shares and positions of the knots of one axis."""

    def __init__(self, v, raw, minimum, bound):
        bins = len(raw)
        largest = raw[0]
        for other in raw[1:]:
            largest = v.maximum(largest, other)
        exponentials = [v.exp(r - largest) for r in raw]
        total = exponentials[0]
        for e in exponentials[1:]:
            total = total + e
        inverse = 1.0 / total
        self.shares = [e * inverse for e in exponentials]
        self.scale = v.constant(1.0) - minimum * float(bins)
        self.edges = [-bound]
        position, width = v.constant(0.0), bound + bound
        for share in self.shares[:-1]:
            position = position + v.fma(self.scale, share, minimum)
            self.edges.append(v.fma(width, position, -bound))
        self.edges.append(bound)

    def gradients(self, below, at, inside):
        """Derivatives with respect to the raw numbers, from those with respect to the left
        edge and the size of the chosen bin; `inside[k]` tells below, at or above bin k."""
        terms = [inside(k, below, at) for k in range(len(self.shares))]
        mean = self.shares[0] * terms[0]
        for share, term in zip(self.shares[1:], terms[1:], strict=True):
            mean = mean + share * term
        return [
            self.scale * share * (term - mean)
            for share, term in zip(self.shares, terms, strict=True)
        ]


class _Bin:
    """The bin that holds a position: its edges on both axes, its derivatives, its number."""

    def __init__(self, v, position, search, widths, heights, derivatives, edge):
        bins = len(widths.shares)
        derivatives = [edge, *derivatives, edge]
        self.number = v.constant(0.0)
        self.left, right = widths.edges[:2]
        self.low, high = heights.edges[:2]
        self.raw0, self.raw1 = derivatives[:2]
        for k in range(1, bins):
            beyond = position >= search.edges[k]
            self.number = v.select(beyond, float(k), self.number)
            self.left = v.select(beyond, widths.edges[k], self.left)
            right = v.select(beyond, widths.edges[k + 1], right)
            self.low = v.select(beyond, heights.edges[k], self.low)
            high = v.select(beyond, heights.edges[k + 1], high)
            self.raw0 = v.select(beyond, derivatives[k], self.raw0)
            self.raw1 = v.select(beyond, derivatives[k + 1], self.raw1)
        self.width, self.height = right - self.left, high - self.low
        self.slope = self.height / self.width


class _Spline:
    """Knots and bin of one vector of elements, in either direction."""

    def __init__(self, v, position, raw, bins, numbers, inverse):
        self.bound, min_width, min_height, self.min_derivative, edge = numbers
        self.inside = v.both(position >= -self.bound, position <= self.bound)
        self.position = v.maximum(v.minimum(position, self.bound), -self.bound)
        self.widths = Knots(v, raw[:bins], min_width, self.bound)
        self.heights = Knots(v, raw[bins : 2 * bins], min_height, self.bound)
        search = self.heights if inverse else self.widths
        self.bin = _Bin(v, self.position, search, self.widths, self.heights, raw[2 * bins :], edge)
        self.d0 = self.min_derivative + v.softplus(self.bin.raw0)
        self.d1 = self.min_derivative + v.softplus(self.bin.raw1)
        self.curvature = self.d0 + self.d1 - 2.0 * self.bin.slope


def emit_inverse(v, position, raw, bins, numbers):
    """Vector of x with spline(x) = position."""
    s = _Spline(v, position, raw, bins, numbers, inverse=True)
    chosen = s.bin
    rise = s.position - chosen.low
    b = chosen.height * s.d0 - rise * s.curvature
    a = rise * s.curvature + chosen.height * (chosen.slope - s.d0)
    c = -chosen.slope * rise
    # Rounding can push the discriminant of a monotone spline below zero; nflows aborts there.
    discriminant = v.maximum(b * b - 4.0 * a * c, v.constant(0.0))
    root = 2.0 * c / (-b - v.sqrt(discriminant))
    return v.select(s.inside, v.fma(root, chosen.width, chosen.left), position)


def emit_forward(v, position, raw, bins, numbers):
    """Vectors of spline(position) and of the logarithm of its derivative."""
    s = _Spline(v, position, raw, bins, numbers, inverse=False)
    chosen = s.bin
    theta = (s.position - chosen.left) / chosen.width
    rest = 1.0 - theta
    mixed = theta * rest
    denominator = chosen.slope + s.curvature * mixed
    rise = chosen.height * (chosen.slope * theta * theta + s.d0 * mixed) / denominator
    middle = s.d1 * theta * theta + 2.0 * chosen.slope * mixed + s.d0 * rest * rest
    ratio = chosen.slope / denominator
    log_derivative = v.log(ratio * ratio * middle)
    return (
        v.select(s.inside, chosen.low + rise, position),
        v.select(s.inside, log_derivative, 0.0),
    )


def emit_gradients(v, position, raw, bins, numbers, g_output, g_log):
    """Derivatives with respect to the position and to each raw parameter, from those with
    respect to the output and to the logarithm of the derivative."""
    s = _Spline(v, position, raw, bins, numbers, inverse=False)
    chosen, d0, d1, slope = s.bin, s.d0, s.d1, s.bin.slope
    g_outside = g_output
    g_output = v.select(s.inside, g_output, 0.0)
    g_log = v.select(s.inside, g_log, 0.0)

    inverse_width = 1.0 / chosen.width
    theta = (s.position - chosen.left) * inverse_width
    rest = 1.0 - theta
    mixed, square, tilt = theta * rest, theta * theta, rest - theta
    inverse_denominator = 1.0 / (slope + s.curvature * mixed)
    shape = slope * square + d0 * mixed
    middle = d1 * square + 2.0 * slope * mixed + d0 * rest * rest

    g_shape = g_output * chosen.height * inverse_denominator
    g_middle = g_log / middle
    g_denominator = -(g_shape * shape + 2.0 * g_log) * inverse_denominator
    g_slope = (
        g_shape * square
        + g_denominator * (1.0 - 2.0 * mixed)
        + 2.0 * g_middle * mixed
        + 2.0 * g_log / slope
    )
    g_theta = (
        g_shape * (2.0 * slope * theta + d0 * tilt)
        + g_denominator * s.curvature * tilt
        + 2.0 * g_middle * (d1 * theta + slope * tilt - d0 * rest)
    )
    g_d0 = (g_shape + g_denominator) * mixed + g_middle * rest * rest
    g_d1 = g_denominator * mixed + g_middle * square
    g_height = g_output * shape * inverse_denominator + g_slope * inverse_width
    g_position = g_theta * inverse_width
    g_width = -(g_slope * slope + g_theta * theta) * inverse_width

    def inside(k, below, at):
        return v.select(
            chosen.number > float(k), below, v.select(chosen.number >= float(k), at, 0.0)
        )

    span = s.bound + s.bound
    g_raw0 = g_d0 * v.sigmoid_of_softplus(chosen.raw0)
    g_raw1 = g_d1 * v.sigmoid_of_softplus(chosen.raw1)
    gradients = s.widths.gradients(-g_position * span, g_width * span, inside)
    gradients += s.heights.gradients(g_output * span, g_height * span, inside)
    for k in range(1, bins):  # the derivative at knot k closes bin k-1 and opens bin k
        gradients.append(
            v.select(
                chosen.number.equals(float(k)),
                g_raw0,
                v.select(chosen.number.equals(float(k - 1)), g_raw1, 0.0),
            )
        )
    return v.select(s.inside, g_position, g_outside), gradients
