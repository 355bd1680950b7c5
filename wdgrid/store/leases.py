"""Manages the queue of cells: claims WAITING trials under a lease, then finishes, fails, releases or reclaims them.

Every function works inside the caller's transaction. Only the owner of a trial's lease may write it. If a process
seems dead and another one claims its trials, they are therefore not written twice when the first one continues.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb.models import TrialIntermediateValueModel, TrialValueModel
from optuna.trial import TrialState

from wdgrid.store.database import (
    cells,
    clock,
    dump,
    insert_rows,
    intermediates,
    leases,
    params,
    trial_attrs,
    trials,
    values,
)
from wdgrid.store.owners import is_dead
from wdgrid.store.plan import need_panels
from wdgrid.study import Cell, Outcome

# The fields of an Outcome that are stored as user attributes of its trial, beside the curves.
SCALARS = ("test_loss", "train_loss", "l2_term", "weight_norm", "diverged_at", "seconds")
DIVERGENCE = ("divergence", "divergence_step")  # missing in trials stored before wdgrid had these classes
LOSS_CURVES = {"test_loss_curve": "test_loss", "train_loss_curve": "train_loss"}
# A trial's value and intermediate values are the error by which cells are picked. If that is the validation error, the
# test error and its curve are attributes with these names; trials with these attributes had a validation split.
TEST_ERROR, TEST_ERROR_CURVE = "test_error", "test_error_curve"

Only = Mapping[str, Collection[tuple[str, str]]] | None  # multiples of some cells, by panel; None: all cells


@dataclass(frozen=True)
class Claim:
    """A cell that this process may train, and the trial in which its outcome is stored."""

    trial_id: int
    cell: Cell


def among(only: Only, panel: str) -> sa.ColumnElement[bool]:
    """The condition that a cell of the panel is among `only`."""
    if only is None:
        return sa.true()
    places = list(only.get(panel, ()))
    return sa.tuple_(cells.c.row, cells.c.col).in_(places) if places else sa.false()


def claim(
    connection: sa.Connection,
    study: str,
    panel: str,
    seed: int,
    k: int,
    owner: str,
    lease_s: float,
    only: Only = None,
    tried: list[int] | None = None,
) -> list[Claim]:
    """Claim up to k WAITING cells of one panel and one seed, lowest number first.

    `tried` has the trials that an earlier attempt of the same call claimed; if it was committed, they are the result.
    """
    found = next((p for p in need_panels(connection, study) if p.name == panel), None)
    if found is None or k < 1:
        return []
    if tried and (held := _held(connection, tried, owner)):
        return _claims(connection, panel, held, found.attrs["constants"])
    chosen = (
        sa.select(trials.c.trial_id)
        .join(cells, cells.c.trial_id == trials.c.trial_id)
        .where(trials.c.study_id == found.study_id, cells.c.study_id == found.study_id, cells.c.seed == seed)
        .where(trials.c.state == TrialState.WAITING, among(only, panel))
        .order_by(trials.c.number)
        .limit(k)
        .with_for_update(skip_locked=True, of=trials)  # for PostgreSQL; on SQLite no other transaction runs
    )
    taken = (
        sa.update(trials)
        .where(trials.c.trial_id.in_(connection.execute(chosen).scalars().all()))
        .where(trials.c.state == TrialState.WAITING)
        .values(state=TrialState.RUNNING, datetime_start=_utc_now())
        .returning(trials.c.trial_id, trials.c.number)
    )
    trial_ids = [row.trial_id for row in sorted(connection.execute(taken), key=lambda row: row.number)]
    if tried is not None:
        tried[:] = trial_ids
    expires = clock(connection) + lease_s
    connection.execute(sa.delete(leases).where(leases.c.trial_id.in_(trial_ids)))
    insert_rows(connection, leases, [{"trial_id": t, "owner": owner, "expires": expires} for t in trial_ids])
    return _claims(connection, panel, trial_ids, found.attrs["constants"])


def _claims(
    connection: sa.Connection, panel: str, trial_ids: Sequence[int], constants: Mapping[str, float]
) -> list[Claim]:
    hyperparameters: dict[int, dict[str, float]] = {trial_id: dict(constants) for trial_id in trial_ids}
    named = params.c.trial_id.in_(trial_ids), params.c.param_name != "seed"
    for row in connection.execute(sa.select(params).where(*named)):
        hyperparameters[row.trial_id][row.param_name] = row.param_value
    rows = connection.execute(sa.select(cells).where(cells.c.trial_id.in_(trial_ids)))
    places = {row.trial_id: row for row in rows}
    return [
        Claim(t, Cell(panel, places[t].seed, hyperparameters[t], (places[t].row, places[t].col))) for t in trial_ids
    ]


def renew(connection: sa.Connection, owner: str, lease_s: float) -> int:
    """Renew all leases of this owner for `lease_s` seconds from now. Returns how many it still holds."""
    expires = clock(connection) + lease_s
    renewed = sa.update(leases).where(leases.c.owner == owner).values(expires=expires)
    return connection.execute(renewed).rowcount


def release(connection: sa.Connection, trial_ids: Sequence[int], owner: str | None) -> int:
    """Set RUNNING trials back to WAITING."""
    return _put_back(connection, _held(connection, trial_ids, owner))


def release_all(connection: sa.Connection, owner: str) -> int:
    """Set every RUNNING trial of an owner back to WAITING."""
    held = connection.execute(sa.select(leases.c.trial_id).where(leases.c.owner == owner)).scalars().all()
    return _put_back(connection, _held(connection, held, owner))


def reclaim(connection: sa.Connection) -> int:
    """Set every trial back to WAITING whose lease has expired or whose owner, on this machine, has died."""
    query = sa.select(leases.c.trial_id).where(_lost(connection)).with_for_update(skip_locked=True)
    lost = connection.execute(query).scalars().all()
    unleased = connection.execute(sa.select(trials.c.trial_id).where(unowned())).scalars().all()  # lease deleted
    return _put_back(connection, [*lost, *unleased])


def unowned() -> sa.ColumnElement[bool]:
    """The condition that one of wdgrid's trials is RUNNING without a lease, which no claim causes."""
    ours = sa.exists().where(cells.c.trial_id == trials.c.trial_id, cells.c.study_id == trials.c.study_id)
    return sa.and_(
        trials.c.state == TrialState.RUNNING, ours, ~sa.exists().where(leases.c.trial_id == trials.c.trial_id)
    )


def abandoned(connection: sa.Connection, study: str) -> int:
    """Number of a study's RUNNING trials that no process trains any more and that `reclaim` would set back."""
    study_ids = [panel.study_id for panel in need_panels(connection, study)]
    query = (
        sa.select(sa.func.count())
        .select_from(trials.join(leases, leases.c.trial_id == trials.c.trial_id))
        .where(trials.c.study_id.in_(study_ids), trials.c.state == TrialState.RUNNING, _lost(connection))
    )
    return connection.execute(query).scalar_one()


def _lost(connection: sa.Connection) -> sa.ColumnElement[bool]:
    """The condition that a lease has expired or belongs to a process that died on this machine."""
    owners = connection.execute(sa.select(leases.c.owner).distinct()).scalars()
    dead = [owner for owner in owners if is_dead(owner)]
    return sa.or_(leases.c.expires < clock(connection), leases.c.owner.in_(dead))


def _held(connection: sa.Connection, trial_ids: Sequence[int], owner: str | None) -> list[int]:
    """The trials that are RUNNING under a lease (of this owner, if given), locked until the transaction ends."""
    query = (
        sa.select(leases.c.trial_id)
        .join(trials, trials.c.trial_id == leases.c.trial_id)
        .where(leases.c.trial_id.in_(trial_ids), trials.c.state == TrialState.RUNNING)
        .order_by(leases.c.trial_id)
        .with_for_update(of=leases)
    )
    if owner is not None:
        query = query.where(leases.c.owner == owner)
    return list(connection.execute(query).scalars())


def _put_back(connection: sa.Connection, trial_ids: Sequence[int]) -> int:
    back = (
        sa.update(trials)
        .where(trials.c.trial_id.in_(trial_ids), trials.c.state == TrialState.RUNNING)
        .values(state=TrialState.WAITING, datetime_start=None)
    )
    count = connection.execute(back).rowcount
    connection.execute(sa.delete(leases).where(leases.c.trial_id.in_(trial_ids)))
    return count


def finish(
    connection: sa.Connection, outcomes: Mapping[int, Outcome], owner: str, tried: list[int] | None = None
) -> int:
    """Complete the trials that are still RUNNING under this owner. Returns their number.

    `tried` has the trials that an earlier attempt of the same call wrote; if it was committed, they count, too.
    """
    for outcome in outcomes.values():
        for error in (outcome.test_error, outcome.selection_error):
            if math.isnan(error) or error == -math.inf:
                raise ValueError(f"an error must be a percentage, or +inf for a diverged cell, not {error}")
    held = _held(connection, list(outcomes), owner)
    if tried and not held:
        complete = trials.c.trial_id.in_(tried), trials.c.state == TrialState.COMPLETE
        return connection.execute(sa.select(sa.func.count()).select_from(trials).where(*complete)).scalar_one()
    if tried is not None:
        tried[:] = held
    _end(connection, held, TrialState.COMPLETE)
    value_rows: list[dict[str, Any]] = []
    curve_rows: list[dict[str, Any]] = []
    attr_rows: list[dict[str, Any]] = []
    for trial_id in held:
        outcome = outcomes[trial_id]
        value, kind = TrialValueModel.value_to_stored_repr(outcome.selection_error)
        value_rows.append({"trial_id": trial_id, "objective": 0, "value": value, "value_type": kind})
        split = outcome.validation_error is not None
        errors = outcome.curve.validation_error if split else outcome.curve.test_error
        for epoch, error in enumerate(errors, start=1):
            value, kind = TrialIntermediateValueModel.intermediate_value_to_stored_repr(error)
            point = {"intermediate_value": value, "intermediate_value_type": kind}
            curve_rows.append({"trial_id": trial_id, "step": epoch, **point})
        attrs = {name: getattr(outcome, name) for name in (*SCALARS, *DIVERGENCE)}
        attrs |= {name: getattr(outcome.curve, curve) for name, curve in LOSS_CURVES.items()}
        if split:
            attrs |= {TEST_ERROR: outcome.test_error, TEST_ERROR_CURVE: outcome.curve.test_error}
        attr_rows += [{"trial_id": trial_id, "key": k, "value_json": dump(v)} for k, v in attrs.items()]
    insert_rows(connection, values, value_rows)
    insert_rows(connection, intermediates, curve_rows)
    insert_rows(connection, trial_attrs, attr_rows)
    return len(held)


def _end(connection: sa.Connection, trial_ids: Sequence[int], state: TrialState) -> None:
    ended = sa.update(trials).where(trials.c.trial_id.in_(trial_ids))
    connection.execute(ended.values(state=state, datetime_complete=_utc_now()))
    connection.execute(sa.delete(leases).where(leases.c.trial_id.in_(trial_ids)))


def fail(connection: sa.Connection, trial_ids: Sequence[int], why: str, owner: str | None) -> int:
    """End RUNNING trials as FAIL and count the failure. Returns their number."""
    held = _held(connection, trial_ids, owner)
    _end(connection, held, TrialState.FAIL)
    counted = sa.update(cells).where(cells.c.trial_id.in_(held)).values(failures=cells.c.failures + 1)
    connection.execute(counted)
    earlier = trial_attrs.c.trial_id.in_(held), trial_attrs.c.key == "failure"
    connection.execute(sa.delete(trial_attrs).where(*earlier))
    insert_rows(
        connection, trial_attrs, [{"trial_id": t, "key": "failure", "value_json": json.dumps(why)} for t in held]
    )
    return len(held)


def retry_failed(connection: sa.Connection, study: str, attempts: int | None) -> int:
    """Set FAIL trials that failed fewer than `attempts` times (None: all) back to WAITING. Returns their number."""
    study_ids = [panel.study_id for panel in need_panels(connection, study)]
    few = sa.true() if attempts is None else cells.c.failures < attempts
    worth = sa.select(cells.c.trial_id).where(cells.c.study_id.in_(study_ids), few)
    again = (
        sa.update(trials)
        .where(trials.c.state == TrialState.FAIL, trials.c.trial_id.in_(worth))
        .values(state=TrialState.WAITING, datetime_start=None, datetime_complete=None)
    )
    return connection.execute(again).rowcount


def _utc_now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)  # naive UTC is what Optuna's columns hold
