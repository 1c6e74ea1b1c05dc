"""Compiled inner loops that draw the cells of a `SharedCells`, one shower after the other.

Every sum has its own order, whatever the batch, so that a shower has the same bits in each.
"""

import math

import numpy as np
from numba import njit

FAST = {"contract", "nsz"}  # products and sums in one instruction, in the order as written
ROOT = math.sqrt(2.0 / math.pi)

# exp(x) = 2^k exp(r): adding SHIFT leaves the whole number k in the lowest bits of a float64.
SHIFT = 1.5 * 2.0**52
LOG2_E, LN2_HIGH, LN2_LOW = (
    1.0 / math.log(2.0),
    6.93147180369123816490e-01,
    1.90821492927058770002e-10,
)
LARGEST = 700.0
COEFFICIENTS = tuple(1.0 / math.factorial(k) for k in range(13, -1, -1))


@njit(cache=True, fastmath=FAST)
def exponentials(x, bits, power):
    """x (n,) float64 to exp(x) in place, to a few units in the last place; `bits` and `power` are
    the same memory as int64 and float64. A loop without branches, which the compiler turns into
    vectors."""
    for i in range(len(x)):
        value = min(max(x[i], -LARGEST), LARGEST)
        power[i] = value * LOG2_E + SHIFT
        whole = power[i] - SHIFT
        rest = (value - whole * LN2_HIGH) - whole * LN2_LOW
        total = COEFFICIENTS[0]
        for coefficient in COEFFICIENTS[1:]:
            total = total * rest + coefficient
        x[i] = total
    for i in range(len(x)):
        bits[i] = (bits[i] + 1023) << 52
    for i in range(len(x)):
        x[i] *= power[i]


@njit(cache=True, fastmath=FAST)
def activate(h, wide, bits, power):
    """GELU (by tanh) of h (H,), in place."""
    for i in range(len(h)):
        x = np.float64(h[i])
        wide[i] = 2.0 * ROOT * (x + 0.044715 * x * x * x)
    exponentials(wide, bits, power)
    for i in range(len(h)):
        h[i] = np.float64(h[i]) * (1.0 - 1.0 / (wide[i] + 1.0))


@njit(cache=True, fastmath=FAST)
def add(h, weights, factor):
    """h += factor weights."""
    for i in range(len(h)):
        h[i] += factor * weights[i]


@njit(cache=True, fastmath=FAST)
def add_products(h, weights, x):
    """h += x weights, weights (inputs, outputs); several rows at a time spare reading h again."""
    whole = len(x) // 4 * 4
    for k in range(0, whole, 4):
        a, b, c, d = x[k], x[k + 1], x[k + 2], x[k + 3]
        for i in range(len(h)):
            total = h[i] + a * weights[k, i]
            total += b * weights[k + 1, i]
            total += c * weights[k + 2, i]
            h[i] = total + d * weights[k + 3, i]
    for k in range(whole, len(x)):
        add(h, weights[k], x[k])


@njit(cache=True, nogil=True, fastmath=FAST)
def draw_cells(
    conditions, random, found,
    static, neighbours, centres,
    of_seen, of_sums, of_conditions, hidden, hidden_bias, head, head_bias,
):  # fmt: skip
    """Fill found (N, n) with categories, from conditions (N, C) and uniform numbers (N, n).

    static (n, H): what the first layer makes of the features of a cell; of_seen (M, K, H): of a
    neighbour of each category; its weights of_sums (4, H) and of_conditions (C, H); hidden
    (L, H, H) and head (H, K) as (inputs, outputs).
    """
    cells, width = static.shape
    kinds = head.shape[1]
    kind = static.dtype.type
    one = kind(1)
    h, other = np.empty(width, static.dtype), np.empty(width, static.dtype)
    logits, weight = np.empty(kinds, static.dtype), np.empty(kinds)
    given, wide = np.empty(width, static.dtype), np.empty(width)
    bits = np.empty(max(width, kinds), np.int64)
    power = bits.view(np.float64)
    for shower in range(len(found)):
        own = found[shower]
        given[:] = 0
        for c in range(conditions.shape[1]):
            add(given, of_conditions[c], kind(conditions[shower, c]))
        energy, hits, eta, phi = 0.0, 0.0, 0.0, 0.0
        for cell in range(cells):
            for i in range(width):
                h[i] = static[cell, i] + given[i]
            for m in range(neighbours.shape[1]):
                place = neighbours[cell, m]
                if place < cells and own[place] > 0:
                    add(h, of_seen[m, own[place]], one)
            if energy > 0:
                add(h, of_sums[0], kind(2 * np.log1p(energy)))
                add(h, of_sums[1], kind(2 * np.log1p(hits)))
                add(h, of_sums[2], kind(np.arcsinh(20 * eta / energy)))
                add(h, of_sums[3], kind(np.arcsinh(20 * phi / energy)))
            for layer in range(len(hidden)):
                activate(h, wide, bits, power)
                other[:] = hidden_bias[layer]
                add_products(other, hidden[layer], h)
                h, other = other, h
            activate(h, wide, bits, power)
            logits[:] = head_bias
            add_products(logits, head, h)
            highest = logits.max()
            for i in range(kinds):
                weight[i] = np.float64(logits[i]) - np.float64(highest)
            exponentials(weight, bits, power)
            total = 0.0
            for i in range(kinds):
                total += weight[i]
                weight[i] = total
            level = random[shower, cell] * total
            category = 0
            while category < kinds - 1 and weight[category] <= level:
                category += 1
            own[cell] = category
            if category:
                square = float(category) * float(category)
                energy += square
                hits += 1.0
                eta += square * centres[cell, 0]
                phi += square * centres[cell, 1]
