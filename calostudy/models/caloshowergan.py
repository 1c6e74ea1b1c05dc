"""CaloShowerGAN: one generator that makes the energies of cells, layers and shower apart.

M. Faucci Giannelli & R. Zhang, arXiv:2309.06515. The generator's numbers are fractions: of every
cell in its layer, of every layer in the deposited energy, and of this in the incident energy.

Size `paper` has the published numbers of parameters for pions, with the moving averages of batch
normalisations, which are not trained. Photons have the same structure here; the two and three
generators that the authors submitted for them made cells only, as their critics' sizes tell.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from calostudy import preprocessing as pre
from calostudy.models.surrogate import TrainingRecipe
from calostudy.models.voxel_gan import Structure, VoxelGAN, recipes

GAN = "gan"

ENDS: dict[str, tuple[float, float]] = {
    "paper": (2.0**8, 2.0**22),
    "embedded": (2.0**8, 2.0**16),
}
"""MeV, by size: the lowest and the highest incident energy."""

STRUCTURE: dict[str, Structure] = {
    "paper": Structure(200, (200, 400, 800), (800, 400, 200), normed=3),
    "embedded": Structure(48, (96, 160, 192), (320, 160, 80), nn.SiLU, positive=False),
}
"""By size."""

SHARPNESS: dict[str, float] = {"ds1-photons": 4.0, "ds1-pions": 1.0}
"""Of the softplus that makes the energies of layers in size `embedded`, by data set: the larger,
the more easily a layer is empty."""

RECIPES = recipes(epochs=23_500, batch=512, beta=0.5)
"""By size; a million steps of the generator took about 23,500 epochs of the published data."""


class CaloShowerGAN(VoxelGAN):
    """CaloShowerGAN on dataset 1 of the CaloChallenge."""

    name: ClassVar[str] = "caloshowergan"
    datasets: ClassVar[tuple[str, ...]] = ("ds1-photons", "ds1-pions")

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        return {GAN: ENDS[self.size]}

    def structure(self, network: str) -> Structure:
        return STRUCTURE[self.size]

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[self.size]

    @property
    def outputs(self) -> int:
        return self.dataset.calorimeter.cells + len(self.dataset.calorimeter.layers) + 1

    def numbers(self, cells: Tensor, incident: Tensor) -> Tensor:
        slices = self.dataset.calorimeter.slices
        layers = pre.layer_sums(cells, slices)
        total = layers.sum(dim=1, keepdim=True)
        shares = pre.normalise_layers(layers, [slice(0, len(slices))])
        fractions = pre.normalise_layers(cells, slices)
        return torch.cat([fractions, shares, total / incident[:, None]], dim=1)

    def cells(self, numbers: Tensor, incident: Tensor) -> Tensor:
        """In size `embedded` the fractions of cells are given as square roots, the square root of
        a layer's is the softplus of its number, which has a slope everywhere, and the last number
        is how far the deposited energy is from its mean, in units of its width."""
        calorimeter = self.dataset.calorimeter
        fractions, shares, total = numbers.split(
            [calorimeter.cells, len(calorimeter.layers), 1], dim=1
        )
        fractions, response = fractions.relu(), total[:, 0]
        if self.embedded:
            middle, width = self._response(incident)
            shares = softplus(shares, beta=SHARPNESS[self.dataset.name])
            fractions, shares = fractions.square(), shares.square()
            response = middle + width * response
        else:
            shares = shares.relu()
        shares = pre.normalise_layers(shares, [slice(0, len(calorimeter.layers))])
        deposited = response.relu() * incident
        return pre.scale_layers(fractions, shares * deposited[:, None], calorimeter.slices)
