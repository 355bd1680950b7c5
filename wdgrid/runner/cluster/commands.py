"""What a sweep and the process that holds its connection to Ray send each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wdgrid.runner.messages import Message, Order
from wdgrid.study.sections import Task


@dataclass(frozen=True)
class Connect:
    """To the bridge, first: the cluster, and what its workers take of it.

    `code` is a folder with the user's own modules, None where there are none. `gpus` is what each worker takes of a
    GPU; None: one where the task may use a GPU and the cluster has any.
    """

    address: str
    code: Path | None
    gpus: float | None
    task: Task


@dataclass(frozen=True)
class Start:
    """To the bridge: start a worker for chunks of K = `chunk` cells, with these environment variables."""

    worker: int
    task: Task
    cells: int
    chunk: int | None
    variables: Mapping[str, str]


@dataclass(frozen=True)
class Send:
    """To the bridge: this order is for a worker. `pull`: its checkpoints are kept on this machine."""

    worker: int
    order: Order
    pull: bool


@dataclass(frozen=True)
class End:
    """To the bridge: ask a worker to save what it is training and to end."""

    worker: int


@dataclass(frozen=True)
class Stop:
    """To the bridge: end a worker. `refuse`: no other one is started on its node."""

    worker: int
    refuse: bool = False


@dataclass(frozen=True)
class Mail:
    """From the bridge: the worker has a place; what it sent. None stands for its death."""

    worker: int
    messages: Sequence[Message | None]


@dataclass(frozen=True)
class Room:
    """From the bridge: for how many workers the cluster has room, and what a worker waits for (None: nothing).

    `refused` is the number of nodes on which no worker is started.
    """

    slots: int
    placed: int
    waits_for: str | None
    refused: int


@dataclass(frozen=True)
class Broken:
    """From the bridge, last: why there is no cluster any more, in one line."""

    why: str


Command = Start | Send | End | Stop
