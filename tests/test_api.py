"""wdgrid from Python: what it imports, what it trains, and what it refuses."""

import doctest
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest
import torch

import wdgrid
import wdgrid.results
from helpers.blobs import blobs, network, wider
from helpers.commands import SMALL
from helpers.sweeping import AXES, NAMED, STILL, STUDY, TASK, numbers, swept
from wdgrid.cli import main
from wdgrid.cli.resume_command import SweepCommand, resuming
from wdgrid.runner.events import (
    ChunkFinished,
    Interrupted,
    Notice,
    Planned,
    Progress,
    SweepEnded,
    TrainingEnded,
    TrainingStarted,
)
from wdgrid.runner.run import Settings, sweep, sweep_store
from wdgrid.store import Store


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_import_is_light():
    heavy = ["torch", "optuna", "pandas", "numpy", "matplotlib", "sqlalchemy", "pydantic", "typer"]
    code = f"import sys, wdgrid; print([name for name in {heavy} if name in sys.modules], wdgrid.sweep.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] sweep\n"


def test_every_example_in_a_docstring_gives_what_it_says(capsys):
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for what in (wdgrid.load_study, wdgrid.sweep, wdgrid.load, wdgrid.TorchOptimizer):  # load reads what sweep stored
        examples = [one for one in finder.find(what, what.__name__, globs=dict(vars(wdgrid.results))) if one.examples]
        assert len(examples) == 1, what
        runner.run(examples[0])
    assert runner.summarize(verbose=False).failed == 0, capsys.readouterr().out


def test_a_study_is_a_file_a_name_or_a_mapping(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    assert wdgrid.load_study("small.toml") == wdgrid.load_study(tmp_path / "small.toml")
    assert wdgrid.load_study("digits", ["seeds=[3]"]).seeds == (3,)
    study = wdgrid.load_study(STUDY, ["task.epochs=7"])
    assert study.task.epochs == 7 and STUDY["task"]["epochs"] == 3
    with pytest.raises(wdgrid.StudyFileError, match=r"^task\.epochs = 0: ") as refused:
        wdgrid.load_study(STUDY, ["task.epochs=0"])
    assert len(refused.value.lines) == 1


# Training objects


def test_objects_train_to_the_same_bits_as_the_functions_they_are():
    events = []
    given = swept(progress=events.append)
    with sweep_store("sqlite:///named.db") as store:
        settings = Settings(checkpoints=Path(), in_process=True)
        sweep(store, "s", wdgrid.load_study(NAMED), settings, lambda event: None)
    named = wdgrid.load("s", storage="named.db")
    pd.testing.assert_frame_equal(numbers(given.table()), numbers(named.table()))
    pd.testing.assert_frame_equal(given.curves(), named.curves())
    assert set(given.table()["state"]) == {"complete"} and given.table()["test_error"].nunique() > 1
    assert "objects" in given.environment and "objects" not in named.environment
    kinds = [type(event) for event in events]
    assert kinds[:2] == [Planned, TrainingStarted] and ChunkFinished in kinds
    assert kinds[-2:] == [TrainingEnded, SweepEnded]
    done = [event.cells_done for event in events if isinstance(event, Progress)]
    assert done == sorted(done) and done[-1] == 12


def test_seeds_differ_in_their_initial_weights():
    study = {**STUDY, "task": {**TASK, "epochs": 1, "batch_size": 60}, "axes": STILL}
    table = swept(study).table()
    assert (table.groupby("seed")["weight_norm"].nunique() == 1).all() and table["weight_norm"].nunique() == 2


def test_arrays_tensors_and_a_function_are_the_same_data():
    first = swept(data=blobs())
    assert numbers(first.table()).equals(numbers(swept(data=tuple(x.numpy() for x in blobs())).table()))
    assert first.study.task.dataset == "wdgrid.runner.objects:data"


def test_the_same_objects_resume_and_others_are_refused():
    before = swept().table()
    events = []
    swept(progress=events.append)
    assert events == [Planned("s", 12, 0, 0, 0, 0, 12), SweepEnded("s", 12, 12)]
    x, *rest = blobs()
    changed = x.clone()
    changed[0, 0] += 1
    with pytest.raises(wdgrid.StudyFileError, match=r"task\.dataset_args\.sha256: was .*; is now "):
        swept(data=named("blobs", lambda: (changed, *rest)))
    with pytest.raises(wdgrid.StudyFileError, match=r"task\.model_args\.sha256: was .*; is now "):
        swept(model=named("network", wider))
    with pytest.raises(wdgrid.StudyFileError, match=r"task\.model: was .*:network.*; is now .*:wider"):
        swept(model=wider)
    more = {**STUDY, "axes": {**AXES, "lr": {"values": "1, 1/2, 1/4, 1/8"}}}
    with pytest.raises(wdgrid.StudyFileError, match="--extend"):
        swept(more)
    grown = swept(more, extend=True).table()
    assert len(grown) == 16
    place = ["seed", "lr", "weight_decay"]
    both = numbers(grown).merge(before, on=[*place, "test_error", "weight_norm"])
    assert len(both) == len(before) == 12


def named(name, function):
    def other():
        return function()

    other.__name__ = name
    return other


def test_an_interrupt_keeps_what_is_finished_and_the_same_call_resumes_to_the_same_bits():
    whole = numbers(swept(name="whole").table())
    events = []

    def interrupt(event):
        events.append(event)
        if isinstance(event, ChunkFinished):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swept(progress=interrupt)
    states = wdgrid.load("s").table()["state"].value_counts().to_dict()
    assert states == {"complete": 6, "waiting": 6}
    assert events[-2:] == [TrainingEnded("s"), Interrupted("s", 6, 12)]
    pd.testing.assert_frame_equal(numbers(swept().table()), whole)


def test_an_interrupt_right_after_a_claim_leaves_no_cell_running(monkeypatch):
    claim = Store.claim

    def interrupted(*given):
        assert claim(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "claim", interrupted)
    with pytest.raises(KeyboardInterrupt):
        swept()
    assert set(wdgrid.load("s").table()["state"]) == {"waiting"}


def test_a_database_that_is_deleted_in_mid_sweep_ends_it(tmp_path):
    """The next write fails, and no new file takes the place of the one that is gone."""

    def delete(event):
        if isinstance(event, ChunkFinished):
            (tmp_path / "s.db").unlink()

    with pytest.raises(wdgrid.StoreError, match="deleted, moved, replaced or overwritten"):
        swept(progress=delete)
    assert not (tmp_path / "s.db").exists()


def test_training_goes_on_where_no_checkpoint_can_be_written(tmp_path):
    (tmp_path / "s.db.checkpoints").write_text("not a folder")
    events = []
    table = swept(progress=events.append, checkpoint_minutes=0).table()
    assert set(table["state"]) == {"complete"}
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert sum("checkpoints cannot be written" in text for text in notices) == 1  # of two chunks


def test_torch_is_left_as_it_was():
    torch.manual_seed(7)
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("high")
    before, deterministic = torch.get_rng_state(), torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = False
    try:
        swept()
        assert torch.get_num_threads() == 2 and torch.get_float32_matmul_precision() == "high"
        assert torch.equal(torch.get_rng_state(), before) and not torch.backends.cudnn.deterministic
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.deterministic = deterministic


def broken():
    raise RuntimeError("no such layer")


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"model": network()}, wdgrid.UsageError, "give a function that returns a new network"),
        ({"model": "network"}, wdgrid.UsageError, "model: str was given"),
        ({"model": lambda: 3}, wdgrid.UsageError, "returned int, not an nn.Module"),
        ({"model": broken}, wdgrid.UsersFaultError, r"test_api.py, line \d+: RuntimeError: no such layer"),
        ({"data": broken}, wdgrid.UsersFaultError, r"test_api.py, line \d+: RuntimeError: no such layer"),
        ({"data": 3}, wdgrid.UsageError, "train_x, train_y, test_x, test_y"),
        ({"data": (["a"], [0], ["b"], [1])}, wdgrid.UsageError, "^data: "),
        ({"data": (*blobs()[:3], torch.zeros(4).long())}, wdgrid.UsersFaultError, "one row for each example"),
        ({"workers": 2}, wdgrid.UsageError, "one worker"),
        ({"name": None}, wdgrid.UsageError, "name: is needed"),
        ({"storage": "mysql://x/y"}, wdgrid.UsageError, "neither|SQLite|sqlite"),
        ({"study": {**STUDY, "seeds": []}}, wdgrid.StudyFileError, "seeds"),
        ({"study": wdgrid.load_study(STUDY), "overrides": ["task.epochs=1"]}, wdgrid.UsageError, "overrides"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, given, error, says):
    with pytest.raises(error, match=says) as refused:
        swept(**given)
    assert isinstance(refused.value, wdgrid.WdgridError) and "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_no_other_process_can_train_objects(tmp_path, capsys):
    swept()
    (tmp_path / "mine.toml").write_text(SMALL.replace("[task]", '[task]\nmodel = "wdgrid.runner.objects:network"'))
    (tmp_path / "mine.toml").write_text((tmp_path / "mine.toml").read_text().replace("hidden = [16]", ""))
    assert main(["plan", "mine.toml"]) == 2
    assert "network was given to wdgrid.sweep as a Python object" in capsys.readouterr().err


def test_no_command_is_printed_that_cannot_train_a_study_made_in_python():
    text = resuming(SweepCommand("s"), swept().study)
    assert "only wdgrid.sweep with the same Python objects" in text and "wdgrid sweep" not in text
    text = resuming(SweepCommand("s"), wdgrid.load_study(STUDY))
    assert "no study file here matches" in text and "wdgrid sweep" not in text


@pytest.mark.parametrize("study", [NAMED, wdgrid.load_study(NAMED)])
def test_code_that_a_study_names_can_be_refused(tmp_path, study):
    with pytest.raises(wdgrid.StudyFileError, match=r"task\.model = helpers\.blobs:network: names code") as refused:
        wdgrid.sweep(study, name="s", allow_code=False, progress=False)
    assert len(refused.value.lines) == 2 and not list(tmp_path.iterdir())
    wdgrid.load_study(STUDY, allow_code=False)


@pytest.mark.slow
def test_a_script_without_a_guard_trains_in_processes_to_the_same_bits_as_in_this_one(tmp_path):
    script = f"""
        import wdgrid
        print("once")
        wdgrid.sweep({NAMED!r}, name="s", storage="processes.db", workers=2, progress=False)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    environment = {**os.environ, "PYTHONPATH": Path(__file__).parent.as_posix()}
    done = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=200
    )
    assert done.returncode == 0 and done.stdout == "once\n", done.stderr
    here = swept()
    there = wdgrid.load("s", storage="processes.db")
    pd.testing.assert_frame_equal(numbers(here.table()), numbers(there.table()))
