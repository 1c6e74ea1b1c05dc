"""The showers that the project ships: ``python -m calostudy.geant4.shipped`` makes what is missing.

Training and evaluation samples have seeds of their own. A killed run resumes; the files are
identical, bit for bit, whatever the number of workers.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from calostudy.geant4.production import simulate
from calostudy.paths import data_dir


@dataclass(frozen=True)
class Sample:
    """One shipped file: ``n`` showers of ``dataset``, at the dataset's own energies."""

    dataset: str
    split: str
    n: int
    seed: int

    @property
    def path(self) -> Path:
        return data_dir() / "showers" / self.dataset / f"{self.split}.h5"


#: In the order of production.
SHIPPED = (
    Sample("calogan-eplus", "train", 10_000, 101),
    Sample("calogan-eplus", "evaluation", 5_000, 201),
    Sample("calogan-gamma", "train", 5_000, 102),
    Sample("calogan-gamma", "evaluation", 5_000, 202),
    Sample("calogan-piplus", "train", 5_000, 103),
    Sample("calogan-piplus", "evaluation", 5_000, 203),
    Sample("ds1-photons", "train", 5_000, 105),
    Sample("ds1-photons", "evaluation", 5_000, 205),
    Sample("ds1-pions", "train", 5_000, 106),
    Sample("ds1-pions", "evaluation", 5_000, 206),
    Sample("ds2", "train", 3_000, 104),
    Sample("ds2", "evaluation", 2_000, 204),
    Sample("ds3", "train", 600, 104),  # the hits of ds2
    Sample("ds3", "evaluation", 1_000, 204),  # the hits of ds2
    Sample("ild-photons", "train", 600, 107),
    Sample("ild-photons", "evaluation", 1_000, 207),
    Sample("segmentations", "train", 1_500, 108),
    Sample("segmentations", "evaluation", 1_000, 208),
)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(argv)
    for sample in SHIPPED:
        begun = sample.path.with_name(sample.path.name + ".shards").exists()
        if begun or not sample.path.exists():
            print(f"{sample.dataset} {sample.split}: {sample.n} showers, seed {sample.seed}")
            simulate(sample.dataset, sample.n, sample.seed, sample.path, options.workers)


if __name__ == "__main__":
    main()
