"""The largest memory of a process that makes showers of a diffusion model, by batch size.

Each batch size has a process of its own, which builds the surrogate with random weights and makes
one batch on one thread, float32; its largest resident memory is printed, and that of one which
makes none. Memory does not depend on the number of evaluations, so that few do.

    OMP_NUM_THREADS=1 python benchmarks/bench_memory.py calodiffusion ds3 --batch 1,10,100
"""

import argparse
import resource
import subprocess
import sys

from calostudy.generation import draw_energies, generate_showers
from calostudy.models import build


def largest(options, batch):
    """Of this process, after one batch, in GiB."""
    surrogate = build(options.model, options.dataset, options.size)
    own, voxels = surrogate.sample, options.evaluations
    surrogate.sample = lambda *given, **named: own(*given, evaluations=voxels, **named)
    if batch:
        energies = draw_energies(surrogate.dataset, batch)
        generate_showers(surrogate, energies, batch=batch, target="cpu-1/fp32")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("dataset")
    parser.add_argument("--size", default="paper", choices=["paper", "embedded"])
    parser.add_argument("--batch", default="1,10,100")
    parser.add_argument("--evaluations", type=int, default=2)
    parser.add_argument("--child", type=int)
    options = parser.parse_args()
    if options.child is not None:
        print(largest(options, options.child))
        return
    print(f"{options.model} {options.dataset} {options.size}, {options.evaluations} evaluations")
    for batch in [0, *map(int, options.batch.split(","))]:
        command = [sys.executable, *sys.argv, "--child", str(batch)]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"  batch {batch:5d}   {float(found.split()[-1]):6.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
