"""The commands: parse, call, print, exit status. Data goes to stdout, talk to stderr.

Knows neither torch nor SQL. Exit status 2 is bad input (one line a fault), 1 a fault of the machine, 130 an interrupt.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from wdgrid import __version__

app = typer.Typer(
    name="wdgrid",
    help="Train a whole grid of (learning rate, weight decay) cells at once, draw the map, and say in numbers whether "
    "rate and decay can be tuned one at a time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


class UsageError(Exception):
    """Bad input that is not in a study file, in one line."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wdgrid {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


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


def _say(text: str, quiet: bool = False) -> None:
    if not quiet:
        typer.echo(text, err=True)


def _url(storage: str | None, folder: Path, name: str) -> str:
    return storage or f"sqlite:///{(folder / f'{name}.db').as_posix()}"


def _stored(study: str, storage: str | None) -> tuple[str, str]:
    """Name and storage URL of what a user calls a stored study: its name or its file."""
    path = Path(study)
    if path.suffix == ".toml":
        return path.stem, _url(storage, path.parent, path.stem)
    return study, _url(storage, Path("studies"), study)


def _commit() -> str | None:
    """The commit of the working directory's repository, with + where it has changes; None outside of one."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None


@app.command()
def sweep(
    study_file: StudyFile,
    storage: Storage = None,
    out: Out = Path("reports"),
    name: Annotated[str | None, typer.Option(help="Name of the study; the file's name if not given.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; overrides task.device.")] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a field, such as task.epochs=5. May be repeated.", metavar="FIELD=VALUE"),
    ] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Let the stored study grow by new axis values, seeds or panels.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; one a core if not given (one in all on a GPU).")
    ] = None,
    style: Style = "cells",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train what a study has not trained yet, then draw its report. Give the same command again to go on."""
    from wdgrid.progress import show as show_progress
    from wdgrid.studyfile import load_study
    from wdgrid.sweep import Sweep, cores, now, plan

    overrides = [*(override or []), *([f"task.device={device}"] if device else [])]
    study = load_study(study_file, overrides)
    name = name or study_file.stem
    url = _url(storage, study_file.parent, name)
    again = _again(study_file, overrides, {"--storage": storage, "--name": name if name != study_file.stem else None})
    with _open(url, create=True) as store:
        _agree(store.definition(name), study, name, extend)
        added = plan(store, name, study)
        back = store.reclaim() + store.retry_failed(name)
        n_all = sum(len(cells) for cells in study.cells().values())
        missing = sum(store.pending(name).values())
        _say(_what_is_to_do(name, n_all, missing, added, back), quiet)
        if missing:
            environment = {**_versions(), "commit": _commit(), "started": now()}
            store.set_attrs(name, {"environment": {**store.attrs(name).get("environment", {}), **environment}})
            with show_progress(missing, quiet) as tell:
                try:
                    Sweep(store, name, study, workers or cores(), tell).run()
                except KeyboardInterrupt:
                    kept = n_all - sum(store.pending(name).values())
                    _say(f"interrupted; {kept} of {n_all} cells are kept. To go on:\n  {again}")
                    raise typer.Exit(130) from None
            store.set_attrs(name, {"environment": {**store.attrs(name)["environment"], "finished": now()}})
        _draw(store, name, out, style, as_json, quiet)


def _again(study_file: Path, overrides: Sequence[str], options: dict[str, str | None]) -> str:
    """The command that goes on."""
    words = ["wdgrid", "sweep", str(study_file)]
    for option, value in options.items():
        words += [option, value] if value else []
    for override in overrides:
        words += ["--set", override]
    return shlex.join(words)


def _agree(definition: tuple[str, str] | None, study: Any, name: str, extend: bool) -> None:
    """Refuses a study that is not the stored one."""
    from wdgrid.studyfile import StudyFileError, differences, only_adds

    if definition is None or definition[1] == study.digest():
        return
    stored = definition[0]
    if extend and only_adds(stored, study):
        return
    hint = "give --extend to add cells, or --name for a new study"
    if not only_adds(stored, study):
        hint = "give --name for a new study (--extend can only add axis values, seeds and panels)"
    raise StudyFileError([f"{name}: {line}" for line in differences(stored, study)] + [f"{name}: {hint}"])


def _what_is_to_do(name: str, cells: int, missing: int, added: int, back: int) -> str:
    if added == cells:
        return f"{name}: {cells} cells to train"
    parts = [f"{cells - missing} of {cells} cells are there"]
    if added:
        parts.append(f"{added} new")
    if back:
        parts.append(f"{back} put back from a run that died")
    parts.append(f"training the {missing} missing" if missing else "nothing to train")
    return f"{name}: {', '.join(parts)}"


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("wdgrid", "optuna", "torch")}


def _open(url: str, *, create: bool = False) -> Any:
    from wdgrid.store import Store, StoreError

    path = url.removeprefix("sqlite:///")
    if create and path != url:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        return Store(url, create=create)
    except StoreError as error:
        raise UsageError(str(error)) from error


def _definition(store: Any, name: str) -> Any:
    from wdgrid.study import Study

    definition = store.definition(name)
    if definition is None:
        known = ", ".join(s.name for s in store.studies()) or "none"
        raise UsageError(f"{name}: no such study in this storage; there: {known}")
    return Study.model_validate_json(definition[0])


def _draw(store: Any, name: str, out: Path, style: str, as_json: bool, quiet: bool) -> None:
    from wdgrid.report import write_report

    study = _definition(store, name)
    written = write_report(study, name, store.table(name), store.curves(name), store.attrs(name), out / name, style)
    _print_summary(written.numbers, as_json)
    _say("written: " + " ".join(str(path) for path in written.paths), quiet)


def _print_summary(numbers: Any, as_json: bool) -> None:
    from wdgrid.report.summary import summary_rows, summary_table

    if as_json:
        _print_json(summary_rows(numbers))
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 120).print(summary_table(numbers))


def _print_json(data: object) -> None:
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=str))


@app.command("list")
def list_(storage: Storage = None, as_json: AsJson = False) -> None:
    """List stored studies: those of --storage, or of every database in studies/."""
    from dataclasses import asdict

    urls = [storage] if storage else [f"sqlite:///{p.as_posix()}" for p in sorted(Path("studies").glob("*.db"))]
    found = []
    for url in urls:
        with _open(url) as store:
            found += [{**asdict(s), "storage": url} for s in store.studies()]
    if as_json:
        _print_json(found)
        return
    if not found:
        _say("no studies here yet; begin with: wdgrid sweep studies/digits.toml")
    for s in found:
        best = "–" if s["best_error"] is None else f"{s['best_error']:.2f} %"
        typer.echo(f"{s['name']:20} {s['n_complete']:6} of {s['n_cells']} cells  best {best:8}  {s['storage']}")


@app.command()
def show(study: StudyName, storage: Storage = None, as_json: AsJson = False) -> None:
    """Show a study: its state, its best cells, and whether it is separable."""
    from wdgrid.report import analyse_table

    name, url = _stored(study, storage)
    with _open(url) as store:
        definition, table = _definition(store, name), store.table(name)
        environment = store.attrs(name).get("environment", {})
    numbers = analyse_table(definition, table, {"environment": environment})
    states = {str(k): int(v) for k, v in table["state"].value_counts().items()}
    if as_json:
        from wdgrid.report.summary import summary_rows

        _print_json(
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
    _print_summary(numbers, as_json=False)


@app.command()
def report(
    study: StudyName,
    storage: Storage = None,
    out: Out = Path("reports"),
    style: Style = "cells",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Draw a stored study's report again, from what is stored."""
    name, url = _stored(study, storage)
    with _open(url) as store:
        _draw(store, name, out, style, as_json, quiet)


@app.command()
def export(
    study: StudyName,
    storage: Storage = None,
    fmt: Annotated[Literal["csv", "parquet", "json"], typer.Option("--format", help="File format.")] = "csv",
    out: Annotated[
        Path | None, typer.Option(help="File to write; stdout if not given.", metavar="FILE")
    ] = None,
) -> None:
    """Export a study's trials as one tidy table, a row a trial."""
    from wdgrid.export import export as write

    name, url = _stored(study, storage)
    with _open(url) as store:
        _definition(store, name)
        table = store.table(name)
    if fmt == "parquet" and out is None:
        raise UsageError("--format parquet needs --out FILE")
    write(table, fmt, out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status (the console script exits with it)."""
    try:
        app(args=arguments, prog_name="wdgrid")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except Exception as error:
        # By name: the classes' rooms take a second to import, and a mistyped option should not wait for them.
        statuses = {"StudyFileError": 2, "UsageError": 2, "UsersFaultError": 2, "StoreError": 1, "MachineError": 1}
        if (status := statuses.get(type(error).__name__)) is None:
            raise
        for line in str(error).splitlines():
            print(f"wdgrid: {line}", file=sys.stderr)
        return status
    return 0
