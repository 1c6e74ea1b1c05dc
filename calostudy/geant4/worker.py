"""The worker process: initialises Geant4 once, then forks one child per shard.

Every child starts from the same freshly initialised state, so a shard's showers depend neither on
the number of processes nor on which shards were simulated before.
"""

from __future__ import annotations

import ctypes
import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calostudy.calorimeter import calorimeter
from calostudy.clouds import PointClouds
from calostudy.geant4 import setups
from calostudy.shards import Row, Shard

#: Exit statuses of a worker process.
DONE, FAILED, BAD_ABI = 0, 1, 3


@dataclass(frozen=True)
class Job:
    """What a worker process is to do; travels as JSON. Energies in GeV."""

    dataset: str
    seed: int
    n: int
    emin: float
    emax: float
    physics: str
    brem: str
    out: str
    shard_size: int
    workers: int
    parent: int
    pipe: int
    steps: bool = False


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends (Linux prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(FAILED)


def fork(work: Callable[[], int]) -> int:
    """Run ``work`` in a forked child, whose exit status it returns; gives the child's id.

    The child leaves without Python's or Geant4's clean-up: it owns nothing.
    """
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    status = FAILED
    try:
        die_with_parent(parent)
        status = work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def fork_each(shards: list[Shard], workers: int, work: Callable[[Shard], int]) -> None:
    """``work`` each shard in a child of its own, ``workers`` at a time.

    Raises RuntimeError when one fails; the others that are running finish first.
    """
    waiting, running, failed = list(shards), {}, []
    while running or (waiting and not failed):
        while waiting and not failed and len(running) < workers:
            shard = waiting.pop(0)
            running[fork(lambda shard=shard: work(shard))] = shard
        child, status = os.wait()
        shard = running.pop(child)
        if status != 0:
            failed.append(f"shard {shard.index}: {_reason(status)}")
    if failed:
        raise RuntimeError("; ".join(failed))


def _reason(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"killed by signal {-code}" if code < 0 else f"exit status {code}"


def ragged(name: str, clouds: PointClouds) -> dict[str, np.ndarray]:
    """Point clouds as a ragged array of a shard: eta, phi, depth (mm), energy (MeV)."""
    points = np.column_stack([clouds.position, clouds.energy]).astype(np.float32)
    return {f"{name}_points": points, f"{name}_points_count": clouds.counts}


def main(job: Job) -> int:
    """Simulate the missing shards of ``job``; writes one byte to the pipe per finished event."""
    die_with_parent(job.parent)
    from calostudy.geant4 import probe
    from calostudy.geant4.session import Session

    setup = setups.setup(job.dataset)
    session = Session(setup, job.physics, job.brem, hits=setup.clouds or job.steps)

    def check() -> int:
        problems = probe.problems(session)
        if problems:
            print("not as the native scorer assumes:", ", ".join(problems), flush=True)
        return BAD_ABI if problems else DONE

    _, status = os.waitpid(fork(check), 0)
    if status != 0:  # a wrong offset may as well have crashed the probe
        print(f"ABI probe: {_reason(status)}", flush=True)
        return BAD_ABI

    row = Row(Path(job.out), job.n, job.shard_size)
    energies = setups.incident_energies(setup, job.seed, job.n, job.emin, job.emax)

    def work(shard: Shard) -> int:
        chosen = energies[shard.first : shard.first + shard.count]
        seeds = setups.event_seeds(job.seed, shard.first, shard.count)
        arrays = session.run(chosen, seeds, tick=lambda: os.write(job.pipe, b"."))
        if setup.clouds:
            clusters = session.clouds().clustered(calorimeter(setup.calorimeter))
            arrays |= ragged("clouds", clusters)
        if job.steps:
            arrays |= ragged("steps", session.clouds())
        row.save(shard, arrays)
        return DONE

    fork_each(row.missing(), job.workers, work)
    return DONE
