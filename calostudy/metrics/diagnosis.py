"""Where a model gives itself away: which layers and cells tell its showers from the reference.

Two views. One cell at a time: the difference of its means, and its AUC. And what a classifier of
all cells together goes by: the low-level classifier of the CaloChallenge evaluation, whose
log-odds are traced back to the cells by integrated gradients (Sundararajan et al.,
arXiv:1703.01365) along the straight line from a generated shower to a reference shower of the same
incident energy. The importances of all cells add up to the mean difference of the log-odds, so that
the share of a layer is the part of the separation that comes through it. A negative share speaks
for the wrong sample, and takes away what others have to make up for.

Differences from the classifier that gives the AUC of `evaluate`: each input is shifted and scaled
to mean 0 and standard deviation 1. A calorimeter's first and last layers have a per cent of the
energy, which cells in units of the incident energy hide from the network. Of twelve defects planted
into 1,000 Geant4 e+ showers (a layer scaled by 1.3 or 0.9, its cells permuted, four of its cells
off) one training finds the layer of eleven, and three together that of all, the weakest with a
warning. With inputs as in `evaluate` one finds eight. The mean size of the gradient times the
standard deviation of the input finds eight and seven: it is large wherever cells fluctuate, even
where the samples are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score
from torch import nn

from calostudy.calorimeter import Calorimeter
from calostudy.datasets import Dataset
from calostudy.errors import UsageError
from calostudy.metrics.classifier import (
    accuracy,
    check_protocol,
    default_hidden,
    loss,
    low_level,
    split_sizes,
)
from calostudy.metrics.fitting import Training, default_batch, network, scores, trainings
from calostudy.metrics.measurement import EPOCHS
from calostudy.metrics.sample import check
from calostudy.showers import Showers

QUICK_SHOWERS = 2000  # of each sample
QUICK_NODES = 128
QUICK_REPEATS = 2
LARGEST = 10.0  # standard deviations that the classifier is shown: a rare cell has many
STEPS = 16  # of the integral along the line
DISTINCT = 2.0  # standard deviations of the AUC from 0.5, below which nothing is seen


@dataclass(frozen=True)
class Diagnosis:
    """Importances and single differences of the cells, in the order of the calorimeter.

    importance: part of the difference of the log-odds that comes through each cell, in each of the
    trainings (repeats, cells). significance: difference of the mean cell / E_inc, generated minus
    reference, in its standard deviations (cells,); cell_auc: of each cell alone, above 0.5 where
    generated showers have more (cells,). layer_significance, layer_auc: the same of the layers'
    energies (layers,). auc: of the classifier of all cells (repeats,). Cells are those after the
    minimum-energy cut.
    """

    calorimeter: Calorimeter
    importance: np.ndarray
    significance: np.ndarray
    cell_auc: np.ndarray
    layer_significance: np.ndarray
    layer_auc: np.ndarray
    auc: np.ndarray
    warnings: tuple[str, ...]

    def shares(self) -> dict[int, tuple[float, float]]:
        """Layer -> its share of the separation and the spread over trainings, the largest first."""
        layers = np.add.reduceat(
            self.importance, [place.start for place in self.calorimeter.slices], axis=1
        )
        # ratio of means: a training that sees little would have wild shares of its own
        total = layers.sum(axis=1, keepdims=True)
        share = layers.mean(axis=0) / total.mean()
        spread = (layers - share * total).std(axis=0, ddof=1) / abs(total.mean())
        ids = self.calorimeter.layer_ids
        return {ids[i]: (float(share[i]), float(spread[i])) for i in np.argsort(-share)}

    def cells(self) -> np.ndarray:
        """Mean importance over trainings (cells,); all together they are the separation."""
        return self.importance.mean(axis=0)


def diagnose(
    generated: Showers,
    reference: Showers,
    entry: Dataset,
    *,
    hidden: int | None = None,
    repeats: int = 3,
    epochs: int = EPOCHS,
    batch: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
) -> Diagnosis:
    """Find the cells and layers in which generated showers differ from the reference.

    Showers are dealt and classifiers trained as in `classify`, `repeats` times (two at least, for
    their spread); validation showers are explained.

    Raises DataError for showers that are not of the dataset, unequal numbers or too few of them,
    UsageError for a single training.
    """
    if repeats < 2:
        raise UsageError(f"diagnosis: {repeats} repeats, expected two at least for their spread")
    check(generated, entry, "generated")
    check(reference, entry, "reference")
    check_protocol(generated, reference, repeats, epochs, batch)
    hidden = hidden or default_hidden(entry)
    sizes = split_sizes(entry, len(generated))
    inputs = [low_level(showers, entry) for showers in (generated, reference)]
    features = _standardised([torch.from_numpy(x) for x in inputs])
    importance, auc = [], []
    for training in trainings(
        features,
        sizes,
        lambda: network(features[0].shape[1], hidden),
        loss=loss,
        quality=accuracy,
        repeats=repeats,
        epochs=epochs,
        batch=batch or default_batch(sizes[0]),
        seed=seed,
        device=device,
        title="diagnosis",
        progress=progress,
    ):
        importance.append(_importance(training)[1:])  # without the incident energy
        logits = scores(training.model, training.validation[0]).squeeze(1)
        auc.append(roc_auc_score(training.validation[1].cpu(), logits.double().cpu()))
    geometry = entry.calorimeter
    cells = [x[:, 1:] for x in inputs]
    layers = [geometry.layer_energies(x) for x in cells]
    return Diagnosis(
        geometry,
        np.array(importance),
        _by_layer(_significance, geometry, *cells),
        _by_layer(_auc, geometry, *cells),
        _significance(*layers),
        _auc(*layers),
        np.array(auc),
        _warnings(np.array(auc), sizes[2]),
    )


def _standardised(features: list[torch.Tensor]) -> list[torch.Tensor]:
    """Shifted and scaled by what both samples are together, so that neither is special."""
    both = torch.cat(features)
    mean, spread = both.mean(dim=0), both.std(dim=0)
    spread[spread == 0] = 1
    return [((x - mean) / spread).clamp(-LARGEST, LARGEST) for x in features]


def _importance(training: Training) -> np.ndarray:
    """Mean integrated gradients of pairs of validation showers of like energy: (features,)."""
    pair = training.validation[0].chunk(2)
    generated, reference = (x[x[:, 0].argsort()] for x in pair)
    way = reference - generated
    gradient = sum(
        _gradient(training.model, generated + (step + 0.5) / STEPS * way) for step in range(STEPS)
    )
    return (way * gradient / STEPS).double().mean(dim=0).cpu().numpy()


def _gradient(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.requires_grad_()
    return torch.autograd.grad(model(x).sum(), x)[0]


def _by_layer(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray],
    calorimeter: Calorimeter,
    generated: np.ndarray,
    reference: np.ndarray,
) -> np.ndarray:
    """Apply to the cells of one layer after the other: those of all need too much memory."""
    places = calorimeter.slices
    return np.concatenate([function(generated[:, i], reference[:, i]) for i in places])


def _significance(generated: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Welch's t of each column, 0 where nothing varies."""
    means = [x.mean(axis=0, dtype=np.float64) for x in (generated, reference)]
    variances = [x.var(axis=0, dtype=np.float64, ddof=1) / len(x) for x in (generated, reference)]
    difference, error = means[0] - means[1], np.sqrt(sum(variances))
    return np.divide(difference, error, out=np.zeros_like(error), where=error > 0)


def _auc(generated: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Chance that a generated shower has more in each column than one of the reference has."""
    # in float64: ranks of many showers add up to more than float32 can count
    samples = (x.astype(np.float64) for x in (generated, reference))
    statistic = mannwhitneyu(*samples, axis=0, method="asymptotic").statistic
    return statistic / (len(generated) * len(reference))


def _warnings(auc: np.ndarray, validation: int) -> tuple[str, ...]:
    noise = np.sqrt(1 / (6 * validation))
    if auc.mean() - 0.5 > DISTINCT * noise:
        return ()
    return (
        f"diagnosis: the classifier tells generated from reference showers with an AUC of "
        f"{auc.mean():.3f}, equal samples of this size have 0.5 ± {noise:.3f}: the importances "
        "are those of noise",
    )


def diagnose_quickly(
    generated: Showers, reference: Showers, entry: Dataset, **options
) -> Diagnosis:
    """`diagnose` with the first 2,000 showers of both samples and small classifiers: where to look.

    options: of `diagnose`. Raises as `diagnose` does.
    """
    n = min(len(generated), len(reference), QUICK_SHOWERS)
    quick = {"hidden": QUICK_NODES, "repeats": QUICK_REPEATS}
    return diagnose(generated[:n], reference[:n], entry, **quick | options)
