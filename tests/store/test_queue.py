"""The queue of submitted studies: order, states, and exactly one worker, over SQLite and PostgreSQL."""

import json
import subprocess
import sys

import pytest

from helpers.store_contract import grid, outcome, plan
from wdgrid.errors import UsageError
from wdgrid.store import Store, StoreError, owner_name


def submit(store, *names):
    return [store.queue.submit(name, '{"a": 1}', f"sha-{name}", {"retry": False}).id for name in names]


def order(store):
    return [(entry.study, entry.state) for entry in store.queue.entries()]


def test_studies_wait_in_the_order_of_submission_and_can_be_moved(store):
    assert store.queue.entries() == [] and store.queue.worker() is None
    a, b, c = submit(store, "a", "b", "c")
    assert order(store) == [("a", "waiting"), ("b", "waiting"), ("c", "waiting")]
    store.queue.move(c, 1)
    store.queue.move(a, 99)
    assert [name for name, _ in order(store)] == ["c", "b", "a"]
    assert store.queue.hold("w") and store.queue.start_next("w").study == "c"
    store.queue.move(a, 1)
    assert order(store) == [("c", "running"), ("a", "waiting"), ("b", "waiting")]
    with pytest.raises(UsageError, match=r"queue entry \d+ \(c\): is running; only one that is waiting or paused"):
        store.queue.move(c, 2)
    assert submit(store, "d") and order(store)[-1] == ("d", "waiting")
    assert store.queue.entry(b).options == {"retry": False}


def test_a_name_is_in_the_queue_once(store):
    (a,) = submit(store, "a")
    with pytest.raises(UsageError, match="a: is in the queue already"):
        submit(store, "a")
    with pytest.raises(UsageError, match="another study of that name"):
        store.queue.submit("a", "{}", "other", {})
    store.queue.cancel(a)
    assert len(submit(store, "a")) == 1 and order(store) == [("a", "waiting"), ("a", "cancelled")]


def test_pause_go_on_and_cancel(store):
    a, b = submit(store, "a", "b")
    store.queue.hold("w")
    store.queue.pause(a)
    assert store.queue.start_next("w").id == b
    assert store.queue.pause(b).state == "paused"
    assert not store.queue.finish(b, "w", "done") and store.queue.entry(b).state == "paused"
    assert store.queue.resume(a).state == "waiting" and store.queue.start_next("w").id == a
    assert store.queue.cancel(a).ended is not None and store.queue.start_next("w") is None
    with pytest.raises(UsageError, match="is cancelled; only one that is waiting or running can be paused"):
        store.queue.pause(a)
    assert store.queue.resume(a).ended is None
    with pytest.raises(UsageError, match="queue entry 99: there is none"):
        store.queue.cancel(99)


def test_what_ended_says_why_and_attempts_are_counted(store):
    (a,) = submit(store, "a")
    store.queue.hold("w")
    store.queue.start_next("w")
    assert store.queue.finish(a, "w", "waiting", "killed by SIGKILL")
    assert (store.queue.entry(a).attempts, store.queue.entry(a).note) == (1, "killed by SIGKILL")
    assert store.queue.start_next("w").note == ""
    assert store.queue.finish(a, "w", "failed", "x" * 9999) and len(store.queue.entry(a).note) == 2000
    assert (store.queue.resume(a).attempts, store.queue.entry(a).ended) == (0, None)


def test_there_is_one_worker_and_a_dead_one_leaves_its_entry(store):
    a, _ = submit(store, "a", "b")
    child = subprocess.run(
        [sys.executable, "-c", "from wdgrid.store import owner_name; print(owner_name())"],
        capture_output=True,
        text=True,
        check=True,
    )
    dead = child.stdout.strip()
    assert store.queue.hold(dead, {"cells": 3}) and store.queue.start_next(dead).id == a
    assert store.queue.worker().progress == {"cells": 3} and not store.queue.worker().alive
    me = owner_name()
    assert store.queue.hold(me) and store.queue.worker().alive and order(store)[0] == ("a", "waiting")
    assert not store.queue.hold("another") and store.queue.start_next("another") is None
    assert not store.queue.finish(a, dead, "done")
    assert store.queue.start_next(me).id == a and store.queue.hold(me, {"cells": 5})
    assert order(store)[0] == ("a", "running") and store.queue.worker().progress == {"cells": 5}
    store.queue.hold(me, lease_s=-1)
    assert store.queue.hold("otherhost:1:x-1") and order(store)[0] == ("a", "waiting")
    store.queue.leave("otherhost:1:x-1")
    assert store.queue.worker() is None


def test_a_storage_opened_for_reading_reads_all_and_writes_nothing(store, url, tmp_path):
    plan(store)
    store.finish([(claim, outcome(2.0)) for claim in store.claim("digits", "adamw", 0, 2, "o")], "o")
    with Store(url, read_only=True) as reader:
        assert reader.queue.entries() == []  # without its tables, too
        submit(store, "a")
        assert [entry.study for entry in reader.queue.entries()] == ["a"]
        assert reader.count("digits").n_complete == 2 and len(reader.table("digits")) == 6
        for write in (
            lambda: reader.reclaim(),
            lambda: reader.queue.hold("w"),
            lambda: reader.queue.pause(1),
            lambda: reader.set_attrs("digits", {"x": 1}),
        ):
            with pytest.raises(StoreError, match="was opened for reading only"):
                write()


def test_reading_while_another_process_writes_neither_waits_nor_makes_it_wait(store, url):
    plan(store)
    with Store(url, read_only=True) as reader, store._database.write() as connection:
        connection.exec_driver_sql("UPDATE trials SET state = state")  # SQLite's only writer
        assert reader.count("digits").n_waiting == 6


def test_a_folder_or_file_that_is_missing_is_not_made_by_reading(tmp_path):
    with pytest.raises(StoreError, match="there is no such file"):
        Store(f"sqlite:///{tmp_path}/none.db", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_pages_of_studies_have_counts_and_best_cells(store):
    for k in range(5):
        canonical = json.dumps({"title": f"Study {k}", "task": {"validation_size": k}})
        store.create(f"s{k}", {"adamw": grid(), "sgd": grid(panel="sgd")}, canonical, "sha", {}, {})
    claims = store.claim("s1", "sgd", 0, 3, "o")
    store.finish([(claims[0], outcome(7.0)), (claims[1], outcome(4.0))], "o")
    store.fail([claims[2].trial_id], "CUDA error")
    page = store.page(1, 3)
    assert page.total == 5 and [one.name for one in page.studies] == ["s3", "s2", "s1"]
    last = page.studies[-1]
    assert (last.n_complete, last.n_failed, last.n_waiting, last.n_cells) == (2, 1, 9, 12)
    assert (last.best.panel, last.best.error, last.best.row) == ("sgd", 4.0, claims[1].cell.multiples[0])
    assert last.title == "Study 1" and last.selected_on == "validation" and last.panels == ("adamw", "sgd")
    assert store.overview("s0").best is None and store.overview("s0").selected_on == "test"
    assert [one.name for one in store.page(0, 9, "S4").studies] == ["s4"] and store.page(9, 9).studies == []
    assert len(store.finished_at("s1")) == 2
    assert store.failures("s1") == [("sgd", *claims[2].cell.multiples, 0, "CUDA error")]
    with pytest.raises(StoreError, match="there is no study called 'none'"):
        store.overview("none")
