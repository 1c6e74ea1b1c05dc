"""A generator that grows a tree of points: every node branches into a few, each into a few again.

Scham, Krücker & Borras, arXiv:2311.12616 (DeepTreeGAN). The root is noise. On each level every
node is turned, together with what all nodes of the level say in the mean and the conditions of the
set, into its children, which keep a part of it; they then hear of all their ancestors. The leaves
are the points; of the tree's leaves a set has as many as it needs.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

_SLOPE = 0.1


@dataclass(frozen=True)
class TreeStructure:
    """Hyperparameters: children of each node and numbers of a node by level, the root first; nodes
    of the two hidden layers of each perceptron; numbers that a level says of itself."""

    branches: tuple[int, ...]
    features: tuple[int, ...]
    hidden: int
    told: int = 10

    @property
    def leaves(self) -> int:
        """How many points a tree has."""
        return math.prod(self.branches)


class _Perceptron(nn.Sequential):
    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__(
            *(nn.Linear(inputs, hidden), nn.LeakyReLU(_SLOPE)),
            *(nn.Linear(hidden, hidden), nn.LeakyReLU(_SLOPE)),
            nn.Linear(hidden, outputs),
        )


class _Level(nn.Module):
    """From the nodes of one level (N, P, D) to those of the next (N, P * branches, E)."""

    def __init__(self, width: int, narrower: int, branches: int, conditions: int, structure):
        super().__init__()
        hidden, self.branches, self.narrower = structure.hidden, branches, narrower
        self.say = _Perceptron(width, hidden, hidden)
        self.summarise = _Perceptron(hidden + conditions, hidden, structure.told)
        given = width + structure.told + conditions
        self.branch = _Perceptron(given, hidden, width * branches)
        self.reduce = _Perceptron(width, hidden, narrower)
        self.hear = _Perceptron(2 * narrower + conditions + structure.told, hidden, narrower)

    def forward(self, nodes: Tensor, ancestors: list[Tensor], conditions: Tensor) -> Tensor:
        parents = nodes.shape[1]
        said = self.summarise(torch.cat([self.say(nodes).mean(dim=1), conditions], dim=1))
        given = torch.cat([conditions, said], dim=1)[:, None]
        children = self.branch(torch.cat([nodes, given.expand(-1, parents, -1)], dim=2))
        children = children.unflatten(2, (self.branches, -1)) + nodes[:, :, None]
        children = self.reduce(children.flatten(1, 2))
        count = children.shape[1]
        heard = sum(
            level[:, :, : self.narrower].repeat_interleave(count // level.shape[1], dim=1)
            for level in ancestors
        )
        parts = [children, heard, given.expand(-1, count, -1)]
        return children + self.hear(torch.cat(parts, dim=2))


class TreeGenerator(nn.Module):
    """Noise of sets (N, D) and conditions (N, C) to the leaves (N, P, E)."""

    def __init__(self, structure: TreeStructure, conditions: int):
        super().__init__()
        self.structure = structure
        self.levels = nn.ModuleList(
            _Level(width, narrower, branches, conditions, structure)
            for (width, narrower), branches in zip(
                pairwise(structure.features), structure.branches, strict=True
            )
        )

    def forward(self, noise: Tensor, conditions: Tensor) -> Tensor:
        nodes, ancestors = noise[:, None], []
        for level in self.levels:
            ancestors.append(nodes)
            nodes = level(nodes, ancestors, conditions)
        return nodes
