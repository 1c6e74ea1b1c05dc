"""Autoencoders whose latent numbers are vectors of a codebook, on a grid of layers and angles.

The networks of Calo-VQ (Liu et al., arXiv:2405.06605), after van den Oord, Vinyals & Kavukcuoglu
(arXiv:1711.00937). Tensors are (B, channels, Z, A): what a cell has at each radius are channels,
convolutions pad the layers with zeros and the angles with what lies on the other side of the
circle. Angles are made fewer, and more again, by leaving out high frequencies.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD = (4, 8)
"""Layers of zeros before and behind those of the calorimeter, 45: three divide them all."""


@dataclass(frozen=True)
class CodeStructure:
    """Hyperparameters: channels of the convolutions; `features` channels at the codes' places;
    `codes` vectors of `size` numbers in the codebook; outputs: numbers per cell; patience: as
    `Codebook` has it."""

    channels: tuple[int, int, int, int, int]
    features: int
    codes: int
    size: int
    outputs: int = 1
    patience: int | None = None


class Around(nn.Conv2d):
    """A convolution of kernel (k, 3), the angles a circle; whole: pad the layers."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, whole=True):
        padding = kernel // 2 if whole else 0
        super().__init__(inputs, outputs, (kernel, 3), (stride, 1), (padding, 0))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_wrapped(x))


class AroundUp(nn.ConvTranspose2d):
    """The way back of a convolution with the same arguments."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, whole=True):
        padding, missing = (kernel // 2, stride - 1) if whole else (0, 0)
        super().__init__(
            inputs, outputs, (kernel, 3), (stride, 1), (padding, 2), output_padding=(missing, 0)
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_wrapped(x))


def _wrapped(x: Tensor) -> Tensor:
    return torch.cat([x[..., -1:], x, x[..., :1]], dim=-1)


class Angles(nn.Module):
    """As many angles as asked for, of the same waves around the circle."""

    def __init__(self, angles: int):
        super().__init__()
        self.angles = angles

    def forward(self, x: Tensor) -> Tensor:
        waves = torch.fft.rfft(x)[..., : self.angles // 2 + 1]
        return torch.fft.irfft(waves, n=self.angles) * (self.angles / x.shape[-1])


class Codebook(nn.Module):
    """Vectors (K, D), the nearest of which stands for any other.

    patience: after how many batches in training a vector that was nearest to nothing is replaced by
    one that was found; then all vectors also have the same length. Without it, neither.
    """

    def __init__(self, codes: int, size: int, patience: int | None):
        super().__init__()
        self.patience = patience
        self.vectors = nn.Parameter(torch.empty(codes, size).uniform_(-1.0 / codes, 1.0 / codes))
        self.register_buffer("unused", torch.full((codes,), patience or 0))

    def nearest(self, found: Tensor) -> Tensor:
        """Codes (B, Z, A) of vectors (B, D, Z, A)."""
        rows, vectors = self._scaled(found.movedim(1, -1)), self._scaled(self.vectors)
        return (vectors.square().sum(dim=1) - 2.0 * rows @ vectors.t()).argmin(dim=-1)

    def of(self, codes: Tensor) -> Tensor:
        """Vectors (B, D, Z, A) of codes (B, Z, A)."""
        return self._scaled(self.vectors)[codes].movedim(-1, 1)

    def forward(self, found: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest vectors, with the gradient of `found` (B, D, Z, A), and how far both are from
        each other, (B,): 1 for moving what was found, 1/4 for moving the codebook."""
        codes = self.nearest(found)
        if self.training and self.patience is not None:
            self._replace(found, codes)
            codes = self.nearest(found)
        found, vectors = self._scaled(found.movedim(1, -1)).movedim(-1, 1), self.of(codes)
        pulled = (found - vectors.detach()).square() + 0.25 * (vectors - found.detach()).square()
        return found + (vectors - found).detach(), pulled.flatten(1).mean(dim=1)

    def _scaled(self, rows: Tensor) -> Tensor:
        """Rows (..., D), of mean square 1 where all vectors have the same length."""
        if self.patience is None:
            return rows
        return rows * (rows.square().mean(dim=-1, keepdim=True) + 1e-8).rsqrt()

    @torch.no_grad()
    def _replace(self, found: Tensor, codes: Tensor) -> None:
        """Count the batches without each vector, and replace those that are not used."""
        self.unused += 1
        self.unused[codes.unique()] = 0
        rows, dead = found.movedim(1, -1).flatten(0, -2), self.unused > self.patience
        chosen = rows[torch.randint(len(rows), (int(dead.sum()),))]
        self.vectors[dead] = self._scaled(chosen) + 1e-3 * torch.randn_like(chosen)
        self.unused[dead] = 0


class CodeAutoencoder(nn.Module):
    """Between cells on a grid (Z, A, R) of the 45 layers and codes (17, A / 4).

    seen: numbers per cell that the encoder sees. told: numbers per layer that encoder and decoder
    are told besides the one number of the shower.
    """

    def __init__(self, grid: tuple[int, int, int], structure: CodeStructure, told: int = 0):
        super().__init__()
        self.layers, angles, radii = grid
        a, b, c, d, e = structure.channels
        self.told, self.outputs, size = told, structure.outputs, structure.size
        self.encoder = nn.Sequential(
            *(Around(radii + 1 + told, a), nn.SiLU(), Around(a, b, 5, 3), nn.SiLU()),
            Angles(angles // 2),
            *(Around(b, c), nn.SiLU(), Around(c, d), nn.SiLU()),
            Angles(angles // 4),
            *(Around(d, e, whole=False), nn.SiLU(), nn.Conv2d(e, structure.features, 1)),
            nn.Conv2d(structure.features, size, 1),
        )
        self.codebook = Codebook(structure.codes, size, structure.patience)
        self.features = nn.Conv2d(size, structure.features, 1)
        self.decoder = nn.Sequential(
            *(AroundUp(structure.features + 1, e, whole=False), nn.SiLU()),
            Angles(angles // 2),
            *(AroundUp(e, d), nn.SiLU(), AroundUp(d, c), nn.SiLU()),
            Angles(angles),
            *(AroundUp(c, b, 5, 3), nn.SiLU()),
        )
        self.last = nn.Sequential(
            AroundUp(b + told, a), nn.SiLU(), nn.Conv2d(a, radii * structure.outputs, 1)
        )

    @property
    def places(self) -> tuple[int, int]:
        """How many codes along and around the axis."""
        padded = self.layers + sum(PAD)
        return padded // 3 - 2, self.encoder[9].angles

    def encode(self, cells: Tensor, shower: Tensor, layers: Tensor) -> Tensor:
        """Vectors (B, D, 17, A / 4) of cells (B, Z, A, R), shower (B, 1), layers (B, told, Z)."""
        x = torch.cat([cells.movedim(-1, 1), self._spread(layers, cells.shape[2])], dim=1)
        x = F.pad(x, (0, 0, *PAD))
        given = shower[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return self.encoder(torch.cat([x, given], dim=1))

    def decode(self, vectors: Tensor, shower: Tensor, layers: Tensor) -> Tensor:
        """Numbers (B, Z, A, R, outputs) of each cell; arguments as `encode` has them."""
        x = self.features(vectors)
        given = shower[:, :, None, None].expand(-1, -1, *x.shape[2:])
        x = self.decoder(torch.cat([x, given], dim=1))
        told = F.pad(self._spread(layers, x.shape[-1]), (0, 0, *PAD))
        x = self.last(torch.cat([x, told], dim=1))[:, :, PAD[0] : PAD[0] + self.layers]
        return x.unflatten(1, (-1, self.outputs)).permute(0, 3, 4, 1, 2)

    def _spread(self, layers: Tensor, angles: int) -> Tensor:
        return layers[..., None].expand(-1, -1, -1, angles)
