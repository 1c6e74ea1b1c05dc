"""Tables of teacher and student, ours beside what is published of both: one dict per row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from calostudy.calorimeter import Calorimeter
from calostudy.datasets import Dataset
from calostudy.metrics import Score
from calostudy.models import build
from calostudy.models.caloflow import VOXELS
from calostudy.models.surrogate import TrainingRecipe
from calostudy.networks.flows import BINS
from calostudy.tables import between, plus_minus, published
from calostudy.timing import SurrogateTime
from calostudy.training import learning_rates, trained_on

TEACHER, STUDENT = "teacher", "student"
ROLES = {TEACHER: "caloflow-teacher", STUDENT: "caloflow-student"}
"""The model of each role."""

PLAIN = " by nflows"
PUBLIC_SHOWERS = 121_000  # of a public file, for the published schedules

Row = dict[str, str]
Cards = Mapping[str, Mapping[str, Any]]
"""Model cards by role."""

Curve = tuple[np.ndarray, np.ndarray]


def voxel_rows(calorimeter: Calorimeter) -> list[dict[str, Any]]:
    """Layers and cells of the calorimeter (arXiv:2210.14245, table 1)."""
    return [
        {
            "layer": layer.id,
            "cells": layer.cells,
            "bins in α or η": layer.shape[0],
            "bins in r or φ": layer.shape[1],
        }
        for layer in calorimeter.layers
    ]


def network_rows(entry: Dataset, size: str) -> list[Row]:
    """Nodes of the masked networks and parameters of flow-II, and what is published."""
    table = published("caloflow_networks")
    table = table[table["dataset"] == _published_name(entry)]
    rows = []
    for role, model in ROLES.items():
        rows += [_network_row(role, entry, each) for each in ("paper", size)]
        rows += [
            {
                "flow-II of": role,
                "size": f"published: {row.source}",
                "blocks": "-",
                "hidden": "-" if pd.isna(row.hidden) else f"1 x {int(row.hidden)}",
                "output": "-" if pd.isna(row.output) else f"{int(row.output):,}",
                "parameters": "-" if pd.isna(row.parameters) else f"{row.parameters:,.0f}",
            }
            for row in table[table["model"] == model].itertuples()
        ]
    return rows


def _network_row(role: str, entry: Dataset, size: str) -> Row:
    surrogate = build(ROLES[role], entry.name, size)
    made = surrogate.structure(VOXELS)
    # a spline has widths, heights, and derivatives at the knots inside
    numbers = 3 * BINS - 1
    return {
        "flow-II of": role,
        "size": size,
        "blocks": str(made.blocks),
        "hidden": f"{made.hidden_blocks} x {made.hidden}",
        "output": f"{numbers * entry.calorimeter.cells:,}",
        "parameters": f"{surrogate.parameters_by_network()[VOXELS]:,}",
    }


def _published_name(entry: Dataset) -> str:
    """Papers name the three particles of the CaloGAN calorimeter together."""
    return "calogan" if entry.calorimeter.name == "calogan" else entry.name


def training_rows(dataset: str, cards: Cards) -> list[Row]:
    """Epochs, minutes and learning rates, of these weights and as published."""
    times = published("training_times")
    times = times[times["dataset"] == dataset]
    return [
        row
        for role, card in cards.items()
        for own in (_own_trainings(role, card), _published_trainings(role, times))
        for row in own
    ]


def _own_trainings(role: str, card: Mapping[str, Any]) -> Iterator[Row]:
    for network, seconds in card["training_seconds"].items():
        _, rates = _trained(card, network)
        yield {
            "network": f"{network} of the {role}",
            "trained": f"here, {card['training']['showers']:,} showers",
            "epochs": str(card["training"]["recipes"][network]["epochs"]),
            "minutes": f"{seconds / 60:.1f}",
            "learning rate": f"{rates.min():.0e} to {rates.max():.0e}",
            "on": trained_on(card),
        }


def _published_trainings(role: str, times: pd.DataFrame) -> Iterator[Row]:
    rates = published("learning_rates").set_index(["model", "dataset"])
    for row in times[times["model"] == ROLES[role]].itertuples():
        key = row.model, row.dataset
        known = row.network == VOXELS and key in rates.index
        yield {
            "network": f"{row.network} of the {role}",
            "trained": row.source,
            "epochs": str(row.epochs),
            "minutes": str(row.minutes),
            "learning rate": "{base:.0e} to {highest:.0e}".format(**rates.loc[key])
            if known
            else "-",
            "on": row.hardware,
        }


def _trained(card: Mapping[str, Any], network: str) -> Curve:
    """The learning rates of the training that a card tells of."""
    training = card["training"]
    return learning_rates(TrainingRecipe(**training["recipes"][network]), training["showers"])


def schedules(dataset: str, cards: Cards) -> dict[str, dict[str, Curve]]:
    """Learning rates of flow-II: {panel: {role: (epochs, rates)}}, as published and here."""
    recipes = {r: build(model, dataset, "paper").recipe(VOXELS) for r, model in ROLES.items()}
    return {
        "published recipe": {
            r: learning_rates(each, PUBLIC_SHOWERS) for r, each in recipes.items()
        },
        "these weights": {role: _trained(cards[role], VOXELS) for role in ROLES},
    }


def score_rows(dataset: str, scores: Mapping[str, Sequence[Score]]) -> list[Row]:
    """One row per metric: both, the floor, and what is published of both."""
    table = published("scores")
    table = table[table["dataset"] == dataset]
    rows = []
    for own in zip(*scores.values(), strict=True):
        name = own[0].name
        row = {"metric": name}
        row |= {
            role: plus_minus(score.value, score.uncertainty)
            for role, score in zip(scores, own, strict=True)
        }
        row["Geant4 floor"] = plus_minus(own[0].floor, own[0].floor_uncertainty)
        metric = {"chi2_response": "chi2_per_ndf_E_tot"}.get(name, name)
        for role, model in ROLES.items():
            found = table[(table["model"] == model) & (table["metric"] == metric)]
            row[f"published {role}"] = "; ".join(
                f"{plus_minus(r.value, r.uncertainty)} ({r.source.partition(',')[0]})"
                for r in found.itertuples()
            )
        rows.append(row)
    return rows


def time_rows(times: Mapping[str, Sequence[SurrogateTime]]) -> list[Row]:
    """One row per size and batch: ms per shower of all four, ratios to the plain student."""
    rows = []
    for entries in zip(*times.values(), strict=True):
        first = entries[0]
        weights = "trained" if first.trained else "untrained"
        row = {"size": f"{first.size}, {weights}", "batch": f"{first.batch:,}"}
        for name, time in zip(times, entries, strict=True):
            row[f"{name}: ms per shower"] = between(time.value, time.low, time.high)
        for name, time in zip(times, entries, strict=True):
            if time.ratio is not None and not name.endswith(PLAIN):
                key = f"{STUDENT}{PLAIN} / {name}"
                row[key] = between(time.ratio, time.ratio_low, time.ratio_high)
        row["cores used by others"] = f"{max(time.busy for time in entries):.2f}"
        rows.append(row)
    return rows


def published_time_rows(entry: Dataset) -> list[Row]:
    """Published times of both, of CaloGAN and of Geant4 on showers of this calorimeter."""
    table = published("times")
    return [
        {
            "model": row.model,
            "batch": "-" if pd.isna(row.batch) else f"{int(row.batch):,}",
            "ms per shower": plus_minus(row.value, row.uncertainty),
            "on": row.device if pd.isna(row.hardware) else row.hardware,
            "source": row.source,
        }
        for row in table[table["dataset"] == _published_name(entry)].itertuples()
        if not pd.isna(row.value)
    ]


def limit_rows(limits: Sequence[Mapping[str, float]]) -> list[Row]:
    """The rooflines as a table."""
    return [
        {
            "batch": f"{row['batch']:.0f}",
            "weights read": f"{row['weights']:,.0f}",
            "this core reads": f"{row['GB/s']:.1f} GB/s",
            "and computes": f"{row['GFLOP/s']:.0f} GFLOP/s",
            "least time": f"{row['least ms']:.3g} ms",
            "flow-II": f"{row['measured ms']:.3g} ms",
            "reached": f"{row['fraction']:.0%}",
        }
        for row in limits
    ]
