"""Signals end a sweep as Ctrl-C does, and no worker outlives its parent."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.commands import SMALL, WDGRID, wdgrid

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
LONG = ["sweep", "small.toml", "--set", "task.epochs=100000", "--workers", "2"]


@pytest.fixture
def here(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    return tmp_path


@pytest.fixture
def begin(here):
    """Starts a long sweep and waits until it has workers that `are_at` that point."""
    started = []

    def begin(are_at, *options):
        errors = (here / "stderr").open("w")
        process = subprocess.Popen([*WDGRID, *LONG, *options], cwd=here, stdout=subprocess.DEVNULL, stderr=errors)
        errors.close()
        started.append(process)
        deadline = time.monotonic() + 60
        while not are_at(process) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert are_at(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def workers(process):
    """Pids of the process' children, but for multiprocessing's resource tracker."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pids = children.read_text().split() if children.exists() else []
    return [pid for pid in pids if b"spawn_main" in command_line(pid)]


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def launched(process):
    """The workers are there; maybe nothing is planned yet."""
    return len(workers(process)) == 2


def starting(process):
    """The workers start, and the cells are planned."""
    said = Path(f"/proc/{process.pid}/cwd").resolve() / "stderr"
    return launched(process) and "48 cells to train" in said.read_text()


def training(process):
    """Each worker trains a chunk: checkpoints are there after the first epoch."""
    cwd = Path(f"/proc/{process.pid}/cwd").resolve()
    saved = {path.name.partition("-")[0] for path in (cwd / "small.db.checkpoints").glob("*.safetensors")}
    return launched(process) and len(saved) == 2


def alive(pids):
    return [pid for pid in pids if b"spawn_main" in command_line(pid)]


@pytest.mark.parametrize(
    ("number", "status", "are_at"),
    [
        (signal.SIGTERM, 143, starting),
        (signal.SIGTERM, 143, training),
        (signal.SIGHUP, 129, training),
        (signal.SIGINT, 130, starting),
    ],
)
def test_a_signal_ends_the_sweep_within_ten_seconds(here, begin, number, status, are_at):
    process = begin(are_at, "--checkpoint-minutes", "0")
    pids = workers(process)
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=20) == status
    assert time.monotonic() - began < 10 and not alive(pids)
    said = (here / "stderr").read_text()
    assert "Traceback" not in said and "interrupted; 0 of 48 cells are stored. To resume:" in said
    assert "wdgrid sweep small.toml --set task.epochs=100000" in said
    states = json.loads(wdgrid("show", "small", "--storage", "sqlite:///small.db", "--json", cwd=here).stdout)["cells"]
    assert states == {"waiting": 48}
    assert ("48 cells in training are saved" in said) == (are_at is training)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_before_anything_is_planned_leaves_nothing(here, begin, number, status):
    process = begin(launched)
    pids = workers(process)
    process.send_signal(number)
    assert process.wait(timeout=20) == status
    assert not alive(pids) and "Traceback" not in (here / "stderr").read_text()


def test_a_step_that_takes_long_is_cut_off(here, begin):
    """The signal comes while the workers compute in code that does not look at it."""
    module = "import pathlib, time, torch\n\n\nclass Net(torch.nn.Linear):\n    def forward(self, x):\n"
    module += "        time.sleep(60 if pathlib.Path('slow').exists() else 0)\n"
    module += "        return super().forward(x.flatten(1) if x.sum() > 0 else -x.flatten(1))\n"  # cannot be traced
    (here / "own.py").write_text(module + "\n\ndef net():\n    return Net(64, 10)\n")
    process = begin(training, "--set", "task.model=own:net", "--set", "task.model_args={}", "--checkpoint-minutes", "0")
    pids = workers(process)
    (here / "slow").touch()
    time.sleep(1)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    assert time.monotonic() - began < 10 and not alive(pids)
    assert "are saved" not in (here / "stderr").read_text()


def test_a_database_that_is_overwritten_while_a_sweep_runs_ends_it_in_one_line(here, begin):
    other = here / "other.db"
    assert (
        wdgrid("sweep", "small.toml", "--storage", f"sqlite:///{other}", "--set", "task.epochs=1", cwd=here).returncode
        == 0
    )
    before = other.read_bytes()
    process = begin(training, "--set", "task.epochs=2000", "--checkpoint-minutes", "0")
    with (here / "small.db").open("r+b") as file:  # as cp does it
        file.truncate(0)
        file.write(before)
    assert process.wait(timeout=120) == 1
    said = (here / "stderr").read_text()
    assert (
        said.count("was deleted, moved, replaced or overwritten while it was in use") == 1 and "Traceback" not in said
    )
    assert "give the same command again" in said.splitlines()[-1]
    assert (here / "small.db").read_bytes() == before
    shown = json.loads(wdgrid("show", "small", "--storage", "sqlite:///small.db", "--json", cwd=here).stdout)
    assert shown["cells"] == {"complete": 48}


def test_workers_that_do_not_answer_are_gone_within_ten_seconds_too(here, begin):
    process = begin(training, "--checkpoint-minutes", "0")
    pids = workers(process)
    for pid in pids:
        subprocess.run(["kill", "-STOP", pid], check=True)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    assert time.monotonic() - began < 10 and not alive(pids)


@pytest.mark.parametrize("are_at", [starting, training])
def test_workers_end_at_once_with_a_parent_that_was_killed(begin, are_at):
    process = begin(are_at, "--checkpoint-minutes", "0")
    time.sleep(0.5)  # while they import torch, or in an epoch
    pids = workers(process)
    process.kill()
    process.wait()
    time.sleep(1)
    assert len(pids) == 2 and not alive(pids)


BLOCKED = """
from pathlib import Path
from wdgrid.runner.handle import _early, started_early
with started_early(2):
    for _, process in _early:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        print(next(line.split()[1] for line in lines if line.startswith("SigBlk")))
"""


def test_ctrl_c_does_not_reach_a_worker_from_its_first_moment(here):
    """The first child of a process, too: multiprocessing starts a process of its own before it."""
    done = subprocess.run([sys.executable, "-c", BLOCKED], cwd=here, capture_output=True, text=True, check=True)
    masks = [int(mask, 16) for mask in done.stdout.split()]
    assert len(masks) == 2 and all(mask & 1 << (signal.SIGINT - 1) for mask in masks)
