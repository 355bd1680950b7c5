"""Reads summaries, the table and the curves, each with a few bulk SELECTs.

Every function works inside the caller's transaction, which sees one state of the storage.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa
from optuna.storages._rdb.models import TrialIntermediateValueModel, TrialValueModel
from optuna.trial import TrialState

from wdgrid.store.database import cells, intermediates, leases, params, trial_attrs, trials, values
from wdgrid.store.leases import DIVERGENCE, LOSS_CURVES, SCALARS, TEST_ERROR, TEST_ERROR_CURVE, Only, among
from wdgrid.store.plan import Panel, need_panels, panels_of
from wdgrid.study.cells import TABLE_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

HYPERPARAMETERS = ("lr", "weight_decay", "momentum", "beta1", "beta2", "eps")
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.FAIL: "failed",
    TrialState.PRUNED: "failed",  # wdgrid prunes no trials, but other programs may
}


@dataclass(frozen=True)
class BestCell:
    """The cell with the lowest mean error over its finished seeds, in percent; one with a diverged seed has none.

    `row` and `col` are its multiples, `values` the hyperparameters of both axes by name, `seeds` those of the mean.
    """

    panel: str
    row: str
    col: str
    values: dict[str, float]
    error: float
    seeds: int


@dataclass(frozen=True)
class StudySummary:
    """One study of `wdgrid list`. `best` is None while no cell has a finite error.

    `selected_on`: whether that is the test error or, with a validation split, the validation error.
    """

    name: str
    panels: tuple[str, ...]
    n_cells: int
    n_complete: int
    n_running: int
    n_waiting: int
    n_failed: int
    best: BestCell | None
    selected_on: Literal["validation", "test"]
    created: datetime


@dataclass(frozen=True)
class CellCount:
    """How many cells of a study, or of a selection, are in each state.

    `leased_until` is the end of the last lease of a running cell, unless it is renewed, in seconds since the epoch by
    the storage's clock; None if no cell is running.
    """

    n_complete: int
    n_failed: int
    n_running: int
    n_waiting: int
    leased_until: float | None

    @property
    def n_cells(self) -> int:
        """The number of all cells."""
        return self.n_complete + self.n_failed + self.n_running + self.n_waiting


def summaries(connection: sa.Connection) -> list[StudySummary]:
    """Every study of the storage, by name."""
    joined = trials.join(cells, cells.c.trial_id == trials.c.trial_id)
    counted = sa.select(trials.c.study_id, trials.c.state, sa.func.count()).select_from(joined)
    states: dict[int, Counter[str]] = {}
    for study_id, state, n in connection.execute(counted.group_by(trials.c.study_id, trials.c.state)):
        states.setdefault(study_id, Counter())[_STATES[state]] += n
    best = _best_cells(connection)
    split = sa.select(trials.c.study_id).join(trial_attrs, trial_attrs.c.trial_id == trials.c.trial_id)
    validated = set(connection.execute(split.where(trial_attrs.c.key == TEST_ERROR).distinct()).scalars())
    by_study: dict[str, list[Any]] = {}
    for panel in panels_of(connection):
        by_study.setdefault(panel.attrs["study"], []).append(panel)
    found = []
    for name, panels in sorted(by_study.items()):
        n = sum((states.get(p.study_id, Counter()) for p in panels), Counter())
        found.append(
            StudySummary(
                name=name,
                panels=tuple(p.name for p in panels),
                n_cells=n.total(),
                n_complete=n["complete"],
                n_running=n["running"],
                n_waiting=n["waiting"],
                n_failed=n["failed"],
                best=min(
                    (replace(best[p.study_id], panel=p.name) for p in panels if p.study_id in best),
                    key=lambda one: one.error,
                    default=None,
                ),
                selected_on="validation" if any(p.study_id in validated for p in panels) else "test",
                created=datetime.fromisoformat(min(p.attrs["created"] for p in panels)),
            )
        )
    return found


def _best_cells(connection: sa.Connection) -> dict[int, BestCell]:
    """The best cell of each panel, by Optuna's id of the panel; `panel` is left empty."""
    first = sa.func.min(trials.c.trial_id)
    mean = (
        sa.select(trials.c.study_id, cells.c.row, cells.c.col, sa.func.avg(values.c.value), sa.func.count(), first)
        .select_from(
            trials.join(cells, cells.c.trial_id == trials.c.trial_id).join(
                values, values.c.trial_id == trials.c.trial_id
            )
        )
        .where(trials.c.state == TrialState.COMPLETE)
        .group_by(trials.c.study_id, cells.c.row, cells.c.col)
        .having(sa.func.count() == sa.func.count(values.c.value))  # +inf is stored as NULL
    )
    best: dict[int, tuple[float, int, str, str, int]] = {}
    for study_id, row, col, error, seeds, trial in connection.execute(mean):
        best[study_id] = min(best.get(study_id, (math.inf, 0, "", "", 0)), (error, trial, row, col, seeds))
    at: dict[int, dict[str, float]] = {}
    own = sa.select(params.c.trial_id, params.c.param_name, params.c.param_value).order_by(params.c.param_id)
    wanted = params.c.trial_id.in_([trial for _, trial, *_ in best.values()]), params.c.param_name != "seed"
    for trial, name, value in connection.execute(own.where(*wanted)):
        at.setdefault(trial, {})[name] = value
    return {
        study_id: BestCell("", row, col, at.get(trial, {}), error, seeds)
        for study_id, (error, trial, row, col, seeds) in best.items()
    }


def _wanted(panels: Sequence[Panel], only: Only) -> sa.ColumnElement[bool]:
    return sa.or_(*[sa.and_(cells.c.study_id == p.study_id, among(only, p.name)) for p in panels])


def count(connection: sa.Connection, study: str, only: Only = None) -> CellCount:
    """How many cells of a study are in each state."""
    counted = (
        sa.select(trials.c.state, sa.func.count(), sa.func.max(leases.c.expires))
        .join(cells, cells.c.trial_id == trials.c.trial_id)
        .outerjoin(leases, leases.c.trial_id == trials.c.trial_id)
        .where(_wanted(need_panels(connection, study), only))
        .group_by(trials.c.state)
    )
    n, until = Counter[str](), None
    for state, number, expires in connection.execute(counted):
        n[_STATES[state]] += number
        if state == TrialState.RUNNING:
            until = expires
    return CellCount(n["complete"], n["failed"], n["running"], n["waiting"], until)


def pending(connection: sa.Connection, study: str, only: Only = None) -> dict[tuple[str, int], int]:
    """Number of WAITING cells of each panel and seed, in study order; groups without any are left out."""
    panels = need_panels(connection, study)
    wanted = _wanted(panels, only)
    counted = (
        sa.select(cells.c.study_id, cells.c.seed, sa.func.count())
        .join(trials, trials.c.trial_id == cells.c.trial_id)
        .where(wanted, trials.c.state == TrialState.WAITING)
        .group_by(cells.c.study_id, cells.c.seed)
        .order_by(cells.c.seed)
    )
    rows = connection.execute(counted).all()
    return {(p.name, seed): n for p in panels for study_id, seed, n in rows if study_id == p.study_id}


def table(connection: sa.Connection, study: str) -> "pd.DataFrame":
    """One row per trial: TABLE_COLUMNS and the hyperparameters, by panel in study order, then number."""
    import pandas as pd

    panels = {panel.study_id: panel for panel in need_panels(connection, study)}
    order = {study_id: i for i, study_id in enumerate(panels)}
    hyperparameters = _hyperparameters(connection, list(panels))
    scalars = _attributes(connection, list(panels), (*SCALARS, *DIVERGENCE, TEST_ERROR))
    records = []
    for row in sorted(_trials(connection, list(panels)), key=lambda row: (order[row.study_id], row.number)):
        panel = panels[row.study_id]
        attrs = scalars.get(row.trial_id, {}) if row.state == TrialState.COMPLETE else {}
        own = {**panel.attrs["constants"], **hyperparameters.get(row.trial_id, {})}
        record = {name: panel.attrs.get("panel_attrs", {}).get(name) for name in ("optimizer", "schedule", "epochs")}
        record |= {"panel": panel.name, "seed": row.seed, "row": row.row, "col": row.col, "number": row.number}
        record |= {"state": _STATES[row.state], **_errors(_value(row), attrs)}
        record |= {name: attrs.get(name) for name in (*SCALARS, *DIVERGENCE)}
        record |= {name: own.get(name) for name in HYPERPARAMETERS}
        records.append(record)
    frame = pd.DataFrame.from_records(records, columns=[*TABLE_COLUMNS, *HYPERPARAMETERS])
    floats = dict.fromkeys(("test_error", "validation_error", *SCALARS, *HYPERPARAMETERS), "float64")
    integers = {"seed": "int64", "number": "int64", **dict.fromkeys(("epochs", "diverged_at", DIVERGENCE[1]), "Int64")}
    return frame.astype({**floats, **integers, DIVERGENCE[0]: "string"})


def _errors(value: float, attrs: Mapping[str, Any]) -> dict[str, float]:
    """Both errors of a trial, from its value and its attributes (there, null means infinity, which JSON lacks)."""
    if TEST_ERROR not in attrs:
        return {"test_error": value, "validation_error": math.nan}
    tested = attrs[TEST_ERROR]
    return {"test_error": math.inf if tested is None else tested, "validation_error": value}


def curves(connection: sa.Connection, study: str) -> "pd.DataFrame":
    """One row per complete trial and epoch: panel, number, epoch and the four curves."""
    import pandas as pd

    panels = {panel.study_id: panel for panel in need_panels(connection, study)}
    order = {study_id: i for i, study_id in enumerate(panels)}
    errors: dict[int, dict[int, float]] = {}
    for trial_id, step, value, kind in connection.execute(
        sa.select(
            intermediates.c.trial_id,
            intermediates.c.step,
            intermediates.c.intermediate_value,
            intermediates.c.intermediate_value_type,
        )
        .join(cells, cells.c.trial_id == intermediates.c.trial_id)
        .where(cells.c.study_id.in_(list(panels)))
    ):
        error = TrialIntermediateValueModel.stored_repr_to_intermediate_value(value, kind)
        errors.setdefault(trial_id, {})[step] = error
    kept = _attributes(connection, list(panels), (*LOSS_CURVES, TEST_ERROR_CURVE))
    complete = (row for row in _trials(connection, list(panels)) if row.state == TrialState.COMPLETE)
    rows = []
    for row in sorted(complete, key=lambda row: (order[row.study_id], row.number)):
        name, error, own = panels[row.study_id].name, errors.get(row.trial_id, {}), kept.get(row.trial_id, {})
        split = TEST_ERROR_CURVE in own
        tested = dict(enumerate(own.get(TEST_ERROR_CURVE) or [], start=1)) if split else error
        lists = [own.get(key) or [] for key in LOSS_CURVES]
        for epoch in range(1, max([*error, *tested, *map(len, lists)], default=0) + 1):
            points = [points[epoch - 1] if epoch <= len(points) else None for points in lists]
            validated = error.get(epoch) if split else None
            rows.append((name, row.number, epoch, tested.get(epoch), validated, *points))
    kinds = ("test_error", "validation_error", *LOSS_CURVES.values())
    frame = pd.DataFrame.from_records(rows, columns=["panel", "number", "epoch", *kinds])
    floats = dict.fromkeys(kinds, "float64")
    return frame.astype({"number": "int64", "epoch": "int64", **floats})


def _trials(connection: sa.Connection, study_ids: Sequence[int]) -> Sequence[sa.Row[Any]]:
    query = (
        sa.select(trials, cells.c.seed, cells.c.row, cells.c.col, values.c.value, values.c.value_type)
        .join(cells, cells.c.trial_id == trials.c.trial_id)
        .outerjoin(values, values.c.trial_id == trials.c.trial_id)
        .where(trials.c.study_id.in_(study_ids), cells.c.study_id == trials.c.study_id)
    )
    return connection.execute(query).all()


def _value(row: sa.Row[Any]) -> float:
    if row.state != TrialState.COMPLETE or row.value_type is None:
        return math.nan
    return TrialValueModel.stored_repr_to_value(row.value, row.value_type)


def _hyperparameters(connection: sa.Connection, study_ids: Sequence[int]) -> dict[int, dict[str, float]]:
    query = (
        sa.select(params.c.trial_id, params.c.param_name, params.c.param_value)
        .join(cells, cells.c.trial_id == params.c.trial_id)
        .where(cells.c.study_id.in_(study_ids), params.c.param_name.in_(HYPERPARAMETERS))
    )
    found: dict[int, dict[str, float]] = {}
    for trial_id, name, value in connection.execute(query):
        found.setdefault(trial_id, {})[name] = value
    return found


def _attributes(connection: sa.Connection, study_ids: Sequence[int], names: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Attributes of trials, without null values, except for the test error, for which null means infinity."""
    query = (
        sa.select(trial_attrs.c.trial_id, trial_attrs.c.key, trial_attrs.c.value_json)
        .join(cells, cells.c.trial_id == trial_attrs.c.trial_id)
        .where(cells.c.study_id.in_(study_ids), trial_attrs.c.key.in_(names))
        .where(sa.or_(trial_attrs.c.key == TEST_ERROR, trial_attrs.c.value_json != "null"))
    )
    rows = connection.execute(query).all()
    found: dict[int, dict[str, Any]] = {}
    parsed = json.loads(f"[{','.join(value for _, _, value in rows)}]")  # one call for all
    for (trial_id, key, _), value in zip(rows, parsed, strict=True):
        found.setdefault(trial_id, {})[key] = value
    return found
