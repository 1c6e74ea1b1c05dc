"""What every surrogate is: named networks with a loss, a sampler and weights on disk."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from calostudy import preprocessing as pre
from calostudy.datasets import Dataset
from calostudy.datasets import dataset as catalogue_entry
from calostudy.devices import moved, table_property
from calostudy.errors import DataError, UsageError
from calostudy.files import atomic_path
from calostudy.models.storage import restore, same_shapes, stored
from calostudy.samplers.compiled import Compiled, checked_precision, here
from calostudy.showers import Showers

WEIGHTS = "weights.safetensors"
CARD = "card.json"

_CONSTANTS = "constants"


@dataclass(frozen=True)
class TrainingRecipe:
    """How one network is trained.

    `schedule` and `schedule_options` are described at `calostudy.training.SCHEDULES`.
    `learning_rate` is the highest of a cyclic schedule, the first of "multistep". `validation` is
    the fraction of the showers set aside, `clip` the largest gradient norm, or None. `average` is
    the decay, per step, of the moving average of the weights that is validated and kept in place
    of the weights themselves, or None. `beta` is that of Adam's mean of the gradients, `rates` are
    factors of the learning rate by the beginning of parameters' names; None: 0.9, and 1 for all.
    """

    epochs: int
    batch: int
    learning_rate: float
    schedule: str
    schedule_options: Mapping[str, Any] = field(default_factory=dict)
    validation: float = 0.3
    clip: float | None = None
    average: float | None = None
    beta: float | None = None
    rates: Mapping[str, float] | None = None


ON_CPU: dict[str, tuple[str, ...]] = {"cpu": ("fp32", "fp64")}
"""`Surrogate.runs_on` of samplers that were not seen to make the same showers on a GPU."""


class Surrogate(ABC):
    """A generative surrogate of one dataset, in one size.

    A family is a subclass: it sets the class attributes and the abstract methods. Networks are
    built at their first use, with random weights of `seed`.

    Raises:
        UsageError: the dataset or the size is not one of this model's.
    """

    name: ClassVar[str]
    datasets: ClassVar[tuple[str, ...]]
    sizes: ClassVar[tuple[str, ...]] = ("paper", "embedded")
    teacher_name: ClassVar[str | None] = None  # of a student: the model that it learns from
    runs_on: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **ON_CPU,
        "cuda": ("fp32", "fp64", "tf32"),
    }  # precisions of the sampler by device

    def __init__(self, dataset: str | Dataset, size: str = "embedded", seed: int = 0):
        self.dataset = catalogue_entry(dataset) if isinstance(dataset, str) else dataset
        self.size, self.seed = size, seed
        if self.dataset.name not in self.datasets:
            known = ", ".join(self.datasets)
            raise UsageError(f"{self.name} does not know {self.dataset.name!r}; it knows {known}")
        if size not in self.sizes:
            raise UsageError(f"{self.name} has no size {size!r}; it has {', '.join(self.sizes)}")
        self.constants = self.initial_constants()
        self.weights_sha256: str | None = None  # of the file last loaded or saved

    @property
    @abstractmethod
    def network_evaluations(self) -> int:
        """How often the voxel network is evaluated for one shower."""

    @property
    def embedded(self) -> bool:
        """Whether this is the size that is trained in minutes, and no published configuration."""
        return self.size == "embedded"

    @property
    def precision(self) -> torch.dtype:
        """Precision of the networks in training and in memory."""
        return torch.float32

    @property
    def storage(self) -> torch.dtype:
        """Precision of the weights on disk, as for `calostudy.models.storage.stored`."""
        return {"paper": torch.float32, "embedded": torch.float16}[self.size]

    @abstractmethod
    def build_networks(self) -> dict[str, nn.Module]:
        """Fresh networks by name, in the order in which they are trained."""

    def initial_constants(self) -> dict[str, Tensor]:
        """Numbers that the model takes from its training data (float32), before any are known."""
        return {}

    def fit_constants(self, showers: Showers) -> None:
        """Set the `constants` from the training showers; the same showers give the same numbers."""
        return None

    def learn_from(self, teacher: "Surrogate") -> None:
        """Take another surrogate as the teacher of the training to come.

        Raises:
            UsageError: this model has no teacher, or not this one.
        """
        raise UsageError(f"{self.name} has no teacher, it is trained on showers alone")

    @property
    def trained_networks(self) -> tuple[str, ...]:
        """The networks that a training fits, in this order; what else there is was given."""
        return tuple(self.networks)

    def training_origin(self) -> dict[str, str]:
        """What the trained weights depend on besides showers, seeds and recipes."""
        return {}

    @abstractmethod
    def recipe(self, network: str) -> TrainingRecipe:
        """How the network is trained."""

    @abstractmethod
    def prepare(self, network: str, showers: Showers) -> dict[str, Tensor]:
        """The tensors that `loss` needs, one row for each shower that the network is trained on;
        computed once."""

    @abstractmethod
    def loss(self, network: str, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of each shower, (B,); `batch` has rows of what `prepare` returned.

        Random numbers, if any, come from torch's global generator.
        """

    def monitor(self, network: str, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Other numbers of each shower, (B,), that a training logs of the showers set aside."""
        return {}

    def chosen_by(self, network: str) -> str:
        """The logged number whose lowest value tells the best epoch: "validation_loss" or one of
        `monitor`."""
        return "validation_loss"

    @abstractmethod
    def sample(self, incident_energy: np.ndarray, seed: int = 0, first: int = 0) -> Showers:
        """Showers for incident energies (N,) in MeV.

        Shower i is a function of its energy, `seed` and `first` + i alone: how a sample is cut
        into batches does not change it.
        """

    @table_property
    def symmetries(self) -> Tensor | None:
        """How showers may be turned and mirrored while training, as
        `calostudy.preprocessing.symmetries`; in size `embedded` only."""
        return pre.symmetries(self.dataset.calorimeter) if self.embedded else None

    def turned(self, network: str, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The batch, while the network is in training with its cells (B, V) turned at random."""
        if self.symmetries is None or not self.networks[network].training:
            return batch
        return {**batch, "cells": pre.turn_at_random(batch["cells"], self.symmetries)}

    def inverse_of(
        self,
        network: str,
        samplers: Mapping[str, Callable[[nn.Module, str], Any]],
        sampler: str | None,
        precision: str | None,
    ) -> Any:
        """What one of `samplers`, by default the first, makes of a network and a precision, by
        default torch's; made once for as long as the weights stay as they are.

        Raises:
            UsageError: there is no such sampler or precision.
        """
        samplers = here(samplers)
        sampler = sampler or next(iter(samplers))
        if sampler not in samplers:
            raise UsageError(f"no sampler {sampler!r}; there are {', '.join(samplers)}")
        key = sampler, checked_precision(precision)
        make = partial(samplers[sampler], precision=key[1])
        return self.compiled.of(self.networks[network], key, make)

    @cached_property
    def compiled(self) -> Compiled:
        """What was made of the weights for sampling."""
        return Compiled()

    @cached_property
    def networks(self) -> dict[str, nn.Module]:
        """The networks by name, in evaluation mode."""
        # Weights are a function of the seed alone, also where a hardware target has set a type.
        default = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float32)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                networks = self.build_networks()
        finally:
            torch.set_default_dtype(default)
        return {name: net.to(self.precision).eval() for name, net in networks.items()}

    def to(self, device: str | torch.device) -> "Surrogate":
        """Move networks and constants to a device, which is to be torch's default device while
        they are used; returns the surrogate."""
        for network in self.networks.values():
            network.to(device)
        self.constants = moved(self.constants, device)
        return self

    def parameters_by_network(self) -> dict[str, int]:
        """Trainable parameters, counted on the networks themselves (built without memory)."""
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            networks = self.build_networks()
        return {
            name: sum(p.numel() for p in net.parameters() if p.requires_grad)
            for name, net in networks.items()
        }

    def fingerprint(self) -> str:
        """SHA-256 of all that the showers depend on: weights, buffers and constants."""
        digest = hashlib.sha256()
        states = [stored(net, self.precision) for net in self.networks.values()]
        states.append(self.constants)
        for tensor in (state[key] for state in states for key in sorted(state)):
            digest.update(tensor.detach().cpu().contiguous().numpy(force=True).tobytes())
        return digest.hexdigest()

    def round_weights(self, network: str) -> None:
        """Round the parameters of a network to the precision that they have on disk."""
        restore(self.networks[network], stored(self.networks[network], self.storage))

    def save(self, directory: str | Path, card: Mapping[str, Any] | None = None) -> Path:
        """Write the weights and `card.json` into a directory, whole or not at all.

        `card` adds to what identifies the weights: model, dataset, size, parameters, SHA-256.
        Weights are stored in the precision `storage`, without what masks set to zero.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        state = {
            f"{name}.{key}": tensor
            for name, network in self.networks.items()
            for key, tensor in stored(network, self.storage).items()
        }
        state.update({f"{_CONSTANTS}.{key}": tensor for key, tensor in self.constants.items()})
        with atomic_path(directory / WEIGHTS) as path:
            save_file(state, path, metadata={"surrogate": str(self)})
        self.weights_sha256 = _sha256(directory / WEIGHTS)
        content = {
            "model": self.name,
            "dataset": self.dataset.name,
            "size": self.size,
            "parameters": self.parameters_by_network(),
            "weights_sha256": self.weights_sha256,
            "weights_precision": str(self.storage).removeprefix("torch."),
            **(card or {}),
        }
        with atomic_path(directory / CARD) as path:
            path.write_text(json.dumps(content, indent=1) + "\n")
        return directory

    def load_weights(self, directory: str | Path) -> None:
        """Put the weights of a directory into the networks; nothing is unpickled.

        Raises:
            DataError: the file is missing, damaged, or not of these networks.
        """
        path = Path(directory) / WEIGHTS
        expected = read_card(directory).get("weights_sha256")
        try:
            state = load_file(path)
        except FileNotFoundError:
            raise DataError(f"{path}: no such file, expected the weights of {self}") from None
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: not a whole safetensors file ({error})") from None
        found = _sha256(path)
        if expected is not None and found != expected:
            raise DataError(f"{path}: not the file that {CARD} describes (its SHA-256 differs)")
        groups = {name: {} for name in (*self.networks, _CONSTANTS)}
        try:
            for key, tensor in state.items():
                group, _, rest = key.partition(".")
                groups[group][rest] = tensor
            for name, network in self.networks.items():
                restore(network, groups[name])
            same_shapes(groups[_CONSTANTS], self.constants)
        except KeyError as error:
            raise DataError(f"{path}: not the weights of {self} ({error.args[0]})") from None
        self.constants, self.weights_sha256 = groups[_CONSTANTS], found

    def __repr__(self) -> str:
        return f"{self.name} {self.dataset.name} {self.size}"


def read_card(directory: str | Path) -> dict[str, Any]:
    """The model card of a directory of weights.

    Raises:
        DataError: it is missing or not a card.
    """
    path = Path(directory) / CARD
    try:
        card = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, expected the card of trained weights") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from None
    missing = [key for key in ("model", "dataset", "size") if key not in dict(card)]
    if missing:
        raise DataError(f"{path}: not a model card, it lacks {', '.join(missing)}")
    return card


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
