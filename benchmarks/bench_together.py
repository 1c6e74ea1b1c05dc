"""Showers of a small diffusion model that go through its networks together, against one by one.

One thread, float32, in interleaved rounds; the ratio is taken within each round. Both ways make
the same bits, which is checked.

    python benchmarks/bench_together.py flow-matching:ds1-photons calodiffusion:ds2
"""

import argparse

import numpy as np
import torch

from calostudy.generation import draw_energies
from calostudy.models import load, shipped_weights
from calostudy.tables import between
from calostudy.timing import race


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL:DATASET", help="with shipped weights")
    parser.add_argument("--showers", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for words in options.models:
        name, dataset = words.split(":")
        surrogate = load(shipped_weights(name, dataset, "embedded"))
        energies = draw_energies(surrogate.dataset, options.showers, seed=0)

        def together(surrogate=surrogate, energies=energies):
            return surrogate.sample(energies).cells

        def alone(surrogate=surrogate, energies=energies):
            return np.concatenate(
                [surrogate.sample(e, first=i).cells for i, e in enumerate(energies[:, None])]
            )

        assert np.array_equal(together(), alone())
        run = race({"alone": alone, "together": together}, options.rounds, budget=120.0)
        times = (1e3 * run.timing(way).median / options.showers for way in ("alone", "together"))
        ratio = run.ratio("alone", "together")
        print(
            f"{name} {dataset}: {next(times):.1f} ms per shower alone, {next(times):.1f} together;"
            f" ratio {between(ratio.median, ratio.low, ratio.high)}, {ratio.rounds} rounds"
        )


if __name__ == "__main__":
    main()
