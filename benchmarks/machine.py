"""What the figures were measured on: processor, versions, commit, and the most multiply-adds a second it can do."""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from contextual_rnn import ops
from contextual_rnn.ops._fast_weights.choice import ENVIRONMENT

HERE = Path(__file__).parent
PACKAGES = ("contextual-rnn", "torch", "jax", "jaxlib", "numpy")
INSTRUCTION_SET = "CONTEXTUAL_RNN_INSTRUCTION_SET"  # of csrc/instruction_set.cpp
MM_SIZE = 1024
ROUNDS = 20_000  # of a chain: some 50 microseconds, short beside what it is measured next to


def describe() -> dict[str, object]:
    """Processor, cores, load, versions, commit, and what the backends say of themselves."""
    status = _output("git", "-C", str(HERE), "status", "--porcelain", "--untracked-files=no")
    return {
        "processor": _processor(),
        "cores": len(available_cores()),
        "load average of the last minute": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "torch instruction set": torch.backends.cpu.get_cpu_capability(),
        "backends": {name: kernel.availability() for name, kernel in ops.KERNELS.items()},
        "backend asked for": os.environ.get(ENVIRONMENT, "auto"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _output("git", "-C", str(HERE), "rev-parse", "HEAD") or "unknown",
        "uncommitted changes": bool(status),
    }


def available_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@dataclass(frozen=True)
class Peak:
    """Something that does nothing but multiply-adds: `run` does `multiply_adds` of them a call, on one thread."""

    run: Callable[[], object]
    multiply_adds: int
    how: str


def peak() -> Peak:
    """The compiled loop of peak.cpp, or a large product of matrices where there is no compiler."""
    library = _compiled()
    if library is None:
        a, b = torch.randn(MM_SIZE, MM_SIZE), torch.randn(MM_SIZE, MM_SIZE)
        how = f"torch.mm of {MM_SIZE} x {MM_SIZE}, for want of a C++ compiler: a little below the true peak"
        return Peak(lambda: torch.mm(a, b), MM_SIZE**3, how)
    lanes = library.peak_lanes()
    how = f"compiled loop of independent multiply-adds in registers, {lanes} a vector"
    return Peak(lambda: library.peak_independent(ROUNDS, 1.0), 12 * lanes * ROUNDS, how)


def check_peak() -> dict[str, object]:
    """What speaks for the peak: multiply-adds a second of it, of a large torch.mm, and vectors a latency.

    A processor with n units and a latency of 4 cycles starts 4 n vectors in one latency, so that the peak is true
    where the last number is near 4 (one unit of this width) or 8 (two).
    """
    measured, a, b = peak(), torch.randn(MM_SIZE, MM_SIZE), torch.randn(MM_SIZE, MM_SIZE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rate = measured.multiply_adds / _fastest(measured.run, 200)
    mm = MM_SIZE**3 / _fastest(lambda: torch.mm(a, b), 10)
    torch.set_num_threads(threads)
    checked: dict[str, object] = {"how": measured.how, "multiply-adds/s": rate, "torch.mm multiply-adds/s": mm}
    if library := _compiled():
        chain = _fastest(lambda: library.peak_chain(ROUNDS, 1.0), 200) / ROUNDS
        checked["vectors a latency"] = rate * chain / library.peak_lanes()
    return checked


def _fastest(run: Callable[[], object], calls: int) -> float:
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


_LIBRARY: list[ctypes.CDLL | None] = []


def _compiled() -> ctypes.CDLL | None:
    if not _LIBRARY:
        _LIBRARY.append(_compile())
    return _LIBRARY[0]


def compiler() -> list[str]:
    """The words that call the C++ compiler; none where there is none."""
    named = shlex.split(os.environ.get("CXX", ""))
    return named or [found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))][:1]


def _compile() -> ctypes.CDLL | None:
    if not (found := compiler()):
        return None
    native = ["-mcpu=native"] if platform.machine() in ("aarch64", "arm64") else ["-march=native"]
    if os.environ.get(INSTRUCTION_SET) == "avx2":  # each set against its own peak
        native = ["-mavx2", "-mfma"]
    elif platform.machine() in ("x86_64", "AMD64"):
        native.append("-mprefer-vector-width=512")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "peak.so"
        command = [*found, "-O3", "-ffp-contract=fast", *native, "-shared", "-fPIC"]
        made = subprocess.run([*command, str(HERE / "peak.cpp"), "-o", str(library)], capture_output=True, check=False)
        if made.returncode != 0:
            return None
        loaded = ctypes.CDLL(str(library))
    for function in (loaded.peak_independent, loaded.peak_chain):
        function.argtypes, function.restype = (ctypes.c_int64, ctypes.c_float), ctypes.c_float
    return loaded


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
