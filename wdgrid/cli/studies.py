"""`wdgrid studies` and `wdgrid fields`: the study files that ship with wdgrid, and what may stand in one."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from wdgrid.cli.common import AsJson, print_json, say
from wdgrid.errors import UsageError


def studies(as_json: AsJson = False) -> None:
    """List the studies that ship with wdgrid, with their expected cost: cells, epochs, images, model PFLOP."""
    from wdgrid.study import load_study
    from wdgrid.study.bundled import cost, folder, names

    loaded = {name: load_study(folder() / f"{name}.toml") for name in names()}
    if as_json:
        print_json([{"name": name, "title": s.title, **asdict(cost(s))} for name, s in loaded.items()])
        return
    typer.echo(f"{'study':22} {'cells':>5}  {'epochs':>12}  {'images':>6}  {'PFLOP':>8}  what it shows")
    for name, study in loaded.items():
        one = cost(study)
        epochs, pflop = ", ".join(map(str, one.epochs)), f"{float(f'{one.pflop:.3g}'):g}"
        typer.echo(f"{name:22} {one.cells:5}  {epochs:>12}  {one.images:6}  {pflop:>8}  {study.title}")
    say("a cell is trained once a seed, on so many images an epoch; wdgrid plan STUDY measures how long it takes here")


def fields(
    word: Annotated[
        str | None,
        typer.Argument(
            metavar="FIELD",
            help="A field, such as validation_size, or a section, such as task, cifar10 or step; else all.",
        ),
    ] = None,
) -> None:
    """List every field of a study file: allowed, default, meaning."""
    from wdgrid.study.field_reference import about, page

    try:
        text = page() if word is None else about(word)
    except LookupError as error:
        raise UsageError(str(error)) from None
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown
        from rich.theme import Theme

        # rich prints code on black, whatever the terminal's own background is
        Console(theme=Theme({"markdown.code": "bold"})).print(Markdown(text))
    else:
        typer.echo(text, nl=False)
