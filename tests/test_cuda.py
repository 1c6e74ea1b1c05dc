"""On a GPU the same seed makes the same showers as on the CPU, but for rounding.

Needs a GPU. In single precision a few cells are on the other side of the threshold, and what a
flow draws at a steep place of its splines differs in the third digit.
"""

import numpy as np
import pytest
import torch

from calostudy.generation import draw_energies, generate_showers
from calostudy.models import MODELS, build, load, shipped_weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CASES = [
    (name, dataset)
    for name, family in MODELS.items()
    for dataset in family.datasets
    if "cuda" in family.runs_on
    if shipped_weights(name, dataset, "embedded") or dataset == family.datasets[0]
]


@pytest.mark.parametrize("name, dataset", CASES, ids=["-".join(case) for case in CASES])
def test_showers_are_those_of_the_cpu(name, dataset):
    weights = shipped_weights(name, dataset, "embedded")
    surrogate = load(weights) if weights else build(name, dataset)
    energies = draw_energies(surrogate.dataset, 3, 1)
    found = generate_showers(surrogate, energies, seed=1, target="cuda/fp64").cells
    wanted = generate_showers(surrogate, energies, seed=1, target="cpu-1/fp64").cells
    near = np.isclose(found, wanted, rtol=1e-4, atol=1e-3 * surrogate.dataset.threshold)
    assert near.mean() > 0.999
    totals = found.sum(axis=1), wanted.sum(axis=1)
    np.testing.assert_allclose(*totals, rtol=1e-3)
