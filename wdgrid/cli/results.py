"""`wdgrid list`, `show`, `report` and `export`: show, draw and write stored results."""

# pandas has no type stubs.
# pyright: reportUnknownArgumentType=false

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from wdgrid.cli.common import (
    AsJson,
    ColourScale,
    Out,
    PanelName,
    Quiet,
    ShownMeasure,
    Storage,
    StudyName,
    Style,
    chosen_panels,
    echo,
    name_and_panel,
    print_json,
    print_summary,
    say,
    width,
)
from wdgrid.cli.drawing import draw, drawn, print_report
from wdgrid.cli.resume_command import alarm_lines, resuming, sweep_of, untrained
from wdgrid.cli.watch import watch as watch_store
from wdgrid.errors import UsageError
from wdgrid.printable import without_password
from wdgrid.report.views import View

Format = Literal["csv", "parquet", "json"]
FORMATS: dict[str, Format] = {"csv": "csv", "parquet": "parquet", "json": "json"}  # by a file's ending


def list_studies(storage: Storage = None, as_json: AsJson = False) -> None:
    """List stored studies: those of --storage, or of every database in studies/ and here."""
    from dataclasses import asdict

    from wdgrid.runner.naming import databases, open_store, storage_url

    found: list[dict[str, Any]] = []
    for url in [storage] if storage else [storage_url(None, p.parent, p.stem) for p in databases()]:
        try:
            with open_store(url) as store:
                found += [{**asdict(s), "storage": without_password(url)} for s in store.studies()]
        except UsageError as error:
            if storage or url.startswith("sqlite:///studies/"):
                raise
            say(f"left out, because it holds no studies: {error}")
    if as_json:
        print_json(found)
        return
    if not found:
        say("no stored studies here; to train one: wdgrid sweep digits")
    for s in found:
        echo(f"{s['name']}: {s['n_complete']} of {s['n_cells']} cells, {s['storage']}")
        if s["best"]:
            echo(f"  {_best(s['best'], s['selected_on'])}")


def _best(best: dict[str, Any], selected_on: str) -> str:
    """`best 1.41 % (mean of 3 seeds): adamw, lr 0.003125, decay 0.002 (1/32, 1/8)`."""
    from wdgrid.analysis.words import seeds_words
    from wdgrid.report.findings import SHORT

    values = ", ".join(f"{SHORT.get(name, name)} {value:.4g}" for name, value in best["values"].items())
    where = " on validation" if selected_on == "validation" else ""
    at = f"{best['panel']}, {values} ({best['row']}, {best['col']})"
    return f"best {best['error']:.2f} %{where} ({seeds_words(best['seeds'])}): {at}"


def show(study: PanelName, storage: Storage = None, as_json: AsJson = False) -> None:
    """Show a study or one of its panels: state, verdict and its reason, best cells, what to do next."""
    from wdgrid.report import analyse_table
    from wdgrid.report.findings import findings, wrapped
    from wdgrid.report.grids import grids
    from wdgrid.report.summary import summary_rows
    from wdgrid.runner.naming import existing, open_store, stored_study

    word, panel = name_and_panel(study)
    name, url = existing(word, storage)
    with open_store(url) as store:
        definition, table = stored_study(store, name), store.table(name)
        attrs, command, waiting = store.attrs(name), sweep_of(store, name, url, word), untrained(store, name)
    environment = attrs.get("environment", {})
    numbers = chosen_panels(study, panel, analyse_table(definition, table, attrs))
    found = findings(definition, numbers, grids(definition, table), environment)
    states = dict(Counter[str](table["state"]).most_common())
    if as_json:
        print_json(
            {
                "study": name,
                "title": definition.title,
                "cells": states,
                "environment": environment,
                "panels": summary_rows(numbers, found),
            }
        )
        return
    facts = ", ".join(f"{k} {v}" for k, v in environment.items() if v is not None)
    cells = f"cells: {', '.join(f'{n} {state}' for state, n in states.items())}"
    for line in (f"{name}: {definition.title or name}", cells, f"environment: {facts}"):
        for part in wrapped(line, width()):
            echo(part)
    echo("")
    print_summary(numbers, found, as_json=False)
    if steps := alarm_lines(numbers, definition, command, waiting):
        echo("")
        for line in steps:
            for part in wrapped(line, width()):
                echo(part)


def report(
    study: StudyName,
    storage: Storage = None,
    out: Out = Path("reports"),
    style: Style = "cells",
    measure: ShownMeasure = None,
    scale: ColourScale = "linear",
    as_json: AsJson = False,
    quiet: Quiet = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Draw again whenever cells are finished, until none is left.")
    ] = False,
    every: Annotated[
        float, typer.Option(min=0.1, help="With --watch: how often to look for finished cells.", metavar="SECONDS")
    ] = 5.0,
) -> None:
    """Draw a stored study's report again, from what is stored.

    Another style, measure or scale adds pictures with names of their own, such as heatmaps-test_loss-log.png.
    """
    from wdgrid.runner.naming import existing, open_store, stored_study
    from wdgrid.study.coarse import SUFFIX

    name, url = existing(study, storage)
    with open_store(url) as store:
        stored_study(store, name)
        command = sweep_of(store, name, url, study)
        view = View(measure, scale)
        if not watch:
            draw(store, name, out, style, as_json, quiet, command, view)
            return
        written, fault = watch_store(store, name, every, lambda: drawn(store, name, out, style, command, view), quiet)
        print_report(store, name, written, as_json, quiet, command)
        if fault is not None:
            say(f"{name}: {fault}. {resuming(command, stored_study(store, name.removesuffix(SUFFIX)))}")
            raise typer.Exit(1)


def export(
    study: StudyName,
    storage: Storage = None,
    given: Annotated[
        Format | None,
        typer.Option("--format", help="File format; by default that of the file's ending, or CSV."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write, stdout if not given; with --to a new folder, NAME-TO if not given.", metavar="PATH"
        ),
    ] = None,
    to: Annotated[
        Literal["tensorboard", "mlflow", "wandb"] | None,
        typer.Option(help="Write offline runs of another tool instead, one a finished cell and seed."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Export a study's trials as one table, with one row for each trial, or as runs of another tool."""
    from wdgrid.report.export import export as write
    from wdgrid.report.output import written
    from wdgrid.runner.naming import existing, open_store, stored_study

    name, url = existing(study, storage)
    with open_store(url) as store:
        stored_study(store, name)
        table = store.table(name)
        curves = store.curves(name) if to else None
    if to is not None and curves is not None:
        from wdgrid.report.neighbours import export_runs

        folder = out or Path(f"{name}-{to}")
        written_runs = export_runs(to, name, table, curves, folder)
        say(f"written: {written_runs} runs in {folder}", quiet)
        return
    ending = out.suffix.removeprefix(".").lower() if out else ""
    fmt = given or FORMATS.get(ending, "csv")
    if fmt == "parquet" and out is None:
        raise UsageError("--format parquet needs --out FILE")
    with written(out) if out else nullcontext():
        write(table, fmt, out)
