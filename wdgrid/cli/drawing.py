"""Writes a report, and prints its summary and where its files are."""

from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Literal

from wdgrid.cli.common import print_summary, say, width
from wdgrid.cli.resume_command import SweepCommand, alarm_lines, untrained

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wdgrid.analysis.separability import Separability
    from wdgrid.report import Written
    from wdgrid.report.views import View
    from wdgrid.store import Store


class Preparation:
    """Imports what a report needs in the background, while workers train."""

    def __init__(self) -> None:
        self._thread: Thread | None = None

    def start(self) -> None:
        """Starts the import, unless it has started."""
        from wdgrid.report import prepare

        if self._thread is None:
            self._thread = Thread(target=prepare, daemon=True)
            self._thread.start()

    def join(self) -> None:
        """Waits for the end of the import."""
        if self._thread is not None:
            self._thread.join()


def draw(
    store: "Store",
    name: str,
    out: Path,
    style: Literal["cells", "paper"],
    as_json: bool,
    quiet: bool,
    command: SweepCommand,
    view: "View | None" = None,
) -> None:
    """Writes a stored study's report into `out`/NAME and prints it; `command` is the sweep that an alarm extends."""
    print_report(store, name, drawn(store, name, out, style, command, view), as_json, quiet, command)


def drawn(
    store: "Store",
    name: str,
    out: Path,
    style: Literal["cells", "paper"],
    command: SweepCommand,
    view: "View | None" = None,
) -> "Written":
    """Writes a stored study's report into `out`/NAME."""
    from wdgrid.results import write_stored
    from wdgrid.runner.naming import stored_study

    def steps(numbers: "Mapping[str, Separability]") -> list[str]:
        return alarm_lines(numbers, stored_study(store, name), command, untrained(store, name))

    return write_stored(store, name, out / name, style, view, steps)


def print_report(
    store: "Store", name: str, written: "Written", as_json: bool, quiet: bool, command: SweepCommand
) -> None:
    """Prints a report's summary, the paths of its files, and values to add if the best cells lie on an edge."""
    from wdgrid.report.findings import wrapped
    from wdgrid.runner.naming import stored_study

    print_summary(written.numbers, written.findings, as_json)
    say("written: " + " ".join(str(path) for path in written.paths), quiet)
    if quiet:
        return
    for line in alarm_lines(written.numbers, stored_study(store, name), command, untrained(store, name)):
        for part in wrapped(line, width()):
            say(part)
