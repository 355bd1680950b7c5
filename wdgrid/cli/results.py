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
    Out,
    Quiet,
    Storage,
    StudyName,
    Style,
    echo,
    print_json,
    print_summary,
    say,
)
from wdgrid.cli.drawing import draw, print_report
from wdgrid.cli.resume_command import alarm_lines, resuming, sweep_of, untrained
from wdgrid.cli.watch import watch as watch_store
from wdgrid.errors import UsageError
from wdgrid.printable import without_password


def list_studies(storage: Storage = None, as_json: AsJson = False) -> None:
    """List stored studies: those of --storage, or of every database in studies/ and here."""
    from dataclasses import asdict

    from wdgrid.runner.naming import open_store, storage_url

    paths = [*sorted(Path("studies").glob("*.db")), *sorted(Path().glob("*.db"))]
    found: list[dict[str, Any]] = []
    for url in [storage] if storage else [storage_url(None, p.parent, p.stem) for p in paths]:
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
        best = "–" if s["best_error"] is None else f"{s['best_error']:.2f} %"
        best += " on validation" if s["selected_on"] == "validation" else ""
        echo(f"{s['name']:20} {s['n_complete']:6} of {s['n_cells']} cells  best {best:8}  {s['storage']}")


def show(study: StudyName, storage: Storage = None, as_json: AsJson = False) -> None:
    """Show a study: its state, its best cells, and whether it is separable."""
    from wdgrid.report import analyse_table
    from wdgrid.report.findings import finding_lines, findings
    from wdgrid.report.grids import grids
    from wdgrid.report.summary import summary_rows
    from wdgrid.runner.naming import open_store, stored, stored_study

    name, url = stored(study, storage)
    with open_store(url) as store:
        definition, table = stored_study(store, name), store.table(name)
        attrs, command, waiting = store.attrs(name), sweep_of(store, name, url, study), untrained(store, name)
    environment = attrs.get("environment", {})
    numbers = analyse_table(definition, table, attrs)
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
    echo(f"{name}: {definition.title or name}")
    echo("cells: " + ", ".join(f"{n} {state}" for state, n in states.items()))
    echo("environment: " + ", ".join(f"{k} {v}" for k, v in environment.items() if v is not None))
    print_summary(numbers, found, as_json=False)
    echo("")
    for line in [*finding_lines(numbers, found), *alarm_lines(numbers, definition, command, waiting)]:
        echo(line)


def report(
    study: StudyName,
    storage: Storage = None,
    out: Out = Path("reports"),
    style: Style = "cells",
    as_json: AsJson = False,
    quiet: Quiet = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Draw again whenever cells are finished, until none is left.")
    ] = False,
    every: Annotated[
        float, typer.Option(min=0.1, help="With --watch: how often to look for finished cells.", metavar="SECONDS")
    ] = 5.0,
) -> None:
    """Draw a stored study's report again, from what is stored."""
    from wdgrid.results import write_stored
    from wdgrid.runner.naming import open_store, stored, stored_study
    from wdgrid.study.coarse import SUFFIX

    name, url = stored(study, storage)
    with open_store(url) as store:
        stored_study(store, name)
        command = sweep_of(store, name, url, study)
        if not watch:
            draw(store, name, out, style, as_json, quiet, command)
            return
        written, fault = watch_store(store, name, every, lambda: write_stored(store, name, out / name, style), quiet)
        print_report(store, name, written, as_json, quiet, command)
        if fault is not None:
            say(f"{name}: {fault}. {resuming(command, stored_study(store, name.removesuffix(SUFFIX)))}")
            raise typer.Exit(1)


def export(
    study: StudyName,
    storage: Storage = None,
    fmt: Annotated[Literal["csv", "parquet", "json"], typer.Option("--format", help="File format.")] = "csv",
    out: Annotated[Path | None, typer.Option(help="File to write; stdout if not given.", metavar="FILE")] = None,
) -> None:
    """Export a study's trials as one table, with one row for each trial."""
    from wdgrid.report.export import export as write
    from wdgrid.report.output import written
    from wdgrid.runner.naming import open_store, stored, stored_study

    name, url = stored(study, storage)
    with open_store(url) as store:
        stored_study(store, name)
        table = store.table(name)
    if fmt == "parquet" and out is None:
        raise UsageError("--format parquet needs --out FILE")
    with written(out) if out else nullcontext():
        write(table, fmt, out)
