"""Parses, checks and prints the storage's URL, and finds folders on network file systems."""

import os
import re
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from wdgrid.errors import StoreError
from wdgrid.printable import printable, without_password

# SQLite's write-ahead log needs shared memory and working locks, which several machines do not have.
NETWORK = re.compile(r"(fuse\.)?(nfs\d?|cifs|smb\w*|lustre|gpfs|beegfs|ceph\w*|glusterfs|afs|sshfs|orangefs|pvfs2)")
ANYWAY = "WDGRID_NETWORK_SQLITE"  # environment variable; 1: the user declares that only one machine uses the file
SHOWN = 300  # characters of a URL in a message


def parsed(url: str, create: bool) -> tuple[sa.URL, str]:
    """The URL, and its text without passwords. Raises StoreError unless it is a possible storage for wdgrid."""
    name = printable(without_password(url)).replace("\n", "\\n")[:SHOWN]
    try:
        url.encode()
        made = sa.make_url(url)
    except (ArgumentError, ValueError):  # ValueError for a port that is not a number, and for half a surrogate pair
        # Invalid text may hold a password anywhere, so only the scheme and the text after the last @ are shown.
        scheme, colon, rest = name.partition(":")
        name = f"{scheme}{colon and ':***'}{''.join(rest.rpartition('@')[1:]) if '@' in rest else ''}"
        raise StoreError(f"not a storage URL: {name!r} (sqlite:///path/x.db or postgresql+psycopg://…)") from None
    if made.get_backend_name() not in ("sqlite", "postgresql"):
        raise StoreError(f"{name}: the storage must be SQLite or PostgreSQL")
    if made.get_backend_name() == "sqlite":
        _check_file(made, name, create)
    return made, name


def _check_file(url: sa.URL, name: str, create: bool) -> None:
    if not url.database or url.database == ":memory:" or url.host:
        raise StoreError(f"{name}: an SQLite storage must be a file (sqlite:///path/x.db)")
    if url.query:
        raise StoreError(f"{name}: the path of an SQLite storage must not contain a question mark")
    path = Path(url.database)
    try:
        if not path.parent.is_dir():
            raise StoreError(f"{name}: there is no folder {printable(str(path.parent))[:SHOWN]}")
        if not create and not path.is_file():
            raise StoreError(f"{name}: there is no such file")
        kind = network_file_system(path.parent)
    except OSError as error:
        raise StoreError(f"{name}: {error.strerror or error}") from None
    if kind and os.environ.get(ANYWAY) != "1":
        raise StoreError(
            f"{name}: the folder is on a network file system ({kind}), where SQLite may lose or damage data; give "
            f"--storage a file on a local disk or postgresql+psycopg://…; set {ANYWAY}=1 if one machine alone uses it"
        )


def network_file_system(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """The type of the network file system that `folder` is on; None if it is local or not known."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    place = folder.resolve()
    kind, deepest = None, -1
    for fields in map(str.split, lines):
        point = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[1]))
        # If there are several mounts at one place, the last one counts.
        if (place == point or point in place.parents) and len(point.parts) >= deepest:
            kind, deepest = fields[2], len(point.parts)
    return kind if kind and NETWORK.fullmatch(kind) else None


def opened_read_only(url: sa.URL) -> sa.URL:
    """The URL with which SQLite opens its file for reading only; other URLs are unchanged."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return url
    return url.set(database=f"file:{quote(url.database)}", query={"mode": "ro", "uri": "true"})
