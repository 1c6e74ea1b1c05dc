"""What was measured stays, so that an evaluation that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from calostudy.files import atomic_path
from calostudy.metrics.measurement import Measurement, Options
from calostudy.metrics.sample import Sample
from calostudy.provenance import source_digest

IRRELEVANT = ("device", "progress")  # to the numbers, but for rounding


def measure(
    function: Callable[..., dict[str, Measurement]],
    samples: tuple[Sample, Sample, Sample],
    options: Options,
    folder: Path | None,
) -> dict[str, Measurement]:
    """Measure generated against reference, or read from `folder` what was measured before.

    samples: generated, reference, and the one that decides bins and units. Only the same metric of
    the same showers with the same options and the same code is read; a broken file counts as none.
    """
    generated, reference, ruler = samples
    if folder is None:
        return function(generated, reference, options, ruler)
    path = Path(folder) / f"{_key(function, samples, options)}.json"
    try:
        return {name: _restored(each) for name, each in json.loads(path.read_text()).items()}
    except (FileNotFoundError, ValueError, TypeError):
        found = function(generated, reference, options, ruler)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({name: asdict(each) for name, each in found.items()}))
    return found


def _restored(fields: dict) -> Measurement:
    for parts in ("details", "by_energy"):
        fields[parts] = {name: tuple(pair) for name, pair in fields[parts].items()}
    return Measurement(**fields | {"warnings": tuple(fields["warnings"])})


def _key(function: Callable, samples: tuple[Sample, ...], options: Options) -> str:
    chosen = {k: v for k, v in asdict(options).items() if k not in IRRELEVANT}
    what = [function.__module__, function.__qualname__, source_digest(), chosen]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    for sample in samples:
        digest.update(sample.entry.name.encode())
        arrays = [sample.incident_energy, sample.largest, *sample.observables.values()]
        if sample.points is not None:
            arrays += [sample.points.hits, sample.points.longitudinal, sample.points.radial]
        for values in arrays:
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:32]
