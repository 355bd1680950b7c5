"""The benchmarks compare like with like, and their tables say what was measured. Nothing is timed here."""

import json
from pathlib import Path

import pytest
import torch

from wdgrid.models import build
from wdgrid.studyfile import load_study

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def work(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import work

    return work


def test_peers_train_the_studys_cells_on_the_same_network(work, tmp_path):
    import networks

    piece = work.subset(work.NETWORKS["mlp"], cells=48, epochs=2)
    study_path, peers_path = piece.write(tmp_path)
    study, told = load_study(study_path), json.loads(peers_path.read_text())
    cells = {(c.panel, *(c.hyperparameters[a] for a in study.axes)) for cs in study.cells().values() for c in cs}
    assert {(p["optimizer"], a, w) for p in told["panels"] for a in p["lr"] for w in p["weight_decay"]} == cells
    assert len(cells) == piece.cells == 48
    assert (told["epochs"], told["batch_size"]) == (study.task.epochs, study.task.batch_size)
    own = build(study.task, torch.Size([1, 8, 8]), 10, seed=0)
    assert [p.shape for p in own.parameters()] == [p.shape for p in networks.mlp().parameters()]


def test_table_extrapolates_beyond_start_up_and_marks_it(work, monkeypatch):
    import table
    from machine import Run

    monkeypatch.setattr(table, "flops", lambda network: (3.5e6, 23e6))
    network = work.NETWORKS["mlp"]
    row = table.Row(work.subset(network, 48, 20), work.full(network), work.least(network), "careful")

    def add(contender, piece, seconds, trials):
        row.add(contender, piece, Run(seconds, 0.0, 0.0, ""), trials)

    for contender, step in (("wdgrid", 1e-3), ("two", 2e-3)):
        for piece in (row.least, row.shared):
            extra = 12 if (contender, piece) == ("two", row.shared) else 0  # GridSampler's duplicates
            steps = piece.cell_steps * (piece.cells + extra) / piece.cells
            add(contender, piece, 3.0 + steps * step, piece.cells + extra)
    assert row.at_full("two") == (pytest.approx(3.0 + row.full.cell_steps * 2e-3), False)
    lines = list(table.peers([row], [100.0, 90.0], "have"))
    (two,) = [line for line in lines if "2 processes" in line and "~" in line]
    assert f"**{row.at_full('two')[0] / row.at_full('wdgrid')[0]:.2f}**" in two
    assert sum("failed" in line for line in lines) == 2  # the loop, which never ran, in both tables
