"""Cells, workbenches and outcomes for tests that train a chunk."""

from dataclasses import asdict

import pytest

from wdgrid.engine import Workbench, train
from wdgrid.optim.variants import VARIANTS, Family
from wdgrid.study import Cell
from wdgrid.study.sections import Task


def rate_of(optimizer: str) -> float:
    """A learning rate at which small networks train well with a variant."""
    return 0.1 if VARIANTS[optimizer].family is Family.SGD else 0.01


def cells_of(optimizer: str, rates: list[float], decays: list[float], seed: int = 3) -> list[Cell]:
    extra = VARIANTS[optimizer].defaults
    return [
        Cell("panel", seed, {"lr": lr, "weight_decay": wd, **extra}, (str(lr), str(wd)))
        for lr, wd in zip(rates, decays, strict=True)
    ]


def run(bench, job, cells, size):
    return train(bench, job, cells, size, lambda done: None)


def numbers(outcome):
    """All of an outcome but its time, comparable to the bit (NaN equals NaN)."""
    return repr({k: v for k, v in asdict(outcome).items() if k != "seconds"})


def whole(done):
    """Of the progress that training reports, the epochs; the parts of one in between depend on the clock."""
    return [int(epochs) for epochs in done if float(epochs).is_integer()]


def bench_of(backend: str, **task) -> Workbench:
    """A workbench whose perceptron is computed in this backend."""
    with pytest.MonkeyPatch.context() as patch:
        if backend == "stacked":
            patch.setattr("wdgrid.engine.workbench.chain", lambda *_: None)
        bench = Workbench(Task(device="cpu", **task))
        assert bench.probe(1).backend == backend
    return bench
