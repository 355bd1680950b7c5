"""Sends server-sent events: one poller reads the storage for all watchers, and each change is encoded once.

Each watcher reads a short list of the latest events at its own pace; one that is too far behind gets an event to load
the map again. So neither memory nor the number of reads grows with the number of watchers.
"""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

from wdgrid.errors import WdgridError
from wdgrid.serve.reading import Maps, Reader, map_version, queue, status

POLL_S = 0.5
KEEP_ALIVE_S = 15.0
MOST_EVENTS = 64  # kept for watchers that are behind
SHARE = 0.1  # of one core, for reading the map of a study that changes continuously
QUEUE = ""  # the topic of the queue; studies have their names
LOG = logging.getLogger("wdgrid.serve")
CELLS = ("spread", "done", "diverged", "diverged_at", "trials")


class Topic:
    """A watched study, or the queue. `events` are (number, bytes) in order."""

    def __init__(self) -> None:
        self.watchers = 0
        self.events: deque[tuple[int, bytes]] = deque(maxlen=MOST_EVENTS)
        self.number = 0
        self.changed = asyncio.Event()
        self.version: str | None = None  # of the map
        self.map: dict[str, Any] = {}
        self.told: dict[str, Any] = {}
        self.not_before = 0.0

    def publish(self, kind: str, data: object) -> None:
        """Sends an event to all watchers."""
        self.number += 1
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
        self.events.append((self.number, f"event: {kind}\ndata: {text}\n\n".encode()))
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class Hub:
    """The poller and its topics."""

    def __init__(self, reader: Reader, maps: Maps) -> None:
        self._reader, self._maps = reader, maps
        self._topics: dict[str, Topic] = {}
        self._task: asyncio.Task[None] | None = None
        self.stopped = asyncio.Event()

    async def watch(self, name: str, version: str | None) -> AsyncGenerator[bytes]:
        """The events of a study, or of the queue, from a version of the map that the watcher has."""
        topic = self._topics.setdefault(name, Topic())
        topic.watchers += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        try:
            seen = topic.number
            yield b"retry: 2000\n\n"
            if topic.version is not None and version != topic.version and name != QUEUE:
                yield b"event: reload\ndata: {}\n\n"
            if topic.told:
                yield _event("status", topic.told)
            while not self.stopped.is_set():
                changed = topic.changed
                behind = [event for number, event in topic.events if number > seen]
                if topic.number - seen > len(behind):
                    behind = [b"event: reload\ndata: {}\n\n"]
                seen = topic.number
                if behind:
                    yield b"".join(behind)
                    continue
                if not await _first(changed, self.stopped, KEEP_ALIVE_S):
                    yield b": still here\n\n"
        finally:
            topic.watchers -= 1
            if not topic.watchers and self._topics.get(name) is topic:
                del self._topics[name]

    async def _poll(self) -> None:
        """Reads the watched topics until there are no watchers."""
        while self._topics and not self.stopped.is_set():
            for name, topic in list(self._topics.items()):
                try:
                    await self._read(name, topic)
                except WdgridError as error:
                    LOG.warning("%s", error)
                    topic.publish("fault", {"detail": str(error)[:300]})
                    await asyncio.sleep(5)
                except Exception:
                    LOG.exception("unexpected error while reading %s", name or "the queue")
                    await asyncio.sleep(5)
            await asyncio.sleep(POLL_S)

    async def _read(self, name: str, topic: Topic) -> None:
        if name == QUEUE:
            await self._tell(topic, await asyncio.to_thread(self._reader.call, queue))
            return
        version = await asyncio.to_thread(self._reader.call, lambda store: map_version(store, name))
        if version != topic.version and time.monotonic() >= topic.not_before:
            began = time.monotonic()
            version, fresh = await asyncio.to_thread(self._maps.get, name)
            now = time.monotonic()
            topic.not_before = now + (now - began) / SHARE - (now - began)
            if topic.map:
                topic.publish("cells", {"version": version, **difference(topic.map, fresh)})
            else:
                topic.publish("version", {"version": version})
            topic.map, topic.version = fresh, version
        await self._tell(topic, await asyncio.to_thread(self._reader.call, lambda store: status(store, name)))

    async def _tell(self, topic: Topic, told: dict[str, Any]) -> None:
        if told != topic.told:
            topic.told = told
            topic.publish("status", told)


def difference(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The difference between two maps of a study: all small parts, and those cells that changed.

    `panels` has for each panel `cells`: a list of [row, column, {field: value}, {measure: value}]. `reload` is true
    if axes, panels or measures were added.
    """
    if _shape(old) != _shape(new):
        return {"reload": True}
    panels: list[dict[str, Any]] = []
    for before, after in zip(old["panels"], new["panels"], strict=True):
        now, then = after["measures"], before["measures"]
        changed = [
            [i, j, {field: after[field][i][j] for field in CELLS}, {key: now[key][i][j] for key in now}]
            for i in range(len(after["row_labels"]))
            for j in range(len(after["col_labels"]))
            if any(after[field][i][j] != before[field][i][j] for field in CELLS)
            or any(now[key][i][j] != then[key][i][j] for key in now)
        ]
        panels.append({"cells": changed, "best": after["best"], "flags": after["flags"]})
    return {"measures": new["measures"], "flags": new["flags"], "panels": panels}


def _shape(drawn: dict[str, Any]) -> object:
    """The parts of a map that must be equal so that cells can be compared one by one."""
    return [
        [measure["key"] for measure in drawn["measures"]],
        [(p["name"], p["row_labels"], p["col_labels"], sorted(p["measures"])) for p in drawn["panels"]],
    ]


def _event(kind: str, data: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'), allow_nan=False)}\n\n".encode()


async def _first(a: asyncio.Event, b: asyncio.Event, seconds: float) -> bool:
    """Waits for one of two events, for a limited time; returns whether one occurred."""
    waiting = [asyncio.ensure_future(one.wait()) for one in (a, b)]
    try:
        done, _ = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()
    return bool(done)
