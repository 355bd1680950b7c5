"""Where data lies on a machine, and how a fault in it is told."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

Tell = Callable[[str, int, int], None]  # what is being done, how much of it is, of how much


class DataError(Exception):
    """A dataset that cannot be used, in one line."""


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


def locate(root: str, needed: Sequence[str]) -> Path:
    """The first place of `root` that holds everything needed. Raises DataError that names every place looked at."""
    for place in places(root):
        if all((place / name).exists() for name in needed):
            return place
    looked = ", ".join(map(str, places(root)))
    raise DataError(f"task.dataset_args.root = {root}: no folder with {' and '.join(needed)} in it; looked at {looked}")
