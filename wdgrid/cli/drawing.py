"""Drawing a stored study's report, and telling of it."""

from pathlib import Path
from typing import Any, Literal

from wdgrid.cli.common import print_summary, say, stored_study
from wdgrid.cli.resume_command import SweepCommand, alarm_lines, left_out


def redraw(store: Any, name: str, out: Path, style: Literal["cells", "paper"]) -> Any:
    """Writes a stored study's report into `out`/name."""
    from wdgrid.report import write_report
    from wdgrid.study.coarse import coarse_name

    study, attrs, coarse = stored_study(store, name), store.attrs(name), None
    attrs["environment"] = {**attrs.get("environment", {}), "storage": store.url}
    if store.definition(coarse_name(name)):
        coarse = stored_study(store, coarse_name(name)), store.table(coarse_name(name))
    return write_report(study, name, store.table(name), store.curves(name), attrs, out / name, style, coarse)


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
    tell_report(store, name, redraw(store, name, out, style), as_json, quiet, command)


def tell_report(store: Any, name: str, written: Any, as_json: bool, quiet: bool, command: SweepCommand) -> None:
    """A report's summary, where its files are, and what to add where the best cells lie on an edge."""
    print_summary(written.numbers, written.findings, as_json)
    say("written: " + " ".join(str(path) for path in written.paths), quiet)
    if quiet:
        return
    for line in alarm_lines(written.numbers, stored_study(store, name), command, left_out(store, name)):
        say(line)
