"""A sweep: pending cells → chunks → workers → store, until nothing is missing.

The caller gets progress as events and decides how to show it.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from wdgrid.errors import MachineError, UsersFaultError
from wdgrid.runner import environment
from wdgrid.runner.eta import Pace, chunk_epochs
from wdgrid.runner.reconcile import Content, keep_content, must_be_as_planned
from wdgrid.runner.worker import Done, Epoch, Fault, Order, OutOfMemory, Preparing, Ready, Restart, Worker
from wdgrid.store import Claim, Only, Store, owner_name
from wdgrid.study import Outcome, Study

LEASE_S = 120.0
RENEW_S = 30.0
MAX_DEATHS = 3  # worker processes that may die before the sweep gives up


@dataclass(frozen=True)
class Progress:
    """What is told after every message from a worker. `cells_done` counts this run's, epochs as fractions of a cell."""

    cells_done: float
    cells_total: int
    chunk: tuple[str, int, list[Outcome], float] | None = None  # panel, seed, outcomes, seconds; when one finished
    preparing: Preparing | None = None  # before training
    left: float | None = None  # seconds to go; None while unknown
    note: str | None = None  # something that happened on the way


@dataclass
class _Running:
    """A worker and what it is at."""

    worker: Worker
    claims: list[Claim] = field(default_factory=list)
    epochs: int = 1
    size: int = 1
    epochs_done: int = 0
    started: float = 0.0
    epoch_at: float = 0.0  # when the last epoch ended
    content: Content = None  # what its images came from


class Sweep:
    """One run over a planned study's pending cells. Use as `Sweep(...).run()`; progress comes by callback.

    Long chunks leave checkpoints in the folder `checkpoints`, one every `every` seconds. `only` names the cells to be
    trained, by panel their multiples; all cells if not given.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        study: Study,
        workers: int,
        tell: Callable[[Progress], None],
        checkpoints: Path,
        every: float = 300.0,
        only: Only = None,
    ) -> None:
        self.store, self.name, self.study, self.tell, self.only = store, name, study, tell, only
        self.checkpoints, self.every = checkpoints.absolute(), every
        self.owner = owner_name()
        self.panels = study.panel_names()
        self.pending = store.pending(name, only)
        self.total = sum(self.pending.values())
        self.wanted = min(workers, self.total)
        self.done = 0
        self.deaths = 0
        self.size = store.attrs(name).get("chunk")
        self.pace: Pace | None = None  # from the first worker that stands
        self.began = 0.0
        self.failures: list[str] = []
        self.facts: dict[str, Any] = {}  # the environment of the first worker that stood

    def run(self) -> None:
        """Trains what is pending. Raises UsersFaultError, StudyFileError or MachineError; what is finished is stored.

        An interrupt (Ctrl-C) passes through after the claimed cells were put back.
        """
        if not self.total:
            return
        with self._crew() as crew:
            renewed = time.monotonic()
            while crew:
                for connection in wait([r.worker.connection for r in crew], timeout=RENEW_S / 2):
                    running = next(r for r in crew if r.worker.connection is connection)
                    self._hear(running, crew)
                if time.monotonic() - renewed > RENEW_S:
                    self.store.renew(self.owner, LEASE_S)
                    renewed = time.monotonic()
        self._remember_pace()
        if set(self.store.table(self.name)["state"]) == {"complete"}:
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        if self.failures:
            raise MachineError(f"{len(self.failures)} chunks failed; the last one: {self.failures[-1]}")

    @contextmanager
    def _crew(self) -> Iterator[list[_Running]]:
        """The workers; whatever happens, they end and cells that nobody finished are put back."""
        crew: list[_Running] = []
        try:
            crew += [_Running(self._worker()) for _ in range(self.wanted)]
            yield crew
        finally:
            for running in crew:
                running.worker.stop()
                if running.claims:
                    self.store.release([c.trial_id for c in running.claims], self.owner)

    def _worker(self, environment: Mapping[str, str] | None = None) -> Worker:
        cells = math.prod(len(axis.values) for axis in self.study.axes.values())
        return Worker(self.study.task, cells, self.size, environment)

    def _hear(self, running: _Running, crew: list[_Running]) -> None:
        """One message from a worker."""
        try:
            message = running.worker.connection.recv()
        except (EOFError, OSError):
            self._bury(running, crew)
            return
        match message:
            case Ready():
                running.content = message.content
                if self._is_of_use(running, message, crew):
                    self._settle(message, crew)
                    self._assign(running, crew)
                else:
                    self._dismiss(running, crew)
            case Restart():
                self._dismiss(running, crew)
                crew.append(_Running(self._worker(message.environment)))
            case Preparing():
                self._tell(crew, preparing=message)
            case Epoch():
                self._note_epoch(running, message.done)
                self._tell(crew)
            case Done():
                self._finish(running, message, crew)
                self._assign(running, crew)
            case OutOfMemory():
                self._shrink(running, message.why, crew)
                self._assign(running, crew)
            case Fault() if message.users:
                raise UsersFaultError(message.why)
            case Fault():
                self._fail(running, message.why)
                self._assign(running, crew)

    def _is_of_use(self, running: _Running, ready: Ready, crew: list[_Running]) -> bool:
        """Whether a worker that stands is of use beside those at work: one feeds a GPU, and all round alike."""
        if not any(r.claims for r in crew if r is not running):
            return True
        if changes := environment.changes(self.facts, ready.environment):
            self._tell(crew, note=f"a worker that rounds otherwise than the first is left out: {changes}")
        return not changes and not ready.environment["device"].startswith("cuda")

    def _settle(self, ready: Ready, crew: list[_Running]) -> None:
        """What the study was trained on and its chunk size, once a study; environment, once a run."""
        keep_content(self.store, self.name, self.study, ready.content)
        if ready.remark and not self.facts:
            self._tell(crew, note=ready.remark)
        self.facts = ready.environment
        if self.size is None:
            self.size = ready.chunk
            self.store.set_attrs(self.name, {"chunk": self.size})
        if self.pace is None:
            budgets = {name: self.study.panel_epochs(panel) for name, panel in self.panels.items()}
            self.pace = Pace(chunk_epochs(self.pending, budgets, self.size), self.wanted)
            self.began = time.monotonic()
        earlier = environment.stored_environment(self.store.attrs(self.name)) if self.store.begun(self.name) else {}
        if changes := environment.changes(earlier, ready.environment):
            self._tell(crew, note=f"from here on cells are rounded otherwise, which training amplifies: {changes}")
        self._remember(**ready.environment | environment.merged(earlier, ready.environment), workers=self.wanted)

    def _assign(self, running: _Running, crew: list[_Running]) -> None:
        """The next chunk for a worker, or its end."""
        running.claims, running.epochs_done = [], 0
        for panel_name, seed in list(self.pending):
            claims = self.store.claim(self.name, panel_name, seed, self.size or 1, self.owner, LEASE_S, self.only)
            if not claims:
                del self.pending[panel_name, seed]
                continue
            panel = self.panels[panel_name]
            running.claims, running.epochs = claims, self.study.panel_epochs(panel)
            must_be_as_planned(self.store, self.name, self.study, running.content)
            running.size = self.size or 1
            running.started = running.epoch_at = time.monotonic()
            cells = [c.cell for c in claims]
            try:
                running.worker.send(
                    Order(
                        panel.optimizer,
                        panel.schedule,
                        running.epochs,
                        self.study.normalized(panel),
                        cells,
                        running.size,
                        self.checkpoints,
                        self.study.digest(),
                        self.every,
                    )
                )
            except OSError:
                self._bury(running, crew)
            return
        self._dismiss(running, crew)

    def _dismiss(self, running: _Running, crew: list[_Running]) -> None:
        running.worker.stop()
        crew.remove(running)

    def _finish(self, running: _Running, message: Done, crew: list[_Running]) -> None:
        results = list(zip(running.claims, message.outcomes, strict=True))
        self.done += self.store.finish(results, self.owner)
        cell = running.claims[0].cell
        running.claims = []
        seconds = time.monotonic() - running.started
        self._tell(crew, chunk=(cell.panel, cell.seed, message.outcomes, seconds))

    def _fail(self, running: _Running, why: str) -> None:
        self.store.fail([c.trial_id for c in running.claims], why, self.owner)
        self.failures.append(why)
        running.claims = []

    def _shrink(self, running: _Running, why: str, crew: list[_Running]) -> None:
        """Memory ran out: the cells go back, and from here on half as many go together. One alone is a failure."""
        if running.size == 1:
            self._fail(running, why)
            return
        self.store.release([c.trial_id for c in running.claims], self.owner)
        running.claims = []
        self.pending = self.store.pending(self.name, self.only)
        if self.size == running.size:  # the first to tell; others may still be at the old size
            self.size = math.ceil(running.size / 2)
            note = f"memory ran out with {running.size} cells at once: {self.size} from here on"
            self.store.set_attrs(self.name, {"chunk": self.size})
            self._remember(memory=note)
            self._tell(crew, note=note)

    def _bury(self, running: _Running, crew: list[_Running]) -> None:
        """A worker process died: its cells go back, another takes its place, up to a point."""
        self.deaths += 1
        crew.remove(running)
        if running.claims:
            self.store.release([c.trial_id for c in running.claims], self.owner)
        running.claims = []
        running.worker.stop()
        if self.deaths >= MAX_DEATHS:
            raise MachineError(f"{self.deaths} worker processes died (out of memory?); what was finished is kept")
        crew.append(_Running(self._worker()))

    def _note_epoch(self, running: _Running, done: int) -> None:
        """A worker's epoch: how fast it goes. One that went on from a checkpoint tells nothing of that."""
        now, new = time.monotonic(), done - running.epochs_done
        running.epochs_done = done
        if self.pace and new == 1:
            self.pace.epoch(now - running.epoch_at, now - self.began)
        elif self.pace:
            self.pace.to_go -= new
        running.epoch_at = now

    def _tell(self, crew: list[_Running], **what: Any) -> None:
        cells = self.done + sum(len(r.claims) * r.epochs_done / r.epochs for r in crew)
        self.tell(Progress(cells, self.total, left=self.pace and self.pace.left, **what))

    def _remember_pace(self) -> None:
        """For the report: how far off the first guess was."""
        if self.pace is None or self.pace.first is None:
            return
        expected, took = self.pace.first, time.monotonic() - self.began
        off = f"{100 * (expected / took - 1):+.0f} %"
        self._remember(training=f"{took:.0f} s; {expected:.0f} s were expected after the first epochs ({off})")

    def _remember(self, **entries: Any) -> None:
        """Adds to what the study says of the machine and of the run."""
        earlier = environment.stored_environment(self.store.attrs(self.name))
        self.store.set_attrs(self.name, {"environment": {**earlier, **entries}})


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
