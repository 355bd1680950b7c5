"""Looks for damage in a storage, and copies an SQLite storage while others write to it."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import sqlalchemy as sa
from optuna.trial import TrialState

from wdgrid.errors import OutputError, StoreError
from wdgrid.store.database import cells, clock, leases, trials, values
from wdgrid.store.leases import unowned
from wdgrid.store.plan import panels_of

NEXT_SWEEP = "the next wdgrid sweep of that storage"


def problems(connection: sa.Connection) -> list[str]:
    """One line for each kind of damage or left-over, with how to repair it; an empty list if there is none."""
    return [*_integrity(connection), *_content(connection)]


def _integrity(connection: sa.Connection) -> Iterator[str]:
    if connection.dialect.name != "sqlite":
        return
    mend = "restore a backup, or: sqlite3 FILE .recover | sqlite3 NEW"
    for pragma in ("integrity_check", "foreign_key_check"):
        rows = connection.exec_driver_sql(f"PRAGMA {pragma}").all()
        if rows and rows != [("ok",)]:
            yield f"SQLite's {pragma}: {len(rows)} faults, the first: {' '.join(map(str, rows[0]))}: {mend}"


def _content(connection: sa.Connection) -> Iterator[str]:
    try:
        study_ids = [panel.study_id for panel in panels_of(connection)]
    except StoreError as error:
        yield f"{error}: restore a backup, or optuna delete-study"
        return
    ours = trials.c.study_id.in_(study_ids)
    alive = sa.exists().where(trials.c.trial_id == cells.c.trial_id, trials.c.study_id == cells.c.study_id)
    has_cell = sa.exists().where(cells.c.trial_id == trials.c.trial_id)
    has_value = sa.exists().where(values.c.trial_id == trials.c.trial_id)
    running = sa.exists().where(trials.c.trial_id == leases.c.trial_id, trials.c.state == TrialState.RUNNING)
    counts = {
        f"cells whose trial is gone: {NEXT_SWEEP} deletes them": (cells, ~alive),
        f"leases of trials that are not running: {NEXT_SWEEP} deletes them": (leases, ~running),
        f"running cells that nobody has a lease on: {NEXT_SWEEP} puts them back": (trials, unowned()),
        f"expired leases: {NEXT_SWEEP} puts the cells back": (leases, running & (leases.c.expires < clock(connection))),
        "trials that wdgrid did not plan, which it ignores: optuna can delete them": (trials, ours & ~has_cell),
        "complete cells without a value: restore a backup": (
            trials,
            ours & has_cell & ~has_value & (trials.c.state == TrialState.COMPLETE),
        ),
        "failed cells: the next sweep tries those that failed fewer than three times again": (
            trials,
            ours & has_cell & (trials.c.state == TrialState.FAIL),
        ),
    }
    for words, (table, condition) in counts.items():
        if n := connection.execute(sa.select(sa.func.count()).select_from(table).where(condition)).scalar_one():
            yield f"{n} {words}"


def backup(source: Path, target: Path) -> None:
    """Copies an SQLite database by SQLite's own backup, completely or not at all, as of one commit; others may write.

    Raises OutputError if `target` exists or cannot be written, StoreError if the copy is not intact.
    """
    if os.path.lexists(target):
        raise OutputError(f"{target}: exists already; give the backup another name")
    part = target.with_name(f"{target.name}.part-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(source)) as original, closing(sqlite3.connect(part)) as copy:
            original.backup(copy)
            if copy.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                raise StoreError(f"{source}: the copy is not intact; wdgrid doctor --storage says more")
            copy.execute("PRAGMA journal_mode = DELETE")  # so that the copy is one file
        with part.open("rb") as written:
            os.fsync(written.fileno())
        os.link(part, target)  # fails if another process was faster
    except (OSError, sqlite3.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise OutputError(f"{target}: the backup cannot be written: {why}; make room or give another place") from error
    finally:
        for left in (part, part.with_name(f"{part.name}-journal"), part.with_name(f"{part.name}-wal")):
            with suppress(OSError):
                left.unlink()
