"""Compiled code: a C file built with the machine's own compiler the first time it is wanted, and kept.

For the very processor it runs on, so that vectors are as wide as they can be. Where there is no compiler, or nothing
can be built, there is no library, and whoever asked goes another way. Knows files, compilers and processors; nothing of
what the code computes.
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

from wdgrid.data.places import home

# The first that the compiler takes: GCC and Clang on x86; elsewhere.
PROCESSORS = (["-march=native", "-mprefer-vector-width=512"], ["-march=native"], ["-mcpu=native"])
FLAGS = ["-O3", "-fno-math-errno", "-shared", "-fPIC", "-w"]
PATIENCE_S = 120


@lru_cache
def compiler() -> tuple[str, ...]:
    """The C compiler's command: $CC (`CC=` for none), or cc, gcc, clang; () if there is none."""
    given = os.environ.get("CC")
    names = [shlex.split(given)] if given is not None else [["cc"], ["gcc"], ["clang"]]
    return next((tuple(name) for name in names if name and shutil.which(name[0])), ())


@lru_cache
def library(source: Path, *flags: str) -> ctypes.CDLL | None:
    """`source` and the headers beside it as a library; None where it cannot be built."""
    command = compiler()
    if not command or platform.system() == "Windows":
        return None
    with suppress(OSError, subprocess.SubprocessError):
        version = subprocess.run([*command, "--version"], capture_output=True, timeout=PATIENCE_S, check=True).stdout
        text = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
        facts = (*text, version, _processor(), " ".join([*command, *FLAGS, *flags]).encode())
        digest = hashlib.sha256(b"\0".join(facts)).hexdigest()[:16]
        with suppress(OSError):
            return _built(home() / "compiled" / f"{source.stem}-{digest}.so", source, flags)
        with tempfile.TemporaryDirectory() as folder:  # a home that cannot be written to
            return _built(Path(folder) / f"{source.stem}.so", source, flags)
    return None


def _built(path: Path, source: Path, flags: tuple[str, ...]) -> ctypes.CDLL:
    """The library at `path`, built if it is not there. Of several processes each builds, and the last one's stays."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            _build(part, source, flags)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return ctypes.CDLL(str(path))


def _build(target: Path, source: Path, flags: tuple[str, ...]) -> None:
    """Raises CalledProcessError where the compiler takes none of PROCESSORS."""
    commands = [[*compiler(), *FLAGS, *each, *flags, str(source), "-o", str(target), "-lm"] for each in PROCESSORS]
    for command in commands:
        last = command is commands[-1]
        if subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=last).returncode == 0:
            return


def _processor() -> bytes:
    """What a library built for this processor depends on: a home may be shared by several machines."""
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_bytes().partition(b"\n\n")[0].splitlines()
        return b"".join(line for line in first if line.startswith((b"flags", b"model", b"Features", b"CPU")))
    return f"{platform.machine()} {platform.processor()}".encode()
