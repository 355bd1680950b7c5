"""Defines the messages between the coordinator and a worker."""

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
        """The first part of this chunk's checkpoint names: panel, seed, and a hash of the study and every cell."""
        first = self.cells[0]
        chunk = [f"{c.multiples[0]} {c.multiples[1]}" for c in self.cells]
        facts = json.dumps([self.digest, first.panel, first.seed, self.size, chunk])
        return f"{first.panel}-{first.seed}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Measure:
    """To a worker that has no chunk yet: measure the backend and K that train such cells fastest."""

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
    """From a worker: restart it with these environment variables, so that it computes equal cells equally."""

    environment: dict[str, str]


@dataclass(frozen=True)
class Ready:
    """From a worker: data and network are loaded. `chunk` is K, the cells that it trains together.

    `remark` is for the user. `pass_seconds` is roughly the time of one training pass and one test pass of the K cells;
    None if there was none. `content` is the SHA-256 of the files of the training and test images; None if a program
    makes them.
    """

    environment: dict[str, Any]
    chunk: int
    remark: str | None
    content: tuple[str, str] | None = None
    pass_seconds: float | None = None


@dataclass(frozen=True)
class Epoch:
    """From a worker: `done` epochs of the chunk are finished."""

    done: int


@dataclass(frozen=True)
class Alive:
    """From a worker, every few seconds within an epoch: `done` epochs, with a fraction for the current one."""

    done: float


@dataclass(frozen=True)
class Stopped:
    """From a worker that was asked to end: it stopped its chunk. `saved`: a checkpoint holds the progress."""

    saved: bool


@dataclass(frozen=True)
class Done:
    """From a worker: the outcomes of its chunk."""

    outcomes: list[Outcome]


@dataclass(frozen=True)
class Fault:
    """From a worker: it failed. `users`: the study is at fault, not the machine."""

    why: str
    users: bool


@dataclass(frozen=True)
class OutOfMemory:
    """From a worker: the chunk did not fit into memory."""

    why: str


@dataclass(frozen=True)
class Lost:
    """From a cluster: the worker was lost with its node. `node` is the node's address, None if unknown."""

    node: str | None


Message = Preparing | Measured | Restart | Ready | Epoch | Alive | Notice | Stopped | Done | Fault | OutOfMemory | Lost
