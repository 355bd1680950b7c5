"""`wdgrid submit` and `wdgrid queue`: submit studies, which are trained one after the other, and manage them."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wdgrid.cli.common import AsJson, NoCode, StudyWord, echo, print_json, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from wdgrid.runner.events import Event
    from wdgrid.store import Entry, Store, Worker

SERVED = "wdgrid"  # the database of the service, if no storage is given
CHILD = [sys.executable, "-c", "import sys; from wdgrid.cli.queue import sweep_entry; sys.exit(sweep_entry())"]
REPORT_S = 1.0  # between two reports of the progress inside a chunk
ServedStorage = Annotated[
    str | None,
    typer.Option(
        help="The storage with the queue: sqlite:///path.db or postgresql+psycopg://…; by default wdgrid.db, in "
        "studies/ if there is such a folder here, else here.",
        metavar="URL",
    ),
]


def served_url(storage: str | None) -> str:
    """The given storage, else that of the service."""
    from wdgrid.runner.naming import database_folder, storage_url

    return storage_url(storage, database_folder(SERVED, SERVED), SERVED)


def submit(
    study_word: StudyWord,
    storage: ServedStorage = None,
    name: Annotated[str | None, typer.Option(help="Name of the study; the file's name if not given.")] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a field, such as task.epochs=5. May be repeated.", metavar="FIELD=VALUE"),
    ] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Let the stored study grow by new axis values, seeds or panels.")
    ] = False,
    coarse: Annotated[bool, typer.Option(help="Search for the best cells only, as wdgrid sweep --coarse.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Train failed cells again, also those that failed three times.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; one a core if not given (one in all on a GPU).")
    ] = None,
    no_code: NoCode = False,
    as_json: AsJson = False,
) -> None:
    """Put a study at the end of the queue, which wdgrid serve or wdgrid queue --work trains."""
    from wdgrid.runner import naming
    from wdgrid.runner.queue import submit as add
    from wdgrid.study import load_study
    from wdgrid.study.bundled import study_path

    path = study_path(study_word)
    study = load_study(path, override or [], allow_code=not no_code)
    options: dict[str, Any] = {"extend": extend, "coarse": coarse, "retry": retry, "workers": workers}
    options |= naming.command_attributes(study_word, override or [])
    with naming.open_store(served_url(storage), create=True) as store:
        entry = add(store, naming.checked_name(name or path.stem), study, options)
        if as_json:
            print_json(_row(entry))
        else:
            _print_queue(store)


def queue(
    storage: ServedStorage = None,
    move: Annotated[str | None, typer.Option(help="Move this entry, by its number or study.", metavar="ENTRY")] = None,
    to: Annotated[int, typer.Option(min=1, help="With --move: its new place; 1 is the next one.")] = 1,
    pause: Annotated[str | None, typer.Option(help="Pause this entry; finished cells stay.", metavar="ENTRY")] = None,
    resume: Annotated[
        str | None, typer.Option(help="Let an entry go on that is paused, cancelled or failed.", metavar="ENTRY")
    ] = None,
    cancel: Annotated[
        str | None, typer.Option(help="Take this entry out of the queue; finished cells stay.", metavar="ENTRY")
    ] = None,
    work: Annotated[
        bool, typer.Option("--work", help="Train the queue in this process, until Ctrl-C or SIGTERM.")
    ] = False,
    ray: Annotated[
        str | None, typer.Option(help="With --work: train on this Ray cluster, HOST:PORT or auto.", metavar="ADDRESS")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the queue of submitted studies, or change it. An entry is named by its number or by its study."""
    from wdgrid.runner.naming import open_store
    from wdgrid.runner.queue import entry_number

    url = served_url(storage)
    if work:
        _work(url, ray)
        return
    with open_store(url, create=False) as store:
        changes: list[tuple[str | None, Callable[[int], Entry]]] = [
            (move, lambda number: store.queue.move(number, to)),
            (pause, store.queue.pause),
            (resume, store.queue.resume),
            (cancel, store.queue.cancel),
        ]
        for word, change in changes:
            if word is not None:
                change(entry_number(word, store))
        if as_json:
            print_json([_row(entry) for entry in store.queue.entries()])
        else:
            _print_queue(store)


def _row(entry: "Entry") -> dict[str, Any]:
    from dataclasses import asdict

    row = asdict(entry)
    del row["canonical"]
    return row


def _print_queue(store: "Store") -> None:
    entries, worker = store.queue.entries(), store.queue.worker()
    if not entries:
        say("the queue is empty; wdgrid submit STUDY adds to it")
        return
    echo(f"{'entry':>5}  {'state':9}  {'study':24}  submitted")
    for entry in entries:
        submitted = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.submitted))
        note = entry.note.splitlines()[0] if entry.note else _progress(entry, worker)
        echo(f"{entry.id:5}  {entry.state:9}  {entry.study:24}  {submitted}{'  ' if note else ''}{note}")
    if not (worker and worker.alive) and any(entry.state in ("waiting", "running") for entry in entries):
        say("no worker trains this queue: start wdgrid serve, or wdgrid queue --work")


def _progress(entry: "Entry", worker: "Worker | None") -> str:
    """The progress of the entry in training."""
    told = worker.progress if worker and worker.alive else {}
    if entry.state != "running" or told.get("entry") != entry.id or "cells" not in told:
        return ""
    return f"{told['cells_done']:.0f} of {told['cells']} cells"


def _work(url: str, ray: str | None) -> None:
    """Runs the queue's worker until Ctrl-C, SIGTERM or, if another process started it, the end of standard input."""
    from wdgrid.runner.queue import work

    stopping = threading.Event()

    def stop(_number: int, _frame: object) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    if os.environ.get("WDGRID_STOP_WITH_STDIN"):
        _at_end_of_input(stopping.set)
    work(url, CHILD, stopping, lambda text: say(f"{time.strftime('%H:%M:%S')}  {text}"), ray)


def _at_end_of_input(call: "Callable[[], object]") -> None:
    """Calls a function when the other end of standard input is closed, which also happens when that process dies."""

    def wait() -> None:
        with contextlib.suppress(OSError, ValueError):
            while os.read(0, 4096):
                pass
        call()

    threading.Thread(target=wait, daemon=True).start()


def sweep_entry() -> int:
    """Sweeps one entry of a queue, which a line on standard input names; its progress goes to standard output.

    Returns the exit status of `wdgrid sweep`.
    """
    from wdgrid.cli import run_safely

    order = json.loads(sys.stdin.readline())
    _at_end_of_input(lambda: os.kill(os.getpid(), signal.SIGTERM))
    return run_safely(lambda: _sweep_entry(order["url"], order["entry"], order["ray"]))


def _sweep_entry(url: str, number: int, ray: str | None) -> int:
    from wdgrid.cli.progress import show
    from wdgrid.cli.signals import as_interrupts, exit_status
    from wdgrid.cli.sweep import MISSING
    from wdgrid.runner import naming
    from wdgrid.runner.cluster import ray_of
    from wdgrid.runner.queue import command_of
    from wdgrid.runner.run import Settings, sweep, sweep_store
    from wdgrid.study import Study

    try:
        with as_interrupts(), sweep_store(url) as store, show(quiet=False) as listen:
            entry = store.queue.entry(number)
            options = entry.options
            settings = Settings(
                checkpoints=naming.checkpoint_folder(url, Path.cwd()),
                workers=options.get("workers"),
                extend=bool(options.get("extend")),
                coarse=bool(options.get("coarse")),
                retry=bool(options.get("retry")),
                ray=ray_of(ray, None),
                attributes=command_of(entry),
            )
            reporter = _Reporter()

            def heard(event: "Event") -> None:
                reporter.hear(event)
                listen(event)

            ended = sweep(store, entry.study, Study.model_validate_json(entry.canonical), settings, heard)
    except KeyboardInterrupt as interrupt:
        return exit_status(interrupt)
    return MISSING if ended.missing else 0


class _Reporter:
    """Writes a sweep's progress to standard output as JSON lines, at most one a second inside a chunk."""

    def __init__(self) -> None:
        self.last = 0.0

    def hear(self, event: "Event") -> None:
        """Writes an event, if it is one that is reported."""
        from wdgrid.runner.events import ChunkFinished, Preparing, Progress

        told: dict[str, Any] | None = None
        match event:
            case ChunkFinished():
                told = self._of(event.progress)
            case Progress() if time.monotonic() - self.last >= REPORT_S:
                told = self._of(event)
            case Preparing() if time.monotonic() - self.last >= REPORT_S:
                told = {"preparing": f"{event.what}: {event.done} of {event.of}"}
            case _:
                pass
        if told is not None:
            self.last = time.monotonic()
            print(json.dumps(told), flush=True)

    def _of(self, progress: Any) -> dict[str, Any]:
        left = progress.seconds_left
        return {"cells_done": progress.cells_done, "cells": progress.cells, "seconds_left": left, "preparing": None}
