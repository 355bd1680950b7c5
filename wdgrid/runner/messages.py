"""What the coordinator and a worker send each other."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wdgrid.runner.events import Notice, Preparing
from wdgrid.study import Cell, Outcome
from wdgrid.study.sections import Schedule


@dataclass(frozen=True)
class Order:
    """To a worker: train these cells."""

    optimizer: str
    schedule: Schedule
    epochs: int
    normalized: bool
    cells: Sequence[Cell]
    size: int
    checkpoints: Path  # folder of the study's checkpoints
    digest: str  # of the study: a checkpoint of another one is never used
    every: float  # seconds between checkpoints

    @property
    def stem(self) -> str:
        """The first part of the names of this chunk's checkpoints: of the study and of every cell in it."""
        first = self.cells[0]
        chunk = [f"{c.multiples[0]} {c.multiples[1]}" for c in self.cells]
        facts = json.dumps([self.digest, first.panel, first.seed, self.size, chunk])
        return f"{first.panel}-{first.seed}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Measure:
    """To a worker that trains nothing yet: find out by what backend and with what K such cells are trained fastest."""

    optimizer: str
    schedule: Schedule
    epochs: int
    normalized: bool
    cells: Sequence[Cell]  # of one panel and seed


@dataclass(frozen=True)
class Measured:
    """From a worker: the fastest backend and K, and µs a step of a cell by candidate."""

    backend: str
    chunk: int
    microseconds: dict[str, float]


@dataclass(frozen=True)
class Restart:
    """From a worker: it must be started again with these environment variables, to compute equal cells equally."""

    environment: dict[str, str]


@dataclass(frozen=True)
class Ready:
    """From a worker: data and network are loaded. `chunk` is K, the cells that it trains together.

    `remark` is for the user. `pass_seconds` is roughly what one pass of training and one of test took the K cells; None
    where there was none.
    `content` is the SHA-256 of the files that training and test images came from; None where a program makes them.
    """

    environment: dict[str, Any]
    chunk: int
    remark: str | None
    content: tuple[str, str] | None = None
    pass_seconds: float | None = None


@dataclass(frozen=True)
class Epoch:
    """From a worker: so many epochs of the chunk are done."""

    done: int


@dataclass(frozen=True)
class Alive:
    """From a worker, every few seconds within an epoch: `done` epochs of the chunk are done, the last one in part."""

    done: float


@dataclass(frozen=True)
class Stopped:
    """From a worker that was asked to end: it left its chunk. `saved`: a checkpoint has what was done."""

    saved: bool


@dataclass(frozen=True)
class Done:
    """From a worker: the outcomes of its chunk."""

    outcomes: list[Outcome]


@dataclass(frozen=True)
class Fault:
    """From a worker: it failed. `users` if the study is at fault rather than the machine."""

    why: str
    users: bool


@dataclass(frozen=True)
class OutOfMemory:
    """From a worker: the chunk did not fit into memory; only its time is lost."""

    why: str


@dataclass(frozen=True)
class Lost:
    """From a cluster: the worker's node is gone, and the worker with it. `node` is its address, None if not known."""

    node: str | None


Message = Preparing | Measured | Restart | Ready | Epoch | Alive | Notice | Stopped | Done | Fault | OutOfMemory | Lost
