"""Runs a worker, which loads a task's data and network, then trains one chunk after another.

It runs in a separate process, or in a thread of the caller's process. It computes with one thread: on a CPU,
processes of one thread each are faster than threads (13 600 against 10 400 cell-steps a second in a prototype on two
Zen 4 cores).
"""

# torch's own types are not complete.
# pyright: reportUnknownMemberType=false

import contextlib
import ctypes
import multiprocessing
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from wdgrid.runner.eta import even_chunk
from wdgrid.runner.events import Notice, Preparing
from wdgrid.runner.messages import (
    Alive,
    Done,
    Epoch,
    Fault,
    Measure,
    Measured,
    Order,
    OutOfMemory,
    Ready,
    Restart,
    Stopped,
)
from wdgrid.study.import_by_name import failed_at
from wdgrid.study.sections import Task

if TYPE_CHECKING:
    from wdgrid.engine import Checkpoint, Workbench

    Pipe = Connection[Any, Any]
else:
    Pipe = Connection

GRAPHS = "WDGRID_CUDA_GRAPHS"  # as in wdgrid.engine.cuda.graph, which imports torch
# The messages of CUDA's libraries when memory runs out.
NO_MEMORY = "can't allocate memory", "out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED"
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
ALIVE_S = 5.0  # between two signs of life


@dataclass
class Ending:
    """Whether a worker was asked to end. A plain attribute, because a signal handler must not wait for a lock."""

    asked: bool = False

    def ask(self, _signal: int, _frame: object) -> None:
        """Sets the request; a signal handler."""
        self.asked = True

    def leave(self, _signal: int, _frame: object) -> None:
        """Ends the process by an exception, so that unfinished downloads and data are removed."""
        self.asked = True
        sys.exit(1)


def serve_process(connection: Pipe) -> None:
    """Runs a worker as a process' main function, until the pipe closes; on Linux, it ends with its parent.

    The first message is a task, the number of cells of a panel and seed, K and the backend (both None: the worker
    chooses). SIGTERM asks the worker to end; within a chunk it saves a checkpoint first.
    """
    end_with_parent()
    for name in ("SIGINT", "SIGHUP"):  # a terminal sends them to every process; the parent handles them
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.dup2(2, 1)  # stdout is for results only, and a user's own code may print
    with contextlib.suppress(Exception):  # the same fault is raised again during set-up
        import wdgrid.engine  # noqa: F401  # pyright: ignore[reportUnusedImport]
    with contextlib.suppress(EOFError):
        task, cells, chunk, backend = connection.recv()
        _serve(connection, task, cells, chunk, backend, Ending(), own_process=True)


def end_with_parent() -> None:
    """On Linux, this process is killed when its parent dies; elsewhere it ends when it next uses the pipe."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent and parent.pid != os.getppid():  # the parent died before
        os._exit(1)


def serve_thread(
    connection: Pipe, task: Task, cells: int, chunk: int | None, backend: str | None, ending: Ending
) -> None:
    """Runs a worker in a thread of the caller's process, until it is asked to end; then restores torch's settings.

    To end it, set `ending` and send None instead of an order.
    """
    with connection, _settings_restored():
        _serve(connection, task, cells, chunk, backend, ending, own_process=False)


def serve_actor(connection: Pipe, task: Task, cells: int, chunk: int | None, ending: Ending) -> None:
    """Runs a worker in a thread of a process that computes nothing else; it ends as in `serve_thread`."""
    with connection:
        _serve(connection, task, cells, chunk, None, ending, own_process=True)


def _serve(
    connection: Pipe, task: Task, cells: int, chunk: int | None, backend: str | None, ending: Ending, *,
    own_process: bool,
) -> None:  # fmt: skip
    # If the parent was killed, the pipe is closed; this is noticed by the end of the next epoch.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            with _on_sigterm(ending.leave) if own_process else contextlib.nullcontext():
                bench = _workbench(task, lambda what, done, of: connection.send(Preparing(what, done, of)), backend)
                ready = _probe(bench, cells, chunk)
            restart = _restart(bench, ready.chunk) if own_process else None
        except Exception as error:
            if not ending.asked:  # an interrupted import may end in any error
                connection.send(_fault(error, task, setting_up=True))
            return
        connection.send(restart or ready)
        if restart:
            return
        finished = None
        order: Order | Measure | None
        while not ending.asked and (order := connection.recv()):
            if isinstance(order, Measure):
                connection.send(_measured(bench, order, ready))
                continue
            if finished:
                finished.clear()  # its outcomes are stored, because the parent asks for more only then
            finished = _checkpoint(bench, order, lambda text: connection.send(Notice(text)))
            with _on_sigterm(ending.ask) if own_process else contextlib.nullcontext():
                answer = _trained(bench, order, task, connection, finished, ending, own_process=own_process)
            connection.send(answer)
            if isinstance(answer, Restart) or (
                isinstance(answer, Fault) and own_process and bench.device.type == "cuda"
            ):
                return  # after a CUDA error every further call fails, so a new process continues


@contextlib.contextmanager
def _on_sigterm(handler: Callable[[int, object], None]) -> Generator[None]:
    """Within the block, SIGTERM calls `handler` instead of ending the process."""
    if threading.current_thread() is not threading.main_thread():  # Python sets handlers in that thread only
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _settings_restored() -> Generator[None]:
    """Restores the torch settings that a worker changes: threads, number formats, random numbers."""
    import torch

    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    deterministic, tf32 = cudnn.deterministic, cudnn.allow_tf32
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        cudnn.deterministic, cudnn.allow_tf32 = deterministic, tf32


def _workbench(task: Task, tell: Callable[[str, int, int], None], backend: str | None) -> "Workbench":
    from wdgrid.engine import Workbench, one_thread

    one_thread()
    return Workbench(task, tell, backend)


def _probe(bench: "Workbench", cells: int, chunk: int | None) -> Ready:
    """Chooses K, finds the backend for K cells, and reports both."""
    import torch

    from wdgrid.engine import chunk_size, processor
    from wdgrid.engine.fused import products
    from wdgrid.engine.workbench import unused_gpu

    device = processor.name() if bench.device.type == "cpu" else torch.cuda.get_device_name(bench.device)
    size = chunk or even_chunk(cells, chunk_size(bench))
    probe, network = bench.probe(size), bench.network(seed=0, cells=size)
    environment = {
        "device": f"{bench.device.type} ({device})",
        "wdgrid": version("wdgrid"),
        "torch": str(torch.__version__),  # a plain str: the parent would import torch to unpickle its own type
        "python": platform.python_version(),
        "system": platform.platform(),
        "parameters": network.size,
        "backend": probe.backend,
        "fallback": ", ".join(probe.fallback) or "none",
        "products": products.library() if bench.device.type == "cpu" else "CUDA",
        "mkl_mode": os.environ.get(processor.MODE, "default"),
        "slots": probe.slots,
        "train_images": len(bench.data.train_x),
        "test_images": len(bench.data.test_x),
        "classes": bench.data.classes,
        "outputs": bench.outputs,
        "steps_per_epoch": bench.steps_per_epoch,
    }
    remark = probe.remark or (unused_gpu(bench.device) if bench.task.device == "auto" else None)
    return Ready(environment, size, remark, bench.data.content, probe.seconds)


def _measured(bench: "Workbench", order: Measure, ready: Ready) -> Measured:
    """The fastest backend and K, for equal chunks; the rule's choice if measuring fails."""
    from wdgrid.engine import Job
    from wdgrid.engine.choice import fastest

    job = Job(order.optimizer, order.schedule, order.epochs, order.normalized)
    try:
        best = fastest(bench, job, order.cells, ready.chunk)
    except Exception:
        return Measured(ready.environment["backend"], ready.chunk, {})
    is_rule = best.cells == ready.chunk
    return Measured(
        best.backend, best.cells if is_rule else even_chunk(len(order.cells), best.cells), best.microseconds
    )


def _restart(bench: "Workbench", size: int) -> Restart | None:
    """The variables with which a new process computes equal cells equally in the faster backend; None if none."""
    from wdgrid.engine import processor

    if bench.probe(size).slots_differ and bench.device.type == "cpu" and (mode := processor.strict_mode()):
        return Restart({processor.MODE: mode})
    return None


def _trained(
    bench: "Workbench",
    order: Order,
    task: Task,
    connection: Pipe,
    checkpoint: "Checkpoint",
    ending: Ending,
    *,
    own_process: bool,
) -> Done | Stopped | OutOfMemory | Fault | Restart:
    """Trains a chunk and returns the message about it. Raises OSError if the parent is gone."""
    from wdgrid.engine import StoppedError

    try:
        return _train(bench, order, connection, checkpoint, ending)
    except StoppedError as stopped:
        return Stopped(stopped.saved)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        fault = _fault(error, task, setting_up=False)
        if type(error).__name__ == "CaptureError" and own_process:
            connection.send(Notice(fault.why))
            return Restart({GRAPHS: "off"})
        _free_gpu_memory(error)
        return OutOfMemory(fault.why) if _is_memory(error) else fault


def _train(bench: "Workbench", order: Order, connection: Pipe, checkpoint: "Checkpoint", ending: Ending) -> Done:
    from wdgrid.engine import Job, train

    last = time.monotonic()

    def progress(done: float) -> None:
        nonlocal last
        if done == int(done):
            connection.send(Epoch(int(done)))
        elif time.monotonic() - last >= ALIVE_S:
            last = time.monotonic()
            connection.send(Alive(done))

    job = Job(order.optimizer, order.schedule, order.epochs, order.normalized)
    return Done(train(bench, job, order.cells, order.size, progress, checkpoint, lambda: ending.asked))


def _checkpoint(bench: "Workbench", order: Order, warn: Callable[[str], None]) -> "Checkpoint":
    """A chunk's checkpoints, identified by the chunk, the study's data and the backend."""
    from wdgrid.engine import Checkpoint

    identity = [order.stem, *(bench.data.content or ()), bench.device.type, bench.probe(order.size).backend]
    return Checkpoint(order.checkpoints / order.stem, " ".join(identity), order.every, warn)


def _fault(error: Exception, task: Task, *, setting_up: bool) -> Fault:
    """The fault of an error: during set-up the study's (unless memory ran out), later the machine's."""
    line = " ".join(str(error).split()) or type(error).__name__
    machine = _is_memory(error) or isinstance(error, OSError)
    if not type(error).__module__.startswith("wdgrid."):
        # Code outside wdgrid: the place in the user's own files, and the error.
        last = traceback.extract_tb(error.__traceback__)[-1]
        own = f"{task.model}, {task.dataset} ({last.filename}, line {last.lineno})"
        line = f"{failed_at(error) or own}: {type(error).__name__}: {line}"
    return Fault(line, users=setting_up and not machine)


def _is_memory(error: Exception) -> bool:
    """Whether memory ran out."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def _free_gpu_memory(error: Exception) -> None:
    """Frees the GPU memory of the chunk that failed."""
    import torch

    if torch.cuda.is_available():
        traceback.clear_frames(error.__traceback__)  # the frames hold the chunk
        torch.cuda.empty_cache()
