"""Stores the queue of submitted studies, and the lease of the worker that trains them.

Each method of `Queue` is one transaction. The two tables are created when a study is first submitted or a worker
first starts; until then the queue is empty. Only the worker that holds the lease may start and end entries.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from wdgrid.errors import UsageError
from wdgrid.store.database import Database, clock
from wdgrid.store.owners import is_dead

State = Literal["waiting", "running", "paused", "done", "failed", "cancelled"]
OPEN = ("waiting", "running", "paused")  # entries that have a place in the queue
LEASE_S = 60.0
MOST_NOTE = 2000  # characters

_tables = sa.MetaData()
_queue = sa.Table(
    "wdgrid_queue",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("study", sa.String(512), nullable=False),
    sa.Column("canonical", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("options", sa.Text, nullable=False),
    sa.Column("submitted", sa.Float(53), nullable=False),  # seconds since the epoch, by the storage's clock
    sa.Column("started", sa.Float(53)),
    sa.Column("ended", sa.Float(53)),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
)
_worker = sa.Table(
    "wdgrid_worker",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String(512), nullable=False),
    sa.Column("expires", sa.Float(53), nullable=False),
    sa.Column("progress", sa.Text, nullable=False),
)


@dataclass(frozen=True)
class Entry:
    """A submitted study: its definition as canonical JSON, and the options of its sweep (`options`).

    Times are in seconds since the epoch. `attempts` counts sweeps that ended by a fault. `note` says why it ended.
    """

    id: int
    state: State
    study: str
    canonical: str
    digest: str
    options: dict[str, Any]
    submitted: float
    started: float | None
    ended: float | None
    attempts: int
    note: str


@dataclass(frozen=True)
class Worker:
    """The process that trains the queue; `alive` is False if it died or its lease expired."""

    owner: str
    alive: bool
    progress: dict[str, Any]


class Queue:
    """The queue of an open storage. Every method raises StoreError if the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # For all processes

    def submit(self, study: str, canonical: str, digest: str, options: Mapping[str, Any]) -> Entry:
        """Add a study at the end. Raises UsageError if a study of that name is already in the queue."""

        def add(connection: sa.Connection) -> Entry:
            same = sa.select(_queue).where(_queue.c.study == study, _queue.c.state.in_(OPEN))
            for row in connection.execute(same):
                if row.digest != digest:
                    raise UsageError(f"{study}: another study of that name is in the queue (entry {row.id})")
                raise UsageError(f"{study}: is in the queue already (entry {row.id})")
            last = connection.execute(sa.select(sa.func.max(_queue.c.position))).scalar()
            row = {
                "position": (last or 0) + 1,
                "state": "waiting",
                "study": study,
                "canonical": canonical,
                "digest": digest,
                "options": json.dumps(dict(options)),
                "submitted": clock(connection),
                "attempts": 0,
                "note": "",
            }
            made = connection.execute(sa.insert(_queue).values(row).returning(_queue.c.id)).scalar_one()
            return _one(connection, made)

        self._database.ensure(_tables)
        return self._database.planning(add)

    def entries(self, at_most: int = 100) -> list[Entry]:
        """The entries in the queue in the order of training, then those that ended, the latest first."""

        def read(connection: sa.Connection) -> list[Entry]:
            if not self._exists(connection):
                return []
            running_first = sa.case((_queue.c.state == "running", 0), else_=1)
            opened = sa.select(_queue).where(_queue.c.state.in_(OPEN)).order_by(running_first, _queue.c.position)
            ended = sa.select(_queue).where(~_queue.c.state.in_(OPEN)).order_by(_queue.c.ended.desc(), _queue.c.id)
            rows = [*connection.execute(opened.limit(at_most)), *connection.execute(ended.limit(at_most))]
            return [_entry(row) for row in rows][:at_most]

        return self._database.reading(read)

    def entry(self, number: int) -> Entry:
        """One entry. Raises UsageError if there is none."""

        def read(connection: sa.Connection) -> Entry:
            if not self._exists(connection):
                raise UsageError(f"queue entry {number}: there is none")
            return _one(connection, number)

        return self._database.reading(read)

    def move(self, number: int, to: int) -> Entry:
        """Move an entry to a place among the waiting and paused ones; 1 is the next one."""

        def change(connection: sa.Connection) -> Entry:
            _must_be(_one(connection, number), ("waiting", "paused"), "moved")
            unstarted = _queue.c.state.in_(("waiting", "paused"))
            order = sa.select(_queue.c.id).where(unstarted).order_by(_queue.c.position)
            ids = [one for one in connection.execute(order).scalars() if one != number]
            ids.insert(max(0, min(to - 1, len(ids))), number)
            taken = sa.select(sa.func.max(_queue.c.position)).where(~unstarted)
            first = (connection.execute(taken).scalar() or 0) + 1
            for position, one in enumerate(ids, start=first):
                connection.execute(sa.update(_queue).where(_queue.c.id == one).values(position=position))
            return _one(connection, number)

        return self._changed(number, change)

    def pause(self, number: int) -> Entry:
        """Pause an entry; if it is running, its worker stops the sweep, and finished cells stay."""
        return self._turn(number, ("waiting", "running"), "paused", "paused")

    def resume(self, number: int) -> Entry:
        """Resume an entry that is paused, cancelled or failed; it waits for its turn."""
        return self._turn(
            number, ("paused", "cancelled", "failed"), "waiting", "resumed", attempts=0, ended=None, note=""
        )

    def cancel(self, number: int) -> Entry:
        """Take an entry out of the queue; if it is running, its worker stops the sweep, and finished cells stay."""
        return self._turn(number, OPEN, "cancelled", "cancelled", ended=True)

    def worker(self) -> Worker | None:
        """The process that holds, or held, the lease; None if there was none, or if it gave the lease back."""

        def read(connection: sa.Connection) -> Worker | None:
            if not self._exists(connection):
                return None
            row = connection.execute(sa.select(_worker)).first()
            if row is None:
                return None
            alive = row.expires >= clock(connection) and not is_dead(row.owner)
            return Worker(row.owner, alive, json.loads(row.progress))

        return self._database.reading(read)

    # For the worker

    def hold(self, owner: str, progress: Mapping[str, Any] | None = None, lease_s: float = LEASE_S) -> bool:
        """Take or renew the lease, and store the worker's progress. False: another worker holds the lease.

        A worker that takes the lease anew puts back the entries that an earlier worker left running.
        """

        def take(connection: sa.Connection) -> bool:
            now, row = clock(connection), connection.execute(sa.select(_worker)).first()
            if row is not None and row.owner != owner and row.expires >= now and not is_dead(row.owner):
                return False
            if row is None or row.owner != owner:
                left = sa.update(_queue).where(_queue.c.state == "running").values(state="waiting")
                connection.execute(left)
                connection.execute(sa.delete(_worker))
                mine = {"id": 1, "owner": owner, "expires": now + lease_s, "progress": json.dumps(dict(progress or {}))}
                connection.execute(sa.insert(_worker).values(mine))
                return True
            values = {"expires": now + lease_s}
            told = {} if progress is None else {"progress": json.dumps(dict(progress))}
            connection.execute(sa.update(_worker).values(values | told))
            return True

        self._database.ensure(_tables)
        return self._database.planning(take)

    def leave(self, owner: str) -> None:
        """Give the lease back."""
        self._database.ensure(_tables)
        self._database.planning(
            lambda connection: connection.execute(sa.delete(_worker).where(_worker.c.owner == owner))
        )

    def start_next(self, owner: str) -> Entry | None:
        """Start the first waiting entry and return it; None if there is none, or the lease is lost."""

        def start(connection: sa.Connection) -> Entry | None:
            if not _holds(connection, owner):
                return None
            first = sa.select(_queue.c.id).where(_queue.c.state == "waiting").order_by(_queue.c.position).limit(1)
            number = connection.execute(first).scalar()
            if number is None:
                return None
            running = {"state": "running", "started": clock(connection), "note": ""}
            connection.execute(sa.update(_queue).where(_queue.c.id == number).values(running))
            return _one(connection, number)

        return self._database.planning(start)

    def finish(self, number: int, owner: str, state: Literal["done", "failed", "waiting"], note: str = "") -> bool:
        """End a running entry, or let it wait for another attempt. False: it is not running, or the lease is lost."""

        def end(connection: sa.Connection) -> bool:
            if not _holds(connection, owner):
                return False
            values = {
                "state": state,
                "note": note[:MOST_NOTE],
                "ended": None if state == "waiting" else clock(connection),
            }
            if note and state == "waiting":
                values["attempts"] = _one(connection, number).attempts + 1
            ended = sa.update(_queue).where(_queue.c.id == number, _queue.c.state == "running").values(values)
            return connection.execute(ended).rowcount == 1

        return self._database.planning(end)

    def _exists(self, connection: sa.Connection) -> bool:
        return set(_tables.tables) <= set(sa.inspect(connection).get_table_names())

    def _changed(self, number: int, change: Any) -> Entry:
        self.entry(number)  # raises if there is none, before tables are created
        return self._database.planning(change)

    def _turn(self, number: int, allowed: tuple[str, ...], to: State, word: str, **values: Any) -> Entry:
        def change(connection: sa.Connection) -> Entry:
            _must_be(_one(connection, number), allowed, word)
            given = values | ({"ended": clock(connection)} if values.get("ended") else {})
            connection.execute(sa.update(_queue).where(_queue.c.id == number).values(state=to, **given))
            return _one(connection, number)

        return self._changed(number, change)


def _holds(connection: sa.Connection, owner: str) -> bool:
    return connection.execute(sa.select(_worker.c.owner)).scalar() == owner


def _must_be(entry: Entry, allowed: tuple[str, ...], word: str) -> None:
    if entry.state not in allowed:
        raise UsageError(
            f"queue entry {entry.id} ({entry.study}): is {entry.state}; only one that is "
            f"{' or '.join(allowed)} can be {word}"
        )


def _one(connection: sa.Connection, number: int) -> Entry:
    row = connection.execute(sa.select(_queue).where(_queue.c.id == number)).first()
    if row is None:
        raise UsageError(f"queue entry {number}: there is none")
    return _entry(row)


def _entry(row: sa.Row[Any]) -> Entry:
    return Entry(
        row.id,
        row.state,
        row.study,
        row.canonical,
        row.digest,
        json.loads(row.options),
        row.submitted,
        row.started,
        row.ended,
        row.attempts,
        row.note,
    )
