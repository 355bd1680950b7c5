"""Runs written for other tools, read back by each tool's own reader."""

import json
import math
import os
import struct
import subprocess
import sys

import pytest

from helpers.synthetic_tables import make_curves, make_study, make_table
from wdgrid.errors import UsageError
from wdgrid.report.neighbours import export_runs, runs_of

STUDY = make_study(panels=[{"optimizer": "sgd"}, {"optimizer": "adamw"}], axes={
    "lr": {"values": "1..1/2"}, "weight_decay": {"values": "0, 2", "unit": 0.016}
})  # fmt: skip


@pytest.fixture
def tables():
    table = make_table(STUDY)  # of 8 cells 2 are not trained, and 4 diverged
    return table, make_curves(table)


def finished(table):
    return table.loc[table["state"] == "complete"]


def test_runs_have_curves_and_final_errors_and_diverged_ones_the_step(tables):
    table, _ = tables
    runs = list(runs_of(*tables))
    assert [run.name for run in runs] == [f"{p}-{n:05d}" for p, n in finished(table)[["panel", "number"]].to_numpy()]
    for run, (_, cell) in zip(runs, finished(table).iterrows(), strict=True):
        assert run.hyperparameters["lr"] == cell["lr"] and ("test_error" in run.final) == math.isfinite(
            cell["test_error"]
        )
        assert (run.facts.get("diverged_at") == "17") == math.isinf(cell["test_error"])
        errors = [value for kind, _, value in run.curves if kind == "test_error"]
        assert len(errors) == (1 if "diverged_at" in run.facts else 3)


@pytest.mark.slow
def test_tensorboard_reads_it(tables, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    assert export_runs("tensorboard", "mine", *tables, tmp_path / "out") == len(finished(tables[0]))
    for run in runs_of(*tables):
        read = EventAccumulator(str(tmp_path / "out" / run.name))
        read.Reload()
        points = [(name, e.step, e.value) for name in read.Tags()["scalars"] for e in read.Scalars(name)]
        expected = [*run.curves, *((f"final/{name}", 0, value) for name, value in run.final.items())]
        assert same(points, expected)
        content = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        given = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
        assert {name: given[name].number_value for name in run.hyperparameters} == run.hyperparameters
        assert given["panel"].string_value == run.panel


def same(found, expected):
    """Whether two lists of (name, epoch, value) are the same in float32."""
    pairs = list(zip(sorted(found), sorted(expected), strict=True))
    return all(a[:2] == b[:2] and a[2] == pytest.approx(b[2], rel=1e-6) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_reads_it(tables, tmp_path):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    assert export_runs("mlflow", "mine", *tables, tmp_path / "out") == len(finished(tables[0]))
    client = MlflowClient(f"sqlite:///{tmp_path}/out/mlflow.db")
    experiment = client.get_experiment_by_name("mine")
    stored = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id], max_results=1000)}
    for run in runs_of(*tables):
        read = stored.pop(run.name)
        assert {name: float(value) for name, value in read.data.params.items()} == run.hyperparameters
        assert {name: read.data.metrics[f"final_{name}"] for name in run.final} == run.final
        assert run.facts.items() <= read.data.tags.items() and read.info.status == "FINISHED"
        history = client.get_metric_history(read.info.run_id, "test_loss")
        assert [(e.step, e.value) for e in history] == [(s, v) for kind, s, v in run.curves if kind == "test_loss"]
    assert not stored


def records(path):
    """The records of a .wandb file, which is a LevelDB log: wandb's Python package can no longer read its own files."""
    from wandb.proto import wandb_internal_pb2

    content, at, part = path.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        part += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield wandb_internal_pb2.Record.FromString(part)
            part = b""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_takes_it(tables, tmp_path):
    pytest.importorskip("wandb")
    few = tables[0].loc[tables[0]["panel"] == "sgd"]
    assert export_runs("wandb", "mine", few, tables[1], tmp_path / "out") == len(finished(few))
    read = {}
    for path in (tmp_path / "out").glob("wandb/offline-run-*/run-*.wandb"):
        points, name, config, summary = [], "", {}, {}
        for record in records(path):
            name = name or record.run.display_name
            config |= {one.key: json.loads(one.value_json) for one in record.run.config.update}
            for item in record.history.item:
                key = item.key or ".".join(item.nested_key)
                points.append((key, record.history.step.num, json.loads(item.value_json)))
            summary |= {one.key or one.nested_key[0]: json.loads(one.value_json) for one in record.summary.update}
        read[name] = points, config, summary
    for run in runs_of(few, tables[1]):
        points, config, summary = read.pop(run.name)
        assert sorted(one for one in points if not one[0].startswith("_")) == sorted(run.curves)
        assert run.hyperparameters.items() <= config.items() and run.facts.items() <= config.items()
        assert {f"final_{name}": value for name, value in run.final.items()}.items() <= summary.items()
    assert not read
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run"]
    env = {**os.environ, "WANDB_SILENT": "false"}
    listed = subprocess.run(command, cwd=tmp_path / "out", env=env, capture_output=True, text=True, timeout=60)
    assert listed.returncode == 0 and f"{len(finished(few))}" in listed.stdout + listed.stderr


def test_a_folder_with_content_is_not_touched(tables, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="exists already and is not an empty folder"):
        export_runs("tensorboard", "mine", *tables, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_library_that_is_missing_is_named_and_leaves_nothing(tables, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UsageError, match=r"--to tensorboard needs a library.*wdgrid\[tensorboard\]"):
        export_runs("tensorboard", "mine", *tables, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
