"""One evaluation of CaloDiffusion's U-Net against plain torch, and ways to convolve on a circle.

Float32, untrained networks, in interleaved rounds; ratios are taken within each round. Of the
evaluations, the largest difference is printed, too, over the largest number that plain torch says.
`--convolutions` times one convolution of the finest resolution of dataset 2 instead, written in
several ways:

eager: F.pad by the circle, torch's own convolution, which for one image is not oneDNN's;
onednn: oneDNN's, channels apart; fused: oneDNN's, channels next to each other (what the network
does); planes: a convolution in two dimensions of three layers at a time.

    OMP_NUM_THREADS=1 python benchmarks/bench_cylindrical.py ds2 --batch 1,32 --rounds 5
"""

import argparse

import torch
import torch.nn.functional as F

from calostudy.models import build
from calostudy.models.calodiffusion import VOXELS
from calostudy.networks.shower_unet import SAMPLERS
from calostudy.tables import between
from calostudy.timing import race


def convolutions(batch, channels=16, layers=45, angles=16, radii=9):
    """The cases of `--convolutions`: name to a function without arguments."""
    apart = torch.randn(batch, channels, layers, angles, radii)
    weight, bias = torch.randn(channels, channels, 3, 3, 3), torch.randn(channels)
    last = torch.channels_last_3d
    together, weight_together = apart.contiguous(memory_format=last), weight.to(memory_format=last)
    flat = weight.transpose(1, 2).reshape(channels, -1, 3, 3).contiguous()

    def wrapped(x):
        return torch.cat([x[:, :, :, -1:], x, x[:, :, :, :1]], dim=3)

    def eager():
        padded = F.pad(apart, (0, 0, 1, 1, 0, 0), mode="circular")
        return F.conv3d(padded, weight, bias, padding=(1, 0, 1))

    def onednn(x, weight):
        return torch.mkldnn_convolution(
            wrapped(x), weight, bias, (1, 0, 1), (1, 1, 1), (1, 1, 1), 1
        )

    def planes():
        padded = F.pad(wrapped(apart), (0, 0, 0, 0, 1, 1)).transpose(1, 2)
        three = torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=2).flatten(0, 1)
        return F.conv2d(three, flat, bias, padding=(0, 1))

    return {
        "fused": lambda: onednn(together, weight_together),
        "eager": eager,
        "onednn": lambda: onednn(apart, weight),
        "planes": planes,
    }


def evaluations(dataset, size, batch):
    """One evaluation by each sampler."""
    surrogate = build("calodiffusion", dataset, size)
    network, cells = surrogate.networks[VOXELS], surrogate.dataset.calorimeter.cells
    given = network.unet.condition[0].in_features
    inputs = torch.randn(batch, cells), torch.rand(batch), torch.rand(batch, given)
    made = {name: make(network, "float32") for name, make in SAMPLERS.items()}
    return {name: lambda f=f: f(*inputs) for name, f in made.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", choices=["ds1-photons", "ds1-pions", "ds2", "ds3"])
    parser.add_argument("--size", default="paper", choices=["paper", "embedded"])
    parser.add_argument("--batch", default="1,32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--convolutions", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for batch in map(int, options.batch.split(",")):
        if options.convolutions:
            cases = convolutions(batch)
        else:
            cases = evaluations(options.dataset, options.size, batch)
        with torch.no_grad():
            run = race(cases, options.rounds)
        what = "one convolution" if options.convolutions else f"{options.dataset} {options.size}"
        print(f"{what}, batch {batch}, {options.threads} thread(s)")
        if not options.convolutions:
            with torch.no_grad():
                fast, plain = (cases[name]() for name in ("fused", "eager"))
            difference = ((fast - plain).abs().max() / plain.abs().max()).item()
            print(f"  largest difference {difference:.1e}")
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
