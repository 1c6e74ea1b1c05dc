"""Showers of ILD's photons one by one: point clouds, their consistency model, and flows of layers.

One thread, float32, in interleaved rounds, the same incident energies for all: the table of Buhmann
et al. (arXiv:2309.05704) on this machine. Weights of size `paper` are random: the times hold, the
showers say nothing. Geant4's is the mean CPU time recorded with the evaluation showers, wherever
they were made.

    OMP_NUM_THREADS=1 python benchmarks/bench_clouds.py --size paper --showers 4 --rounds 3
"""

import argparse

import h5py
import torch

from calostudy.datasets import showers_path
from calostudy.generation import draw_energies
from calostudy.models import build, load, shipped_weights
from calostudy.tables import between
from calostudy.timing import race

DATASET = "ild-photons"
MODELS = ("caloclouds-cm", "caloclouds", "l2lflows")


def geant4_milliseconds() -> float:
    """Mean CPU time of a shower."""
    with h5py.File(showers_path(DATASET, "evaluation").with_suffix(".geant4.h5")) as file:
        return 1e3 * file["cpu_seconds"][:].mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="paper", choices=["paper", "embedded"])
    parser.add_argument("--showers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases, energies = {}, None
    for name in MODELS:
        weights = shipped_weights(name, DATASET, options.size)
        surrogate = load(weights) if weights else build(name, DATASET, options.size)
        energies = draw_energies(surrogate.dataset, options.showers, seed=0)

        def one_by_one(surrogate=surrogate, energies=energies):
            for i, energy in enumerate(energies):
                surrogate.sample([energy], first=i)

        cases[name] = one_by_one
    run = race(cases, options.rounds, budget=600.0)
    print(f"{DATASET}, size {options.size}, {options.showers} showers one by one")
    print(f"  {'geant4':14s} {geant4_milliseconds():10.1f} ms per shower, recorded")
    for name in MODELS:
        time, ratio = run.timing(name), run.ratio(name, MODELS[0])
        print(
            f"  {name:14s} {1e3 * time.median / options.showers:10.1f} ms per shower   "
            f"{between(ratio.median, ratio.low, ratio.high):>22s} x {MODELS[0]}"
            f"{'   (busy machine)' if time.noisy else ''}",
            flush=True,
        )


if __name__ == "__main__":
    main()
