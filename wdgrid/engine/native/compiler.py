"""Compiles a C file with the machine's own compiler when it is first used, and caches the library.

The code is compiled for the processor at hand, so that it uses the widest vectors. If there is no compiler, or
compilation fails, `library` returns None and the caller uses PyTorch.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from wdgrid.data.locations import home

# The first set of flags that the compiler accepts is used; the first one is for GCC and Clang on x86.
PROCESSORS = (["-march=native", "-mprefer-vector-width=512"], ["-march=native"], ["-mcpu=native"])
FLAGS = ["-O3", "-fno-math-errno", "-shared", "-fPIC", "-w"]
PATIENCE_S = 120


@lru_cache
def compiler() -> tuple[str, ...]:
    """The C compiler's command: $CC (`CC=` for none), or cc, gcc, clang; () if there is none."""
    given = os.environ.get("CC")
    with suppress(ValueError):  # unbalanced quotes
        names = [["cc"], ["gcc"], ["clang"]] if given is None else [shlex.split(given)]
        return next((tuple(name) for name in names if name and shutil.which(name[0])), ())
    return ()


@lru_cache
def library(source: Path, *flags: str) -> ctypes.CDLL | None:
    """`source` and the headers beside it as a library; None if it cannot be compiled."""
    command = compiler()
    if not command or platform.system() == "Windows":
        return None
    with suppress(OSError, subprocess.SubprocessError):
        version = subprocess.run([*command, "--version"], capture_output=True, timeout=PATIENCE_S, check=True).stdout
        text = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
        facts = (*text, version, _processor(), " ".join([*command, *FLAGS, *flags]).encode())
        digest = hashlib.sha256(b"\0".join(facts)).hexdigest()
        stem = f"{source.stem}-{digest[:16]}"
        with suppress(OSError, RuntimeError, subprocess.SubprocessError):
            return _kept(home() / "compiled", stem) or _built(home() / "compiled", stem, source, flags)
        with tempfile.TemporaryDirectory() as folder:  # the cache folder is missing, full or read-only
            return _built(Path(folder), stem, source, flags)
    return None


def _kept(folder: Path, stem: str) -> ctypes.CDLL | None:
    """A cached library. Its name holds its size in bytes: loading a truncated one would kill the process."""
    for path in folder.glob(f"{stem}-*.so"):
        if path.stem == f"{stem}-{path.stat().st_size}":
            with suppress(OSError):
                return ctypes.CDLL(str(path))
        path.unlink()
    return None


def _built(folder: Path, stem: str, source: Path, flags: tuple[str, ...]) -> ctypes.CDLL:
    """Compiles the library into the folder, atomically. Several processes may each compile their own."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(".part", stem, folder)
    part = Path(name)
    try:
        _build(part, source, flags)
        os.fsync(handle)
        path = folder / f"{stem}-{part.stat().st_size}.so"
        part.replace(path)
    finally:
        os.close(handle)
        part.unlink(missing_ok=True)
    return ctypes.CDLL(str(path))


def _build(target: Path, source: Path, flags: tuple[str, ...]) -> None:
    """Raises CalledProcessError if the compiler accepts none of PROCESSORS."""
    commands = [[*compiler(), *FLAGS, *each, *flags, str(source), "-o", str(target), "-lm"] for each in PROCESSORS]
    for command in commands:
        last = command is commands[-1]
        if subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=last).returncode == 0:
            return


def _processor() -> bytes:
    """Describes the processor for which a library is compiled: several machines may share a home folder."""
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_bytes().partition(b"\n\n")[0].splitlines()
        return b"".join(line for line in first if line.startswith((b"flags", b"model", b"Features", b"CPU")))
    return f"{platform.machine()} {platform.processor()}".encode()
