"""Shows the progress of long work on stderr: a bar on a terminal, plain lines elsewhere."""

import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wdgrid.analysis.words import divergences
from wdgrid.cli.event_words import ended, message, span
from wdgrid.printable import printable
from wdgrid.runner.events import (
    ChunkFinished,
    Event,
    Interrupted,
    Listener,
    Preparing,
    Progress,
    SweepEnded,
    TrainingEnded,
    TrainingStarted,
)

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

TellPreparing = Callable[[str, int, int], None]
LINE_S = 5.0  # seconds between two plain lines about the same work


@contextmanager
def show(quiet: bool, command: str | None = None) -> Generator[Listener]:
    """Yields the function that shows a sweep's events. `command` resumes it after an interrupt.

    `quiet`: shows only an interrupt, and missing cells at the end.
    """
    resume = f". To resume:\n  {command}" if command else ""
    training = None if quiet else _Bars() if sys.stderr.isatty() else _Lines()

    def listen(event: Event) -> None:
        if isinstance(event, Interrupted):
            with contextlib.suppress(OSError):  # after SIGHUP the terminal is gone
                if training:
                    training.close()
                _print(f"interrupted; {event.finished} of {event.cells} cells are stored{resume}")
        elif isinstance(event, SweepEnded) and event.missing and not training:
            _print(ended(event))
        elif training and not training.show(event) and (text := message(event)):
            training.write(text)

    try:
        yield listen
    finally:
        if training:
            training.close()


@contextmanager
def show_preparing() -> Generator[TellPreparing]:
    """Yields the function that shows work on the data, called with its kind, how much is done, and of how much."""
    if sys.stderr.isatty():
        with _new_bar() as bar:
            yield _preparing_bar(bar)
    else:
        yield _preparing_lines()


def _print(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


class _Best:
    """The best error so far, as text; on the validation images if there is a split."""

    def __init__(self) -> None:
        self.error, self.panel = math.inf, ""

    def update(self, chunk: ChunkFinished) -> None:
        error = min(outcome.selection_error for outcome in chunk.outcomes)
        if error < self.error:
            self.error, self.panel = error, chunk.panel

    def __str__(self) -> str:
        return f"best {self.error:.2f} % ({self.panel}, one seed)" if self.panel else "best –"


def _new_bar() -> "Bar":
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(bar_width=12),
        rich.TimeElapsedColumn(),
        rich.TextColumn("{task.fields[words]}"),
    )
    return rich.Progress(*columns, console=Console(stderr=True))


FINISHED, TRAINING, WAITING = "█", "▒", "·"
WIDE = 100  # columns of a terminal that show the panel of the best cell, too
BAR, WIDE_BAR = 16, 24  # characters


class _Bars:
    """A line for the cells (finished, in training, left) and, before, a bar for each kind of work on the data."""

    def __init__(self) -> None:
        self.bar: Bar | None = None
        self.best = _Best()

    def show(self, event: Event) -> bool:
        """Shows an event of training; whether it was one."""
        match event:
            case TrainingStarted():
                self._begin(event)
            case TrainingEnded():
                self.close()
            case Preparing():
                self.prepare(event.what, event.done, event.of)
            case Progress():
                self._update(event)
            case ChunkFinished():
                self.best.update(event)
                self._update(event.progress)
            case _:
                return False
        return True

    def _begin(self, event: TrainingStarted) -> None:
        from rich import progress as rich
        from rich.console import Console
        from rich.table import Column

        self.close()
        self.best, self.stored = _Best(), event.finished
        console = Console(stderr=True, highlight=False)
        cells = rich.TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
        words = rich.TextColumn("{task.fields[words]}", table_column=Column(no_wrap=True))
        self.bar = rich.Progress(cells, rich.TimeElapsedColumn(), words, console=console)
        self.cells = self.bar.add_task("", total=None, words="workers start")
        self.prepare = _preparing_bar(self.bar)
        self._update(Progress(0, event.cells), "workers start")
        self.bar.start()

    def _update(self, progress: Progress, words: str | None = None) -> None:
        if not self.bar:
            return
        wide = self.bar.console.width >= WIDE
        if words is None:
            left = progress.seconds_left
            words = "" if left is None else f"about {span(left)} left" if wide else f"~{span(left)} left"
            best = str(self.best) if wide else str(self.best).partition(" (")[0]
            words = f"{words}  {best}" if words else best
        finished, cells = self.stored + progress.finished, self.stored + progress.cells
        picture = _picture(finished, progress.training, cells, WIDE_BAR if wide else BAR)
        training = f", {progress.training} in training" if progress.training else ""
        self.bar.update(self.cells, description=f"{picture} {finished}/{cells} cells{training}", words=words)

    def write(self, text: str) -> None:
        if self.bar:
            self.bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
        else:
            _print(text)

    def close(self) -> None:
        if self.bar:
            self.bar.stop()
        self.bar = None


def _picture(finished: int, training: int, cells: int, width: int) -> str:
    """A bar of `width` characters: full blocks are finished cells, shaded ones cells in training."""
    done = width * finished // cells
    shaded = min(width - done, math.ceil(width * training / cells))
    return FINISHED * done + TRAINING * shaded + WAITING * (width - done - shaded)


def _preparing_bar(bar: "Bar") -> TellPreparing:
    """A bar for each kind of work, which is hidden when the work is done."""
    tasks: dict[str, TaskID] = {}

    def tell(what: str, done: int, of: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=of, words="")
        bar.update(tasks[what], completed=done, words=f"{done} of {of}", visible=done < of)

    return tell


def _preparing_lines() -> TellPreparing:
    """A line every few seconds."""
    last = time.monotonic()

    def tell(what: str, done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_S:
            last = time.monotonic()
            _print(f"{what}: {done} of {of}")

    return tell


class _Lines:
    """One plain line for each chunk."""

    def __init__(self) -> None:
        self.best, self.prepare, self.stored = _Best(), _preparing_lines(), 0

    def show(self, event: Event) -> bool:
        """Shows an event of training; whether it was one."""
        match event:
            case TrainingStarted():
                self.best, self.prepare, self.stored = _Best(), _preparing_lines(), event.finished
            case Preparing():
                self.prepare(event.what, event.done, event.of)
            case ChunkFinished():
                self.best.update(event)
                _print(self._line(event))
            case Progress() | TrainingEnded():
                pass
            case _:
                return False
        return True

    def _line(self, chunk: ChunkFinished) -> str:
        at = chunk.progress
        wrong = divergences(Counter(o.divergence for o in chunk.outcomes if o.divergence))
        left = "" if at.seconds_left is None else f", about {span(at.seconds_left)} left"
        return (
            f"{self.stored + at.finished}/{self.stored + at.cells} cells{left}; {self.best}; "
            f"{chunk.panel} seed {chunk.seed}: {len(chunk.outcomes)} in {chunk.seconds:.1f} s{wrong and f' ({wrong})'}"
        )

    def write(self, text: str) -> None:
        _print(text)

    def close(self) -> None:
        pass
