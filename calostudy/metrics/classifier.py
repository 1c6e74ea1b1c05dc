"""How well a neural classifier tells generated showers from the reference.

The protocol is that of the CaloChallenge evaluation (arXiv:2410.21611) and, with 512 instead of
2048 nodes, of CaloFlow (arXiv:2210.14245, appendix A): three hidden layers with LeakyReLU, Adam
with learning rate 2e-4, batches of 1000, 50 epochs. Training stops early only at an accuracy of 1.
The showers of each class are split into three: "train" fits the weights, "test" selects the epoch
with the best accuracy and fits an isotonic calibration, "validation" gives the AUC and the
Jensen-Shannon divergence JSD = (ln 2 - BCE) / ln 2 of the calibrated probabilities. Label 1 is the
reference. A sample that cannot be told apart has AUC 0.5 and JSD 0.

The published code trains in float64; here inputs and weights are float32, which changes a single
training as another seed does (the spread over repeats contains it), and takes half the time.

The convolutional classifier ("resnet") is trained and scored in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.isotonic import IsotonicRegression
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from calostudy.datasets import Dataset
from calostudy.errors import DataError, UsageError
from calostudy.metrics.features import LOG_FLOOR, high_level_features
from calostudy.metrics.fitting import (
    Labelled,
    default_batch,
    network,
    scores,
    steps,
    trainings,
)
from calostudy.metrics.measurement import EPOCHS, Parts
from calostudy.metrics.observables import EPSILON, observables
from calostudy.metrics.ranges import LEAST, EnergyRange
from calostudy.metrics.resnet import ResNet
from calostudy.showers import Showers

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
    values = observables(showers, entry.threshold)
    return high_level_features(values, showers.incident_energy).astype(np.float32)


INPUTS: dict[str, Callable[[Showers, Dataset], np.ndarray]] = {
    "low": low_level,
    "low-normed": low_level_normed,
    "high": high_level,
    "resnet": low_level,
}


# ---- one training -----------------------------------------------------------------------------


def default_hidden(entry: Dataset) -> int:
    """Nodes per hidden layer of the published evaluations: 2048, for CaloGAN data sets 512."""
    return 512 if entry.calorimeter.file_format == "calogan" else 2048


def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of logits (N, 1) and labels (N,)."""
    return binary_cross_entropy_with_logits(logits.squeeze(1), labels.float())


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of logits (N, 1) on the side of their labels (N,)."""
    return ((logits.squeeze(1) > 0) == (labels > 0)).double().mean().item()


def _calibrated(model: nn.Module, test: Labelled, validation: Labelled) -> np.ndarray:
    """Probabilities of the validation showers after isotonic regression on the test showers."""
    raw = [
        torch.sigmoid(scores(model, x)).squeeze(1).double().cpu().numpy()
        for x, _ in (test, validation)
    ]
    regression = IsotonicRegression(
        y_min=PROBABILITY_FLOOR, y_max=1 - PROBABILITY_FLOOR, out_of_bounds="clip"
    ).fit(raw[0], test[1].double().cpu().numpy())
    return regression.predict(raw[1])


def jensen_shannon(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """JSD in units of ln 2 from calibrated probabilities of label 1: (ln 2 - BCE) / ln 2."""
    p = np.where(labels > 0.5, probabilities, 1 - probabilities)
    return float(1 + np.mean(np.log(p)) / np.log(2))


# ---- the protocol -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Classification:
    """AUC and JSD of repeated trainings, each (repeats,), and how they came about.

    showers: V per class for validation after those for training and test. hidden: None for the
    ResNet. probabilities: calibrated, that a validation shower is of the reference (repeats, 2 V).
    labels: 0 for generated, 1 for reference (2 V,). rows: which shower of its own sample each is
    (repeats, 2 V).
    """

    auc: np.ndarray
    jsd: np.ndarray
    showers: tuple[int, int, int]
    hidden: int | None
    epochs: int
    warnings: tuple[str, ...]
    probabilities: np.ndarray
    labels: np.ndarray
    rows: np.ndarray

    def summary(self, score: str) -> tuple[float, float, str]:
        """Mean, uncertainty and the kind of uncertainty of "auc" or "jsd".

        Several trainings: their standard deviation. One: bootstrap over the validation showers.
        """
        values = getattr(self, score)
        if len(values) > 1:
            return float(values.mean()), float(values.std(ddof=1)), "spread over repeats"
        error = _bootstrap(SCORES[score], self.probabilities[0], self.labels)
        return float(values[0]), error, "bootstrap over validation showers"

    def by_range(
        self,
        generated: np.ndarray,
        reference: np.ndarray,
        ranges: Sequence[EnergyRange],
        score: str = "auc",
    ) -> Parts:
        """Range -> mean and uncertainty of a score of the validation showers in that range.

        generated, reference: incident energies (N,) in MeV of the samples that were classified.
        Uncertainties as in `summary`. Ranges with fewer than 50 validation showers of a class in
        any of the trainings are left out.
        """
        energies = np.where(self.labels == 1, reference[self.rows], generated[self.rows])
        found = {}
        for each in ranges:
            inside = each.holds(energies)
            fewest = min(inside[:, self.labels == label].sum(axis=1).min() for label in (0, 1))
            if fewest < LEAST:
                continue
            parts = [
                (p[mask], self.labels[mask])
                for p, mask in zip(self.probabilities, inside, strict=True)
            ]
            values = [SCORES[score](*part) for part in parts]
            several = len(values) > 1
            error = np.std(values, ddof=1) if several else _bootstrap(SCORES[score], *parts[0])
            found[each.label] = (float(np.mean(values)), float(error))
        return found


def _auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of the pairs of both classes in the right order, ties half: by ranks, at once."""
    ranks, ones = rankdata(probabilities), labels == 1
    first, second = np.count_nonzero(ones), np.count_nonzero(~ones)
    return float((ranks[ones].sum() - first * (first + 1) / 2) / (first * second))


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "auc": _auc,
    "jsd": jensen_shannon,
}
"""Score -> function of calibrated probabilities and labels."""


def _bootstrap(
    score: Callable[[np.ndarray, np.ndarray], float],
    probabilities: np.ndarray,
    labels: np.ndarray,
    replicas: int = 100,
) -> float:
    """Standard deviation of a score when the showers of each class are drawn with replacement."""
    generator = np.random.default_rng(0)
    halves = [np.flatnonzero(labels == label) for label in (0, 1)]
    values = []
    for _ in range(replicas):
        rows = np.concatenate([generator.choice(half, len(half)) for half in halves])
        values.append(score(probabilities[rows], labels[rows]))
    return float(np.std(values, ddof=1))


def split_sizes(entry: Dataset, showers: int) -> tuple[int, int, int]:
    """Showers per class for training, test and validation: the data set's, else 60/20/20 %."""
    official = entry.classifier_split
    if official and showers >= sum(official):
        return official
    train, test = int(0.6 * showers), int(0.2 * showers)
    return train, test, showers - train - test


def check_protocol(
    generated: Showers, reference: Showers, repeats: int, epochs: int, batch: int | None
) -> None:
    """Refuse what cannot be split and trained on: UsageError, or DataError for the samples."""
    if min(repeats, epochs) < 1 or (batch is not None and batch < 2):
        raise UsageError(
            f"classifier: {repeats} repeats of {epochs} epochs in batches of {batch}; "
            "expected at least 1 repeat, 1 epoch and batches of 2"
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

    inputs: "low", "low-normed" or "high" (see `INPUTS`), or "resnet" for the convolutional
    classifier of the low-level inputs; hidden: nodes per hidden layer, by default `default_hidden`,
    without meaning to the ResNet; batch: of both classes together, by default `default_batch`. The
    same seed gives the same numbers on one thread.
    Raises DataError for samples of unequal or too small size, UsageError for unknown inputs and
    for a ResNet on a calorimeter whose layers differ in shape.
    """
    if inputs not in INPUTS:
        raise UsageError(f"classifier inputs {inputs!r}: expected one of {', '.join(INPUTS)}")
    check_protocol(generated, reference, repeats, epochs, batch)
    hidden = None if inputs == "resnet" else hidden or default_hidden(entry)
    sizes = split_sizes(entry, len(generated))
    batch = batch or default_batch(sizes[0])
    features = [
        torch.from_numpy(INPUTS[inputs](showers, entry)) for showers in (generated, reference)
    ]
    for label, array in zip(("generated", "reference"), features, strict=True):
        if not bool(torch.isfinite(array).all()):
            raise DataError(f"classifier: the {label} showers give inputs that are not finite")

    probabilities, rows = [], []
    for training in trainings(
        features,
        sizes,
        _builder(entry, features[0].shape[1], hidden),
        loss=loss,
        quality=accuracy,
        repeats=repeats,
        epochs=epochs,
        batch=batch,
        seed=seed,
        device=device,
        title=f"classifier ({inputs})",
        progress=progress,
    ):
        probabilities.append(_calibrated(training.model, training.test, training.validation))
        rows.append(training.rows.ravel())
    labels = np.repeat([0, 1], sizes[2])
    return Classification(
        *(np.array([score(p, labels) for p in probabilities]) for score in SCORES.values()),
        sizes,
        hidden,
        epochs,
        _warnings(sizes, epochs * steps(2 * sizes[0], batch)),
        np.array(probabilities),
        labels,
        np.array(rows),
    )


def _builder(entry: Dataset, features: int, hidden: int | None) -> Callable[[], nn.Module]:
    """What makes the untrained network: a perceptron, or the ResNet where there is no `hidden`."""
    if hidden:
        return lambda: network(features, hidden)
    return lambda: ResNet(entry.calorimeter)


def _warnings(sizes: tuple[int, int, int], taken: int) -> tuple[str, ...]:
    warnings = []
    if sizes[2] < TRUSTED_VALIDATION:
        warnings.append(
            f"classifier: only {sizes[2]} validation showers per class: the AUC of two equal "
            f"samples fluctuates by ±{math.sqrt(1 / (6 * sizes[2])):.3f}"
        )
    if taken < TRUSTED_STEPS:
        warnings.append(
            f"classifier: {taken} steps of the optimiser with {sizes[0]} showers per class, "
            "published ones take 6,000 and more: the AUC is a lower bound, not comparable with them"
        )
    return tuple(warnings)
