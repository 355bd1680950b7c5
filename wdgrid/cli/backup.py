"""`wdgrid backup`: copies a storage while sweeps write to it."""

from pathlib import Path
from typing import Annotated

import typer

from wdgrid.cli.common import Quiet, Storage, StudyName, say


def backup(
    study: StudyName,
    to: Annotated[Path, typer.Argument(metavar="FILE", help="New SQLite file; a file that exists is never replaced.")],
    storage: Storage = None,
    quiet: Quiet = False,
) -> None:
    """Copy the SQLite storage of a study to a new file, as of one moment, while sweeps may write to it."""
    from wdgrid.runner.naming import existing, open_store

    _, url = existing(study, storage)
    with open_store(url) as store:
        store.backup(to)
    say(f"written: {to}", quiet)
