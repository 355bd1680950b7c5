"""`wdgrid studies` and `wdgrid fields`: list the study files that ship with wdgrid, and the fields of a study file."""

import sys
from dataclasses import asdict
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wdgrid.cli.common import AsJson, print_json, say, width
from wdgrid.errors import UsageError

if TYPE_CHECKING:
    from wdgrid.study import Study


def studies(as_json: AsJson = False) -> None:
    """List the studies that ship with wdgrid: cells, epochs, training images, data, network."""
    from wdgrid.study import load_study
    from wdgrid.study.bundled import folder, names

    rows = [_row(name, load_study(folder() / f"{name}.toml")) for name in names()]
    if as_json:
        print_json(rows)
        return
    line = "{name:22} {cells:>5}  {epochs:>12}  {images:>6}  {dataset:10} {model:12}"
    heads = {"name": "study", "dataset": "data", "model": "network"}
    typer.echo(line.format(**{key: heads.get(key, key) for key in rows[0]}).rstrip())
    for row in rows:
        epochs, images = ", ".join(map(str, row["epochs"])), row["images"] or "all"
        typer.echo(line.format(**row | {"epochs": epochs, "images": images}).rstrip())
        for part in wrap(row["title"], width() - 2):
            typer.echo(f"  {part}")
    say("cells of all panels and seeds, training images an epoch; wdgrid plan STUDY measures the time on this machine")


def _row(name: str, study: "Study") -> dict[str, Any]:
    """The size of a study file's study; `images` is None for all training images."""
    return {
        "name": name,
        "title": study.title,
        "cells": sum(map(len, study.cells().values())),
        "epochs": sorted({study.panel_epochs(panel) for panel in study.panels}),
        "images": study.task.train_size,
        "dataset": study.task.dataset,
        "model": study.task.model,
    }


def fields(
    word: Annotated[
        str | None,
        typer.Argument(
            metavar="FIELD",
            help="A field, such as validation_size, or a section, such as task, cifar10 or step; else all.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List every field of a study file: allowed, default, meaning."""
    from wdgrid.study.field_reference import about, matching, page

    try:
        if as_json:
            print_json([asdict(section) for section in matching(word)])
            return
        text = page() if word is None else about(word)
    except LookupError as error:
        raise UsageError(str(error)) from None
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown
        from rich.theme import Theme

        # by default, rich prints code on black, also on a light terminal
        Console(theme=Theme({"markdown.code": "bold"})).print(Markdown(text))
    else:
        typer.echo(text, nl=False)
