"""Whole showers of a diffusion model, by plain torch with every step against few steps done fast.

One thread, float32, single showers, in interleaved rounds; the ratio is taken within each round.
The slow case is `--steps` steps of DDPM through the plain networks. Whether so few evaluations
still make showers as good is another question: `python -m calostudy.evaluations` answers it for
trained networks (size embedded). Weights of size paper are random: the times hold, the showers say
nothing.

    OMP_NUM_THREADS=1 python benchmarks/bench_steps.py calodiffusion ds2 --evaluations 16 --rounds 3
"""

import argparse

import torch

from calostudy.generation import draw_energies
from calostudy.models import build, load, shipped_weights
from calostudy.tables import between
from calostudy.timing import race


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("dataset")
    parser.add_argument("--size", default="paper", choices=["paper", "embedded"])
    parser.add_argument("--solver", default="dpm++2m")
    parser.add_argument("--evaluations", type=int, default=16)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    weights = shipped_weights(options.model, options.dataset, options.size)
    surrogate = load(weights) if weights else build(options.model, options.dataset, options.size)
    energy = draw_energies(surrogate.dataset, 1, seed=0)
    ways = {
        "plain": {"sampler": "eager", "solver": "ddpm", "evaluations": options.steps},
        "ours": {"solver": options.solver, "evaluations": options.evaluations},
    }
    cases = {name: lambda way=way: surrogate.sample(energy, **way) for name, way in ways.items()}
    run = race(cases, options.rounds, budget=600.0)
    trained = "trained" if weights else "random weights"
    print(f"{surrogate} ({trained}), {options.threads} thread(s)")
    for name, way in ways.items():
        time = run.timing(name)
        noisy = "   (busy machine)" if time.noisy else ""
        print(f"  {name:6s} {1e3 * time.median:10.1f} ms per shower{noisy}   {way}")
    ratio = run.ratio("plain", "ours")
    print(f"  plain / ours: {between(ratio.median, ratio.low, ratio.high)}, {ratio.rounds} rounds")


if __name__ == "__main__":
    main()
