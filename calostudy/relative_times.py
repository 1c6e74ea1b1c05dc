"""Times of one model on several machines: each divided by the same reference model there.

Milliseconds of two machines cannot be compared: processors, threads and what is inside the clock
differ. The ratio of two models on one machine can, more or less: it says how much more work one of
them is. Nothing here divides a time of one machine by a time of another.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from calostudy.grid_times import GPU, ONE_THREAD, half_range
from calostudy.tables import published, study_name

REFERENCES = {
    "calogan": "caloflow-student",
    "ds1-photons": "caloinn",
    "ds1-pions": "caloinn",
    "ds2": "caloinn",
    "ds3": "l2lflows",
}
"""The model by which times of a data set are divided: one that most sources have."""

HERE, AUTHORS = "this study, published size", "authors' code"
CHALLENGE, AHMAD = "CaloChallenge", "Ahmad et al."
SOURCES = (HERE, AUTHORS, CHALLENGE, AHMAD)

IMPLEMENTATIONS = {
    "CaloDiffusion-ds2": "calodiffusion",
    "CaloDiffusion-ds3": "calodiffusion",
    "CaloDiffusion-photon": "calodiffusion",
    "CaloDiffusion-pion": "calodiffusion",
    "CaloFlow-calogan-student": "caloflow-student",
    "CaloFlow-calogan-teacher": "caloflow-teacher",
    "CaloFlow-gamma-student": "caloflow-student",
    "CaloFlow-gamma-teacher": "caloflow-teacher",
    "CaloFlow-piplus-student": "caloflow-student",
    "CaloFlow-piplus-teacher": "caloflow-teacher",
    "CaloGAN": "calogan",
    # The network that was submitted has 14 blocks; the 10 blocks of the paper are left out here.
    "CaloINN-ds2_14": "caloinn",
    "CaloINN-photon": "caloinn",
    "CaloINN-pion": "caloinn",
    "CaloDREAM-ds2": "calodream",
    "CaloDREAM-ds3": "calodream",
    "CaloScoreV2-DS1-512step": "caloscore",
    "CaloScoreV2-DS1-8step": "caloscore-distilled",
    "CaloScoreV2-DS1-single-shot": "caloscore-single-shot",
    "CaloScoreV2-DS2-512step": "caloscore",
    "CaloScoreV2-DS2-8step": "caloscore-distilled",
    "CaloScoreV2-DS2-single-shot": "caloscore-single-shot",
    "ConvL2LFlows-ds3": "l2lflows",
}
"""Name in ``original_times.csv`` -> the study's model."""

LEFT_OUT_PARTS = ("model.sample", "predict_on_batch")  # another part of the same has more inside

COLUMNS = ("model", "dataset", "batch", "device", "source", "machine", "value", "uncertainty")


def _challenge() -> pd.DataFrame:
    table = published("challenge_times")
    return table.assign(model=table["model"].map(study_name), source=CHALLENGE)


def _ahmad() -> pd.DataFrame:
    return published("benchmark_times").assign(source=AHMAD)


def _authors() -> pd.DataFrame:
    """Networks that one sampler runs after each other are added."""
    table = published("original_times")
    table = table[(table["threads"] == 1) & ~table["part"].isin(LEFT_OUT_PARTS)]
    table = table.assign(model=table["implementation"].map(IMPLEMENTATIONS)).dropna(
        subset=["model"]
    )
    summed = table.groupby(["model", "dataset", "batch"], as_index=False)["cpu_ms"].sum()
    summed = summed.rename(columns={"cpu_ms": "value"})
    return summed.assign(device="CPU", source=AUTHORS, uncertainty=np.nan)


def _here(grid: pd.DataFrame, device: str) -> pd.DataFrame:
    """Warm fp32 times of the published sizes on each machine, throughput before latency."""
    kind = GPU if device == "GPU" else ONE_THREAD
    own = grid[
        (grid["size"] == "paper")
        & (grid["kind"] == kind)
        & (grid["figure"] != "cold")
        & grid["target"].str.endswith("/fp32")
        & grid["value"].notna()
    ]
    own = own.sort_values(["figure", "date"], kind="stable")
    cell = ["model", "dataset", "batch", "machine"]
    own = own.drop_duplicates(cell, keep="last").sort_values("date", kind="stable")
    dataset = own["dataset"].str.replace(r"^calogan-.*", "calogan", regex=True)
    own = own.assign(dataset=dataset, device=device, source=HERE)
    own = own.assign(uncertainty=half_range(own))
    return own.drop_duplicates(cell, keep="first")


def all_times(grid: pd.DataFrame) -> pd.DataFrame:
    """Times in ms per shower of every source, with the study's names of models; `COLUMNS`."""
    parts = [_challenge(), _ahmad(), _authors()]  # each of one machine for a kind of device
    parts = [part.assign(machine="") for part in parts] + [_here(grid, "CPU"), _here(grid, "GPU")]
    table = pd.concat([part[list(COLUMNS)] for part in parts if len(part)], ignore_index=True)
    return table.dropna(subset=["value"])


def relative(table: pd.DataFrame, dataset: str, batch: int, device: str) -> pd.DataFrame:
    """The times of a data set at a batch size on a kind of device, each divided by the reference
    model of the same source on the same machine; what has none is left out, and of several machines
    of a source the last one stands.

    Columns: model, source, ratio, error (of both times, in quadrature; without uncertainties not a
    number), value in ms.
    """
    own = table[
        (table["dataset"] == dataset) & (table["batch"] == batch) & (table["device"] == device)
    ]
    place = ["source", "machine"]
    reference = own.loc[own["model"] == REFERENCES[dataset], [*place, "value", "uncertainty"]]
    own = own.merge(reference, on=place, suffixes=("", "_by"))
    ratio = own["value"] / own["value_by"]
    errors = own["uncertainty"] / own["value"], own["uncertainty_by"] / own["value_by"]
    error = (ratio * np.hypot(*errors)).mask(own["model"] == REFERENCES[dataset], 0.0)
    found = own[["model", "source", "value"]].assign(ratio=ratio, error=error)
    return found.drop_duplicates(["model", "source"], keep="last").reset_index(drop=True)


def agreement(found: pd.DataFrame) -> list[dict]:
    """How far the ratios of two sources agree: one row for each pair with three models or more
    beside the reference: models, rank correlation, and by which factor ratios typically differ
    (the geometric standard deviation of their quotient)."""
    wide = found.pivot(index="model", columns="source", values="ratio")
    wide = wide[(wide - 1.0).abs().max(axis=1) > 0]
    rows = []
    names = [name for name in SOURCES if name in wide]
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            pair = wide[[first, second]].dropna()
            if len(pair) < 3:
                continue
            logs = np.log(pair[first] / pair[second])
            rows.append(
                {
                    "sources": f"{first} / {second}",
                    "models": len(pair),
                    "rank correlation": float(spearmanr(pair[first], pair[second]).statistic),
                    "typical factor": float(np.exp(np.sqrt(np.mean(logs**2)))),
                }
            )
    return rows
