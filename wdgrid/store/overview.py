"""Reads counts, best cells, times and failures for a list of studies or a running study, from few rows.

Every function works inside the caller's transaction. Unlike `read.summaries`, the time of `page` depends on the
studies of the page and not on all trials of the storage.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa
from optuna.trial import TrialState

from wdgrid.errors import StoreError
from wdgrid.store.database import cells, dump, study_attrs, trial_attrs, trials, values
from wdgrid.store.plan import PREFIX, need_panels

_STATES = {TrialState.COMPLETE: "complete", TrialState.RUNNING: "running", TrialState.WAITING: "waiting"}


@dataclass(frozen=True)
class BestCell:
    """The trial with the lowest error: its panel, the multiples of both axes, its seed, its error in percent."""

    panel: str
    row: str
    col: str
    seed: int
    error: float


@dataclass(frozen=True)
class Overview:
    """A study in a list. `best` is None while no cell has a finite error; `created` is an ISO time.

    `selected_on`: whether errors are those on test images or, with a validation split, on validation images.
    """

    name: str
    title: str
    digest: str
    panels: tuple[str, ...]
    n_complete: int
    n_running: int
    n_waiting: int
    n_failed: int
    best: BestCell | None
    selected_on: Literal["validation", "test"]
    created: str

    @property
    def n_cells(self) -> int:
        """All cells."""
        return self.n_complete + self.n_running + self.n_waiting + self.n_failed


@dataclass(frozen=True)
class Page:
    """Some of `total` studies."""

    studies: list[Overview]
    total: int


def page(connection: sa.Connection, first: int, at_most: int, containing: str = "") -> Page:
    """At most `at_most` of the studies whose name contains a text, from number `first` (0: the newest)."""
    created: dict[int, str] = {}
    names: dict[int, str] = {}
    keys = PREFIX + "study", PREFIX + "created"
    columns = study_attrs.c.study_id, study_attrs.c.key, study_attrs.c.value_json
    for study_id, key, value in connection.execute(sa.select(*columns).where(study_attrs.c.key.in_(keys))):
        (names if key == keys[0] else created)[study_id] = json.loads(value)
    ids: dict[str, list[int]] = {}
    for study_id, name in names.items():
        if containing.casefold() in name.casefold():
            ids.setdefault(name, []).append(study_id)
    order = sorted(ids, key=lambda name: (max(created.get(i, "") for i in ids[name]), name), reverse=True)
    return Page(_overviews(connection, order[first : first + at_most]), len(order))


def one(connection: sa.Connection, study: str) -> Overview:
    """One study. Raises StoreError if there is none."""
    need_panels(connection, study)
    return _overviews(connection, [study])[0]


def _overviews(connection: sa.Connection, names: Sequence[str]) -> list[Overview]:
    named = sa.select(study_attrs.c.study_id).where(
        study_attrs.c.key == PREFIX + "study", study_attrs.c.value_json.in_([dump(name) for name in names])
    )
    attrs: dict[int, dict[str, Any]] = {}
    wanted = [PREFIX + key for key in ("study", "panel", "position", "canonical", "digest", "created")]
    rows = sa.select(study_attrs).where(study_attrs.c.study_id.in_(named), study_attrs.c.key.in_(wanted))
    for row in connection.execute(rows):
        attrs.setdefault(row.study_id, {})[row.key.removeprefix(PREFIX)] = json.loads(row.value_json)
    if broken := [study_id for study_id, found in attrs.items() if len(found) < len(wanted)]:
        raise StoreError(f"Optuna study {broken[0]} of this storage is damaged: wdgrid doctor --storage says more")
    counts, best = _counts(connection, list(attrs)), _best(connection, list(attrs))
    return [_overview(name, attrs, counts, best) for name in names]


def _overview(
    name: str, attrs: dict[int, dict[str, Any]], counts: dict[int, Counter[str]], best: dict[int, Any]
) -> Overview:
    ids = sorted((i for i, found in attrs.items() if found["study"] == name), key=lambda i: attrs[i]["position"])
    n = sum((counts.get(i, Counter()) for i in ids), Counter[str]())
    canonical = json.loads(attrs[ids[0]]["canonical"])
    lowest = min((i for i in ids if i in best), key=lambda i: best[i].value, default=None)
    cell = None
    if lowest is not None:
        row = best[lowest]
        cell = BestCell(attrs[lowest]["panel"], row.row, row.col, row.seed, row.value)
    return Overview(
        name=name,
        title=canonical.get("title", ""),
        digest=attrs[ids[0]]["digest"],
        panels=tuple(attrs[i]["panel"] for i in ids),
        n_complete=n["complete"],
        n_running=n["running"],
        n_waiting=n["waiting"],
        n_failed=n["failed"],
        best=cell,
        selected_on="validation" if canonical.get("task", {}).get("validation_size") else "test",
        created=min(attrs[i]["created"] for i in ids),
    )


def _counts(connection: sa.Connection, study_ids: Sequence[int]) -> dict[int, Counter[str]]:
    query = (
        sa.select(trials.c.study_id, trials.c.state, sa.func.count())
        .join(cells, cells.c.trial_id == trials.c.trial_id)
        .where(trials.c.study_id.in_(study_ids))
        .group_by(trials.c.study_id, trials.c.state)
    )
    found: dict[int, Counter[str]] = {}
    for study_id, state, n in connection.execute(query):
        found.setdefault(study_id, Counter())[_STATES.get(state, "failed")] += n
    return found


def _best(connection: sa.Connection, study_ids: Sequence[int]) -> dict[int, Any]:
    """The trial with the lowest finite value of each Optuna study."""
    rank = sa.func.row_number().over(partition_by=trials.c.study_id, order_by=(values.c.value, trials.c.number))
    ranked = (
        sa.select(trials.c.study_id, cells.c.row, cells.c.col, cells.c.seed, values.c.value, rank.label("rank"))
        .join(values, values.c.trial_id == trials.c.trial_id)
        .join(cells, cells.c.trial_id == trials.c.trial_id)
        .where(trials.c.study_id.in_(study_ids), values.c.value.is_not(None))  # +inf is stored as NULL
        .where(trials.c.state == TrialState.COMPLETE)
        .subquery()
    )
    return {row.study_id: row for row in connection.execute(sa.select(ranked).where(ranked.c.rank == 1))}


def finished_at(connection: sa.Connection, study: str, since: float = 0.0) -> list[float]:
    """The times at which cells were finished, after `since`, in order, in seconds since the epoch."""
    ids = [panel.study_id for panel in need_panels(connection, study)]
    after = trials.c.datetime_complete > datetime.fromtimestamp(since, UTC).replace(tzinfo=None)
    complete = trials.c.study_id.in_(ids), trials.c.state == TrialState.COMPLETE, after
    times = connection.execute(sa.select(trials.c.datetime_complete).where(*complete)).scalars()
    return sorted(_seconds(time) for time in times if time is not None)


def _seconds(time: datetime) -> float:
    return time.replace(tzinfo=UTC).timestamp()  # Optuna's columns hold naive UTC


def failures(connection: sa.Connection, study: str) -> list[tuple[str, str, str, int, str]]:
    """The failed cells: panel, multiples of both axes, seed, and reason."""
    panels = {panel.study_id: panel.name for panel in need_panels(connection, study)}
    query = (
        sa.select(trials.c.study_id, cells.c.row, cells.c.col, cells.c.seed, trial_attrs.c.value_json)
        .join(cells, cells.c.trial_id == trials.c.trial_id)
        .outerjoin(trial_attrs, sa.and_(trial_attrs.c.trial_id == trials.c.trial_id, trial_attrs.c.key == "failure"))
        .where(trials.c.study_id.in_(list(panels)), trials.c.state == TrialState.FAIL)
        .order_by(trials.c.study_id, trials.c.number)
    )
    return [
        (panels[row.study_id], row.row, row.col, row.seed, json.loads(row.value_json) if row.value_json else "")
        for row in connection.execute(query)
    ]
