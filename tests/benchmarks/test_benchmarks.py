"""The benchmarks compare like with like, and their tables say what was measured. Nothing is timed here."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wdgrid import data as datasets
from wdgrid.models import build
from wdgrid.study import load_study

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def work(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import work

    return work


@pytest.fixture
def photos(work):
    import photos

    return photos


@pytest.mark.parametrize("row", ["mlp", "resnet8", "vit", "gn-cnn", "gpt"])
def test_peers_train_the_studys_cells_on_the_same_network(work, tmp_path, monkeypatch, row):
    import networks

    network = work.NETWORKS[row]
    monkeypatch.setattr(work.photos, "make", lambda *of: None)
    piece = work.subset(network, cells=48, epochs=2)
    study_path, peers_path = piece.write(tmp_path, "cuda")
    study, told = load_study(study_path), json.loads(peers_path.read_text())
    assert study.task.device == told["device"] == "cuda"
    cells = {(c.panel, *(c.hyperparameters[a] for a in study.axes)) for cs in study.cells().values() for c in cs}
    assert {(p["optimizer"], a, w) for p in told["panels"] for a in p["lr"] for w in p["weight_decay"]} == cells
    assert len(cells) == piece.cells == 48
    assert (told["epochs"], told["batch_size"]) == (study.task.epochs, study.task.batch_size)
    own = build(study.task, torch.Size(network.images.shape), 10, seed=0).double()
    theirs = getattr(networks, network.factory)().double()
    assert [p.shape for p in own.parameters()] == [p.shape for p in theirs.parameters()]
    with torch.no_grad():
        for mine, yours in zip(own.parameters(), theirs.parameters(), strict=True):
            yours.copy_(mine)
    x = torch.randn(4, *network.images.shape, dtype=torch.float64)
    torch.testing.assert_close(own(x), theirs(x))
    torch.testing.assert_close(own.eval()(x), theirs.eval()(x))


def test_photos_are_the_same_every_time(photos, tmp_path):
    for name in ("a", "b"):
        photos.make(tmp_path / name, 100, 10)
    a, b = ({p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.jpg")} for n in ("a", "b"))
    assert a == b
    assert [sum(path.parts[0] == part for path in a) for part in ("train", "test")] == [100, 10]
    assert len(set(a.values())) == 110
    pixels = np.stack([np.asarray(Image.open(p)) for p in (tmp_path / "a" / "train").rglob("*.jpg")]) / 255
    assert pixels.shape == (100, 32, 32, 3)
    np.testing.assert_allclose(pixels.mean((0, 1, 2)), photos.MEAN, atol=0.05)
    np.testing.assert_allclose(pixels.std((0, 1, 2)), photos.STD, atol=0.03)


@pytest.mark.parametrize("row", ["mlp", "resnet8"])
def test_all_see_as_many_images_in_as_many_steps(work, tmp_path, monkeypatch, row):
    from minibatches import minibatches

    monkeypatch.setenv("WDGRID_DATA", str(tmp_path))
    network = work.NETWORKS[row]
    if network.images.jpeg:  # fewer, to be quick
        network = replace(network, images=replace(network.images, train=3 * 128, test=50))
    images = network.images
    study_path, peers_path = work.least(network).write(tmp_path)
    task, told = load_study(study_path).task, json.loads(peers_path.read_text())
    own = datasets.load(task, torch.device("cpu"), torch.float32)
    assert (len(own.train_x), len(own.test_x)) == (images.train, images.test)
    assert datasets.steps_per_epoch(own, task.batch_size) == images.steps
    for style in ("careful", "usual"):
        train, test = minibatches(told, style)
        x, y = next(iter(train))
        assert (x.shape, y.shape) == ((images.batch, *images.shape), (images.batch,))
        assert len(train) == images.steps
        tested = [(x.shape[1:], len(y)) for x, y in test]
        assert sum(n for _, n in tested) == images.test
        assert {shape for shape, _ in tested} == {images.shape}


def test_a_minibatch_is_shifted_and_mirrored_image_by_image(work):
    from minibatches import _mirrored, _shifted

    x = torch.randn(64, 3, 5, 5)
    padded = torch.nn.functional.pad(x, [2] * 4)
    windows = padded.unfold(2, 5, 1).unfold(3, 5, 1)  # [B, C, 5, 5, H, W]: where the window may lie
    found = (windows.permute(2, 3, 0, 1, 4, 5) == _shifted(x, 2)).flatten(3).all(3)  # [5, 5, B]
    assert found.flatten(0, 1).any(0).all()
    assert found.any(2).sum() > 15  # and it lies in many places
    seen = _mirrored(x)
    mirrored, same = ((seen == y).flatten(1).all(1) for y in (x.flip(3), x))
    assert (mirrored ^ same).all()
    assert 10 < mirrored.sum() < 54


@pytest.mark.parametrize("name", ["sgd", "sgdw", "adam", "adamw"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_peers_loop_learns_and_reports_every_epoch(work, name, precision):
    from minibatches import minibatches
    from training import train

    told = {
        "network": "mlp",
        "epochs": 3,
        "batch_size": 50,
        "seed": 0,
        "images": None,
        "precision": precision,
        "device": "cpu",
    }
    reports = []
    lr = 0.1 if name.startswith("sgd") else 0.01
    last = train(
        told, name, lr, 1e-4, minibatches(told, "careful"), lambda error, epoch: reports.append((epoch, error))
    )
    assert [epoch for epoch, _ in reports] == [0, 1, 2]
    assert reports[-1][1] == last < 30


def test_table_extrapolates_beyond_start_up_and_marks_it(work, monkeypatch):
    import table
    from machine import Run

    monkeypatch.setattr(table, "flops", lambda network: (3.5e6, 23e6))
    network = work.NETWORKS["mlp"]
    row = table.Row(
        work.subset(network, 48, 20), work.full(network), work.least(network), "careful", network.contenders
    )

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
    assert sum("failed" in line for line in lines) == 2 * 2  # the loop and wdgrid without a compiler never ran


def test_table_sets_peers_against_both_precisions(work, monkeypatch):
    import table
    from machine import Run

    monkeypatch.setattr(table, "flops", lambda network: (9.5e9, 11e9))
    network = work.NETWORKS["resnet8"]
    row = table.Row(work.subset(network, 16, 2), work.full(network), work.least(network), "usual", network.contenders)
    for contender, seconds in {"wdgrid": 30.0, "wdgrid-bf16": 20.0, "loop": 60.0, "two": 45.0}.items():
        row.add(contender, row.shared, Run(seconds, 0.0, 0.0, ""), row.shared.cells)
        row.add(contender, row.least, Run(5.0, 0.0, 0.0, ""), 1)
    lines = list(table.peers([row], [100.0], "have"))
    (loop,) = [line for line in lines if "default threads" in line and "(60.0–60.0)" in line]
    assert "| **2.00** / **3.00** |" in loop
    (short,) = [line for line in lines if "sweep`, bfloat16" in line and "(20.0–20.0)" in line]
    assert "| **0.67** |" in short
    training = 16 * 2 * 7 * 9.5 / 60  # 896 images in minibatches of 128
    assert f"| {training:.1f} / {training + 16 * 2 * 11 / 60:.1f} |" in loop


@pytest.mark.slow
def test_the_gpu_benchmark_runs_dry_on_a_cpu(tmp_path):
    """What needs no GPU: products, and training that goes on from a checkpoint."""
    out = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--seconds", "300", "--parts", "gemm,resume", "--out", str(out)]
    command = [sys.executable, "gpu.py", *options]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parts = json.loads(out.read_text())["parts"]
    assert [row["precision"] for row in parts["gemm"]["rows"]] == ["float32", "tf32", "bfloat16"]
    assert [row["equal to the bit"] for row in parts["resume"]["rows"]] == [True, True]
    assert "| resnet | True |" in done.stdout
