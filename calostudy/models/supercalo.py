"""SuperCalo: a coarse shower by one flow, its cells by another, ten at a time.

Pang, Raine & Shih (arXiv:2308.11700), on dataset 2. Five layers and two angles are merged: of
45 x 16 x 9 cells 9 x 8 x 9 coarse ones are left. Flow-1 learns the energies of the layers as in
iCaloFlow, flow-2 the coarse cells given the energies of the nine groups of layers, and the third
flow how each coarse cell is spread over its ten cells, given its energy, those of its neighbours
and of its five layers, and where it is. The third is applied to all coarse cells alike, and to each
by itself: their cells know of each other through the coarse shower only. All are masked
autoregressive flows with rational-quadratic splines.

Size `paper` has the published structure and number of parameters.

Size `embedded` is small enough to be trained in a minute on one processor core, and no published
configuration. Its maps are those of the embedded iCaloFlow, the coarse cells of a group of layers
are scaled to its energy, hidden units have their degrees spread over all numbers, splines begin as
the identity, showers are turned and mirrored at random while training, and each gives the third
flow some of its coarse cells that are hit.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from nflows.flows import Flow
from torch import Tensor

from calostudy import preprocessing as pre
from calostudy.devices import table_property
from calostudy.models.caloflow import Inverse
from calostudy.models.icaloflow import (
    LAYERS,
    Fractions,
    ICaloFlowTeacher,
    Logarithms,
    Structure,
)
from calostudy.models.surrogate import ON_CPU, TrainingRecipe
from calostudy.networks.flows import begin_at_identity, maf_flow
from calostudy.samplers.noise import normal, uniform

COARSE, FINE = "flow-2", "supercalo-a"

MERGED = (5, 2)
"""Layers and angles that become one."""

_BLUR = 1  # stream of the noise on the third flow's conditions


class Published(Fractions):
    """The published maps. Energies in MeV."""

    coarse_maximum = 28048.0
    fine_noise = 1e-4

    def coarse_to_flow(self, coarse: Tensor, uniform: Tensor) -> Tensor:
        """Coarse cells (N, C), and as many uniform numbers in [0, 1), as logarithms."""
        return ((coarse + self.noise * uniform) / self.coarse_maximum).log10() + 6.0

    def coarse_from_flow(self, values: Tensor, energies: Tensor, threshold: float) -> Tensor:
        """Coarse cells (N, C) of values (N, C); energies (N, G) of the groups of layers are not
        needed."""
        coarse = self.coarse_maximum * 10.0 ** (values - 6.0)
        return torch.where(coarse < threshold, 0.0, coarse)

    def group_condition(self, energies: Tensor) -> Tensor:
        return (energies + 0.36).log10() / 4.0

    def coarse_condition(self, coarse: Tensor, uniform: Tensor) -> Tensor:
        return pre.logit(((coarse + self.noise * uniform) / self.coarse_maximum).clamp_max(1.0))

    def fine_to_flow(self, cells: Tensor, uniform: Tensor) -> Tensor:
        """The cells (N, 10) of a coarse one, and as many uniform numbers in [0, 1), as logits."""
        noisy = cells + self.fine_noise * uniform
        return pre.logit(noisy / noisy.sum(dim=1, keepdim=True).clamp_min(1e-12))


class Small(Logarithms):
    """The maps of size `embedded`, methods as `Published` has them. Energies in MeV."""

    def coarse_to_flow(self, coarse: Tensor, uniform: Tensor) -> Tensor:
        return self.cells_to_flow(coarse, uniform)

    def coarse_from_flow(self, values: Tensor, energies: Tensor, threshold: float) -> Tensor:
        shares = self.cells_from_flow(values).chunk(energies.shape[1], dim=1)
        groups = zip(shares, energies.unbind(dim=1), strict=True)
        return torch.cat([pre.share_out(part, energy, threshold) for part, energy in groups], 1)

    def group_condition(self, energies: Tensor) -> Tensor:
        return self.energy_condition(energies)

    def coarse_condition(self, coarse: Tensor, uniform: Tensor) -> Tensor:
        return self.energy_condition(coarse)

    def fine_to_flow(self, cells: Tensor, uniform: Tensor) -> Tensor:
        return self.cells_to_flow(cells, uniform)


MAPS: dict[str, Published | Small] = {"paper": Published(), "embedded": Small()}
"""Between energies and the numbers of the flows, by size."""

_SMALL = Structure(3, 48, 1, bins=6, tail_bound=5.0, degrees="spread")
STRUCTURE: dict[str, dict[str, Structure]] = {
    "paper": {
        LAYERS: Structure(8, 256, 1),
        COARSE: Structure(8, 648, 1, tail_bound=6.0),
        FINE: Structure(8, 128, 2),
    },
    "embedded": {
        LAYERS: replace(_SMALL, blocks=4, hidden=48, bins=8, tail_bound=6.0, dropout=0.05),
        COARSE: replace(_SMALL, blocks=2, hidden=34, bins=5),
        FINE: _SMALL,
    },
}
"""By size and network."""

CHOSEN = {"paper": 648, "embedded": 24}
"""Coarse cells that the third flow sees of each shower at a time, by size."""


def _small(epochs: int, batch: int) -> TrainingRecipe:
    options = {"rise": 0.4, "start": 25, "end": 1e3}
    return TrainingRecipe(epochs, batch, 3e-3, "onecycle", options, validation=0.1, clip=50.0)


RECIPES: dict[str, dict[str, TrainingRecipe]] = {
    "paper": {
        LAYERS: TrainingRecipe(
            500, 1000, 1e-4, "onecycle", {"rise": 0.4, "start": 10.0, "end": 10.0}
        ),
        COARSE: TrainingRecipe(40, 1000, 2e-3, "triangular2", {"base": 5e-5, "rise_epochs": 5}),
        # 92 showers are 59,616 coarse cells; there 60,000 from different showers.
        FINE: TrainingRecipe(40, 92, 1e-3, "onecycle", {"rise": 0.45, "start": 50.0, "end": 10.0}),
    },
    "embedded": {LAYERS: _small(40, 64), COARSE: _small(24, 64), FINE: _small(16, 32)},
}
"""By size and network."""


class SuperCalo(ICaloFlowTeacher):
    """SuperCalo on dataset 2 of the CaloChallenge; its flow-1 is iCaloFlow's."""

    name: ClassVar[str] = "supercalo"
    runs_on: ClassVar[Mapping[str, tuple[str, ...]]] = ON_CPU
    datasets: ClassVar[tuple[str, ...]] = ("ds2",)

    @property
    def network_evaluations(self) -> int:
        """One of flow-2, and of the third flow one for every coarse cell."""
        return 1 + len(self._cells_of)

    @property
    def maps(self) -> Published | Small:
        return MAPS[self.size]

    def structure(self, network: str) -> Structure:
        return STRUCTURE[self.size][network]

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][network]

    @table_property
    def symmetries(self) -> Tensor | None:
        return pre.symmetries(self.dataset.calorimeter) if self.embedded else None

    def build_networks(self) -> dict[str, Flow]:
        coarse, parts = self._cells_of.shape
        groups, _, radii = self._grid
        sizes = {
            LAYERS: (self._layers, 1),
            COARSE: (coarse, 1 + groups),
            FINE: (parts, 1 + MERGED[0] + 7 + radii + groups),
        }
        flows = {}
        for network, (features, context) in sizes.items():
            options = {"layer_sizes": [features], "seed": self.seed}
            structure = vars(self.structure(network))
            flows[network] = maf_flow(features, context, **options, **structure)
            if self.embedded:
                begin_at_identity(flows[network])
        return flows

    # ---- coarse cells -------------------------------------------------------------------

    @property
    def _grid(self) -> tuple[int, int, int]:
        """Groups of layers, angles, radii of the coarse cells."""
        layers, angles, radii = self.dataset.calorimeter.shape
        return layers // MERGED[0], angles // MERGED[1], radii

    @table_property
    def _cells_of(self) -> Tensor:
        """Numbers of the cells of each coarse cell, (C, 10): these in the order of groups, radii
        and angles, those of layers and angles."""
        calorimeter, (groups, angles, radii) = self.dataset.calorimeter, self._grid
        numbers = torch.arange(calorimeter.cells)
        cut = numbers.view(groups, MERGED[0], angles, MERGED[1], radii)
        return cut.permute(0, 4, 2, 1, 3).reshape(-1, MERGED[0] * MERGED[1])

    @table_property
    def _neighbours(self) -> Tensor:
        """Of each coarse cell, those before and behind it in radius, group and angle, (C, 6); C
        stands for none."""
        groups, angles, radii = self._grid
        count = groups * angles * radii
        numbers = torch.arange(count).view(groups, radii, angles)
        found = []
        for axis in (1, 0, 2):
            for step in (1, -1):
                moved = numbers.roll(step, axis)
                if axis != 2:  # angles are a circle
                    edge = moved.select(axis, 0 if step == 1 else -1)
                    edge.fill_(count)
                found.append(moved.flatten())
        return torch.stack(found, dim=1)

    def coarse(self, cells: Tensor) -> Tensor:
        """Energies of the coarse cells (N, C), of cells (N, V)."""
        return cells[:, self._cells_of].sum(dim=2)

    # ---- training -----------------------------------------------------------------------

    def _cell_inputs(self, network: str, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        cells = self.turned(network, batch)["cells"].double()
        coarse, incident = self.coarse(cells), batch["incident"]
        if network == COARSE:
            values = self.maps.coarse_to_flow(coarse, torch.rand_like(coarse))
            return values, self._coarse_condition(incident, batch["energies"])
        weights = torch.ones_like(coarse)
        if self.embedded:  # there is nothing to say of an empty one
            weights = (coarse > 0) + 1e-6
        which = torch.multinomial(weights, CHOSEN[self.size])
        shower = torch.arange(len(cells)).repeat_interleave(which.shape[1])
        which = which.flatten()
        fine = cells[shower[:, None], self._cells_of[which]]
        noise = torch.rand(len(fine), 17, dtype=fine.dtype)
        context = self._fine_condition(
            shower, which, incident, batch["energies"], coarse, noise[:, :7]
        )
        return self.maps.fine_to_flow(fine, noise[:, 7:]), context

    def _coarse_condition(self, incident: Tensor, energies: Tensor) -> Tensor:
        """Conditions (N, 1 + G) of flow-2, of layer energies (N, L)."""
        groups = self.maps.group_condition(self._groups(energies))
        return torch.cat([self._incident_condition(incident), groups], dim=1)

    def _groups(self, energies: Tensor) -> Tensor:
        """Energies of the groups of layers (N, G), of layer energies (N, L)."""
        return energies.unflatten(1, (-1, MERGED[0])).sum(dim=2)

    def _fine_condition(
        self,
        shower: Tensor,
        which: Tensor,
        incident: Tensor,
        energies: Tensor,
        coarse: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """Conditions (M, 31) of the third flow for coarse cells `which` (M,) of showers (M,).

        incident (N,), energies (N, L) and coarse (N, C) are of all showers, in MeV; noise: uniform
        numbers (M, 7).
        """
        groups, angles, radii = self._grid
        group, radius = which // (radii * angles), which // angles % radii
        layers = energies.unflatten(1, (-1, MERGED[0]))[shower, group]
        around = torch.cat([coarse, coarse.new_zeros(len(coarse), 1)], dim=1)
        near = torch.cat([which[:, None], self._neighbours[which]], dim=1)
        near = self.maps.coarse_condition(around[shower[:, None], near], noise)
        place = [
            torch.nn.functional.one_hot(radius, radii).to(near),
            torch.nn.functional.one_hot(group, groups).to(near),
        ]
        given = self._incident_condition(incident)[shower], self.maps.energy_condition(layers)
        return torch.cat([*given, near, *place], dim=1)

    # ---- sampling -----------------------------------------------------------------------

    def _sampled(
        self, inverses: Mapping[str, Inverse], incident: Tensor, seed: int, first: int
    ) -> Tensor:
        n, threshold = len(incident), self.dataset.threshold
        count, parts = self._cells_of.shape
        noise = normal(seed, first, n, self._layers + count + count * parts)
        of_layers, of_coarse, of_fine = np.split(noise, [self._layers, self._layers + count], 1)
        energies = self.layer_energies(inverses[LAYERS], of_layers, incident)
        context = self._coarse_condition(incident, energies)
        values = torch.as_tensor(inverses[COARSE](of_coarse, context.numpy(force=True))).double()
        coarse = self.maps.coarse_from_flow(values, self._groups(energies), threshold)
        blur = torch.as_tensor(uniform(seed, first, n, 7 * count, _BLUR)).view(n, count, 7)
        shower, which = coarse.nonzero(as_tuple=True)
        cells = torch.zeros(n, self.dataset.calorimeter.cells, dtype=torch.float64)
        if not len(which):
            return cells
        context = self._fine_condition(
            shower, which, incident, energies, coarse, blur[shower, which]
        )
        rows = of_fine.reshape(n, count, parts)[shower.numpy(force=True), which.numpy(force=True)]
        values = torch.as_tensor(inverses[FINE](rows, context.numpy(force=True))).double()
        shares = self.maps.cells_from_flow(values)
        fine = pre.share_out(shares, coarse[shower, which], threshold)
        cells[shower[:, None], self._cells_of[which]] = fine
        return cells
