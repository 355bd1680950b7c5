"""The workers of a sweep and the cells that each of them holds."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from wdgrid.errors import MachineError
from wdgrid.runner.handle import Worker, wait_for_piped
from wdgrid.runner.messages import Message, Order
from wdgrid.runner.reconcile import Content
from wdgrid.store import Claim

MAX_DEATHS = 3  # workers that may die before the sweep gives up
Start = Callable[[Mapping[str, str]], Worker]  # starts a worker with these environment variables
Wait = Callable[[Sequence[Worker], float], Iterable[Worker]]  # those that sent something within so many seconds


@dataclass(eq=False)
class Member:
    """A worker, the cells it holds, and how far it is with them."""

    worker: Worker
    claims: list[Claim] = field(default_factory=list[Claim])
    size: int = 1  # K of its chunk
    epochs: int = 1
    epochs_done: int = 0
    started: float = 0.0
    epoch_ended: float = 0.0
    content: Content = None  # what its images came from

    def train(self, order: Order, claims: list[Claim]) -> None:
        """Sends a chunk. Raises OSError if the worker is gone; it holds the claims all the same."""
        self.claims, self.size, self.epochs, self.epochs_done = claims, order.size, order.epochs, 0
        self.started = self.epoch_ended = time.monotonic()
        self.worker.send(order)

    @property
    def cells_done(self) -> float:
        """Its part of the sweep's progress: an epoch of a cell counts as a fraction of it."""
        return len(self.claims) * self.epochs_done / self.epochs


class Crew:
    """The workers at work. As a context manager it ends them; cells that nobody finished are put back."""

    def __init__(self, start: Start, release: Callable[[list[Claim]], object], wait: Wait = wait_for_piped) -> None:
        self._start, self._release, self._wait = start, release, wait
        self.members: list[Member] = []
        self._deaths = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.worker.ask_to_end()  # all at once, so that several which tidy up take no longer than one
        for member in self.members:
            member.worker.stop()
        for member in self.members:
            self.put_back(member)

    def hire(self, environment: Mapping[str, str] | None = None) -> None:
        """Starts one more worker."""
        self.members.append(Member(self._start(environment or {})))

    def messages(self, timeout: float) -> Iterator[tuple[Member, Message | None]]:
        """What workers send within `timeout` seconds; None stands for the death of one."""
        by_worker = {member.worker: member for member in self.members}
        for worker in self._wait(list(by_worker), timeout):
            for message in worker.receive():
                yield by_worker[worker], message

    def put_back(self, member: Member) -> None:
        """Releases the cells that a worker holds."""
        if member.claims:
            self._release(member.claims)
        member.claims = []

    def dismiss(self, member: Member) -> None:
        """Stops a worker; its cells are put back."""
        self.members.remove(member)
        member.worker.stop()
        self.put_back(member)

    def replace_dead(self, member: Member) -> None:
        """Starts a worker in the place of one that died. Raises MachineError when too many have."""
        self._deaths += 1
        self.dismiss(member)
        if self._deaths >= MAX_DEATHS:
            raise MachineError(f"{self._deaths} worker processes died (out of memory?); finished cells are stored")
        self.hire()
