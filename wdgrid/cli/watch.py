"""`wdgrid report --watch`: redraws whenever cells were finished, until none is waiting or running."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from wdgrid.cli.common import say

if TYPE_CHECKING:
    from wdgrid.report import Written
    from wdgrid.store import Store


def watch(
    store: "Store", name: str, every: float, redraw: "Callable[[], Written]", quiet: bool
) -> "tuple[Written, str | None]":
    """Calls `redraw` at once and whenever the number of complete cells changed; returns its last result at the end.

    Checks the store every `every` seconds, and ends when no cell is waiting or running, or when all running cells were
    left by a sweep that died; the second result then says so. Ctrl-C ends it with status 130; the last report stays
    complete.
    """
    from wdgrid.runner.naming import summary

    drawn: Written | None = None
    complete = 0
    try:
        while True:
            now = summary(store, name)
            left = now.n_waiting + now.n_running
            if drawn is None or now.n_complete != complete:
                drawn, complete = redraw(), now.n_complete
                say(f"{time.strftime('%H:%M:%S')}  drawn with {complete} of {now.n_cells} cells, {left} left", quiet)
            if not left:
                return drawn, None
            if now.n_running and (lost := store.abandoned(name)) == now.n_running:
                waiting = f", {now.n_waiting} more wait" if now.n_waiting else ""
                return drawn, f"no sweep is running: one died and left {lost} cell{'s' * (lost > 1)} behind{waiting}"
            time.sleep(every)
    except KeyboardInterrupt:
        say("stopped watching; the report stays as last drawn", quiet)
        raise typer.Exit(130) from None
