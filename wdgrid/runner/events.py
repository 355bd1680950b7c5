"""Defines what a sweep reports while it runs: one dataclass for each event, passed to the caller's function."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wdgrid.study import Outcome


@dataclass(frozen=True)
class Replaced:
    """The study replaced the stored one, which had another definition and no trained cell."""

    study: str


@dataclass(frozen=True)
class Planned:
    """The study is planned: `missing` of its `cells` are to be trained.

    `finished` are stored. `added` cells are new in the storage; `put_back` were left by a sweep that died; `retried`
    failed before.
    """

    study: str
    cells: int
    missing: int
    added: int
    put_back: int
    retried: int
    finished: int


@dataclass(frozen=True)
class SlowSearch:
    """A search of this study takes `share` of the whole grid's time, which is more than its share of the cells."""

    study: str
    share: float


@dataclass(frozen=True)
class RoundChosen:
    """A search chose the next `chosen` of `cells` cells, which are trained in full."""

    study: str
    chosen: int
    cells: int


@dataclass(frozen=True)
class Waiting:
    """The sweep waits until other processes have finished or dropped the `cells` cells that they hold.

    `until` is as in `SweepEnded`.
    """

    study: str
    cells: int
    until: float | None


@dataclass(frozen=True)
class TrainingStarted:
    """Workers start to train `cells` cells; `finished` cells of the study are already stored."""

    study: str
    cells: int
    finished: int = 0


@dataclass(frozen=True)
class Preparing:
    """A worker prepares data before training: `done` of `of` units of the work `what`."""

    what: str
    done: int
    of: int


@dataclass(frozen=True)
class Progress:
    """The progress of training, for the cells of `TrainingStarted`.

    In `cells_done`, an epoch of a cell counts as a fraction of it. `finished` are stored, and workers train
    `training` at the moment. `seconds_left` is None while unknown.
    """

    cells_done: float
    cells: int
    seconds_left: float | None = None
    finished: int = 0
    training: int = 0


@dataclass(frozen=True)
class ChunkFinished:
    """A chunk of one panel and seed is stored; it took `seconds`."""

    panel: str
    seed: int
    outcomes: Sequence[Outcome]
    seconds: float
    progress: Progress


@dataclass(frozen=True)
class Notice:
    """Something the user should read, in one line."""

    text: str


@dataclass(frozen=True)
class TrainingEnded:
    """No worker is left."""

    study: str


@dataclass(frozen=True)
class Interrupted:
    """Ctrl-C: the workers have ended and their cells are released. `finished` of `cells` are stored."""

    study: str
    finished: int
    cells: int


@dataclass(frozen=True)
class SweepEnded:
    """The end of a sweep: `finished` of `cells` cells are stored; a search counts only those that it chose.

    `failed` cells failed. Other processes hold `elsewhere` cells, whose last lease ends at `until` if it is not renewed
    (seconds since the epoch). `waiting` were put back meanwhile by another process.
    """

    study: str
    cells: int
    finished: int
    failed: int = 0
    elsewhere: int = 0
    waiting: int = 0
    until: float | None = None

    @property
    def missing(self) -> int:
        """How many cells have no result."""
        return self.cells - self.finished


Event = (
    Replaced
    | Planned
    | SlowSearch
    | RoundChosen
    | Waiting
    | TrainingStarted
    | Preparing
    | Progress
    | ChunkFinished
    | Notice
    | TrainingEnded
    | Interrupted
    | SweepEnded
)
Listener = Callable[[Event], None]
