"""BoloGAN: FastCaloGAN's generator of cells, one for each range of energies.

ATLAS' conditional Wasserstein GAN in the CaloChallenge (F. Corchia et al., FedericoCorchia/BoloGAN;
arXiv:2410.21611). The generator's numbers are the energies of the cells, in units of the incident
energy. Photons have two, for incident energies up to 4.096 GeV and from there on, pions have one.

Size `paper` has the published numbers of parameters; these count the moving averages of batch
normalisations, which are not trained. Which of the two photon generators is the smaller was not
published: both ways have the published sum. A second condition, the pseudorapidity, is always 0
in this data set.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from calostudy.models.surrogate import TrainingRecipe
from calostudy.models.voxel_gan import Structure, VoxelGAN, recipes

LOW, HIGH, ALL = "low", "high", "all"
BORDER = 2.0**12
"""MeV, where the range of the second generator of photons begins."""

RANGES: dict[str, tuple[str, ...]] = {"ds1-photons": (LOW, HIGH), "ds1-pions": (ALL,)}
"""Networks by data set."""

ENDS: dict[str, dict[str, tuple[float, float]]] = {
    "paper": {LOW: (2.0**6, BORDER), HIGH: (BORDER, 2.0**22), ALL: (2.0**8, 2.0**22)},
    "embedded": {LOW: (2.0**8, BORDER), HIGH: (BORDER, 2.0**16), ALL: (2.0**8, 2.0**16)},
}
"""MeV, by size and network."""

STRUCTURE: dict[str, dict[str, Structure]] = {
    "paper": {
        LOW: Structure(100, (50, 100, 200), (368,) * 3, normed=3, conditions=2),
        HIGH: Structure(100, (100, 200, 400), (368,) * 3, nn.SiLU, normed=4, conditions=2),
        ALL: Structure(100, (200, 400, 800), (800, 400, 200), conditions=2),
    },
    "embedded": {
        name: Structure(32, (64, 128, 128), (256, 128, 64), nn.SiLU, positive=False)
        for name in (LOW, HIGH, ALL)
    },
}
"""By size and network."""

RECIPES = recipes(epochs=5_900, batch=128, beta=0.55)
"""By size; a million steps of the generator took about 5,900 epochs of the published data."""


class BoloGAN(VoxelGAN):
    """BoloGAN on dataset 1 of the CaloChallenge."""

    name: ClassVar[str] = "bologan"
    datasets: ClassVar[tuple[str, ...]] = tuple(RANGES)

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        return {name: ENDS[self.size][name] for name in RANGES[self.dataset.name]}

    def structure(self, network: str) -> Structure:
        return STRUCTURE[self.size][network]

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size]

    @property
    def outputs(self) -> int:
        return self.dataset.calorimeter.cells

    def numbers(self, cells: Tensor, incident: Tensor) -> Tensor:
        return cells / incident[:, None]

    def cells(self, numbers: Tensor, incident: Tensor) -> Tensor:
        """In size `embedded` the numbers are square roots, in units such that an untrained
        generator makes about the incident energy."""
        numbers = torch.relu(numbers)
        shares = 2.0 / self.outputs * numbers.square() if self.embedded else numbers
        return shares * incident[:, None]
