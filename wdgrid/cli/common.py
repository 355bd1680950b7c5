"""Options and printing that several commands share."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from wdgrid.errors import UsageError
from wdgrid.printable import printable, printable_json
from wdgrid.report.views import MeasureName, Scale

Panel = TypeVar("Panel")

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
PanelName = Annotated[
    str,
    typer.Argument(
        metavar="NAME[/PANEL]",
        help="Name of a stored study, such as digits, or its study file; with /PANEL, as in digits/adamw, one panel.",
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
ShownMeasure = Annotated[
    MeasureName | None,
    typer.Option(
        help="Draw this measure, too. gap: test loss less training loss; epochs_to_best: epochs until the error is "
        "within 10 % of the panel's best; spread: standard deviation over seeds."
    ),
]
ColourScale = Annotated[Scale, typer.Option(help="The scale of the colours.")]


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
    """The summary of all panels on stdout: for each its answer and the reason, then the table of their numbers."""
    from wdgrid.report.findings import finding_lines
    from wdgrid.report.summary import summary_rows, summary_tables

    if as_json:
        print_json(summary_rows(numbers, found))
        return
    from rich.console import Console

    for line in finding_lines(numbers, found, width()):
        echo(line)
    echo("")
    Console(width=width()).print(summary_tables(numbers, found, width()))


def name_and_panel(what: str) -> tuple[str, str]:
    """`digits/adamw` is a study and a panel, `studies/digits.toml` a file, `studies/digits.toml/adamw` both."""
    head, toml, rest = what.partition(".toml")
    if toml and (not rest or rest.startswith("/")):
        return head + toml, rest.removeprefix("/")
    name, _, panel = what.partition("/")
    return name, panel


def chosen_panels(what: str, panel: str, found: "Mapping[str, Panel]") -> "dict[str, Panel]":
    """The panels that the user names; all if none is named. Raises UsageError if there is no such panel."""
    from wdgrid.analysis.compare import plain_name

    if not panel:
        return dict(found)
    chosen = {key: one for key, one in found.items() if key == panel}
    chosen = chosen or {key: one for key, one in found.items() if plain_name(key) == plain_name(panel)}
    if not chosen:
        raise UsageError(f"{what}: no panel {panel}; there: {', '.join(found)}")
    return chosen


def width() -> int:
    """The number of columns of the terminal; 120 if stdout is not a terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120).width


def print_json(data: object) -> None:
    """JSON on stdout."""
    typer.echo(printable_json(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=str)))
