"""The service as a process: its worker, signals, logs, and a port that is taken."""

import json
import signal
import subprocess

import pytest

from helpers.commands import WDGRID
from helpers.served import until
from wdgrid.store import Store

pytestmark = pytest.mark.slow


def children(process):
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    return found.stdout.split()


def test_sigterm_ends_the_service_and_its_worker_and_logs_are_json(service, place, tmp_path):
    running = service("--json-logs")
    with Store(place, read_only=True) as store:
        until(lambda: (worker := store.queue.worker()) is not None and worker.alive)
        (pid,) = children(running.process)
        assert running.end(signal.SIGTERM) == 0
        assert store.queue.worker() is None
    assert subprocess.run(["kill", "-0", pid], capture_output=True, check=False).returncode != 0
    lines = (tmp_path / "log").read_text().splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    assert len(told) >= len(lines) - 1  # the first says where it listens
    assert any(one.get("path") == "/healthz" and one["status"] == 200 for one in told)


def test_a_worker_that_is_killed_is_started_again(service, place):
    running = service()
    with Store(place, read_only=True) as store:
        until(lambda: (worker := store.queue.worker()) is not None and worker.alive)
        (pid,) = children(running.process)
        subprocess.run(["kill", "-KILL", pid], check=True)
        until(lambda: children(running.process) not in ([], [pid]) and store.queue.worker().alive)


def test_a_port_that_is_taken_is_told_in_a_line(service, place):
    running = service("--no-work")
    words = [*WDGRID, "serve", "--no-work", "--storage", place, "--port", str(running.port)]
    second = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1 and "Traceback" not in second.stderr
    assert second.stderr == f"wdgrid: --host 127.0.0.1 --port {running.port}: Address already in use\n"
