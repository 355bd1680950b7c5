"""Makes the table that the terminal shows: each panel's best cell, cost, verdict, slope, interaction, what went wrong.

The numbers are from `wdgrid.analysis.separability`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from wdgrid.analysis.words import HYPERPARAMETERS, divergences, figures, interval, number
from wdgrid.report.captions import OPTIMISTIC
from wdgrid.report.findings import Finding

if TYPE_CHECKING:
    from wdgrid.analysis.separability import Separability

DECAY_UNITS = "λ_norm = λ √(B T/b); τ: the epochs over which weights average their updates at the full learning rate."
GAP = 2  # between two columns
NUMBERS = ("cost", "slope", "interaction", "regret_decay", "regret_rate", "rho", "honest_error")


def summary_rows(numbers: Mapping[str, "Separability"], found: Mapping[str, Finding]) -> list[dict[str, Any]]:
    """One dict per panel with its findings, ready for JSON; numbers that are not defined are None."""
    return [
        {
            "panel": name,
            "best_error": _number(panel.best_error),
            "selected_on": panel.selected_on,
            "best_test_error": _number(panel.best_test_error),
            "test_interval": panel.test_interval and list(panel.test_interval),
            "test_interval_kind": panel.certainty and panel.certainty.kind,
            "best_row": panel.best_row_label,
            "best_col": panel.best_col_label,
            "cells": panel.n_cells,
            "seeds": panel.n_seeds,
            "diverged": panel.n_diverged,
            "missing": panel.n_missing,
            "cap": _number(panel.cap),
            **{key: _number(getattr(panel, key)) for key in NUMBERS},
            "intervals": {key: list(map(_number, pair)) for key, pair in panel.intervals.items()},
            "verdict": panel.verdict,
            "sentence": panel.sentence,
            "alarms": [alarm.text for alarm in panel.alarms],
            **found[name],
            "tau_epochs": _number(found[name]["tau_epochs"]),
        }
        for name, panel in numbers.items()
    ]


@dataclass(frozen=True)
class _Column:
    heading: str
    cells: list[str]
    justify: Literal["left", "right"]

    @property
    def width(self) -> int:
        return max(cell_len(line) for cell in (self.heading, *self.cells) for line in cell.split("\n"))


def summary_tables(numbers: Mapping[str, "Separability"], found: Mapping[str, Finding], width: int) -> Group:
    """The panels as a table for a terminal `width` characters wide; columns that do not fit go to a second table."""
    panels, *columns = _columns(numbers, found)
    blocks = [[panels]]
    for column in columns:
        if len(blocks[-1]) > 1 and sum(c.width + GAP for c in blocks[-1]) + column.width > width:
            blocks.append([panels])
        blocks[-1].append(column)
    first, *below = (_table(block) for block in blocks)
    caption = Text(_caption(numbers, found), style="table.caption")
    return Group(first, *(part for table in below for part in (Text(), table)), caption)


def _columns(numbers: Mapping[str, "Separability"], found: Mapping[str, Finding]) -> Iterator[_Column]:
    panels = numbers.values()
    yield _Column("panel", list(numbers), "left")
    of = list(dict.fromkeys(words["best_of"] for words in found.values() if words["best_of"]))
    alike = f",\n{of[0]}" if len(of) == 1 else ""
    each = [f", {words['best_of']}" if words["best_of"] and not alike else "" for words in found.values()]
    if validated := any(panel.selected_on == "validation" for panel in panels):
        yield _Column("best on vali-\ndation (%)", [number(panel.best_error) for panel in panels], "right")
    tested = "its test error (%)" if validated else "best test error (%)"
    yield _Column(tested + alike, [_tested(panel) + words for panel, words in zip(panels, each, strict=True)], "right")
    for axis in (0, 1):
        names = [(panel.row_name, panel.col_name)[axis] for panel in panels]
        heading = HYPERPARAMETERS.get(names[0], names[0]) if names else ""
        yield _Column(f"its {heading}", [_value(panel, axis) for panel in panels], "right")
    yield _Column("cost", [number(panel.cost) for panel in panels], "right")
    yield _Column("verdict", [panel.verdict for panel in panels], "left")
    yield _Column("slope s", [number(panel.slope) for panel in panels], "right")
    yield _Column("inter-\naction", [number(panel.interaction) for panel in panels], "right")
    if has_decay_units(found):
        yield _Column("λ_norm", [figures(found[name]["weight_decay_norm"]) for name in numbers], "right")
        yield _Column("τ", [figures(found[name]["tau_epochs"]) for name in numbers], "right")
    yield _Column("went wrong", [went_wrong(panel, found[name]) for name, panel in numbers.items()], "left")
    if any(panel.n_missing for panel in panels):
        yield _Column("missing", [f"{panel.n_missing}/{panel.n_cells}" for panel in panels], "right")


def _table(columns: list[_Column]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.heading, justify=column.justify, overflow="fold")
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, row))  # Text, not str: a panel's name may contain rich's markup
    return table


def _caption(numbers: Mapping[str, "Separability"], found: Mapping[str, Finding]) -> str:
    validated = any(panel.selected_on == "validation" for panel in numbers.values())
    caption = "Best cells are picked on validation images; their test error is reported." if validated else OPTIMISTIC
    kinds = dict.fromkeys(certainty_words(panel) for panel in numbers.values() if panel.test_interval is not None)
    caption += f" In brackets: 90 % intervals of the test error, {'; '.join(kinds)}." if kinds else ""
    return caption + (f" {DECAY_UNITS}" if has_decay_units(found) else "")


def has_decay_units(found: Mapping[str, Finding]) -> bool:
    """Whether any panel's best cell has a λ_norm or a τ."""
    return any(words["weight_decay_norm"] is not None or words["tau_epochs"] is not None for words in found.values())


def went_wrong(panel: "Separability", words: Finding) -> str:
    """The number of a panel's cells whose training went wrong, by class; a dash if there are none."""
    counts = {kind: flag["cells"] for kind, flag in words["divergences"].items()}
    return divergences({"non-finite": panel.n_diverged, **counts}) or "–"


def _tested(panel: "Separability") -> str:
    error = panel.best_error if panel.best_test_error is None else panel.best_test_error
    if panel.certainty is not None and panel.certainty.kind == "fit":
        return f"{number(error)}, corrected {number(panel.honest_error)} {interval(panel.certainty.interval)}"
    return number(error) + (f" {interval(panel.test_interval)}" if panel.test_interval else "")


def _value(panel: "Separability", axis: int) -> str:
    """`0.025 (1/4)`: the best cell's value on an axis and its multiple of the unit."""
    value, label = ((panel.best_row, panel.best_row_label), (panel.best_col, panel.best_col_label))[axis]
    return "–" if value is None else f"{value:.4g} ({label})"


def certainty_words(found: "Separability") -> str:
    """From what the interval of a panel's best test error is computed."""
    if found.certainty is not None and found.certainty.kind == "fit":
        return "corrected for having picked the lowest of noisy cells"
    if found.certainty is not None and found.certainty.kind == "seeds":
        return "over the cell's seeds"
    return f"binomial over {found.test_images} test images (one seed)"


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
