"""The measured choice of backend and K: the rule's, unless another is clearly faster."""

import pytest

from helpers.training import cells_of, numbers, run
from wdgrid.engine import Job, Workbench, choice
from wdgrid.study.sections import Constant, Task

TASK = Task(model="helpers.small_networks:mixer", batch_size=25, epochs=1, train_size=50, test_size=50, device="cpu")
JOB = Job("adamw", Constant(), 1, False)
CELLS = cells_of("adamw", [0.01] * 6, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.fixture(scope="module")
def bench():
    return Workbench(TASK)


class Clock:
    """Time that only training takes: so many seconds a step of a cell, by backend and K; every third is ten times."""

    def __init__(self, seconds):
        self.seconds, self.now, self.calls = seconds, 0.0, 0

    def chunk(self, bench, job, cells, size):
        clock, backend = self, bench.probe(size).backend

        class Steps:
            def train(self, batches, first, count):
                clock.calls += 1
                slow = 10 if clock.calls % 3 == 0 else 1
                clock.now += slow * count * size * clock.seconds.get((backend, size), 1.0)

        return type("Chunk", (), {"steps": Steps(), "alive": range(size)})()


def chosen(bench, monkeypatch, seconds):
    clock = Clock(seconds)
    monkeypatch.setattr(choice, "Chunk", clock.chunk)
    monkeypatch.setattr(choice.time, "perf_counter", lambda: clock.now)
    return choice.fastest(bench, JOB, CELLS, 6)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({}, ("stacked", 6)),
        ({("stacked", 2): 0.95, ("one by one", 1): 0.93}, ("stacked", 6)),  # not clearly
        ({("stacked", 2): 0.8}, ("stacked", 2)),
        ({("one by one", 1): 0.5, ("stacked", 2): 0.6}, ("one by one", 1)),
        ({("vmap", 6): 0.5}, ("vmap", 6)),
    ],
)
def test_another_is_taken_where_it_is_clearly_faster(bench, monkeypatch, seconds, expected):
    best = chosen(bench, monkeypatch, seconds)
    assert (best.backend, best.cells) == expected
    assert set(best.microseconds) == {"stacked × 6", "stacked × 2", "stacked × 1", "vmap × 6", "one by one × 1"}


def test_really_measured(bench, monkeypatch):
    monkeypatch.setattr(choice, "SAMPLE_S", 0.001)
    best = choice.fastest(bench, JOB, CELLS, 6)
    assert f"{best.backend} × {best.cells}" in best.microseconds
    assert all(time > 0 for time in best.microseconds.values())


def test_large_perceptrons_may_be_native():
    bench = Workbench(
        TASK.model_copy(update={"model": "mlp", "model_args": {"hidden": [600, 400], "batch_norm": True}})
    )
    assert bench.probe(2).backend == "stacked"
    probe = bench.computing("native").probe(2)
    assert probe.backend in ("native", "stacked") and (probe.remark is None) == (probe.backend == "native")


@pytest.mark.parametrize("backend", ["stacked", "vmap", "one by one"])
def test_a_backend_that_was_chosen_computes_the_same(bench, backend):
    other = bench.computing(backend)
    assert other.probe(3).backend == backend and bench.probe(3).backend == "stacked"
    outcomes, expected = (run(b, JOB, CELLS[:3], 3) for b in (other, bench))
    assert [o.test_error for o in outcomes] == pytest.approx([o.test_error for o in expected], abs=4.1)
    again = run(Workbench(TASK, backend=backend), JOB, CELLS[:3], 3)
    assert list(map(numbers, again)) == list(map(numbers, outcomes))
