"""What the commands share: options, opening a storage, drawing, printing."""

import json
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


class UsageError(Exception):
    """Bad input that is not in a study file, in one line."""


StudyFile = Annotated[Path, typer.Argument(help="Study file (TOML), such as studies/digits.toml.")]
StudyName = Annotated[
    str, typer.Argument(help="Name of a stored study, such as digits, or its study file, such as studies/digits.toml.")
]
Storage = Annotated[
    str | None,
    typer.Option(
        help="Where trials are kept: sqlite:///path.db or postgresql+psycopg://…; by default a database named after "
        "the study beside its file (studies/NAME.db).",
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


def stored(study: str, storage: str | None) -> tuple[str, str]:
    """Name and storage URL of what a user calls a stored study: its name or its file."""
    path = Path(study)
    if path.suffix == ".toml":
        return path.stem, storage_url(storage, path.parent, path.stem)
    return study, storage_url(storage, Path("studies"), study)


def open_store(url: str, *, create: bool = False) -> Any:
    """The store at `url`; what is wrong with the URL or the file is the user's fault."""
    from wdgrid.store import Store, StoreError

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


@dataclass(frozen=True)
class SweepCommand:
    """The `wdgrid sweep` that made a study, or would go on with it; printed as it is to be typed."""

    study_file: Path
    overrides: tuple[str, ...] = ()
    storage: str | None = None
    name: str | None = None

    def __str__(self) -> str:
        words = ["wdgrid", "sweep", str(self.study_file)]
        for option, value in (("--storage", self.storage), ("--name", self.name)):
            words += [option, value] if value else []
        for override in self.overrides:
            words += ["--set", override]
        return shlex.join(words)

    def with_axes(self, axes: dict[str, str]) -> "SweepCommand":
        """The same with these axes' values, as TOML."""
        fields = {f"axes.{axis}.values": text for axis, text in axes.items()}
        kept = [given for given in self.overrides if given.partition("=")[0].strip() not in fields]
        return replace(self, overrides=(*kept, *(f"{field}={text}" for field, text in fields.items())))


def sweep_of(study: str, storage: str | None) -> SweepCommand:
    """The command for what a user calls a stored study: its file, or studies/NAME.toml."""
    path = Path(study)
    return SweepCommand(path if path.suffix == ".toml" else Path("studies", f"{study}.toml"), storage=storage)


def redraw(store: Any, name: str, out: Path, style: Literal["cells", "paper"]) -> Any:
    """Writes a stored study's report into `out`/name."""
    from wdgrid.report import write_report

    study = stored_study(store, name)
    return write_report(study, name, store.table(name), store.curves(name), store.attrs(name), out / name, style)


def draw(
    store: Any,
    name: str,
    out: Path,
    style: Literal["cells", "paper"],
    as_json: bool,
    quiet: bool,
    command: SweepCommand,
) -> None:
    """Writes a stored study's report and tells of it; `command` is the sweep that an alarm extends."""
    tell_report(redraw(store, name, out, style), stored_study(store, name), as_json, quiet, command)


def tell_report(written: Any, study: Any, as_json: bool, quiet: bool, command: SweepCommand) -> None:
    """A report's summary, where its files are, and what to add where the best cells lie on an edge."""
    print_summary(written.numbers, as_json)
    say("written: " + " ".join(str(path) for path in written.paths), quiet)
    if quiet:
        return
    for line in alarm_lines(written.numbers, study, command):
        say(line)


def alarm_lines(numbers: Any, study: Any, command: SweepCommand) -> list[str]:
    """A line an alarm, then the one command that adds what all of them ask for."""
    from wdgrid.report.extend import alarms, extended_axes
    from wdgrid.studyfile import StudyFileError, load_study

    if not (lines := [f"{panel}: {alarm.text}" for panel, alarm in alarms(numbers)]):
        return []
    try:  # an axis that was extended before by --set is not in the file: say all of it again
        given = load_study(command.study_file, command.overrides)
        grown = {axis for axis in study.axes if set(given.axes[axis].values) != set(study.axes[axis].values)}
    except (StudyFileError, KeyError):
        grown = set()
    if axes := extended_axes(numbers, study, grown):
        lines.append(f"to add them:\n  {command.with_axes(axes)} --extend")
    return lines


def print_summary(numbers: Any, as_json: bool) -> None:
    """The summary of all panels on stdout."""
    from wdgrid.report.summary import summary_rows, summary_table

    if as_json:
        print_json(summary_rows(numbers))
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 120).print(summary_table(numbers))


def print_json(data: object) -> None:
    """JSON on stdout."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=str))
