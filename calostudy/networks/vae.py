"""Conditional variational autoencoders of showers (Kingma & Welling, arXiv:1312.6114).

The encoder turns one number per cell and the conditions into the mean and the log variance of a
few latent numbers, the decoder turns latent numbers and conditions into numbers for every cell.
Both are perceptrons. For calorimeters with many layers they have *kernels* before and behind
(Ernst et al., arXiv:2312.09290): one small perceptron for each group of neighbouring layers; the
groups may overlap, and then what the decoder says of a cell is the sum over its groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Kernels:
    """One perceptron for every `size` layers in a row, the next group `stride` layers further.

    Each turns its cells into `latent` numbers, the decoder's the other way round. shared: every
    layer is a group (size and stride are 1, all layers are alike), all have the same perceptron,
    and it sees the condition of its own layer only.
    """

    size: int
    stride: int
    hidden: tuple[int, ...]
    latent: int
    shared: bool = False

    def groups(self, layers: int) -> list[tuple[int, int]]:
        """First layer and last + 1 of each group, of `layers` layers: centred on every
        `stride`-th layer, cut at the ends.

        >>> Kernels(7, 5, (), 1).groups(12)
        [(0, 4), (2, 9), (7, 12)]
        """
        half = self.size // 2
        return [
            (max(0, at - half), min(layers, at + half + 1)) for at in range(0, layers, self.stride)
        ]


@dataclass(frozen=True)
class VAEStructure:
    """Hyperparameters: `hidden` are the encoder's layers behind the kernels, if there are any;
    the decoder has the same in reverse order. `outputs` numbers of the decoder per cell.

    scaled: there are a trainable factor and shift of every cell and of every condition but the
    first, for whoever prepares the numbers.
    """

    hidden: tuple[int, ...]
    latent: int
    kernels: Kernels | None = None
    outputs: int = 1
    scaled: bool = False


class VAE(nn.Module):
    """Encoder and decoder for layers of `cells` cells; the conditions (N, 1 + layers) are a number
    of the shower and one of each layer."""

    def __init__(self, cells: Sequence[int], structure: VAEStructure):
        super().__init__()
        self.structure = structure
        self.ends = [0, *accumulate(cells)]
        conditions, total = 1 + len(cells), self.ends[-1]
        kernels, latent, outputs = structure.kernels, structure.latent, structure.outputs
        self.groups = kernels.groups(len(cells)) if kernels else []
        between = len(self.groups) * kernels.latent if kernels else 0
        hidden = structure.hidden
        self.gather = perceptron((between or total) + conditions, *hidden, 2 * latent)
        self.spread = perceptron(latent + conditions, *hidden[::-1], between or total * outputs)
        self.reducers, self.expanders = nn.ModuleList(), nn.ModuleList()
        for first, last in self.groups[:1] if kernels and kernels.shared else self.groups:
            inside = self.ends[last] - self.ends[first]
            given = 2 if kernels.shared else conditions
            sizes = kernels.hidden
            self.reducers.append(perceptron(inside + given, *sizes, kernels.latent))
            self.expanders.append(
                perceptron(kernels.latent + given, *sizes[::-1], inside * outputs)
            )
        if structure.scaled:
            self.factor = nn.Parameter(torch.ones(total + conditions - 1))
            self.shift = nn.Parameter(torch.zeros(total + conditions - 1))

    def encode(self, values: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (N, latent) of one number per cell, (N, V)."""
        if self.groups:
            values = self._reduced(values, conditions)
        return self.gather(torch.cat([values, conditions], dim=1)).chunk(2, dim=1)

    def decode(self, latent: Tensor, conditions: Tensor) -> Tensor:
        """Numbers for every cell, (N, V, outputs), of latent numbers (N, latent)."""
        found = self.spread(torch.cat([latent, conditions], dim=1))
        if self.groups:
            found = self._expanded(found, conditions)
        return found.unflatten(1, (-1, self.structure.outputs))

    def _reduced(self, values: Tensor, conditions: Tensor) -> Tensor:
        if self.structure.kernels.shared:
            return self._in_layers(self.reducers[0], values, conditions)
        parts = (values[:, self.ends[a] : self.ends[b]] for a, b in self.groups)
        parts = zip(self.reducers, parts, strict=True)
        return torch.cat([net(torch.cat([part, conditions], 1)) for net, part in parts], dim=1)

    def _expanded(self, values: Tensor, conditions: Tensor) -> Tensor:
        if self.structure.kernels.shared:
            return self._in_layers(self.expanders[0], values, conditions)
        outputs = self.structure.outputs
        total = values.new_zeros(len(values), self.ends[-1] * outputs)
        parts = zip(self.expanders, values.chunk(len(self.groups), dim=1), strict=True)
        for (net, part), (a, b) in zip(parts, self.groups, strict=True):
            inside = slice(self.ends[a] * outputs, self.ends[b] * outputs)
            total[:, inside] += net(torch.cat([part, conditions], dim=1))
        return total

    def _in_layers(self, net: nn.Module, values: Tensor, conditions: Tensor) -> Tensor:
        layers = conditions.shape[1] - 1
        shower = conditions[:, :1].expand(-1, layers)
        given = torch.stack([shower, conditions[:, 1:]], dim=2)
        return net(torch.cat([values.unflatten(1, (layers, -1)), given], dim=2)).flatten(1)


def perceptron(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers = [step for pair in pairwise(sizes) for step in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence (N,) of the normal distributions (N, D) from the standard one."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=1)


def draw(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Latent numbers from standard normal noise, all (N, D)."""
    return mean + noise * (0.5 * log_variance).exp()
