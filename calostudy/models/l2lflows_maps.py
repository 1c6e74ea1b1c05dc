"""Between the cells of L2LFlows' images and the numbers that its flows see."""

from dataclasses import dataclass

import torch
from torch import Tensor

from calostudy import preprocessing as pre
from calostudy.energies import GEV

SMALLEST_GEV = 1e-6
"""Keeps logarithms of energies in GeV finite."""


@dataclass(frozen=True)
class Published:
    """Cells as a logit of the logarithm of E / largest, largest (n,) in MeV by layer.

    Every cell gets uniform noise up to 1 keV, an empty one also noise around 1 keV.
    """

    alpha: float = 1e-2
    decades: float = 7.0
    noise: float = 1e-3  # MeV

    def forward(self, cells: Tensor, largest: Tensor, threshold: float) -> Tensor:
        """Cells (B, n, H, W) in MeV to the real line."""
        extra = self.noise * 10.0 ** (0.2 * torch.randn_like(cells))
        noise = self.noise * torch.rand_like(cells)
        cells = cells + noise + torch.where(cells > 0, 0.0, extra.clamp_max(threshold))
        x = (cells / self._whole(largest)).clamp(0.0, 1.0)
        return pre.logit((x + 10.0**-self.decades).log10() / self.decades + 1.0, self.alpha)

    def inverse(self, numbers: Tensor, largest: Tensor) -> Tensor:
        """Cells in MeV; to be cut at the threshold."""
        logarithm = self.decades * (pre.inverse_logit(numbers, self.alpha) - 1.0)
        return (10.0**logarithm - 10.0**-self.decades).clamp_min(0.0) * self._whole(largest)

    def _whole(self, largest: Tensor) -> Tensor:
        return largest[:, None, None] + SMALLEST_GEV * GEV


@dataclass(frozen=True)
class Censored:
    """Cells as log(E / smallest) / spread, an empty one as a draw from below 0.

    scale: smallest (MeV) and spread, (2,).
    """

    centre: float = 3.5

    def forward(self, cells: Tensor, scale: Tensor) -> Tensor:
        """Cells (B, n, H, W) in MeV to the real line."""
        empty = -(self.centre + torch.randn_like(cells)).abs()
        return torch.where(cells > 0, self.without_noise(cells, scale), empty)

    def without_noise(self, cells: Tensor, scale: Tensor) -> Tensor:
        """The same with 0 for an empty cell."""
        return (cells / scale[0]).clamp_min(1.0).log() / scale[1]

    def inverse(self, numbers: Tensor, scale: Tensor) -> Tensor:
        """Cells in MeV, those below the smallest to be left out."""
        return scale[0] * (scale[1] * numbers).exp()
