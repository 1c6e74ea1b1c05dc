"""What pages share: showers and measurements are made once, and only once for the same choices."""

import numpy as np
import pytest

from calostudy.generation import generate_showers
from calostudy.models import build
from calostudy.walks import shared
from calostudy.walks.shared import shared_showers

ENERGIES = np.linspace(2e3, 90e3, 7)


@pytest.fixture
def surrogate():
    return build("caloflow-teacher", "calogan-eplus", "embedded", seed=3)


@pytest.fixture
def made(monkeypatch):
    """The numbers of the first showers of the blocks that were generated."""
    firsts = []

    def counted(*arguments, **options):
        firsts.append(options["first"])
        return generate_showers(*arguments, **options)

    monkeypatch.setattr(shared, "BLOCK", 3)
    monkeypatch.setattr(shared, "generate_showers", counted)
    return firsts


def test_blocks_are_the_showers_of_one_call_and_are_made_once(surrogate, made, tmp_path):
    whole = generate_showers(surrogate, ENERGIES, seed=5)
    for _ in range(2):
        found = shared_showers(surrogate, ENERGIES, 5, tmp_path)
        np.testing.assert_array_equal(found.incident_energy, whole.incident_energy)
        np.testing.assert_allclose(found.cells, whole.cells, rtol=1e-5, atol=1e-6)
    assert made == [0, 3, 6]


def test_a_smaller_sample_shares_the_blocks_of_a_larger_one(surrogate, made, tmp_path):
    larger = shared_showers(surrogate, ENERGIES, 5, tmp_path)
    smaller = shared_showers(surrogate, ENERGIES[:6], 5, tmp_path)
    np.testing.assert_array_equal(smaller.cells, larger.cells[:6])
    assert made == [0, 3, 6]


def test_another_seed_other_energies_and_other_weights_are_made_anew(surrogate, made, tmp_path):
    first = shared_showers(surrogate, ENERGIES[:3], 5, tmp_path)
    other = build("caloflow-teacher", "calogan-eplus", "embedded", seed=4)
    for found in (
        shared_showers(surrogate, ENERGIES[:3], 6, tmp_path),
        shared_showers(surrogate, ENERGIES[:3] * 1.01, 5, tmp_path),
        shared_showers(other, ENERGIES[:3], 5, tmp_path),
    ):
        assert not np.array_equal(found.cells, first.cells)
    assert made == [0, 0, 0, 0]


def test_a_broken_file_is_made_anew(surrogate, made, tmp_path):
    first = shared_showers(surrogate, ENERGIES[:3], 5, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(
        shared_showers(surrogate, ENERGIES[:3], 5, tmp_path).cells, first.cells
    )
    assert made == [0, 0]
