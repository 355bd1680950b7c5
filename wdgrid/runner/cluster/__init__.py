"""Runs workers on a Ray cluster, one per CPU or GPU slot, while nodes join and leave.

A bridge process holds the connection to Ray. The sweep runs on the machine where it was started, and is the only
process that writes the store.
"""

import contextlib
import importlib.util
import multiprocessing
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wdgrid.errors import MachineError, UsageError
from wdgrid.runner.cluster.address import AUTO, is_address
from wdgrid.runner.cluster.bridge import serve_bridge
from wdgrid.runner.cluster.code import copy_modules, own_modules
from wdgrid.runner.cluster.commands import Broken, Command, Connect, End, Mail, Room, Send, Start, Stop
from wdgrid.runner.handle import END_S, MALLOC, Worker, bare_child, signals_deferred
from wdgrid.runner.messages import Message, Order
from wdgrid.study.sections import Task

CONNECT_S = 30.0  # in which a cluster must answer
# No usage statistics. Under `uv run`, Ray would start each worker by that same command, in a folder without a project.
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


@dataclass(frozen=True)
class Ray:
    """A Ray cluster: its `address` HOST:PORT, or "auto".

    Each worker takes a CPU and `gpus_per_worker` GPUs; None: one GPU if the study may use a GPU and the cluster has
    any.
    """

    address: str = AUTO
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        if not is_address(self.address):
            raise UsageError(f"Ray's address {self.address!r}: must be HOST:PORT, or auto")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker <= 64:
            raise UsageError(f"GPUs for each worker: must be from 0 to 64, not {self.gpus_per_worker:g}")


def ray_of(address: str | None, gpus_per_worker: float | None) -> Ray | None:
    """The cluster at the address that a user gave; None without an address.

    Raises UsageError if an option does not apply.
    """
    if address is None:
        if gpus_per_worker is not None:
            raise UsageError("--gpus-per-worker: needs --ray")
        return None
    return Ray(address, gpus_per_worker)


class Cluster:
    """A connection to a Ray cluster; `connected` opens it."""

    def __init__(self, ray: Ray, task: Task, code: Path | None, pull: bool) -> None:
        self._ray, self._task, self._pull = ray, task, pull
        self._room: Room | None = None  # None: unknown at the moment
        self._workers: dict[int, ClusterWorker] = {}
        self._started = 0
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=serve_bridge, args=(child,), daemon=True)
        with signals_deferred(), bare_child(SETTINGS):
            self._process.start()
        child.close()
        try:
            self._pipe.send(Connect(ray.address, code, ray.gpus_per_worker, task))
            if not self._pipe.poll(CONNECT_S):
                raise MachineError(f"Ray at {ray.address}: no answer within {CONNECT_S:.0f} s")
            self._read("cannot be reached")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the connection and all workers."""
        self._pipe.close()
        self._process.join(END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()

    # Workers

    def start(self, cells: int, chunk: int | None, variables: Mapping[str, str]) -> Worker:
        """Asks for one more worker; `cells` and `chunk` as for a worker process."""
        self._started += 1
        self.command(Start(self._started, self._task, cells, chunk, MALLOC | dict(variables)))
        worker = self._workers[self._started] = ClusterWorker(self, self._started)
        return worker

    def send(self, worker: int, order: Order) -> None:
        """Sends a chunk to train."""
        self.command(Send(worker, order, self._pull))

    def end(self, worker: int) -> None:
        """Asks a worker to save its training and to end."""
        with contextlib.suppress(MachineError):  # the bridge is gone, and its workers with it
            self.command(End(worker))

    def stop(self, worker: int, *, refuse: bool = False) -> None:
        """Ends a worker; `refuse`: no other worker is started on its node."""
        if self._workers.pop(worker, None):
            if refuse:
                self._room = None
            with contextlib.suppress(MachineError):  # the bridge is gone, and its workers with it
                self.command(Stop(worker, refuse))

    def wait(self, _workers: Sequence[Worker], timeout: float) -> list[Worker]:
        """The workers that have sent a message; waits `timeout` seconds for one or for a change of the cluster."""
        if not self._pipe.poll(timeout):
            return []
        while self._pipe.poll():
            self._read("was lost; finished cells are stored")
        return [worker for worker in self._workers.values() if worker.mail]

    # The cluster

    def wanted(self, asked: int | None) -> int:
        """How many workers to run now: the number asked for, else as many as fit, at least one."""
        if self._room is None:
            return 0
        return asked or max(1, self._room.slots)

    def notice(self, asked: int | None) -> str | None:
        """What workers wait for, if requested workers or all workers have no place."""
        return self._room.waits_for if self._room and (asked or not self._room.placed) else None

    @property
    def all_refused(self) -> bool:
        """Whether every node of the cluster was refused."""
        return self._room is not None and self._room.refused > 0 and self._room.slots == 0

    def command(self, command: Command) -> None:
        """Sends a command to the bridge. Raises MachineError if the bridge is gone."""
        try:
            self._pipe.send(command)
        except OSError:
            raise self._lost("was lost; finished cells are stored") from None

    def _read(self, what: str) -> None:
        try:
            message: Mail | Room | Broken = self._pipe.recv()
        except (EOFError, OSError):
            raise self._lost(what) from None
        match message:
            case Mail():
                if worker := self._workers.get(message.worker):
                    worker.placed = True
                    worker.mail.extend(message.messages)
            case Room():
                self._room = message
            case Broken():
                raise self._lost(what, message.why)

    def _lost(self, what: str, why: str = "") -> MachineError:
        return MachineError(f"Ray at {self._ray.address}: {what}{f': {why}' if why else ''}")


class ClusterWorker:
    """A worker on the cluster, or one that waits for a place."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self._cluster, self._number = cluster, number
        self.mail: list[Message | None] = []
        self.placed = False

    def send(self, order: Order) -> None:
        """Sends a chunk to train."""
        self._cluster.send(self._number, order)

    def receive(self) -> Sequence[Message | None]:
        """The worker's messages; None if it died."""
        mail, self.mail = self.mail, []
        return mail

    def ask_to_end(self) -> None:
        """As in Worker."""
        self._cluster.end(self._number)

    def stop(self) -> None:
        """Ends the worker by force; its last messages were read before."""
        self._cluster.stop(self._number)

    def kill(self) -> None:
        """As in Worker."""
        self._cluster.stop(self._number)

    def processor_seconds(self) -> float | None:
        """As in Worker: unknown."""
        return None

    def refuse(self) -> None:
        """Ends the worker; no other worker is started on its node."""
        self._cluster.stop(self._number, refuse=True)


@contextlib.contextmanager
def connected(ray: Ray, task: Task, pull: bool) -> Generator[Cluster]:
    """A connection to the cluster for the block; the user's own modules are sent to it.

    `pull`: checkpoints are copied to this machine. Raises UsageError if Ray is not installed or the modules are too
    large, MachineError if the cluster does not answer.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--ray: Ray is not installed: pip install 'wdgrid[ray]', here and on every node")
    with tempfile.TemporaryDirectory(prefix="wdgrid-") as folder:
        modules = own_modules((task.model, task.dataset), Path.cwd())
        copy_modules(modules, Path(folder))
        cluster = Cluster(ray, _with_whole_path(task), Path(folder) if modules else None, pull)
        try:
            yield cluster
        finally:
            cluster.close()


def _with_whole_path(task: Task) -> Task:
    """The task with the absolute path of a data folder in the working directory, because nodes have another one."""
    root = task.dataset_args.get("root")
    if not isinstance(root, str) or root == "." or not Path(root).is_dir():
        return task
    return task.model_copy(update={"dataset_args": {**task.dataset_args, "root": str(Path(root).absolute())}})
