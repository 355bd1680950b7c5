"""The processor: its name, and the mode in which Intel's MKL gives equal bits to equal cells on it.

By default MKL may choose another kernel where a matrix is aligned otherwise, so that a cell's bits would depend on its
slot in the chunk. Its strict reproducibility (MKL_CBWR=…,STRICT) rules that out. MKL reads the mode at the process's
first product.
"""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

MODE = "MKL_CBWR"
# On an AMD EPYC (Zen 5), 216 of 324 small MLPs in float32 differed between slots without a mode; none did with this
# one, at the same 101 GFLOP/s a core (benchmarks/RESULTS.md).
OFF_INTEL = "AVX2,STRICT"


def name() -> str:
    """The processor's name, as the system prints it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def is_intel() -> bool:
    """Whether MKL counts this processor among its own."""
    return "GenuineIntel" in (_cpuinfo("vendor_id") or platform.processor())


def choose_mode() -> None:
    """Sets MKL's mode for this process and its children, unless the user did. Only the first product looks at it.

    Intel's processors get none: no cell there was seen to depend on its slot, and AVX2 would cost them AVX-512.
    """
    if torch.backends.mkl.is_available() and not is_intel():
        os.environ.setdefault(MODE, OFF_INTEL)


def strict_mode() -> str | None:
    """The mode to ask for where equal cells differ without one; None where a mode is set already."""
    if MODE in os.environ or not torch.backends.mkl.is_available():
        return None
    return "AVX512,STRICT" if torch.backends.cpu.get_cpu_capability() == "AVX512" else "AVX2,STRICT"


def _cpuinfo(field: str) -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith(field):
            return line.partition(":")[2].strip()
    return ""


def _lines(path: Path) -> Iterator[str]:
    with contextlib.suppress(OSError), path.open(encoding="utf-8") as lines:
        yield from lines
