"""The parent's handles of workers, which are processes or threads of this process."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast

from wdgrid.runner.messages import Measure, Message, Order
from wdgrid.runner.worker import Ending, Pipe, serve_process, serve_thread
from wdgrid.study.sections import Task

# Otherwise glibc returns large blocks to the system after every step and requests them again in the next.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_TOP_PAD_": "67108864"}
# Otherwise Python searches the working directory first, also for its own modules; any file there may have their name.
SAFE_PATH = {"PYTHONSAFEPATH": "1"}
WORKER_BYTES = 850_000_000  # least memory of a worker process: twelve took 9.9 GB
END_S = 6.0  # in which a worker that is asked to end saves a checkpoint, or removes unfinished data


class Worker(Protocol):
    """The parent's interface to a worker."""

    def send(self, order: Order) -> None:
        """Sends a chunk to train. Raises OSError if the worker is gone."""
        ...

    def receive(self) -> Sequence[Message | None]:
        """The worker's messages; waits until there is one. None: the worker died."""
        ...

    def ask_to_end(self) -> None:
        """Asks the worker to save its training and to end; returns at once. Its last messages can still be read."""
        ...

    def stop(self) -> None:
        """Ends the worker, by force END_S seconds after the first request, and closes the connection."""
        ...

    def kill(self) -> None:
        """Ends the worker by force and closes the connection; its training is lost."""
        ...

    def processor_seconds(self) -> float | None:
        """Processor time that the worker has used; None if unknown."""
        ...


class _Piped:
    """A worker of this machine: orders and messages go through `connection`."""

    connection: Pipe

    def send(self, order: Order) -> None:
        """Sends a chunk to train. Raises OSError if the worker is gone."""
        self.connection.send(order)

    def measure(self, order: Measure) -> None:
        """Asks the worker to measure its backends. Raises OSError if the worker is gone."""
        self.connection.send(order)

    def receive(self) -> Sequence[Message | None]:
        """The next message; None if the worker died."""
        try:
            return [self.connection.recv()]
        except (EOFError, OSError):
            return [None]


def wait_for_piped(workers: Sequence[Worker], timeout: float) -> list[Worker]:
    """The workers of this machine that have sent a message; waits for one, at most `timeout` seconds."""
    by_connection = {cast(_Piped, worker).connection: worker for worker in workers}
    return [by_connection[cast(Pipe, ready)] for ready in wait(list(by_connection), timeout)]


class ProcessWorker(_Piped):
    """A worker process, which trains chunks of K cells.

    K is `chunk`; if that is None, the worker chooses K by device and network, and so that it divides the `cells` of a
    panel and seed evenly. `backend` computes them if it can; None: the fastest by rule.
    """

    def __init__(
        self,
        task: Task,
        cells: int,
        chunk: int | None = None,
        environment: Mapping[str, str] | None = None,
        backend: str | None = None,
    ) -> None:
        self.connection, self._process = _early.pop() if _early and not environment else _started(environment or {})
        with contextlib.suppress(OSError):  # it died already; `receive` returns that
            self.connection.send((task, cells, chunk, backend))
        self._asked: float | None = None

    def ask_to_end(self) -> None:
        """As in Worker. A process that neither trains nor prepares data ends at once."""
        if self._asked is None:
            self._process.terminate()
            self._asked = time.monotonic()

    def stop(self) -> None:
        """As in Worker."""
        self.ask_to_end()
        self._process.join(max(0.0, (self._asked or 0.0) + END_S - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """As in Worker."""
        self._process.kill()
        self._process.join(END_S)  # a process that waits endlessly for a disk cannot be ended
        self.connection.close()
        if not self._process.is_alive():
            self._process.close()

    def processor_seconds(self) -> float | None:
        """As in Worker; on Linux."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


_early: list[tuple[Pipe, SpawnProcess]] = []


@contextlib.contextmanager
def started_early(number: int) -> Generator[None]:
    """Starts processes that import torch while the caller prepares; workers started within the block use them.

    Ends unused processes afterwards.
    """
    with signals_deferred():
        _early.extend(_started({}) for _ in range(number))
    try:
        yield
    finally:
        end_early()


def end_early() -> None:
    """Ends the unused processes of `started_early`."""
    while _early:
        connection, process = _early.pop()
        process.kill()
        process.join()
        connection.close()


def _started(environment: Mapping[str, str]) -> tuple[Pipe, SpawnProcess]:
    """A process that waits for its task."""
    context = multiprocessing.get_context("spawn")
    connection, child = context.Pipe()
    process = context.Process(target=serve_process, args=(child,), daemon=True)
    with bare_child(MALLOC | dict(environment)):
        process.start()
    child.close()
    return connection, process


class ThreadWorker(_Piped):
    """A worker in a thread of this process, for a network or data that other processes cannot import."""

    def __init__(self, task: Task, cells: int, chunk: int | None = None, backend: str | None = None) -> None:
        self.connection, child = multiprocessing.Pipe()
        self._ending = Ending()
        given = child, task, cells, chunk, backend, self._ending
        self._thread = threading.Thread(target=serve_thread, args=given, daemon=True)
        self._thread.start()

    def ask_to_end(self) -> None:
        """As in Worker."""
        if not self._ending.asked:
            self._ending.asked = True
            with contextlib.suppress(OSError):  # it ended already
                self.connection.send(None)

    def stop(self) -> None:
        """Ends the thread after its current step, because a thread cannot be ended by force."""
        self.ask_to_end()
        self.connection.close()
        self._thread.join()

    def kill(self) -> None:
        """As `stop`."""
        self.stop()

    def processor_seconds(self) -> float | None:
        """As in Worker, but of the whole process."""
        return time.process_time()


@contextlib.contextmanager
def bare_child(variables: Mapping[str, str]) -> Generator[None]:
    """Within the block, child processes start with these variables and without this process' other start settings."""
    with _child_environment(SAFE_PATH | dict(variables)), _without_main(), _without_working_directory():
        yield


@contextlib.contextmanager
def _child_environment(wanted: Mapping[str, str]) -> Generator[None]:
    """Within the block, child processes inherit these variables, unless the user set them."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update({name: value for name, value in wanted.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]


@contextlib.contextmanager
def signals_deferred() -> Generator[None]:
    """Defers SIGINT, SIGTERM and SIGHUP: this process' own handlers run after the block.

    Child processes started within the block have SIGINT blocked from the start, because a terminal sends it to every
    process.
    """
    if threading.current_thread() is not threading.main_thread():  # Python sets handlers in that thread only
        yield
        return
    arrived: list[int] = []
    numbers = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}
    handlers = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}
    for number in handlers:
        signal.signal(number, lambda number, _frame: arrived.append(number))
    resource_tracker.ensure_running()  # multiprocessing starts it with the first child, and unblocks SIGINT then
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in arrived:
            signal.raise_signal(number)


@contextlib.contextmanager
def _without_main() -> Generator[None]:
    """Within the block, child processes do not run the caller's script; they import all they need by name."""
    main: Any = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _without_working_directory() -> Generator[None]:
    """Within the block, child processes start without the working directory ("") on their module path."""
    path = sys.path[:]
    sys.path[:] = [place for place in path if place]
    try:
        yield
    finally:
        sys.path[:] = path


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_for_workers() -> int:
    """How many worker processes fit into the free memory, at least one; a large number if that is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return 1_000_000
    return max(1, 1024 * free // WORKER_BYTES)
