"""Hardware targets: a device with its threads, a precision and a compiler, by one name.

`cpu-1/fp32` is one thread in single precision, `cpu-all/fp64` every core the process may use,
`cuda/fp16/compile` a GPU with torch.compile. Whoever generates or times showers enters the target
first: ``with target("cpu-1/fp32").active(): ...``.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import numba
import psutil
import threadpoolctl
import torch

from calostudy.errors import UsageError
from calostudy.number_formats import FORMATS

DEVICES = ("cpu", "cuda")
PRECISIONS: dict[str, torch.dtype] = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
# `eager` runs the code as it is written, the study's own samplers included.
COMPILERS = ("eager", "compile")
EXAMPLES = "cpu-1/fp32, cpu-all/bf16, cuda/fp16/compile"

_DEVICE = re.compile(r"(?P<device>[a-z]+)(-(?P<threads>[1-9][0-9]*|all))?")

# What decides speed on the CPUs that one meets, by the names that Linux gives them.
_VECTOR_EXTENSIONS = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "sve", "sve2", "i8mm"),
)
LIBRARIES = (
    *("calostudy", "numpy", "scipy", "torch", "nflows", "numba", "h5py", "scikit-learn"),
    *("geant4-pybind", "hist", "pandas", "pydantic"),
)


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class HardwareTarget:
    """Where and how a surrogate runs. `threads`: of the CPU (a GPU is fed by one)."""

    device: str
    threads: int
    precision: str
    compiler: str = "eager"

    @property
    def name(self) -> str:
        """The canonical name: device-threads/precision, and the compiler unless it is eager."""
        device = f"cpu-{self.threads}" if self.device == "cpu" else self.device
        parts = [device, self.precision]
        return "/".join(parts + ([] if self.compiler == "eager" else [self.compiler]))

    def __str__(self) -> str:
        return self.name

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the arithmetic."""
        return PRECISIONS[self.precision]

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def missing(self) -> str | None:
        """Why this machine cannot run the target, or None if it can."""
        if self.device == "cuda" and not torch.cuda.is_available():
            return "no CUDA device, or a PyTorch without CUDA"
        if self.device == "cpu" and self.threads > available_cores():
            return f"{self.threads} threads, but this process may use {available_cores()} cores"
        if self.device == "cpu" and self.precision == "tf32":
            return "tf32 is a precision of NVIDIA's tensor cores"
        if self.compiler == "compile" and self.device == "cpu" and not _c_compiler():
            return "torch.compile needs a C++ compiler on the CPU"
        return None

    @contextmanager
    def active(self) -> Iterator[HardwareTarget]:
        """Fix the threads of PyTorch, Numba and the BLAS, and the precision, while inside.

        fp64 and fp32 become PyTorch's default type; bf16 and fp16 are automatic mixed precision
        over fp32; tf32 lets float32 matrix products use the tensor cores. The previous state
        comes back at the end. On a GPU tensors are made there unless the code says otherwise; a
        surrogate goes there with `Surrogate.to`. Raises UsageError where the machine lacks the
        target.
        """
        reason = self.missing()
        if reason:
            raise UsageError(f"hardware target {self.name}: {reason}")
        threads = torch.get_num_threads(), numba.get_num_threads()
        default = torch.get_default_dtype()
        matmul = torch.get_float32_matmul_precision()
        with ExitStack() as stack:
            stack.enter_context(threadpoolctl.threadpool_limits(self.threads, user_api="blas"))
            stack.callback(torch.set_num_threads, threads[0])
            stack.callback(numba.set_num_threads, threads[1])
            stack.callback(torch.set_default_dtype, default)
            stack.callback(torch.set_float32_matmul_precision, matmul)
            # In this order: Numba, when it starts its threads, changes PyTorch's number of them.
            numba.set_num_threads(min(self.threads, numba.config.NUMBA_NUM_THREADS))
            torch.set_num_threads(self.threads)
            if self.device != "cpu":
                stack.enter_context(self.torch_device)
            torch.set_float32_matmul_precision("high" if self.precision == "tf32" else "highest")
            if self.precision in ("bf16", "fp16"):
                torch.set_default_dtype(torch.float32)
                stack.enter_context(torch.autocast(self.device, dtype=self.dtype))
            else:
                torch.set_default_dtype(self.dtype)
            yield self

    def synchronise(self) -> None:
        """Wait until the device has done what it was asked; call it before stopping a clock."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def target(name: str | HardwareTarget) -> HardwareTarget:
    """Parse `device[-threads|-all]/precision[/compiler]`; the CPU without a number is `-all`.

    >>> target("cpu-1/fp32")
    HardwareTarget(device='cpu', threads=1, precision='fp32', compiler='eager')
    >>> target("cuda/fp16/compile").name
    'cuda/fp16/compile'

    Raises UsageError for names that do not exist; whether this machine has the target is asked
    with `missing`.
    """
    if isinstance(name, HardwareTarget):
        return name
    device_part, _, rest = name.partition("/")
    precision, _, compiler = rest.partition("/")
    match = _DEVICE.fullmatch(device_part)
    if not match or match["device"] not in DEVICES:
        raise _unknown(name, f"no device {device_part!r}; there are {', '.join(DEVICES)}")
    if match["device"] != "cpu" and match["threads"]:
        raise _unknown(name, "threads are a matter of the CPU")
    if precision in FORMATS and precision not in PRECISIONS:
        raise _unknown(
            name,
            f"{precision} is emulated, which tells of showers and not of time: "
            f"calostudy generate --emulate {precision}",
        )
    if precision not in PRECISIONS:
        raise _unknown(name, f"no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    compiler = compiler or "eager"
    if compiler not in COMPILERS:
        raise _unknown(name, f"no compiler {compiler!r}; there are {', '.join(COMPILERS)}")
    threads = match["threads"] or ("all" if match["device"] == "cpu" else "1")
    count = available_cores() if threads == "all" else int(threads)
    return HardwareTarget(match["device"], count, precision, compiler)


def require_support(surrogate: object, where: HardwareTarget) -> None:
    """Refuse a target whose name would promise what the surrogate does not do.

    A surrogate says in `runs_on`, by device, in which precisions its sampler runs, and in
    `compilers` what it can be compiled by; where it does not, it runs on the CPU, in fp32 or fp64,
    without a compiler. Raises UsageError.
    """
    runs_on = getattr(surrogate, "runs_on", {"cpu": ("fp32", "fp64")})
    can = {
        "device": tuple(runs_on),
        "precision": runs_on.get(where.device, ()),
        "compiler": getattr(surrogate, "compilers", ("eager",)),
    }
    for attribute, known in can.items():
        wanted = getattr(where, attribute)
        if wanted not in known:
            raise UsageError(
                f"hardware target {where.name}: {surrogate} has no {attribute} {wanted}; "
                f"it has {', '.join(known)}"
            )


def _unknown(name: str, reason: str) -> UsageError:
    return UsageError(f"hardware target {name!r}: {reason} (examples: {EXAMPLES})")


def _c_compiler() -> str | None:
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))), None)


# ---- the machine ------------------------------------------------------------------------------


def _cpu_information() -> tuple[str, set[str]]:
    """Model name and feature flags; on systems without /proc/cpuinfo no flags."""
    file = Path("/proc/cpuinfo")
    text = file.read_text() if file.exists() else ""
    fields = dict(re.findall(r"^([^\t:]+)\s*:\s*(.*)$", text, flags=re.MULTILINE))
    model = fields.get("model name") or platform.processor() or platform.machine()
    return model, set((fields.get("flags") or fields.get("Features") or "").split())


def _gpus() -> list[dict[str, str | float]]:
    if not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        {
            "name": gpu.name,
            "memory_gib": round(gpu.total_memory / 2**30, 1),
            "compute_capability": f"{gpu.major}.{gpu.minor}",
        }
        for gpu in properties
    ]


def library_versions() -> dict[str, str]:
    """Versions of the installed libraries that results depend on."""
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions


@cache
def describe_machine() -> dict:
    """CPU model, cores, vector extensions, memory, GPUs, system and library versions.

    Without the host's name or anything that points to a person; ready for JSON.
    """
    model, flags = _cpu_information()
    return {
        "cpu": model,
        "architecture": platform.machine(),
        "cores": available_cores(),
        "physical_cores": psutil.cpu_count(logical=False),
        "vector_extensions": [name for name in _VECTOR_EXTENSIONS if name in flags],
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
        "virtual_machine": "hypervisor" in flags,
        "system": f"{platform.system()} {platform.release()}",
        "libraries": library_versions(),
    }
