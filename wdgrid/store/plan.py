"""Plans a study: stores its cells as WAITING trials of one Optuna study per panel, with the study's attributes.

Every function works inside the caller's transaction.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import FloatDistribution, IntDistribution, distribution_to_json
from optuna.study import StudyDirection
from optuna.trial import TrialState

from wdgrid.errors import StoreError
from wdgrid.printable import printable
from wdgrid.store.database import (
    cells,
    directions,
    dump,
    insert_rows,
    leases,
    params,
    studies,
    study_attrs,
    trial_attrs,
    trials,
)
from wdgrid.study import Cell

PREFIX = "wdgrid:"
# Attributes that this module sets; callers may set any other `wdgrid:*` attribute.
RESERVED = frozenset({"study", "panel", "position", "canonical", "digest", "constants", "panel_attrs", "created"})
Identity = tuple[str, str, int]


@dataclass(frozen=True)
class Panel:
    """One panel's Optuna study and its `wdgrid:*` attributes, without the prefix."""

    study_id: int
    attrs: dict[str, Any]

    @property
    def name(self) -> str:
        """The panel's name within its study."""
        return self.attrs["panel"]


def panels_of(connection: sa.Connection, study: str | None = None) -> list[Panel]:
    """The panels of one study (or of all), in study order; empty if there is no such study."""
    ours = sa.select(study_attrs.c.study_id).where(study_attrs.c.key == PREFIX + "study")
    if study is not None:
        ours = ours.where(study_attrs.c.value_json == dump(study))
    rows = connection.execute(
        sa.select(study_attrs.c.study_id, study_attrs.c.key, study_attrs.c.value_json)
        .where(study_attrs.c.study_id.in_(ours), study_attrs.c.key.like(PREFIX + "%"))
        .order_by(study_attrs.c.study_id)
    )
    found: dict[int, Panel] = {}
    for study_id, key, value in rows:
        found.setdefault(study_id, Panel(study_id, {})).attrs[key.removeprefix(PREFIX)] = json.loads(value)
    for panel in found.values():
        if why := _damage(panel.attrs):
            raise StoreError(f"Optuna study {panel.study_id} of this storage is damaged: {why}")
    return sorted(found.values(), key=lambda panel: (panel.attrs["position"], panel.study_id))


def _damage(attrs: Mapping[str, Any]) -> str | None:
    """The fault of a panel's attributes; None if there is none."""
    kinds = {"position": int, "constants": dict}
    if missing := sorted(RESERVED - {"panel_attrs"} - set(attrs)):
        return f"it has no {', '.join(PREFIX + key for key in missing)}"
    for key in sorted(RESERVED - {"panel_attrs"}):
        value = attrs[key]
        if not isinstance(value, kinds.get(key, str)):
            return f"{PREFIX}{key} is not what wdgrid writes"
        if key in ("study", "panel") and value != printable(str(value)):
            return f"{PREFIX}{key} holds control characters: {printable(str(value))}"
    return None


def need_panels(connection: sa.Connection, study: str) -> list[Panel]:
    """As `panels_of`, but raises StoreError if there is no such study."""
    panels = panels_of(connection, study)
    if not panels:
        raise StoreError(f"there is no study called {study!r} in this storage")
    return panels


def set_attributes(connection: sa.Connection, study_ids: Sequence[int], attrs: Mapping[str, Any]) -> None:
    """Set `wdgrid:*` attributes of Optuna studies, replacing those with the same name."""
    keys = [PREFIX + key for key in attrs]
    connection.execute(sa.delete(study_attrs).where(study_attrs.c.study_id.in_(study_ids), study_attrs.c.key.in_(keys)))
    rows = [
        {"study_id": study_id, "key": PREFIX + key, "value_json": dump(value)}
        for study_id in study_ids
        for key, value in attrs.items()
    ]
    insert_rows(connection, study_attrs, rows)


def set_study_attributes(connection: sa.Connection, study: str, attrs: Mapping[str, Any]) -> None:
    """Set `wdgrid:*` attributes on every panel of a study."""
    set_attributes(connection, [panel.study_id for panel in need_panels(connection, study)], attrs)


def plan(
    connection: sa.Connection,
    study: str,
    panels: Mapping[str, Sequence[Cell]],
    axes: Sequence[str],
    shared: Mapping[str, Any],
    panel_attrs: Mapping[str, Mapping[str, Any]],
) -> int:
    """Add the cells that are not planned yet, and set `shared` on every panel. Returns the number of cells added."""
    _drop_orphans(connection)
    known = {panel.name: panel for panel in panels_of(connection, study)}
    created = min((p.attrs["created"] for p in known.values()), default=datetime.now(UTC).isoformat())
    added = 0
    for position, (name, panel_cells) in enumerate(panels.items()):
        if name in known:
            study_id, constants = known[name].study_id, known[name].attrs["constants"]
        else:
            study_id, constants = _insert_study(connection, f"{study}/{name}"), _constants(panel_cells, axes)
        own = {"study": study, "panel": name, "position": position, "constants": constants, "created": created}
        if name in panel_attrs:
            own["panel_attrs"] = dict(panel_attrs[name])
        set_attributes(connection, [study_id], {**own, **shared})
        added += _add_cells(connection, study_id, name, panel_cells, constants)
    set_attributes(connection, [p.study_id for name, p in known.items() if name not in panels], shared)
    return added


def begun(connection: sa.Connection, study: str) -> int:
    """Number of trials ever begun: all but those that are waiting and have never failed; 0 without a study."""
    study_ids = [panel.study_id for panel in panels_of(connection, study)]
    fresh = sa.exists().where(cells.c.trial_id == trials.c.trial_id, cells.c.failures == 0)
    counted = sa.select(sa.func.count()).select_from(trials).where(trials.c.study_id.in_(study_ids))
    return connection.execute(counted.where(sa.or_(trials.c.state != TrialState.WAITING, ~fresh))).scalar_one()


def withdraw(connection: sa.Connection, study: str) -> bool:
    """Delete a study if no trial was ever begun. Returns whether it is gone."""
    study_ids = [panel.study_id for panel in panels_of(connection, study)]
    of_study = sa.select(trials.c.trial_id).where(trials.c.study_id.in_(study_ids))
    connection.execute(of_study.with_for_update())  # on PostgreSQL, no process can claim a trial from here on
    if begun(connection, study):
        return False
    connection.execute(sa.delete(cells).where(cells.c.study_id.in_(study_ids)))
    for table in reversed(trials.metadata.sorted_tables):  # tables that refer to others first
        if table is not trials and "trial_id" in table.c:
            connection.execute(sa.delete(table).where(table.c.trial_id.in_(of_study)))
        elif "study_id" in table.c:
            connection.execute(sa.delete(table).where(table.c.study_id.in_(study_ids)))
    return True


def keep(connection: sa.Connection, study: str, key: str, value: Any) -> Any:
    """Set an attribute if there is none or no trial was begun. Returns the stored value."""
    panels = need_panels(connection, study)
    kept = panels[0].attrs.get(key)
    if kept is not None and begun(connection, study):
        return kept
    set_attributes(connection, [panel.study_id for panel in panels], {key: value})
    return value


def _drop_orphans(connection: sa.Connection) -> None:
    # SQLite reuses the ids of trials deleted through Optuna, so rows left behind would belong to new trials.
    alive = sa.exists().where(trials.c.trial_id == cells.c.trial_id, trials.c.study_id == cells.c.study_id)
    connection.execute(sa.delete(cells).where(~alive))
    connection.execute(sa.delete(leases).where(leases.c.trial_id.not_in(sa.select(cells.c.trial_id))))


def _insert_study(connection: sa.Connection, name: str) -> int:
    if connection.execute(sa.select(studies.c.study_id).where(studies.c.study_name == name)).first():
        raise StoreError(f"this storage already holds an Optuna study {name!r} that is not wdgrid's")
    study_id = connection.execute(sa.insert(studies).values(study_name=name).returning(studies.c.study_id)).scalar_one()
    row = {"study_id": study_id, "objective": 0, "direction": StudyDirection.MINIMIZE}
    insert_rows(connection, directions, [row])
    return study_id


def _constants(panel_cells: Sequence[Cell], axes: Sequence[str]) -> dict[str, float]:
    # Hyperparameters that are equal in all cells; the axes are parameters even if they have a single value.
    if not panel_cells:
        return {}
    first = panel_cells[0].hyperparameters
    return {
        name: value
        for name, value in first.items()
        if name not in axes and all(cell.hyperparameters.get(name) == value for cell in panel_cells)
    }


def _identity(cell: Cell) -> Identity:
    return (*cell.multiples, cell.seed)


def _varying(cell: Cell, constants: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in cell.hyperparameters.items() if constants.get(name) != value}


def _add_cells(
    connection: sa.Connection, study_id: int, panel: str, given: Sequence[Cell], constants: Mapping[str, float]
) -> int:
    planned = _planned(connection, study_id)
    fresh: dict[Identity, Cell] = {}
    for cell in given:
        if cell.panel != panel:
            raise ValueError(f"a cell of panel {cell.panel!r} was given for panel {panel!r}")
        before = planned.get(_identity(cell))
        if before is not None and {**constants, **before} != cell.hyperparameters:
            raise StoreError(
                f"{panel} at {' × '.join(cell.multiples)}, seed {cell.seed} was planned with other hyperparameters: "
                f"{ {**constants, **before} } is stored, {cell.hyperparameters} was asked for"
            )
        if before is None:
            fresh.setdefault(_identity(cell), cell)
    if not fresh:
        return 0
    sets = [*planned.values(), *(_varying(cell, constants) for cell in fresh.values())]
    seeds = [seed for _, _, seed in (*planned, *fresh)]
    distributions = _distributions(sets, seeds)
    for name, distribution in distributions.items() if planned else ():
        # Optuna's plots and importances require the same distribution in all trials of a study.
        of_study = sa.select(trials.c.trial_id).where(trials.c.study_id == study_id)
        where = params.c.param_name == name, params.c.trial_id.in_(of_study)
        connection.execute(sa.update(params).where(*where).values(distribution_json=distribution))
    _insert_trials(connection, study_id, list(fresh.values()), constants, distributions)
    return len(fresh)


def _planned(connection: sa.Connection, study_id: int) -> dict[Identity, dict[str, float]]:
    """Every planned cell of a panel, with its hyperparameters that are not constants of the panel."""
    rows = connection.execute(sa.select(cells).where(cells.c.study_id == study_id)).all()
    by_trial: dict[int, dict[str, float]] = {row.trial_id: {} for row in rows}
    found = connection.execute(
        sa.select(params.c.trial_id, params.c.param_name, params.c.param_value)
        .join(cells, cells.c.trial_id == params.c.trial_id)
        .where(cells.c.study_id == study_id, params.c.param_name != "seed")
    )
    for trial_id, name, value in found:
        by_trial[trial_id][name] = value
    return {(row.row, row.col, row.seed): by_trial[row.trial_id] for row in rows}


def _distributions(sets: Iterable[Mapping[str, float]], seeds: Sequence[int]) -> dict[str, str]:
    """Each parameter's distribution as Optuna stores it: the planned range, logarithmic if all values are positive."""
    columns: dict[str, list[float]] = {}
    for hyperparameters in sets:
        for name, value in hyperparameters.items():
            columns.setdefault(name, []).append(value)
    found = {
        name: distribution_to_json(FloatDistribution(min(column), max(column), log=min(column) > 0))
        for name, column in columns.items()
    }
    found["seed"] = distribution_to_json(IntDistribution(min(seeds), max(seeds)))
    return found


def _insert_trials(
    connection: sa.Connection,
    study_id: int,
    fresh: Sequence[Cell],
    constants: Mapping[str, float],
    distributions: Mapping[str, str],
) -> None:
    highest = sa.select(sa.func.max(trials.c.number)).where(trials.c.study_id == study_id)
    last = connection.execute(highest).scalar()
    first = 0 if last is None else last + 1
    waiting = [{"number": first + i, "study_id": study_id, "state": TrialState.WAITING} for i in range(len(fresh))]
    insert_rows(connection, trials, waiting)
    numbered = sa.select(trials.c.trial_id).where(trials.c.study_id == study_id, trials.c.number >= first)
    trial_ids = connection.execute(numbered.order_by(trials.c.number)).scalars().all()
    param_rows, attr_rows, cell_rows = [], [], []
    for trial_id, cell in zip(trial_ids, fresh, strict=True):
        for name, value in {**_varying(cell, constants), "seed": cell.seed}.items():
            param = {"trial_id": trial_id, "param_name": name, "param_value": float(value)}
            param_rows.append({**param, "distribution_json": distributions[name]})
        place = dict(zip(("row", "col"), cell.multiples, strict=True))
        attr_rows += [{"trial_id": trial_id, "key": k, "value_json": dump(v)} for k, v in place.items()]
        cell_rows.append({"trial_id": trial_id, "study_id": study_id, "seed": cell.seed, **place})
    insert_rows(connection, params, param_rows)
    insert_rows(connection, trial_attrs, attr_rows)
    insert_rows(connection, cells, cell_rows)
