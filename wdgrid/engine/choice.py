"""Measures which backend and which K are the fastest on this machine, by a few steps of each in turn."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from wdgrid import data as datasets
from wdgrid.engine.estimate import calm
from wdgrid.engine.loop import Chunk, Job
from wdgrid.engine.workbench import Workbench
from wdgrid.study import Cell

REPEATS, SAMPLE_S = 5, 0.15
CLEARLY = 0.9  # a candidate takes at most this share of the time that the rule's own choice takes


@dataclass(frozen=True)
class Choice:
    """A backend, K, and what was measured: µs a step of a cell, by candidate."""

    backend: str
    cells: int
    microseconds: dict[str, float]


def fastest(bench: Workbench, job: Job, cells: Sequence[Cell], size: int) -> Choice:
    """The fastest way to train `cells` of one panel and seed.

    It is the rule's backend at K = size, unless another candidate is clearly faster.

    The time of a candidate is the median, over interleaved repetitions, of its ratio to the rule's.
    """
    rule = bench.probe(size).backend, size
    chunks = {rule: Chunk(bench, job, calm(cells[:size]), size)}
    for backend, together in _others(bench, *rule):
        other = bench.computing(backend)
        try:
            if other.probe(together).backend == backend:
                chunks[backend, together] = Chunk(other, job, calm(cells[:together]), together)
        except (RuntimeError, MemoryError):  # not enough memory
            continue
    batches = datasets.epoch(bench.data, cells[0].seed, 0, bench.task.batch_size)

    def seconds(chunk: Chunk, steps: int) -> float:
        """Seconds of one step of one cell."""
        began = time.perf_counter()
        chunk.steps.train(batches, 0, steps)
        return (time.perf_counter() - began) / steps / len(chunk.alive)

    steps: dict[tuple[str, int], int] = {}
    for candidate, chunk in chunks.items():
        seconds(chunk, 1)  # the first step allocates memory and fills caches
        again = seconds(chunk, 1) * len(chunk.alive)
        steps[candidate] = max(1, min(bench.steps_per_epoch, int(SAMPLE_S / again)))
    times: dict[tuple[str, int], list[float]] = {candidate: [] for candidate in chunks}
    for _ in range(REPEATS):
        for candidate, chunk in chunks.items():
            times[candidate].append(seconds(chunk, steps[candidate]))
    ratios = {c: median(t / r for t, r in zip(own, times[rule], strict=True)) for c, own in times.items()}
    best = min(ratios, key=ratios.__getitem__)
    backend, together = best if ratios[best] <= CLEARLY else rule
    return Choice(backend, together, {f"{b} × {k}": round(1e6 * median(times[b, k]), 1) for b, k in chunks})


def _others(bench: Workbench, backend: str, size: int) -> list[tuple[str, int]]:
    """The candidates other than the rule's choice."""
    sizes = [k for k in dict.fromkeys((size // 3, 1)) if 0 < k < size]
    own = [(backend, k) for k in sizes] if backend != "native" else []
    other = [("native", size), ("stacked", size), ("vmap", size), ("one by one", 1)]
    return own + [(name, k) for name, k in other if (name, k) != (backend, size)]
