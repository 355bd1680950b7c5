"""Makes one grid of arrays per panel from the table, as the figure and the page draw them.

Averages seeds, and chooses the circled cells and the common colour range.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pandas as pd

from wdgrid.analysis.separability import error_cap
from wdgrid.analysis.surface import Surface, lowest, mean_over_seeds, surfaces
from wdgrid.analysis.valley import Valley
from wdgrid.optim.variants import VARIANTS, Decay
from wdgrid.report import measures
from wdgrid.report.captions import panel_title
from wdgrid.report.flags import FLAGS, Flags, flags_of
from wdgrid.report.views import MeasureName
from wdgrid.study import Study
from wdgrid.study.axes import label, scale
from wdgrid.study.cells import selection_error

AXES = {
    "lr": "Initial learning rate",
    "eps": "ε of {}",  # an algorithm
    "beta1": "β1 of {}",
    "beta2": "β2 of {}",
    "momentum": "Momentum",
}
DECAY_WORDS = {
    Decay.GRADIENT: "L2 regularization factor",
    Decay.PAPER: "Weight decay",
    Decay.LIBRARY: "Weight decay",
}
COLUMNS = ("diverged_at", "divergence_step", *FLAGS, *measures.COLUMNS)  # of the table, beside errors


@dataclass(frozen=True)
class Grid:
    """One panel's cells as R × C arrays. The first row has the largest value, the first column 0 or the smallest.

    `error` is the mean over seeds in percent: +inf if any seed diverged (a mean over the other seeds would be too
    good), NaN if no seed is complete. `spread` is the standard deviation over seeds, NaN for one seed. `best` lists
    (row, column) of the k lowest errors, the best first. Errors are on the images by which cells are picked; if these
    are the validation images, `test_error` has the same means on the test images, else it is None. `flags` are the
    divergence classes with a finite error. `measures` holds every measure that is stored, by name, the error first.
    """

    panel: str
    title: str
    decay_form: str
    row_title: str
    col_title: str
    row_labels: list[str]
    col_labels: list[str]
    row_values: list[float]
    col_values: list[float]
    error: np.ndarray
    spread: np.ndarray
    seeds_done: np.ndarray
    seeds_diverged: np.ndarray
    diverged_at: np.ndarray
    best: list[tuple[int, int]]
    test_error: np.ndarray | None = None
    flags: Flags = field(default_factory=dict)
    measures: Mapping[MeasureName, np.ndarray] = field(default_factory=dict[MeasureName, np.ndarray])

    @property
    def diverged(self) -> np.ndarray:
        """Where at least one seed diverged."""
        return self.seeds_diverged > 0

    @property
    def missing(self) -> np.ndarray:
        """Where no seed is complete."""
        return self.seeds_done == 0


def grids(
    study: Study, table: pd.DataFrame, whole: Study | None = None, curves: pd.DataFrame | None = None
) -> list[Grid]:
    """One grid per panel, in the study's order; cells that are not in the table count as not trained.

    `whole` is given for a coarse pass: the study from which it was derived, whose panel titles are used. `curves` adds
    the measure `epochs_to_best`.
    """
    marked = measures.with_epochs(table, curves).assign(**{k: table["divergence"].isin([k]) for k in FLAGS})
    shown = surfaces(marked, study.row, study.column, COLUMNS)
    split = selection_error(table) == "validation_error"
    return [_grid(study, name, shown.get(name), split, panel_title(study, name, whole)) for name in study.panel_names()]


def _grid(study: Study, name: str, surface: Surface | None, split: bool, title: str) -> Grid:
    panel = study.panel_names()[name]
    rows = sorted(study.axes[study.row].values, reverse=True)  # type: ignore[index]
    cols = sorted(study.axes[study.column].values)  # type: ignore[index]
    row_labels, col_labels = [label(m) for m in rows], [label(m) for m in cols]
    units = study.unit(panel, study.row), study.unit(panel, study.column)

    def on_grid(values: np.ndarray | None) -> np.ndarray:
        if surface is None or values is None:
            return np.full((len(rows), len(cols), 1), np.nan)
        return surface.on_grid(values, row_labels, col_labels)

    return grid_of(
        Surface(
            panel=name,
            row_name=study.row,
            col_name=study.column,
            rows=np.array([scale(m, units[0]) for m in rows]),
            cols=np.array([scale(m, units[1]) for m in cols]),
            row_labels=tuple(row_labels),
            col_labels=tuple(col_labels),
            errors=on_grid(surface and surface.errors),
            test_errors=on_grid(surface and surface.test_errors) if split else None,
            columns={column: on_grid(surface and surface.columns[column]) for column in COLUMNS},
        ),
        units,
        title,
        panel.optimizer,
        study.normalized(panel),
        study.report.top_k,
    )


def grid_of(
    surface: Surface,
    units: tuple[float, float],
    title: str,
    optimizer: str,
    normalized: bool,
    best: int | list[tuple[int, int]],
) -> Grid:
    """A surface as it is drawn. `units` are those of its two axes, `best` its circled cells or their number."""
    errors = surface.errors
    done, diverged = ~np.isnan(errors), np.isposinf(errors)
    error = mean_over_seeds(errors, np.inf)

    def column(name: str) -> np.ndarray:
        return surface.columns.get(name, np.full(errors.shape, np.nan))

    def finite(values: np.ndarray) -> np.ndarray:
        return np.where(done & ~diverged, values, np.nan)

    def mean(name: str) -> np.ndarray:
        return np.where(diverged.any(-1), np.nan, mean_over_seeds(finite(column(name)), np.inf))

    first = np.where(np.isnan(column("diverged_at")), np.inf, column("diverged_at")).min(-1)
    tested = None if surface.test_errors is None else mean_over_seeds(surface.test_errors, np.inf)
    spread = _deviation(finite(errors))
    return Grid(
        panel=surface.panel,
        title=title,
        decay_form=VARIANTS[optimizer].decay.value,
        row_title=axis_title(surface.row_name, units[0], optimizer, normalized),
        col_title=axis_title(surface.col_name, units[1], optimizer, normalized),
        row_labels=list(surface.row_labels),
        col_labels=list(surface.col_labels),
        row_values=surface.rows.tolist(),
        col_values=surface.cols.tolist(),
        error=error,
        spread=spread,
        seeds_done=done.sum(-1),
        seeds_diverged=diverged.sum(-1),
        diverged_at=np.where(np.isfinite(first), first, np.nan),
        best=lowest(error, best) if isinstance(best, int) else best,
        test_error=tested,
        flags=flags_of({kind: column(kind) == 1 for kind in FLAGS}, column("divergence_step")),
        measures=measures.values_of(
            "test_error" if tested is None else "validation_error", error, tested, spread, mean
        ),
    )


def _deviation(values: np.ndarray) -> np.ndarray:
    """Standard deviation [R, C] of values [R, C, S] over their seeds; NaN for fewer than two."""
    n = (~np.isnan(values)).sum(-1)
    squares = (values - mean_over_seeds(values, np.inf)[..., None]) ** 2
    return np.where(n > 1, np.sqrt(np.nansum(squares, -1) / np.maximum(n - 1, 1)), np.nan)


def error_range(study: Study, all_grids: list[Grid], cap: float | None = None) -> tuple[float, float]:
    """Colour limits of all panels: the study's own, else from the best error to the cap of the analysis.

    Without a `cap` it is the default for ten classes.
    """
    if study.report.error_range is not None:
        return study.report.error_range
    finite = [g.error[np.isfinite(g.error)] for g in all_grids]
    errors = np.concatenate(finite) if finite else np.empty(0)
    best = float(errors.min()) if len(errors) else 0.0
    cap = error_cap(best) if cap is None else cap
    return (best, cap) if len(errors) and best < cap else (0.0, 100.0)


def valley_places(grid: Grid, line: Valley) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where the fitted valley lies, in cells from the top left: rows [n], columns [n] of it and of its band's edges.

    The band holds the lines of both ends of the slope's interval. Column value 0 is off the line, which ends there.
    """
    values, cols = np.array(grid.row_values), np.array(grid.col_values)
    at_row, at_col = np.flatnonzero(values > 0), np.flatnonzero(cols > 0)
    log_rows, log_cols = np.log2(values[at_row]), np.log2(cols[at_col])
    rows = np.linspace(at_row[0] - 0.5, at_row[-1] + 0.5, 12 * len(at_row))
    x = _extended(rows, at_row.astype(float), log_rows)
    places = [_extended(line.position(x, slope), log_cols, at_col + 0.5) for slope in (None, *line.interval)]
    left, right = at_col[0], at_col[-1] + 1
    inside = (places[0] >= left) & (places[0] <= right)
    middle, one, other = (np.clip(place[inside], left, right) for place in places)
    return rows[inside] + 0.5, middle, np.minimum(one, other), np.maximum(one, other)


def _extended(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Piecewise linear interpolation, its end pieces extended."""
    if len(x) < 2:
        return np.full(len(at), y[0])
    k = np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2)
    return y[k] + (at - x[k]) * (y[k + 1] - y[k]) / (x[k + 1] - x[k])


def axis_title(axis: str, unit: float, optimizer: str, normalized: bool) -> str:
    """Title of an axis with its unit, named as in the paper: with L2, weight decay is the regularization factor."""
    variant = VARIANTS[optimizer]
    words = AXES.get(axis, DECAY_WORDS[variant.decay]).format(variant.algorithm)
    if axis == "weight_decay" and normalized:
        words += ", normalized"
    bare = unit == 1 and axis not in ("lr", "weight_decay")
    return words if bare else f"{words} (× {unit:g})"


def panel_columns(n: int) -> int:
    """Number of columns in which n panels are drawn."""
    if n <= 4:
        return min(2, n)
    return 4 if n % 4 == 0 else 3


def thinned(labels: list[str], at_most: int) -> list[int]:
    """Positions of an axis that get a label, so that labels do not overlap on large grids."""
    step = math.ceil(len(labels) / at_most)
    anchor = len(labels) - 1 if labels and Fraction(labels[-1]) == 0 else 0
    return [i for i in range(len(labels)) if (i - anchor) % step == 0]
