"""Opens the storage, with its transactions, Optuna's schema, and wdgrid's own two small tables."""

import json
import math
import sqlite3
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
import tenacity
from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from wdgrid.errors import StorageWarning, StoreError
from wdgrid.printable import printable
from wdgrid.store.address import opened_read_only, parsed
from wdgrid.store.overwritten import OpenFile, never_write_again, watched

T = TypeVar("T")
# The schema with which the bulk writes were tested. Optuna's schema number has long been 12 and later changes have
# alembic revisions, so both must match. Optuna's public API cannot be used: its claims can execute a cell twice.
TESTED_SCHEMA = (12, "v3.2.0.a")
BUSY_TIMEOUT_S = 60
CONNECT_S = 10
WAIT_S = 0.5  # limit of the random wait before the second attempt; it doubles, up to twenty times this
RETRY_S = 300.0  # how long a PostgreSQL server may be unreachable after the storage was opened
_PLANNING_LOCK = 0x77646772  # "wdgr": PostgreSQL's advisory lock, held by one planning process at a time

studies: sa.Table = models.StudyModel.__table__
directions: sa.Table = models.StudyDirectionModel.__table__
study_attrs: sa.Table = models.StudyUserAttributeModel.__table__
trials: sa.Table = models.TrialModel.__table__
trial_attrs: sa.Table = models.TrialUserAttributeModel.__table__
params: sa.Table = models.TrialParamModel.__table__
values: sa.Table = models.TrialValueModel.__table__
intermediates: sa.Table = models.TrialIntermediateValueModel.__table__

_ours = sa.MetaData()
# No foreign keys: `optuna delete-study` must keep working. Rows that it leaves here are deleted by the next `plan`.
cells = sa.Table(
    "wdgrid_cells",
    _ours,
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("study_id", sa.Integer, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("row", sa.String(128), nullable=False),
    sa.Column("col", sa.String(128), nullable=False),
    sa.Column("failures", sa.Integer, nullable=False, default=0),
    sa.UniqueConstraint("study_id", "seed", "row", "col", name="wdgrid_cells_identity"),
)
leases = sa.Table(
    "wdgrid_leases",
    _ours,
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String(512), nullable=False, index=True),
    sa.Column("expires", sa.Float(53), nullable=False),  # seconds since the epoch, by the storage's clock
)


class Database:
    """One open storage: short read and write transactions.

    Raises StoreError if the URL is neither SQLite (a file) nor PostgreSQL, if the database cannot be opened, if its
    schema is not the one tested, and, with `create=False`, if there is no schema yet. With `read_only` it refuses to
    write, and opening it changes nothing.
    """

    def __init__(self, url: str, create: bool = True, *, read_only: bool = False) -> None:
        self.url, self.name = parsed(url, create)
        self._read_only = read_only
        self.dialect = self.url.get_backend_name()
        try:
            # A worker may train for hours without a query, and PostgreSQL may close the connection in that time.
            options = {} if self.dialect == "sqlite" else {"pool_pre_ping": True, "connect_args": _patience(self.url)}
            self._engine = sa.create_engine(opened_read_only(self.url) if read_only else self.url, **options)
        except (ImportError, ArgumentError, ValueError, TypeError) as error:
            why = _first_line(error)
            raise StoreError(f"no driver for {self.name}: {why} (PostgreSQL: wdgrid[postgres])") from None
        if self.dialect == "sqlite":
            event.listen(self._engine, "connect", _wait_for_others if read_only else _set_pragmas)
            event.listen(self._engine, "connect", lambda connection, _record: self._connections.append(connection))
            event.listen(self._engine, "begin", _begin_sqlite)
            self._reader, self._writer = self._engine, self._engine.execution_options(wdgrid_write=True)
        else:  # all SELECTs of a read must see one state; SQLite's WAL mode guarantees that by itself
            self._reader = self._engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=read_only
            )
            self._writer = self._engine
        self._file: OpenFile | None = None
        self._connections: list[Any] = []
        self._lost, self._may_close = False, True
        try:
            self._ensure_schema(create)
            if self.dialect == "sqlite":
                with self._errors(), self._reader.connect() as connection:
                    path, own = Path(self.url.database or ""), connection.connection.dbapi_connection
                    self._file = watched(path, own, may_write=create)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close every connection."""
        if self._may_close:
            self._engine.dispose()

    def _must_be_the_same_file(self) -> None:
        """Raises StoreError if the SQLite file was deleted, moved, replaced or overwritten since it was opened."""
        if self._file and not self._lost and self._file.is_another():
            self._lost = True
            closable = [never_write_again(connection) for connection in self._connections]  # for every connection
            self._may_close = all(closable)
            if not self._read_only:
                self._file.set_aside_log()
        if self._lost:
            raise StoreError(
                f"{self.name}: the database was deleted, moved, replaced or overwritten while it was in use; nothing "
                "more is written; put it back, or give the same command again to train into the file that is there now"
            )

    def delete_file(self) -> bool:
        """Delete a closed SQLite database, unless another process has it open. Returns whether it was deleted."""
        if self.dialect != "sqlite" or not self.url.database:
            return False
        path = Path(self.url.database)
        alone = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            # Leaving WAL mode needs exclusive access, and fails if another process has the file open.
            if alone.execute("PRAGMA journal_mode = DELETE").fetchone() != ("delete",):
                return False
            alone.execute("BEGIN EXCLUSIVE")
            path.unlink()
        except (sqlite3.OperationalError, OSError):
            return False
        finally:
            alone.close()
        return True

    def reading(self, function: Callable[[sa.Connection], T]) -> T:
        """The result of `function` on one state of the storage. Raises StoreError if the database fails."""
        return self._patiently(self.read, function)

    def writing(self, function: Callable[[sa.Connection], T]) -> T:
        """Calls `function` in a writing transaction; calls it again if PostgreSQL became unreachable meanwhile."""
        return self._patiently(self.write, function)

    def planning(self, function: Callable[[sa.Connection], T]) -> T:
        """As `writing`, but only one such transaction runs at a time."""
        return self._patiently(self.plan, function)

    def _patiently(self, begin: Callable[[], AbstractContextManager[sa.Connection]], call: Callable[..., T]) -> T:
        """One transaction; on PostgreSQL repeated for RETRY_S seconds while the server is unreachable or starting."""

        def attempt() -> T:
            with begin() as connection:
                return call(connection)

        def warn(state: tenacity.RetryCallState) -> None:
            if state.attempt_number == 1 and state.outcome:
                why = state.outcome.exception()
                warnings.warn(f"{why}; trying again for up to {RETRY_S:.0f} s", StorageWarning, stacklevel=2)

        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_away),
            wait=tenacity.wait_random_exponential(multiplier=WAIT_S, max=20 * WAIT_S),
            stop=tenacity.stop_after_delay(RETRY_S),
            before_sleep=warn,
            reraise=True,
        )
        return again(attempt)

    @contextmanager
    def read(self) -> Generator[sa.Connection]:
        """A transaction that sees one state of the storage. Raises StoreError if the database fails or was replaced."""
        self._must_be_the_same_file()
        with self._errors(ValueError, LookupError), self._reader.begin() as connection:
            self._must_be_the_same_file()
            yield connection

    @contextmanager
    def write(self) -> Generator[sa.Connection]:
        """A transaction that may write (on SQLite the only one at a time). Raises StoreError if it fails."""
        if self._read_only:
            raise StoreError(f"{self.name}: was opened for reading only")
        self._must_be_the_same_file()
        with self._errors(), self._writer.begin() as connection:
            self._must_be_the_same_file()  # no other process writes from here on
            yield connection

    @contextmanager
    def plan(self) -> Generator[sa.Connection]:
        """A write transaction that runs alone: trial numbers stay unique, and tables are created once."""
        with self.write() as connection:
            if self.dialect == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_PLANNING_LOCK)))
            yield connection

    @contextmanager
    def _errors(self, *content: type[Exception]) -> Generator[None]:
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            self._must_be_the_same_file()
            raise StoreError(f"{self.name}: {_first_line(getattr(error, 'orig', None) or error)}") from error
        except (UnicodeDecodeError, json.JSONDecodeError, *content) as error:
            raise StoreError(f"{self.name}: holds content that cannot be read: {_first_line(error)}") from error

    def _ensure_schema(self, create: bool) -> None:
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        for attempt in range(40):
            last = attempt == 39 or time.monotonic() > deadline
            try:
                found = self._schema()
                if found is not None:
                    break
                if not create:
                    raise StoreError(f"{self.name} holds no studies")
                _create_optuna_schema(self.url)
                continue
            except OperationalError as error:
                if last or not any(word in str(error.orig) for word in ("locked", "already exists")):
                    raise StoreError(f"cannot open {self.name}: {_first_line(error.orig or error)}") from error
            except (SQLAlchemyError, OptunaError, RuntimeError) as error:
                if last or (isinstance(error, DBAPIError) and "not a database" in str(error.orig)):
                    raise StoreError(f"cannot open {self.name}: {_first_line(error)}") from error
            time.sleep(0.1)  # another process is creating the same tables
        else:
            raise StoreError(f"cannot create Optuna's tables in {self.name}")
        if found != TESTED_SCHEMA:
            raise StoreError(
                f"{self.name} has Optuna schema {found[1]} (version {found[0]}); wdgrid works with {TESTED_SCHEMA[1]} "
                f"(version {TESTED_SCHEMA[0]}): upgrade the older side (`optuna storage upgrade`, or wdgrid itself)"
            )
        self.ensure(_ours)

    def ensure(self, tables: sa.MetaData) -> None:
        """Create the missing ones of these tables; none in a storage that was opened for reading only."""
        with self.read() as connection:
            present = sa.inspect(connection).get_table_names()
        if not set(tables.tables) <= set(present) and not self._read_only:
            with self.plan() as connection:
                tables.create_all(connection)

    def _schema(self) -> tuple[int, str] | None:
        with self._reader.begin() as connection:
            if not {"version_info", "alembic_version"} <= set(sa.inspect(connection).get_table_names()):
                return None
            version = connection.execute(sa.text("SELECT schema_version FROM version_info")).scalar()
            revision = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        return None if version is None or revision is None else (version, revision)


def _wait_for_others(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # pysqlite would begin its own (deferred) transactions
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")


def _set_pragmas(connection: Any, _record: object) -> None:
    _wait_for_others(connection, _record)
    # Switching to WAL needs exclusive access, so it is done only once for each file.
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # in WAL, NORMAL may lose the last commits at a power cut


def _begin_sqlite(connection: sa.Connection) -> None:
    # A deferred transaction that reads and then writes fails if another process has written in between.
    write = connection.get_execution_options().get("wdgrid_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _create_optuna_schema(url: sa.URL) -> None:
    arguments = {"timeout": BUSY_TIMEOUT_S} if url.get_backend_name() == "sqlite" else {}
    storage = RDBStorage(url.render_as_string(hide_password=False), engine_kwargs={"connect_args": arguments})
    storage.remove_session()
    storage.engine.dispose()


def _patience(url: sa.URL) -> dict[str, Any]:
    """Seconds to wait for a host that does not answer, unless the URL has a timeout."""
    return {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_S}


def _is_away(error: BaseException) -> bool:
    """Whether PostgreSQL is unreachable, is starting, or chose this transaction to end a deadlock."""
    cause = error.__cause__
    if not isinstance(error, StoreError) or not isinstance(cause, OperationalError | InterfaceError):
        return False
    if type(cause.orig).__module__.startswith("sqlite3"):
        return False
    state = getattr(cause.orig, "sqlstate", None)
    return state is None or state.startswith(("08", "57P", "40")) or state == "53300"


def _first_line(error: BaseException) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])[:500]


def clock(connection: sa.Connection) -> float:
    """Seconds since the epoch, by PostgreSQL's clock, so that the clocks of several machines need not agree."""
    if connection.dialect.name == "postgresql":
        return float(connection.execute(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))).scalar_one())
    return time.time()


def insert_rows(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert many rows at once. Without rows it does nothing (SQLAlchemy would insert a row of defaults)."""
    if rows:
        connection.execute(sa.insert(table), rows)


def dump(value: Any) -> str:
    """JSON for an attribute; NaN and ±inf, which JSON does not have, become null."""
    return json.dumps(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
