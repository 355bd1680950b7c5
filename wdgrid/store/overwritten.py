"""Detects that an open SQLite file was deleted, replaced, truncated or overwritten by another one.

SQLite uses its caches and its write-ahead log even if the file was replaced. It would write pages of the old database
into the new one, the last time when the connection is closed.
"""

import ctypes
import os
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = b"SQLite format 3\0"
WAL = b"\2\2"  # write and read version of a file in WAL mode; it cannot be left while another process has the file open


@dataclass(frozen=True)
class _Header:
    """Fields of the file's first page (sqlite.org/fileformat2.html, section 1.3), and the file's size in bytes."""

    magic: bytes
    versions: bytes
    needed: int  # size of all its pages
    changes: int
    stamp: int
    size: int


class OpenFile:
    """A file that SQLite has open in this process. `stamp` is its `user_version`, a random number; 0 for none yet."""

    def __init__(self, path: Path, stamp: int) -> None:
        self._path, self._stamp = path, stamp
        self._place = _place(path)
        self._descriptor: int | None = None
        self._last = self._header()

    def is_another(self) -> bool:
        """Whether there is now another file at the path, or other content in the file."""
        if _place(self._path) != self._place:
            return True
        last, self._last = self._last, self._header() or self._last
        return bool(last and self._last and self._differs(last, self._last))

    def _differs(self, last: _Header, now: _Header) -> bool:
        return (
            (now.magic, now.versions) != (MAGIC, WAL)
            or now.stamp not in ({last.stamp} if last.stamp else {0, self._stamp})
            or now.changes < last.changes
            or now.size < min(last.size, now.needed)
        )

    def _header(self) -> _Header | None:
        """Reads through SQLite's own descriptor, because closing another one would release SQLite's locks."""
        for descriptor in [self._descriptor, *_descriptors()]:
            try:
                status = os.fstat(-1 if descriptor is None else descriptor)
                if descriptor is None or (status.st_dev, status.st_ino) != self._place:
                    continue
                head = os.pread(descriptor, 100, 0).ljust(100, b"\0")
            except OSError:
                continue
            self._descriptor = descriptor
            number = [int.from_bytes(head[at : at + 4], "big") for at in (24, 28, 60)]
            page = int.from_bytes(head[16:18], "big")
            needed = (65536 if page == 1 else page) * number[1]
            return _Header(head[:16], head[18:20], needed, number[0], number[2], status.st_size)
        return None

    def set_aside_log(self) -> None:
        """Renames the write-ahead log, which does not belong to the file now at the path."""
        for ending in ("-wal", "-shm"):
            log = self._path.with_name(self._path.name + ending)
            try:
                log.replace(log.with_name(f"{log.name}.overwritten"))
            except OSError:  # another process was faster
                continue


def watched(path: Path, connection: Any, *, may_write: bool) -> OpenFile:
    """The file that an SQLite connection has open. If it has no random number and `may_write`, it gets one here."""
    if may_write and not _stamp(connection):
        connection.execute("BEGIN IMMEDIATE")
        if not _stamp(connection):  # no other process was faster
            connection.execute(f"PRAGMA user_version = {1 + secrets.randbelow(2**31 - 1)}")
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")  # into the file itself, as far as no reader prevents it
    return OpenFile(path, _stamp(connection))


def _stamp(connection: Any) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _place(path: Path) -> tuple[int, int] | None:
    """Device and inode; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _descriptors() -> list[int]:
    """The file descriptors that this process has open; empty if the system does not list them."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return [int(name) for name in os.listdir(folder)]  # noqa: PTH208
        except (OSError, ValueError):
            continue
    return []


def never_write_again(connection: Any) -> bool:
    """Prevents an SQLite connection from writing its log into the file when closed. Returns whether it may be closed.

    Before Python 3.12 sqlite3 has no option for that, so the connection stays open until the process ends.
    """
    if hasattr(connection, "setconfig"):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)  # pyright: ignore
        return True
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))  # never collected, and so never closed
    return False
