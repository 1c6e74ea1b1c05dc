"""Hits binned into cells: million hits per second on one thread, against numpy's histogram.

    python benchmarks/bench_binning.py [--hits 2000000] [--rounds 7]

Hits are random, narrow about the axis as showers are; both sides fill the same showers, and the
result is checked to be the same before the clock starts.
"""

import argparse
import itertools

import numpy as np

from calostudy.binning import sum_into_cells
from calostudy.calorimeter import Calorimeter, calorimeter
from calostudy.hardware import describe_machine, target
from calostudy.segmentations import segmentation
from calostudy.timing import race

SHOWERS = 20
CASES = {
    "segmentations": calorimeter("segmentations"),
    "segmentation 48x12, 36x48": segmentation((48, 12), (36, 48)),
    "segmentation 192x4, 12x12": segmentation((192, 4), (12, 12)),
    **{name: calorimeter(name) for name in ("calogan", "ild", "ds1-photons", "ds2", "ds3")},
}


def histogram(geometry: Calorimeter, offsets, position, energy) -> np.ndarray:
    """The same with `numpy.histogram2d`, layer by layer."""
    out = np.zeros((len(offsets) - 1, geometry.cells))
    for shower, (first, last) in enumerate(itertools.pairwise(offsets)):
        eta, phi, depth = position[first:last].T
        for layer, place in zip(geometry.layers, geometry.slices, strict=True):
            inside = (depth >= layer.depth[0]) & (depth < layer.depth[1])
            axes = eta[inside], phi[inside]
            if layer.view == "cylindrical":
                axes = np.arctan2(axes[1], axes[0]), np.hypot(*axes)
            weights = energy[first:last][inside]
            out[shower, place] = np.histogram2d(*axes, layer.edges, weights=weights)[0].ravel()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hits", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    machine = describe_machine()
    print(f"{machine['cpu']}, one thread, numpy {machine['libraries']['numpy']}; million hits/s")
    print(f"{'':26s} {'cells':>6s} {'numpy':>8s} {'ours':>8s} {'CPU':>8s} {'ratio (16-84 %)':>20s}")
    rng = np.random.default_rng(1)
    offsets = np.linspace(0, options.hits, SHOWERS + 1).astype(np.int64)
    for name, geometry in CASES.items():
        depth = rng.uniform(0, geometry.layers[-1].depth[1], options.hits)
        position = np.column_stack([rng.normal(0, 20, (options.hits, 2)), depth])
        energy = rng.exponential(1.0, options.hits)
        arguments = (geometry, offsets, position, energy)
        np.testing.assert_allclose(
            sum_into_cells(*arguments), histogram(*arguments), rtol=1e-9, atol=1e-9
        )
        with target("cpu-1/fp64").active():
            found = race(
                {
                    "numpy": lambda a=arguments: histogram(*a),
                    "ours": lambda a=arguments: sum_into_cells(*a),
                },
                rounds=options.rounds,
            )
        numpy, ours = found.timing("numpy"), found.timing("ours")
        ratio = found.ratio("numpy", "ours")
        millions = options.hits / 1e6
        print(
            f"{name:26s} {geometry.cells:6d} {millions / numpy.median:8.2f} "
            f"{millions / ours.median:8.1f} {millions / ours.cpu:8.1f} "
            f"{ratio.median:8.1f} ({ratio.low:.1f}-{ratio.high:.1f})"
        )


if __name__ == "__main__":
    main()
