"""Finds data on the machine, and reports files that cannot be read."""

import hashlib
import json
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from wdgrid.errors import DataError

Tell = Callable[[str, int, int], None]  # progress: what is being done, how much is done, of how much


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Turns an OSError while reading into a DataError that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from error


@contextmanager
def tidied(folder: Path) -> Generator[None]:
    """Removes `folder` and its parents afterwards if they did not exist before and are empty."""
    fresh = list(takewhile(lambda place: not os.path.lexists(place), (folder, *folder.parents)))
    try:
        yield
    finally:
        for place in fresh:
            with suppress(OSError):  # it is not empty, or was never created
                place.rmdir()


def silent(what: str, done: int, of: int) -> None:
    """Reports no progress."""


def home() -> Path:
    """The folder for prepared and downloaded data: $WDGRID_DATA, or ~/.cache/wdgrid."""
    given = os.environ.get("WDGRID_DATA")
    return Path(given).expanduser() if given else _cache()


def _cache() -> Path:
    return Path("~/.cache/wdgrid").expanduser()


def places(root: str) -> list[Path]:
    """The folders that `root` may mean: itself if absolute, else in the working directory, $WDGRID_DATA or cache."""
    path = Path(root).expanduser()
    return list(dict.fromkeys((base / path).absolute() for base in (Path(), home(), _cache())))


def locate(root: str, needed: str, holds: Callable[[Path], bool]) -> Path:
    """The first folder that `root` may mean and that has the needed files. Raises DataError that names all of them."""
    for place in places(root):
        if holds(place):
            return place
    looked = ", ".join(map(str, places(root)))
    raise DataError(f"task.dataset_args.root = {root}: found no folder with {needed}; searched {looked}")


def fingerprint(*facts: object) -> str:
    """SHA-256 of some facts, such as names, sizes and modification times."""
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()
