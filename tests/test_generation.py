"""Generated files are whole, repeatable, resumable, and what memory would have held."""

import numpy as np
import pytest

from calostudy import generation, models
from calostudy.datasets import dataset
from calostudy.errors import UsageError
from calostudy.generation import draw_energies, generate, generate_showers
from calostudy.models import caloflow
from calostudy.models.caloflow import LAYERS, VOXELS
from calostudy.showers import attributes, read


@pytest.fixture
def surrogate(monkeypatch):
    tiny = {
        LAYERS: caloflow.Structure(1, 8, 1, 0.0, tail_bound=6.0),
        VOXELS: caloflow.Structure(1, 8, 1, 0.0, degrees="spread", tail_bound=6.0),
    }
    monkeypatch.setitem(caloflow.STRUCTURE["embedded"], "calogan", tiny)
    monkeypatch.setattr(generation, "SHARD_BYTES", 4 * 504 * 10)  # ten showers per shard
    return models.build("caloflow-teacher", "calogan-eplus", "embedded")


def test_a_file_holds_the_showers_that_memory_would(surrogate, tmp_path):
    path = generate(surrogate, tmp_path / "a.h5", n=25, batch=4, seed=3, progress=False)
    energies = draw_energies(surrogate.dataset, 25, seed=3)
    memory = generate_showers(surrogate, energies, seed=3, batch=7, target="cpu-1/fp32")
    written = read(path, surrogate.dataset.calorimeter)
    np.testing.assert_array_equal(written.cells, memory.cells)
    np.testing.assert_allclose(written.incident_energy, energies, rtol=1e-15)
    assert not written.overflow.any()
    assert not path.with_name("a.h5.shards").exists()
    assert attributes(path)["generator"] == "caloflow-teacher"
    assert attributes(path)["weights_sha256"] == "untrained"


def test_an_interrupted_generation_goes_on_and_gives_the_same_file(
    surrogate, tmp_path, monkeypatch
):
    whole = generate(surrogate, tmp_path / "whole.h5", n=25, seed=1, progress=False)
    calls, sample = [], surrogate.sample

    def dying(*args, **kwargs):
        calls.append(kwargs["first"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sample(*args, **kwargs)

    monkeypatch.setattr(surrogate, "sample", dying)
    with pytest.raises(KeyboardInterrupt):
        generate(surrogate, tmp_path / "b.h5", n=25, seed=1, progress=False)
    assert not (tmp_path / "b.h5").exists()
    # the batch may change: the two shards that are there are not sampled again
    generate(surrogate, tmp_path / "b.h5", n=25, seed=1, batch=3, progress=False)
    assert calls[3:] == [20, 23]
    names = (whole, tmp_path / "b.h5")
    first, second = (read(path, surrogate.dataset.calorimeter) for path in names)
    np.testing.assert_array_equal(first.cells, second.cells)


def test_shards_of_another_seed_are_refused(surrogate, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "Writer", None)
    with pytest.raises(TypeError):  # everything is sampled, nothing merged
        generate(surrogate, tmp_path / "c.h5", n=5, seed=1, progress=False)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="seed"):
        generate(surrogate, tmp_path / "c.h5", n=5, seed=2, progress=False)


def test_given_energies_are_kept_in_order(surrogate, tmp_path):
    energies = np.array([5e4, 1e3, 7e4])
    path = generate(surrogate, tmp_path / "d.h5", energies=energies, progress=False)
    np.testing.assert_allclose(
        read(path, surrogate.dataset.calorimeter).incident_energy, energies, rtol=1e-15
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n": 3, "energies": np.ones(3)},
        {"n": 0},
        {"energies": np.array([1e3, -1.0])},
        {"energies": np.array([1e3, np.nan])},
        {"energies": np.ones((3, 1))},
        {"n": 3, "batch": 0},
        {"n": 3, "target": "abacus/fp32"},
        {"n": 3, "target": "cpu-1/bf16"},  # the sampler has no such precision
    ],
)
def test_impossible_requests_are_usage_errors(surrogate, tmp_path, options):
    with pytest.raises(UsageError):
        generate(surrogate, tmp_path / "e.h5", progress=False, **options)
    assert not (tmp_path / "e.h5").exists()


@pytest.mark.parametrize("name", ["calogan-eplus", "ds1-photons", "ds2"])
def test_drawn_energies_follow_the_law_and_not_their_number(name):
    entry = dataset(name)
    law = entry.twin_energies or entry.energies
    energies = draw_energies(entry, 100, seed=4)
    assert law.contains(energies).all()
    np.testing.assert_array_equal(draw_energies(entry, 10, seed=4), energies[:10])
    assert not np.array_equal(draw_energies(entry, 100, seed=5), energies)
