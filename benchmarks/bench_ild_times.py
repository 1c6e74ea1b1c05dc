"""ILD photons in the published sizes, one shower at a time: the table of Buhmann et al. (2024).

CPU milliseconds per shower on one thread, the mean of the showers with its standard error, for the
same incident energies. Networks have random weights; CaloClouds takes the distributions of its
numbers from the training showers, so that its showers have as many points as Geant4's. L2LFlows x9
is the same network on nine times as many cells, which is what moving its showers would take.

    OMP_NUM_THREADS=1 python benchmarks/bench_ild_times.py --models l2lflows-x9 --showers 2
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import torch

from calostudy.datasets import dataset, load
from calostudy.generation import draw_energies
from calostudy.models import MODELS, build
from calostudy.shifts import DATASET, widened

NAMES = ("caloclouds-cm", "caloclouds", "l2lflows", "l2lflows-x9")


def surrogate(name: str):
    """A model in size `paper`, as it is timed."""
    if name.endswith("-x9"):
        entry = dataset(DATASET)
        wide = replace(entry, calorimeter=widened(entry.calorimeter))
        return MODELS[name.removesuffix("-x9")](wide, "paper")
    model = build(name, DATASET, "paper")
    if name == "caloclouds":
        model.fit_constants(load(DATASET, "train"))
    elif name == "caloclouds-cm":
        model.constants = surrogate("caloclouds").constants
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default=",".join(NAMES))
    parser.add_argument("--showers", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.models.split(","):
        model = surrogate(name)
        energies = draw_energies(dataset(DATASET), options.showers, seed=0)
        model.sample(energies[:1])
        times = []
        for i, energy in enumerate(energies):
            began = time.process_time()
            model.sample([energy], first=i)
            times.append(1e3 * (time.process_time() - began))
        error = np.std(times, ddof=1) / len(times) ** 0.5
        print(
            f"{name:14s} {np.mean(times):8.0f} +- {error:.0f} ms, {len(times)} showers", flush=True
        )


if __name__ == "__main__":
    main()
