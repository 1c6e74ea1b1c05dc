"""The showers that the project ships: ``python -m calostudy.geant4.shipped`` makes what is missing.

Training and evaluation samples have seeds of their own. A killed run resumes; the files are
identical, bit for bit, whatever the number of workers.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from calostudy.datasets import dataset
from calostudy.geant4.production import simulate
from calostudy.paths import data_dir


@dataclass(frozen=True)
class Sample:
    """One shipped file: as many showers as the catalogue says, at the dataset's own energies."""

    dataset: str
    split: str
    seed: int

    @property
    def n(self) -> int:
        return dataset(self.dataset).twin_events[self.split]

    @property
    def path(self) -> Path:
        return data_dir() / "showers" / self.dataset / f"{self.split}.h5"


#: In the order of production.
SHIPPED = (
    Sample("calogan-eplus", "train", 101),
    Sample("calogan-eplus", "evaluation", 201),
    Sample("calogan-gamma", "train", 102),
    Sample("calogan-gamma", "evaluation", 202),
    Sample("calogan-piplus", "train", 103),
    Sample("calogan-piplus", "evaluation", 203),
    Sample("ds1-photons", "train", 105),
    Sample("ds1-photons", "evaluation", 205),
    Sample("ds1-pions", "train", 106),
    Sample("ds1-pions", "evaluation", 206),
    Sample("ds2", "train", 104),
    Sample("ds2", "evaluation", 204),
    Sample("ds3", "train", 104),  # the hits of ds2
    Sample("ds3", "evaluation", 204),  # the hits of ds2
    Sample("ild-photons", "train", 107),
    Sample("ild-photons", "evaluation", 207),
    Sample("segmentations", "train", 108),
    Sample("segmentations", "evaluation", 208),
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
