"""How well a neural classifier tells generated showers from the reference.

The protocol is that of the CaloChallenge evaluation (arXiv:2410.21611) and, with 512 instead of
2048 nodes, of CaloFlow (arXiv:2210.14245, appendix A): three hidden layers with LeakyReLU, Adam
with learning rate 2e-4, batches of 1000, 50 epochs. Training stops early only at an accuracy of 1.
The showers of each class are split into three: "train" fits the weights, "test" selects the epoch
with the best accuracy and fits an isotonic calibration, "validation" gives the AUC and the
Jensen-Shannon divergence JSD = (ln 2 - BCE) / ln 2 of the calibrated probabilities. Label 1 is the
reference. A sample that cannot be told apart has AUC 0.5 and JSD 0.

Batches of 1000 suit the 60,000 and more showers per class of the published samples: 6,000 steps of
the optimiser. A sample of a few thousand would get a twentieth of that, and an untrained classifier
finds no difference. Smaller samples therefore take smaller batches (`default_batch`), so that the
number of steps stays what it was published with; a full-sized sample is treated as published.

The published code trains in float64; here inputs and weights are float32, which changes a single
training as another seed does (the spread over repeats contains it), and takes half the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score
from torch import nn
from tqdm import tqdm

from calostudy.datasets import Dataset
from calostudy.errors import DataError, UsageError
from calostudy.metrics.features import LOG_FLOOR, high_level_features
from calostudy.metrics.measurement import EPOCHS
from calostudy.metrics.observables import EPSILON, observables
from calostudy.showers import Showers

LEARNING_RATE = 2e-4
BATCH = 1000
STEPS_PER_EPOCH = 120  # of the published protocol: 2 x 60,000 showers in batches of 1000
SMALLEST_BATCH = 20
PROBABILITY_FLOOR = 1e-6  # of the calibrated probabilities, on both sides

MINIMUM_SHOWERS = 50  # per class: 10 of them for validation
TRUSTED_VALIDATION = 1000  # below it the AUC of equal samples fluctuates by more than 0.013
TRUSTED_STEPS = 2000  # of the optimiser; the published samples give 6,000 and more


# ---- inputs -----------------------------------------------------------------------------------


def low_level(showers: Showers, entry: Dataset) -> np.ndarray:
    """log10(E_inc / MeV) and cells / E_inc after the minimum-energy cut: float32 (N, cells + 1)."""
    energy = np.asarray(showers.incident_energy, dtype=np.float64)[:, None]
    cells = showers.above_threshold(entry.threshold).cells / energy
    return np.concatenate([np.log10(energy), cells], axis=1).astype(np.float32)


def low_level_normed(showers: Showers, entry: Dataset) -> np.ndarray:
    """log10 E_inc, cells / E_layer and log10 E_layer, without a cut: float32 (N, 1 + cells + L)."""
    energy = np.asarray(showers.incident_energy, dtype=np.float64)[:, None]
    layers = showers.layer_energies()
    cells = showers.cells / (layers + EPSILON)[:, showers.calorimeter.layer_index]
    columns = [np.log10(energy), cells, np.log10(layers + LOG_FLOOR)]
    return np.concatenate(columns, axis=1).astype(np.float32)


def high_level(showers: Showers, entry: Dataset) -> np.ndarray:
    """Shower shapes after the minimum-energy cut, see `high_level_features`: float32 (N, d)."""
    return high_level_features(observables(showers, entry.threshold), showers.incident_energy)


INPUTS: dict[str, Callable[[Showers, Dataset], np.ndarray]] = {
    "low": low_level,
    "low-normed": low_level_normed,
    "high": high_level,
}


# ---- one training -----------------------------------------------------------------------------


def default_hidden(entry: Dataset) -> int:
    """Nodes per hidden layer of the published evaluations: 2048, for CaloGAN data sets 512."""
    return 512 if entry.calorimeter.file_format == "calogan" else 2048


def network(features: int, hidden: int) -> nn.Sequential:
    """The classifier: features -> 3 x [hidden, LeakyReLU(0.01)] -> one logit."""
    sizes = [features, hidden, hidden, hidden]
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(sizes):
        layers += [nn.Linear(width_in, width_out), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers, nn.Linear(hidden, 1))


def default_batch(train: int) -> int:
    """Batch that keeps the published number of steps for `train` training showers per class.

    >>> default_batch(60_000), default_batch(80_000), default_batch(3_000)
    (1000, 1000, 50)
    """
    return min(BATCH, max(SMALLEST_BATCH, 2 * train // STEPS_PER_EPOCH))


Sample = tuple[torch.Tensor, torch.Tensor]


@torch.no_grad()
def _logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(part) for part in x.split(10_000)]).squeeze(1)


def _fit(
    model: nn.Module,
    train: Sample,
    test: Sample,
    epochs: int,
    batch: int,
    seed: int,
    bar: tqdm,
) -> nn.Module:
    """Train, and return the model as it was at the epoch with the best accuracy on `test`."""
    x, y = train
    shuffle = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    best, state = -1.0, None
    for epoch in range(epochs):
        for rows in torch.randperm(len(x), generator=shuffle).to(x.device).split(batch):
            optimiser.zero_grad(set_to_none=True)
            loss = nn.functional.binary_cross_entropy_with_logits(
                model(x[rows]).squeeze(1), y[rows]
            )
            loss.backward()
            optimiser.step()
        accuracy = ((_logits(model, test[0]) > 0) == (test[1] > 0.5)).double().mean().item()
        bar.update()
        bar.set_postfix(accuracy=f"{accuracy:.3f}")
        if accuracy > best:
            best = accuracy
            state = {name: value.clone() for name, value in model.state_dict().items()}
        if accuracy == 1.0:
            bar.update(epochs - 1 - epoch)
            break
    model.load_state_dict(state)
    return model


def _calibrated(model: nn.Module, test: Sample, validation: Sample) -> np.ndarray:
    """Probabilities of the validation showers after isotonic regression on the test showers."""
    scores = [
        torch.sigmoid(_logits(model, x)).double().cpu().numpy() for x, _ in (test, validation)
    ]
    regression = IsotonicRegression(
        y_min=PROBABILITY_FLOOR, y_max=1 - PROBABILITY_FLOOR, out_of_bounds="clip"
    ).fit(scores[0], test[1].double().cpu().numpy())
    return regression.predict(scores[1])


def jensen_shannon(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """JSD in units of ln 2 from calibrated probabilities of label 1: (ln 2 - BCE) / ln 2."""
    p = np.where(labels > 0.5, probabilities, 1 - probabilities)
    return float(1 + np.mean(np.log(p)) / np.log(2))


# ---- the protocol -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Classification:
    """AUC and JSD of repeated trainings, each (repeats,), and how they came about.

    showers: per class for training, test and validation. probabilities, labels: of the validation
    showers of the last training.
    """

    auc: np.ndarray
    jsd: np.ndarray
    showers: tuple[int, int, int]
    hidden: int
    epochs: int
    warnings: tuple[str, ...]
    probabilities: np.ndarray
    labels: np.ndarray

    def summary(self, score: str) -> tuple[float, float, str]:
        """Mean, uncertainty and the kind of uncertainty of "auc" or "jsd".

        Several trainings: their standard deviation. One: bootstrap over the validation showers.
        """
        values = getattr(self, score)
        if len(values) > 1:
            return float(values.mean()), float(values.std(ddof=1)), "spread over repeats"
        return float(values[0]), self._bootstrap(score), "bootstrap over validation showers"

    def _bootstrap(self, score: str, replicas: int = 100) -> float:
        function = {
            "auc": lambda p, y: roc_auc_score(y, p),
            "jsd": jensen_shannon,
        }[score]
        generator = np.random.default_rng(0)
        halves = [np.flatnonzero(self.labels == label) for label in (0, 1)]
        values = []
        for _ in range(replicas):
            rows = np.concatenate([generator.choice(half, len(half)) for half in halves])
            values.append(function(self.probabilities[rows], self.labels[rows]))
        return float(np.std(values, ddof=1))


def split_sizes(entry: Dataset, showers: int) -> tuple[int, int, int]:
    """Showers per class for training, test and validation: the data set's, else 60/20/20 %."""
    official = entry.classifier_split
    if official and showers >= sum(official):
        return official
    train, test = int(0.6 * showers), int(0.2 * showers)
    return train, test, showers - train - test


def classify(
    generated: Showers,
    reference: Showers,
    entry: Dataset,
    *,
    inputs: str = "low",
    hidden: int | None = None,
    repeats: int = 5,
    epochs: int = EPOCHS,
    batch: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
) -> Classification:
    """Train the classifier `repeats` times, each with another split and other initial weights.

    inputs: "low", "low-normed" or "high" (see `INPUTS`); hidden: nodes per hidden layer, by
    default `default_hidden`; batch: of both classes together, by default `default_batch`. The
    same seed gives the same numbers on one thread.
    Raises DataError for samples of unequal or too small size, UsageError for unknown inputs.
    """
    if inputs not in INPUTS:
        raise UsageError(f"classifier inputs {inputs!r}: expected one of {', '.join(INPUTS)}")
    if min(repeats, epochs) < 1 or (batch is not None and batch < 1):
        raise UsageError(
            f"classifier: {repeats} repeats of {epochs} epochs in batches of {batch}; "
            "expected at least 1 of each"
        )
    if len(generated) != len(reference):
        raise DataError(
            f"classifier: {len(generated)} generated and {len(reference)} reference showers; "
            "expected equal numbers, otherwise AUC and JSD are not those of the protocol"
        )
    if len(generated) < MINIMUM_SHOWERS:
        raise DataError(
            f"classifier: {len(generated)} showers per class are too few to split into training, "
            f"test and validation; expected at least {MINIMUM_SHOWERS}"
        )
    hidden = hidden or default_hidden(entry)
    sizes = split_sizes(entry, len(generated))
    batch = batch or default_batch(sizes[0])
    features = [
        torch.from_numpy(INPUTS[inputs](showers, entry)) for showers in (generated, reference)
    ]
    for label, array in zip(("generated", "reference"), features, strict=True):
        if not bool(torch.isfinite(array).all()):
            raise DataError(f"classifier: the {label} showers give inputs that are not finite")

    auc, jsd = [], []
    with tqdm(
        total=repeats * epochs, desc=f"classifier ({inputs})", disable=None if progress else True
    ) as bar:
        for repeat in range(repeats):
            seeds = np.random.SeedSequence([seed, repeat]).generate_state(3)
            train, test, validation = _split(features, sizes, int(seeds[0]), device)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(seeds[1]))
                model = network(features[0].shape[1], hidden).float().to(device)
            model = _fit(model, train, test, epochs, batch, int(seeds[2]), bar)
            probabilities = _calibrated(model, test, validation)
            labels = validation[1].double().cpu().numpy()
            auc.append(roc_auc_score(labels, probabilities))
            jsd.append(jensen_shannon(probabilities, labels))
    return Classification(
        np.array(auc),
        np.array(jsd),
        sizes,
        hidden,
        epochs,
        _warnings(sizes, epochs * math.ceil(2 * sizes[0] / batch)),
        probabilities,
        labels,
    )


def _split(
    features: list[torch.Tensor], sizes: tuple[int, int, int], seed: int, device: str
) -> list[Sample]:
    """Shuffle each class and deal it to training, test and validation; labels 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    deals = [
        torch.randperm(len(x), generator=generator)[: sum(sizes)].split(sizes) for x in features
    ]
    samples = []
    for rows in zip(*deals, strict=True):
        x = torch.cat([array[part] for array, part in zip(features, rows, strict=True)])
        y = torch.cat([torch.full((len(part),), float(i)) for i, part in enumerate(rows)])
        samples.append((x.to(device), y.to(device)))
    return samples


def _warnings(sizes: tuple[int, int, int], steps: int) -> tuple[str, ...]:
    warnings = []
    if sizes[2] < TRUSTED_VALIDATION:
        warnings.append(
            f"classifier: only {sizes[2]} validation showers per class: the AUC of two equal "
            f"samples fluctuates by ±{math.sqrt(1 / (6 * sizes[2])):.3f}"
        )
    if steps < TRUSTED_STEPS:
        warnings.append(
            f"classifier: {steps} steps of the optimiser with {sizes[0]} showers per class, "
            "published ones take 6,000 and more: the AUC is a lower bound, not comparable with them"
        )
    return tuple(warnings)
