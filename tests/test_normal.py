"""The normal distribution by arithmetic is that of SciPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from calostudy.normal import ndtr, ndtri


def test_the_distribution_function_is_right_far_into_the_tail():
    x = torch.linspace(-37.0, 9.0, 20_001, dtype=torch.float64)
    np.testing.assert_allclose(ndtr(x), special.ndtr(x.numpy()), rtol=3e-13, atol=0)


def test_quantiles_are_right_wherever_a_random_number_falls():
    tail = torch.logspace(-300, -1, 2001, dtype=torch.float64)
    middle = torch.linspace(0.01, 1 - 1e-15, 9001, dtype=torch.float64)
    for probability in (tail, middle):
        expected = special.ndtri(probability.numpy())
        np.testing.assert_allclose(ndtri(probability), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(("probability", "x"), [(0.0, -np.inf), (1.0, np.inf), (0.5, 0.0)])
def test_the_ends_and_the_middle_are_what_they_are(probability, x):
    assert ndtri(torch.tensor(probability, dtype=torch.float64)).item() == x


@given(st.floats(-8.0, 8.0))
def test_one_is_the_inverse_of_the_other(x):
    found = ndtri(ndtr(torch.tensor(-abs(x), dtype=torch.float64))).item()
    assert found == pytest.approx(-abs(x), rel=1e-12, abs=1e-12)


def test_precision_stays_that_of_what_is_given():
    x = torch.tensor([-3.0, 0.2])
    assert ndtr(x).dtype == torch.float32
    torch.testing.assert_close(ndtr(x), torch.special.ndtr(x), rtol=3e-6, atol=0)
    torch.testing.assert_close(ndtri(ndtr(x)), x, rtol=1e-5, atol=1e-6)
