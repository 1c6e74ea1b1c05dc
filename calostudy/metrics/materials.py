"""What the calorimeters are made of: radiation lengths, critical energy, Moliere radius.

Constants of materials are those of the Particle Data Group's table of atomic and nuclear properties
(https://pdg.lbl.gov/AtomicNuclearProperties); the stacks are those that the study simulates. Sums
over a stack follow the Review of Particle Physics, "Passage of particles through matter": radiation
and interaction lengths add up, and 1/R_M = (1/E_s) sum of w_j E_c,j / X_j with E_s = 21.2052 MeV.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calostudy.calorimeter import Calorimeter

SCALE_MEV = 21.2052  # m_e c^2 sqrt(4 pi / alpha)


@dataclass(frozen=True)
class Material:
    """Constants of a material; lengths in mm.

    x0: radiation length; critical: critical energy of electrons in MeV (Rossi's definition);
    nuclear, pion: interaction lengths of nucleons and of pions; ionisation: minimum dE/dx in
    MeV/mm.
    """

    x0: float
    critical: float
    nuclear: float
    pion: float | None
    ionisation: float


MATERIALS = {
    "Al": Material(88.97, 42.70, 397.0, 506.4, 0.4358),
    "Si": Material(93.70, 40.19, 465.2, None, 0.3876),
    "Fe": Material(17.57, 21.68, 167.7, 204.2, 1.143),
    "W": Material(3.504, 7.97, 99.46, 113.3, 2.210),
    "Pb": Material(5.612, 7.43, 175.9, 199.3, 1.274),
    "LAr": Material(140.0, 32.84, 857.7, 1067.0, 0.2105),
    "polystyrene": Material(413.1, 93.11, 771.0, None, 0.2052),
}

Plates = tuple[tuple[str, float], ...]
"""One period of a stack: (material, thickness in mm), the active material last."""

_CALOGAN: Plates = (("Pb", 2.0), ("LAr", 4.0))
_CYLINDER: Plates = (("W", 1.4), ("Si", 0.3))
_ACCORDION: Plates = (("Pb", 1.53), ("LAr", 4.2))
_TILE: Plates = (("Fe", 14.0), ("polystyrene", 3.0))
# without the copper of the readout, 0.8 X0 in all
_THIN: Plates = (("W", 2.1), ("Si", 0.525))
_THICK: Plates = (("W", 4.2), ("Si", 0.525))


@dataclass(frozen=True)
class Stack:
    """A calorimeter's materials along the shower axis.

    layers: for each layer id the period that fills it, ``default`` where none is given; front: what
    lies before the first layer; every_deposit: the cells hold what the absorber takes, too;
    electromagnetic: ids of the layers of the electromagnetic part, empty for all.
    """

    default: Plates
    layers: dict[int, Plates]
    front: Plates = ()
    every_deposit: bool = False
    electromagnetic: tuple[int, ...] = ()


_ATLAS = Stack(
    _ACCORDION,
    {0: (("LAr", 11.0),), **dict.fromkeys((12, 13, 14), _TILE)},
    front=(("Al", 107.0),),
    electromagnetic=(1, 2, 3),
)

STACKS: dict[str, Stack] = {
    "calogan": Stack(_CALOGAN, {}, every_deposit=True),
    "segmentations": Stack(_CALOGAN, {}, every_deposit=True),
    "ds1-photons": _ATLAS,
    "ds1-pions": _ATLAS,
    "ds2": Stack(_CYLINDER, {}),
    "ds3": Stack(_CYLINDER, {}),
    "ild": Stack(_THIN, dict.fromkeys(range(20, 30), _THICK)),
}
"""The stack of each calorimeter, by the calorimeter's name."""


def thickness(plates: Plates) -> float:
    """Thickness of a period in mm."""
    return sum(mm for _, mm in plates)


def radiation_lengths(plates: Plates) -> float:
    """Radiation lengths of a period.

    >>> round(90 * radiation_lengths(STACKS["ds2"].default), 1)  # CaloChallenge dataset 2
    36.2
    >>> round(80 * radiation_lengths(STACKS["calogan"].default), 1)
    30.8
    >>> [round(n * radiation_lengths(STACKS["ds1-pions"].default), 1) for n in (14, 53, 7)]
    [4.2, 16.0, 2.1]
    >>> round(radiation_lengths(STACKS["ds1-pions"].front), 2)
    1.2
    >>> round(20 * radiation_lengths(_THIN) + 10 * radiation_lengths(_THICK), 1)  # ILD-like
    24.1
    """
    return sum(mm / MATERIALS[name].x0 for name, mm in plates)


def critical_energy(plates: Plates) -> float:
    """Critical energy of a stack in MeV: the mean over its radiation lengths.

    >>> round(critical_energy((("W", 1.0),)), 2)
    7.97
    >>> round(critical_energy(STACKS["ds2"].default), 2), round(critical_energy(_CALOGAN), 2)
    (8.23, 9.32)
    """
    loss = sum(MATERIALS[name].critical * mm / MATERIALS[name].x0 for name, mm in plates)
    return loss / radiation_lengths(plates)


def moliere_radius(plates: Plates, period: float | None = None) -> float:
    """Moliere radius of a stack in mm; ``period`` is the pitch in mm where there are gaps.

    >>> round(moliere_radius((("Pb", 1.0),)), 1), round(moliere_radius((("W", 1.0),)), 2)
    (16.0, 9.32)
    >>> round(moliere_radius(STACKS["ds2"].default), 1), round(moliere_radius(_CALOGAN), 1)
    (10.9, 35.5)
    """
    length = period or thickness(plates)
    return SCALE_MEV * length / (critical_energy(plates) * radiation_lengths(plates))


def interaction_lengths(plates: Plates, kind: str = "nuclear") -> float:
    """Interaction lengths of a period, of nucleons ("nuclear") or of pions ("pion").

    >>> [round(80 * interaction_lengths(_CALOGAN, kind), 3) for kind in ("nuclear", "pion")]
    [1.283, 1.103]
    >>> [round(n * interaction_lengths(_TILE), 1) for n in (17, 47, 21)]
    [1.5, 4.1, 1.8]
    """
    return sum(mm / getattr(MATERIALS[name], kind) for name, mm in plates)


def sampled_fraction(plates: Plates) -> float:
    """Share of a minimum ionising particle's loss in the active material.

    >>> round(sampled_fraction(STACKS["ds2"].default), 3)
    0.036
    """
    losses = [MATERIALS[name].ionisation * mm for name, mm in plates]
    return losses[-1] / sum(losses)


def stochastic_term(plates: Plates) -> float:
    """Rule for the stochastic term, 2.7 % sqrt(d / f): d active mm, f `sampled_fraction`.

    R. Wigmans, Calorimetry, Oxford University Press; it describes sampling calorimeters with
    scintillator and liquid argon.

    >>> round(100 * stochastic_term(_ACCORDION), 1)
    9.9
    """
    return 0.027 * float(np.sqrt(plates[-1][1] / sampled_fraction(plates)))


def periods(calorimeter: Calorimeter) -> list[Plates]:
    """The period that fills each layer."""
    stack = STACKS[calorimeter.name]
    return [stack.layers.get(layer.id, stack.default) for layer in calorimeter.layers]


def layer_weights(calorimeter: Calorimeter) -> np.ndarray:
    """What a layer's energy stands for beside that of the default period, (layers,).

    Layers of the same materials with thicker absorbers sample less often: they count by their
    radiation lengths, as test beams of such calorimeters have it (arXiv:0811.2354). All others,
    and calorimeters whose stack is not known, count as they are.

    >>> from calostudy.calorimeter import calorimeter
    >>> layer_weights(calorimeter("ild"))[[0, 19, 20, 29]].round(2).tolist()
    [1.0, 1.0, 1.99, 1.99]
    >>> set(layer_weights(calorimeter("ds1-pions")).tolist())
    {1.0}
    """
    stack = STACKS.get(calorimeter.name)
    if stack is None:
        return np.ones(len(calorimeter.layers))
    names = [name for name, _ in stack.default]
    unit = radiation_lengths(stack.default)
    return np.array(
        [
            radiation_lengths(plates) / unit if [name for name, _ in plates] == names else 1.0
            for plates in periods(calorimeter)
        ]
    )


def electromagnetic(calorimeter: Calorimeter) -> np.ndarray:
    """Positions of the layers in which an electromagnetic shower develops."""
    chosen = STACKS[calorimeter.name].electromagnetic or calorimeter.layer_ids
    return np.array([i for i, layer in enumerate(calorimeter.layers) if layer.id in chosen])


def depths(calorimeter: Calorimeter) -> np.ndarray:
    """Where each layer begins and ends in radiation lengths, (layers, 2); gaps count nothing.

    >>> from calostudy.calorimeter import calorimeter
    >>> depths(calorimeter("calogan")).round(1).tolist()
    [[0.0, 5.8], [5.8, 28.0], [28.0, 30.8]]
    """
    lengths = [
        (layer.depth[1] - layer.depth[0]) / thickness(plates) * radiation_lengths(plates)
        for layer, plates in zip(calorimeter.layers, periods(calorimeter), strict=True)
    ]
    far = radiation_lengths(STACKS[calorimeter.name].front) + np.cumsum(lengths)
    return np.stack([far - lengths, far], axis=1)


def bulk(calorimeter: Calorimeter) -> tuple[Plates, float]:
    """All plates of the electromagnetic layers as one period, and its length in mm with gaps."""
    places = electromagnetic(calorimeter)
    amounts: dict[str, float] = {}
    for position in places:
        layer, plates = calorimeter.layers[position], periods(calorimeter)[position]
        repeats = (layer.depth[1] - layer.depth[0]) / thickness(plates)
        for name, mm in plates:
            amounts[name] = amounts.get(name, 0.0) + repeats * mm
    first, last = calorimeter.layers[places[0]], calorimeter.layers[places[-1]]
    return tuple(amounts.items()), last.depth[1] - first.depth[0]
