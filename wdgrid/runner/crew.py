"""Manages the workers of a sweep and the cells that each of them holds."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from wdgrid.errors import MachineError
from wdgrid.runner.handle import END_S, Worker, signals_deferred, wait_for_piped
from wdgrid.runner.messages import Done, Message, Order, Stopped
from wdgrid.runner.reconcile import Content
from wdgrid.store import Claim

MAX_DEATHS = 3  # workers that may die without a finished chunk in between, before the sweep ends
IDLE_S = 60.0  # a worker without messages and processor time for this long hangs; five times as long in preparation
SILENT_S = 3600.0  # a worker without messages for this long hangs, even if it uses the processor
WATCH_S = 15.0  # at most, between two checks of the workers
Start = Callable[[Mapping[str, str]], Worker]  # starts a worker with these environment variables
Wait = Callable[[Sequence[Worker], float], Iterable[Worker]]  # the workers that sent a message within this many seconds


@dataclass(eq=False)
class Member:
    """A worker, the cells it holds, and its progress."""

    worker: Worker
    claims: list[Claim] = field(default_factory=list[Claim])
    size: int = 1  # K of its chunk
    epochs: int = 1
    epochs_done: int = 0
    part: float = 0.0  # of the current epoch
    first_part: tuple[float, float] | None = None  # time of its first report within an epoch, and the part
    started: float = 0.0
    epoch_ended: float = 0.0
    content: Content = None  # the hashes of its images' files
    silent_s: float = 0.0  # since its last message
    idle_s: float = 0.0  # the same, or since it last used the processor
    used_s: float | None = None  # of the processor

    def train(self, order: Order, claims: list[Claim]) -> None:
        """Sends a chunk. Raises OSError if the worker is gone; it still holds the claims then."""
        self.claims, self.size, self.epochs, self.epochs_done = claims, order.size, order.epochs, 0
        self.part, self.first_part = 0.0, None
        self.started = self.epoch_ended = time.monotonic()
        self.worker.send(order)

    def heard(self) -> None:
        """Notes that the worker sent a message."""
        self.silent_s = self.idle_s = 0.0

    def watched(self, seconds: float) -> str | None:
        """Adds `seconds` of observation. Returns why the worker is considered hung; None if it is not."""
        used = self.worker.processor_seconds()
        self.idle_s = self.idle_s + seconds if used is not None and used == self.used_s else 0.0
        self.silent_s, self.used_s = self.silent_s + seconds, used
        if self.idle_s > IDLE_S * (1 if self.claims else 5):
            return f"no sign of life for {self.idle_s:.0f} s, and no use of the processor"
        return f"no step done in {self.silent_s / 60:.0f} minutes" if self.silent_s > SILENT_S else None

    @property
    def cells_done(self) -> float:
        """The worker's part of the sweep's progress; an epoch of a cell counts as a fraction of the cell."""
        return len(self.claims) * (self.epochs_done + self.part) / self.epochs


class Crew:
    """The running workers. A context manager: at its end the workers end, and unfinished cells are put back.

    `finish` is called with a chunk that a worker finishes after it was asked to end. `saved` is the number of cells
    whose training was then saved in a checkpoint.
    """

    def __init__(
        self,
        start: Start,
        release: Callable[[list[Claim]], object],
        finish: Callable[[Member, Done], object],
        wait: Wait = wait_for_piped,
    ) -> None:
        self._start, self._release, self._finish, self._wait = start, release, finish, wait
        self.members: list[Member] = []
        self.saved = 0
        self._deaths = 0
        self._watched = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with signals_deferred():
            for member in self.members:
                member.worker.ask_to_end()  # at the same time, so that several take no longer than one
            try:
                self._last_messages()
            finally:
                for member in self.members:
                    member.worker.stop()
            for member in self.members:
                self.put_back(member)

    def _last_messages(self) -> None:
        """Reads the last messages of workers that were asked to end, for at most END_S seconds."""
        ends = time.monotonic() + END_S
        members = {member.worker: member for member in self.members}
        while members and (left := ends - time.monotonic()) > 0:
            for worker in self._wait(list(members), left):
                for message in worker.receive():
                    match message:
                        case None:
                            members.pop(worker)
                        case Done():
                            self._finish(members[worker], message)
                        case Stopped(saved=True):
                            self.saved += len(members[worker].claims)
                        case _:
                            pass

    def hire(self, environment: Mapping[str, str] | None = None) -> None:
        """Starts one more worker."""
        with signals_deferred():
            self.members.append(Member(self._start(environment or {})))

    def messages(self, timeout: float) -> Iterator[tuple[Member, Message | None]]:
        """The workers' messages within `timeout` seconds; None: the worker died."""
        by_worker = {member.worker: member for member in self.members}
        for worker in self._wait(list(by_worker), timeout):
            if not any(member.worker is worker for member in self.members):
                continue  # it was dismissed meanwhile
            by_worker[worker].heard()
            for message in worker.receive():
                yield by_worker[worker], message

    def hanging(self) -> Iterator[tuple[Member, str]]:
        """The workers that are considered hung, with the reason. Call it every few seconds.

        Time in which this process itself was stopped counts as one call.
        """
        seconds, self._watched = time.monotonic() - self._watched, time.monotonic()
        for member in list(self.members):
            if why := member.watched(min(seconds, 2 * WATCH_S)):
                yield member, why

    def chunk_finished(self) -> None:
        """Resets the count of workers that died."""
        self._deaths = 0

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

    def dismiss_surplus(self, chunks: int) -> None:
        """Stops workers without cells if there are more of them than chunks."""
        surplus = [member for member in self.members if not member.claims][chunks:]
        for member in surplus:
            member.worker.ask_to_end()
        for member in surplus:
            self.dismiss(member)

    def replace_dead(self, member: Member) -> None:
        """Replaces a worker that died or hangs. Raises MachineError after MAX_DEATHS of them."""
        self._deaths += 1
        self.members.remove(member)
        member.worker.kill()
        self.put_back(member)
        if self._deaths >= MAX_DEATHS:
            raise MachineError(
                f"{self._deaths} worker processes died or hung (out of memory?); finished cells are stored"
            )
        self.hire()
