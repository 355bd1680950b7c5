"""The measures that a map can show: names, words and units, values per cell, limits of the colours."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wdgrid.errors import UsageError
from wdgrid.report.views import MeasureName
from wdgrid.study.cells import selection_error

if TYPE_CHECKING:
    from wdgrid.report.grids import Grid

ERRORS = ("validation_error", "test_error")
NEAR = 1.1  # epochs_to_best: within 10 %
SATURATED = 0.95  # the share of the cells that the colours of a measure other than an error distinguish


@dataclass(frozen=True)
class Measure:
    """A measure's name in words, and its unit."""

    words: str
    unit: str

    @property
    def label(self) -> str:
        """`test error (%)`."""
        return f"{self.words} ({self.unit})" if self.unit else self.words


MEASURES: dict[MeasureName, Measure] = {
    "validation_error": Measure("validation error", "%"),
    "test_error": Measure("test error", "%"),
    "test_loss": Measure("test loss", "nats"),
    "train_loss": Measure("training loss", "nats"),
    "gap": Measure("generalization gap: test loss − training loss", "nats"),
    "weight_norm": Measure("norm of the weights", ""),
    "epochs_to_best": Measure("epochs until the error is within 10 % of the panel's best", ""),
    "spread": Measure("standard deviation of the error over seeds", "points"),
    "seconds": Measure("training time of a cell", "s"),
}
COLUMNS = ("test_loss", "train_loss", "weight_norm", "epochs_to_best", "seconds")  # of the table, as they are


def with_epochs(table: pd.DataFrame, curves: pd.DataFrame | None) -> pd.DataFrame:
    """The table with the column `epochs_to_best`.

    It is a trial's first epoch whose error is at most 1.1 times the lowest mean error of the trial's panel: +inf if the
    trial has no such epoch, NaN without `curves`. Errors are those by which cells are picked.
    """
    if curves is None or curves.empty:
        return table.assign(epochs_to_best=np.nan)
    error = selection_error(table)
    complete = table.loc[table["state"] == "complete"]
    best = complete.groupby(["panel", "row", "col"])[error].mean().groupby("panel").min()
    near = curves.loc[curves[error] <= NEAR * curves["panel"].map(best)]
    first = near.groupby(["panel", "number"])["epoch"].min()
    trials = pd.MultiIndex.from_arrays([table["panel"], table["number"]])
    return table.assign(epochs_to_best=first.reindex(trials).astype(float).fillna(np.inf).to_numpy())


def values_of(
    picked_on: MeasureName,
    error: np.ndarray,
    test_error: np.ndarray | None,
    spread: np.ndarray,
    mean: Callable[[str], np.ndarray],
) -> dict[MeasureName, np.ndarray]:
    """The error and every other measure [R, C] that has a finite value; `mean` averages a column over seeds."""
    values: dict[MeasureName, np.ndarray] = {picked_on: error, **{name: mean(name) for name in COLUMNS}}
    values |= {"gap": values["test_loss"] - values["train_loss"], "spread": spread}
    if test_error is not None:
        values["test_error"] = test_error
    stored = {name for name, value in values.items() if name == picked_on or np.isfinite(value).any()}
    return {name: values[name] for name in MEASURES if name in stored}


def stored_measures(grids: "Iterable[Grid]") -> list[MeasureName]:
    """The measures that some panel has, in the order of `MEASURES`."""
    found = [grid.measures for grid in grids]
    return [name for name in MEASURES if any(name in measures for measures in found)]


def check_measure(name: MeasureName, grids: "list[Grid]") -> None:
    """Raises UsageError if no panel has this measure."""
    there = stored_measures(grids)
    if name not in there:
        why = " (it needs two seeds)" if name == "spread" else ""
        raise UsageError(f"--measure {name}: not stored with this study{why}; there: {', '.join(there) or 'none'}")


def limits_of(
    name: MeasureName, measured: Iterable[Mapping[MeasureName, np.ndarray]], errors: tuple[float, float]
) -> tuple[float, float]:
    """The ends of a measure's colours over all panels: those of the `errors` for an error.

    For another measure they are the lowest value and the 95 % quantile, so that a few extreme cells do not use up all
    colours.
    """
    if name in ERRORS:
        return errors
    values = np.concatenate([one[name].ravel() for one in measured if name in one] or [np.empty(0)])
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(np.quantile(values, SATURATED))
    return (low, high) if low < high else (low, max(float(values.max()), low + 1.0))
