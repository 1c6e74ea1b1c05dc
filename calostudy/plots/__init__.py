"""Figures of the study. Nothing is measured here: a function takes showers or results and draws.

Geant4 is always the filled grey histogram or dark points, a surrogate a coloured line.
"""

from calostudy.plots import evaluation
from calostudy.plots.answers import (
    accuracy_against_speed_up,
    accuracy_of_all,
    speed_up_of_all,
)
from calostudy.plots.comparison import (
    cell_spectrum,
    energy_response,
    incident_energies,
    layer_energies,
    observable_grid,
    ratio_grid,
    ratio_panel,
    response_by_energy,
)
from calostudy.plots.diagnosis import importance_images, layer_shares
from calostudy.plots.displays import event_displays, gallery, layer_images
from calostudy.plots.evaluations import quality_by_evaluations
from calostudy.plots.forms import moved_showers, point_cloud, segmentation_images
from calostudy.plots.geometry import front_view, in_space
from calostudy.plots.growth import speed_up_against_energy, time_against_cells
from calostudy.plots.leaderboard import quality_against_time
from calostudy.plots.learning import learning_curve
from calostudy.plots.physics import (
    lateral_profile,
    layers_beside,
    longitudinal_profile,
    occupancy,
    response_against_energy,
    shower_maximum,
)
from calostudy.plots.power import (
    defect_picture,
    power_by_showers,
    power_by_strength,
    seen_matrix,
)
from calostudy.plots.precisions import quality_by_format
from calostudy.plots.ranking import cross_check, log_posteriors, time_against_log_posterior
from calostudy.plots.relative import times_over_reference
from calostudy.plots.results import (
    loss_curve,
    score_bars,
    significance_by_energy,
    speed_up_bars,
    time_against_energy,
    times_by_batch,
)
from calostudy.plots.segmentations import (
    average_images,
    distances_by_size,
    means_by_size,
    transition_profile,
    value_panels,
)
from calostudy.plots.student import learning_rates, time_profile, times_by_energy
from calostudy.plots.style import COLOURS, GEANT4, SURROGATE, THIRD, use_style
from calostudy.plots.turning import TurningShowers, turning_showers

__all__ = [
    "COLOURS",
    "GEANT4",
    "SURROGATE",
    "THIRD",
    "TurningShowers",
    "accuracy_against_speed_up",
    "accuracy_of_all",
    "average_images",
    "cell_spectrum",
    "cross_check",
    "defect_picture",
    "distances_by_size",
    "energy_response",
    "evaluation",
    "event_displays",
    "front_view",
    "gallery",
    "importance_images",
    "in_space",
    "incident_energies",
    "lateral_profile",
    "layer_energies",
    "layer_images",
    "layer_shares",
    "layers_beside",
    "learning_curve",
    "learning_rates",
    "log_posteriors",
    "longitudinal_profile",
    "loss_curve",
    "means_by_size",
    "moved_showers",
    "observable_grid",
    "occupancy",
    "point_cloud",
    "power_by_showers",
    "power_by_strength",
    "quality_against_time",
    "quality_by_evaluations",
    "quality_by_format",
    "ratio_grid",
    "ratio_panel",
    "response_against_energy",
    "response_by_energy",
    "score_bars",
    "seen_matrix",
    "segmentation_images",
    "shower_maximum",
    "significance_by_energy",
    "speed_up_against_energy",
    "speed_up_bars",
    "speed_up_of_all",
    "time_against_cells",
    "time_against_energy",
    "time_against_log_posterior",
    "time_profile",
    "times_by_batch",
    "times_by_energy",
    "times_over_reference",
    "transition_profile",
    "turning_showers",
    "use_style",
    "value_panels",
]
