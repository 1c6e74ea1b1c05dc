"""Between cell energies and the space in which a network works: every map with its inverse.

All functions are vectorised over showers, differentiable, keep the dtype of their input and take
torch tensors. Energies are in units of 100 GeV, the convention of CaloFlow (Krause & Shih,
arXiv:2106.05285 and arXiv:2110.11377; CaloChallenge version arXiv:2210.14245); `to_units` and
`to_mev` convert. Nothing here gives NaN for an empty layer or an empty shower: a fraction of
nothing is 0.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from calostudy.calorimeter import Calorimeter, Layer

UNIT = 1e5
"""MeV in one unit of energy (100 GeV)."""

KEV = 1e-3 / UNIT
"""1 keV in units of 100 GeV."""

ALPHA = 1e-6
"""How far the logit keeps away from 0 and 1."""

Slices = Sequence[slice]


def to_units(energy: Tensor) -> Tensor:
    """Energies in MeV, in units of 100 GeV."""
    return energy / UNIT


def to_mev(energy: Tensor) -> Tensor:
    """Energies in units of 100 GeV, in MeV: the inverse of `to_units`."""
    return energy * UNIT


def add_uniform_noise(
    cells: Tensor, width: float, generator: torch.Generator | None = None
) -> Tensor:
    """Cells (N, V) plus independent uniform noise in [0, width), drawn anew at every call.

    The noise turns the spike of empty cells into a density that a flow can fit. Its inverse is the
    dataset's threshold, which is at least as high as the noise.
    """
    noise = torch.rand(cells.shape, generator=generator, dtype=cells.dtype, device=cells.device)
    return cells + width * noise


def symmetries(calorimeter: Calorimeter) -> Tensor:
    """The symmetries of a calorimeter that is hit in its middle: indices (S, V).

    `cells[:, table[k]]` are the same showers mirrored in eta, in phi or in both (Cartesian), or
    turned by whole cells of every layer and mirrored (cylindrical); row 0 leaves them as they are.

    >>> from calostudy.calorimeter import calorimeter
    >>> [len(symmetries(calorimeter(name))) for name in ("calogan", "ds1-photons", "ds2")]
    [4, 20, 32]
    """
    layers = [
        (layer, torch.arange(place.start, place.stop).view(layer.shape))
        for layer, place in zip(calorimeter.layers, calorimeter.slices, strict=True)
    ]
    angles = [len(i) for layer, i in layers if layer.view == "cylindrical" and len(i) > 1]
    turns = math.gcd(*angles) or 1

    def turned(layer: Layer, index: Tensor, step: int, mirror: tuple[bool, bool]) -> Tensor:
        axes = [axis for axis in (0, 1) if mirror[axis]]
        if layer.view == "cylindrical":
            index = index.roll(step * len(index) // turns, 0) if len(index) > 1 else index
            axes = axes[:1]
        return index.flip(axes).flatten()

    polar = all(layer.view == "cylindrical" for layer, _ in layers)
    mirrors = [(False, False), (True, False)] + [(False, True), (True, True)] * (not polar)
    return torch.stack(
        [
            torch.cat([turned(*each, step, mirror) for each in layers])
            for mirror in mirrors
            for step in range(turns if polar else 1)
        ]
    )


def turn_at_random(cells: Tensor, table: Tensor) -> Tensor:
    """Each shower of cells (N, V) turned or mirrored by one of the rows of `symmetries`."""
    chosen = torch.randint(len(table), (len(cells),))
    return cells.gather(1, table[chosen])


def layer_sums(cells: Tensor, slices: Slices) -> Tensor:
    """The energy of each layer: cells (N, V) to (N, L)."""
    return torch.stack([cells[:, s].sum(dim=1) for s in slices], dim=1)


def normalise_layers(cells: Tensor, slices: Slices) -> Tensor:
    """Each cell (N, V) as its fraction of its layer's energy, in [0, 1]; an empty layer stays 0."""
    parts = []
    for s in slices:
        layer = cells[:, s]
        parts.append(_ratio(layer, layer.sum(dim=1, keepdim=True)))
    return torch.cat(parts, dim=1)


def scale_layers(fractions: Tensor, layer_energy: Tensor, slices: Slices) -> Tensor:
    """Cells (N, V) whose layers sum to `layer_energy` (N, L): the inverse of `normalise_layers`.

    What a flow samples sums to 1 only approximately and may be slightly negative, so that each
    layer is divided by the sum of its absolute values first.
    """
    parts = []
    for i, s in enumerate(slices):
        layer = fractions[:, s].abs()
        parts.append(_ratio(layer, layer.sum(dim=1, keepdim=True)) * layer_energy[:, i : i + 1])
    return torch.cat(parts, dim=1)


def share_out(shares: Tensor, energy: Tensor, threshold: float) -> Tensor:
    """Cells (N, V) of a layer that sum to its energy (N,) in proportion to shares (N, V) >= 0,
    with no cell but 0 below the threshold.

    The smallest cells are left out, as few as that takes; a layer below the threshold is empty.
    """
    ordered, places = shares.clamp_min(1e-30).sort(dim=1, descending=True, stable=True)
    sums = ordered.cumsum(dim=1)
    # The share of the k-th among the first k falls with k: those that are kept come first.
    kept = ordered * energy[:, None] >= threshold * sums
    whole = sums.gather(1, (kept.sum(dim=1, keepdim=True) - 1).clamp_min(0))
    cells = torch.where(kept, ordered * (energy[:, None] / whole), 0.0)
    return torch.zeros_like(shares).scatter(1, places, cells)


def energy_fractions(layer_energy: Tensor, incident_energy: Tensor, scale: float = 1.0) -> Tensor:
    """Layer energies (N, L) as the fractions u (N, L), each in [0, 1].

    u_0 = sum_i E_i / (scale * E_inc); u_{i+1} = E_i / sum_{j >= i} E_j for every layer but the last
    (arXiv:2106.05285, Eq. 8). `scale` is the largest E_dep / E_inc of the dataset; what lies above
    it is clamped to 1.
    """
    behind = layer_energy.flip(1).cumsum(1).flip(1)  # energy of this and all later layers
    u0 = _ratio(behind[:, :1], scale * incident_energy[:, None])
    return torch.cat([u0, _ratio(layer_energy, behind)[:, :-1]], dim=1).clamp(0.0, 1.0)


def energies_from_fractions(u: Tensor, incident_energy: Tensor, scale: float = 1.0) -> Tensor:
    """Layer energies (N, L) from the fractions u (N, L): the inverse of `energy_fractions`."""
    u = u.clamp(0.0, 1.0)
    remaining = u[:, 0] * scale * incident_energy
    energies = []
    for i in range(1, u.shape[1]):
        energies.append(u[:, i] * remaining)
        remaining = remaining * (1.0 - u[:, i])
    return torch.stack([*energies, remaining], dim=1)


def logit(x: Tensor, alpha: float = ALPHA) -> Tensor:
    """Fractions in [0, 1] on the real line: logit(alpha + (1 - 2 alpha) x)."""
    p = alpha + (1.0 - 2.0 * alpha) * x
    return p.log() - torch.log1p(-p)


def inverse_logit(y: Tensor, alpha: float = ALPHA) -> Tensor:
    """The inverse of `logit`; what lies beyond its range is clamped to [0, 1]."""
    return ((torch.sigmoid(y) - alpha) / (1.0 - 2.0 * alpha)).clamp(0.0, 1.0)


def standardise(values: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Values (N, D) with the mean (D,) taken off, divided by the standard deviation (D,)."""
    return (values - mean) / deviation


def unstandardise(values: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """The inverse of `standardise`."""
    return values * deviation + mean


def log_incident(incident_energy: Tensor, factor: float) -> Tensor:
    """The incident energy (N,) as a network's condition, log10(factor * E_inc)."""
    return (factor * incident_energy).log10()


def incident_from_log(condition: Tensor, factor: float) -> Tensor:
    """The inverse of `log_incident`."""
    return 10.0**condition / factor


def log_layers(layer_energy: Tensor, offset: float, floor: float = KEV) -> Tensor:
    """Layer energies (N, L) as conditions, log10(E_i + floor) + offset: finite for E_i = 0."""
    return (layer_energy + floor).log10() + offset


def layers_from_log(condition: Tensor, offset: float, floor: float = KEV) -> Tensor:
    """The inverse of `log_layers`."""
    return 10.0 ** (condition - offset) - floor


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 where the whole is 0."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1.0), 0.0)
