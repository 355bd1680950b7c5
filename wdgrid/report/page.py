"""Writes the report as one HTML file that works offline: heatmaps, learning curves, numbers and the study.

The page's layout, style and scripts are in `templates/`. All text passes Jinja2's autoescape, and the embedded JSON
cannot end its script element.
"""

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from wdgrid import __version__
from wdgrid.analysis.words import HYPERPARAMETERS, figures, interval, number, percent
from wdgrid.report.captions import caption_lines, error_words, selection_words
from wdgrid.report.findings import Finding, elsewhere
from wdgrid.report.flags import FLAGS, MEANING, sentence
from wdgrid.report.grids import Grid, grids
from wdgrid.report.payload import curve_data, page_data
from wdgrid.report.summary import certainty_words, has_decay_units, went_wrong
from wdgrid.report.terms import TERMS, explained, term_id
from wdgrid.study import Study

if TYPE_CHECKING:
    from wdgrid.analysis.separability import Separability

SCRIPTS = ("cells.js", "map.js", "plots.js")
LONG_WORDS = {**HYPERPARAMETERS, "lr": "learning rate", "weight_decay": "weight decay"}
# The policy allows no request to any address.
POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_page(
    study: Study,
    name: str,
    table: pd.DataFrame,
    curves: pd.DataFrame,
    numbers: Mapping[str, "Separability"],
    found: Mapping[str, Finding],
    environment: Mapping[str, Any],
    figure_png: Path,
    path: Path,
    coarse: tuple[str, Path] | None = None,
    steps: Sequence[str] = (),
) -> None:
    """Writes the report to `path`. `figure_png` is shown if scripts are disabled.

    `coarse` is a sentence and a picture of the coarse pass. `steps` are lines on what to train next, with the command.
    """
    from plotly.offline import get_plotlyjs  # imported here: it takes most of a second

    panels = grids(study, table, curves=curves)
    page = Environment(loader=PackageLoader("wdgrid.report"), autoescape=True, trim_blocks=True)
    text = page.get_template("report.html").render(
        term=term,
        title=study.title or name,
        name=name,
        policy=POLICY,
        version=__version__,
        style=Markup(_template("report.css")),
        scripts=[Markup(_template(script)) for script in SCRIPTS],
        plotly=Markup(get_plotlyjs()),
        picture=_embedded_png(figure_png),
        coarse=coarse and (coarse[0], _embedded_png(coarse[1])),
        caption=caption_lines(study, name, panels, str(environment.get("device") or "")),
        answers=[_answer(grid, numbers, found) for grid in panels],
        numbers=list(_numbers(study, panels, numbers, found)),
        steps=steps,
        terms=explained(),
        decay_units=has_decay_units(found),
        long_words=[LONG_WORDS.get(axis, axis) for axis in (study.row, study.column)],
        row=HYPERPARAMETERS.get(study.row, study.row),
        col=HYPERPARAMETERS.get(study.column, study.column),
        best=[(grid.title, grid.row_title, grid.col_title, list(_best(grid))) for grid in panels],
        elsewhere=[
            (grid.title, list(elsewhere(study, grid.panel, numbers[grid.panel])))
            for grid in panels
            if grid.panel in numbers
        ],
        wrong=[(grid.title, words) for grid in panels if (words := sentence(grid.flags, _optimizer(study, grid)))],
        meanings=[(kind, MEANING[kind]) for kind in FLAGS if any(kind in grid.flags for grid in panels)],
        some_diverged=any(grid.diverged.any() for grid in panels),
        some_missing=any(grid.missing.any() for grid in panels),
        some_valley=any(found.valley is not None and found.valley.seen for found in numbers.values()),
        error_words=error_words(study),
        validated=bool(study.task.validation_size),
        selection=selection_words(study),
        several_seeds=len(study.seeds) > 1,
        study=json.dumps(json.loads(study.canonical()), ensure_ascii=False, indent=2),
        digest=study.digest(),
        environment=list(_flat(environment)),
        data=embedded(
            page_data(
                study,
                panels,
                table,
                {name: _texts(numbers[name], found[name]) for name in numbers},
                environment.get("steps_per_epoch"),
                next((panel.cap for panel in numbers.values()), None),
                {
                    name: panel.valley
                    for name, panel in numbers.items()
                    if panel.valley is not None and panel.valley.seen
                },
            )
        ),
        curves=embedded(curve_data(curves)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def term(key: str, words: str | None = None) -> Markup:
    """A term that is explained where one points at it; without scripts, it is a link to its explanation."""
    return Markup('<a class="term" href="#{}">{}</a>').format(term_id(key), words or TERMS[key][0])


def _answer(grid: Grid, numbers: Mapping[str, "Separability"], found: Mapping[str, Finding]) -> tuple[str, str]:
    """A panel's title, and what to do with it."""
    if grid.panel not in numbers:
        return grid.title, "not analysed"
    answer = found[grid.panel]["answer"]
    reason = numbers[grid.panel].reason
    if answer is None:
        return grid.title, f"{reason}."
    words = answer.removeprefix(f"{grid.title}: ")
    return grid.title, f"{words[:-1]}: {reason}." if numbers[grid.panel].verdict == "can't tell" else words


def _texts(found: "Separability", words: Finding) -> dict[str, str]:
    """A panel's texts in the payload."""
    return {"answer": words["answer"] or "", "reason": found.reason, "verdict": _verdict(found)}


def embedded(data: object) -> Markup:
    """JSON that is safe inside a script element, for all strings."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _optimizer(study: Study, grid: Grid) -> str:
    return study.panel_names()[grid.panel].optimizer


def _embedded_png(picture: Path) -> str:
    return base64.b64encode(picture.read_bytes()).decode()


def _template(name: str) -> str:
    return files("wdgrid.report").joinpath("templates", name).read_text(encoding="utf-8")


Measured = tuple[str, str]  # a number, and small print beside it: its interval or its place


def _numbers(
    study: Study, panels: list[Grid], numbers: Mapping[str, "Separability"], findings: Mapping[str, Finding]
) -> Iterator[dict[str, Any]]:
    """The panels' numbers as text."""
    titles = {grid.panel: grid.title for grid in panels}
    for name, found in numbers.items():
        words = findings[name]
        yield {
            "title": titles[name],
            "verdict": found.verdict,
            "answer": found.answer,
            "reason": found.reason,
            "best_axes": words["best_axes"],
            "alarms": [alarm.text for alarm in found.alarms],
            "advice": found.advice and found.advice.text,
            "best": _best_words(found, words),
            "units": (figures(words["weight_decay_norm"]), figures(words["tau_epochs"])),
            **{
                key: _measured(found, key)
                for key in ("cost", "slope", "interaction", "regret_decay", "regret_rate", "rho")
            },
            "cells": f"{found.n_cells} × {len(study.seeds)}",
            "wrong": went_wrong(found, words),
            "missing": found.n_missing,
            "cap": percent(found.cap),
            "certainty": "" if found.test_interval is None else certainty_words(found),
        }


def _verdict(found: "Separability") -> str:
    """`coupled (s = −0.87)`: what stands below a panel's title."""
    unknown = found.slope is None or found.verdict == "can't tell"
    return found.verdict + ("" if unknown else f" (s = {number(found.slope)})")


def _measured(found: "Separability", key: str) -> Measured:
    within = found.intervals.get(key)
    return number(getattr(found, key)), "" if within is None else interval(within)


def _best_words(found: "Separability", words: Finding) -> tuple[str, str, str]:
    """The best error, its corrected value or its test error with an interval, and its place."""
    span = "" if found.test_interval is None else f" {interval(found.test_interval)}"
    fitted = found.certainty is not None and found.certainty.kind == "fit"
    at, of = words["multiples"] or "", f" ({words['best_of']})" if words["best_of"] else ""
    if found.best_test_error is not None:
        return (
            f"{percent(found.best_error)} on validation{of}",
            f"test error {percent(found.best_test_error)}{span}",
            at,
        )
    return f"{percent(found.best_error)}{of}", f"corrected {percent(found.honest_error)}{span}" if fitted else span, at


def _best(grid: Grid) -> Iterator[tuple[str, str, str, str, str]]:
    """The circled cells: row, column, error, spread, and the test error where another one picked them."""
    for row, col in grid.best:
        spread = grid.spread[row, col]
        yield (
            _value(grid.row_labels[row], grid.row_values[row]),
            _value(grid.col_labels[col], grid.col_values[col]),
            number(grid.error[row, col]),
            f"± {number(spread)}" if math.isfinite(spread) else "",
            "" if grid.test_error is None else number(grid.test_error[row, col]),
        )


def _value(label: str, value: float) -> str:
    """`1/8 = 0.0125`, or only one of them if they are the same."""
    plain = f"{value:.4g}"
    return plain if label == plain else f"{label} = {plain}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as pairs of a dotted name and a text."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "–" if value is None else str(value)
