"""The catalogue of surrogates: names to classes, and trained weights to where they are."""

from pathlib import Path
from typing import Any

from calostudy.datasets import DATASETS
from calostudy.errors import UsageError
from calostudy.models.bologan import BoloGAN
from calostudy.models.calo_vq import CaloVQ
from calostudy.models.caloclouds import CaloClouds
from calostudy.models.caloclouds_cm import CaloCloudsCM
from calostudy.models.calodiffusion import CaloDiffusion
from calostudy.models.caloflow import CaloFlowTeacher
from calostudy.models.caloflow_student import CaloFlowStudent
from calostudy.models.calogan import CaloGAN
from calostudy.models.caloinn import CaloINN
from calostudy.models.caloman import CaloMan
from calostudy.models.calopointflow import CaloPointFlow
from calostudy.models.caloscore import CaloScore
from calostudy.models.caloscore_distilled import CaloScoreDistilled, CaloScoreSingleShot
from calostudy.models.caloshowergan import CaloShowerGAN
from calostudy.models.calovae_inn import CaloVAEINN
from calostudy.models.dd_arm import DDARM, DDARMUnaware
from calostudy.models.deeptree import DeepTree
from calostudy.models.dnn_calosim import DNNCaloSim
from calostudy.models.flow_matching import FlowMatching
from calostudy.models.flow_matching_distilled import FlowMatchingDistilled
from calostudy.models.icaloflow import ICaloFlowTeacher
from calostudy.models.icaloflow_student import ICaloFlowStudent
from calostudy.models.l2lflows import L2LFlows
from calostudy.models.l2lflows_maf import L2LFlowsMAF
from calostudy.models.mdma import MDMA
from calostudy.models.supercalo import SuperCalo
from calostudy.models.surrogate import CARD, WEIGHTS, Surrogate, read_card
from calostudy.models.vq_transformer import VQTransformer
from calostudy.paths import data_dir

MODELS: dict[str, type[Surrogate]] = {
    model.name: model
    for model in (
        CaloFlowTeacher,
        CaloFlowStudent,
        CaloINN,
        CaloVAEINN,
        ICaloFlowTeacher,
        ICaloFlowStudent,
        L2LFlows,
        L2LFlowsMAF,
        CaloDiffusion,
        CaloScore,
        CaloScoreDistilled,
        CaloScoreSingleShot,
        FlowMatching,
        FlowMatchingDistilled,
        CaloPointFlow,
        DDARM,
        DDARMUnaware,
        DNNCaloSim,
        CaloGAN,
        BoloGAN,
        CaloShowerGAN,
        CaloVQ,
        VQTransformer,
        SuperCalo,
        CaloMan,
        MDMA,
        DeepTree,
        CaloClouds,
        CaloCloudsCM,
    )
}
"""Every surrogate family by name: a new one is a file in this package and an entry here."""


def build(model: str, dataset: str, size: str = "embedded", seed: int = 0) -> Surrogate:
    """An untrained surrogate, its weights random with `seed`.

    Raises:
        UsageError: there is no such model, or it has no such dataset or size.
    """
    if model not in MODELS:
        raise UsageError(f"no model {model!r}; there are {', '.join(MODELS)}")
    return MODELS[model](dataset, size, seed)


def load(directory: str | Path) -> Surrogate:
    """The surrogate whose trained weights and card are in a directory.

    Raises:
        DataError: the card or the weights are missing, damaged or do not fit each other.
        UsageError: the card names a model or a dataset that does not exist here.
    """
    card = read_card(directory)
    surrogate = build(card["model"], card["dataset"], card["size"])
    surrogate.load_weights(directory)
    return surrogate


def weights_path(model: str, dataset: str, size: str) -> Path:
    """Where the study keeps the weights of a model, whether they are there or not."""
    return data_dir() / "weights" / model / dataset / size


def shipped_weights(model: str, dataset: str, size: str) -> Path | None:
    """The directory of the weights that are there for a model, or None."""
    directory = weights_path(model, dataset, size)
    return directory if all((directory / f).is_file() for f in (CARD, WEIGHTS)) else None


def catalogue() -> list[dict[str, Any]]:
    """One row per model, dataset and size; parameters are counted on the networks themselves."""
    return [
        _row(build(model, dataset, size))
        for model, family in MODELS.items()
        for dataset in DATASETS
        if dataset in family.datasets
        for size in family.sizes
    ]


def _row(surrogate: Surrogate) -> dict[str, Any]:
    counts = surrogate.parameters_by_network()
    name = surrogate.name, surrogate.dataset.name, surrogate.size
    return {
        **dict(zip(("model", "dataset", "size"), name, strict=True)),
        "parameters": sum(counts.values()),
        "parameters_by_network": counts,
        "trained": shipped_weights(*name) is not None,
        "network_evaluations": surrogate.network_evaluations,
    }
