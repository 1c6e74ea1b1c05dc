"""The one-pass sampler of an inverse autoregressive flow against plain nflows, interleaved.

Every round runs each case once, in turn, so that a busy machine disturbs all of them alike; the
ratio is taken within each round. The clock is the processor time of one thread, float32 unless
asked otherwise, with untrained weights at the size of CaloFlow's student. The comparison includes
nothing but the voxel network. "read" copies nothing and sums the packed weights once: how long
the memory needs for them.

    OMP_NUM_THREADS=1 python benchmarks/bench_iaf_sampler.py --rounds 5 --batch 1,10,100
    OMP_NUM_THREADS=1 python benchmarks/bench_iaf_sampler.py --size ds1-photons --dtype float64
"""

import argparse

import numpy as np
import torch
from bench_maf_sampler import interleaved, random_inputs, report

from calostudy.networks.iaf import iaf_flow
from calostudy.samplers.iaf import OnePassSampler

SIZES = {
    "calogan": ((288, 144, 72), 4, 504),
    "ds1-photons": ((8, 160, 190, 5, 5), 6, 736),
    "ds1-pions": ((8, 100, 100, 5, 150, 160, 10), 8, 500),
}


def sampling(title, flow, sampler, features, context, batch, rounds):
    """Noise to data of one flow, nflows against the sampler."""
    noise, given = (a.astype(sampler.dtype) for a in random_inputs(batch, features, context))
    sampler.inverse(noise, given)
    weights = sampler._tables[0]
    cases = {
        "nflows": lambda: flow._transform.inverse(torch.from_numpy(noise), torch.from_numpy(given)),
        "one pass": lambda: sampler.inverse(noise, given),
        "read": lambda: np.add.reduce(weights),
    }
    times = interleaved(cases, rounds, {"nflows": 1, "one pass": 5, "read": 5})
    report(f"{title}, batch {batch}, {sampler.nbytes / 1e6:.0f} MB of weights", times, "nflows")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="calogan")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--batch", default="1,10,100", help="batch sizes")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    layers, context, hidden = SIZES[options.size]
    features = sum(layers)
    flow = iaf_flow(features, context, hidden, 8, 1, layer_sizes=layers).eval()
    sampler = OnePassSampler(flow, options.dtype)
    flow = flow.to(getattr(torch, options.dtype))
    for batch in map(int, options.batch.split(",")):
        sampling(
            f"{options.size} {options.dtype}",
            flow,
            sampler,
            features,
            context,
            batch,
            options.rounds,
        )


if __name__ == "__main__":
    main()
