"""`wdgrid sweep`: plan, agree, train what is missing, draw."""

import subprocess
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

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
from wdgrid.cli.resume_command import SweepCommand
from wdgrid.errors import UsageError

WORTH = 0.4  # a search that takes more of the whole grid's time than that says so


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
    coarse: Annotated[
        bool,
        typer.Option(
            help="Look for the best cells only, at no more than a quarter of the grid's cells × epochs: every second "
            "value of each axis at a quarter of the epochs, then in full the cells where that was best. The others "
            "stay untrained, and separability untold; without --coarse the same command trains them.",
        ),
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
    from wdgrid.errors import StudyFileError, UsersFaultError
    from wdgrid.runner.reconcile import plan, replace_or_refuse
    from wdgrid.runner.search import coarse_pass
    from wdgrid.study import load_study
    from wdgrid.study.bundled import study_path

    overrides = [*(override or []), *([f"task.device={device}"] if device else [])]
    path = study_path(study_word)
    study = load_study(path, overrides)
    name = name or path.stem
    small = coarse_pass(name, study) if coarse else None
    folder = database_folder(study_word, name)
    url = storage_url(storage, folder, name)
    again = SweepCommand(study_word, tuple(overrides), storage, name if name != path.stem else None, coarse)
    is_new = not Path(url.removeprefix("sqlite:///")).exists()
    with open_store(url, create=True) as store:
        if replace_or_refuse(store, name, study, extend):
            say(f"{name}: no cell of the stored study was trained yet: it is replaced by this one", quiet)
        added = plan(store, name, study)
        store.set_attrs(name, again.attrs())
        run = _Run(store, folder, workers, 60 * checkpoint_minutes, quiet, str(again))
        try:
            if small:
                run.search(name, study, small)
            else:
                run.whole(name, study, added)
        except (UsersFaultError, StudyFileError):
            if is_new:  # there is nothing in it
                store.discard()
            raise
        draw(store, name, out, style, as_json, quiet, replace(again, coarse=False))


@dataclass(frozen=True)
class _Run:
    """What one command trains, and what all of that has in common."""

    store: Any
    folder: Path  # of the checkpoints
    workers: int | None
    every: float  # seconds between checkpoints
    quiet: bool
    again: str  # the command that goes on after an interrupt

    def whole(self, name: str, study: Any, added: int) -> None:
        """Trains all that is missing of a planned study, to which so many cells were just added."""
        back = self.store.reclaim() + self.store.retry_failed(name)
        n_all, missing = len(self.store.table(name)), sum(self.store.pending(name).values())
        say(_what_is_to_do(name, n_all, missing, added, back), self.quiet)
        self._train(name, study)

    def search(self, name: str, study: Any, small: Any) -> None:
        """Trains the coarse pass of a planned study, then what that leads to."""
        from wdgrid.runner.environment import stored_environment
        from wdgrid.runner.reconcile import plan
        from wdgrid.runner.search import rounds, time_share
        from wdgrid.study.coarse import coarse_name

        small_name = coarse_name(name)
        definition = self.store.definition(small_name)
        if definition is not None and definition[1] != small.digest():
            raise UsageError(f"{name}: the study has grown since its coarse pass; leave --coarse out")
        self.whole(small_name, small, plan(self.store, small_name, small))
        attrs = self.store.attrs(small_name)
        one_by_one = stored_environment(attrs).get("backend") == "native"
        share = time_share(study, 1 if one_by_one else attrs.get("chunk", 1))
        if share > WORTH:
            words = "so many of this network's cells train together that the search takes about"
            say(f"{name}: {words} {100 * share:.0f} % of the whole grid's time", self.quiet)
        self.store.retry_failed(name)
        if (elsewhere := int((self.store.table(small_name)["state"] == "running").sum())) == 0:
            for chosen in rounds(self.store, name, study):
                self._train(name, study, chosen)
            elsewhere = int((self.store.table(name)["state"] == "running").sum())
        if elsewhere:
            say(f"{name}: another process is at {elsewhere} cells; when it is done, go on:\n  {self.again}", self.quiet)

    def _train(self, name: str, study: Any, only: Any = None) -> None:
        from wdgrid.cli.progress import show as show_progress
        from wdgrid.runner.run import Sweep, cores

        missing = sum(self.store.pending(name, only).values())
        if not missing:
            return
        n_all = len(self.store.table(name))
        if only is not None:
            say(f"{name}: the next {missing} of {n_all} cells in full, where the best may be", self.quiet)
        environment = {**_versions(), "commit": _commit(), "started": _now()}
        self._set_environment(name, environment)
        with show_progress(missing, self.quiet) as tell:
            try:
                checkpoints = self.folder / f"{name}.db.checkpoints"
                Sweep(self.store, name, study, self.workers or cores(), tell, checkpoints, self.every, only).run()
            except KeyboardInterrupt:
                kept = n_all - sum(self.store.pending(name).values())
                say(f"interrupted; {kept} of {n_all} cells are kept. To go on:\n  {self.again}")
                raise typer.Exit(130) from None
        self._set_environment(name, {"finished": _now()})

    def _set_environment(self, name: str, found: dict[str, Any]) -> None:
        from wdgrid.runner.environment import stored_environment

        self.store.set_attrs(name, {"environment": {**stored_environment(self.store.attrs(name)), **found}})


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

    return {name: version(name) for name in ("wdgrid", "optuna")}


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


def _now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0, tzinfo=None).isoformat()
