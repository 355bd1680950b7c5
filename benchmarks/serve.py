"""The service under load, on loopback: pages of large storages, and many watchers beside a sweep.

`python serve.py pages FOLDER` measures a storage of 500 studies and 100 000 trials and a study of 10 000 cells.
`python serve.py watchers FOLDER WATCHERS REPEATS` sweeps 484 cells with and without watchers, in turn. Both print JSON.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PORT = 8791
COMMAND = [sys.executable, "-c", "import sys; from wdgrid.cli import main; sys.exit(main())"]
STUDIES, TRIALS_EACH = 500, 200
SWEEP = """\
[task]
model_args = { hidden = [64, 64] }
batch_size = 50
train_size = 900
epochs = %d
device = "cpu"
[axes.lr]
values = "1..1/1024"
[axes.weight_decay]
values = "0, 1/64..8"
unit = 0.016
[[panels]]
optimizer = "sgd"
[[panels]]
optimizer = "sgdw"
[[panels]]
optimizer = "adam"
lr_unit = 0.1
[[panels]]
optimizer = "adamw"
lr_unit = 0.1
"""


@contextmanager
def served(url: str) -> Iterator[int]:
    """The service over a storage, without a worker; its process id."""
    words = [*COMMAND, "serve", "--no-work", "--port", str(PORT), "--storage", url]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/healthz").close()
                break
            except OSError:
                time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def seconds_of(path: str, repeats: int) -> dict[str, float]:
    """First, median and largest time of a request, its bytes."""
    times, size = [], 0
    for _ in range(repeats):
        began = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}") as answer:
            size = len(answer.read())
        times.append(1000 * (time.perf_counter() - began))
    return {"first_ms": times[0], "median_ms": statistics.median(times), "worst_ms": max(times), "bytes": size}


def pages(folder: str) -> dict[str, Any]:
    """Requests to a storage with 500 studies, and one more with a study of 10 000 cells."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from helpers.stored import fill
    from helpers.synthetic_tables import make_study
    from wdgrid.runner.reconcile import plan
    from wdgrid.store import Store

    path = Path(folder, "many.db")
    small = make_study(
        axes={
            "lr": {"values": ", ".join(str(2.0**-k) for k in range(10))},
            "weight_decay": {"values": "0, 1/256..1", "unit": 0.016},
        },
        panels=[{"optimizer": "sgd"}, {"optimizer": "adamw"}],
    )
    large = make_study(
        axes={
            "lr": {"values": ", ".join(str(2 ** (-k / 8)) for k in range(50))},
            "weight_decay": {"values": ", ".join(str(2 ** (-k / 8)) for k in range(50)), "unit": 0.016},
        }
    )
    new = not path.exists()
    with Store(f"sqlite:///{path}") as store:
        for k in range(STUDIES if new else 0):
            plan(store, f"study-{k}", small)
            fill(store, f"study-{k}", small, lambda cell: 10 + cell.hyperparameters["lr"])
        if new:
            plan(store, "large", large)
            fill(store, "large", large, lambda cell: 10 + cell.hyperparameters["lr"])
            plan(store, "zz", small)
    with served(f"sqlite:///{path}"):
        seconds_of("/healthz", 1)
        found = {
            "list": seconds_of("/", 21),
            "list, last page": seconds_of("/?first=450", 21),
            "api list": seconds_of("/api/studies", 21),
            "study of 200 cells": seconds_of("/studies/study-7", 21),
        }
        found["study of 10 000 cells, first"] = seconds_of("/studies/large", 1)
        found["study of 10 000 cells, again"] = seconds_of("/studies/large", 11)
    cold = []
    for _ in range(5):  # in a new process each time, so that no map is in memory
        with served(f"sqlite:///{path}"):
            seconds_of("/studies/study-9", 1)
            cold.append(seconds_of("/studies/large", 1)["first_ms"])
    return {
        **found,
        "study of 10 000 cells, map not in memory": {"median_ms": statistics.median(cold), "worst_ms": max(cold)},
    }


async def watch(name: str, seen: list[tuple[int, float]], stop: asyncio.Event) -> None:
    """One watcher: notes how many cells were finished, and when it was told so."""
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT, limit=2**24)
    writer.write(f"GET /api/studies/{name}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    kind = b""
    while not stop.is_set():
        try:
            line = await asyncio.wait_for(reader.readline(), 1)
        except TimeoutError:
            continue
        if line.startswith(b"event: "):
            kind = line
        elif line.startswith(b"data: ") and b"cells" in kind:
            seen.append((int(json.loads(line[6:])["version"].split(".")[1]), time.time()))
        elif not line:
            break
    writer.close()


async def watched(url: str, name: str, watchers: int, sweep: list[str], folder: str) -> tuple[float, list[float]]:
    """Wall seconds of a sweep beside so many watchers, and after how long each was told of each chunk."""
    from wdgrid.store import Store

    with Store(url, read_only=True) as store:
        while store.definition(name) is None:
            await asyncio.sleep(0.1)
    seen: list[list[tuple[int, float]]] = [[] for _ in range(watchers)]
    stop = asyncio.Event()
    tasks = [asyncio.create_task(watch(name, one, stop)) for one in seen]
    process = await asyncio.create_subprocess_exec(
        *sweep, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    began = time.monotonic()
    await process.wait()
    took = time.monotonic() - began
    await asyncio.sleep(3)
    stop.set()
    await asyncio.gather(*tasks)
    with Store(url, read_only=True) as store:
        finished = store.finished_at(name)
    late = []
    for one in seen:
        told = sorted(one)
        for at, count in zip(finished, range(1, len(finished) + 1), strict=True):
            after = [when for n, when in told if n >= count]
            late.append(after[0] - at if after else float("inf"))
    return took, late


def watchers(folder: str, count: str, repeats: str, epochs: str = "40") -> dict[str, Any]:
    """Sweeps of 484 cells, in turn without and with watchers."""
    from wdgrid.runner.reconcile import plan
    from wdgrid.store import Store
    from wdgrid.study import load_study

    place = Path(folder)
    (place / "grid.toml").write_text(SWEEP % int(epochs))
    study = load_study(place / "grid.toml")
    alone, beside, late, share = [], [], [], []
    for repeat in range(int(repeats)):
        for number in (0, int(count)):
            url = f"sqlite:///{place}/run-{repeat}-{number}.db"
            with Store(url) as store:
                plan(store, "grid", study)
            sweep = [*COMMAND, "sweep", "grid.toml", "--storage", url, "--quiet", "--workers", "2"]
            with served(url) as pid:
                before = cpu_seconds(pid)
                took, delays = asyncio.run(watched(url, "grid", number, sweep, folder))
                share.append((cpu_seconds(pid) - before) / took) if number else None
            (beside if number else alone).append(took)
            late += delays
            print(f"{number} watchers: {took:.2f} s", file=sys.stderr, flush=True)
    ratio = [b / a - 1 for a, b in zip(alone, beside, strict=True)]
    late.sort()
    return {
        "cells": 484, "watchers": int(count), "alone_s": alone, "beside_s": beside,
        "service_cpu_share_of_one_core": share, "slower": {"median": statistics.median(ratio), "worst": max(ratio)},
        "told_after_s": {"median": statistics.median(late), "p99": late[int(0.99 * len(late))], "worst": late[-1]},
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps({"pages": pages, "watchers": watchers}[sys.argv[1]](*sys.argv[2:]), indent=1))
