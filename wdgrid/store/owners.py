"""Names the process that holds a lease, and says whether such a process has died on this machine."""

import hashlib
import os
import socket
from functools import cache
from pathlib import Path


def owner_name() -> str:
    """A unique name of this process: `hostname:pid:machine-start`.

    `machine` identifies the boot and the process namespace, within which a pid is unique; `start` is the process's
    start time, because pids are reused.
    """
    return f"{socket.gethostname()}:{os.getpid()}:{_machine()}-{_start_time(os.getpid()) or '0'}"


@cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return hashlib.sha256(f"{boot}{Path('/proc/self/ns/pid').readlink()}".encode()).hexdigest()[:8]
    except OSError:
        return "0"


def _start_time(pid: int) -> str | None:
    """The start time of a running process in clock ticks; "" if it is dead, None without /proc."""
    if not Path("/proc/self/stat").exists():
        return None
    try:
        # The second field is the command in parentheses, which may contain spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def is_dead(owner: str) -> bool:
    """Whether the owner is certainly dead; False if that cannot be decided from this machine."""
    try:
        host, pid, token = owner.rsplit(":", 2)
        machine, start = token.split("-", 1)
        number = int(pid)
    except ValueError:
        return False
    if (host, machine) != (socket.gethostname(), _machine()):
        return False
    now = _start_time(number)
    if now is not None:
        return now != start
    if os.name == "nt":  # on Windows, os.kill with signal 0 sends Ctrl-C
        return False
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
