"""`simulate`: Geant4 showers of a dataset into a file in the dataset's public format."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from calostudy.calorimeter import calorimeter
from calostudy.errors import CaloStudyError, UsageError
from calostudy.files import atomic_path
from calostudy.geant4 import environment, setups, worker
from calostudy.shards import Row, open_row

#: Showers appended at once: whole compressed chunks, not a few rows of one again and again.
_BLOCK = 1000


def simulate(
    dataset: str,
    n: int,
    seed: int,
    out: Path | str,
    workers: int = 1,
    emin: float | None = None,
    emax: float | None = None,
    physics: str = "data-free",
    brem: str = "rel",
    steps: bool = False,
    progress: bool = True,
) -> Path:
    """Simulate ``n`` showers of ``dataset`` with Geant4 and write them to ``out``.

    ``dataset``: a key of `calostudy.geant4.setups.SETUPS`. ``emin``, ``emax`` in GeV, by default
    the dataset's. The file is in the dataset's public format; ``<stem>.geant4.h5`` beside it holds
    per event ``cpu_seconds``, ``steps``, ``hits`` (steps with a stored deposit), and in MeV
    ``deposited`` and ``visible`` (in the active materials). ILD's showers come as point clouds as
    well, in ``<stem>.clouds.h5``; with ``steps`` the hits of any dataset do, one by one, in
    ``<stem>.steps.h5``.

    The showers depend on every argument but ``workers``, bit for bit, and the first showers do not
    depend on ``n``. A killed run resumes with the same call; finished shards of events are kept in
    ``<out>.shards/`` until the file is complete.

    Raises UsageError on unknown names, bad numbers, when Geant4 or the data of a stock list are not
    installed, when the Geant4 library is not the pinned one, when ``out`` exists, or when it was
    begun with other arguments.
    """
    out = Path(out).absolute()
    setup = setups.setup(dataset)
    emin, emax = setup.emin if emin is None else emin, setup.emax if emax is None else emax
    _check(n, seed, workers, emin, emax, physics, brem)
    environment.check_installation()
    if out.exists() and not Row(out, n, 1).folder.exists():
        raise UsageError(f"{out}: exists already; remove it or choose another name")
    parameters = {
        "dataset": dataset,
        "seed": seed,
        "emin_GeV": float(emin),
        "emax_GeV": float(emax),
        "physics": physics,
        "bremsstrahlung": brem,
        "cut_mm": setups.CUT_MM,
        "geant4": environment.GEANT4_VERSION,
        "geant4_pybind": environment.WHEEL,
        **({"steps": True} if steps else {}),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with open_row(out, n, setups.SHARD_SIZE, parameters) as row:
        missing = row.missing()
        if missing:
            job = worker.Job(
                dataset, seed, n, float(emin), float(emax), physics, brem,
                str(out), row.size, workers, os.getpid(), -1, steps,
            )  # fmt: skip
            _run_worker(row, job, sum(shard.count for shard in missing), progress)
        _merge(row, setup, parameters)
        row.remove()
    return out


def _check(n, seed, workers, emin, emax, physics, brem) -> None:
    if n < 1 or workers < 1 or seed < 0:
        raise UsageError(
            f"n = {n} and workers = {workers} must be at least 1, seed = {seed} at least 0"
        )
    if not 0.01 <= emin <= emax <= 5000.0:
        raise UsageError(
            f"energies from {emin} to {emax} GeV: expected 0.01 <= emin <= emax <= 5000 (GeV)"
        )
    for value, known, what in (
        (physics, setups.PHYSICS, "physics list"),
        (brem, setups.BREMSSTRAHLUNG, "bremsstrahlung tables"),
    ):
        if value not in known:
            raise UsageError(f"no {what} {value!r}; there is {', '.join(known)}")


def _run_worker(row: Row, job: worker.Job, events: int, progress: bool) -> None:
    """Run the worker process until its shards are there; Geant4's output goes to a log."""
    log = row.folder / "geant4.log"
    reading, writing = os.pipe()
    with tempfile.TemporaryDirectory(prefix="calostudy-geant4-") as folder:
        variables = environment.geant4_environment(job.physics, job.brem, Path(folder), os.environ)
        with log.open("w") as stream:
            process = subprocess.Popen(
                _command(replace(job, pipe=writing)),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                pass_fds=[writing],
                env={**os.environ, **variables, **_SINGLE_THREAD, "PYTHONPATH": _python_path()},
            )
        os.close(writing)
        try:
            with (
                os.fdopen(reading, "rb", buffering=0) as pipe,
                tqdm(
                    total=job.n,
                    initial=job.n - events,
                    unit="shower",
                    disable=None if progress else True,
                ) as bar,
            ):
                while done := pipe.read(4096):  # ends when the worker and its children have
                    bar.update(len(done))
            status = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if status == worker.BAD_ABI:
        raise UsageError(
            "the installed Geant4 library is not laid out as geant4-pybind "
            f"{environment.WHEEL} is, so its showers could be wrong:\n{_tail(log)}"
        )
    if status != worker.DONE or row.missing():
        raise CaloStudyError(
            f"the Geant4 process failed (status {status}); finished shards are kept in "
            f"{row.folder}, the same command resumes. Its last words:\n{_tail(log)}"
        )


def _command(job: worker.Job) -> list[str]:
    return [sys.executable, "-m", "calostudy.geant4", json.dumps(asdict(job))]


_SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _python_path() -> str:
    """The worker must import this very package, whatever its own working directory offers."""
    here = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH")) if p)


def _tail(log: Path, lines: int = 8) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def cells_of(setup: setups.Setup, scored: np.ndarray) -> np.ndarray:
    """Scored mesh (n, cells) in MeV to stored cells: threshold, 1 / sampling fraction; float32."""
    cells = np.where(scored < setup.threshold, 0.0, scored.astype(np.float64))
    fraction = setup.sampling_fraction
    if isinstance(fraction, tuple):
        fraction = np.array(fraction)[calorimeter(setup.calorimeter).layer_index]
    return (cells / fraction).astype(np.float32)


def _merge(row: Row, setup: setups.Setup, parameters: dict) -> None:
    """Stream the shards into the public file, its sidecar and its point clouds."""
    from calostudy.showers import Showers, Writer

    geometry = calorimeter(setup.calorimeter)
    sums = {name: [] for name in ("cpu_seconds", "steps", "hits", "deposited", "visible")}
    for kind, wanted in (("clouds", setup.clouds), ("steps", "steps" in parameters)):
        if wanted:
            _merge_clouds(row, kind, setup, parameters)
    with Writer(
        row.out, geometry, mantissa_bits=setup.mantissa_bits, attributes=parameters
    ) as writer:
        for arrays in row.iterate(_BLOCK):
            cells = cells_of(setup, arrays["cells"])
            overflow = cells[:, geometry.cells :] if cells.shape[1] > geometry.cells else None
            energy = arrays["incident_energy"]
            writer.append(Showers(geometry, energy, cells[:, : geometry.cells], overflow))
            for name, values in sums.items():
                if name in arrays:  # shards begun by an earlier version have no hits
                    values.append(arrays[name])
        _write_sidecar(row.out, {k: np.concatenate(v) for k, v in sums.items() if v}, parameters)


def clouds_path(out: Path | str, kind: str = "clouds") -> Path:
    """``train.h5`` -> ``train.clouds.h5``, or ``train.steps.h5`` for ``kind`` "steps"."""
    return Path(out).with_suffix(f".{kind}.h5")


def _merge_clouds(row: Row, kind: str, setup: setups.Setup, parameters: dict) -> None:
    """Stream the points of the shards into a file of point clouds."""
    from calostudy import clouds

    counts, clustered = f"{kind}_points_count", kind == "clouds"
    width = clouds.MAXIMUM
    if not clustered:
        width = max(int(arrays[counts].max()) for arrays in row.iterate())
    bits = setup.mantissa_bits if clustered else 23
    front = clouds.FRONT_FACE if setup.detector == "ild" else 0.0
    with clouds.Writer(clouds_path(row.out, kind), width, bits, front, parameters) as writer:
        for arrays in row.iterate():
            points = arrays[f"{kind}_points"].astype(np.float64)
            offsets = np.concatenate([[0], np.cumsum(arrays[counts])])
            energy = arrays["incident_energy"]
            writer.append(clouds.PointClouds(energy, offsets, points[:, :3], points[:, 3]))


def sidecar_path(out: Path | str) -> Path:
    """``train.h5`` -> ``train.geant4.h5``."""
    return Path(out).with_suffix(".geant4.h5")


def _write_sidecar(out: Path, sums: dict[str, np.ndarray], parameters: dict) -> None:
    with atomic_path(sidecar_path(out)) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(parameters)
        for name, values in sums.items():
            kind = np.int32 if name in ("steps", "hits") else np.float32
            data = values.astype(kind)
            file.create_dataset(
                name, data=data, compression="gzip", compression_opts=9, shuffle=True
            )
