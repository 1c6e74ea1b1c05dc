"""Every figure of the dataset page can be drawn of any showers."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from toy_showers import toy_showers

from calostudy import plots
from calostudy.datasets import dataset
from calostudy.metrics.published import ild_layers
from calostudy.showers import Showers


@pytest.fixture(autouse=True)
def drawn_small():
    plots.use_style()
    with plt.rc_context({"figure.dpi": 25}):
        yield
    plt.close("all")


def single_energy(name: str, n: int) -> Showers:
    showers = toy_showers(name, n, seed=1)
    return Showers(showers.calorimeter, np.full(n, 65e3), showers.cells)


PAGE = {
    "in_space": lambda samples, entry: plots.in_space(entry.calorimeter),
    "front_view": lambda samples, entry: plots.front_view(entry.calorimeter),
    "incident_energies": lambda samples, entry: plots.incident_energies(samples),
    "event_displays": lambda samples, entry: plots.event_displays(samples["twin"], [0, 1]),
    "layer_images": lambda samples, entry: plots.layer_images(samples),
    "layer_energies": lambda samples, entry: plots.layer_energies(samples),
    "response_by_energy": lambda samples, entry: plots.response_by_energy(samples),
    "response_against_energy": lambda samples, entry: plots.response_against_energy(samples),
    "longitudinal_profile": lambda samples, entry: plots.longitudinal_profile(samples),
    "shower_maximum": lambda samples, entry: plots.shower_maximum(samples, entry.particle),
    "lateral_profile": lambda samples, entry: plots.lateral_profile(samples),
    "occupancy": lambda samples, entry: plots.occupancy(samples, entry.threshold),
    "cell_spectrum": lambda samples, entry: plots.cell_spectrum(samples, entry.threshold),
}


@pytest.mark.parametrize("name", ["ds1-photons", "ds2", "ild-photons", "segmentations"])
@pytest.mark.parametrize("figure", PAGE)
def test_a_figure_of_the_page_is_drawn_for_any_calorimeter(figure, name):
    samples = {"twin": toy_showers(name, 60, seed=1)}
    drawn = PAGE[figure](samples, dataset(name))
    drawn.canvas.draw()
    assert any(axis.has_data() or axis.collections for axis in drawn.axes)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("figure", PAGE)
def test_a_figure_of_the_page_stands_one_incident_energy(figure):
    drawn = PAGE[figure]({"twin": single_energy("calogan-gamma", 8)}, dataset("calogan-gamma"))
    drawn.canvas.draw()
    assert drawn.axes


@pytest.mark.parametrize("figure", ["layer_energies", "response_by_energy", "lateral_profile"])
def test_two_samples_share_a_figure(figure):
    samples = {"twin": toy_showers("ds2", 60, 1), "surrogate": toy_showers("ds2", 60, 2)}
    drawn = PAGE[figure](samples, dataset("ds2"))
    labels = [text for axis in drawn.axes for text in axis.get_legend_handles_labels()[1]]
    assert {"twin", "surrogate"} <= set(labels)


def test_a_ratio_says_of_what_and_to_what():
    samples = {"twin": toy_showers("ds2", 60, 1), "surrogate": toy_showers("ds2", 60, 2)}
    ratios = plots.layer_energies(samples).axes[1::2]
    assert [axis.get_ylabel() for axis in ratios] == ["/ twin"] * 8
    assert all(axis.get_xlabel().endswith("[MeV]") for axis in ratios)
    assert {axis.get_ylim() for axis in ratios} == {(0.5, 1.5)}


def test_a_calorimeter_in_space_shows_every_layer_but_not_every_border():
    light = plots.in_space(dataset("ds3").calorimeter)
    segments = sum(
        len(c._segments3d) for c in light.axes[0].collections if hasattr(c, "_segments3d")
    )
    assert "45 layers, 40,500 cells" in light.axes[0].get_title()
    assert 2 * 45 <= segments < 400


def test_pions_have_no_electromagnetic_shower_maximum():
    assert plots.shower_maximum({"twin": toy_showers("calogan-piplus", 40, 1)}, "pi+") is None


def test_at_most_eight_layers_of_a_deep_calorimeter_are_shown():
    drawn = plots.layer_energies({"twin": toy_showers("ds2", 30, 1)})
    titles = [axis.get_xlabel() for axis in drawn.axes]
    assert len(titles) == len(set(titles)) == 8


def test_each_discrete_energy_has_a_panel():
    showers = toy_showers("ds1-photons", 400, 1)
    _, counts = np.unique(showers.incident_energy, return_counts=True)
    drawn = plots.response_by_energy({"twin": showers})
    assert len(drawn.axes) == 1 + np.count_nonzero(counts >= 5)


def test_layers_stand_beside_the_published_ones():
    compared = ild_layers(toy_showers("ild-photons", 20, 1))
    drawn = plots.layers_beside(compared, "twin")
    drawn.canvas.draw()
    assert compared.source in drawn.axes[0].get_legend_handles_labels()[1]


def test_times_of_one_energy_are_a_histogram():
    drawn = plots.time_against_energy(np.full(30, 65.0), np.linspace(400, 600, 30), None, "twin")
    assert "65 GeV" in drawn.axes[0].get_xlabel()
    assert drawn.axes[0].get_ylabel() == "showers"


def test_a_loss_curve_marks_the_epoch_that_was_kept():
    losses, scores = [1.0, 0.5, 0.7, 0.9], [4.0, 3.0, 1.0, 2.0]
    epochs = [
        {"epoch": i, "train_loss": loss, "validation_loss": loss, "energy_score": score}
        for i, (loss, score) in enumerate(zip(losses, scores, strict=True), 1)
    ]
    plain = [{k: v for k, v in line.items() if k != "energy_score"} for line in epochs]
    axes = plots.loss_curve({"gan": epochs, "flow": plain}).axes
    kept = [
        next(line.get_xdata()[0] for line in axis.get_lines() if line.get_label() == "weights kept")
        for axis in axes[:2]
    ]
    assert kept == [3, 2]
    assert axes[2].get_ylabel() == "energy score" and len(axes) == 3
    labels = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert labels == ["training", "validation", "weights kept", "energy score"]
