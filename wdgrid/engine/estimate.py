"""Measures the FLOPs, seconds and bytes of one chunk in a few steps, and this machine's matrix product rate."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from wdgrid import data as datasets
from wdgrid.engine.loop import EVALUATION_BATCH, Chunk, Job
from wdgrid.engine.workbench import Workbench
from wdgrid.study import Cell

REPEATS, ENOUGH_S = 10, 3.0


@dataclass(frozen=True)
class Cost:
    """What one chunk of K cells costs.

    `train_flops` and `test_flops` are the model's FLOPs per cell and epoch (multiply and add count as two; matrix
    products and convolutions only); `epoch_seconds` is for the whole chunk and one process, from a few measured steps;
    `state_bytes` is the memory of weights, gradients and moments of all K cells.
    """

    train_flops: int
    test_flops: int
    epoch_seconds: float
    state_bytes: int


def cost(bench: Workbench, job: Job, cells: Sequence[Cell], size: int) -> Cost:
    """Trains a chunk for a few steps and discards it. Rate and decay are about 0, so that no cell is frozen."""
    chunk, data = Chunk(bench, job, calm(cells), size), bench.data
    batches = datasets.epoch(data, cells[0].seed, 0, bench.task.batch_size)
    order = _fastest(lambda: datasets.epoch(data, cells[0].seed, 0, bench.task.batch_size))
    first = _fastest(lambda: chunk.steps.train(batches, 0, 1))
    several = max(1, min(bench.steps_per_epoch, int(ENOUGH_S / REPEATS / first)))  # they may share the cost of a call
    step = _fastest(lambda: chunk.steps.train(batches, 0, several)) / several
    some = min(len(data.test_x), EVALUATION_BATCH)
    images = len(data.test_x) + (0 if data.val_x is None else len(data.val_x))
    test = _fastest(lambda: chunk.evaluate(data.test_x[:some], data.test_y[:some])) * images / some
    tensors = (chunk.network.theta, chunk.network.gradient, *chunk.rule.state)
    held = sum(t.numel() * t.element_size() for t in tensors)
    return Cost(*_flops(bench), order + bench.steps_per_epoch * step + test, held)


def calm(cells: Sequence[Cell]) -> list[Cell]:
    """Cells with learning rate 0 and very small weight decay, so that none diverges."""
    rates = {"lr": 0.0, "weight_decay": 1e-9}
    return [dataclasses.replace(cell, hyperparameters={**cell.hyperparameters, **rates}) for cell in cells]


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of a few runs; the first, which allocates memory and fills caches, is separate."""
    times: list[float] = []
    while len(times) <= REPEATS and sum(times) < ENOUGH_S:
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:] or times)


def _flops(bench: Workbench) -> tuple[int, int]:
    """Model FLOPs of one cell: an epoch of training, a pass over the test set."""
    data, batch = bench.data, bench.batch
    x = data.prepared(data.train_x[:batch])
    module = bench.module(seed=0).to(x)
    counter = FlopCounterMode(display=False)
    with counter:
        torch.nn.functional.cross_entropy(module(x), data.train_y[:batch]).backward()
    train = counter.get_total_flops() * bench.steps_per_epoch
    with torch.no_grad(), counter:
        module.eval()(data.prepared(data.test_x[:batch]))
    return train, counter.get_total_flops() * len(data.test_x) // min(batch, len(data.test_x))


def gemm_rate(threads: int, device: str = "cpu", size: int = 2048) -> float:
    """Measured float32 matrix product rate in GFLOP/s, the best of a few products of size × size matrices."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a = torch.randn(size, size, device=device)
        best = float("inf")
        for _ in range(REPEATS):
            started = time.perf_counter()
            torch.mm(a, a)
            if device != "cpu":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    return 2 * size**3 / best / 1e9


def devices() -> list[str]:
    """Names of the CUDA devices that torch sees."""
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
