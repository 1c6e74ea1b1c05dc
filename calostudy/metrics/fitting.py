"""Training of the neural classifiers: what the binary and the multi-class protocol share.

Batches of 1000 suit the 60,000 and more showers per class of the published samples. A sample of a
few thousand would get a twentieth of the optimiser's steps, and an untrained classifier finds no
difference. Smaller samples therefore take smaller batches (`default_batch`), so that the number of
steps stays what it was published with; a full-sized sample is treated as published.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

LEARNING_RATE = 2e-4
BATCH = 1000
STEPS_PER_EPOCH = 60  # for each class, published: 60,000 showers of it in batches of 1000
SMALLEST_BATCH = 20
AT_ONCE = 250  # showers scored together; more would not be faster, and the ResNet needs memory

Labelled = tuple[torch.Tensor, torch.Tensor]
"""Inputs (N, features) and labels (N,)."""


class Training(NamedTuple):
    """A trained network, and the showers of the split that it came from.

    rows: of the validation showers in the samples of their classes (classes, V).
    """

    model: nn.Module
    test: Labelled
    validation: Labelled
    rows: np.ndarray


def network(features: int, hidden: int, depth: int = 3, outputs: int = 1) -> nn.Sequential:
    """A perceptron: features -> depth x [hidden, LeakyReLU(0.01)] -> logits."""
    sizes = [features, *[hidden] * depth]
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(sizes):
        layers += [nn.Linear(width_in, width_out), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))


def default_batch(train: int) -> int:
    """Batch that keeps the published number of steps for `train` training showers per class.

    >>> default_batch(60_000), default_batch(80_000), default_batch(3_000)
    (1000, 1000, 50)
    """
    return min(BATCH, max(SMALLEST_BATCH, train // STEPS_PER_EPOCH))


def steps(showers: int, batch: int) -> int:
    """Steps of the optimiser in an epoch of that many showers, all classes together."""
    return math.ceil(showers / batch)


@torch.no_grad()
def scores(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Logits (N, outputs) of the trained network: batch normalisation uses what it has learnt."""
    model.eval()
    return torch.cat([model(part) for part in x.split(AT_ONCE)])


def _fit(
    model: nn.Module,
    train: Labelled,
    test: Labelled,
    *,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    quality: Callable[[torch.Tensor, torch.Tensor], float],
    epochs: int,
    batch: int,
    seed: int,
    bar: tqdm,
) -> None:
    """Train, and leave the model as it was at the epoch with the best quality on `test`.

    loss, quality: of logits (N, outputs) and labels (N,). A quality of 1 is perfect and ends the
    training.
    """
    x, y = train
    shuffle = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    best, state = -math.inf, model.state_dict()
    for epoch in range(epochs):
        model.train()
        order = torch.randperm(len(x), generator=shuffle).to(x.device)
        # parts of one size: batch normalisation cannot do with one shower that is left over
        for rows in order.tensor_split(steps(len(x), batch)):
            optimiser.zero_grad(set_to_none=True)
            loss(model(x[rows]), y[rows]).backward()
            optimiser.step()
        found = quality(scores(model, test[0]), test[1])
        bar.update()
        bar.set_postfix(quality=f"{found:.3f}")
        if found > best:
            best, state = found, copy.deepcopy(model.state_dict())
        if found == 1.0:
            bar.update(epochs - 1 - epoch)
            break
    model.load_state_dict(state)


def trainings(
    features: Sequence[torch.Tensor],
    sizes: tuple[int, int, int],
    build: Callable[[], nn.Module],
    *,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    quality: Callable[[torch.Tensor, torch.Tensor], float],
    repeats: int,
    epochs: int,
    batch: int,
    seed: int,
    device: str,
    title: str,
    progress: bool,
) -> Iterator[Training]:
    """Repeated trainings, each with another split and other initial weights.

    features: (N, d) of each class, which is labelled by its place. sizes: showers of each class for
    training, test and validation. build: makes an untrained network. Global random numbers stay as
    they are.
    """
    with tqdm(total=repeats * epochs, desc=title, disable=None if progress else True) as bar:
        for repeat in range(repeats):
            seeds = np.random.SeedSequence([seed, repeat]).generate_state(3)
            train, test, validation, rows = _dealt(features, sizes, int(seeds[0]), device)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(seeds[1]))
                model = build().to(device)
            _fit(
                model,
                train,
                test,
                loss=loss,
                quality=quality,
                epochs=epochs,
                batch=batch,
                seed=int(seeds[2]),
                bar=bar,
            )
            yield Training(model, test, validation, rows)


def _dealt(
    features: Sequence[torch.Tensor], sizes: tuple[int, int, int], seed: int, device: str
) -> tuple[Labelled, Labelled, Labelled, np.ndarray]:
    """Shuffle each class and deal it to training, test and validation; and rows of the latter."""
    generator = torch.Generator().manual_seed(seed)
    deals = [
        torch.randperm(len(x), generator=generator)[: sum(sizes)].split(sizes) for x in features
    ]
    parts = []
    for rows in zip(*deals, strict=True):
        x = torch.cat([array[part] for array, part in zip(features, rows, strict=True)])
        y = torch.arange(len(features)).repeat_interleave(len(rows[0]))
        parts.append((x.to(device), y.to(device)))
    return *parts, torch.stack(rows).numpy()
