"""One training loop for every surrogate: seeds, schedules, checkpoints, exact resume, log.

The networks of a surrogate are trained one after the other. All random numbers of an epoch follow
from (seed, network, epoch), and a checkpoint is written after each epoch by an atomic rename: a
run that was killed and resumed ends with the same weights, bit for bit, as one that was not, on
the same machine with the same number of threads.
"""

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, MultiStepLR, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from calostudy.devices import moved
from calostudy.errors import CaloStudyError, DataError, UsageError
from calostudy.files import atomic_path
from calostudy.hardware import DEVICES, describe_machine
from calostudy.models.surrogate import CARD, Surrogate, TrainingRecipe, read_card
from calostudy.showers import Showers

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"

# Streams of random numbers besides those of the epochs.
_SPLIT, _VALIDATION = 1 << 20, (1 << 20) + 1


def _onecycle(optimizer, recipe: TrainingRecipe, epochs: int, steps: int) -> LRScheduler:
    options = recipe.schedule_options
    return OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        total_steps=epochs * steps,
        pct_start=options["rise"],
        div_factor=options["start"],
        final_div_factor=options["end"],
        three_phase=True,
    )


def _triangular2(optimizer, recipe: TrainingRecipe, epochs: int, steps: int) -> LRScheduler:
    options = recipe.schedule_options
    return CyclicLR(
        optimizer,
        options["base"],
        recipe.learning_rate,
        step_size_up=options["rise_epochs"] * steps,
        mode="triangular2",
        cycle_momentum=False,
    )


def _multistep(optimizer, recipe: TrainingRecipe, epochs: int, steps: int) -> LRScheduler:
    options = recipe.schedule_options
    milestones = [epoch * steps for epoch in options["milestones"]]
    return MultiStepLR(optimizer, milestones, options["factor"])


def _cosine(optimizer, recipe: TrainingRecipe, epochs: int, steps: int) -> LRScheduler:
    return OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        total_steps=epochs * steps,
        pct_start=recipe.schedule_options["rise"],
        cycle_momentum=False,
        final_div_factor=recipe.schedule_options["end"],
    )


SCHEDULES: dict[str, Callable[..., LRScheduler]] = {
    "cosine": _cosine,
    "onecycle": _onecycle,
    "triangular2": _triangular2,
    "multistep": _multistep,
}
"""Learning-rate schedules, all stepped after every batch. Options of a recipe:

cosine: up from 1/25 of the highest rate in the fraction `rise` of the training, down in the rest
to 1/`end` of where it began.
onecycle: `rise`, the fraction of the training in which the rate rises from 1/`start` of the
highest rate to it; it falls back in as much time and is annealed to 1/`end` of the first rate in
the rest (three phases, cosine; momentum cycled between 0.85 and 0.95).
triangular2: between `base` and a highest rate whose distance from `base` is halved after each
cycle; half a cycle takes `rise_epochs`.
multistep: multiplied by `factor` after each of the epochs in `milestones`.
"""


def trained_on(card: Mapping[str, Any]) -> str:
    """What a training ran on, of the model card that it wrote.

    >>> trained_on({"machine": {"cpu": "EPYC", "torch_threads": 1, "gpus": [], "device": "cpu"}})
    '1 thread of EPYC'
    >>> gpus = [{"name": "NVIDIA H200"}]
    >>> trained_on({"machine": {"cpu": "EPYC", "gpus": gpus, "device": "cuda"}})
    'an NVIDIA H200'
    """
    machine = card["machine"]
    if machine.get("device", "cpu") != "cpu":
        return f"an {machine['gpus'][0]['name']}"
    threads = machine["torch_threads"]
    return f"{threads} thread{'s' if threads > 1 else ''} of {machine['cpu']}"


def learning_rates(recipe: TrainingRecipe, showers: int) -> tuple[np.ndarray, np.ndarray]:
    """The learning rate of every step of a training on so many showers: epochs (S,), rates (S,)."""
    steps = _steps(recipe, len(_split(recipe, showers, 0)[1]))
    optimizer = optim.Adam([torch.zeros(1, requires_grad=True)], recipe.learning_rate)
    scheduler = SCHEDULES[recipe.schedule](optimizer, recipe, recipe.epochs, steps)
    rates = []
    for _ in range(recipe.epochs * steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return np.arange(len(rates)) / steps, np.array(rates)


def _split(recipe: TrainingRecipe, showers: int, seed: int | list[int]) -> list[np.ndarray]:
    """Rows of the showers set aside and of those trained on, both in order."""
    order = np.random.default_rng(seed).permutation(showers)
    aside = min(max(1, round(recipe.validation * showers)), showers - 1)
    return [np.sort(part) for part in (order[:aside], order[aside:])]


def _steps(recipe: TrainingRecipe, showers: int) -> int:
    """Steps of the optimiser in an epoch over the showers that are trained on."""
    return math.ceil(showers / recipe.batch)


def train(
    surrogate: Surrogate,
    showers: Showers,
    out: str | Path,
    seed: int = 0,
    resume: bool = False,
    epochs: int | None = None,
    progress: bool = True,
    data_path: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Surrogate:
    """Train the networks of a surrogate, keep the best validation weights, write them to `out`.

    `out` receives `weights.safetensors`, `card.json` and `log.jsonl` (a line per epoch: network,
    epoch, train_loss, validation_loss, learning_rate, seconds, skipped batches, and what the
    surrogate monitors), and a checkpoint
    while the training lasts. `epochs` replaces the recipe's number for each network. `data_path`
    names the file that the showers come from, for the card. The losses are computed on `device`,
    "cpu" or "cuda". Returns the surrogate, on the CPU, with the weights as they were written,
    rounded to their precision on disk.

    Raises:
        UsageError: `out` holds another training, or one to be resumed with other parameters, or
            there is no such device.
        DataError: the showers are too few, or the checkpoint is damaged.
        CaloStudyError: no epoch of a network had a finite validation loss.
    """
    out, device = Path(out), training_device(device)
    if len(showers) < 2:
        raise DataError(f"{len(showers)} shower to train on, expected at least 2")
    recipes = {name: surrogate.recipe(name) for name in surrogate.trained_networks}
    if epochs is not None:
        recipes = {name: replace(recipe, epochs=epochs) for name, recipe in recipes.items()}
    signature = _signature(surrogate, showers, recipes, seed)
    if _finished(out, resume, signature):
        surrogate.load_weights(out)
        return surrogate

    surrogate.fit_constants(showers)
    checkpoint = _Checkpoint(out, signature)
    state = checkpoint.read(surrogate) if resume else _State()
    stored = {}
    with _own_random_numbers(device):
        for index, (name, recipe) in enumerate(recipes.items()):
            fit = _Fit(surrogate, name, recipe, showers, [seed, index], device)
            with fit.on_device():
                if index >= state.network:
                    state = state if index == state.network else _State(index, log=state.log)
                    fit.run(state, checkpoint, progress)
                surrogate.round_weights(name)
                stored[name] = fit.validation()["validation_loss"]
    chosen_by = {name: surrogate.chosen_by(name) for name in recipes}
    account = _account(state.log, stored, chosen_by, data_path, device)
    card = {"training": signature, **account}
    surrogate.save(out, card)
    checkpoint.path.unlink()
    return surrogate


def validation_losses(surrogate: Surrogate, showers: Showers, seed: int) -> dict[str, float]:
    """The loss by trained network that a training with this seed would give the present weights,
    on the showers that it sets aside, with the random numbers of every validation."""
    found, device = {}, torch.device("cpu")
    with _own_random_numbers(device):
        for index, name in enumerate(surrogate.trained_networks):
            fit = _Fit(surrogate, name, surrogate.recipe(name), showers, [seed, index], device)
            found[name] = fit.validation()["validation_loss"]
    return found


def training_device(name: str | torch.device) -> torch.device:
    """The device of a training.

    >>> training_device("cpu")
    device(type='cpu')

    Raises:
        UsageError: it is neither "cpu" nor "cuda", or not in this machine.
    """
    if str(name) not in DEVICES:
        raise UsageError(f"no device {str(name)!r}; there are {', '.join(DEVICES)}")
    if str(name) == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: no CUDA device, or a PyTorch without CUDA")
    return torch.device(name)


@contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    """Torch's random numbers as they were, at the end."""
    others = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=others):
        yield


@dataclass
class _State:
    """Where a training stands: the network at work, its next epoch, and what both have come to."""

    network: int = 0
    epoch: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None  # loss and weights of the best epoch
    optimizer: dict[str, Any] | None = None
    scheduler: dict[str, Any] | None = None
    average: dict[str, Any] | None = None


class _Checkpoint:
    """A `_State` with the weights of all networks, on disk; read without unpickling code."""

    def __init__(self, out: Path, signature: Mapping[str, Any]):
        self.path, self.signature = out / CHECKPOINT, signature
        self.log_path = out / LOG

    def write(self, surrogate: Surrogate, state: _State) -> None:
        weights = {name: net.state_dict() for name, net in surrogate.networks.items()}
        content = {**vars(state), "weights": weights, "signature": json.dumps(self.signature)}
        with atomic_path(self.log_path) as path:
            path.write_text("".join(json.dumps(line) + "\n" for line in state.log))
        with atomic_path(self.path) as path:
            torch.save(content, path)

    def read(self, surrogate: Surrogate) -> _State:
        """The state, its weights put into the networks; a fresh one where nothing was written."""
        if not self.path.exists():
            return _State()
        try:
            content = torch.load(self.path, weights_only=True, map_location="cpu")
            signature, weights = json.loads(content.pop("signature")), content.pop("weights")
            state = _State(**content)
        except Exception as error:  # zipfile, pickle and torch each have their own
            raise DataError(f"{self.path}: not a whole checkpoint ({error})") from None
        _agree(self.path, signature, self.signature)
        for name, network in surrogate.networks.items():
            network.load_state_dict(weights[name])
        return state


class _Fit:
    """The training of one network; `stream` (seed, index of the network) makes it repeatable."""

    def __init__(
        self,
        surrogate: Surrogate,
        name: str,
        recipe: TrainingRecipe,
        showers: Showers,
        stream: list[int],
        device: torch.device,
    ):
        self.surrogate, self.name, self.recipe, self.stream = surrogate, name, recipe, stream
        self.device, self.network = device, surrogate.networks[name]
        self.data = moved(surrogate.prepare(name, showers), device)
        self.validation_rows, self.training = (
            torch.as_tensor(rows, device=device)
            for rows in _split(recipe, len(next(iter(self.data.values()))), [*stream, _SPLIT])
        )
        self.steps = _steps(recipe, len(self.training))

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """The surrogate, and what torch makes, on the device while inside."""
        self.surrogate.to(self.device)
        with self.device if self.device.type != "cpu" else nullcontext():
            yield
        self.surrogate.to("cpu")

    def run(self, state: _State, checkpoint: _Checkpoint, progress: bool) -> None:
        """Train from where `state` stands to the end, then put the best weights in."""
        recipe = self.recipe
        optimizer = _optimizer(self.network, recipe)
        scheduler = SCHEDULES[recipe.schedule](optimizer, recipe, recipe.epochs, self.steps)
        average = _moving_average(self.network, recipe.average)
        if state.optimizer:
            optimizer.load_state_dict(state.optimizer)
            scheduler.load_state_dict(state.scheduler)
            if average:
                average.load_state_dict(state.average)
        total, done = recipe.epochs * self.steps, state.epoch * self.steps
        with tqdm(
            total=total, initial=done, desc=self.name, disable=None if progress else True
        ) as bar:
            for epoch in range(state.epoch, recipe.epochs):
                began = time.perf_counter()
                entry = {"network": self.name, "epoch": epoch + 1}
                entry.update(self._epoch(epoch, optimizer, scheduler, average, bar))
                last = copy.deepcopy(self.network.state_dict())
                if average:
                    self.network.load_state_dict(average.module.state_dict())
                entry.update(self.validation())
                entry["learning_rate"] = scheduler.get_last_lr()[0]
                entry["seconds"] = round(time.perf_counter() - began, 3)
                score = entry[self.surrogate.chosen_by(self.name)]
                if score < (state.best["loss"] if state.best else math.inf):
                    weights = copy.deepcopy(self.network.state_dict())
                    state.best = {"loss": score, "weights": weights}
                self.network.load_state_dict(last)
                bar.set_postfix({k: f"{entry[k]:.4g}" for k in ("train_loss", "validation_loss")})
                state.epoch, state.log = epoch + 1, [*state.log, entry]
                state.optimizer = optimizer.state_dict()
                state.scheduler = scheduler.state_dict()
                state.average = average.state_dict() if average else None
                checkpoint.write(self.surrogate, state)
        if state.best is None:
            raise CaloStudyError(
                f"{self.name}: the training diverged, no validation loss is finite"
            )
        self.network.load_state_dict(state.best["weights"])

    def _epoch(self, epoch: int, optimizer, scheduler, average, bar) -> dict[str, Any]:
        self._reseed(epoch)
        self.network.train()
        order = self.training[torch.randperm(len(self.training))]
        total, seen, skipped = 0.0, 0, 0
        for rows in order.split(self.recipe.batch):
            optimizer.zero_grad()
            loss = self._loss(rows).mean()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(
                self.network.parameters(), self.recipe.clip or math.inf
            )
            if torch.isfinite(norm) and torch.isfinite(loss):
                optimizer.step()
                if average:
                    average.update_parameters(self.network)
                total, seen = total + loss.item() * len(rows), seen + len(rows)
            else:
                skipped += 1
            scheduler.step()
            bar.update()
        return {"train_loss": total / seen if seen else math.inf, "skipped": skipped}

    def validation(self) -> dict[str, float]:
        """Mean loss of the showers set aside and of what the surrogate monitors, infinite where
        they are not finite; the same random numbers at every call."""
        self._reseed(_VALIDATION)
        self.network.eval()
        parts = []
        with torch.no_grad():
            for rows in self.validation_rows.split(500):
                batch = self._batch(rows)
                loss = self.surrogate.loss(self.name, batch)
                parts.append({"validation_loss": loss, **self.surrogate.monitor(self.name, batch)})
        means = {k: torch.cat([p[k] for p in parts]).double().mean().item() for k in parts[0]}
        return {k: mean if math.isfinite(mean) else math.inf for k, mean in means.items()}

    def _loss(self, rows: Tensor) -> Tensor:
        return self.surrogate.loss(self.name, self._batch(rows))

    def _batch(self, rows: Tensor) -> dict[str, Tensor]:
        return {key: t[rows] for key, t in self.data.items()}

    def _reseed(self, number: int) -> None:
        state = np.random.SeedSequence([*self.stream, number]).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))


def _optimizer(network: nn.Module, recipe: TrainingRecipe) -> optim.Adam:
    """Adam, with a group of parameters for each factor of the learning rate."""
    rates, groups = recipe.rates or {}, {}
    for name, parameter in network.named_parameters():
        factor = next((f for begin, f in rates.items() if name.startswith(begin)), 1.0)
        groups.setdefault(factor, []).append(parameter)
    betas = 0.9 if recipe.beta is None else recipe.beta, 0.999
    return optim.Adam(
        [{"params": g, "lr": recipe.learning_rate * factor} for factor, g in groups.items()],
        betas=betas,
    )


def _moving_average(network: nn.Module, decay: float | None) -> AveragedModel | None:
    if decay is None:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))


def _signature(surrogate, showers: Showers, recipes, seed: int) -> dict[str, Any]:
    """What the weights depend on; a resume has to agree with it."""
    signature = {
        "seed": seed,
        "initial_seed": surrogate.seed,
        "model": str(surrogate),
        "recipes": {name: _recorded(recipe) for name, recipe in recipes.items()},
        "showers": len(showers),
        "showers_sha256": showers_sha256(showers),
        **surrogate.training_origin(),
    }
    return json.loads(json.dumps(signature))


def showers_sha256(showers: Showers) -> str:
    """SHA-256 of incident energies and cells, as in the card of a training on them."""
    content = hashlib.sha256(np.ascontiguousarray(showers.incident_energy).tobytes())
    content.update(np.ascontiguousarray(showers.cells).tobytes())
    return content.hexdigest()


def _recorded(recipe: TrainingRecipe) -> dict[str, Any]:
    """A recipe as cards have it: without what a recipe of before that option would not have."""
    recorded, later = asdict(recipe), ("average", "beta", "rates")
    return {k: v for k, v in recorded.items() if k not in later or v is not None}


def _agree(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    different = [key for key, value in wanted.items() if found.get(key) != value]
    if different:
        raise UsageError(
            f"{path}: of a training with other parameters ({', '.join(different)}); resume with "
            "the same ones or choose another directory"
        )


def _finished(out: Path, resume: bool, signature: Mapping[str, Any]) -> bool:
    """Whether `out` holds this very training, complete; refuses to overwrite any other."""
    begun, card = (out / CHECKPOINT).exists(), (out / CARD).exists()
    if not resume and (begun or card):
        raise UsageError(
            f"{out}: holds {'an unfinished' if begun else 'a finished'} training; resume it or "
            "choose another directory"
        )
    if begun or not card:
        return False
    _agree(out / CARD, read_card(out).get("training", {}), signature)
    return True


def _account(
    log,
    stored: Mapping[str, float],
    chosen_by: Mapping[str, str],
    data_path: str | Path | None,
    device: torch.device,
) -> dict[str, Any]:
    """What the card says about the course of a training."""
    curves = {
        name: [
            {k: v for k, v in line.items() if k != "network"}
            for line in log
            if line["network"] == name
        ]
        for name in stored
    }
    return {
        "data": None if data_path is None else {"file": Path(data_path).name},
        "validation_loss": stored,  # of the weights as they are on disk
        "best_epoch": {
            name: min(curve, key=itemgetter(chosen_by[name]))["epoch"]
            for name, curve in curves.items()
        },
        "training_seconds": {
            name: round(sum(line["seconds"] for line in curve)) for name, curve in curves.items()
        },
        "machine": {
            **describe_machine(),
            "torch_threads": torch.get_num_threads(),
            "device": device.type,
        },
        "loss_curve": {
            name: [{k: _brief(v) for k, v in line.items()} for line in curve]
            for name, curve in curves.items()
        },
    }


def _brief(value: float) -> float:
    """A number to the seven digits that float32 has."""
    return float(f"{value:.7g}") if isinstance(value, float) else value
