"""Runs a command and measures its memory; finds the machine's peak rate, its name and the versions.

`python machine.py` prints the measured float32 GEMM peak.
"""

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
SIZE = 2048  # of the square matrices


class RunError(Exception):
    """A command that failed, with the end of its output."""


@dataclass(frozen=True)
class Run:
    """One finished command: wall time from its start to its end, peak resident memory in MiB, stdout."""

    seconds: float
    parent_mib: float
    largest_child_mib: float
    out: str


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> Run:
    """Runs a command in this folder. Raises RunError if it fails."""
    peaks: dict[int, float] = {}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=HERE, env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, peaks, ended), daemon=True)
    watcher.start()
    out, err = process.communicate()
    seconds = time.perf_counter() - started
    ended.set()
    watcher.join()
    if process.returncode:
        tail = " | ".join(err.strip().splitlines()[-5:])
        raise RunError(f"{' '.join(command[:4])} … ended with {process.returncode}: {tail}")
    nan = float("nan")
    children = [peak for pid, peak in peaks.items() if pid != process.pid]
    return Run(seconds, peaks.get(process.pid, nan), max(children, default=nan), out)


def _watch(root: int, peaks: dict[int, float], ended: threading.Event) -> None:
    """Notes the high-water mark of a process and of everything it started, ten times a second (Linux)."""
    while not ended.wait(0.1):
        waiting = [root]
        while waiting:
            pid = waiting.pop()
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            except (OSError, ValueError):
                continue
            for line in status.splitlines():
                if line.startswith("VmHWM:"):
                    peaks[pid] = int(line.split()[1]) / 1024


def gemm_peak(seconds: float = 2.0, device: str = "cpu") -> float:
    """The highest rate of a GPU, or of all cores (threads or processes), in float32 products of 2048³, in GFLOP/s.

    On a CPU it is the larger one of torch's product (MKL) and oneDNN's linear layer; on AMD, MKL is half as fast.
    """
    n = cores()
    start = time.time() + 5.0
    command = [sys.executable, str(Path(__file__)), "gemm", str(start), str(seconds)]
    if device != "cpu":
        found = subprocess.run([*command, "1", device], stdout=subprocess.PIPE, text=True, check=True)
        return float(found.stdout)
    apart = [subprocess.Popen([*command, "1"], stdout=subprocess.PIPE, text=True) for _ in range(n)]
    by_processes = sum(float(process.communicate()[0]) for process in apart)
    command[3] = "0"
    by_threads = float(subprocess.run([*command, str(n)], stdout=subprocess.PIPE, text=True, check=True).stdout)
    return max(by_processes, by_threads)


def _gemm(start: float, seconds: float, threads: int, device: str = "cpu") -> float:
    """GFLOP/s of one process; it waits for `start` (seconds since 1970), so that several run at the same time."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(2, SIZE, SIZE, device=device).unbind()
    out = a @ b
    time.sleep(max(0.0, start - time.time()))

    def rate(product: Callable[[], object]) -> float:
        products, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < seconds:
            product()
            products += 1
            if device != "cpu":
                torch.cuda.synchronize()
        return products * 2 * SIZE**3 / took / 1e9

    rates = [rate(lambda: torch.mm(a, b, out=out))]
    if device == "cpu" and torch.backends.mkldnn.is_available():
        rates.append(rate(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")))
    return max(rates)


def has_gpu() -> bool:
    """Whether torch sees one."""
    import torch

    return torch.cuda.is_available()


def device_name(device: str) -> str:
    """Where training runs, in words."""
    if device == "cpu":
        return f"{processor()} (CPU only)"
    import torch

    return f"{torch.cuda.get_device_name()}, in {processor()}"


def processor() -> str:
    """The processor's own name, and how many cores of it may be used."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {cores()} cores"


def versions() -> str:
    """Versions of what is compared."""
    names = ["wdgrid", "torch", "torchvision", "optuna", "sqlalchemy", "numpy", "pillow"]
    if find_spec("ray"):
        names.append("ray")
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)])


def commit() -> str:
    """The commit that was measured, with + if there are uncommitted changes."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    told = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"


if __name__ == "__main__":
    if sys.argv[1:2] == ["gemm"]:
        print(_gemm(float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:]))
    else:
        print(f"{gemm_peak():.1f} GFLOP/s")
