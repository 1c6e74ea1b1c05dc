"""Calorimeters: the binning of the public data sets, in both views, in the order of the files."""

import numpy as np
import pytest

from calostudy.calorimeter import CALORIMETERS, calorimeter
from calostudy.errors import UsageError

SIZES = {
    "ds1-photons": (368, (0, 1, 2, 3, 12)),
    "ds1-pions": (533, (0, 1, 2, 3, 12, 13, 14)),
    "ds2": (6480, tuple(range(45))),
    "ds3": (40500, tuple(range(45))),
    "calogan": (504, (0, 1, 2)),
    "ild": (27000, tuple(range(30))),
    "segmentations": (12096, (0, 1, 2)),
}


@pytest.fixture(params=CALORIMETERS)
def any_calorimeter(request):
    return calorimeter(request.param)


def test_sizes_and_layer_numbers_are_the_public_ones(any_calorimeter):
    cells, ids = SIZES[any_calorimeter.name]
    assert any_calorimeter.cells == cells
    assert any_calorimeter.layer_ids == ids


def test_layer_shapes_are_the_public_ones():
    def shapes(name):
        return [layer.shape for layer in calorimeter(name).layers]

    assert shapes("ds1-photons") == [(1, 8), (10, 16), (10, 19), (1, 5), (1, 5)]
    assert shapes("ds1-pions") == [
        (1, 8),
        (10, 10),
        (10, 10),
        (1, 5),
        (10, 15),
        (10, 16),
        (1, 10),
    ]
    assert shapes("calogan") == [(3, 96), (12, 12), (12, 6)]
    assert calorimeter("ds2").shape == (45, 16, 9)
    assert calorimeter("ds3").shape == (45, 50, 18)
    assert calorimeter("ds1-photons").shape is None


def test_slices_tile_the_cells_and_agree_with_layer_index(any_calorimeter):
    index = np.full(any_calorimeter.cells, -1)
    for i, place in enumerate(any_calorimeter.slices):
        assert (index[place] == -1).all()
        index[place] = i
    np.testing.assert_array_equal(index, any_calorimeter.layer_index)


def test_both_views_describe_the_same_points(any_calorimeter):
    c = any_calorimeter
    np.testing.assert_allclose(np.hypot(c.eta, c.phi), c.r, rtol=1e-12)
    np.testing.assert_allclose(c.r * np.cos(c.alpha), c.eta, atol=1e-9)
    np.testing.assert_allclose(c.r * np.sin(c.alpha), c.phi, atol=1e-9)
    assert (np.abs(c.alpha) <= np.pi).all()


def test_cells_of_a_layer_add_up_to_its_area(any_calorimeter):
    for layer in any_calorimeter.layers:
        slow, fast = layer.edges
        area = np.pi * (fast[-1] ** 2 - fast[0] ** 2)
        if layer.view == "cartesian":
            area = (slow[-1] - slow[0]) * (fast[-1] - fast[0])
        assert layer.size.sum() == pytest.approx(area)
        assert (layer.size > 0).all()


def test_r_runs_fastest_then_alpha_then_layer():
    c = calorimeter("ds2")
    layer, alpha, r = 7, 3, 5
    flat = c.slices[layer].start + alpha * 9 + r
    assert c.layer_index[flat] == layer
    assert c.r[flat] == pytest.approx(4.65 * (r + 0.5))
    assert c.alpha[flat] == pytest.approx(-np.pi + (alpha + 0.5) * 2 * np.pi / 16)


def test_radial_centres_are_plain_middles_of_unequal_bins():
    layer = calorimeter("ds1-pions").layers[1]
    np.testing.assert_allclose(layer.r[:4], [0.5, 2.5, 5.5, 8.5])
    assert layer.axes == ("alpha", "r")


def test_calogan_cells_are_where_the_detector_has_them():
    first, second, third = calorimeter("calogan").layers
    np.testing.assert_allclose(np.unique(first.eta), [-160, 0, 160])
    np.testing.assert_allclose(first.phi[:3], [-237.5, -232.5, -227.5])
    np.testing.assert_allclose(np.unique(second.size), 40.0 * 40.0)
    np.testing.assert_allclose(np.unique(third.size), 40.0 * 80.0)
    assert [layer.depth for layer in (first, second, third)] == [(0, 90), (90, 437), (437, 480)]


def test_depth_is_given_where_it_is_known():
    layers = calorimeter("ds3").layers
    assert layers[0].depth == (0.0, 3.4)
    assert layers[44].depth == pytest.approx((149.6, 153.0))


def test_ds1_layers_lie_behind_each_other():
    for name in ("ds1-photons", "ds1-pions"):
        near, far = np.array([layer.depth for layer in calorimeter(name).layers]).T
        np.testing.assert_allclose(near[1:], far[:-1])
        # 14, 53 and 7 pairs of 1.53 mm lead and 4.2 mm argon
        np.testing.assert_allclose((far - near)[1:4], np.array([14, 53, 7]) * 5.73)


def test_ild_has_half_its_layers_behind_twice_the_tungsten():
    layers = calorimeter("ild").layers
    thickness = [far - near for near, far in (layer.depth for layer in layers)]
    np.testing.assert_allclose(thickness[:20], 2.1 + 0.525)
    np.testing.assert_allclose(thickness[20:], 4.2 + 0.525)
    np.testing.assert_allclose(layers[0].size, 5.0883**2, rtol=1e-4)


def test_rings_have_no_second_dimension():
    found = [layer.two_dimensional for layer in calorimeter("ds1-photons").layers]
    assert found == [False, True, True, False, False]


def test_layer_energies_sum_the_right_cells_in_double_precision(any_calorimeter):
    c = any_calorimeter
    cells = np.random.default_rng(1).random((3, c.cells)).astype(np.float32)
    energies = c.layer_energies(cells)
    expected = [
        np.bincount(c.layer_index, weights=row.astype(np.float64), minlength=len(c.layers))
        for row in cells
    ]
    assert energies.dtype == np.float64
    np.testing.assert_allclose(energies, expected, rtol=1e-12)


def test_layer_energies_refuse_another_calorimeters_cells():
    with pytest.raises(UsageError, match="504"):
        calorimeter("calogan").layer_energies(np.zeros((2, 368)))


def test_shared_arrays_cannot_be_changed(any_calorimeter):
    with pytest.raises(ValueError, match="read-only"):
        any_calorimeter.eta[0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        any_calorimeter.layers[0].edges[0][0] = 1.0


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match="ds1-photons"):
        calorimeter("ds4")
