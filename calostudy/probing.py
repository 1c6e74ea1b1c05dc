"""What a hardware target can do at most: memory bandwidth, matrix products, energy counters.

Measured, not looked up: on a shared or virtual machine the datasheet says little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from calostudy.hardware import HardwareTarget, available_cores, target

ROUNDS = 5
_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}  # larger than any cache
_SIZE = {"cpu": 1536, "cuda": 8192}  # of a matrix
_RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")


@dataclass(frozen=True)
class Probe:
    """Peaks of a target, each (median, lowest, highest) of `ROUNDS`.

    bandwidth: GB/s of a copy, bytes read and written counted, or of reading alone where that is
    faster. matmul: TFLOP/s of a product of
    square matrices in the target's precision.
    """

    target: str
    bandwidth: tuple[float, float, float]
    matmul: tuple[float, float, float]

    def least_seconds(self, flops: float, moved: float) -> float:
        """The time that so many operations and bytes take at least: the roofline."""
        return max(flops / (self.matmul[0] * 1e12), moved / (self.bandwidth[0] * 1e9))


def probe(name: str | HardwareTarget) -> Probe:
    """Measure a target, in a second or two.

    Raises:
        UsageError: there is no such target, or this machine lacks it.
    """
    where = target(name)
    with where.active():
        device = where.torch_device
        source = torch.empty(_BYTES[where.device] // 4, dtype=torch.float32, device=device)
        source.fill_(1.0)
        copy = torch.empty_like(source)
        size = _SIZE[where.device]
        left, right = (torch.randn(size, size, device=device).to(where.dtype) for _ in range(2))
        copied = _rates(lambda: copy.copy_(source), 2 * source.nbytes / 1e9, where)
        seen = _rates(lambda: torch.dot(source, source), source.nbytes / 1e9, where)
        bandwidth = max(copied, seen)
        matmul = _rates(lambda: left @ right, 2 * size**3 / 1e12, where)
    return Probe(where.name, bandwidth, matmul)


def _rates(
    call: Callable[[], object], amount: float, where: HardwareTarget
) -> tuple[float, float, float]:
    call()
    rates = []
    for _ in range(ROUNDS):
        where.synchronise()
        start = time.perf_counter()
        call()
        where.synchronise()
        rates.append(amount / (time.perf_counter() - start))
    return float(np.median(rates)), min(rates), max(rates)


def energy_meter(where: HardwareTarget) -> tuple[Callable[[], float] | None, str]:
    """A function that reads a counter of joules, and what it counts; or None, and why there is
    none. A GPU's counter is of the whole card, a processor's of its whole package."""
    if where.device == "cuda":
        try:
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(torch.cuda.current_device())
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except Exception as error:  # each of NVML's errors is a class of its own
            return None, f"no NVML counter of energy ({type(error).__name__})"
        return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, "NVML, the card"
    try:
        int(_RAPL.read_text())
    except (OSError, ValueError):
        return None, "the kernel shows no RAPL counter of energy"
    return lambda: int(_RAPL.read_text()) / 1e6, "RAPL, the package"


def gpu_state() -> dict[str, str]:
    """Driver, clocks and power limit of the GPU as NVML tells them; empty without one."""
    if not torch.cuda.is_available():
        return {}
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(torch.cuda.current_device())
        driver = pynvml.nvmlSystemGetDriverVersion()
        clock = pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)
        limit = pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3
    except Exception:  # as above
        return {"cuda": str(torch.version.cuda)}
    driver = driver.decode() if isinstance(driver, bytes) else driver
    return {
        "cuda": str(torch.version.cuda),
        "driver": driver,
        "highest_sm_clock": f"{clock} MHz",
        "power_limit": f"{limit:.0f} W",
    }


def usual_targets() -> list[str]:
    """The targets that a machine is measured on: one thread, all threads, the GPU."""
    names = ["cpu-1/fp32"]
    if available_cores() > 1:
        names.append(f"cpu-{available_cores()}/fp32")
    if torch.cuda.is_available():
        names += ["cuda/fp32", "cuda/tf32", "cuda/bf16"]
    return names
