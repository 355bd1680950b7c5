"""A worker process: it holds a task's data and network, and trains one chunk after another.

torch is imported in the child only, with one thread (on a CPU, processes of one thread each are faster than threads:
13 600 against 10 400 cell-steps a second in a prototype on two Zen 4 cores).
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from wdgrid.runner.eta import even_chunk
from wdgrid.study import Cell, Outcome
from wdgrid.study.sections import Schedule, Task

# glibc gives large blocks back to the system after every step otherwise, and asks for them again in the next.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_TOP_PAD_": "67108864"}
TIDY_S = 10.0


@dataclass(frozen=True)
class Order:
    """Parent to worker: train these cells."""

    optimizer: str
    schedule: Schedule
    epochs: int
    normalized: bool
    cells: Sequence[Cell]
    size: int
    checkpoints: Path  # folder of the study's checkpoints
    digest: str  # of the study: a checkpoint of another one is never used
    every: float  # seconds between checkpoints


@dataclass(frozen=True)
class Preparing:
    """Worker to parent: long work on the data, before it stands (one worker does it, the others wait)."""

    what: str
    done: int
    of: int


@dataclass(frozen=True)
class Restart:
    """Worker to parent: it computes right with these environment variables, which must be set when it starts."""

    environment: dict[str, str]


@dataclass(frozen=True)
class Ready:
    """Worker to parent: data and network are loaded. `chunk` is K, the cells that it trains together.

    `remark` is for the user.
    `content` is the SHA-256 of the files that training and test images came from; None where a program makes them.
    """

    environment: dict[str, Any]
    chunk: int
    remark: str | None
    content: tuple[str, str] | None = None


@dataclass(frozen=True)
class Epoch:
    """Worker to parent: so many epochs of the chunk are done."""

    done: int


@dataclass(frozen=True)
class Done:
    """Worker to parent: what the chunk came to."""

    outcomes: list[Outcome]


@dataclass(frozen=True)
class Fault:
    """Worker to parent: it went wrong. `users` where the study is at fault rather than the machine."""

    why: str
    users: bool


@dataclass(frozen=True)
class OutOfMemory:
    """Worker to parent: the chunk did not fit; nothing but its time is lost."""

    why: str


class Worker:
    """The parent's handle of one worker process, which trains chunks of K cells.

    K is `chunk`; where that is None, the worker chooses a K that suits device and network and divides the `cells` of a
    panel and seed evenly.
    """

    def __init__(
        self, task: Task, cells: int, chunk: int | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, task, cells, chunk), daemon=True)
        with _child_environment(MALLOC | dict(environment or {})):
            self._process.start()
        child.close()

    def send(self, order: Order) -> None:
        """Gives the worker a chunk; raises OSError if it is gone."""
        self.connection.send(order)

    def stop(self) -> None:
        """Ends the process at once, or, where it is preparing data, as soon as it has tidied up."""
        self._process.terminate()
        self._process.join(TIDY_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.connection.close()
        self._process.close()


@contextlib.contextmanager
def _child_environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """What a child inherits: variables that the user did not set, and no Ctrl-C (the parent decides what it means)."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update({name: value for name, value in wanted.items() if before[name] is None})
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for name, value in before.items():
            if value is None:
                del os.environ[name]


def _serve(connection: Connection, task: Task, cells: int, chunk: int | None) -> None:
    """The child: set up, then train what comes down the pipe until it closes."""
    os.dup2(2, 1)  # what a user's own code prints is talk, not data
    # A parent that was killed shows as a closed pipe, at the next epoch's end at the latest.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            with _tidying():
                bench, ready = _set_up(task, cells, chunk, lambda *told: connection.send(Preparing(*told)))
        except Exception as error:
            connection.send(_fault(error, task, setting_up=True))
            return
        connection.send(ready)
        if isinstance(ready, Restart):
            return
        finished = None
        while True:
            order = connection.recv()
            if finished:
                finished.clear()  # the parent has stored what it was told, or it would not ask for more
            finished = _checkpoint(bench, order)
            try:
                connection.send(_train(bench, order, connection, finished))
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                told = _fault(error, task, setting_up=False)
                connection.send(OutOfMemory(told.why) if _is_memory(error) else told)


@contextlib.contextmanager
def _tidying() -> Iterator[None]:
    """Within it, to be ended is an exception: what was half downloaded or half prepared is removed on the way out."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _set_up(
    task: Task, cells: int, chunk: int | None, tell: Callable[[str, int, int], None]
) -> tuple[Any, Ready | Restart]:
    import torch

    from wdgrid.engine import Workbench, chunk_size, one_thread, processor

    one_thread()
    bench = Workbench(task, tell)
    device = processor.name() if bench.device.type == "cpu" else torch.cuda.get_device_name(bench.device)
    size = chunk or even_chunk(cells, chunk_size(bench))
    network = bench.network(seed=0, cells=size)
    if bench.slots_differ and bench.device.type == "cpu" and (mode := processor.strict_mode()):
        return bench, Restart({processor.MODE: mode})
    environment = {
        "device": f"{bench.device.type} ({device})",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "parameters": network.size,
        "backend": bench.backend,
        "mkl_mode": os.environ.get(processor.MODE, "default"),
        "slots": bench.slots,
        "train_images": len(bench.data.train_x),
        "test_images": len(bench.data.test_x),
        "classes": bench.data.classes,
        "steps_per_epoch": bench.steps_per_epoch,
    }
    return bench, Ready(environment, size, bench.remark, bench.data.content)


def _train(bench: Any, order: Order, connection: Connection, checkpoint: Any) -> Done:
    from wdgrid.engine import Job, train

    job = Job(order.optimizer, order.schedule, order.epochs, order.normalized)
    return Done(train(bench, job, order.cells, order.size, lambda done: connection.send(Epoch(done)), checkpoint))


def _checkpoint(bench: Any, order: Order) -> Any:
    """A chunk's checkpoints are known by the study, by its data and by every cell in it."""
    from wdgrid.engine import Checkpoint

    first = order.cells[0]
    chunk = [f"{c.multiples[0]} {c.multiples[1]}" for c in order.cells]
    study = [order.digest, *(bench.data.content or ())]
    identity = json.dumps([*study, bench.device.type, bench.backend, first.panel, first.seed, order.size, chunk])
    stem = f"{first.panel}-{first.seed}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    return Checkpoint(order.checkpoints / stem, identity, order.every)


def _fault(error: Exception, task: Task, *, setting_up: bool) -> Fault:
    """Who is at fault: while setting up, whoever wrote the study (unless memory ran out); later, the machine."""
    line = " ".join(str(error).split()) or type(error).__name__
    machine = _is_memory(error) or isinstance(error, OSError)
    if not type(error).__module__.startswith("wdgrid."):
        # Somebody else's code: what it was, and where.
        place = traceback.extract_tb(error.__traceback__)[-1]
        own = f"{task.model}, {task.dataset}: " if setting_up else ""
        line = f"{own}{type(error).__name__}: {line} ({place.filename}, line {place.lineno})"
    return Fault(line, users=setting_up and not machine)


def _is_memory(error: Exception) -> bool:
    """Whether memory ran out; what a GPU still holds of the failed chunk is given back."""
    import torch

    if torch.cuda.is_available():
        traceback.clear_frames(error.__traceback__)  # they hold the chunk
        torch.cuda.empty_cache()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
