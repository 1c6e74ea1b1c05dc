"""Joins samples into one: ``python -m calostudy.geant4.joining OUT PART PART ...``.

The parts are files of `simulate` of one dataset, their sidecars and point clouds beside them; the
result has the same three files, and memory stays bounded. ``workflow/showers.smk`` uses it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from calostudy import clouds
from calostudy.datasets import dataset
from calostudy.errors import UsageError
from calostudy.files import atomic_path
from calostudy.geant4.production import clouds_path, sidecar_path
from calostudy.geant4.setups import setup
from calostudy.showers import Writer, attributes, iterate

#: What may differ between the parts of one sample.
_OWN = ("seed",)


def join(parts: Sequence[Path | str], out: Path | str) -> Path:
    """Write the showers of ``parts``, in their order, into one sample ``out``.

    Raises:
        UsageError: ``out`` exists, there is no part, or the parts were not made alike.
        DataError: a part is not a readable file of showers.
    """
    parts, out = [Path(part) for part in parts], Path(out)
    if not parts or out.exists():
        raise UsageError(f"{out}: exists already" if out.exists() else "no parts to join")
    made = [attributes(part) for part in parts]
    seeds = [how["seed"] for how in made]
    common = [{k: v for k, v in how.items() if k not in _OWN} for how in made]
    if any(how != common[0] for how in common) or len(set(seeds)) != len(seeds):
        raise UsageError(f"{out}: its parts were not made alike, or share a seed: {seeds}")
    how = {**common[0], "seed": json.dumps(seeds)}
    name = how["dataset"]
    geometry = dataset(name).calorimeter
    bits = setup(name).mantissa_bits
    _join_sidecars([sidecar_path(part) for part in parts], sidecar_path(out), how)
    if all(clouds_path(part).exists() for part in parts):
        with clouds.Writer(clouds_path(out), mantissa_bits=bits, attributes=how) as writer:
            for part in parts:
                for piece in clouds.iterate(clouds_path(part)):
                    writer.append(piece)
    with Writer(out, geometry, mantissa_bits=bits, attributes=how) as writer:
        for part in parts:
            for piece in iterate(part, geometry):
                writer.append(piece)
    return out


def _join_sidecars(parts: Sequence[Path], out: Path, how: dict) -> None:
    columns: dict[str, list[np.ndarray]] = {}
    for part in parts:
        with h5py.File(part) as file:
            for name in file:
                columns.setdefault(name, []).append(file[name][:])
    with atomic_path(out) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(how)
        for name, arrays in columns.items():
            file.create_dataset(name, data=np.concatenate(arrays), compression="gzip", shuffle=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("parts", type=Path, nargs="+")
    options = parser.parse_args(argv)
    print(join(options.parts, options.out))


if __name__ == "__main__":
    main()
