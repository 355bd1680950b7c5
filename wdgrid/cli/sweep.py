"""`wdgrid sweep`: plan, agree, train what is missing, draw."""

import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer

from wdgrid.cli.again import SweepCommand
from wdgrid.cli.common import (
    AsJson,
    Out,
    Quiet,
    Storage,
    StudyWord,
    Style,
    database_folder,
    open_store,
    say,
    storage_url,
)
from wdgrid.cli.drawing import draw


def sweep(
    study_word: StudyWord,
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
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0, help="Minutes between checkpoints inside a chunk that takes longer than that.")
    ] = 5.0,
    style: Style = "cells",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train what a study has not trained yet, then draw its report. Give the same command again to go on."""
    from wdgrid.progress import show as show_progress
    from wdgrid.shipped import study_path
    from wdgrid.studyfile import load_study
    from wdgrid.sweep import Sweep, cores, now, plan

    overrides = [*(override or []), *([f"task.device={device}"] if device else [])]
    path = study_path(study_word)
    study = load_study(path, overrides)
    name = name or path.stem
    folder = database_folder(study_word, name)
    url = storage_url(storage, folder, name)
    again = SweepCommand(study_word, tuple(overrides), storage, name if name != path.stem else None)
    with open_store(url, create=True) as store:
        _agree(store.definition(name), study, name, extend)
        added = plan(store, name, study)
        store.set_attrs(name, again.attrs())
        back = store.reclaim() + store.retry_failed(name)
        n_all = sum(len(cells) for cells in study.cells().values())
        missing = sum(store.pending(name).values())
        say(_what_is_to_do(name, n_all, missing, added, back), quiet)
        if missing:
            environment = {**_versions(), "commit": _commit(), "started": now()}
            store.set_attrs(name, {"environment": {**store.attrs(name).get("environment", {}), **environment}})
            with show_progress(missing, quiet) as tell:
                try:
                    checkpoints = folder / f"{name}.db.checkpoints"
                    Sweep(store, name, study, workers or cores(), tell, checkpoints, 60 * checkpoint_minutes).run()
                except KeyboardInterrupt:
                    kept = n_all - sum(store.pending(name).values())
                    say(f"interrupted; {kept} of {n_all} cells are kept. To go on:\n  {again}")
                    raise typer.Exit(130) from None
            store.set_attrs(name, {"environment": {**store.attrs(name)["environment"], "finished": now()}})
        draw(store, name, out, style, as_json, quiet, again)


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
