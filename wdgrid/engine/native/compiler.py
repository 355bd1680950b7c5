"""Compiles a C file with the machine's own compiler when it is first used, and caches the library.

The code is compiled for the machine's processor, so that it uses the widest vectors. If there is no compiler, or if
compilation fails, `library` returns None and the caller uses PyTorch. A cached library is loaded only from a folder
that only this user can write, and only if its SHA-256 is the one in its name.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from wdgrid.data.own import cache_folder, is_own, private_folder

# The first set of flags that the compiler accepts is used; the first one is for GCC and Clang on x86.
PROCESSORS = (["-march=native", "-mprefer-vector-width=512"], ["-march=native"], ["-mcpu=native"])
FLAGS = ["-O3", "-fno-math-errno", "-shared", "-fPIC", "-w"]
IDLE_S = 10.0  # without processor time: the compiler is considered hung
BUSY_S = 30.0  # of processor time: the compilation is considered endless
WALL_S = 120.0


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
        version = _run([*command, "--version"])
        text = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
        facts = (*text, version, _processor(), " ".join([*command, *FLAGS, *flags]).encode())
        digest = hashlib.sha256(b"\0".join(facts)).hexdigest()
        stem = f"{source.stem}-{digest[:16]}"
        with suppress(OSError, RuntimeError, subprocess.CalledProcessError):
            folder = private_folder(cache_folder() / "compiled")
            return _stored(folder, stem) or _built(folder, stem, source, flags)
        with tempfile.TemporaryDirectory() as folder:  # no home, or one that is full, not writable or another user's
            return _built(Path(folder), stem, source, flags)
    return None


def _stored(folder: Path, stem: str) -> ctypes.CDLL | None:
    """A library built earlier; a damaged one is deleted."""
    for path in folder.glob(f"{stem}-*.so"):
        if is_own(path) and path.name == _name(stem, path):
            with suppress(OSError):
                return ctypes.CDLL(str(path))
        path.unlink()
    return None


def _name(stem: str, content: Path) -> str:
    return f"{stem}-{hashlib.sha256(content.read_bytes()).hexdigest()}.so"


def _built(folder: Path, stem: str, source: Path, flags: tuple[str, ...]) -> ctypes.CDLL:
    """The library, written to the folder completely or not at all. Several processes build one each."""
    handle, name = tempfile.mkstemp(".part", stem, folder)
    part = Path(name)
    try:
        _build(part, source, flags)
        part.chmod(0o700)
        os.fsync(handle)
        path = folder / _name(stem, part)
        part.replace(path)
    finally:
        os.close(handle)
        part.unlink(missing_ok=True)
    return ctypes.CDLL(str(path))


def _build(target: Path, source: Path, flags: tuple[str, ...]) -> None:
    """Raises CalledProcessError if the compiler accepts none of PROCESSORS, TimeoutExpired if it hangs."""
    commands = [[*compiler(), *FLAGS, *each, *flags, str(source), "-o", str(target), "-lm"] for each in PROCESSORS]
    for command in commands:
        try:
            _run(command)
            return
        except subprocess.CalledProcessError:
            if command is commands[-1]:
                raise


def _run(command: list[str]) -> bytes:
    """A command's output. Raises CalledProcessError, or TimeoutExpired if it hangs; its children are ended, too."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL, start_new_session=True
        )
        began = moved = time.monotonic()
        used = 0.0
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
                now, busy = time.monotonic(), _processor_seconds(process.pid)
                if busy is not None and busy > used:
                    moved, used = now, busy
                if now - moved > IDLE_S or used > BUSY_S or now - began > WALL_S:
                    raise subprocess.TimeoutExpired(command, now - began)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        out.seek(0)
        return out.read()


def _processor_seconds(group: int) -> float | None:
    """Processor time that the processes of a group have used; None if the system does not report it."""
    if not Path("/proc/self/stat").exists():
        return None
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[2]) == group:
                ticks += int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])
    return ticks / os.sysconf("SC_CLK_TCK")


def _processor() -> bytes:
    """Describes the processor for which a library is compiled: several machines may share a home folder."""
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_bytes().partition(b"\n\n")[0].splitlines()
        return b"".join(line for line in first if line.startswith((b"flags", b"model", b"Features", b"CPU")))
    return f"{platform.machine()} {platform.processor()}".encode()
