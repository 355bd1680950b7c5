"""Where data lies on a machine, and how a fault in it is told."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from wdgrid.errors import DataError

Tell = Callable[[str, int, int], None]  # what is being done, how much of it is, of how much


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what the system says of a file that cannot be read into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from error


@contextmanager
def tidied(folder: Path) -> Iterator[None]:
    """Afterwards `folder` and those above it are gone again, as far as they were not there before and hold nothing."""
    fresh = list(takewhile(lambda place: not os.path.lexists(place), (folder, *folder.parents)))
    try:
        yield
    finally:
        for place in fresh:
            with suppress(OSError):  # it holds something, or was never made
                place.rmdir()


def silent(what: str, done: int, of: int) -> None:
    """Tells nobody."""


def home() -> Path:
    """The folder for prepared and downloaded data: $WDGRID_DATA, or ~/.cache/wdgrid."""
    given = os.environ.get("WDGRID_DATA")
    return Path(given).expanduser() if given else _cache()


def _cache() -> Path:
    return Path("~/.cache/wdgrid").expanduser()


def places(root: str) -> list[Path]:
    """Where `root` may be: itself if absolute; else in the working directory, $WDGRID_DATA and ~/.cache/wdgrid."""
    path = Path(root).expanduser()
    return list(dict.fromkeys((base / path).absolute() for base in (Path(), home(), _cache())))


def locate(root: str, needed: str, holds: Callable[[Path], bool]) -> Path:
    """The first place of `root` that holds what is needed. Raises DataError that names every place looked at."""
    for place in places(root):
        if holds(place):
            return place
    looked = ", ".join(map(str, places(root)))
    raise DataError(f"task.dataset_args.root = {root}: no folder with {needed} in it; looked at {looked}")


def fingerprint(*facts: object) -> str:
    """SHA-256 of some facts, such as names, sizes and times of change."""
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()
