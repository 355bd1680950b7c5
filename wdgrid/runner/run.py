"""A sweep from beginning to end: it plans a study, puts back what earlier runs left, and trains what is missing.

With `coarse` it searches for the best cells first. The caller gets events and decides how to show them.
"""

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wdgrid.errors import StudyFileError, UsageError, UsersFaultError
from wdgrid.runner import environment
from wdgrid.runner.coordinator import Coordinator, Means
from wdgrid.runner.environment import remember, stored_environment
from wdgrid.runner.events import (
    Interrupted,
    Listener,
    Planned,
    Replaced,
    RoundChosen,
    RunningElsewhere,
    SlowSearch,
    TrainingEnded,
    TrainingStarted,
)
from wdgrid.runner.handle import cores
from wdgrid.runner.naming import open_store, sqlite_path, summary
from wdgrid.runner.reconcile import plan, replace_or_refuse
from wdgrid.runner.search import coarse_pass, rounds, time_share
from wdgrid.store import Only, Store
from wdgrid.study import Study
from wdgrid.study.coarse import coarse_name

NOTABLE_SHARE = 0.4  # a search that takes more of the whole grid's time is reported as slow


@dataclass(frozen=True)
class Settings:
    """How a study is swept. `attributes` and `environment` are stored with it.

    `workers` None: one a core. `extend`: the stored study may grow. `coarse`: search for the best cells only.
    `in_process`: one worker, in this process. `checkpoints` is the folder for checkpoints of all studies.
    """

    checkpoints: Path
    workers: int | None = None
    checkpoint_seconds: float = 300.0
    extend: bool = False
    coarse: bool = False
    in_process: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    environment: Mapping[str, Any] = field(default_factory=dict[str, Any])


@contextlib.contextmanager
def sweep_store(url: str) -> Generator[Store]:
    """The store for a sweep; it is created if needed, and removed if the study cannot be trained as it is written."""
    path = sqlite_path(url)
    is_new = path is None or not path.exists()
    with open_store(url, create=True) as store:
        try:
            yield store
        except (UsersFaultError, StudyFileError):
            if is_new:  # there is nothing in it
                store.discard()
            raise


def sweep(store: Store, name: str, study: Study, settings: Settings, listen: Listener) -> None:
    """Trains what a study has not trained yet, and stores it under `name`.

    Raises StudyFileError where another study is stored under that name, UsersFaultError where this one cannot be
    trained, UsageError where it has grown since its coarse pass, and MachineError where chunks failed. An interrupt
    (Ctrl-C) is reported and passes through. In every case finished cells are stored and claimed ones put back.
    """
    run = _Run(store, settings, listen)
    coarse = coarse_pass(name, study) if settings.coarse else None
    if replace_or_refuse(store, name, study, settings.extend):
        listen(Replaced(name))
    added = plan(store, name, study)
    if settings.attributes:
        store.set_attrs(name, settings.attributes)
    if coarse is None:
        run.whole(name, study, added)
    else:
        run.search(name, study, coarse)


@dataclass(frozen=True)
class _Run:
    store: Store
    settings: Settings
    listen: Listener

    def whole(self, name: str, study: Study, added: int) -> None:
        """Trains all that is missing of a planned study, to which so many cells were just added."""
        put_back = self.store.reclaim() + self.store.retry_failed(name)
        now = summary(self.store, name)
        self.listen(Planned(name, now.n_cells, now.n_waiting, added, put_back))
        self.train(name, study)

    def search(self, name: str, study: Study, coarse: Study) -> None:
        """Trains the coarse pass of a planned study, then in rounds the cells where the best may be."""
        small_name = coarse_name(name)
        definition = self.store.definition(small_name)
        if definition is not None and definition[1] != coarse.digest():
            raise UsageError(f"{name}: the study has grown since its coarse pass; leave --coarse out")
        self.whole(small_name, coarse, plan(self.store, small_name, coarse))
        attrs = self.store.attrs(small_name)
        one_by_one = stored_environment(attrs).get("backend") == "native"
        share = time_share(study, 1 if one_by_one else attrs.get("chunk", 1))
        if share > NOTABLE_SHARE:
            self.listen(SlowSearch(name, share))
        self.store.retry_failed(name)
        elsewhere = self._running(small_name)
        if not elsewhere:
            for chosen in rounds(self.store, name, study):
                self.train(name, study, chosen)
            elsewhere = self._running(name)
        if elsewhere:
            self.listen(RunningElsewhere(name, elsewhere))

    def train(self, name: str, study: Study, only: Only = None) -> None:
        """Trains the waiting cells of a planned study, all or those in `only`."""
        missing, cells = sum(self.store.pending(name, only).values()), summary(self.store, name).n_cells
        if not missing:
            return
        if only is not None:
            self.listen(RoundChosen(name, missing, cells))
        remember(self.store, name, **environment.run_facts(), **self.settings.environment)
        means = Means(
            self.settings.workers or cores(),
            self.settings.checkpoints.absolute() / f"{name}.db.checkpoints",
            self.settings.checkpoint_seconds,
            self.settings.in_process,
        )
        self.listen(TrainingStarted(name, missing))
        try:
            Coordinator(self.store, name, study, means, self.listen, only).run()
        except KeyboardInterrupt:
            self.listen(Interrupted(name, summary(self.store, name).n_complete, cells))
            raise
        finally:
            self.listen(TrainingEnded(name))
        remember(self.store, name, finished=environment.now())

    def _running(self, name: str) -> int:
        return summary(self.store, name).n_running
