"""What a sweep looks like while it runs: a bar on a terminal, a line per chunk elsewhere; always on stderr."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wdgrid.sweep import Progress

Tell = Callable[[Progress], None]


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


@contextmanager
def _bar(cells: int) -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("cells"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("{task.fields[best]}"),
    )
    best = _Best()
    with Bar(*columns, console=Console(stderr=True), speed_estimate_period=600) as bar:
        task = bar.add_task("cells", total=cells, best="best –")

        def tell(progress: Progress) -> None:
            bar.update(task, completed=math.floor(progress.cells_done), best=best.update(progress))

        yield tell


class _Lines:
    """One plain line a chunk."""

    def __init__(self) -> None:
        self.best, self.started = _Best(), time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if progress.chunk is None:
            return
        best = self.best.update(progress)
        panel, seed, outcomes, seconds = progress.chunk
        diverged = sum(o.diverged_at is not None for o in outcomes)
        elapsed = time.monotonic() - self.started
        left = elapsed * (progress.cells_total / max(progress.cells_done, 1) - 1)
        print(
            f"{progress.cells_done:.0f}/{progress.cells_total} cells  {panel} seed {seed}: {len(outcomes)} cells in "
            f"{seconds:.1f} s, {diverged} diverged; {best}; about {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
