"""Shows the progress of long work on stderr: a bar on a terminal, plain lines elsewhere."""

import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wdgrid.analysis.words import divergences
from wdgrid.printable import printable
from wdgrid.runner.events import (
    ChunkFinished,
    Event,
    Interrupted,
    Listener,
    Notice,
    Planned,
    Preparing,
    Progress,
    Replaced,
    RoundChosen,
    SlowSearch,
    SweepEnded,
    TrainingEnded,
    TrainingStarted,
    Waiting,
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
            _print(_ended(event))
        elif training and not training.show(event) and (text := message(event)):
            training.write(text)

    try:
        yield listen
    finally:
        if training:
            training.close()


@contextmanager
def show_preparing() -> Generator[TellPreparing]:
    """Yields the function to be called with the kind of work on the data, how much is done, and of how much."""
    if sys.stderr.isatty():
        with _new_bar() as bar:
            yield _preparing_bar(bar)
    else:
        yield _preparing_lines()


def _print(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def message(event: Event) -> str | None:
    """The message for an event; None if it has none."""
    match event:
        case Replaced():
            return f"{event.study}: this study replaces the stored one, of which no cell was trained"
        case Planned():
            return _planned(event)
        case SlowSearch():
            share = f"about {100 * event.share:.0f} % of the whole grid's time"
            return f"{event.study}: this network trains many cells at once, so the search takes {share}"
        case RoundChosen():
            return f"{event.study}: training the {event.chosen} most promising of {event.cells} cells in full"
        case Waiting():
            return f"{event.study}: waiting for {event.cells} cells {_held(event.until)}"
        case SweepEnded():
            return _ended(event)
        case Notice():
            return event.text
        case _:
            return None


def _planned(event: Planned) -> str:
    if event.added == event.cells:
        return f"{event.study}: {event.cells} cells to train"
    parts = [
        (event.finished, f"{event.finished} of {event.cells} cells are finished"),
        (event.added, f"{event.added} are new"),
        (event.put_back, f"{event.put_back} were held by a process that is gone"),
        (event.retried, f"{event.retried} failed and are trained again"),
        (1, f"training the {event.missing} missing" if event.missing else "nothing to train"),
    ]
    return f"{event.study}: {_joined(', ', parts)}"


def _joined(separator: str, parts: Sequence[tuple[int, str]]) -> str:
    """The texts whose number is not 0."""
    return separator.join(text for number, text in parts if number)


def _held(until: float | None) -> str:
    lease = "" if until is None else time.strftime(" (leased until %H:%M:%S, if not renewed)", time.localtime(until))
    return f"that another process holds{lease}"


def _ended(event: SweepEnded) -> str:
    parts = [
        (1, f"{event.finished} of {event.cells} cells are finished"),
        (event.failed, f"{event.failed} failed (to train them again: --retry, in Python retry=True)"),
        (
            event.elsewhere,
            f"{event.elsewhere} {_held(event.until)} are missing (to wait for them: --wait, in Python wait=True)",
        ),
        (event.waiting, f"{event.waiting} are not trained (the same command trains them)"),
    ]
    return f"{event.study}: {_joined('; ', parts)}"


class _Best:
    """The best error so far, as text; on the validation images if there is a split."""

    def __init__(self) -> None:
        self.error, self.panel = math.inf, ""

    def update(self, chunk: ChunkFinished) -> None:
        error = min(outcome.selection_error for outcome in chunk.outcomes)
        if error < self.error:
            self.error, self.panel = error, chunk.panel

    def __str__(self) -> str:
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


class _Bars:
    """A progress bar for the cells and, before, one for each kind of work on the data."""

    def __init__(self) -> None:
        self.bar: Bar | None = None
        self.best = _Best()

    def show(self, event: Event) -> bool:
        """Shows an event of training; whether it was one."""
        match event:
            case TrainingStarted():
                self.best, self.bar = _Best(), _new_bar()
                self.bar.start()
                self.cells = self.bar.add_task("cells", total=event.cells, left="", best=str(self.best))
                self.prepare = _preparing_bar(self.bar)
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

    def _update(self, progress: Progress) -> None:
        if self.bar:
            left = "" if progress.seconds_left is None else f"about {_span(progress.seconds_left)} left"
            self.bar.update(self.cells, completed=math.floor(progress.cells_done), left=left, best=str(self.best))

    def write(self, text: str) -> None:
        if self.bar:
            self.bar.console.print(printable(text), markup=False, highlight=False)
        else:
            _print(text)

    def close(self) -> None:
        if self.bar:
            self.bar.stop()
        self.bar = None


def _preparing_bar(bar: "Bar") -> TellPreparing:
    """A bar for each kind of work, which is hidden when the work is done."""
    tasks: dict[str, TaskID] = {}

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
            _print(f"{what}: {done} of {of}")

    return tell


class _Lines:
    """One plain line for each chunk."""

    def __init__(self) -> None:
        self.best, self.prepare = _Best(), _preparing_lines()

    def show(self, event: Event) -> bool:
        """Shows an event of training; whether it was one."""
        match event:
            case TrainingStarted():
                self.best, self.prepare = _Best(), _preparing_lines()
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
        return (
            f"{at.cells_done:.0f}/{at.cells} cells  {chunk.panel} seed {chunk.seed}: {len(chunk.outcomes)} cells in "
            f"{chunk.seconds:.1f} s{wrong and f' ({wrong})'}; {self.best}; "
            f"about {_span(at.seconds_left or 0.0)} left"
        )

    def write(self, text: str) -> None:
        _print(text)

    def close(self) -> None:
        pass


def _span(seconds: float) -> str:
    """The remaining time, rounded: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
