"""Names the processor, and sets the mode in which Intel's MKL computes equal bits for equal cells.

By default MKL may choose its kernel by the alignment of a matrix, so a cell's bits could depend on its slot in the
chunk. Its strict reproducible mode (MKL_CBWR=…,STRICT) prevents that. MKL reads the mode at the first product of a
process.
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
    """The processor's name, as the operating system reports it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def is_intel() -> bool:
    """Whether this is an Intel processor."""
    return "GenuineIntel" in (_cpuinfo("vendor_id") or platform.processor())


def choose_mode() -> None:
    """Sets MKL's mode for this process and its children, unless the user did. It has no effect after the first product.

    On Intel processors it sets nothing: no cell was seen to depend on its slot there, and the AVX2 mode excludes
    AVX-512.
    """
    if torch.backends.mkl.is_available() and not is_intel():
        os.environ.setdefault(MODE, OFF_INTEL)


def strict_mode() -> str | None:
    """The mode to set if equal cells differ; None if a mode is already set."""
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
