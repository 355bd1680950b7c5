"""Reads the service's storage, through connections that cannot write, in short transactions."""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import Any, TypeVar

from wdgrid.errors import StoreError, UsageError
from wdgrid.report.grids import grids
from wdgrid.report.payload import curve_data, page_data
from wdgrid.runner.environment import stored_environment
from wdgrid.runner.naming import checked_name, stored_study
from wdgrid.serve.problems import NoSuchStudyError
from wdgrid.store import Entry, Store
from wdgrid.study import Study

T = TypeVar("T")
RECENT_S = 600.0  # throughput is measured over these last seconds
MOST_FAILURES = 100
MOST_CACHED = 8  # maps in memory


def load_libraries() -> None:
    """Imports the modules for the first map in advance."""
    import_module("matplotlib.colors")


class Reader:
    """A storage opened for reading only; it is reopened if its file was replaced."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._store = Store(url, read_only=True)

    def call(self, function: Callable[[Store], T]) -> T:
        """The result of `function`. Raises StoreError if the storage fails."""
        store = self._store
        try:
            return function(store)
        except StoreError as error:
            if "while it was in use" not in str(error):
                raise
        with self._lock:
            if self._store is store:
                store.close()
                self._store = Store(self._url, read_only=True)
        return function(self._store)

    def close(self) -> None:
        """Close every connection."""
        self._store.close()


def need_study(store: Store, name: str) -> Study:
    """A stored study. Raises NoSuchStudyError."""
    try:
        checked_name(name, new=False)
        return stored_study(store, name)
    except UsageError as error:
        raise NoSuchStudyError(str(error)) from None


def map_version(store: Store, name: str) -> str:
    """A text that changes whenever a study's map changes."""
    now = store.count(name)
    return f"{now.n_cells}.{now.n_complete}.{now.n_failed}"


def map_data(store: Store, name: str) -> dict[str, Any]:
    """The data that the report's scripts draw: panels, cells, trials (see `wdgrid.report.payload`)."""
    study, attrs = need_study(store, name), store.attrs(name)
    table = store.table(name)
    steps = stored_environment(attrs).get("steps_per_epoch")
    return page_data(study, grids(study, table), table, {}, steps)


class Maps:
    """The maps of studies as JSON, the latest few kept in memory."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[str, dict[str, Any]]] = OrderedDict()

    def get(self, name: str) -> tuple[str, dict[str, Any]]:
        """A study's map and its version. Raises NoSuchStudyError."""
        self._reader.call(lambda store: need_study(store, name))
        version = self._reader.call(lambda store: map_version(store, name))
        with self._lock:
            if (kept := self._kept.get(name)) is not None and kept[0] == version:
                return kept
        made = version, self._reader.call(lambda store: map_data(store, name))
        with self._lock:
            self._kept[name] = made
            self._kept.move_to_end(name)
            while len(self._kept) > MOST_CACHED:
                self._kept.popitem(last=False)
        return made


def curves(store: Store, name: str) -> dict[str, Any]:
    """Learning curves of a study, as the report's scripts read them."""
    need_study(store, name)
    return curve_data(store.curves(name))


def status(store: Store, name: str) -> dict[str, Any]:
    """Counts, throughput and time left of a study."""
    now = store.count(name)
    rate = _cells_per_minute(store.finished_at(name, time.time() - RECENT_S) if now.n_running else [])
    left = 60 * (now.n_running + now.n_waiting) / rate if rate else None
    told = progress_of(store, name)
    if told.get("seconds_left") is not None:
        left = told["seconds_left"]
    return {
        "cells": now.n_cells,
        "complete": now.n_complete,
        "running": now.n_running,
        "waiting": now.n_waiting,
        "failed": now.n_failed,
        "cells_per_minute": rate and round(rate, 2),
        "seconds_left": left and round(left),
        "preparing": told.get("preparing"),
        "memory_mib": told.get("memory_mib"),
        "queue": next((entry.state for entry in store.queue.entries() if entry.study == name), None),
    }


def progress_of(store: Store, name: str) -> dict[str, Any]:
    """The progress that the queue's worker reports for a study; empty if it is not training the study."""
    worker = store.queue.worker()
    told = worker.progress if worker is not None and worker.alive else {}
    return told if told.get("study") == name else {}


def _cells_per_minute(finished: Sequence[float]) -> float | None:
    """Finished cells per minute, from the times of the latest ones; None if there are too few."""
    if len(finished) < 2:
        return None
    return 60 * len(finished) / max(1.0, time.time() - finished[0])


def detail(store: Store, name: str) -> dict[str, Any]:
    """A study: its overview, definition, environment, status and failed cells."""
    study = need_study(store, name)
    overview = asdict(store.overview(name))
    names = ("panel", "row", "col", "seed", "why")
    failures = [dict(zip(names, one, strict=True)) for one in store.failures(name)[:MOST_FAILURES]]
    return {
        **overview,
        "definition": json.loads(study.canonical()),
        "environment": stored_environment(store.attrs(name)),
        "status": status(store, name),
        "failures": failures,
    }


def queue(store: Store) -> dict[str, Any]:
    """The queue and its worker."""
    worker = store.queue.worker()
    alive = worker is not None and worker.alive
    told: Mapping[str, Any] = worker.progress if worker is not None and alive else {}
    return {"entries": [entry_row(entry) for entry in store.queue.entries()], "worker": alive, "progress": dict(told)}


def entry_row(entry: Entry) -> dict[str, Any]:
    """An entry of the queue, without its definition."""
    row = asdict(entry)
    del row["canonical"]
    row["options"].pop("command", None)  # holds paths of the user who submitted it
    return row
