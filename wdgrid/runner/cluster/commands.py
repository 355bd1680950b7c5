"""Defines the messages between a sweep and the bridge, which holds its connection to Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wdgrid.runner.messages import Message, Order
from wdgrid.study.sections import Task


@dataclass(frozen=True)
class Connect:
    """To the bridge, first: the cluster, and the resources of a worker.

    `code` is a folder with the user's own modules, None if there are none. `gpus` is the number of GPUs per worker;
    None: one if the task may use a GPU and the cluster has any.
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
    """To the bridge: send this order to a worker. `pull`: copy its checkpoints to this machine."""

    worker: int
    order: Order
    pull: bool


@dataclass(frozen=True)
class End:
    """To the bridge: ask a worker to save its training and to end."""

    worker: int


@dataclass(frozen=True)
class Stop:
    """To the bridge: end a worker. `refuse`: no other one is started on its node."""

    worker: int
    refuse: bool = False


@dataclass(frozen=True)
class Mail:
    """From the bridge: the worker has a place, and these are its messages. None: the worker died."""

    worker: int
    messages: Sequence[Message | None]


@dataclass(frozen=True)
class Room:
    """From the bridge: how many workers fit on the cluster, and what a worker waits for (None: nothing).

    `refused` is the number of nodes on which no worker is started.
    """

    slots: int
    placed: int
    waits_for: str | None
    refused: int


@dataclass(frozen=True)
class Broken:
    """From the bridge, last: why the connection to the cluster ended, in one line."""

    why: str


Command = Start | Send | End | Stop
