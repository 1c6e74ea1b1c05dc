"""What the numbers of CaloVAE+INN's decoder say of the cells.

Their fractions of the layer's energy, as published, or how these are distributed.

Both kinds have the same methods. `fractions` are those of a layer's energy in its cells, `said` is
what a decoder says of each cell, `lowest` the logarithm of the fraction at the threshold, `EMPTY`
in a layer without energy.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.special import log_ndtr, ndtr, ndtri

from calostudy import preprocessing as pre
from calostudy.energies import GEV

EMPTY = 1.0  # in place of a log fraction, where the layer is empty


@dataclass(frozen=True)
class Limits:
    """Of a dataset: the largest incident energy in MeV, the largest deposited / incident energy."""

    incident: float
    response: float


@dataclass(frozen=True)
class Fractions:
    """The published decoder: one number per cell, the logit of its fraction of the layer."""

    alpha: float
    gamma: float = 1e4
    beta: float = 1e-5
    share: float = 0.9  # what a full layer's cell has, so that its logit is finite

    def values(self, fractions: Tensor) -> tuple[Tensor, Tensor]:
        """What is averaged of each cell and its weight, both (B, V); of fractions (B, V)."""
        values = pre.logit(self.share * fractions, self.alpha)
        return values, torch.ones_like(values)

    def conditions(self, incident: Tensor, energies: Tensor, limits: Limits) -> Tensor:
        """Logits (B, 1 + L) of incident energies (B,) and of the u's of layer energies (B, L),
        both in MeV."""
        u = pre.energy_fractions(energies, incident, limits.response)
        given = torch.cat([(incident / limits.incident)[:, None], u], dim=1)
        return pre.logit((given / 1.15).clamp(0.0, 1.0), self.alpha)

    def norm(self, weight: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
        """Where the decoder's numbers begin and their spread (R, 1), from moments (R,) of rings."""
        return mean[:, None], deviation[:, None]

    def seen(self, fractions: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
        """What the encoder sees, (B, V); centre and spread (V, 1)."""
        return (self.values(fractions)[0] - centre[:, 0]) / spread[:, 0]

    def loss(self, said: Tensor, fractions: Tensor, lowest: Tensor, slices: pre.Slices) -> Tensor:
        """Of each shower, (B,): the cross entropy of its fractions; said (B, V, 1)."""
        found = self.drawn(said, None, lowest, slices)
        found = self.share * pre.normalise_layers(found, slices)
        crossed = F.binary_cross_entropy(found, self.share * fractions, reduction="none")
        return 0.5 * self.gamma * crossed.mean(dim=1)

    def drawn(
        self, said: Tensor, random: Tensor | None, lowest: Tensor, slices: pre.Slices
    ) -> Tensor:
        """Fractions (B, V) up to a factor of each layer."""
        return pre.inverse_logit(said[..., 0], self.alpha) / self.share


@dataclass(frozen=True)
class Hits:
    """Three numbers per cell: the logit of the probability of a hit, the mean and the log width
    of the normal distribution of the hit's log fraction, cut off below the threshold."""

    beta: float = 1.0

    def values(self, fractions: Tensor) -> tuple[Tensor, Tensor]:
        hit = fractions > 0
        return torch.where(hit, fractions, 1.0).log(), hit.to(fractions.dtype)

    def conditions(self, incident: Tensor, energies: Tensor, limits: Limits) -> Tensor:
        """Logarithms (B, 1 + L) of incident energies (B,) and of layer energies (B, L)."""
        layers = pre.log_layers(pre.to_units(energies), 0.0)
        return torch.cat([(incident / GEV).log10()[:, None], layers], dim=1)

    def norm(self, weight: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(mean)
        return (
            torch.stack([weight.logit(1e-4), mean, deviation.log()], dim=1),
            torch.stack([one, deviation, one], dim=1),
        )

    def seen(self, fractions: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
        logs, hit = self.values(fractions)
        return torch.where(hit > 0, (logs - centre[:, 1]) / spread[:, 1], -3.0)

    def loss(self, said: Tensor, fractions: Tensor, lowest: Tensor, slices: pre.Slices) -> Tensor:
        """Of each shower, (B,): minus the log-likelihood; said (B, V, 3), lowest (B, V)."""
        hit, known = fractions > 0, lowest < EMPTY  # the cells of an empty layer are no news
        missed = F.binary_cross_entropy_with_logits(said[..., 0], hit.to(said), reduction="none")
        _, mean, width = self._parameters(said[hit])
        below = self._below(lowest[hit], mean, width)
        pull = (fractions[hit].log() - mean) / width
        depth = 0.5 * pull.square() + width.log() + log_ndtr(-below)
        total = torch.where(known, missed, 0.0).sum(dim=1)
        return total.index_add(0, hit.nonzero()[:, 0], depth)

    def drawn(
        self, said: Tensor, random: Tensor | None, lowest: Tensor, slices: pre.Slices
    ) -> Tensor:
        """Fractions (B, V) that sum to 1 in each layer, from uniform random numbers (B, V)."""
        found = self.hits(said, random, lowest, slices)
        return torch.cat([self._filled(found[:, s], lowest[:, s].exp()) for s in slices], dim=1)

    def hits(self, said: Tensor, random: Tensor, lowest: Tensor, slices: pre.Slices) -> Tensor:
        """Fractions (B, V) from the distribution of each cell by itself."""
        chance, mean, width = self._parameters(said)
        chance = chance.sigmoid()
        margin = chance - random
        # The likeliest cell of a layer without any other hit is hit.
        layers = [margin[:, s] for s in slices]
        least = [m.amax(dim=1, keepdim=True).clamp(max=0.0).expand_as(m) for m in layers]
        rank = random / chance  # uniform among the hits
        rank = torch.where(rank < 1.0, rank, 0.5)
        logs = mean - width * ndtri(ndtr(-self._below(lowest, mean, width)) * rank)
        hit = margin >= torch.cat(least, dim=1)
        return torch.where(hit, logs.clamp(max=0.0).exp(), 0.0)

    @staticmethod
    def _filled(fractions: Tensor, least: Tensor) -> Tensor:
        """Of one layer, with what is above the threshold scaled so that the sum is 1: a hit stays
        a hit. Hits that would need more than the layer's energy are left as they are."""
        least = torch.where(fractions > 0, least, 0.0)
        needed = least.sum(dim=1, keepdim=True)
        above = (fractions - least).clamp_min(0.0)
        factor = (1.0 - needed) / above.sum(dim=1, keepdim=True).clamp_min(1e-30)
        return torch.where(needed < 1.0, least + above * factor, fractions)

    @staticmethod
    def _parameters(said: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        chance, mean, width = said.unbind(dim=-1)
        return chance, mean, width.clamp(-2.0, 2.0).exp()

    @staticmethod
    def _below(lowest: Tensor, mean: Tensor, width: Tensor) -> Tensor:
        """The threshold in units of the distribution, but not so far that it has no hits."""
        return ((lowest - mean) / width).clamp(-20.0, 5.0)


def ring_moments(
    decoder: Fractions | Hits, parts: Iterable[Tensor], rings: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Where a decoder's numbers begin in each ring of cells and their spread, both (R, outputs).

    parts: the fractions (N, V) of the training showers, piece by piece; rings: which ring of its
    layer each cell is in, counted through all layers (V,).
    """
    moments, showers = np.zeros((3, len(rings))), 0
    for fractions in parts:
        values, weight = decoder.values(fractions)
        sums = (weight, weight * values, weight * values.square())
        moments += np.array([each.sum(dim=0).numpy(force=True) for each in sums])
        showers += len(fractions)
    found = torch.as_tensor(np.array([np.bincount(rings, sums) for sums in moments]))
    size = torch.as_tensor(np.bincount(rings)) * showers
    # A ring with fewer hits is taken for an average one.
    few = torch.where(found[0] < 10.0, 1.0, 0.0)
    count, first, second = found + few * 10.0 * found.sum(1, keepdim=True) / found[0].sum()
    mean = first / count
    deviation = (second / count - mean.square()).clamp_min(1e-2).sqrt()
    return decoder.norm(found[0] / size, mean, deviation)
