"""Runs the queue's worker, which trains submitted studies one after the other, each in a separate sweep process.

The queue is in the storage, so the next process that takes its lease continues it. A sweep ends when this process
ends, and its finished cells stay.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from wdgrid.errors import UsageError
from wdgrid.runner.naming import COMMAND, open_store
from wdgrid.runner.reconcile import replace_or_refuse
from wdgrid.store import Entry, Store, owner_name
from wdgrid.study import Study

POLL_S = 1.0
RENEW_S = 5.0
KILL_S = 30.0  # until a sweep that was asked to stop is killed
ATTEMPTS = 3  # sweeps of an entry that may end by a fault of the machine
MISSING = 3  # exit status of a sweep that ends with missing cells
USERS_FAULT = 2
Say = Callable[[str], None]


def submit(store: Store, name: str, study: Study, options: dict[str, Any]) -> Entry:
    """Adds a study to the queue of its storage.

    Raises StudyFileError if another study with trained cells is stored under its name, UsageError if the name is
    already in the queue.
    """
    definition = store.definition(name)
    if definition is not None and definition[1] != study.digest() and store.begun(name):
        replace_or_refuse(store, name, study, bool(options.get("extend")))
    return store.queue.submit(name, study.canonical(), study.digest(), options)


def work(url: str, command: Sequence[str], stopping: threading.Event, say: Say, ray: str | None = None) -> None:
    """Trains the queue of a storage until `stopping` is set; waits while another process holds its lease.

    `command` starts a process that reads `{"url": …, "entry": …, "ray": …}` from a line on its standard input, sweeps
    the entry (on a Ray cluster, if `ray` is its address), ends by SIGTERM or with its standard input, and writes its
    progress as JSON lines. Raises StoreError if the storage fails.
    """
    owner = owner_name()
    with open_store(url, create=True) as store:
        held, waited, renewed = False, False, -RENEW_S
        try:
            while not stopping.is_set():
                if time.monotonic() - renewed >= RENEW_S:
                    held, renewed = store.queue.hold(owner, {}), time.monotonic()
                if not held and not waited:
                    say("another worker trains this queue; waiting until it ends")
                    waited = True
                waits = held and any(entry.state == "waiting" for entry in store.queue.entries())
                if waits and (entry := store.queue.start_next(owner)) is not None:
                    _Sweep(store, owner, {"url": url, "entry": entry.id, "ray": ray}, entry, say).run(command, stopping)
                    renewed = -RENEW_S
                else:
                    stopping.wait(POLL_S)
        finally:
            store.queue.leave(owner)


class _Sweep:
    """One entry of the queue in training."""

    def __init__(self, store: Store, owner: str, order: dict[str, Any], entry: Entry, say: Say) -> None:
        self.store, self.owner, self.order, self.entry, self.say = store, owner, order, entry, say
        self.progress: dict[str, Any] = {"entry": entry.id, "study": entry.study}
        self.last: deque[str] = deque(maxlen=5)  # lines that the sweep wrote

    def run(self, command: Sequence[str], stopping: threading.Event) -> None:
        """Sweeps the entry and stores how it ended, unless it was paused or cancelled meanwhile."""
        self.say(f"{self.entry.study}: begins (queue entry {self.entry.id})")
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace")
        readers = [
            threading.Thread(target=read, args=(stream,), daemon=True)
            for read, stream in ((self._read_progress, process.stdout), (self._read_lines, process.stderr))
        ]
        try:
            for reader in readers:
                reader.start()
            _send(process, self.order)
            stopped = self._follow(process, stopping)
        finally:
            _end(process)
        for reader in readers:
            reader.join(KILL_S)
        self._finish(process.returncode, stopped)

    def _follow(self, process: "subprocess.Popen[str]", stopping: threading.Event) -> bool:
        """Waits for the sweep's end, and stops it early if requested. Returns whether it was asked to stop."""
        renewed, asked = 0.0, None
        while True:
            try:
                process.wait(POLL_S)
                return asked is not None
            except subprocess.TimeoutExpired:
                pass
            held = True
            if time.monotonic() - renewed > RENEW_S:
                self.progress["memory_mib"] = memory_mib(process.pid)
                held = self.store.queue.hold(self.owner, self.progress)
                renewed = time.monotonic()
            if asked is None:
                if not held or stopping.is_set() or self.store.queue.entry(self.entry.id).state != "running":
                    process.terminate()
                    asked = time.monotonic()
            elif time.monotonic() - asked > KILL_S:
                process.kill()

    def _finish(self, status: int, stopped: bool) -> None:
        """Stores how the entry ended."""
        faults = [line.removeprefix("wdgrid: ") for line in self.last if line.startswith("wdgrid: ")]
        words = "\n".join(faults or self.last)
        finish, number = self.store.queue.finish, self.entry.id
        if stopped:
            finish(number, self.owner, "waiting")
        elif status == 0:
            finish(number, self.owner, "done")
        elif status in (MISSING, USERS_FAULT) or self.entry.attempts + 1 >= ATTEMPTS:
            finish(number, self.owner, "failed", words or ended_words(status))
        else:
            finish(number, self.owner, "waiting", f"{ended_words(status)}; is tried again. {words}".strip())
        now = self.store.queue.entry(number)
        self.say(f"{self.entry.study}: {now.state}{': ' if now.note else ''}{now.note}")

    def _read_lines(self, stream: IO[str]) -> None:
        for line in stream:
            if text := line.rstrip():
                self.last.append(text)
                self.say(f"{self.entry.study}: {text}")

    def _read_progress(self, stream: IO[str]) -> None:
        for line in stream:
            try:
                found = json.loads(line)
            except ValueError:
                self.say(f"{self.entry.study}: {line.rstrip()}")  # output of the user's own network
                continue
            if isinstance(found, dict):
                self.progress |= found


def _send(process: "subprocess.Popen[str]", order: dict[str, Any]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):  # it died; its exit status says why
            process.stdin.write(f"{json.dumps(order)}\n")
            process.stdin.flush()


def _end(process: "subprocess.Popen[str]") -> None:
    """Ends a process that still runs, also by closing its standard input, so that it does not outlive this process."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(KILL_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ended_words(status: int) -> str:
    """How a process ended, from its exit status."""
    if status < 0:
        return f"the sweep was killed by {signal.Signals(-status).name}"
    return f"the sweep ended with status {status}"


def memory_mib(pid: int) -> float | None:
    """Resident memory of a process and its children in MiB; None without /proc."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        pages = [int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in (pid, *children)]
    except (OSError, ValueError, IndexError):
        return None
    return round(sum(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def command_of(entry: Entry) -> dict[str, Any]:
    """The stored part of the command that submitted a study; empty if it was submitted as text."""
    return {COMMAND: entry.options[COMMAND]} if COMMAND in entry.options else {}


def entry_number(word: str, store: Store) -> int:
    """The number of an entry, from its number or the name of its study.

    Raises UsageError if there is none.
    """
    if word.isdigit() and len(word) < 10:
        return int(word)
    found = [entry.id for entry in store.queue.entries() if entry.study == word]
    if not found:
        raise UsageError(f"{word}: no such study in the queue; wdgrid queue lists it")
    return found[0]
