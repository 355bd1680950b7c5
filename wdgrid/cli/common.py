"""What the commands share: options, opening a storage, printing."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from wdgrid.errors import UsageError

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
        help="Where trials are kept: sqlite:///path.db or postgresql+psycopg://…; by default NAME.db beside the study "
        "file given; for a study given by name in studies/ if there is such a folder here, else here.",
        metavar="URL",
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for reports; a study's go to OUT/NAME.", metavar="DIR")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No talk: only data and faults.")]
Style = Annotated[
    Literal["cells", "paper"],
    typer.Option(help="cells: colour-blind safe, one square a cell. paper: jet, shaded, as in the published figures."),
]


def say(text: str, quiet: bool = False) -> None:
    """Talk, on stderr."""
    if not quiet:
        typer.echo(text, err=True)


def storage_url(storage: str | None, folder: Path, name: str) -> str:
    """The storage given, else the study's own database in `folder`."""
    return storage or f"sqlite:///{(folder / f'{name}.db').as_posix()}"


def _is_file(study: str) -> bool:
    return Path(study).suffix == ".toml" or Path(study).is_file()


def database_folder(study: str, name: str) -> Path:
    """Where NAME.db lies, or will: beside the study file if that is what the user gave, else in studies/, else here."""
    if _is_file(study):
        return Path(study).parent
    places = [place for place in (Path("studies"), Path()) if place.is_dir()]
    return next((place for place in places if (place / f"{name}.db").is_file()), places[0])


def study_name(study: str) -> str:
    """The name of what a user calls a study: its name or its file."""
    return Path(study).stem if _is_file(study) else study


def stored(study: str, storage: str | None) -> tuple[str, str]:
    """Name and storage URL of what a user calls a stored study: its name or its file."""
    from wdgrid.study.coarse import SUFFIX

    name = study_name(study)
    database = name.removesuffix(SUFFIX)  # a coarse pass is kept beside its study
    return name, storage_url(storage, database_folder(study, database), database)


def open_store(url: str, *, create: bool = False) -> Any:
    """The store at `url`; what is wrong with the URL or the file is the user's fault."""
    from wdgrid.errors import StoreError
    from wdgrid.store import Store

    path = url.removeprefix("sqlite:///")
    if create and path != url:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        return Store(url, create=create)
    except StoreError as error:
        raise UsageError(str(error)) from error


def stored_study(store: Any, name: str) -> Any:
    """The Study that was stored, or a UsageError that names those there are."""
    from wdgrid.study import Study

    definition = store.definition(name)
    if definition is None:
        known = ", ".join(s.name for s in store.studies()) or "none"
        raise UsageError(f"{name}: no such study in this storage; there: {known}")
    return Study.model_validate_json(definition[0])


def print_summary(numbers: Any, found: Any, as_json: bool) -> None:
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
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=str))
