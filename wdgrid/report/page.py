"""The report as one offline HTML file: map, curves, numbers, the study itself. No request to anywhere.

Knows what stands on the page and in which order; how it looks and answers stands in `templates/`. Every text goes
through Jinja2's autoescape, and the embedded JSON cannot end its own script element.
"""

import base64
import json
import math
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from wdgrid import __version__
from wdgrid.analysis.conversion import OPTIMIZERS, convert
from wdgrid.analysis.words import interval, number, percent, with_interval
from wdgrid.report.findings import groups_warning
from wdgrid.report.flags import FLAGS, MEANING, sentence
from wdgrid.report.grids import Grid, caption_lines, error_words, grids, selection_words
from wdgrid.report.payload import curve_data, page_data
from wdgrid.report.summary import certainty_words
from wdgrid.study import Study

if TYPE_CHECKING:
    from wdgrid.analysis.separability import Separability

SCRIPTS = ("cells.js", "map.js", "plots.js")
LIBRARIES = ("torch", "timm", "composer", "optax", "keras", "pytorch_optimizer")
INTERVALS = {"seeds": "seeds", "residual": "the residuals of one seed; more seeds would tell more"}
# No address is allowed at all: what is not in the file does not exist for the page.
POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_page(
    study: Study,
    name: str,
    table: pd.DataFrame,
    curves: pd.DataFrame,
    numbers: Mapping[str, "Separability"],
    environment: Mapping[str, Any],
    figure_png: Path,
    path: Path,
) -> None:
    """Writes the report to `path`. `figure_png` is what readers without scripts see."""
    from plotly.offline import get_plotlyjs  # imported here: it takes most of a second

    panels = grids(study, table)
    page = Environment(loader=PackageLoader("wdgrid.report"), autoescape=True, trim_blocks=True)
    text = page.get_template("report.html").render(
        title=study.title or name,
        name=name,
        policy=POLICY,
        version=__version__,
        style=Markup(_template("report.css")),
        scripts=[Markup(_template(script)) for script in SCRIPTS],
        plotly=Markup(get_plotlyjs()),
        picture=base64.b64encode(figure_png.read_bytes()).decode(),
        caption=caption_lines(study, name, panels, str(environment.get("device") or "")),
        numbers=[_numbers(found, study) for found in numbers.values()],
        best=[(grid.title, grid.row_title, grid.col_title, list(_best(grid))) for grid in panels],
        elsewhere=[(grid.title, list(_elsewhere(study, grid))) for grid in panels],
        wrong=[(grid.title, words) for grid in panels if (words := sentence(grid.flags, _optimizer(study, grid)))],
        meanings=[(kind, MEANING[kind]) for kind in FLAGS if any(kind in grid.flags for grid in panels)],
        error_words=error_words(study),
        validated=bool(study.task.validation_size),
        selection=selection_words(study),
        several_seeds=len(study.seeds) > 1,
        study=json.dumps(json.loads(study.canonical()), ensure_ascii=False, indent=2),
        digest=study.digest(),
        environment=list(_flat(environment)),
        data=embedded(page_data(study, panels, table)),
        curves=embedded(curve_data(curves)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def embedded(data: object) -> Markup:
    """JSON that is safe inside a script element, whatever its strings hold."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _optimizer(study: Study, grid: Grid) -> str:
    return study.panel_names()[grid.panel].optimizer


def _template(name: str) -> str:
    return files("wdgrid.report").joinpath("templates", name).read_text(encoding="utf-8")


def _numbers(found: "Separability", study: Study) -> dict[str, Any]:
    """One panel's numbers, worded."""

    def measured(key: str) -> str:
        return with_interval(getattr(found, key), found.intervals.get(key))

    where = " (validation)" if found.selected_on == "validation" else ""
    span = "" if found.test_interval is None else f" {interval(found.test_interval)}"
    tested = "" if found.best_test_error is None else f"; test error {percent(found.best_test_error)}{span}"
    own = span if found.best_test_error is None else ""
    place = f"{found.best_row_label}, {found.best_col_label}" if found.best_row_label else "–"
    return {
        "panel": found.panel,
        "verdict": found.verdict,
        "sentence": found.sentence,
        "alarms": [getattr(alarm, "text", str(alarm)) for alarm in found.alarms],
        "best": "–" if found.best_error is None else f"{percent(found.best_error)}{own}{where} at {place}{tested}",
        "interaction": measured("interaction"),
        "kappa": measured("kappa") + (f" ({found.kappa_rows} rows)" if found.kappa is not None else ""),
        "regret_decay": measured("regret_decay"),
        "regret_rate": measured("regret_rate"),
        "rho": measured("rho"),
        "cells": f"{found.n_cells} × {len(study.seeds)}",
        "diverged": found.n_diverged,
        "missing": found.n_missing,
        "cap": percent(found.cap),
        "certainty": "" if found.test_interval is None else certainty_words(found),
        "kind": INTERVALS.get(found.interval_kind or "", "nothing: too little to draw from"),
    }


def _best(grid: Grid) -> Iterator[tuple[str, str, str, str, str]]:
    """The circled cells: row, column, error, spread, and the test error where another one picked them."""
    for row, col in grid.best:
        spread = grid.spread[row, col]
        yield (
            f"{grid.row_labels[row]} = {grid.row_values[row]:.4g}",
            f"{grid.col_labels[col]} = {grid.col_values[col]:.4g}",
            number(grid.error[row, col]),
            f"± {number(spread)}" if math.isfinite(spread) else "",
            "" if grid.test_error is None else number(grid.test_error[row, col]),
        )


def _elsewhere(study: Study, grid: Grid) -> Iterator[tuple[str, str, str]]:
    """The panel's best cell in other libraries' terms: library, line to paste, warning."""
    panel = study.panel_names()[grid.panel]
    if not grid.best or study.normalized(panel) or panel.optimizer not in OPTIMIZERS:
        return
    row, col = grid.best[0]
    found = study.hyperparameters(panel)
    found |= {study.row: grid.row_values[row], study.column: grid.col_values[col]}
    betas = (found.get("beta1", 0.9), found.get("beta2", 0.999))
    for library in LIBRARIES:
        same = convert(
            found["lr"],
            found["weight_decay"],
            panel.optimizer,
            library,
            schedule=panel.schedule.kind,
            momentum=found.get("momentum", 0.9),
            betas=betas,
            eps=found.get("eps", 1e-8),
        )
        yield library, same.line, "; ".join(w for w in (same.warning, groups_warning(study)) if w)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names and words."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "–" if value is None else str(value)
