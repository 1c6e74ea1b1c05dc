"""Trained weights stored anew, in the precision that their family has on disk now.

``python -m calostudy.rounding DIR`` rounds the weights of a folder in place. The card keeps the
account of the training; the validation loss becomes that of the rounded weights, and `rounded_from`
tells precision, SHA-256, fingerprint and validation loss of those before.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from calostudy.datasets import load as load_showers
from calostudy.errors import CaloStudyError, DataError, UsageError
from calostudy.models import load, shipped_weights
from calostudy.models.surrogate import CARD, read_card
from calostudy.training import showers_sha256, validation_losses

_OF_THE_FILE = ("weights_precision", "weights_sha256")


def store_anew(directory: str | Path) -> dict[str, float]:
    """Round the weights of a folder to what `Surrogate.storage` says, in place.

    They have to be trained on the data set's simulated training sample; a student is measured
    against the shipped teacher. Returns the validation losses by network.

    Raises:
        DataError: weights or card are damaged, or of a training on other showers.
    """
    surrogate, card = load(directory), read_card(directory)
    fingerprint = surrogate.fingerprint()
    training, name = card.get("training", {}), surrogate.dataset.name
    showers = load_showers(name, "train")
    if training.get("showers_sha256") != showers_sha256(showers):
        raise DataError(f"{Path(directory) / CARD}: not trained on the shipped showers of {name}")
    if surrogate.teacher_name:
        teacher = shipped_weights(surrogate.teacher_name, name, surrogate.size)
        if teacher is None:
            raise DataError(
                f"no weights of {surrogate.teacher_name} {name} to measure a student by"
            )
        surrogate.learn_from(load(teacher))
        surrogate.fit_constants(showers)  # a student's range of energies
        surrogate.load_weights(directory)
    for network in surrogate.networks:
        surrogate.round_weights(network)
    losses = validation_losses(surrogate, showers, training["seed"])
    before = {key: card[key] for key in (*_OF_THE_FILE, "validation_loss")}
    before["fingerprint"] = fingerprint
    kept = {key: value for key, value in card.items() if key not in _OF_THE_FILE}
    surrogate.save(directory, {**kept, "validation_loss": losses, "rounded_from": before})
    return losses


def main(argv: list[str] | None = None) -> int:
    """Round weights; exit status 2 on bad usage, 1 on bad data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="folder of trained weights")
    directory = parser.parse_args(argv).directory
    try:
        before = read_card(directory).get("validation_loss")
        print(f"validation loss {before} -> {store_anew(directory)}")
    except CaloStudyError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
