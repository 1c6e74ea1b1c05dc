"""What surrogates have in common that see showers as standard normal numbers."""

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor

from calostudy.calorimeter import Calorimeter
from calostudy.models.surrogate import Surrogate
from calostudy.normal_space import NormalSpace, layer_numbers


class InNormalSpace(Surrogate):
    """A surrogate of the numbers of a `NormalSpace`, which its constants are of, where it is
    `normal`."""

    @property
    def normal(self) -> bool:
        """Whether this dataset is seen as standard normal numbers in this size."""
        return self.embedded

    @property
    @abstractmethod
    def response(self) -> float:
        """Largest deposited / incident energy; more is taken for this much."""

    @property
    def numbers_of_layers(self) -> int:
        """How many numbers stand for the energies of the layers."""
        calorimeter = self.dataset.calorimeter
        return layer_numbers(calorimeter) if self.normal else len(calorimeter.layers)

    @property
    def geometry(self) -> tuple[Calorimeter, float, float]:
        """Calorimeter, threshold (MeV) and response: what a `NormalSpace` is of."""
        return self.dataset.calorimeter, self.dataset.threshold, self.response

    @property
    def space(self) -> NormalSpace:
        """The space that the constants are of."""
        return NormalSpace.of_constants(*self.geometry, self.constants)

    def space_of(self, batch: Mapping[str, Tensor]) -> NormalSpace:
        """The space of training showers: `cells` (N, V), 0 below the threshold, and `incident`
        energies (N,), both in MeV."""
        return NormalSpace.fitted(*self.geometry, batch["cells"], batch["incident"])
