"""`wdgrid sweep`: what it writes, and that nothing which happens on the way changes that."""

import json
import os
import shutil
import signal
import subprocess
import time

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from helpers.commands import SMALL, WDGRID, trials, wdgrid
from helpers.compiled import needs_compiler

ONE = ["--workers", "1"]


@pytest.fixture
def here(tmp_path):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "small.toml").write_text(SMALL)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which the small study is done."""
    here = tmp_path_factory.mktemp("finished")
    (here / "studies").mkdir()
    (here / "studies" / "small.toml").write_text(SMALL)
    done = wdgrid("sweep", "studies/small.toml", "--json", cwd=here)
    assert done.returncode == 0, done.stderr
    return here, done


def test_a_sweep_writes_what_it_promises(finished):
    here, done = finished
    panels = json.loads(done.stdout)  # data, and nothing else, on stdout
    assert [p["panel"] for p in panels] == ["sgd", "adamw"]
    assert "48 cells to train" in done.stderr and "best" in done.stderr and "left" in done.stderr
    folder = here / "reports" / "small"
    names = ["heatmaps.pdf", "heatmaps.png", "heatmaps.svg", "report.html", "trials.csv"]
    assert sorted(p.name for p in folder.iterdir()) == names
    frame = trials(here)
    assert len(frame) == 48 and (frame["state"] == "complete").all()
    assert frame["test_error"].between(0, 100).sum() + (frame["test_error"] == float("inf")).sum() == 48
    half = 0.5 * frame["weight_decay"] * frame["weight_norm"] ** 2
    pd.testing.assert_series_equal(frame["l2_term"], half, check_names=False, rtol=1e-6)
    best = min(p["best_error"] for p in panels)
    assert best == pytest.approx(frame["test_error"].min())


def test_optuna_reads_the_study(finished):
    here, _ = finished
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{here}/studies/small.db")
    try:
        study = optuna.load_study(study_name="small/adamw", storage=storage)
        assert len(study.trials) == 24
        assert all(t.state == TrialState.COMPLETE for t in study.trials)
        assert set(study.best_trial.params) == {"lr", "weight_decay", "seed"}
        assert sorted(study.best_trial.intermediate_values) == [1, 2, 3]
        assert study.best_trial.intermediate_values[3] == study.best_value
        environment = study.user_attrs["wdgrid:environment"]
        assert {"torch", "optuna", "wdgrid", "device", "commit", "started", "finished"} <= set(environment)
        assert len(study.user_attrs["wdgrid:digest"]) == 64
    finally:
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.slow
def test_a_finished_study_is_a_no_op_that_draws_again(finished):
    here, _ = finished
    picture = here / "reports" / "small" / "heatmaps.png"
    before = trials(here)
    picture.unlink()
    again = wdgrid("sweep", "studies/small.toml", cwd=here)
    assert again.returncode == 0
    assert "48 of 48 cells are finished, nothing to train" in again.stderr
    assert picture.exists()
    pd.testing.assert_frame_equal(before, trials(here))
    assert "sgd" in again.stdout and "slope" in again.stdout


def test_a_changed_study_is_refused_with_the_difference(finished):
    here, _ = finished
    refused = wdgrid("sweep", "studies/small.toml", "--set", "task.epochs=4", cwd=here)
    assert refused.returncode == 2
    assert "task.epochs: was 3; is now 4" in refused.stderr and "--name" in refused.stderr
    more = wdgrid("sweep", "studies/small.toml", "--set", "seeds=[0, 1]", cwd=here)
    assert more.returncode == 2 and "--extend" in more.stderr


def test_killed_and_resumed_is_uninterrupted(finished, here):
    """SIGKILL in the middle of a chunk: cells go back, training goes on from its checkpoint, to the same bits."""
    command = ["sweep", "studies/small.toml", "--workers", "1", "--checkpoint-minutes", "0"]
    kept = here / "studies" / "small.db.checkpoints"
    process = subprocess.Popen([*WDGRID, *command], cwd=here, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(kept.glob("adamw-*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    states = json.loads(wdgrid("show", "small", "--json", cwd=here).stdout)["cells"]
    assert states == {"complete": 24, "running": 24}
    again = wdgrid(*command, cwd=here)
    assert again.returncode == 0, again.stderr
    assert (
        "24 of 48 cells are finished, 24 were held by a process that is gone, training the 24 missing" in again.stderr
    )
    pd.testing.assert_frame_equal(trials(here), trials(finished[0]))  # to the bit
    assert not kept.exists()


@pytest.mark.slow
def test_a_search_is_killed_goes_on_and_is_completed_to_the_same_bits(finished, here):
    """SIGKILL in the coarse pass and in a round; then a search that ends, one with nothing to do, the whole grid."""
    search = ["sweep", "studies/small.toml", "--workers", "1", "--coarse", "--checkpoint-minutes", "0"]
    for kept in ("small@coarse.db.checkpoints", "small.db.checkpoints"):
        process = subprocess.Popen([*WDGRID, *search], cwd=here, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not list((here / "studies" / kept).glob("*.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    ended = wdgrid(*search, cwd=here)
    assert ended.returncode == 0, ended.stderr
    assert (
        "small@coarse: 12 of 12 cells are finished" in ended.stderr and "held by a process that is gone" in ended.stderr
    )
    frame = trials(here)
    done = frame.loc[frame["state"] == "complete"]
    assert done.groupby("panel").size().to_dict() == {"sgd": 4, "adamw": 4}  # ⌊24/4 − 6/3⌋
    assert all(p["verdict"] == "can't tell" for p in json.loads(wdgrid(*search, "--json", cwd=here).stdout))
    pd.testing.assert_frame_equal(trials(here), frame)  # there was nothing to do
    whole = wdgrid(*search[:4], cwd=here)
    assert "8 of 48 cells are finished, training the 40 missing" in whole.stderr
    pd.testing.assert_frame_equal(trials(here), trials(finished[0]))  # to the bit
    pd.testing.assert_frame_equal(done, trials(here).loc[done.index], check_dtype=False)
    assert not list((here / "studies").glob("*.checkpoints"))
    more = ["--set", "axes.lr.values=2..1/8"]
    assert wdgrid(*search[:4], *more, "--extend", cwd=here).returncode == 0
    grown = wdgrid(*search, *more, cwd=here)
    assert grown.returncode == 2 and "has grown since its coarse pass; leave --coarse out" in grown.stderr


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(here):
    process = subprocess.Popen(
        [*WDGRID, "sweep", "studies/small.toml", "--set", "task.epochs=400", "--set", "axes.lr.values=1..1/64", *ONE],
        cwd=here, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(0.1)
    assert process.stderr
    first = process.stderr.readline()
    assert "84 cells to train" in first
    assert "/84 cells" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    assert "wdgrid sweep studies/small.toml --set task.epochs=400" in rest
    states = json.loads(wdgrid("show", "small", "--json", cwd=here).stdout)["cells"]
    assert states["complete"] > 0 and states["waiting"] > 0 and "running" not in states


@pytest.mark.slow
def test_extend_trains_only_what_is_new(here):
    small = ["sweep", "studies/small.toml", "--set", "task.epochs=1", *ONE]
    assert wdgrid(*small, cwd=here).returncode == 0
    before = trials(here)
    more = wdgrid(*small, "--set", "axes.lr.values=2..1/8", "--extend", cwd=here)
    assert more.returncode == 0, more.stderr
    assert "48 of 60 cells are finished, 12 are new" in more.stderr
    after = trials(here)
    merged = after.merge(before, on=list(before.columns), how="inner")
    assert len(after) == 60 and len(merged) == 48


@pytest.mark.slow
@needs_compiler
def test_cells_that_round_differently_are_told_apart(here):
    """The compiler is gone when a study goes on: said once on the way, and for good in the report."""
    small = ["sweep", "studies/small.toml", "--set", "task.epochs=1", "--extend"]
    first = wdgrid(*small, cwd=here)
    more = wdgrid(*small, "--set", "axes.lr.values=2..1/8", cwd=here, env=os.environ | {"CC": ""})
    both = "backend: native, then stacked"
    assert "rounded differently" not in first.stderr
    assert more.stderr.count("rounded differently") == 1 and both in more.stderr
    assert more.stderr.count("no C compiler") == 1
    again = wdgrid(*small, "--set", "axes.lr.values=2..1/16", cwd=here)
    assert again.returncode == 0 and "rounded differently" not in again.stderr
    page = (here / "reports" / "small" / "report.html").read_text(encoding="utf-8")
    assert "native, then stacked" in page


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told_and_the_chunk_starts_again(finished, here):
    command = ["sweep", "studies/small.toml", "--workers", "1", "--checkpoint-minutes", "0"]
    kept = here / "studies" / "small.db.checkpoints"
    files = []
    for _ in range(5):  # the chunk may end before the kill
        for path in (here / "studies").glob("small.db*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        process = subprocess.Popen([*WDGRID, *command], cwd=here, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not list(kept.glob("adamw-*.safetensors")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if files := list(kept.glob("adamw-*.safetensors")):
            break
    for path in files:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1  # a bit of a weight
        path.write_bytes(content)
    again = wdgrid(*command, cwd=here)
    assert again.returncode == 0 and again.stderr.count("the checkpoint is damaged") == len(files) > 0, again.stderr
    pd.testing.assert_frame_equal(trials(here), trials(finished[0]))  # to the bit


@pytest.mark.slow
@pytest.mark.parametrize("limit", [50_000, 600_000])
def test_a_disk_that_is_full_ends_the_sweep_in_one_line_and_loses_nothing(here, limit):
    """No file may grow beyond so many bytes: the first does not hold the database, the second not its results."""
    resource = pytest.importorskip("resource")
    small = ["sweep", "studies/small.toml", "--set", "task.epochs=300", *ONE]

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    refused = wdgrid(*small, cwd=here, preexec_fn=full)
    said = refused.stderr.splitlines()
    assert refused.returncode in (1, 2) and "Traceback" not in refused.stderr, refused.stderr
    assert [line for line in said if line.startswith("wdgrid:")] == said[-1:] and "small.db" in said[-1], refused.stderr
    again = wdgrid(*small, cwd=here)
    assert again.returncode == 0 and set(trials(here)["state"]) == {"complete"}, again.stderr
    assert not list((here / "studies").glob("*.checkpoints"))


def test_a_checkpoint_goes_only_after_the_commit_of_its_chunk(tmp_path, monkeypatch):
    """A store that fails at the commit leaves what is needed to train on."""
    from helpers.synthetic_tables import make_study
    from wdgrid.errors import StoreError
    from wdgrid.runner.coordinator import Coordinator, Means
    from wdgrid.runner.reconcile import plan
    from wdgrid.store import Store

    task = {"model_args": {"hidden": [8]}, "batch_size": 50, "epochs": 2, "train_size": 100, "device": "cpu"}
    study = make_study(task=task, axes={"lr": {"values": [1, 2]}, "weight_decay": {"values": [0, 1]}})

    def failing(*_):
        raise StoreError("the disk is full")

    means = Means(1, tmp_path / "checkpoints", checkpoint_seconds=0)
    with Store(f"sqlite:///{tmp_path}/s.db") as store:
        plan(store, "s", study)
        monkeypatch.setattr(store, "finish", failing)
        with pytest.raises(StoreError, match="disk is full"):
            Coordinator(store, "s", study, means, lambda _: None).run()
        assert list((tmp_path / "checkpoints").glob("*.safetensors"))
        monkeypatch.undo()
        Coordinator(store, "s", study, means, lambda _: None).run()
        assert set(store.table("s")["state"]) == {"complete"}
    assert not (tmp_path / "checkpoints").exists()
