"""What only a GPU can tell. Skipped without one, in CI, too: none was at hand when this was written."""

import math

import pytest
import torch

from helpers.three_cells import NETWORKS, steps, trained
from wdgrid.engine import Job, Workbench, chunk_size, memory, train
from wdgrid.engine.cuda.graph import Graphs
from wdgrid.engine.cuda.resident import Resident
from wdgrid.engine.steps import Stepwise
from wdgrid.optim.variants import VARIANTS
from wdgrid.study import Cell
from wdgrid.study.sections import Cosine, Task

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.mark.parametrize("optimizer", VARIANTS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_of_the_step_is_the_step(name, optimizer, capsys):
    """Cell 1 diverges in the middle; noise is drawn anew in each step."""
    run, batches = steps(Resident, name, optimizer, device="cuda", record=Graphs())
    own, expected = trained(run, batches), trained(*steps(Stepwise, name, optimizer, device="cuda"))
    assert run._replay is not None and not capsys.readouterr().err
    torch.testing.assert_close(own[0], expected[0], rtol=1e-9, atol=1e-12, equal_nan=True)
    for mine, other in zip(own[1], expected[1], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize(("precision", "close"), [("float64", 1e-6), ("float32", 0.1), ("bfloat16", 0.3)])
@pytest.mark.parametrize("model", ["mlp", "resnet"])
def test_a_chunk_comes_to_what_it_comes_to_on_a_cpu(model, precision, close):
    results = {}
    for device, own in (("cpu", "float64"), ("cuda", precision)):
        task = Task(model=model, train_size=400, test_size=200, epochs=2, precision=own, device=device)
        cells = [
            Cell("p", 0, {"lr": lr, "weight_decay": 0.001, **VARIANTS["sgdw"].defaults}, (str(lr), "1"))
            for lr in (0.05, 0.02, 1e300)
        ]
        results[device] = train(Workbench(task), Job("sgdw", Cosine(), 2, False), cells, 4, lambda done: None)
    for cpu, cuda in zip(results["cpu"][:2], results["cuda"][:2], strict=True):
        assert cuda.train_loss == pytest.approx(cpu.train_loss, rel=close)
        assert cuda.weight_norm == pytest.approx(cpu.weight_norm, rel=close)
    assert results["cuda"][2].diverged_at is not None


def test_as_many_cells_as_a_chunk_takes_fit_into_memory():
    task = Task(model="resnet", train_size=400, epochs=1, device="cuda")
    bench = Workbench(task)
    assert memory.free("cuda") > 2**20
    cell = Cell("p", 0, {"lr": 0.01, "weight_decay": 0.001, **VARIANTS["adamw"].defaults}, ("1", "1"))
    (outcome,) = train(bench, Job("adamw", Cosine(), 1, False), [cell], chunk_size(bench), lambda done: None)
    assert math.isfinite(outcome.test_loss)
