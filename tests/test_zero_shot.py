"""Distances on many segmentations, and the walk that shows them."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from calostudy import models, plots
from calostudy.datasets import load
from calostudy.errors import UsageError
from calostudy.metrics.measurement import Options
from calostudy.models import dd_arm
from calostudy.networks.autoregressive import SharedStructure
from calostudy.segmentations import INNER, MIDDLE, resegment
from calostudy.walks import SegmentationsWalk
from calostudy.walks import segmentations as walk_module
from calostudy.walks.segmentations import FLOOR, GEANT4
from calostudy.zero_shot import GROUPS, LAYERS, PAIRS, distances, mean_distance, quantities

OPTIONS = Options(replicas=30)
PAIR = (48, 4), (36, 48)


def sample(split="evaluation", n=60):
    return resegment(load("segmentations", split, rows=slice(0, n)), *PAIR)


def test_pairs_have_every_size_and_the_paper_s_two():
    inner, middle = zip(*PAIRS, strict=True)
    assert sorted(inner) == sorted(INNER) and sorted(middle) == sorted(2 * MIDDLE)
    assert {((48, 12), (12, 12)), ((48, 4), (36, 48))} <= set(PAIRS)


def test_quantities_are_those_of_the_cells_above_the_threshold():
    own = sample()
    found = quantities(own, 0.5)
    cells = np.where(own.cells < 0.5, 0, own.cells)[:, own.calorimeter.slices[1]]
    np.testing.assert_allclose(found["energy/1"], cells.sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(found["hits/1"], (cells > 0).sum(axis=1))
    mean = cells @ own.calorimeter.layers[1].eta / cells.sum(axis=1)
    np.testing.assert_allclose(found["mean_eta/1"], mean, atol=1e-3)


def test_a_shift_is_its_size_in_standard_deviations_and_the_floor_is_small():
    reference, other = (quantities(sample(split), 0.5) for split in ("evaluation", "train"))
    spread = reference["energy/1"].std()
    shifted = {**reference, "energy/1": reference["energy/1"] + 3 * spread}
    found = distances({PAIR: {"a": reference, "b": shifted, "c": other}}, OPTIONS)
    value, error = mean_distance(found, "b", "middle", "energy", (PAIR[1],))
    assert value == pytest.approx(3.0) and 0.05 < error < 0.5
    for group in GROUPS:
        assert mean_distance(found, "c", "middle", group, (PAIR[1],))[0] < 0.6
        assert mean_distance(found, "b", "inner", group, (PAIR[0],))[0] == pytest.approx(0)


def test_a_size_of_several_pairs_has_their_mean():
    reference = quantities(sample(), 0.5)
    samples = {}
    for inner, shift in (((48, 4), 1.0), ((48, 12), 2.0)):
        moved = {**reference, "hits/1": reference["hits/1"] + shift * reference["hits/1"].std()}
        samples[inner, (36, 48)] = {"a": reference, "b": moved}
    found = distances(samples, OPTIONS)
    assert mean_distance(found, "b", "middle", "hits", ((36, 48),))[0] == pytest.approx(1.5)


def test_quantities_that_no_shower_has_have_no_distance():
    reference = quantities(sample(), 0.5)
    nothing = {**reference, "width_eta/1": np.full(60, np.nan)}
    found = distances({PAIR: {"a": reference, "b": nothing}}, OPTIONS)
    assert np.isnan(mean_distance(found, "b", "middle", "widths", (PAIR[1],))[0])


def test_the_shipped_network_makes_inner_layers_of_sizes_that_it_has_not_seen():
    pair = (192, 24), (36, 48)
    assert pair[0] in dd_arm.LEFT_OUT["inner"]
    geant4 = load("segmentations", "evaluation", rows=slice(0, 150))
    surrogate = models.load(models.shipped_weights("dd-arm", "segmentations", "embedded"))
    generated = surrogate.sample(geant4.incident_energy, seed=4, segmentation=pair)
    samples = {"Geant4": quantities(resegment(geant4, *pair), 0.5)}
    samples["dd-arm"] = quantities(generated, 0.5)
    found = distances({pair: samples}, OPTIONS)
    for group in GROUPS:
        assert mean_distance(found, "dd-arm", "inner", group, (pair[0],))[0] < 0.5
        assert mean_distance(found, "dd-arm", "middle", group, (pair[1],))[0] < 1.5


@pytest.fixture
def walk(monkeypatch, tmp_path):
    """The walk with untrained networks, on two segmentations."""
    monkeypatch.setattr(dd_arm, "STRUCTURE", dict.fromkeys(dd_arm.LAYERS, SharedStructure(2, 8)))
    monkeypatch.setattr(walk_module, "PAIRS", (((48, 4), (36, 48)), ((48, 12), (12, 12))))
    own = {name: models.build(name, "segmentations") for name in ("dd-arm", "dd-arm-unaware")}
    for name, surrogate in own.items():
        surrogate.save(tmp_path / name)
    monkeypatch.setattr(walk_module, "shipped_weights", lambda name, *_: tmp_path / name)
    return SegmentationsWalk(n=50, replicas=4, results=str(tmp_path))


def test_the_walk_compares_like_with_like(walk):
    for pair, samples in walk.showers.items():
        assert list(samples) == [GEANT4, "dd-arm", "dd-arm-unaware", FLOOR]
        sizes = {each.calorimeter.layers[1].shape for each in samples.values()}
        assert sizes == {pair[1]} and {len(each) for each in samples.values()} == {50}
        assert not np.array_equal(samples[GEANT4].cells, samples[FLOOR].cells)
    untrained, floor = (
        mean_distance(walk.distances, name, "middle", "hits", ((36, 48),))[0]
        for name in ("dd-arm", FLOOR)
    )
    assert untrained > 5 * floor
    assert "48 x 24" in walk.introduction()


def test_its_figures_show_all_samples(walk):
    pair = (48, 4), (36, 48)
    figures = [
        plots.average_images([("36 x 48", 1, walk.drawn(pair))]),
        plots.transition_profile(walk.drawn(pair), 1),
        plots.value_panels([(walk.values(pair, "distance_eta/0-1"), "distance")]),
        plots.distances_by_size(walk.distances, list(GROUPS), LAYERS, dd_arm.LEFT_OUT, FLOOR),
        plots.means_by_size(
            {"width": [("36 x 48", walk.values(pair, "width_eta/1"))]}, {"width": {"36 x 48"}}
        ),
    ]
    assert [len(figure.axes) for figure in figures] == [4, 2, 2, 12, 1]
    steps = figures[1].axes[1].patches
    assert len(steps) == 3 and len(steps[0].get_data().values) == 36
    plt.close("all")


@pytest.mark.parametrize(("parameter", "value"), [("models", "caloinn"), ("n", 3), ("n", 5000)])
def test_impossible_parameters_are_usage_errors(parameter, value):
    with pytest.raises(UsageError, match=parameter):
        SegmentationsWalk(**{parameter: value})


def test_other_datasets_have_no_such_weights():
    with pytest.raises(UsageError, match="no weights of dd-arm"):
        _ = SegmentationsWalk(dataset="ds2").surrogates
