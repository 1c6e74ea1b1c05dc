"""D+D ARM: one autoregressive model for many segmentations of a calorimeter.

Liu, Ghosh, Smith, Baldi & Whiteson, arXiv:2212.08233. A network for each layer gives the
probability of every cell's energy, rounded to a category, from the cells before it on a spiral
around the shower axis; it is told the sizes of the cells, and one network serves layers of few
large and of many small cells, among them layers that it was not trained on. No code was published.

Size `paper` has the structure of the paper: masked layers over all cells, 1-D convolution, softmax;
layers do not know of each other, and the first cell's category is drawn from how often each one
occurred. The paper tells neither the widths nor the number of categories: `LATENT` numbers for each
cell and `CATEGORIES` are of this study.

Size `embedded` is no published configuration and does what the paper announces. All cells share the
weights of a small network that sees the neighbourhood of a cell on the spiral
(`calostudy.networks.autoregressive.SharedCells`); the first cell is generated like the others; the
middle layer is told the energy, means and widths of the inner one, the outer layer of both. A
category stands for the mean energy of the cells in it, not for its square. Showers are mirrored
while training, and of each one some cells take part, those close to the axis more often.

`dd-arm-unaware` is the same network without sizes: it sees each cell as of one size and places in
numbers of cells. `LEFT_OUT` are the segmentations that no embedded network has seen, `ADDED` those
that it has seen beside the paper's.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from calostudy.calorimeter import Calorimeter
from calostudy.devices import table
from calostudy.errors import UsageError
from calostudy.models.surrogate import ON_CPU, Surrogate, TrainingRecipe
from calostudy.networks.autoregressive import (
    MOMENTS,
    MaskedCells,
    SharedCells,
    SharedStructure,
    moments,
)
from calostudy.networks.spiral import Spiral, sizeless
from calostudy.samplers.autoregressive import plain, triangular
from calostudy.samplers.noise import uniform
from calostudy.samplers.tiles import in_tiles
from calostudy.segmentations import INNER, MIDDLE, OUTER, coarse_layer, segmentation
from calostudy.showers import Showers

LAYERS = ("inner", "middle", "outer")
"""The networks, in the order in which they are trained and used."""

SEGMENTATIONS: dict[str, tuple[tuple[int, int], ...]] = {
    "inner": INNER,
    "middle": MIDDLE,
    "outer": (OUTER,),
}
"""Of each layer: all sizes."""

LEFT_OUT: dict[str, tuple[tuple[int, int], ...]] = {
    "inner": ((48, 12), (192, 24)),
    "middle": ((48, 24),),
    "outer": (),
}
"""Sizes that no network of size `embedded` is trained on."""

ADDED: dict[str, tuple[tuple[int, int], ...]] = {
    "inner": ((96, 4), (96, 12), (96, 48)),
    "middle": ((24, 24), (24, 48), (12, 24), (48, 12)),
    "outer": (),
}
"""Sizes that the paper does not have and networks of size `embedded` are trained on, too."""

FINEST = (INNER[-1], MIDDLE[2], OUTER)
"""Sizes of the data set's own calorimeter."""

CATEGORIES = {"inner": 96, "middle": 144, "outer": 32}
"""Of the energy of a cell: round(sqrt(E / MeV)) is at most one less."""

PUBLISHED_LAYERS = {"inner": 1, "middle": 5, "outer": 5}
"""Masked layers of the published networks."""

LATENT = 2
"""Numbers of a cell in each masked layer of size `paper`."""

STRUCTURE = dict.fromkeys(LAYERS, SharedStructure(3, 80))
"""Of size `embedded`."""

WANTED = {True: 256, False: 1024}
"""Cells of a layer that take part in the loss, on average: in training and afterwards."""

RECIPES: dict[str, dict[str, TrainingRecipe]] = {
    "paper": dict.fromkeys(
        LAYERS,
        TrainingRecipe(
            100, 32, 1e-3, "multistep", {"milestones": (), "factor": 1.0}, validation=0.1
        ),
    ),
    "embedded": {
        name: TrainingRecipe(
            epochs, 32, 3e-3, "cosine", {"rise": 0.1, "end": 1e3}, validation=0.1, average=0.998
        )
        for name, epochs in (("inner", 90), ("middle", 110), ("outer", 30))
    },
}
"""By size and network."""

SAMPLERS: dict[str, Callable[[nn.Module, str], Any]] = {"triangular": triangular, "plain": plain}
"""Ways to draw the cells, the default first: one pass of the network for a layer; one for each
cell."""


@table
def path(layer: int, size: tuple[int, int], aware: bool) -> tuple[Spiral, Tensor]:
    """The cells of a layer of this size on the spiral, and for each of the finest cells the place
    of its cell on it."""
    coarse, finest = coarse_layer(layer, size), coarse_layer(layer, FINEST[layer])
    spiral = Spiral(coarse if aware else sizeless(coarse))
    rows, columns = (
        np.searchsorted(edges, 0.5 * (f[:-1] + f[1:]), side="right") - 1
        for edges, f in zip(coarse.edges, finest.edges, strict=True)
    )
    cells = rows[:, None] * coarse.shape[1] + columns
    return spiral, torch.as_tensor(spiral.rank[cells.ravel()])


class DDARM(Surrogate):
    """The geometry-aware autoregressive model."""

    name: ClassVar[str] = "dd-arm"
    runs_on: ClassVar[Mapping[str, tuple[str, ...]]] = ON_CPU
    datasets: ClassVar[tuple[str, ...]] = ("segmentations",)
    aware: ClassVar[bool] = True  # whether the networks are told the sizes of the cells

    @property
    def network_evaluations(self) -> int:
        """One (triangular) pass of each layer's network."""
        return len(LAYERS)

    def trained_on(self, network: str) -> tuple[tuple[int, int], ...]:
        """The sizes of a layer that its network is trained on."""
        published = SEGMENTATIONS[network]
        if not self.embedded:
            return published
        return tuple(s for s in published if s not in LEFT_OUT[network]) + ADDED[network]

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size][network]

    def build_networks(self) -> dict[str, nn.Module]:
        if self.embedded:
            return {
                name: SharedCells(STRUCTURE[name], MOMENTS * number, CATEGORIES[name])
                for number, name in enumerate(LAYERS)
            }
        return {
            name: MaskedCells(
                max(a * b for a, b in SEGMENTATIONS[name]),
                PUBLISHED_LAYERS[name],
                LATENT,
                CATEGORIES[name],
            )
            for name in LAYERS
        }

    # ---- what is learnt ---------------------------------------------------------------

    def initial_constants(self) -> dict[str, Tensor]:
        """By layer: the energy in MeV of each category ("energies"), and in size `paper` how often
        each one occurs in the first cell of each segmentation ("first")."""
        constants = {}
        for name in LAYERS:
            constants[f"energies.{name}"] = torch.arange(CATEGORIES[name]).float().square()
            if not self.embedded:
                shape = len(SEGMENTATIONS[name]), CATEGORIES[name]
                constants[f"first.{name}"] = torch.full(shape, 1.0 / CATEGORIES[name])
        return constants

    def fit_constants(self, showers: Showers) -> None:
        for number, name in enumerate(LAYERS):
            finest = self._finest_cells(showers, number)
            if self.embedded:
                self._fit_energies(number, name, finest)
                continue
            for row, size in enumerate(SEGMENTATIONS[name]):
                first = self._categories(self._coarse(finest, number, size)[:, :1], name)
                counts = torch.bincount(first[:, 0], minlength=CATEGORIES[name])
                self.constants[f"first.{name}"][row] = counts / counts.sum()

    def _fit_energies(self, number: int, name: str, finest: Tensor) -> None:
        """Mean energy of each category, over the segmentations that the network is trained on; the
        square of those that do not occur."""
        sums = torch.zeros(2, CATEGORIES[name], dtype=torch.float64)
        for size in self.trained_on(name):
            energy = self._coarse(finest, number, size).flatten()
            category = self._categories(energy, name)
            sums[0].index_add_(0, category, energy.double())
            sums[1].index_add_(0, category, torch.ones_like(energy, dtype=torch.float64))
        square = torch.arange(CATEGORIES[name]).double().square()
        mean = torch.where(sums[1] > 0, sums[0] / sums[1].clamp_min(1), square)
        mean[0] = 0.0
        self.constants[f"energies.{name}"] = mean.float()

    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """The finest cells (N, V) in MeV; segmentations are made of them batch by batch."""
        return {"cells": torch.as_tensor(np.asarray(showers.cells, np.float32))}

    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Negative log-likelihood (B,) of the categories of a layer's cells, in nats.

        In training a batch has one segmentation, drawn at random; otherwise the segmentations take
        turns through the batch. Of size `embedded` it is an estimate from cells drawn at random.
        """
        training, number = self.networks[network].training, LAYERS.index(network)
        cells = self.turned(network, batch)["cells"]
        if training:
            chosen = [int(torch.randint(len(self.trained_on(name)), ())) for name in LAYERS]
            return self._loss(number, cells, chosen, training)
        losses, turns = torch.empty(len(cells)), len(self.trained_on(network))
        for turn in range(min(turns, len(cells))):
            losses[turn::turns] = self._loss(number, cells[turn::turns], [turn] * 3, training)
        return losses

    def _loss(self, number: int, cells: Tensor, chosen: list[int], training: bool) -> Tensor:
        spirals, categories = [], []
        for layer in range(number + 1):
            name = LAYERS[layer]
            sizes = self.trained_on(name)
            size = sizes[chosen[layer] % len(sizes)]
            finest = cells[:, self.dataset.calorimeter.slices[layer]]
            spirals.append(path(layer, size, self.aware)[0])
            categories.append(self._categories(self._coarse(finest, layer, size), name))
        wanted, weight = self._wanted(len(spirals[-1]), WANTED[training])
        conditions = self._conditions(spirals[:-1], categories[:-1], len(cells))
        network = self.networks[LAYERS[number]]
        logits = network(spirals[-1], categories[-1], conditions, wanted)
        target = categories[-1][:, wanted]
        lost = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        return lost.view_as(target) @ weight

    def _wanted(self, cells: int, count: int) -> tuple[Tensor, Tensor]:
        """Places of the cells that take part in the loss, and their weights."""
        if not self.embedded:
            first = 1  # which is not generated
            return torch.arange(first, cells), torch.ones(cells - first)
        # Cells of one ring are as many as its radius; about as many are drawn of each ring.
        chance = (torch.arange(cells) + 16.0).rsqrt()
        chance = (count / chance.sum() * chance).clamp_max(1.0)
        wanted = (torch.rand(cells) < chance).nonzero()[:, 0]
        return wanted, 1.0 / chance[wanted]

    def _finest_cells(self, showers: Showers, layer: int) -> Tensor:
        cells = showers.cells[:, self.dataset.calorimeter.slices[layer]]
        return torch.as_tensor(np.asarray(cells, np.float32))

    def _coarse(self, finest: Tensor, layer: int, size: tuple[int, int]) -> Tensor:
        """Cells of one layer (B, finest cells) as those of a segmentation, (B, n) on its spiral."""
        spiral, table = path(layer, size, self.aware)
        cells = finest.new_zeros(len(finest), len(spiral)).index_add_(1, table, finest)
        return torch.where(cells < self.dataset.threshold, 0.0, cells)

    @staticmethod
    def _categories(energy: Tensor, network: str) -> Tensor:
        """Square root of energies in MeV, rounded."""
        return energy.sqrt().round().long().clamp_max(CATEGORIES[network] - 1)

    def _conditions(self, spirals, categories, batch: int) -> Tensor:
        """What a layer is told of those before it, (B, C)."""
        told = [moments(*each) for each in zip(spirals, categories, strict=True)]
        if not self.embedded:
            told = []
        return torch.cat([torch.zeros(batch, 0), *told], dim=1)

    # ---- showers ----------------------------------------------------------------------

    def sample(
        self,
        incident_energy: np.ndarray,
        seed: int = 0,
        first: int = 0,
        *,
        segmentation: tuple[tuple[int, int], tuple[int, int]] | None = None,
        sampler: str | None = None,
        precision: str | None = None,
    ) -> Showers:
        """Showers (cells float32) for incident energies (N,) in MeV, all of them 65 GeV.

        `segmentation` is the size of the inner and of the middle layer, by default the finest of
        both: the calorimeter of the data set; the showers are on that of
        `calostudy.segmentations.segmentation`. `sampler` is one of `SAMPLERS`, `precision`
        "float32" or "float64", by default that of torch.

        Raises:
            UsageError: another incident energy, no such segmentation, sampler or precision.
        """
        energy = np.atleast_1d(np.asarray(incident_energy, np.float64))
        if not self.dataset.energies.contains(energy).all():
            raise UsageError(f"{self.name} makes showers of {self.dataset.energies} only")
        sizes, calorimeter = self._segmentation(segmentation)
        cells = np.zeros((len(energy), calorimeter.cells), np.float32)
        spirals, categories = [], []
        for layer, (name, size) in enumerate(zip(LAYERS, sizes, strict=True)):
            spiral = path(layer, size, self.aware)[0]
            draw = self.inverse_of(name, SAMPLERS, sampler, precision)
            random = uniform(seed, first, len(energy), len(spiral), stream=layer)
            told = self._told(first, spirals, categories, len(energy))
            found = draw(spiral, told, random, self._first(name, size, random[:, 0]))
            place = calorimeter.slices[layer].start + spiral.order
            cells[:, place] = self.constants[f"energies.{name}"].numpy(force=True)[found]
            spirals.append(spiral)
            categories.append(found)
        return Showers(calorimeter, energy, cells)

    def _segmentation(self, chosen) -> tuple[tuple, Calorimeter]:
        if chosen is None:
            return FINEST, self.dataset.calorimeter
        inner, middle = (tuple(size) for size in chosen)
        return (inner, middle, OUTER), segmentation(inner, middle)

    def _told(self, first: int, spirals, categories, n: int) -> np.ndarray:
        def function(*rows):
            tensors = [torch.as_tensor(row) for row in rows[:-1]]
            return self._conditions(spirals, tensors, len(rows[-1])).double().numpy(force=True)

        return in_tiles(function, first, *categories, np.zeros(n))

    def _first(self, name: str, size: tuple[int, int], random: np.ndarray) -> np.ndarray | None:
        """Categories (N,) of the first cell where they are not generated."""
        if self.embedded:
            return None
        often = self.constants[f"first.{name}"][SEGMENTATIONS[name].index(size)]
        return np.searchsorted(
            often.double().cumsum(0).numpy(force=True)[:-1], random, side="right"
        )


class DDARMUnaware(DDARM):
    """Its twin that does not know the sizes of the cells."""

    name: ClassVar[str] = "dd-arm-unaware"
    aware: ClassVar[bool] = False
