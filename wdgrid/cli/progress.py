"""What long work looks like while it runs: a bar on a terminal, plain lines elsewhere; always on stderr."""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wdgrid.analysis.words import divergences
from wdgrid.runner.run import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

Tell = Callable[[Progress], None]
TellPreparing = Callable[[str, int, int], None]
LINE_S = 5.0  # seconds between two plain lines about the same work


@contextmanager
def show(cells: int, quiet: bool) -> Iterator[Tell]:
    """Yields the function that a sweep over `cells` cells tells its progress to."""
    if quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _bar(cells) as tell:
            yield tell
    else:
        yield _Lines()


@contextmanager
def show_preparing() -> Iterator[TellPreparing]:
    """Yields the function that is told what is done to the data, how much of it, of how much."""
    if sys.stderr.isatty():
        with _new_bar() as bar:
            yield _preparing_bar(bar)
    else:
        yield _preparing_lines()


class _Best:
    """The best error so far, in words; on validation where there is a split."""

    def __init__(self) -> None:
        self.error, self.panel = math.inf, ""

    def update(self, progress: Progress) -> str:
        if progress.chunk:
            panel, _, outcomes, _ = progress.chunk
            error = min(o.selection_error for o in outcomes)
            if error < self.error:
                self.error, self.panel = error, panel
        return f"best {self.error:.2f} % ({self.panel})" if self.panel else "best –"


def _new_bar() -> "Bar":
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TextColumn("{task.fields[left]}"),
        rich.TextColumn("{task.fields[best]}"),
    )
    return rich.Progress(*columns, console=Console(stderr=True))


@contextmanager
def _bar(cells: int) -> Iterator[Tell]:
    best = _Best()
    with _new_bar() as bar:
        task = bar.add_task("cells", total=cells, left="", best="best –")
        prepare = _preparing_bar(bar)

        def tell(progress: Progress) -> None:
            if progress.preparing:
                prepare(progress.preparing.what, progress.preparing.done, progress.preparing.of)
            if progress.note:
                bar.console.print(progress.note)
            left = "" if progress.left is None else f"about {_span(progress.left)} left"
            bar.update(task, completed=math.floor(progress.cells_done), left=left, best=best.update(progress))

        yield tell


def _preparing_bar(bar: "Bar") -> TellPreparing:
    """A bar of its own for each piece of work, which goes when it is done."""
    tasks = {}

    def tell(what: str, done: int, of: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=of, left="", best="")
        bar.update(tasks[what], completed=done, visible=done < of)

    return tell


def _preparing_lines() -> TellPreparing:
    """A line every few seconds."""
    last = time.monotonic()

    def tell(what: str, done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_S:
            last = time.monotonic()
            print(f"{what}: {done} of {of}", file=sys.stderr, flush=True)

    return tell


class _Lines:
    """One plain line a chunk."""

    def __init__(self) -> None:
        self.best = _Best()
        self.prepare = _preparing_lines()

    def __call__(self, progress: Progress) -> None:
        if progress.preparing:
            self.prepare(progress.preparing.what, progress.preparing.done, progress.preparing.of)
        if progress.note:
            print(progress.note, file=sys.stderr, flush=True)
        if progress.chunk is None:
            return
        best = self.best.update(progress)
        panel, seed, outcomes, seconds = progress.chunk
        wrong = divergences(Counter(o.divergence for o in outcomes if o.divergence))
        print(
            f"{progress.cells_done:.0f}/{progress.cells_total} cells  {panel} seed {seed}: {len(outcomes)} cells in "
            f"{seconds:.1f} s{wrong and f' ({wrong})'}; {best}; about {_span(progress.left or 0.0)} left",
            file=sys.stderr,
            flush=True,
        )


def _span(seconds: float) -> str:
    """A time to go, to two figures at most: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
