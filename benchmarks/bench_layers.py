"""How many evaluations the energies of the layers need: scores of showers that differ in it.

One thread; the cells keep the model's own evaluations, all cases the same noise. Scores as in
`python -m calostudy.evaluations`, which asks the same of the network of the cells.

    OMP_NUM_THREADS=1 python benchmarks/bench_layers.py flow-matching-distilled ds1-photons
"""

import argparse
import time

import torch

from calostudy.evaluations import Judge, trained
from calostudy.metrics import Sample


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("dataset")
    parser.add_argument("--evaluations", default="32,16,8,4,2")
    parser.add_argument("-n", "--showers", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    judge = Judge(options.dataset, options.showers)
    surrogate = trained(options.model, options.dataset)
    own, family = surrogate.samplings, type(surrogate)
    layers = next(name for name in own if name != surrogate.VOXELS)
    for count in map(int, options.evaluations.split(",")):
        changed = {**own, layers: own[layers].changed(own[layers].solver, count)}
        surrogate.__class__ = type(family.__name__, (family,), {"samplings": changed})
        begin = time.perf_counter()
        showers = surrogate.sample(judge.geant4.incident_energy, seed=judge.seed)
        ms = 1e3 * (time.perf_counter() - begin) / options.showers
        scores = judge.scores(Sample.of(showers, judge.entry))
        said = (f"{s['quantity']} {s['value']:.4f} +- {s['uncertainty']:.4f}" for s in scores)
        print(f"{layers} {count:3d}: {ms:6.1f} ms per shower, {', '.join(said)}", flush=True)


if __name__ == "__main__":
    main()
