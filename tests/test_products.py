"""Products of matrices and functions of numbers that are the same for a shower in every batch."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calostudy import models
from calostudy.datasets import load
from calostudy.networks.products import activation, alike, by_products, each, product
from calostudy.networks.threads import side_by_side

pytestmark = pytest.mark.usefixtures("one_thread")


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.lists(st.integers(1, 40), max_size=2),
    st.integers(1, 700),
    st.integers(1, 300),
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_a_product_is_that_of_torch_and_has_the_same_bits_for_one(
    showers, places, inputs, outputs, biased, transposed, dtype
):
    torch.manual_seed(0)
    x = torch.randn(showers, *places, inputs, dtype=dtype)
    matrix = torch.randn(inputs, outputs, dtype=dtype)
    matrix = matrix.t().contiguous().t() if transposed else matrix
    bias = torch.randn(outputs, dtype=dtype) if biased else None
    with alike():
        found = product(x, matrix, bias)
        last = product(x[-1:].clone(), matrix, bias)
    expected = torch.nn.functional.linear(x, matrix.t(), bias)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(product(x, matrix, bias), expected, rtol=0, atol=0)
    assert torch.equal(found[-1:], last)


def test_functions_of_numbers_have_the_same_bits_for_one():
    x = 3.0 * torch.randn(7, 5, 11)
    with alike():
        for apply in (each, activation):
            found = apply(torch.nn.functional.silu, x)
            assert found.shape == x.shape
            for i in range(len(x)):
                assert torch.equal(found[i : i + 1], apply(torch.nn.functional.silu, x[i : i + 1]))


def test_a_network_by_products_says_the_same_of_the_same_weights():
    plain = torch.nn.Sequential(
        torch.nn.Linear(5, 21), torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Linear(21, 3))
    )
    x, expected = torch.randn(4, 5), plain(torch.ones(1, 5))
    said = plain(x)
    network = by_products(plain)
    torch.testing.assert_close(network(x), said)
    with alike():
        torch.testing.assert_close(network(torch.ones(1, 5)), expected)
        assert torch.equal(network(x)[2:3], network(x[2:3]))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_parts_are_made_side_by_side_in_their_order_and_threads_are_given_back(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made = side_by_side(lambda part: (part, torch.get_num_threads()), range(7))
        assert list(made) == [(part, 1) for part in range(7)]
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("flow-matching", "ds1-pions"),
        ("flow-matching", "ds3"),
        ("flow-matching", "calogan-eplus"),
        ("calodiffusion", "ds1-pions"),
        ("calodiffusion", "ds2"),
        ("caloscore", "ds1-photons"),
        ("caloscore", "ds1-pions"),
        ("caloscore", "ds2"),
    ],
)
def test_shipped_diffusions_make_the_same_showers_in_every_batch_on_any_number_of_threads(
    name, dataset
):
    surrogate = models.load(models.shipped_weights(name, dataset, "embedded"))
    energies = load(dataset, "evaluation", rows=slice(0, 11)).incident_energy
    before = torch.get_num_threads()
    made = []
    try:
        for threads, cuts in ((1, ()), (1, (1, 4)), (2, (2,)), (2, ())):
            torch.set_num_threads(threads)
            parts = [
                surrogate.sample(energies[a:b], seed=3, first=a, evaluations=2).cells
                for a, b in pairwise((0, *cuts, len(energies)))
            ]
            made.append(np.concatenate(parts))
    finally:
        torch.set_num_threads(before)
    for cells in made[1:]:
        np.testing.assert_array_equal(cells, made[0])
