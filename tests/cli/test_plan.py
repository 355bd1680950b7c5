"""`wdgrid plan` and `wdgrid doctor`."""

import json

import pytest
import torch

from helpers.commands import study_toml
from wdgrid.cli import main
from wdgrid.engine import Job, Workbench
from wdgrid.engine.estimate import cost
from wdgrid.runner.eta import even_chunk
from wdgrid.study.sections import Cosine, Task

TASK = """\
model_args = { hidden = [16], batch_norm = false }
batch_size = 50
train_size = 100
epochs = 4
device = "cpu"
"""
STUDY = study_toml(TASK, "1..1/4", "0, 1/4..1", adamw=0.1)


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(STUDY)
    return path


def test_plan_counts_what_a_person_would(study, capsys):
    assert main(["plan", str(study), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (row,) = told["panels"]
    assert told["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert (row["cells"], row["steps"]) == (12, 12 * 4 * 2)
    products = 64 * 16 + 16 * 10
    train = 100 * (6 * products - 2 * 64 * 16)  # the first layer needs no gradient of its input
    test = 897 * 2 * products
    assert row["tflop"] == pytest.approx(12 * 4 * (train + test) / 1e12, rel=1e-6)
    assert row["seconds"] > 0 and told["seconds"] == row["seconds"]
    assert not list(study.parent.glob("*.db"))  # nothing is trained or stored


def test_plan_reads_for_people_and_refuses_bad_studies(study, capsys):
    assert main(["plan", str(study)]) == 0
    out = capsys.readouterr().out
    assert "1210 parameters (" in out and "adamw" in out
    assert main(["plan", str(study), "--set", "task.train_size=5000"]) == 2
    assert "digits has only 900" in capsys.readouterr().err


def test_cost_leaves_no_trace_in_the_task():
    bench = Workbench(Task(model_args={"hidden": [8]}, train_size=100, batch_size=50, device="cpu"))
    from helpers.training import cells_of

    before = bench.data.train_x.clone()
    one = cost(bench, Job("sgd", Cosine(), 2, False), cells_of("sgd", [0.1], [0.0]), 3)
    assert one.epoch_seconds > 0 and one.state_bytes >= 3 * 3 * 4 * (64 * 8 + 8 + 8 + 8 * 10 + 10)
    assert torch.equal(before, bench.data.train_x)


@pytest.mark.parametrize(
    ("cells", "at_most", "size"),
    [(121, 40, 32), (121, 41, 41), (121, 121, 121), (5, 40, 5), (7, 2, 2), (9, 4, 4), (9, 5, 5), (10, 4, 4)],
)
def test_even_chunks(cells, at_most, size):
    assert even_chunk(cells, at_most) == size <= at_most


def test_doctor(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["torch"] in torch.__version__ and found["cores"] >= 1
    assert 1 < found["gemm_gflops_one_core"] < 5000 and found["memory_gib"] > 0
    assert main(["doctor"]) == 0
    assert "gemm gflops one core" in capsys.readouterr().out
