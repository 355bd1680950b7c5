"""What grows with a sweep's size: throughput with more workers, and the driver with a thousand of them.

    python benchmarks/scale.py throughput [--cells N] [--epochs E] [--most 4]
    python benchmarks/scale.py driver [--cells N] [--workers N] [--seconds S]

`throughput` sweeps one study with 1, 2, 4 … local processes, and with as many actors on a Ray cluster of this machine,
each on a node with one CPU. `driver` runs the coordinator and an SQLite store on this machine with workers that only
pretend to train (at the interface of a worker's handle), for a bounded time: on a fresh study, then where nine tenths
of its cells are stored. Prints Markdown.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STUDY = """
[task]
model = "mine:network"
dataset = "digits"
batch_size = 50
epochs = {epochs}
device = "cpu"
[axes.lr]
values = "{lr}"
[axes.weight_decay]
values = "0, 1/1024..16"
unit = 0.001
[[panels]]
optimizer = "adamw"
lr_unit = 0.1
"""
MINE = """
from torch import nn


def network():
    hidden = nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU()
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, 10))
"""
CHUNK = 16
POINTS = 3  # of each curve of a fake outcome


def main() -> None:
    """Parses, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("throughput", "driver"))
    parser.add_argument("--cells", type=int)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--most", type=int, default=4, help="workers at most (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1000, help="pretended workers (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each stretch (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wdgrid-scale-") as name:
        if options.part == "throughput":
            throughput(Path(name), options.epochs, options.most)
        else:
            driver(Path(name), options.cells or 1_000_000, options.workers, options.seconds)


# Throughput


def throughput(folder: Path, epochs: int, most: int) -> None:
    """Wall time of whole commands."""
    (folder / "mine.py").write_text(MINE)
    rows = 8
    (folder / "mine.toml").write_text(STUDY.format(epochs=epochs, lr=f"1..1/{2 ** (rows - 1)}"))
    print("| workers | local processes | actors on Ray |\n|---|---|---|")
    count = 1
    while count <= most:
        local = _command(folder, f"local-{count}", ["--workers", str(count)])
        with _nodes(count) as address:
            ray = _command(folder, f"ray-{count}", ["--workers", str(count), "--ray", address])
        print(f"| {count} | {local} | {ray} |", flush=True)
        count *= 2


def _command(folder: Path, name: str, options: list[str]) -> str:
    command = [sys.executable, "-c", "import sys; from wdgrid.cli import main; sys.exit(main())", "sweep", "mine.toml"]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--name", name, "--set", "seeds=[0,1]", "-q", "--json", *options],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    took = time.perf_counter() - began
    if done.returncode:
        return f"failed: {done.stderr.strip()[-200:]}"
    shown = subprocess.run(
        [*command[:3], "show", name, "--json"], cwd=folder, capture_output=True, text=True, check=True
    )
    training = str(json.loads(shown.stdout)["environment"].get("training", "?"))
    return f"{took:.1f} s, of them {training.split(' s;')[0]} s of training"


class _nodes:  # noqa: N801
    """A Ray cluster of this machine: a head without a CPU, and nodes with one CPU each."""

    def __init__(self, count: int) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from ray.cluster_utils import Cluster

        small = {"object_store_memory": 80 * 2**20}
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small}
        )
        for _ in range(count):
            self._cluster.add_node(num_cpus=1, **small)

    def __enter__(self) -> str:
        return self._cluster.address

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()


# The driver


class Pretender:
    """A worker that finishes a chunk as soon as it is asked to: all the time is the driver's and the store's."""

    placed = True

    def __init__(self, ready: "deque[Pretender]", outcome: Any, message: Any) -> None:
        self._ready, self._outcome = ready, outcome
        self._mail: list[Any] = [message]
        ready.append(self)

    def send(self, order: Any) -> None:
        """Finishes the order."""
        from wdgrid.runner.messages import Done, Epoch

        self._mail += [Epoch(1), Done([self._outcome] * len(order.cells))]
        self._ready.append(self)

    def receive(self) -> Sequence[Any]:
        """What it has to say."""
        mail, self._mail = self._mail, []
        return mail

    def ask_to_end(self) -> None:
        """Says that it is gone."""
        self._mail.append(None)
        self._ready.append(self)

    def stop(self) -> None:
        """Nothing is to be ended."""

    kill = stop

    def processor_seconds(self) -> float | None:
        """Unknown."""
        return None


class Pretended:
    """A cluster of pretended workers."""

    all_refused = False

    def __init__(self, workers: int, outcome: Any, ready: Any) -> None:
        self._workers, self._outcome, self._message = workers, outcome, ready
        self._ready: deque[Pretender] = deque()

    def wanted(self, _asked: int | None) -> int:
        """All of them."""
        return self._workers

    def notice(self, _asked: int | None) -> None:
        """Nothing is waited for."""

    def start(self, _cells: int, _chunk: int | None, _variables: Mapping[str, str]) -> Pretender:
        """One more."""
        return Pretender(self._ready, self._outcome, self._message)

    def wait(self, _workers: Sequence[Any], _timeout: float) -> list[Pretender]:
        """One worker at a time, as on a cluster where they finish at different moments."""
        return [self._ready.popleft()] if self._ready else []


class EnoughError(Exception):
    """The time is over."""


def driver(folder: Path, cells: int, workers: int, seconds: float) -> None:
    """Plans a study, runs a stretch on it, marks nine tenths as stored, and runs another one."""
    from wdgrid.runner.reconcile import plan
    from wdgrid.store import Store
    from wdgrid.study import load_study

    side = 100
    seeds = max(1, cells // side**2)
    values = ", ".join(f"{i}/1000" for i in range(1, side + 1))
    (folder / "big.toml").write_text(
        f'[task]\nepochs = {POINTS}\n[axes.lr]\nvalues = "{values}"\n[axes.weight_decay]\nvalues = "{values}"\n'
        '[[panels]]\noptimizer = "sgd"\n'
    )
    study = load_study(folder / "big.toml", [f"seeds={list(range(seeds))}"])
    print("| step | seconds | memory of the driver |\n|---|---|---|")
    with Store(f"sqlite:///{folder}/big.db") as store:
        began = time.perf_counter()
        planned = plan(store, "big", study)
        _row(f"plan {planned} cells", f"{time.perf_counter() - began:.0f}")
        for state in ("none stored", "nine tenths stored"):
            if state != "none stored":
                _mark(folder / "big.db", 0.9)
            _stretch(store, study, workers, seconds, state)
        began = time.perf_counter()
        store.count("big")
        _row("count the cells by state", f"{time.perf_counter() - began:.1f}")
        began = time.perf_counter()
        store.reclaim()
        _row("look for lost leases", f"{time.perf_counter() - began:.1f}")


def _stretch(store: Any, study: Any, workers: int, seconds: float, state: str) -> None:
    from wdgrid.runner import environment
    from wdgrid.runner.coordinator import Coordinator, Means
    from wdgrid.runner.events import ChunkFinished
    from wdgrid.runner.messages import Ready
    from wdgrid.study import Curve, Outcome

    outcome = Outcome(2.5, 0.1, 0.1, 0.1, 10.0, None, 1.0, Curve(*([1.0 / 3] * POINTS for _ in range(3))))
    facts = dict.fromkeys((*environment.FACTS, "device"), "pretended") | environment.own_version()
    cluster: Any = Pretended(workers, outcome, Ready(facts, CHUNK, None))
    marks: list[float] = []
    began = time.perf_counter()

    def listen(event: object) -> None:
        if isinstance(event, ChunkFinished):
            marks.append(time.perf_counter())
            if marks[-1] - began > seconds:
                raise EnoughError

    coordinator = Coordinator(store, "big", study, Means(None, Path("/nowhere"), cluster=cluster), listen)
    made = time.perf_counter() - began
    _row(f"{state}: count what is pending", f"{made:.1f}")
    with contextlib.suppress(EnoughError):
        coordinator.run()
    ended = time.perf_counter()
    first = marks[0] - began - made
    rate = (len(marks) - 1) / (marks[-1] - marks[0]) if len(marks) > 1 else float("nan")
    _row(f"{state}: until the first chunk of {workers} workers is stored", f"{first:.1f}")
    _row(f"{state}: a chunk of {CHUNK} cells (n = {len(marks)})", f"{1 / rate:.4f}")
    _row(f"{state}: end {workers} workers", f"{ended - marks[-1]:.1f}")


def _mark(path: Path, share: float) -> None:
    """Marks the first cells of each seed as complete, as if they had been trained."""
    import sqlite3

    with sqlite3.connect(path) as connection:
        (total,) = connection.execute("SELECT count(*) FROM trials").fetchone()
        connection.execute(
            "UPDATE trials SET state = 'COMPLETE' WHERE state = 'WAITING' AND trial_id <= ?", [share * total]
        )
    connection.close()


def _row(what: str, seconds: str) -> None:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"| {what} | {seconds} | {memory:.2f} GiB |", flush=True)


if __name__ == "__main__":
    main()
