"""`--ray` on a cluster of this machine: whatever is killed, each cell is trained once, to the bits of a local sweep."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import wdgrid
from helpers.commands import WDGRID
from wdgrid.errors import MachineError
from wdgrid.runner.events import ChunkFinished, Notice, Progress
from wdgrid.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="finds Ray's processes in /proc")]
pytest.importorskip("ray", reason="the extra ray is not installed")
STUDY = """
[task]
model = "mine:network"
dataset = "mine:data"
batch_size = 50
epochs = 60
device = "cpu"
[axes.lr]
values = "1..1/4"
[axes.weight_decay]
values = "0, 1/4..1"
unit = 0.016
[[panels]]
optimizer = "sgd"
[[panels]]
optimizer = "adamw"
lr_unit = 0.1
"""
MINE = """
from mine_layers import layers
import torch


def network():
    print("printed by the user's own code")
    return layers()


def data():
    from sklearn.datasets import load_digits
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    return x[:900], y[:900], x[900:], y[900:]
"""
LAYERS = """
from torch import nn


def layers():
    return nn.Sequential(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 10))
"""
CELLS = 24
COMMAND = ["sweep", "mine.toml", "--checkpoint-minutes", "0", "--ray"]


@pytest.fixture(scope="module")
def cluster():
    """A head without a processor and two nodes with one each."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 2**20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
        try:
            cluster.small = small
            cluster.nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The table of a local sweep."""
    here = tmp_path_factory.mktemp("local")
    write(here)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        return table(wdgrid.sweep("mine.toml", progress=False, workers=2))


@pytest.fixture
def here(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder):
    for name, text in (("mine.toml", STUDY), ("mine.py", MINE), ("mine_layers.py", LAYERS), ("other.py", "1 / 0")):
        (folder / name).write_text(text)


def table(results):
    frame = results.table().drop(columns=["seconds", "number"])
    return frame.sort_values(["panel", "seed", "row", "col"]).reset_index(drop=True)


def actors():
    """Pids of Ray's processes that train."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::Actor"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def node_of(cluster, actor):
    """The node that has started an actor."""
    parent = int(Path(f"/proc/{actor}/stat").read_text().rpartition(")")[2].split()[1])
    return next(node for node in cluster.nodes if node.all_processes["raylet"][0].process.pid == parent)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def test_an_actor_and_a_node_are_lost_and_another_node_comes(cluster, here, local, capfd):
    said, finished, lost = [], [], []

    def listen(event):
        said.extend([event.text] if isinstance(event, Notice) else [])
        finished.extend(event.outcomes if isinstance(event, ChunkFinished) else [])
        if isinstance(event, Progress) and event.cells_done > 2 and not lost:
            lost.append(actors())
            os.kill(lost[0][0], signal.SIGKILL)
        elif isinstance(event, Progress) and event.cells_done > 12 and len(lost) == 1:
            lost.append(node_of(cluster, min(actors())))
            cluster.nodes.remove(lost[1])
            cluster.remove_node(lost[1], allow_graceful=False)
            cluster.nodes.append(cluster.add_node(num_cpus=1, **cluster.small))

    results = wdgrid.sweep("mine.toml", ray=cluster.address, checkpoint_minutes=0, progress=listen)
    pd.testing.assert_frame_equal(table(results), local)  # to the bit
    assert len(lost) == 2 and len(finished) == CELLS
    assert any(re.fullmatch(r"node [\d.]+ is gone; the cells of its workers wait again", text) for text in said), said
    assert not list(here.glob("*.checkpoints"))
    wait_for(lambda: not actors())
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")  # nothing of Ray's, nor of the user's code on other machines


def test_the_driver_is_killed_then_terminated_then_goes_on(cluster, here, local):
    """SIGKILL, SIGTERM, and to the end: from the checkpoints that were copied to this machine."""
    for number, status, said in ((signal.SIGKILL, -9, ""), (signal.SIGTERM, 143, f"--ray {cluster.address}")):
        with (here / "stderr").open("w") as errors:
            process = subprocess.Popen([*WDGRID, *COMMAND, cluster.address], stdout=subprocess.DEVNULL, stderr=errors)
        before = set(here.glob("mine.db.checkpoints/*.safetensors"))
        wait_for(lambda before=before: set(here.glob("mine.db.checkpoints/*.safetensors")) - before)
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(20) == status and time.monotonic() - began < 10
        wait_for(lambda: not actors(), 10)
        assert said in (here / "stderr").read_text()
    with Store("sqlite:///mine.db") as store:
        assert set(store.table("mine")["state"]) <= {"waiting", "complete"}
    epochs = []
    results = wdgrid.sweep(
        "mine.toml", ray=cluster.address, progress=lambda e: epochs.extend([e] if isinstance(e, Progress) else [])
    )
    pd.testing.assert_frame_equal(table(results), local)
    assert epochs[0].cells_done > CELLS / 2 / 60  # further than after the first epoch of a chunk
    assert not list(here.glob("*.checkpoints"))


def test_a_node_with_another_version_is_refused(cluster, here, monkeypatch):
    site = here / "site" / "wdgrid-9.9.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: wdgrid\nVersion: 9.9\n")
    for node in cluster.nodes:
        cluster.remove_node(node, allow_graceful=False)
    monkeypatch.setenv("PYTHONPATH", str(site.parent))
    cluster.nodes[:] = [cluster.add_node(num_cpus=1, **cluster.small)]
    said = []
    with pytest.raises(MachineError, match="no node of the cluster is like"):
        wdgrid.sweep("mine.toml", ray=cluster.address, progress=lambda e: said.append(getattr(e, "text", "")))
    assert any("dropped" in text and "wdgrid: 0.1.0, then 9.9" in text for text in said), said


def test_a_cluster_that_cannot_be_reached_is_one_line(here):
    done = subprocess.run([*WDGRID, *COMMAND, "127.0.0.1:1"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("wdgrid:")]
    assert line == "wdgrid: Ray at 127.0.0.1:1: cannot be reached: Connection refused"
