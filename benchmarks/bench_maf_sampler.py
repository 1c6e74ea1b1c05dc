"""The incremental sampler and the fast density against plain nflows, in interleaved rounds.

Every round runs each case once, in turn, so that a busy machine disturbs all of them alike; the
ratio is taken within each round. The clock is the processor time of one thread, float32, with
untrained weights at CaloFlow's size for DS1 photons (flow-II 368 voxels, flow-I 5 layers) or for
CaloGAN. The comparison includes nothing but the networks.

    OMP_NUM_THREADS=1 python benchmarks/bench_maf_sampler.py --rounds 3 --batch 1,10
    OMP_NUM_THREADS=1 python benchmarks/bench_maf_sampler.py --size calogan --batch 100 --rounds 1
"""

import argparse
import statistics
import time

import numpy as np
import torch

from calostudy.networks.flows import log_prob, maf_flow
from calostudy.samplers.maf import IncrementalSampler

SIZES = {
    "ds1-photons": ((8, 160, 190, 5, 5), 6, 378),
    "calogan": ((288, 144, 72), 4, 378),
}


def interleaved(cases, rounds, repeats):
    """{name: [seconds of each round]}; a case runs repeats[name] times in a round."""
    times = {name: [] for name in cases}
    for _ in range(rounds):
        for name, run in cases.items():
            start = time.process_time()
            for _ in range(repeats[name]):
                run()
            times[name].append((time.process_time() - start) / repeats[name])
    return times


def report(title, times, yardstick):
    """Print median milliseconds, and the ratio to the yardstick with its range over rounds."""
    print(title)
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(times[yardstick], seconds, strict=True)]
        print(
            f"  {name:28s} {1e3 * statistics.median(seconds):12.3f} ms   "
            f"{statistics.median(ratios):9.1f} x   ({min(ratios):.1f} ... {max(ratios):.1f})",
            flush=True,
        )


def random_inputs(n, features, context):
    random = np.random.default_rng(n)
    return (
        random.normal(size=(n, features)).astype(np.float32),
        random.normal(size=(n, context)).astype(np.float32),
    )


def sampling(title, flow, features, context, batch, rounds):
    """Inverse of one flow, nflows against the sampler."""
    noise, given = random_inputs(batch, features, context)
    sampler = IncrementalSampler(flow)
    sampler.inverse(noise, given)
    cases = {
        "nflows": lambda: flow._transform.inverse(torch.from_numpy(noise), torch.from_numpy(given)),
        "incremental": lambda: sampler.inverse(noise, given),
    }
    report(
        f"{title}, batch {batch}",
        interleaved(cases, rounds, {"nflows": 1, "incremental": 10}),
        "nflows",
    )


def density(flow, features, context, batch, rounds):
    """log_prob, nflows against ours."""
    inputs, given = (torch.from_numpy(a) for a in random_inputs(batch, features, context))
    cases = {
        "nflows log_prob": lambda: flow.log_prob(inputs, given),
        "log_prob": lambda: log_prob(flow, inputs, given),
    }
    cases["log_prob"]()
    report(
        f"density, batch {batch}",
        interleaved(cases, rounds, dict.fromkeys(cases, 1)),
        "nflows log_prob",
    )


def train_step(flow, features, context, batch, rounds):
    """Density, its gradients and one step of Adam."""
    inputs, given = (torch.from_numpy(a) for a in random_inputs(batch, features, context))
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-5, fused=True)

    def step(function):
        with torch.enable_grad():
            optimizer.zero_grad()
            (-function(inputs, given).mean()).backward()
            optimizer.step()

    cases = {
        "nflows train step": lambda: step(flow.log_prob),
        "train step": lambda: step(lambda x, c: log_prob(flow, x, c)),
    }
    cases["train step"]()
    report(
        f"train step, batch {batch}",
        interleaved(cases, rounds, dict.fromkeys(cases, 1)),
        "nflows train step",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="ds1-photons")
    parser.add_argument("--batch", default="1,10", help="batch sizes of the sampling")
    parser.add_argument("--density-batch", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    layers, context, hidden = SIZES[options.size]
    features = sum(layers)
    flow = maf_flow(features, context, hidden, 8, 1, layers).eval()
    flow_one = maf_flow(len(layers), 1, 64, 6, 2).eval()
    for batch in map(int, options.batch.split(",")):
        sampling(f"{options.size} flow-I", flow_one, len(layers), 1, batch, options.rounds)
        sampling(f"{options.size} flow-II", flow, features, context, batch, options.rounds)
    density(flow, features, context, options.density_batch, options.rounds)
    train_step(flow, features, context, 200, options.rounds)


if __name__ == "__main__":
    main()
