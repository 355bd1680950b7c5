"""Trains the pending cells of a planned study: sends chunks to workers and stores their outcomes."""

import contextlib
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wdgrid.errors import MachineError, UsersFaultError
from wdgrid.runner import environment
from wdgrid.runner.cluster import Cluster, ClusterWorker
from wdgrid.runner.crew import WATCH_S, Crew, Member
from wdgrid.runner.environment import remember
from wdgrid.runner.eta import Pace, chunk_epochs, repays_measuring
from wdgrid.runner.events import ChunkFinished, Listener, Notice, Preparing, Progress
from wdgrid.runner.handle import (
    ProcessWorker,
    ThreadWorker,
    Worker,
    end_early,
    memory_for_workers,
    signals_deferred,
    wait_for_piped,
)
from wdgrid.runner.messages import (
    Alive,
    Done,
    Epoch,
    Fault,
    Lost,
    Measure,
    Measured,
    Message,
    Order,
    OutOfMemory,
    Ready,
    Restart,
    Stopped,
)
from wdgrid.runner.naming import summary
from wdgrid.runner.reconcile import Content, keep_content, must_be_as_planned
from wdgrid.store import Claim, Only, Store, owner_name
from wdgrid.study import Study

LEASE_S = 120.0
RENEW_S = 30.0


@dataclass(frozen=True)
class Means:
    """The workers of a sweep, and the folder for its checkpoints.

    Either a number of `workers` on this machine, or one in this process, or those of a `cluster` (`workers` None: as
    many as fit on it).
    """

    workers: int | None
    checkpoints: Path  # folder
    checkpoint_seconds: float = 300.0
    in_process: bool = False
    cluster: Cluster | None = None


class Coordinator:
    """One run over a study's pending cells. `only` restricts it to these multiples, by panel; None: all cells."""

    def __init__(
        self, store: Store, name: str, study: Study, means: Means, listen: Listener, only: Only = None
    ) -> None:
        self.store, self.name, self.study, self.means, self.listen, self.only = store, name, study, means, listen, only
        self.owner = owner_name()
        self.panels = study.panel_names()
        self.pending = store.pending(name, only)
        self.total = sum(self.pending.values())
        self.cluster, attributes = means.cluster, store.attrs(name)
        self.size: int | None = attributes.get("chunk")  # K; the first worker chooses it
        most = self._chunks() if self.cluster else min(self._chunks(), memory_for_workers())
        self.workers = 1 if means.in_process else max(1, min(self._wanted(), most))
        self.backend: str | None = attributes.get("backend")  # if it was measured
        self.measuring: Member | None = None
        self.ready: list[tuple[Ready, Member]] = []  # workers that wait for the measurement
        self.done = 0
        self.began = 0.0
        self.pace: Pace | None = None  # set when the first worker is ready
        self.facts: dict[str, Any] = {}  # the environment of the first worker that was ready
        self.content: Content = None  # the hashes of its images' files
        self.failures: list[str] = []
        self.warnings: set[str] = set()

    def run(self) -> None:
        """Trains the pending cells. Raises UsersFaultError, StudyFileError or MachineError; finished cells are stored.

        An interrupt (Ctrl-C) passes through, after the claimed cells were put back.
        """
        wait = self.cluster.wait if self.cluster else wait_for_piped
        crew = Crew(self._start_worker, self._release, self._finish, wait)
        try:
            self._train(crew)
        except KeyboardInterrupt:
            with signals_deferred():  # the signal may have come between a claim and its assignment to a worker
                self.store.release_all(self.owner)
            raise
        finally:
            if crew.saved:
                self.listen(Notice(f"{crew.saved} cells in training are saved: the next sweep goes on from there"))
        self._remember_pace()
        now = summary(self.store, self.name)
        if now.n_complete == now.n_cells:
            shutil.rmtree(self.means.checkpoints, ignore_errors=True)
        if self.failures:
            raise MachineError(f"{len(self.failures)} chunks failed; the last one: {self.failures[-1]}")

    def _train(self, crew: Crew) -> None:
        with crew:
            for _ in range(self.workers):
                crew.hire()
            end_early()
            renewed = watched = time.monotonic()
            while crew.members and (self.pending or any(member.claims for member in crew.members)):
                for member, message in crew.messages(WATCH_S):
                    self._handle(message, member, crew)
                if time.monotonic() - watched >= WATCH_S:
                    self._replace_hanging(crew)
                    watched = time.monotonic()
                if time.monotonic() - renewed > RENEW_S:
                    self.store.renew(self.owner, LEASE_S)
                    renewed = time.monotonic()
                if self.cluster:
                    self._follow(self.cluster, crew)

    def _replace_hanging(self, crew: Crew) -> None:
        for member, why in crew.hanging():
            self.listen(Notice(f"a worker process hangs ({why}): another one takes its place"))
            self._replace(member, crew)

    def _start_worker(self, variables: Mapping[str, str]) -> Worker:
        cells = math.prod(len(axis.values) for axis in self.study.axes.values())
        if self.means.in_process:
            return ThreadWorker(self.study.task, cells, self.size, self.backend)
        if self.cluster:
            return self.cluster.start(cells, self.size, variables)
        return ProcessWorker(self.study.task, cells, self.size, variables, self.backend)

    def _release(self, claims: list[Claim]) -> None:
        self.store.release([claim.trial_id for claim in claims], self.owner)

    def _handle(self, message: Message | None, member: Member, crew: Crew) -> None:
        match message:
            case None:
                self._replace(member, crew)
            case Lost():
                if message.node:
                    self._warn(f"node {message.node} is gone; the cells of its workers wait again")
                self._wait_again(member)
                crew.dismiss(member)
            case Preparing():
                self.listen(message)
            case Restart():
                self._wait_again(member)
                crew.dismiss(member)
                crew.hire(message.environment)
            case Ready():
                self._meet(message, member, crew)
            case Measured():
                self._choose(message, crew)
            case Epoch():
                self._note_epoch(member, message.done)
                self.listen(self._progress(crew))
            case Notice():
                self._warn(message.text)
            case Alive():
                self._note_part(member, message.done)
                self.listen(self._progress(crew))
            case Stopped():  # another process sent SIGTERM to the worker
                self._replace(member, crew)
            case Done():
                self._store(message, member, crew)
                self._assign(member, crew)
            case OutOfMemory():
                self._halve(member, message.why, crew)
                self._assign(member, crew)
            case Fault() if message.users:
                raise UsersFaultError(message.why)
            case Fault():
                self._fail(member, message.why)
                self._assign(member, crew)

    def _warn(self, text: str) -> None:
        """Reports a worker's warning, once if several chunks or workers give the same."""
        if text not in self.warnings:
            self.warnings.add(text)
            self.listen(Notice(text))

    # A cluster with a changing number of nodes

    def _wanted(self) -> int:
        return self.cluster.wanted(self.means.workers) if self.cluster else self.means.workers or 1

    def _follow(self, cluster: Cluster, crew: Crew) -> None:
        """Starts as many workers as fit on the cluster, while there are cells for them."""
        busy = sum(bool(member.claims) for member in crew.members)
        for _ in range(len(crew.members), min(self._wanted(), busy + self._chunks())):
            crew.hire()
        if cluster.all_refused and not busy:
            raise MachineError("no node of the cluster is like this study's other workers; finished cells are stored")
        if text := cluster.notice(self.means.workers):
            self._warn(text)
        for member in crew.members:
            if isinstance(member.worker, ClusterWorker) and not member.worker.placed:
                member.heard()  # a worker without a place is not hung
        if self.pace:
            self.pace.workers = max(1, busy)

    # A worker is ready

    def _meet(self, ready: Ready, member: Member, crew: Crew) -> None:
        """Lets the first worker of a long new study measure the backends; the others wait for it."""
        if self.size is not None or not (self.measuring or self._repays(ready)):
            self._welcome(ready, member, crew)
            return
        self.ready.append((ready, member))
        if self.measuring is None:
            self.measuring = member
            panel_name, seed = next(iter(self.pending))
            panel = self.panels[panel_name]
            cells = [cell for cell in self.study.cells()[panel_name] if cell.seed == seed]
            epochs, normalized = self.study.panel_epochs(panel), self.study.normalized(panel)
            order = Measure(panel.optimizer, panel.schedule, epochs, normalized, cells)
            if isinstance(member.worker, ProcessWorker | ThreadWorker):
                with contextlib.suppress(OSError):  # it died already
                    member.worker.measure(order)

    def _repays(self, ready: Ready) -> bool:
        if self.cluster or not ready.pass_seconds or not ready.environment["device"].startswith("cpu"):
            return False
        budgets = {name: self.study.panel_epochs(panel) for name, panel in self.panels.items()}
        steps = chunk_epochs(self.pending, budgets, ready.chunk) * ready.environment["steps_per_epoch"]
        return repays_measuring(steps, ready.pass_seconds, self.workers)

    def _choose(self, measured: Measured, crew: Crew) -> None:
        """Stores the fastest backend and K with the study; workers that started with others are restarted."""
        self.measuring, waiting = None, self.ready
        self.ready = []
        choice = {"backend": measured.backend, "chunk": measured.chunk}
        choice = self.store.keep(self.name, "choice", choice)
        self.backend, self.size = choice["backend"], choice["chunk"]
        self.store.set_attrs(self.name, {"chunk": self.size, "backend": self.backend})
        times = ", ".join(f"{name} {time:g}" for name, time in measured.microseconds.items())
        text = f"{self.backend} × {self.size} is taken; µs a step of a cell, measured: {times}"
        remember(self.store, self.name, measured=text)
        self.listen(Notice(text))
        if all((ready.environment["backend"], ready.chunk) == (self.backend, self.size) for ready, _ in waiting):
            for ready, member in waiting:
                self._welcome(ready, member, crew)
            return
        for member in list(crew.members):  # none of them is training yet
            crew.dismiss(member)
            crew.hire()

    def _welcome(self, ready: Ready, member: Member, crew: Crew) -> None:
        """Gives a worker that is ready its first chunk, or dismisses it: a GPU needs only one; all must round alike."""
        member.content = ready.content
        at_work = any(other.claims for other in crew.members)
        must_be = (self.facts if at_work else {}) | environment.own_version()
        if changes := environment.changes(must_be, ready.environment):
            self._warn(f"a worker is dropped: its floating-point environment differs ({changes})")
            if isinstance(member.worker, ClusterWorker):
                member.worker.refuse()
        if changes or (at_work and not self.cluster and ready.environment["device"].startswith("cuda")):
            crew.dismiss(member)
            return
        self._take_over(ready)
        self._assign(member, crew)
        self.pending = self.store.pending(self.name, self.only)
        crew.dismiss_surplus(self._chunks())

    def _chunks(self) -> int:
        """The number of waiting chunks; an upper bound if K is unknown."""
        return sum(math.ceil(n / (self.size or 1)) for n in self.pending.values())

    def _take_over(self, ready: Ready) -> None:
        """Stores the data's hashes and the chunk size, once per study, and the environment, once per run."""
        alike = ready.content == self.content and not environment.changes(self.facts, ready.environment)
        if self.facts and alike:
            return  # each of these calls reads every cell, which would be slow for a thousand workers
        keep_content(self.store, self.name, self.study, ready.content)
        self.content = ready.content
        if ready.remark and not self.facts:
            self.listen(Notice(ready.remark))
        self.facts = ready.environment
        if self.size is None:
            self.size = ready.chunk
            self.store.set_attrs(self.name, {"chunk": self.size})
        if self.pace is None:
            budgets = {name: self.study.panel_epochs(panel) for name, panel in self.panels.items()}
            self.pace = Pace(chunk_epochs(self.pending, budgets, self.size), self.workers)
            self.began = time.monotonic()
        earlier = environment.stored_environment(self.store.attrs(self.name)) if self.store.begun(self.name) else {}
        if changes := environment.changes(earlier, ready.environment):
            note = "from here on cells are rounded differently, and training amplifies that"
            self.listen(Notice(f"{note}: {changes}"))
        facts = ready.environment | environment.merged(earlier, ready.environment)
        remember(self.store, self.name, **facts, workers=self.workers)

    # Chunks

    def _assign(self, member: Member, crew: Crew) -> None:
        """Gives a worker the next chunk, or dismisses it if none is left."""
        size = self.size or 1
        for panel_name, seed in list(self.pending):
            claims = self.store.claim(self.name, panel_name, seed, size, self.owner, LEASE_S, self.only)
            if not claims:
                del self.pending[panel_name, seed]
                continue
            member.claims = claims
            must_be_as_planned(self.store, self.name, self.study, member.content)
            panel = self.panels[panel_name]
            order = Order(
                panel.optimizer,
                panel.schedule,
                self.study.panel_epochs(panel),
                self.study.normalized(panel),
                [claim.cell for claim in claims],
                size,
                self.means.checkpoints,
                self.study.digest(),
                self.means.checkpoint_seconds,
            )
            try:
                member.train(order, claims)
            except OSError:
                self._replace(member, crew)
            return
        crew.dismiss(member)

    def _replace(self, member: Member, crew: Crew) -> None:
        """Replaces a worker that died; its cells are pending again."""
        self._wait_again(member)
        self.ready = [(ready, other) for ready, other in self.ready if other is not member]
        if self.measuring is member:
            self.measuring = None
        crew.replace_dead(member)

    def _wait_again(self, member: Member) -> None:
        """Counts the cells of a lost worker as pending, also if none were left to claim."""
        if member.claims:
            cell = member.claims[0].cell
            self.pending.setdefault((cell.panel, cell.seed), len(member.claims))

    def _finish(self, member: Member, message: Done) -> None:
        """Stores a chunk's outcomes."""
        self.done += self.store.finish(list(zip(member.claims, message.outcomes, strict=True)), self.owner)
        member.claims = []

    def _store(self, message: Done, member: Member, crew: Crew) -> None:
        cell, seconds = member.claims[0].cell, time.monotonic() - member.started
        self._finish(member, message)
        crew.chunk_finished()
        self.listen(ChunkFinished(cell.panel, cell.seed, message.outcomes, seconds, self._progress(crew)))

    def _fail(self, member: Member, why: str) -> None:
        self.store.fail([claim.trial_id for claim in member.claims], why, self.owner)
        self.failures.append(why)
        member.claims = []

    def _halve(self, member: Member, why: str, crew: Crew) -> None:
        """Handles a lack of memory: puts the cells back and halves the chunk size. A chunk of one cell fails."""
        if member.size == 1:
            self._fail(member, why)
            return
        crew.put_back(member)
        self.pending = self.store.pending(self.name, self.only)
        if self.size == member.size:  # the first worker without memory; others may still train chunks of the old size
            self.size = math.ceil(member.size / 2)
            note = f"memory ran out with {member.size} cells at once: {self.size} from here on"
            self.store.set_attrs(self.name, {"chunk": self.size})
            remember(self.store, self.name, memory=note)
            self.listen(Notice(note))

    # Progress

    def _note_epoch(self, member: Member, done: int) -> None:
        """Updates progress and pace. Epochs restored from a checkpoint count as done, but not for the pace."""
        now, new = time.monotonic(), done - member.epochs_done
        member.epochs_done, member.part = done, 0.0
        if self.pace and new == 1:
            self.pace.epoch(now - member.epoch_ended, now - self.began)
        elif self.pace:
            self.pace.to_go -= new
        member.epoch_ended = now

    def _note_part(self, member: Member, done: float) -> None:
        """Updates progress within an epoch. The first report includes the set-up and does not count for the pace."""
        now, member.part = time.monotonic(), done - member.epochs_done
        since, before = member.first_part or (now, done)
        member.first_part = since, before
        if self.pace and done > before:
            self.pace.part(now - since, done - before)

    def _progress(self, crew: Crew) -> Progress:
        done = sum(member.cells_done for member in crew.members)
        held = sum(len(member.claims) for member in crew.members)
        return Progress(self.done + done, self.total, self.pace and self.pace.left, self.done, held)

    def _remember_pace(self) -> None:
        """Stores the error of the first estimate, for the report."""
        if self.pace is None or self.pace.first is None:
            return
        expected, took = self.pace.first, time.monotonic() - self.began
        off = f"{100 * (expected / took - 1):+.0f} %"
        training = f"{took:.0f} s; {expected:.0f} s were expected after the first epochs ({off})"
        remember(self.store, self.name, training=training)
