"""CaloINN's samplers against plain torch and against the memory, in interleaved rounds.

One thread, float32, untrained networks of the published size whose splines bend. `read` reads as
many bytes as the weights have: no batch of one can be faster. Ratios are taken within each round.
Nothing but the networks is timed.

    OMP_NUM_THREADS=1 python benchmarks/bench_coupling_sampler.py ds2 --batch 1,10,100 --rounds 5
"""

import argparse

import numpy as np
import torch

from calostudy.models import build
from calostudy.models.caloinn import FLOW
from calostudy.samplers.coupling import CouplingSampler, eager
from calostudy.tables import between
from calostudy.timing import race


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", choices=["ds1-photons", "ds1-pions", "ds2"])
    parser.add_argument("--batch", default="1,10,100")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    flow = build("caloinn", options.dataset, "paper").networks[FLOW]
    with torch.no_grad():
        for block in flow.blocks:
            block.network[-1].weight.normal_(0.0, 0.01)
    full, small = CouplingSampler(flow), CouplingSampler(flow, stored="int8")
    plain = eager(flow, "float32")
    numbers = torch.ones(full.nbytes // 4)
    for batch in map(int, options.batch.split(",")):
        random = np.random.default_rng(batch)
        noise = random.normal(size=(batch, flow.features)).astype(np.float32)
        energy = random.uniform(0.0, 6.0, (batch, 1)).astype(np.float32)
        cases = {
            "fused": lambda n=noise, e=energy: full.inverse(n, e),
            "int8": lambda n=noise, e=energy: small.inverse(n, e),
            "eager": lambda n=noise, e=energy: plain(n, e),
            "read": lambda: numbers.dot(numbers),
        }
        run = race(cases, options.rounds)
        print(f"{options.dataset}, batch {batch}")
        for name in cases:
            time, ratio = run.timing(name), run.ratio(name, "fused")
            print(
                f"  {name:6s} {1e3 * time.median:9.2f} ms   "
                f"{between(ratio.median, ratio.low, ratio.high):>24s} x fused"
                f"{'   (busy machine)' if time.noisy else ''}",
                flush=True,
            )


if __name__ == "__main__":
    main()
