"""The table at the end of a sweep: per panel the best cell, what diverged, κ, interaction and the verdict.

Knows how numbers are worded for a terminal. What they are stands in `wdgrid.analysis.separability`.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from wdgrid.analysis.words import HYPERPARAMETERS, interval, number, percent
from wdgrid.report.grids import OPTIMISTIC

if TYPE_CHECKING:
    from wdgrid.analysis.separability import Separability

NUMBERS = ("interaction", "kappa", "kappa_rows", "regret_decay", "regret_rate", "rho")


def summary_rows(numbers: Mapping[str, "Separability"]) -> list[dict[str, Any]]:
    """One dict per panel, ready for JSON: None where a number is not defined."""
    return [
        {
            "panel": name,
            "best_error": _number(found.best_error),
            "selected_on": found.selected_on,
            "best_test_error": _number(found.best_test_error),
            "test_interval": found.test_interval and list(found.test_interval),
            "test_interval_kind": found.test_interval_kind,
            "best_row": found.best_row_label,
            "best_col": found.best_col_label,
            "cells": found.n_cells,
            "seeds": found.n_seeds,
            "diverged": found.n_diverged,
            "missing": found.n_missing,
            "cap": _number(found.cap),
            **{key: _number(getattr(found, key)) for key in NUMBERS},
            "intervals": {key: list(map(_number, pair)) for key, pair in found.intervals.items()},
            "interval_kind": found.interval_kind,
            "verdict": found.verdict,
            "sentence": found.sentence,
            "alarms": [alarm.text for alarm in found.alarms],
        }
        for name, found in numbers.items()
    ]


def summary_table(numbers: Mapping[str, "Separability"]) -> Table:
    """The rows as a table for the terminal."""
    validated = any(found.selected_on == "validation" for found in numbers.values())
    caption = "Best cells are picked on validation images and reported on test." if validated else OPTIMISTIC
    kinds = dict.fromkeys(certainty_words(found) for found in numbers.values() if found.test_interval is not None)
    caption += f" In brackets: 90 % intervals of the test error, {'; '.join(kinds)}." if kinds else ""
    table = Table(box=None, pad_edge=False, header_style="bold", caption=caption, caption_justify="left")
    table.add_column("panel")
    table.add_column("best on validation" if validated else "best", justify="right")
    if validated:
        table.add_column("its test error", justify="right")
    axes = next(((found.row_name, found.col_name) for found in numbers.values()), ("row", "column"))
    table.add_column(f"at ({', '.join(HYPERPARAMETERS.get(name, name) for name in axes)})")
    for heading in ("diverged", "missing", "κ", "interaction"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for row in summary_rows(numbers):
        keys = ("best_error", "best_test_error")[: 1 + validated]
        best = [percent(row[key]) for key in keys]
        best[-1] += f" {interval(row['test_interval'])}" if row["test_interval"] else ""
        place = "–" if row["best_row"] is None else f"{row['best_row']}, {row['best_col']}"
        counts = [f"{row[key]}/{row['cells']}" if row[key] else "0" for key in ("diverged", "missing")]
        scores = [number(row["kappa"]), number(row["interaction"])]
        # Text, not str: a panel's name is the user's and may look like rich's markup.
        table.add_row(*(Text(cell) for cell in (row["panel"], *best, place, *counts, *scores, row["verdict"])))
    return table


def certainty_words(found: "Separability") -> str:
    """What the interval of a panel's best test error stands on."""
    if found.test_interval_kind == "seeds":
        return "over the cell's seeds"
    return f"binomial over {found.test_images} test images (one seed)"


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
