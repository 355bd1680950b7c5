"""The table at the end of a sweep: per panel the best cell, what diverged, κ, interaction and the verdict.

Knows how numbers are worded for a terminal. What they are stands in `wdgrid.analysis.separability`.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

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
    table = Table(box=None, pad_edge=False, header_style="bold", caption=caption, caption_justify="left")
    table.add_column("panel")
    table.add_column("best on validation" if validated else "best", justify="right")
    if validated:
        table.add_column("its test error", justify="right")
    table.add_column("at (row, column)")
    for heading in ("diverged", "missing", "κ", "interaction"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for row in summary_rows(numbers):
        keys = ("best_error", "best_test_error")[: 1 + validated]
        best = ["–" if row[key] is None else f"{row[key]:.2f} %" for key in keys]
        place = "–" if row["best_row"] is None else f"{row['best_row']}, {row['best_col']}"
        counts = [f"{row[key]}/{row['cells']}" if row[key] else "0" for key in ("diverged", "missing")]
        scores = [signed(row["kappa"]), "–" if row["interaction"] is None else f"{row['interaction']:.2f}"]
        # Text, not str: a panel's name is the user's and may look like rich's markup.
        table.add_row(*(Text(cell) for cell in (row["panel"], *best, place, *counts, *scores, row["verdict"])))
    return table


def signed(value: float | None, digits: int = 2) -> str:
    """A number with a real minus sign, or a dash where there is none; never −0.00."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
