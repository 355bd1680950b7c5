"""Runs a sweep: plans a study, puts back the cells of runs that died, and trains the missing cells.

With `coarse` it searches for the best cells only. The caller gets events and decides how to show them.
"""

import contextlib
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wdgrid.errors import MachineError, StudyFileError, UsageError, UsersFaultError
from wdgrid.runner import environment
from wdgrid.runner.cluster import Ray, connected
from wdgrid.runner.coordinator import Coordinator, Means
from wdgrid.runner.environment import remember, stored_environment
from wdgrid.runner.events import (
    Interrupted,
    Listener,
    Planned,
    Replaced,
    RoundChosen,
    SlowSearch,
    SweepEnded,
    TrainingEnded,
    TrainingStarted,
    Waiting,
)
from wdgrid.runner.handle import cores
from wdgrid.runner.naming import open_store, sqlite_path, summary
from wdgrid.runner.reconcile import plan, replace_or_refuse
from wdgrid.runner.rounds import search_share
from wdgrid.runner.search import chosen_places, coarse_pass, rounds
from wdgrid.store import Only, Store
from wdgrid.study import Study
from wdgrid.study.coarse import coarse_name

NOTABLE_SHARE = 0.4  # a search that takes more of the whole grid's time is reported as slow
POLL_S = 2.0  # between two checks of the cells that other processes hold


@dataclass(frozen=True)
class Settings:
    """How a study is swept. `attributes` and `environment` are stored with it.

    `workers` None: one per core. `extend`: the stored study may grow. `coarse`: search for the best cells only.
    `retry`: failed cells are trained again, however often they failed. `wait`: the sweep continues until no other
    process holds cells, and takes over cells that they release. `in_process`: one worker, in this process. `ray`: the
    workers are on a Ray cluster; `workers` None: as many as fit on it. `checkpoints` is the folder for checkpoints of
    all studies; `shared`: every node of the cluster has this folder.
    """

    checkpoints: Path
    workers: int | None = None
    checkpoint_seconds: float = 300.0
    extend: bool = False
    coarse: bool = False
    retry: bool = False
    wait: bool = False
    in_process: bool = False
    ray: Ray | None = None
    shared: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    environment: Mapping[str, Any] = field(default_factory=dict[str, Any])


@contextlib.contextmanager
def sweep_store(url: str) -> Generator[Store]:
    """The store for a sweep; it is created if needed, and removed again if the study cannot be trained."""
    path = sqlite_path(url)
    is_new = path is None or not path.exists()
    with open_store(url, create=True) as store:
        try:
            yield store
        except (UsersFaultError, StudyFileError):
            if is_new:  # it is empty
                store.discard()
            raise


def sweep(store: Store, name: str, study: Study, settings: Settings, listen: Listener) -> SweepEnded:
    """Trains the missing cells of a study and stores them under `name`. Returns how many cells are finished.

    For a search whose coarse pass has missing cells, that is the coarse pass' count. Raises StudyFileError if another
    study is stored under that name, UsersFaultError if this one cannot be trained, UsageError if it has grown since its
    coarse pass, and MachineError if chunks failed. An interrupt (Ctrl-C) is reported and passes through. In every case
    finished cells are stored and claimed ones are put back.
    """
    run = _Run(store, settings, listen)
    coarse = coarse_pass(name, study) if settings.coarse else None
    if replace_or_refuse(store, name, study, settings.extend):
        listen(Replaced(name))
    added = plan(store, name, study)
    if settings.attributes:
        store.set_attrs(name, settings.attributes)
    try:
        ended = run.whole(name, study, added) if coarse is None else run.search(name, study, coarse)
    except MachineError:
        listen(_ended(store, name))
        raise
    except UsersFaultError:  # the first worker's check failed: the plan is removed
        if added:
            store.withdraw(name)
        raise
    listen(ended)
    return ended


def _ended(store: Store, name: str, only: Only = None) -> SweepEnded:
    now = store.count(name, only)
    counts = now.n_complete, now.n_failed, now.n_running, now.n_waiting
    return SweepEnded(name, now.n_cells, *counts, now.leased_until)


@dataclass(frozen=True)
class _Run:
    store: Store
    settings: Settings
    listen: Listener

    def whole(self, name: str, study: Study, added: int) -> SweepEnded:
        """Trains the missing cells of a planned study, to which `added` cells were just added."""
        put_back, retried = self.store.reclaim(), self._retry(name)
        now = self.store.count(name)
        self.listen(Planned(name, now.n_cells, now.n_waiting, added, put_back, retried, now.n_complete))
        self.train(name, study)
        return _ended(self.store, name)

    def search(self, name: str, study: Study, coarse: Study) -> SweepEnded:
        """Trains the coarse pass of a planned study, then the most promising cells, in rounds."""
        small_name = coarse_name(name)
        definition = self.store.definition(small_name)
        if definition is not None and definition[1] != coarse.digest():
            raise UsageError(f"{name}: the study has grown since its coarse pass; leave --coarse out")
        small = self.whole(small_name, coarse, plan(self.store, small_name, coarse))
        if small.elsewhere or small.waiting:
            return small
        attrs = self.store.attrs(small_name)
        one_by_one = stored_environment(attrs).get("backend") == "native"
        share = search_share(study, attrs.get("chunk", 1), one_by_one=one_by_one)
        if share and share > NOTABLE_SHARE:
            self.listen(SlowSearch(name, share))
        self._retry(name)
        for chosen in rounds(self.store, name, study):
            if missing := sum(self.store.pending(name, chosen).values()):
                self.listen(RoundChosen(name, missing, summary(self.store, name).n_cells))
            self.train(name, study, chosen)
        ended = _ended(self.store, name, chosen_places(self.store, name))
        return small if small.missing and not ended.missing else ended

    def train(self, name: str, study: Study, only: Only = None) -> None:
        """Trains the waiting cells of a planned study, all or those in `only`; then waits for others if requested."""
        try:
            self._train(name, study, only)
            if self.settings.wait:
                self._wait(name, study, only)
        except KeyboardInterrupt:
            now = summary(self.store, name)
            self.listen(Interrupted(name, now.n_complete, now.n_cells))
            raise

    def _train(self, name: str, study: Study, only: Only) -> None:
        missing = sum(self.store.pending(name, only).values())
        if not missing:
            return
        remember(self.store, name, **environment.run_facts(), **self.settings.environment)
        given, ray = self.settings, self.settings.ray
        means = Means(
            given.workers if ray else given.workers or cores(),
            given.checkpoints.absolute() / f"{name}.db.checkpoints",
            given.checkpoint_seconds,
            given.in_process,
        )
        self.listen(TrainingStarted(name, missing, summary(self.store, name).n_complete))
        try:
            with connected(ray, study.task, not given.shared) if ray else contextlib.nullcontext() as cluster:
                Coordinator(self.store, name, study, replace(means, cluster=cluster), self.listen, only).run()
        finally:
            self.listen(TrainingEnded(name))
        remember(self.store, name, finished=environment.now())

    def _wait(self, name: str, study: Study, only: Only) -> None:
        """Waits until other processes have finished the cells that they hold; trains those that they release."""
        before = 0
        while (now := self.store.count(name, only)).n_running or now.n_waiting:
            if now.n_running != before:
                self.listen(Waiting(name, now.n_running, now.leased_until))
            before = now.n_running
            time.sleep(POLL_S)
            self.store.reclaim()
            self._train(name, study, only)

    def _retry(self, name: str) -> int:
        """Puts failed cells back: those that failed fewer than three times, or all if requested."""
        return self.store.retry_failed(name, None) if self.settings.retry else self.store.retry_failed(name)
