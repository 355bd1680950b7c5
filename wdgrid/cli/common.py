"""Options and printing that several commands share."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wdgrid.printable import printable, printable_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wdgrid.analysis.separability import Separability
    from wdgrid.report.findings import Finding

StudyWord = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help="Study file (TOML), such as studies/mine.toml, or the name of a study: of studies/NAME.toml here, else of "
        "one that ships with wdgrid (wdgrid studies lists them).",
    ),
]
StudyName = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Name of a stored study, such as digits, or its study file, such as studies/digits.toml."
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        help="Where trials are stored: sqlite:///path.db or postgresql+psycopg://…; by default NAME.db beside the "
        "study file; for a study given by name, in studies/ if there is such a folder here, else here.",
        metavar="URL",
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for reports; a study's go to OUT/NAME.", metavar="DIR")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]
Style = Annotated[
    Literal["cells", "paper"],
    typer.Option(help="cells: colour-blind safe, one square a cell. paper: jet, shaded, as in the published figures."),
]


NoCode = Annotated[
    bool,
    typer.Option(
        "--no-code",
        help="Refuse a study file that names code (package.module:function), because training runs that code.",
    ),
]


def echo(text: str) -> None:
    """A line on stdout, without control characters."""
    typer.echo(printable(text))


def say(text: str, quiet: bool = False) -> None:
    """Prints a message to stderr, without control characters, unless `quiet`."""
    if not quiet:
        typer.echo(printable(text), err=True)


def print_summary(numbers: "Mapping[str, Separability]", found: "Mapping[str, Finding]", as_json: bool) -> None:
    """The summary of all panels on stdout: their numbers and findings."""
    from wdgrid.report.summary import summary_rows, summary_tables

    if as_json:
        print_json(summary_rows(numbers, found))
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(summary_tables(numbers, found, console.width))


def print_json(data: object) -> None:
    """JSON on stdout."""
    typer.echo(printable_json(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=str)))
