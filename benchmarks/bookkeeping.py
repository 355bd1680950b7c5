"""Measures the cost of storing: the store's calls by themselves, and their share of a whole sweep.

`python bookkeeping.py sweep STUDY FOLDER WORKERS` runs one `wdgrid sweep` with every store call timed; prints JSON.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

POINTS = 30  # of each of the three curves
CHUNK = 16
PLANNING = ("definition", "create", "reclaim", "retry_failed")
QUEUE = ("pending", "attrs", "set_attrs", "claim", "renew", "finish", "release", "fail")
READING = ("table", "curves")
METHODS = (*PLANNING, *QUEUE, *READING)


def per_trial(folder: Path, cells: int, repeats: int) -> dict[str, float]:
    """Milliseconds a trial for create, claim and finish on a fresh SQLite file each time: the median of `repeats`."""
    from wdgrid.store import Store, owner_name
    from wdgrid.study import Cell, Curve, Outcome

    grid = [(2.0 ** -(i // 22), i % 22 / 1024) for i in range(cells)]
    planned = [Cell("sgd", 0, {"lr": a, "weight_decay": w, "momentum": 0.9}, (str(a), str(w))) for a, w in grid]
    curve = Curve(*([1.0 / 3 + i for i in range(POINTS)] for _ in range(3)))
    outcome = Outcome(2.5, 0.1, 0.1, 0.1, 10.0, None, 1.0, curve)
    attrs = {"sgd": {"optimizer": "sgd", "schedule": "cosine", "epochs": POINTS}}
    taken: dict[str, list[float]] = {"create": [], "claim": [], "finish": []}
    owner = owner_name()
    for repeat in range(repeats):
        with Store(f"sqlite:///{(folder / f'store-{repeat}.db').as_posix()}") as store:
            clock = time.perf_counter
            marks = {"create": -clock(), "claim": 0.0, "finish": 0.0}
            store.create("s", {"sgd": planned}, "{}", "0", {}, attrs)
            marks["create"] += clock()
            while True:
                marks["claim"] -= clock()
                claims = store.claim("s", "sgd", 0, CHUNK, owner, 120.0)
                marks["claim"] += clock()
                if not claims:
                    break
                marks["finish"] -= clock()
                store.finish([(claim, outcome) for claim in claims], owner)
                marks["finish"] += clock()
            for what, seconds in marks.items():
                taken[what].append(1000 * seconds / len(planned))
    return {what: statistics.median(times) for what, times in taken.items()}


def sweep(study: str, folder: str, workers: str) -> dict[str, Any]:
    """One `wdgrid sweep` in this process, with the calls and the seconds of every store method."""
    from wdgrid.cli import main
    from wdgrid.store import Store

    calls: dict[str, list[float]] = {name: [] for name in METHODS}

    def watched(name: str) -> Callable[..., Any]:
        method = getattr(Store, name)

        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                calls[name].append(time.perf_counter() - began)

        return call

    for name in METHODS:
        setattr(Store, name, watched(name))
    url = f"sqlite:///{(Path(folder) / 'watched.db').as_posix()}"
    status = main(["sweep", study, "--storage", url, "--out", folder, "--workers", workers, "--json", "-q"])
    return {"status": status, "calls": {n: [len(times), sum(times)] for n, times in calls.items() if times}}


if __name__ == "__main__":
    told = sweep(*sys.argv[2:])
    print("\n" + json.dumps(told))
    sys.exit(told["status"])
