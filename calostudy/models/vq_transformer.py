"""A transformer of codes: a stand-in for the Geant4 transformer of the CaloChallenge.

Of that submission (1.26 billion parameters, dataset 3) nothing is published but its scores and
times (arXiv:2410.21611). Here Calo-VQ's ways are taken a step further, on dataset 2: the energy of
every layer has a code of its own, as in Calo-VQ's later configurations, and comes before those of
the shower's shape; the autoencoder is given the energies of the layers and has to say only how each
is spread over its cells; the transformer is larger. It is small enough to be trained in minutes on
one processor core. Nothing of it is the submission's.
"""

from typing import ClassVar

from calostudy.models.calo_vq import AUTOENCODER, PRIOR, CaloVQ, Structure, brief
from calostudy.models.calovae_decoders import Hits
from calostudy.models.surrogate import TrainingRecipe
from calostudy.networks.code_transformer import SequenceStructure
from calostudy.networks.codes import CodeStructure

STRUCTURE = Structure(
    CodeStructure((12, 24, 32, 48, 64), 32, 64, 16, outputs=3, patience=30),
    SequenceStructure(80, 2, 4, dropout=0.05),
    32,
    Hits(),
    100.0,
)

RECIPES = {AUTOENCODER: brief(20, 2e-3), PRIOR: brief(18, 3e-3)}
"""By network."""


class VQTransformer(CaloVQ):
    """An autoregressive transformer over the codes of layers and of the shower's shape."""

    name: ClassVar[str] = "vq-transformer"
    sizes: ClassVar[tuple[str, ...]] = ("embedded",)
    layerwise: ClassVar[bool] = True

    @property
    def structure(self) -> Structure:
        return STRUCTURE

    def recipe(self, network: str) -> TrainingRecipe:
        return RECIPES[network]
