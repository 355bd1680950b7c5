"""The queue's worker as a process: kills, signals, pauses; finished cells are never lost."""

import json
import signal
import subprocess
import time

import pytest

from helpers.commands import SMALL, WDGRID, wdgrid
from wdgrid.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture
def here(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    return tmp_path


@pytest.fixture
def worker(here):
    """Starts `wdgrid queue --work` in the folder; all are killed at the end."""
    started = []

    def start():
        with (here / "log").open("a") as log:
            process = subprocess.Popen([*WDGRID, "queue", "--work"], cwd=here, stdout=log, stderr=log)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def entries(here):
    with Store(f"sqlite:///{here}/wdgrid.db", read_only=True) as store:
        return {entry.study: entry for entry in store.queue.entries()}


def until(true, seconds=90):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def submit(here, *options):
    result = wdgrid("submit", "small.toml", *options, "--json", cwd=here)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["id"]


def cells(here, study):
    with Store(f"sqlite:///{here}/wdgrid.db", read_only=True) as store:
        return store.count(study) if store.definition(study) else None


def running(here, study):
    return (now := cells(here, study)) is not None and now.n_running > 0


LONG = ("--name", "long", "--set", "task.epochs=100000", "--set", "panels.0.epochs=1")  # sgd ends, adamw does not


def test_studies_are_trained_in_turn_and_one_is_paused_and_cancelled(here, worker):
    submit(here, *LONG)
    submit(here)
    worker()
    until(lambda: running(here, "long") and cells(here, "long").n_complete == 24)
    assert entries(here)["small"].state == "waiting"
    assert wdgrid("queue", "--pause", "long", cwd=here).returncode == 0
    until(lambda: entries(here)["small"].state == "done")
    assert cells(here, "small").n_complete == 48
    now = cells(here, "long")
    assert (now.n_complete, now.n_waiting) == (24, 24)  # what was finished stays, what was not waits
    wdgrid("queue", "--resume", "long", cwd=here)
    until(lambda: running(here, "long"))
    wdgrid("queue", "--cancel", "long", cwd=here)
    until(lambda: not running(here, "long"))
    assert entries(here)["long"].state == "cancelled" and cells(here, "long").n_complete == 24


def test_the_queue_survives_kills_of_its_worker_and_of_a_sweep(here, worker):
    submit(here, *LONG)
    first = worker()
    until(lambda: running(here, "long") and cells(here, "long").n_complete == 24)
    first.send_signal(signal.SIGKILL)
    first.wait()
    until(lambda: not running(here, "long"))  # the sweep ends with its worker, and puts its cells back
    assert entries(here)["long"].state == "running"  # as the worker left it
    second = worker()
    until(lambda: running(here, "long"))
    sweeps = subprocess.run(["pgrep", "-P", str(second.pid)], capture_output=True, text=True, check=True)
    subprocess.run(["kill", "-KILL", *sweeps.stdout.split()], check=True)
    until(lambda: entries(here)["long"].attempts == 1 and running(here, "long"))
    second.send_signal(signal.SIGTERM)
    assert second.wait(30) == 0
    assert entries(here)["long"].state == "waiting" and cells(here, "long").n_complete == 24
    with Store(f"sqlite:///{here}/wdgrid.db", read_only=True) as store:
        assert store.queue.worker() is None


def test_a_study_that_cannot_be_trained_says_why_and_the_next_one_is_trained(here, worker):
    (here / "small.toml").write_text(SMALL.replace("model_args", 'model = "none:here"\n#'))
    submit(here, "--name", "bad")
    (here / "small.toml").write_text(SMALL)
    submit(here)
    worker()
    until(lambda: entries(here)["small"].state == "done")
    bad = entries(here)["bad"]
    assert bad.state == "failed" and "none:here: cannot be imported" in bad.note and "Traceback" not in bad.note
