"""`wdgrid report --watch`: draw again whenever cells were finished, until none is left."""

import time
from collections.abc import Callable
from typing import Any

import typer

from wdgrid.cli.common import say


def watch(store: Any, name: str, every: float, redraw: Callable[[], Any], quiet: bool) -> Any:
    """Calls `redraw` at once and whenever the number of complete cells changed; its last answer, when all is done.

    Looks at the store every `every` seconds, and ends when no cell is waiting or running. Ctrl-C ends it with status
    130; the last report stays whole.
    """
    drawn, complete = None, -1
    try:
        while True:
            now = next(study for study in store.studies() if study.name == name)
            left = now.n_waiting + now.n_running
            if now.n_complete != complete:
                drawn, complete = redraw(), now.n_complete
                say(f"{time.strftime('%H:%M:%S')}  drawn with {complete} of {now.n_cells} cells, {left} left", quiet)
            if not left:
                return drawn
            time.sleep(every)
    except KeyboardInterrupt:
        say("stopped watching; the report stays as last drawn", quiet)
        raise typer.Exit(130) from None
