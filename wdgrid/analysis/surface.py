"""A panel as an array: errors over (row value, column value, seed).

Surfaces are read from a table of trials or from `paper_figures.csv`, shipped beside this file: figures 1 and 2 of
Loshchilov & Hutter (ICLR 2019, arXiv 1711.05101v3) read off the published images, ±0.2 points, clipped at 7 %, one run
per cell, black circles (the ten best cells) exact.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from wdgrid.errors import DataError
from wdgrid.study.axes import parse_multiple, scale
from wdgrid.study.cells import selection_error

PAPER_FIGURES = Path(__file__).with_name("paper_figures.csv")


@dataclass(frozen=True, eq=False)
class Surface:
    """One heatmap's errors, R row values by C column values by S seeds, in study order.

    `errors` [R, C, S] is in percent: NaN where a run is missing or incomplete, +inf where it diverged.
    `rows` [R] and `cols` [C] are hyperparameter values, the labels their multiples as printed. `circled`
    [R, C] is given only if a published figure marks its best cells. With a validation split `errors` are
    those on the validation images, by which cells are picked, and `test_errors` [R, C, S] those on the test images;
    without a split they are None. `planned` [R, C] marks the cells of the study, trained or not, if they are known.
    `columns` holds further columns of the table, [R, C, S] each, NaN where `errors` is.
    Raises ValueError if shapes disagree.
    """

    panel: str
    row_name: str
    col_name: str
    rows: np.ndarray
    cols: np.ndarray
    row_labels: tuple[str, ...]
    col_labels: tuple[str, ...]
    errors: np.ndarray
    circled: np.ndarray | None = None
    test_errors: np.ndarray | None = None
    planned: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])

    def __post_init__(self) -> None:
        shape = (len(self.rows), len(self.cols))
        if self.errors.ndim != 3 or self.errors.shape[:2] != shape:
            raise ValueError(f"errors must be [{shape[0]}, {shape[1]}, seeds], not {list(self.errors.shape)}")
        if (len(self.row_labels), len(self.col_labels)) != shape:
            raise ValueError("every axis value needs one label")
        if self.test_errors is not None and self.test_errors.shape != self.errors.shape:
            raise ValueError(f"test_errors must be {list(self.errors.shape)}, not {list(self.test_errors.shape)}")
        for name, mask in (("circled", self.circled), ("planned", self.planned)):
            if mask is not None and mask.shape != shape:
                raise ValueError(f"{name} must be [{shape[0]}, {shape[1]}], not {list(mask.shape)}")

    @property
    def axes(self) -> tuple[tuple[str, np.ndarray, tuple[str, ...]], ...]:
        """Name, values and labels of the row axis and of the column axis."""
        return (self.row_name, self.rows, self.row_labels), (self.col_name, self.cols, self.col_labels)

    def as_printed(self) -> "Surface":
        """The same cells as the paper prints them: row values falling, column values rising."""
        down, up = np.argsort(-self.rows, kind="stable"), np.argsort(self.cols, kind="stable")
        return self.taken(down.tolist(), up.tolist())

    def taken(self, rows: Sequence[int], cols: Sequence[int]) -> "Surface":
        """The cells of these rows and columns, given by position, in this order."""

        def cut(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[np.ix_(rows, cols)]

        return replace(
            self,
            rows=self.rows[rows],
            cols=self.cols[cols],
            row_labels=tuple(self.row_labels[i] for i in rows),
            col_labels=tuple(self.col_labels[j] for j in cols),
            errors=self.errors[np.ix_(rows, cols)],
            circled=cut(self.circled),
            test_errors=cut(self.test_errors),
            planned=cut(self.planned),
            columns={name: values[np.ix_(rows, cols)] for name, values in self.columns.items()},
        )

    def on_grid(self, values: np.ndarray, row_labels: Sequence[str], col_labels: Sequence[str]) -> np.ndarray:
        """Values [R, C, …] of this surface's cells on a grid with these labels, NaN in its other cells.

        Raises ValueError if the grid does not have a label of the surface.
        """
        whole = np.full((len(row_labels), len(col_labels), *values.shape[2:]), np.nan)
        rows = [row_labels.index(label) for label in self.row_labels]
        whole[np.ix_(rows, [col_labels.index(label) for label in self.col_labels])] = values
        return whole


def mean_over_seeds(errors: np.ndarray, cap: float) -> np.ndarray:
    """Mean over seeds [R, C] of errors [R, C, S], with diverged runs at the cap; NaN if every seed is missing.

    The mean itself is not capped.
    """
    values = np.where(np.isposinf(errors), cap, errors)
    there = ~np.isnan(values)
    n = there.sum(-1)
    return np.where(n > 0, np.where(there, values, 0.0).sum(-1) / np.maximum(n, 1), np.nan)


def lowest(values: np.ndarray, k: int) -> list[tuple[int, int]]:
    """The k lowest finite values of an array [R, C] as (row, column), the lowest first; ties in reading order."""
    order = np.argsort(np.where(np.isfinite(values), values, np.inf), axis=None, kind="stable")[: max(k, 0)]
    places = [divmod(int(flat), values.shape[1]) for flat in order]
    return [place for place in places if np.isfinite(values[place])]


def mask_of(places: Iterable[tuple[int, int]], shape: tuple[int, ...]) -> np.ndarray:
    """Places (row, column) as a mask of this shape [R, C]."""
    mask = np.zeros(shape, bool)
    for place in places:
        mask[place] = True
    return mask


def _labels(values: np.ndarray, printed: Iterable[object] | None) -> tuple[str, ...]:
    """Printed multiples of the unique values; the values themselves if a value is printed in two ways."""
    names: dict[float, str] = {}
    for value, name in zip(values, values if printed is None else printed, strict=True):
        if names.setdefault(float(value), str(name)) != str(name):
            printed = None
    if printed is None or len(set(names.values())) < len(names):
        return tuple(f"{value:g}" for value in names)
    return tuple(names.values())


def surfaces(
    frame: pd.DataFrame, row_name: str = "lr", col_name: str = "weight_decay", columns: Iterable[str] = ()
) -> dict[str, Surface]:
    """The panels of a table of trials as surfaces over two hyperparameter columns, in order of appearance.

    Errors are on the validation images if the table has such errors, else on the test images. Only complete trials
    count. If a cell has several, its last row counts. Axis values keep the order in which the table first has them.
    `columns` names further columns of numbers to arrange likewise. Raises ValueError if a needed column is missing.
    """
    needed = ["panel", "seed", "test_error", row_name, col_name]
    absent = [name for name in needed if name not in frame.columns]
    if absent:
        raise ValueError(f"the table lacks the column{'s' * (len(absent) > 1)} {', '.join(absent)}")
    picked_on = selection_error(frame)
    result: dict[str, Surface] = {}
    for panel, group in frame.groupby("panel", sort=False):
        group = group.dropna(subset=[row_name, col_name])
        if group.empty:
            continue
        row_values, col_values = (group[name].to_numpy(dtype=float) for name in (row_name, col_name))
        row_at, rows = pd.factorize(row_values)
        col_at, cols = pd.factorize(col_values)
        seed_at, seeds = pd.factorize(group["seed"].to_numpy())
        done = np.ones(len(group), bool)
        if "state" in group.columns:
            done = (group["state"].astype(str).str.lower() == "complete").to_numpy()
        done = done & group[picked_on].notna().to_numpy()
        planned = np.zeros((len(rows), len(cols)), bool)
        planned[row_at, col_at] = True
        arrays = {}
        for column in {picked_on, "test_error", *columns}:
            arrays[column] = np.full((len(rows), len(cols), len(seeds)), np.nan)
            values = group[column].to_numpy(dtype=float, na_value=np.nan)
            arrays[column][row_at[done], col_at[done], seed_at[done]] = values[done]
        result[str(panel)] = Surface(
            panel=str(panel),
            row_name=row_name,
            col_name=col_name,
            rows=np.asarray(rows, float),
            cols=np.asarray(cols, float),
            row_labels=_labels(row_values, group.get("row")),
            col_labels=_labels(col_values, group.get("col")),
            errors=arrays[picked_on],
            test_errors=None if picked_on == "test_error" else arrays["test_error"],
            planned=planned,
            columns={name: arrays[name] for name in columns},
        )
    return result


def paper_surfaces(csv_path: Path | str = PAPER_FIGURES, figure: int | None = None) -> dict[str, Surface]:
    """The paper's Figures 1 and 2 with their circles; one seed, errors in percent, clipped at 7.

    Panels are named `figure2 SGDW`; with `figure` given, only that figure's, named `SGDW`. The two figures are two
    studies and must be analysed separately, because cap and e* are those of all panels of a study. Raises DataError if
    the file cannot be read or is no such table.
    """
    try:
        return _paper_surfaces(csv_path, figure)
    except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise DataError(f"{csv_path}: not a table of reference values: {why}") from error


def _paper_surfaces(csv_path: Path | str, figure: int | None) -> dict[str, Surface]:
    table = pd.read_csv(csv_path, dtype={"lr_multiple": str, "weight_decay_multiple": str})
    result: dict[str, Surface] = {}
    for key, group in table.groupby(["figure", "panel"], sort=False):
        number, name = key if isinstance(key, tuple) else (key, "")
        if figure is not None and number != figure:
            continue
        panel = str(name) if figure is not None else f"figure{number} {name}"
        row_labels, col_labels = (
            tuple(dict.fromkeys(group[axis])) for axis in ("lr_multiple", "weight_decay_multiple")
        )
        at = (
            group["lr_multiple"].map(row_labels.index).to_numpy(),
            group["weight_decay_multiple"].map(col_labels.index).to_numpy(),
        )
        errors = np.full((len(row_labels), len(col_labels), 1), np.nan)
        errors[*at, 0] = group["test_error_percent"]
        circled = np.zeros(errors.shape[:2], bool)
        circled[at] = group["top10"] == 1
        lr_unit, decay_unit = float(group["lr_unit"].iloc[0]), float(group["weight_decay_unit"].iloc[0])
        result[panel] = Surface(
            panel=panel,
            row_name="lr",
            col_name="weight_decay",
            rows=np.array([scale(parse_multiple(text), lr_unit) for text in row_labels]),
            cols=np.array([scale(parse_multiple(text), decay_unit) for text in col_labels]),
            row_labels=row_labels,
            col_labels=col_labels,
            errors=errors,
            circled=circled,
        )
    return result
