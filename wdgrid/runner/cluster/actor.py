"""Runs a worker on a node of a Ray cluster; it trains in a thread and answers two calls at a time."""

import contextlib
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from wdgrid.runner.messages import Epoch, Message, Order, Stopped
from wdgrid.runner.worker import Ending, serve_actor
from wdgrid.study.import_by_name import load_object
from wdgrid.study.sections import Task


class Actor:
    """A Ray actor with a worker. One call waits for the worker's messages while another delivers an order."""

    def __init__(self, task: Task, cells: int, chunk: int | None) -> None:
        _import_own(task)
        self._connection, theirs = multiprocessing.Pipe()
        self._folder: Path | None = None  # for checkpoints that are copied to the driver
        self._given: set[str] = set()
        self._ending = Ending()
        given = theirs, task, cells, chunk, self._ending
        threading.Thread(target=serve_actor, args=given, daemon=True).start()

    def node(self) -> tuple[str, str]:
        """The id and the address of the node."""
        import ray

        context = ray.get_runtime_context()
        return context.get_node_id(), str(ray.util.get_node_ip_address())  # pyright: ignore

    def order(self, order: Order, files: Mapping[str, bytes] | None) -> None:
        """Sends a chunk to the worker. `files` are its checkpoints; None: they are in the order's folder."""
        if files is not None:
            self._folder = self._folder or Path(tempfile.mkdtemp(prefix="wdgrid-"))
            for name, content in files.items():
                (self._folder / name).write_bytes(content)
            self._given = set(files)
            order = replace(order, checkpoints=self._folder)
        with contextlib.suppress(OSError):  # the thread has ended; `receive` returns that
            self._connection.send(order)

    def receive(self) -> tuple[list[Message | None], dict[str, bytes]]:
        """The worker's messages since the last call (waits for one), and the checkpoints that it wrote."""
        messages: list[Message | None] = []
        try:
            while not messages or self._connection.poll():
                messages.append(self._connection.recv())
        except (EOFError, OSError):
            messages.append(None)
        # Files are collected only after an epoch: then the worker has read the chunk's earlier checkpoints, and no file
        # is left that nothing would remove.
        trained = any(isinstance(message, Epoch | Stopped) for message in messages)
        return messages, self._written() if trained else {}

    def end(self) -> None:
        """Asks the worker to save its training and to end; `receive` returns its last messages."""
        self._ending.asked = True
        with contextlib.suppress(OSError):  # it ended already
            self._connection.send(None)

    def leave(self) -> None:
        """Removes the folder of checkpoints."""
        for path in self._folder.iterdir() if self._folder else ():
            path.unlink(missing_ok=True)
        if self._folder:
            self._folder.rmdir()

    def _written(self) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        for path in sorted(self._folder.glob("*.safetensors")) if self._folder else ():
            with contextlib.suppress(FileNotFoundError):  # a newer one replaced it
                if path.name not in self._given:
                    files[path.name] = path.read_bytes()
                path.unlink()
        return files


def _import_own(task: Task) -> None:
    """Imports the user's modules from Ray's folder, and then leaves the folder, because Ray may remove it."""
    for spec in (task.model, task.dataset):
        if ":" in spec:
            with contextlib.suppress(Exception):  # the thread reports the fault when it loads them
                load_object(spec)
    os.chdir("/")
