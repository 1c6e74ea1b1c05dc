"""Cells in one triangular pass against one pass of the network for each cell, interleaved.

Every round runs both, in turn, so that a busy machine disturbs both alike; the ratio is taken
within each round. The clock is the processor time of one thread, float32 unless asked otherwise,
with untrained weights of size `embedded`, whole showers: the random numbers, three networks, the
maps to energies. Both give the same categories from the same random numbers (tests).

    OMP_NUM_THREADS=1 python benchmarks/bench_autoregressive.py --rounds 3 --batch 1,10
"""

import argparse

import numpy as np
import torch
from bench_maf_sampler import interleaved, report

from calostudy import models
from calostudy.segmentations import INNER, MIDDLE

SEGMENTATIONS = {"coarsest": (INNER[0], MIDDLE[0]), "transition": (INNER[0], MIDDLE[3])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", default="1,10")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    surrogate = models.build("dd-arm", "segmentations")
    for batch in map(int, options.batch.split(",")):
        energy = np.full(batch, 65e3)
        for name, segmentation in SEGMENTATIONS.items():

            def case(sampler, energy=energy, segmentation=segmentation):
                return lambda: surrogate.sample(
                    energy, segmentation=segmentation, sampler=sampler, precision=options.dtype
                )

            cases = {"plain": case("plain"), "triangular": case("triangular")}
            cells = len(cases["triangular"]().cells[0])
            times = interleaved(cases, options.rounds, {"plain": 1, "triangular": 5})
            report(f"{name}, {cells} cells, batch {batch}", times, "plain")


if __name__ == "__main__":
    main()
