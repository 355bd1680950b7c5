"""What is missing at a sweep's end is counted and told: cells that failed, and cells that other processes hold."""

import json
import time

import pytest

from helpers.commands import SMALL
from helpers.stored import fabricated, fill
from wdgrid import load_study
from wdgrid.cli import main
from wdgrid.runner import coordinator as coordinator_module
from wdgrid.runner import environment, reconcile
from wdgrid.runner import run as module
from wdgrid.runner.coordinator import Coordinator, Means
from wdgrid.runner.crew import Crew
from wdgrid.runner.events import SweepEnded, Waiting
from wdgrid.runner.handle import memory_for_workers
from wdgrid.runner.messages import Ready
from wdgrid.runner.run import Settings, sweep
from wdgrid.store import Store

STUDY = {
    "task": {"epochs": 2, "batch_size": 20, "device": "cpu", "model": "helpers.blobs:network"},
    "axes": {"lr": {"values": "1, 1/2, 1/4"}, "weight_decay": {"values": "0, 1", "unit": 0.01}},
    "panels": [{"optimizer": "sgdw", "lr_unit": 0.1}],
}
STUDY["task"]["dataset"] = "helpers.blobs:blobs"
OTHER = "elsewhere:1:0-0"  # a process on another machine


@pytest.fixture
def study():
    return load_study(STUDY)


@pytest.fixture
def store(tmp_path, study):
    with Store(f"sqlite:///{tmp_path}/s.db") as store:
        reconcile.plan(store, "s", study)
        yield store


def swept(store, study, tmp_path, listen=lambda event: None, **given):
    events = []

    def both(event):
        events.append(event)
        listen(event)

    ended = sweep(store, "s", study, Settings(tmp_path, in_process=True, **given), both)
    assert events[-1] == ended
    return ended, events


def fail(store, n, times=3, name="s", panel="sgdw"):
    """Makes n cells fail so many times."""
    for time_ in range(times):
        claims = store.claim(name, panel, 0, n, OTHER)
        store.fail([claim.trial_id for claim in claims], "no space left", OTHER)
        if time_ < times - 1:
            store.retry_failed(name)


def test_cells_that_other_processes_hold_are_missing_at_the_end(store, study, tmp_path):
    store.claim("s", "sgdw", 0, 2, OTHER, 50)
    ended, _ = swept(store, study, tmp_path)
    assert ended == SweepEnded("s", 6, 4, elsewhere=2, until=ended.until) and ended.missing == 2
    assert 0 < ended.until - time.time() <= 50
    again, events = swept(store, study, tmp_path)  # there is nothing to train
    assert again == ended and len(events) == 2 and events[0].missing == 0 and events[0].finished == 4


def test_cells_that_failed_for_good_are_missing_until_they_are_retried(store, study, tmp_path):
    fail(store, 2)
    assert swept(store, study, tmp_path)[0] == SweepEnded("s", 6, 4, failed=2)
    ended, events = swept(store, study, tmp_path, retry=True)
    assert ended == SweepEnded("s", 6, 6) and events[0].retried == 2
    assert set(store.table("s")["state"]) == {"complete"}


def test_waiting_takes_over_what_others_drop(store, study, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "POLL_S", 0.1)
    store.claim("s", "sgdw", 0, 2, OTHER, 0.5)
    ended, events = swept(store, study, tmp_path, wait=True)
    assert ended == SweepEnded("s", 6, 6)
    assert [event.cells for event in events if isinstance(event, Waiting)] == [2]


def test_waiting_ends_when_others_are_done(store, study, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "POLL_S", 0.01)
    claims = store.claim("s", "sgdw", 0, 2, OTHER, 100)

    def finish(event):
        if isinstance(event, Waiting):
            store.finish([(claim, fabricated(77.0)) for claim in claims[2 - event.cells :][:1]], OTHER)

    ended, events = swept(store, study, tmp_path, finish, wait=True)
    assert ended == SweepEnded("s", 6, 6)
    assert [event.cells for event in events if isinstance(event, Waiting)] == [2, 1]
    assert (store.table("s")["test_error"] == 77.0).sum() == 2


def test_the_cells_of_a_worker_that_dies_are_claimed_again_though_none_were_left(store, study, tmp_path):
    """Another worker found nothing to claim before, while the one that dies held the last chunk."""

    def worker(_variables):
        return Gone()

    class Gone:
        """A worker that died."""

        def ask_to_end(self):
            pass

        stop = kill = ask_to_end

        def receive(self):
            return [None]

    coordinator = Coordinator(store, "s", study, Means(2, tmp_path / "checkpoints"), lambda event: None)
    with Crew(worker, coordinator._release, coordinator._finish, lambda workers, _timeout: workers) as crew:
        crew.hire()
        (member,) = crew.members
        member.claims = store.claim("s", "sgdw", 0, 6, coordinator.owner)
        coordinator.pending = {}
        coordinator._handle(None, member, crew)
        assert coordinator.pending == {("sgdw", 0): 6}


def test_no_more_workers_stay_than_there_are_chunks(store, study, tmp_path):
    """Twelve are asked for, and the first that is ready takes all six cells into one chunk."""
    stopped = []

    class Starting:
        """A worker that starts."""

        def __init__(self, _variables):
            pass

        def ask_to_end(self):
            pass

        def send(self, order):
            pass

        def stop(self):
            stopped.append(self)

        def receive(self):
            return [None]

    coordinator = Coordinator(store, "s", study, Means(12, tmp_path / "checkpoints"), lambda event: None)
    assert coordinator.workers <= 6
    with Crew(Starting, coordinator._release, coordinator._finish, lambda workers, _timeout: workers) as crew:
        for _ in range(6):
            crew.hire()
        first = crew.members[2]
        facts = dict.fromkeys(("device", "torch", "backend", "mkl_mode", "products"), "cpu") | environment.own_version()
        coordinator._handle(Ready(facts, 8, None), first, crew)
        assert crew.members == [first] and len(first.claims) == 6 and len(stopped) == 5
    assert store.pending("s") == {("sgdw", 0): 6}
    again = Coordinator(store, "s", study, Means(12, tmp_path / "checkpoints"), lambda event: None)
    assert again.workers == 1  # K is stored


def test_workers_are_bounded_by_free_memory(store, study, tmp_path, monkeypatch):
    monkeypatch.setattr(coordinator_module, "memory_for_workers", lambda: 2)
    assert Coordinator(store, "s", study, Means(12, tmp_path), lambda event: None).workers == 2
    assert 1 <= memory_for_workers() < 1_000_000


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The small study, with three cells that failed for good, two that another process holds, the others finished."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL)
    study = load_study(tmp_path / "small.toml")
    with Store("sqlite:///small.db") as store:
        reconcile.plan(store, "small", study)
        fail(store, 3, name="small", panel="sgd")
        store.claim("small", "sgd", 0, 2, OTHER, 100)
        fill(store, "small", study, lambda cell: 5.0)
    return tmp_path


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_the_command_says_what_is_missing_and_ends_with_status_3(here, capsys, quiet):
    assert main(["sweep", "small.toml", "--json", *quiet]) == 3
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if "are finished;" in line]
    assert line.startswith("small: 43 of 48 cells are finished; 3 failed (to train them again: --retry, ")
    assert "; 2 that another " in line
    assert "leased until" in line and "--wait" in line
    assert len(json.loads(said.out)) == 2 and (here / "reports" / "small" / "report.html").exists()
    assert quiet or "43 of 48 cells are finished, nothing to train" in said.err


def test_all_cells_finished_is_status_0(here, capsys):
    with Store("sqlite:///small.db") as store:
        store.retry_failed("small", None)
        store.release(list(range(1, 49)), OTHER)
        fill(store, "small", load_study(here / "small.toml"), lambda cell: 5.0)
    assert main(["sweep", "small.toml"]) == 0
    assert "small: 48 of 48 cells are finished\n" in capsys.readouterr().err
