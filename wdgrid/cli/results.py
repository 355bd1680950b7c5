"""`wdgrid list`, `show`, `report` and `export`: what is stored, read again."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from wdgrid.cli.common import (
    AsJson,
    Out,
    Quiet,
    Storage,
    StudyName,
    Style,
    UsageError,
    draw,
    open_store,
    print_json,
    print_summary,
    say,
    stored,
    stored_study,
)


def list_studies(storage: Storage = None, as_json: AsJson = False) -> None:
    """List stored studies: those of --storage, or of every database in studies/."""
    from dataclasses import asdict

    urls = [storage] if storage else [f"sqlite:///{p.as_posix()}" for p in sorted(Path("studies").glob("*.db"))]
    found = []
    for url in urls:
        with open_store(url) as store:
            found += [{**asdict(s), "storage": url} for s in store.studies()]
    if as_json:
        print_json(found)
        return
    if not found:
        say("no studies here yet; begin with: wdgrid sweep studies/digits.toml")
    for s in found:
        best = "–" if s["best_error"] is None else f"{s['best_error']:.2f} %"
        typer.echo(f"{s['name']:20} {s['n_complete']:6} of {s['n_cells']} cells  best {best:8}  {s['storage']}")


def show(study: StudyName, storage: Storage = None, as_json: AsJson = False) -> None:
    """Show a study: its state, its best cells, and whether it is separable."""
    from wdgrid.report import analyse_table

    name, url = stored(study, storage)
    with open_store(url) as store:
        definition, table = stored_study(store, name), store.table(name)
        environment = store.attrs(name).get("environment", {})
    numbers = analyse_table(definition, table, {"environment": environment})
    states = {str(k): int(v) for k, v in table["state"].value_counts().items()}
    if as_json:
        from wdgrid.report.summary import summary_rows

        print_json(
            {
                "study": name,
                "title": definition.title,
                "cells": states,
                "environment": environment,
                "panels": summary_rows(numbers),
            }
        )
        return
    typer.echo(f"{name}: {definition.title or name}")
    typer.echo("cells: " + ", ".join(f"{n} {state}" for state, n in states.items()))
    typer.echo("environment: " + ", ".join(f"{k} {v}" for k, v in environment.items()))
    print_summary(numbers, as_json=False)


def report(
    study: StudyName,
    storage: Storage = None,
    out: Out = Path("reports"),
    style: Style = "cells",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Draw a stored study's report again, from what is stored."""
    name, url = stored(study, storage)
    with open_store(url) as store:
        draw(store, name, out, style, as_json, quiet)


def export(
    study: StudyName,
    storage: Storage = None,
    fmt: Annotated[Literal["csv", "parquet", "json"], typer.Option("--format", help="File format.")] = "csv",
    out: Annotated[Path | None, typer.Option(help="File to write; stdout if not given.", metavar="FILE")] = None,
) -> None:
    """Export a study's trials as one tidy table, a row a trial."""
    from wdgrid.export import export as write

    name, url = stored(study, storage)
    with open_store(url) as store:
        stored_study(store, name)
        table = store.table(name)
    if fmt == "parquet" and out is None:
        raise UsageError("--format parquet needs --out FILE")
    write(table, fmt, out)
