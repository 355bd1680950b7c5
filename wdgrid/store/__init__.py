"""Stores the cells and results of studies in an Optuna storage (SQLite, or PostgreSQL for several machines).

Each panel is one Optuna study called `<study>/<panel>`, so Optuna's own tools read everything. Each method of `Store`
is one transaction. `database` opens the storage, `plan` stores planned cells, `leases` is the queue, `read` reads
tables.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from wdgrid.errors import StoreError
from wdgrid.store import health, leases, overview, plan, read
from wdgrid.store.database import Database
from wdgrid.store.leases import Claim, Only
from wdgrid.store.overview import Overview, Page
from wdgrid.store.owners import owner_name
from wdgrid.store.queue import Entry, Queue, Worker
from wdgrid.store.read import CellCount, StudySummary
from wdgrid.study import Cell, Outcome

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CellCount",
    "Claim",
    "Entry",
    "Only",
    "Overview",
    "Page",
    "Queue",
    "Store",
    "StoreError",
    "StudySummary",
    "Worker",
    "owner_name",
]


class Store:
    """An open storage; a context manager, or closed by `close()`.

    Every method raises StoreError if the database fails, and, unless stated otherwise, if there is no such study.
    """

    def __init__(self, url: str, *, create: bool = True, read_only: bool = False) -> None:
        """Open `sqlite:///path/x.db` or `postgresql+psycopg://…`; without `create` it must hold a schema already.

        With `read_only`, opening changes nothing and every method that writes raises StoreError. Raises StoreError if
        the storage cannot be opened or has another schema than the one tested.
        """
        self._database = Database(url, create and not read_only, read_only=read_only)
        self.queue = Queue(self._database)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._database.close()

    def discard(self) -> bool:
        """Close; delete an SQLite file if no cell was begun and no other process uses it. Returns whether it did."""
        begun = any(self.begun(study.name) for study in self.studies())
        self.close()
        return not begun and self._database.delete_file()

    def backup(self, path: Path) -> None:
        """Copy an SQLite storage to a new file, as of one commit, while others write to it.

        Raises OutputError if the file exists or cannot be written, StoreError for a PostgreSQL storage.
        """
        if self._database.dialect != "sqlite" or not self._database.url.database:
            raise StoreError(f"{self.url}: PostgreSQL's own pg_dump makes its backups")
        health.backup(Path(self._database.url.database), path)

    def problems(self) -> list[str]:
        """One line for each kind of damage or left-over, with its repair; an empty list if there is none."""
        return self._database.reading(health.problems)

    @property
    def url(self) -> str:
        """The URL for messages, with the password hidden."""
        return self._database.name

    # Planning

    def create(
        self,
        study: str,
        panels: Mapping[str, Sequence[Cell]],
        canonical: str,
        digest: str,
        attrs: Mapping[str, Any],
        panel_attrs: Mapping[str, Mapping[str, Any]],
        axes: tuple[str, str] = ("lr", "weight_decay"),
    ) -> int:
        """Plan a study with all cells WAITING, or extend an existing one. Returns the number of cells added.

        `panel_attrs` has each panel's `optimizer`, `schedule` and `epochs` for the table. `axes` names the
        hyperparameters that become Optuna parameters even if they have only one value; others that all cells of a
        panel share are stored once, with the panel. Raises StoreError if a cell is already planned with other
        hyperparameters.
        """
        _refuse_reserved(attrs)
        shared = {"canonical": canonical, "digest": digest, **attrs}
        return self._database.planning(
            lambda connection: plan.plan(connection, study, panels, axes, shared, panel_attrs)
        )

    def begun(self, study: str) -> int:
        """Number of cells ever begun: trained, being trained, or failed before; 0 if there is no such study."""
        return self._database.reading(lambda connection: plan.begun(connection, study))

    def withdraw(self, study: str) -> bool:
        """Delete a study if no cell was ever begun. Returns whether it is gone (True if there was none)."""
        return self._database.planning(lambda connection: plan.withdraw(connection, study))

    def keep(self, study: str, key: str, value: Any) -> Any:
        """Set an attribute, unless the study has it and cells were begun. Returns the stored value."""
        _refuse_reserved({key: value})
        return self._database.planning(lambda connection: plan.keep(connection, study, key, value))

    def definition(self, study: str) -> tuple[str, str] | None:
        """The study's canonical JSON and its digest; None if there is no such study."""
        panels = self._database.reading(lambda connection: plan.panels_of(connection, study))
        return (panels[0].attrs["canonical"], panels[0].attrs["digest"]) if panels else None

    def attrs(self, study: str) -> dict[str, Any]:
        """The study's attributes (environment, chunk size, start, end, …), set by `create` and `set_attrs`."""
        first = self._database.reading(lambda connection: plan.need_panels(connection, study))[0]
        return {key: value for key, value in first.attrs.items() if key not in plan.RESERVED}

    def set_attrs(self, study: str, attrs: Mapping[str, Any]) -> None:
        """Set attributes, `wdgrid:*` user attributes of every panel's Optuna study. ValueError if one is reserved."""
        _refuse_reserved(attrs)
        self._database.writing(lambda connection: plan.set_study_attributes(connection, study, attrs))

    # The queue

    def pending(self, study: str, only: Only = None) -> dict[tuple[str, int], int]:
        """Number of WAITING cells of each (panel, seed), in study order; groups without any are left out.

        `only` restricts the count to some cells: for each panel, their multiples in axis order.
        """
        return self._database.reading(lambda connection: read.pending(connection, study, only))

    def count(self, study: str, only: Only = None) -> CellCount:
        """How many cells are in each state; `only` as in `pending`."""
        return self._database.reading(lambda connection: read.count(connection, study, only))

    def claim(
        self, study: str, panel: str, seed: int, k: int, owner: str, lease_s: float = 120, only: Only = None
    ) -> list[Claim]:
        """Claim up to k WAITING cells of one panel and seed, lowest number first; no other process gets the same.

        `only` as in `pending`.
        """
        tried: list[int] = []  # trials possibly claimed by an attempt whose commit was not confirmed
        return self._database.writing(
            lambda connection: leases.claim(connection, study, panel, seed, k, owner, lease_s, only, tried)
        )

    def renew(self, owner: str, lease_s: float = 120) -> int:
        """Renew every lease of this owner for `lease_s` seconds from now. Returns how many it still holds."""
        return self._database.writing(lambda connection: leases.renew(connection, owner, lease_s))

    def release(self, trial_ids: Sequence[int], owner: str | None = None) -> int:
        """Set claimed trials back to WAITING; with an owner, only those it still holds. Returns their number."""
        return self._database.writing(lambda connection: leases.release(connection, trial_ids, owner))

    def release_all(self, owner: str) -> int:
        """Set every trial that an owner holds back to WAITING. Returns their number."""
        return self._database.writing(lambda connection: leases.release_all(connection, owner))

    def reclaim(self) -> int:
        """Set trials back to WAITING whose lease expired or whose owner on this machine died. Returns their number."""
        return self._database.writing(lambda connection: leases.reclaim(connection))

    def abandoned(self, study: str) -> int:
        """Number of RUNNING cells that no process trains any more and that `reclaim` would set back."""
        return self._database.reading(lambda connection: leases.abandoned(connection, study))

    def finish(self, results: Sequence[tuple[Claim, Outcome]], owner: str) -> int:
        """Store outcomes as COMPLETE trials, but only those still held by this owner. Returns their number.

        Raises ValueError, and stores nothing, if an error is NaN or -inf.
        """
        outcomes = {claim.trial_id: outcome for claim, outcome in results}
        tried: list[int] = []  # trials possibly written by an attempt whose commit was not confirmed
        return self._database.writing(lambda connection: leases.finish(connection, outcomes, owner, tried))

    def fail(self, trial_ids: Sequence[int], why: str, owner: str | None = None) -> int:
        """End claimed trials as FAIL, after a fault of the machine (never for divergence). Returns their number."""
        return self._database.writing(lambda connection: leases.fail(connection, trial_ids, why, owner))

    def retry_failed(self, study: str, attempts: int | None = 3) -> int:
        """Set FAIL trials that failed fewer than `attempts` times (None: all) back to WAITING. Returns their number."""
        return self._database.writing(lambda connection: leases.retry_failed(connection, study, attempts))

    # Reading

    def studies(self) -> list[StudySummary]:
        """Every study of the storage, by name."""
        return self._database.reading(lambda connection: read.summaries(connection))

    def page(self, first: int, at_most: int, containing: str = "") -> "Page":
        """Some of the studies whose name contains a text, the newest first; fast in large storages."""
        return self._database.reading(lambda connection: overview.page(connection, first, at_most, containing))

    def overview(self, study: str) -> Overview:
        """One study as in `page`."""
        return self._database.reading(lambda connection: overview.one(connection, study))

    def finished_at(self, study: str, since: float = 0.0) -> list[float]:
        """The times at which cells were finished, after `since`, in order, in seconds since the epoch."""
        return self._database.reading(lambda connection: overview.finished_at(connection, study, since))

    def failures(self, study: str) -> list[tuple[str, str, str, int, str]]:
        """The failed cells: panel, multiples of both axes, seed, and reason."""
        return self._database.reading(lambda connection: overview.failures(connection, study))

    def table(self, study: str) -> "pd.DataFrame":
        """One row per trial: `TABLE_COLUMNS`, then lr, weight_decay, momentum, beta1, beta2, eps (NaN if not used)."""
        return self._database.reading(lambda connection: read.table(connection, study))

    def curves(self, study: str) -> "pd.DataFrame":
        """One row per complete trial and epoch: panel, number, epoch, two errors, two losses."""
        return self._database.reading(lambda connection: read.curves(connection, study))


def _refuse_reserved(attrs: Mapping[str, Any]) -> None:
    taken = sorted(plan.RESERVED & set(attrs))
    if taken:
        raise ValueError(f"these attributes are reserved: {', '.join(taken)}")
