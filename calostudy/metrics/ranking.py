"""Which of several models is closest to Geant4, by one classifier of all their showers.

The multi-class classifier of the CaloChallenge (C. Krause, ML4Jets 2023; arXiv:2410.21611) learns
which model a shower comes from: one class per model, Geant4 not among them, two hidden layers of
2048 nodes, cross entropy, Adam, 25 epochs, log10 of the incident energy and the cells over it as
inputs. Then it is shown Geant4 showers. The mean log-posterior of a model, < ln p(model | shower) >
over Geant4 showers, ranks the models: the higher, the more of Geant4's showers pass for its own. A
classifier that cannot tell n models apart guesses, with ln p = -ln n for each of them.

The cross-check matrix has the same mean for held-out showers of each model in turn. Where its
diagonal exceeds -ln n, the classifier recognises that model; where it does not, the ranking has
nothing to go by and says so. The spread over repeats is that of trainings on the same showers:
between equal samples of a few hundred showers the log-posteriors differ by more, a few per cent.

The epoch kept is that of the lowest cross entropy on the test showers, which the published runs
reached after about 15 of 25 epochs. A log-posterior beyond it tells of overtraining, not of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import ks_2samp
from torch.nn.functional import cross_entropy

from calostudy.datasets import Dataset
from calostudy.errors import DataError, UsageError
from calostudy.metrics.classifier import INPUTS, MINIMUM_SHOWERS, split_sizes
from calostudy.metrics.fitting import (
    STEPS_PER_EPOCH,
    default_batch,
    network,
    scores,
    steps,
    trainings,
)
from calostudy.metrics.sample import check
from calostudy.showers import Showers

EPOCHS = 25
HIDDEN = 2048
LAYERS = 2
TRUSTED = 1 / 3  # of the published number of steps
REPLICAS = 100
DISTINCT = 2.0  # standard deviations above the guess from which a model is recognised


@dataclass(frozen=True)
class Ranking:
    """Mean log-posteriors of n models in repeated trainings.

    models: names, in the order of the axes. log_posterior: of each model on the Geant4 showers
    (repeats, n). cross_check: [run, i, j] of model j on held-out showers of model i (repeats, n,
    n). showers: of each model for training, test and validation. per_shower: log-posteriors of
    the reference showers (reference, n) in the last training.
    """

    models: tuple[str, ...]
    log_posterior: np.ndarray
    cross_check: np.ndarray
    showers: tuple[int, int, int]
    per_shower: np.ndarray
    hidden: int
    epochs: int
    warnings: tuple[str, ...]

    @property
    def uniform(self) -> float:
        """Log-posterior of a guess, -ln n."""
        return -float(np.log(len(self.models)))

    @property
    def kind(self) -> str:
        """What the uncertainties are."""
        several = len(self.log_posterior) > 1
        return "spread over repeats" if several else "bootstrap over reference showers"

    def summary(self) -> dict[str, tuple[float, float]]:
        """Model -> mean log-posterior on Geant4 showers and its uncertainty, the best first."""
        mean = self.log_posterior.mean(axis=0)
        if len(self.log_posterior) > 1:
            spread = self.log_posterior.std(axis=0, ddof=1)
        else:
            generator = np.random.default_rng(0)
            rows = generator.integers(len(self.per_shower), size=(REPLICAS, len(self.per_shower)))
            spread = np.std([self.per_shower[each].mean(axis=0) for each in rows], axis=0, ddof=1)
        order = np.argsort(-mean, kind="stable")
        return {self.models[i]: (float(mean[i]), float(spread[i])) for i in order}

    def as_dict(self) -> dict:
        """Plain values for JSON."""
        return {
            "models": {
                name: {"log_posterior": value, "uncertainty": uncertainty}
                for name, (value, uncertainty) in self.summary().items()
            },
            "uncertainty_kind": self.kind,
            "uniform": self.uniform,
            "cross_check": {
                row: dict(zip(self.models, map(float, values), strict=True))
                for row, values in zip(self.models, self.cross_check.mean(axis=0), strict=True)
            },
            "settings": {
                "showers_per_model": "/".join(map(str, self.showers)),
                "reference_showers": len(self.per_shower),
                "hidden": self.hidden,
                "epochs": self.epochs,
                "repeats": len(self.log_posterior),
            },
            "warnings": list(self.warnings),
        }


def rank(
    samples: Mapping[str, Showers],
    reference: Showers,
    entry: Dataset,
    *,
    inputs: str = "low",
    repeats: int = 10,
    hidden: int = HIDDEN,
    epochs: int = EPOCHS,
    batch: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
) -> Ranking:
    """Rank models by the mean log-posterior of their class on the reference showers.

    samples: model -> showers. Of a larger sample as many showers as the smallest has are drawn at
    random, with a warning. reference: Geant4 showers; none of them is trained on, all are scored.
    inputs: of the classifier, "low" or "high" as the binary ones have (`INPUTS`). batch: of all
    models together, by default `default_batch`.

    Raises UsageError for fewer than two models, DataError for showers that are not of the dataset
    or too few.
    """
    if len(samples) < 2:
        raise UsageError(f"ranking: {len(samples)} model, expected two at least")
    if inputs not in INPUTS:
        raise UsageError(f"ranking: no inputs {inputs!r}; there are {', '.join(INPUTS)}")
    if min(repeats, epochs, hidden) < 1 or (batch is not None and batch < 1):
        raise UsageError(
            f"ranking: {repeats} repeats of {epochs} epochs with {hidden} nodes in batches of "
            f"{batch}; expected at least 1 of each"
        )
    for name, showers in {**samples, "reference": reference}.items():
        check(showers, entry, name)
    smallest = min(map(len, samples.values()))
    if smallest < MINIMUM_SHOWERS:
        raise DataError(
            f"ranking: {smallest} showers of a model are too few to split into training, test and "
            f"validation; expected at least {MINIMUM_SHOWERS}"
        )
    sizes = split_sizes(entry, smallest)
    batch = batch or default_batch(sizes[0])
    seen = INPUTS[inputs]
    features = [
        torch.from_numpy(seen(_drawn(showers, smallest, [seed, place]), entry))
        for place, showers in enumerate(samples.values())
    ]
    geant4 = torch.from_numpy(seen(reference, entry)).to(device)

    posterior, cross = [], []
    for training in trainings(
        features,
        sizes,
        lambda: network(geant4.shape[1], hidden, LAYERS, len(samples)),
        loss=cross_entropy,
        quality=lambda logits, labels: -cross_entropy(logits, labels).item(),
        repeats=repeats,
        epochs=epochs,
        batch=batch,
        seed=seed,
        device=device,
        title="ranking",
        progress=progress,
    ):
        per_shower = _log_posteriors(training.model, geant4)
        posterior.append(per_shower.mean(axis=0))
        held_out = _log_posteriors(training.model, training.validation[0])
        cross.append(held_out.reshape(len(samples), -1, len(samples)).mean(axis=1))
    warnings = _sample_warnings(samples, reference)
    published = EPOCHS * STEPS_PER_EPOCH * len(samples)
    taken = epochs * steps(len(samples) * sizes[0], batch)
    if taken < TRUSTED * published:
        warnings.append(
            f"ranking: {taken:,} steps of the optimiser with {sizes[0]} showers of each model, "
            f"published ones take {published:,}: all log-posteriors are nearer to the guess"
        )
    if repeats == 1:
        warnings.append(
            "ranking: one training: its uncertainty leaves out what another training would give, "
            "which differs by more"
        )
    result = Ranking(
        tuple(samples),
        np.array(posterior),
        np.array(cross),
        sizes,
        per_shower,
        hidden,
        epochs,
        (),
    )
    return replace(result, warnings=(*warnings, *_unrecognised(result)))


def _drawn(showers: Showers, n: int, seed: list[int]) -> Showers:
    if len(showers) == n:
        return showers
    return showers[np.sort(np.random.default_rng(seed).choice(len(showers), n, replace=False))]


def _log_posteriors(model: torch.nn.Module, x: torch.Tensor) -> np.ndarray:
    return torch.log_softmax(scores(model, x).double(), dim=1).cpu().numpy()


def _sample_warnings(samples: Mapping[str, Showers], reference: Showers) -> list[str]:
    warnings = []
    sizes = [len(showers) for showers in samples.values()]
    if len(set(sizes)) > 1:
        warnings.append(f"ranking: {min(sizes)} showers of each model, drawn at random")
    for name, showers in samples.items():
        p_value = ks_2samp(showers.incident_energy, reference.incident_energy).pvalue
        if p_value < 1e-3:
            warnings.append(
                f"ranking: the incident energies of {name} are distributed differently from those "
                f"of the reference (Kolmogorov-Smirnov p = {p_value:.1e}), which gives it away"
            )
    return warnings


def _unrecognised(ranking: Ranking) -> list[str]:
    own = np.diagonal(ranking.cross_check, axis1=1, axis2=2)
    spread = own.std(axis=0, ddof=1) if len(own) > 1 else np.zeros(own.shape[1])
    return [
        f"ranking: the classifier does not recognise held-out showers of {name} (log-posterior "
        f"{value:.3f} ± {error:.3f}, a guess {ranking.uniform:.3f}): its place says nothing"
        for name, value, error in zip(ranking.models, own.mean(axis=0), spread, strict=True)
        if value < ranking.uniform + DISTINCT * error
    ]
