"""The parent's handles of workers: a process of its own, or a thread of this process."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from multiprocessing.connection import wait
from types import ModuleType
from typing import Any, Protocol, cast

from wdgrid.runner.messages import Message, Order
from wdgrid.runner.worker import Pipe, serve_process, serve_thread
from wdgrid.study.sections import Task

# glibc gives large blocks back to the system after every step otherwise, and asks for them again in the next.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_TOP_PAD_": "67108864"}
# Otherwise Python looks in the working directory first, even for its own modules; any file there may have such a name.
SAFE_PATH = {"PYTHONSAFEPATH": "1"}
TIDY_S = 5.0  # for a worker that is told to end while it prepares data


class Worker(Protocol):
    """A worker as its parent sees it."""

    def send(self, order: Order) -> None:
        """Sends a chunk to train. Raises OSError if the worker is gone."""
        ...

    def receive(self) -> Sequence[Message | None]:
        """What the worker has sent, once there is something; None stands for its death."""
        ...

    def ask_to_end(self) -> None:
        """Asks the worker to end, and returns at once."""
        ...

    def stop(self) -> None:
        """Ends the worker and closes the connection; what it was training is lost."""
        ...


class _Piped:
    """A worker of this machine: orders and messages go through `connection`."""

    connection: Pipe

    def send(self, order: Order) -> None:
        """Sends a chunk to train. Raises OSError if the worker is gone."""
        self.connection.send(order)

    def receive(self) -> Sequence[Message | None]:
        """The next message; None if the worker died."""
        try:
            return [self.connection.recv()]
        except (EOFError, OSError):
            return [None]


def wait_for_piped(workers: Sequence[Worker], timeout: float) -> list[Worker]:
    """The workers of this machine that have sent something, once one has, or after `timeout` seconds."""
    by_connection = {cast(_Piped, worker).connection: worker for worker in workers}
    return [by_connection[cast(Pipe, ready)] for ready in wait(list(by_connection), timeout)]


class ProcessWorker(_Piped):
    """A worker process, which trains chunks of K cells.

    K is `chunk`; where that is None, the worker chooses a K that suits device and network and divides the `cells` of a
    panel and seed evenly.
    """

    def __init__(
        self, task: Task, cells: int, chunk: int | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, child = context.Pipe()
        self._process = context.Process(target=serve_process, args=(child, task, cells, chunk), daemon=True)
        variables = MALLOC | SAFE_PATH | dict(environment or {})
        with _child_environment(variables), _without_main(), _without_working_directory(), _signals_deferred():
            self._process.start()
        child.close()
        self._asked: float | None = None

    def ask_to_end(self) -> None:
        """Ends the process at once, or, where it is preparing data, as soon as it has tidied up."""
        if self._asked is None:
            self._process.terminate()
            self._asked = time.monotonic()

    def stop(self) -> None:
        """Ends the process; it is killed where it is still there TIDY_S seconds after it was first asked to end."""
        self.ask_to_end()
        self._process.join(max(0.0, (self._asked or 0.0) + TIDY_S - time.monotonic()))
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.connection.close()
        self._process.close()


class ThreadWorker(_Piped):
    """A worker in a thread of this process, for a network or data that no other process can import."""

    def __init__(self, task: Task, cells: int, chunk: int | None = None) -> None:
        self.connection, child = multiprocessing.Pipe()
        self._thread = threading.Thread(target=serve_thread, args=(child, task, cells, chunk), daemon=True)
        self._thread.start()

    def ask_to_end(self) -> None:
        """Closes the connection, which ends the thread at the end of its current epoch."""
        self.connection.close()

    def stop(self) -> None:
        """Ends the thread at the end of its current epoch, and waits for that."""
        self.connection.close()
        self._thread.join()


@contextlib.contextmanager
def _child_environment(wanted: Mapping[str, str]) -> Generator[None]:
    """What a child inherits: these variables, unless the user set them."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update({name: value for name, value in wanted.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]


@contextlib.contextmanager
def _signals_deferred() -> Generator[None]:
    """A child that starts meanwhile ignores Ctrl-C from its first moment; no signal leaves it half started.

    SIGTERM and SIGHUP reach this process' own handlers afterwards.
    """
    if threading.current_thread() is not threading.main_thread():  # Python sets handlers in that thread only
        yield
        return
    arrived: list[int] = []
    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # Windows has no SIGHUP
        if callable(signal.getsignal(number)):
            before[number] = signal.signal(number, lambda number, _frame: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in arrived:
            signal.raise_signal(number)


@contextlib.contextmanager
def _without_main() -> Generator[None]:
    """A child that starts meanwhile does not run the caller's script: all it needs is imported by name."""
    main: Any = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _without_working_directory() -> Generator[None]:
    """A child that starts meanwhile does not search the working directory ("" on the path that it inherits)."""
    path = sys.path[:]
    sys.path[:] = [place for place in path if place]
    try:
        yield
    finally:
        sys.path[:] = path


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
