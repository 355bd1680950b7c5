"""Writes files into an output folder, whole or not at all, and checks beforehand that this will be possible."""

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from wdgrid.errors import OutputError
from wdgrid.printable import printable

try:
    import fcntl
except ImportError:  # Windows: nothing is swept up there
    fcntl = None

PREFIX = ".writing-"


def check_output(folder: Path) -> None:
    """Raises OutputError unless files can be written into `folder`, which need not exist; nothing is left behind."""
    with _faults(folder):
        parents = [folder, *folder.parents]
        place = next((parent for parent in parents if os.path.lexists(parent)), Path())
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place) as probe:
            missing = folder.relative_to(place).parts if place in parents else folder.parts
            inside = Path(probe, *missing)
            inside.mkdir(parents=True, exist_ok=True)
            (inside / "probe").write_bytes(b"probe")


@contextmanager
def replaced(out: Path) -> Generator[Path]:
    """A new folder inside `out`; the files written there replace those in `out` at the end, one by one, whole.

    Nothing in `out` changes if the writing fails. What a report that was killed left behind is deleted. Raises
    OutputError where something cannot be written.
    """
    with _faults(out):
        out.mkdir(parents=True, exist_ok=True)
        with _locked(out):
            _sweep_up(out)
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=out))
            held = os.open(folder, os.O_RDONLY) if fcntl else None
            _lock(held)
        try:
            yield folder
            for path in sorted(folder.iterdir()):
                path.replace(out / path.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if held is not None:
                os.close(held)


@contextmanager
def written(path: Path) -> Generator[None]:
    """Makes the folder of a file that is written within. Raises OutputError where that or the writing fails."""
    with _faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield


@contextmanager
def _faults(place: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        where = printable(str(error.filename or place))[:300]
        raise OutputError(
            f"--out {printable(str(place))[:300]}: cannot be written ({where}: {error.strerror or error}); make room "
            "or give another --out. Results are stored: wdgrid report NAME draws them"
        ) from error


def _sweep_up(out: Path) -> None:
    """Deletes the folders of reports that were killed: nobody holds their lock."""
    for folder in out.glob(f"{PREFIX}*") if fcntl else ():
        with suppress(OSError):
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                _lock(held, wait=False)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    held = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        _lock(held)
        yield
    finally:
        if held is not None:
            os.close(held)


def _lock(held: int | None, *, wait: bool = True) -> None:
    """Locks an open folder until it is closed or its process ends. Raises BlockingIOError where another has it."""
    if fcntl is None or held is None:
        return
    if not wait:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    with suppress(OSError):  # a file system without locks
        fcntl.flock(held, fcntl.LOCK_EX)
