"""Downloads one published file and checks its MD5."""

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from wdgrid.data.locations import Tell, tidied
from wdgrid.errors import DataError

TIMEOUT_S = 30
BLOCK = 1024**2


def fetch(url: str, md5: str, target: Path, tell: Tell) -> None:
    """Downloads `url` to `target`; the file gets its name only after its MD5 was checked.

    Raises DataError that says why it could not be downloaded; no file is left behind then.
    """
    part = target.with_name(target.name + ".part")
    with tidied(target.parent):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            found = _download(url, part, tell)
            if found != md5:
                raise DataError(
                    f"{url}: the download has MD5 {found}, but the published file has {md5}: incomplete or changed"
                )
            part.replace(target)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error or type(error).__name__
            raise DataError(f"{url}: cannot be downloaded to {target.parent}: {why}") from error
        finally:
            part.unlink(missing_ok=True)


def _download(url: str, part: Path, tell: Tell) -> str:
    """Downloads to `part` and returns the MD5."""
    digest, done = hashlib.md5(usedforsecurity=False), 0
    with part.open("wb") as file, urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        total = int(answer.headers.get("Content-Length") or 0)
        while block := answer.read(BLOCK):
            file.write(block)
            digest.update(block)
            done += len(block)
            tell(f"downloading {part.stem}, MB", done // 10**6, max(total, done) // 10**6 + 1)
    return digest.hexdigest()
