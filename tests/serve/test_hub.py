"""Events: one poller for all who watch; every watcher sees every change, or is told to load the map again."""

import asyncio
import json

import pytest

from helpers.stored import fill, valley
from wdgrid.serve import hub as hubs
from wdgrid.serve.hub import QUEUE, Hub, difference
from wdgrid.serve.reading import Maps, Reader, map_data
from wdgrid.store import Store


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(hubs, "POLL_S", 0.01)


class Counting(Reader):
    reads = 0

    def call(self, function):
        self.reads += 1
        return super().call(function)


@pytest.fixture
def reader(place):
    opened = Counting(place)
    yield opened
    opened.close()


def parsed(chunk):
    """The events of a piece of a stream, as (kind, data)."""
    events = [dict(line.split(": ", 1) for line in one.splitlines()) for one in chunk.decode().strip().split("\n\n")]
    return [(one["event"], json.loads(one["data"])) for one in events if "event" in one]


async def first(stream, kind):
    """The data of the next event of a kind, and the kinds before it."""
    before = []
    async for chunk in stream:
        for one, data in parsed(chunk):
            if one == kind:
                return data, before
            before.append(one)
    raise AssertionError(f"the stream ended before {kind}")


def test_every_watcher_sees_the_cells_that_changed_and_one_poller_reads_for_all(reader, place, study, monkeypatch):
    monkeypatch.setattr(hubs, "POLL_S", 0.2)

    async def watched():
        hub = Hub(reader, Maps(reader))
        streams = [hub.watch("half", "70.40.0") for _ in range(50)]
        told = [await first(stream, "status") for stream in streams]
        assert all(data["complete"] == 40 for data, _ in told)
        before = reader.reads
        with Store(place) as store:
            fill(store, "half", study, valley, 7)
        found = [await first(stream, "cells") for stream in streams]
        assert reader.reads - before < 50
        await asyncio.gather(*(stream.aclose() for stream in streams))
        return [data for data, _ in found]

    found = asyncio.run(watched())
    assert all(one == found[0] for one in found) and found[0]["version"] == "70.47.0"
    assert [len(panel["cells"]) for panel in found[0]["panels"]] == [0, 7]
    assert found[0]["panels"][1]["cells"][0][2]["done"] == 1


def test_a_watcher_with_another_version_and_one_that_is_behind_load_again(reader, monkeypatch):
    async def watched():
        hub = Hub(reader, Maps(reader))
        one = hub.watch("half", "70.40.0")
        await first(one, "version")
        other = hub.watch("half", "70.39.0")
        _, before = await first(other, "status")
        assert before == ["reload"]
        topic = hub._topics["half"]
        for k in range(hubs.MOST_EVENTS + 5):
            topic.publish("status", {"k": k})
        assert (await first(one, "reload"))[0] == {}
        await asyncio.gather(one.aclose(), other.aclose())
        await asyncio.sleep(0.1)
        assert not hub._topics and hub._task.done()  # nobody watches: nothing is read

    asyncio.run(watched())


def test_streams_end_when_the_service_stops(reader):
    async def watched():
        hub = Hub(reader, Maps(reader))
        stream = hub.watch(QUEUE, None)
        await first(stream, "status")
        hub.stopped.set()
        assert [chunk async for chunk in stream] == []

    asyncio.run(asyncio.wait_for(watched(), 10))


def test_a_storage_that_fails_is_told_and_read_again(reader, place, tmp_path, monkeypatch):
    waits = []
    real = asyncio.sleep

    async def sleep(seconds):
        waits.append(seconds)
        await real(0.01)

    monkeypatch.setattr(hubs.asyncio, "sleep", sleep)

    async def watched():
        hub = Hub(reader, Maps(reader))
        stream = hub.watch("half", None)
        await first(stream, "status")
        (tmp_path / "study.db").rename(tmp_path / "away.db")
        data, _ = await first(stream, "fault")
        assert "deleted, moved or replaced" in data["detail"] or "no such file" in data["detail"]
        (tmp_path / "away.db").rename(tmp_path / "study.db")
        with Store(place) as store:
            store.retry_failed("half")
        await stream.aclose()

    asyncio.run(watched())
    assert 5 in waits


def test_axes_that_grew_load_the_page_again(place, study):
    with Store(place, read_only=True) as store:
        old = map_data(store, "half")
    grown = {**old, "panels": [{**panel, "row_labels": [*panel["row_labels"], "2"]} for panel in old["panels"]]}
    assert difference(old, grown) == {"reload": True}
    assert [panel["cells"] for panel in difference(old, old)["panels"]] == [[], []]
    assert difference({**old, "measures": old["measures"][:1]}, old) == {"reload": True}
