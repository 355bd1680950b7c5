"""Makes folders that only this user can write to, for files that are trusted when they are read again."""

import os
import stat
from pathlib import Path

PRIVATE = 0o700


def cache_folder() -> Path:
    """The user's own cache: $XDG_CACHE_HOME/wdgrid, or ~/.cache/wdgrid. Raises RuntimeError without a home folder."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if Path(given).is_absolute() else Path("~/.cache").expanduser()
    return base / "wdgrid"


def private_folder(folder: Path) -> Path:
    """Makes `folder` with mode 0700. Raises PermissionError if it exists and is not a folder of this user."""
    folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    if not is_own(folder, private=True):
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != _user():
            raise PermissionError(f"{folder}: is not a folder of this user")
        folder.chmod(PRIVATE)
    return folder


def is_own(path: Path, *, private: bool = False) -> bool:
    """Whether a file or folder (no link) belongs to this user and no other may write to it; `private`: nor read it."""
    if not hasattr(os, "getuid"):  # on Windows, the folders of a profile are private
        return path.exists()
    try:
        found = path.lstat()
    except OSError:
        return False
    others = 0o077 if private else 0o022
    return not stat.S_ISLNK(found.st_mode) and found.st_uid == _user() and not found.st_mode & others


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
