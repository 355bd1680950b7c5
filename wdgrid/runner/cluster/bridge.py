"""Holds a sweep's connection to Ray, in a separate process.

Ray prints to the terminal, sets signal handlers, and may end its process when the cluster is gone. A separate process
protects the sweep: it has no terminal, and the sweep abandons it if it does not answer.
"""

# Ray's own types are not complete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import contextlib
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from concurrent.futures import Future
from functools import partial
from typing import Any

from wdgrid.runner.cluster.commands import Broken, Command, Connect, End, Mail, Room, Send, Start, Stop
from wdgrid.runner.cluster.mirror import Mirror
from wdgrid.runner.events import Notice
from wdgrid.runner.messages import Lost, Message
from wdgrid.runner.worker import Pipe, end_with_parent

LOOK_S = 1.0  # between two checks of the cluster's nodes
WAIT_S = 10.0  # in which a worker waits for a place before this is reported
REACH_S = 5.0  # for the cluster's address to accept a connection
LEAVE_S = 2.0  # for actors to remove their files at the end


def serve_bridge(connection: Pipe) -> None:
    """Executes a sweep's commands until the pipe closes; on Linux, the process ends with its parent."""
    end_with_parent()
    for name in ("SIGINT", "SIGHUP"):  # a terminal sends them to every process; the parent handles them
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        wanted: Connect = connection.recv()
        try:
            import ray

            _init(wanted)
        except Exception as error:
            connection.send(Broken(_line(error)))
            return
        try:
            _Bridge(connection, wanted).run()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:
            connection.send(Broken(_line(error)))
        finally:
            ray.shutdown()


def _init(wanted: Connect) -> None:
    import ray

    if wanted.address != "auto":
        host, _, port = wanted.address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
    ray.init(
        address=wanted.address,
        runtime_env={"working_dir": str(wanted.code)} if wanted.code else None,
        log_to_driver=False,
    )


def _line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__


class _Worker:
    """An actor, and whether it has a place."""

    def __init__(self, actor: Any) -> None:
        self.actor, self.since = actor, time.monotonic()
        self.node: tuple[str, str] | None = None
        self.mirror: Mirror | None = None


class _Bridge:
    def __init__(self, connection: Pipe, wanted: Connect) -> None:
        import ray

        self._ray, self._connection = ray, connection
        self._workers: dict[int, _Worker] = {}
        self._refused: set[str] = set()
        self._todo: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._gpus = wanted.gpus
        if self._gpus is None:
            device = wanted.task.device
            has_any = device == "auto" and ray.cluster_resources().get("GPU", 0) > 0
            self._gpus = 1.0 if device == "cuda" or has_any else 0.0
        self._leaving: list[Future[None]] = []
        self._room: Room | None = None

    def run(self) -> None:
        """Handles commands and actors' answers as they arrive. Ends by EOFError when the parent closes the pipe."""
        self._look()
        threading.Thread(target=self._read, daemon=True).start()
        looked = time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                self._todo.get(timeout=LOOK_S)()
            if time.monotonic() - looked >= LOOK_S:
                self._look()
                looked = time.monotonic()

    def _read(self) -> None:
        """Reads commands from the pipe at any time, so that the parent never waits to write one."""
        try:
            while True:
                command: Command = self._connection.recv()
                self._todo.put(lambda command=command: self._obey(command))
        except (EOFError, OSError):
            self._todo.put(self._end)

    def _end(self) -> None:
        for number in list(self._workers):
            self._stop(number)
        futures.wait(self._leaving, LEAVE_S)  # Ray ends the remaining actors
        raise EOFError

    def _obey(self, command: Command) -> None:
        match command:
            case Start():
                self._start(command)
            case Send():
                self._send(command)
            case End():
                self._ask_to_end(command.worker)
            case Stop():
                worker = self._workers.get(command.worker)
                if worker and worker.node and command.refuse:
                    self._refused.add(worker.node[0])
                    self._room = None  # the parent waits for the remaining number
                self._stop(command.worker)
                self._look()

    # Actors

    def _start(self, command: Start) -> None:
        from wdgrid.runner.cluster.actor import Actor

        others = {"ray.io/node-id": f"!in({','.join(sorted(self._refused))})"} if self._refused else None
        actor = (
            self._ray.remote(Actor)
            .options(
                num_cpus=1,
                num_gpus=self._gpus,
                max_concurrency=2,
                label_selector=others,
                runtime_env={"env_vars": dict(command.variables)},
            )
            .remote(self._task(command), command.cells, command.chunk)
        )
        worker = self._workers[command.worker] = _Worker(actor)

        def placed(node: tuple[str, str]) -> None:
            worker.node = node
            self._connection.send(Mail(command.worker, []))
            self._look()
            self._listen(command.worker, worker)

        self._when(command.worker, actor.node.remote(), placed)

    def _task(self, command: Start) -> Any:
        """The task; on the CPU for workers without a GPU."""
        return command.task if self._gpus else command.task.model_copy(update={"device": "cpu"})

    def _listen(self, number: int, worker: _Worker) -> None:
        """Forwards the actor's next messages."""

        def received(said: tuple[list[Message | None], dict[str, bytes]]) -> None:
            messages, files = said
            if worker.mirror and (problem := worker.mirror.keep(files)):
                messages = [Notice(problem), *messages]
            self._connection.send(Mail(number, messages))
            if messages[-1] is not None:
                self._listen(number, worker)

        self._when(number, worker.actor.receive.remote(), received)

    def _send(self, command: Send) -> None:
        if worker := self._workers.get(command.worker):
            if worker.mirror:
                worker.mirror.clear()  # the parent sends the next order only when the outcomes are stored
            worker.mirror = Mirror(command.order) if command.pull else None
            worker.actor.order.remote(command.order, worker.mirror.files() if worker.mirror else None)

    def _ask_to_end(self, number: int) -> None:
        worker = self._workers.get(number)
        if worker and worker.node:
            worker.actor.end.remote()
        else:  # it holds nothing to save
            self._connection.send(Mail(number, [None]))

    def _stop(self, number: int) -> None:
        """Ends an actor, after it has removed its files."""
        worker = self._workers.pop(number, None)
        if worker and worker.mirror:
            left = worker.actor.leave.remote().future()
            kill = partial(self._ray.kill, worker.actor)

            def then(_: Any) -> None:
                self._todo.put(kill)

            left.add_done_callback(then)
            self._leaving = [future for future in self._leaving if not future.done()] + [left]
        elif worker:
            self._ray.kill(worker.actor)

    def _when(self, number: int, answer: Any, then: Callable[[Any], None]) -> None:
        """Calls `then` with an actor's answer, in this thread; if there will be none, reports the actor's end."""

        def done(future: Any) -> None:
            self._todo.put(lambda: self._answered(number, future, then))

        answer.future().add_done_callback(done)

    def _answered(self, number: int, future: Any, then: Callable[[Any], None]) -> None:
        if number not in self._workers:
            return
        error = future.exception()
        if error is None:
            then(future.result())
            return
        from ray import exceptions

        worker = self._workers.pop(number)
        self._ray.kill(worker.actor)
        if isinstance(error, exceptions.RuntimeEnvSetupError) or "creation task" in str(error):
            raise RuntimeError(f"a node cannot start a worker: {_cause(error)}")
        gone = isinstance(error, exceptions.ActorUnavailableError) or "its node has died" in str(error)
        lost = Lost(worker.node and worker.node[1])
        self._connection.send(Mail(number, [lost if gone else None]))

    # Nodes

    def _alive(self) -> dict[str, Mapping[str, float]]:
        """The resources of each usable node."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        return {node["NodeID"]: node["Resources"] for node in nodes if node["NodeID"] not in self._refused}

    def _look(self) -> None:
        """Reports how many workers fit on the cluster, if that has changed."""
        slots = sum(self._slots(resources) for resources in self._alive().values())
        placed = sum(worker.node is not None for worker in self._workers.values())
        room = Room(slots, placed, self._waits_for(), len(self._refused))
        if room != self._room:
            self._room = room
            self._connection.send(room)

    def _slots(self, resources: Mapping[str, float]) -> int:
        slots = int(resources.get("CPU", 0))
        return min(slots, int(resources.get("GPU", 0) / self._gpus)) if self._gpus else slots

    def _waits_for(self) -> str | None:
        waiting = [worker for worker in self._workers.values() if worker.node is None]
        if not waiting or time.monotonic() - min(worker.since for worker in waiting) < WAIT_S:
            return None
        total, free = self._ray.cluster_resources(), self._ray.available_resources()
        has = ", ".join(f"{total.get(kind, 0):g} {kind} ({free.get(kind, 0):g} free)" for kind in ("CPU", "GPU"))
        asks = "1 CPU" + (f" and {self._gpus:g} GPU" if self._gpus else "")
        other = f" on another node than the {len(self._refused)} that are refused" if self._refused else ""
        return f"{len(waiting)} of {len(self._workers)} workers wait for {asks} each{other}; the cluster has {has}"


def _cause(error: BaseException) -> str:
    """The last line of Ray's message, which is the exception raised on the node."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
