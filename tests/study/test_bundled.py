"""The study files that ship with wdgrid: found by name anywhere, listed, in the wheel."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from helpers.stored import make_store
from helpers.synthetic_tables import make_study
from wdgrid.cli import main
from wdgrid.cli.resume_command import SweepCommand, sweep_of
from wdgrid.errors import StudyFileError
from wdgrid.runner.naming import command_attributes, database_folder, stored
from wdgrid.study import bundled, load_study

ROOT = Path(__file__).parents[2]
NAMES = bundled.names()
FILES = {name: bundled.folder() / f"{name}.toml" for name in NAMES}
ONE_CELL = ["--set", "axes.lr.values=[1]", "--set", "axes.weight_decay.values=[1]", "--set", "task.epochs=1"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_study_is_a_file_then_a_file_of_the_folder_then_a_shipped_one(here):
    assert bundled.study_path("digits") == FILES["digits"]
    (here / "studies").mkdir()
    (here / "studies/digits.toml").touch()
    assert bundled.study_path("digits") == Path("studies/digits.toml")
    (here / "digits").touch()
    assert bundled.study_path("digits") == Path("digits")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("digit", "digit: no such file, and no study of that name ships with wdgrid; did you mean digits?"),
        ("elsewhere/digits.toml", "did you mean digits?"),
        ("xyzzy", "xyzzy: no such file, and no study of that name ships with wdgrid; wdgrid studies lists them"),
    ],
)
@pytest.mark.parametrize("command", ["sweep", "plan"])
def test_an_unknown_name_is_one_line_that_names_those_near_it(here, capsys, command, word, says):
    assert main([command, word]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and err.count("\n") == 1
    assert list(here.iterdir()) == []


def test_where_the_database_of_a_study_goes(here):
    (here / "mine").mkdir()
    assert database_folder("mine/own.toml", "own") == Path("mine")
    assert database_folder("digits", "digits") == Path()
    (here / "digits.db").touch()
    (here / "studies").mkdir()
    assert database_folder("digits", "digits") == Path()  # one that was begun here is gone on with here
    assert database_folder("digits", "another-name") == Path("studies")
    (here / "studies/digits.db").touch()
    assert stored("digits", None) == ("digits", "sqlite:///studies/digits.db")
    assert stored("mine/own.toml", None) == ("own", "sqlite:///mine/own.db")
    assert stored("digits", "sqlite:///x.db") == ("digits", "sqlite:///x.db")


def test_stored_studies_go_by_name_without_a_studies_folder(here, capsys):
    panels = [{"optimizer": "sgd", "lr_unit": 1.0}, {"optimizer": "adamw", "lr_unit": 0.1}]
    make_store(here, "digits", make_study(panels=panels), lambda cell: 5 + cell.hyperparameters["lr"])
    (here / "studies/digits.db").rename(here / "digits.db")
    shutil.rmtree(here / "studies")
    (here / "notes.db").write_bytes(b"SQLite format 3\0")
    assert main(["show", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cells"] == {"complete": 70}
    assert main(["report", "digits", "--out", "drawn", "-q"]) == 0
    capsys.readouterr()
    assert (here / "drawn/digits/heatmaps.png").exists()
    assert main(["compare", "digits/sgd", "digits/adamw", "-q"]) == 0
    assert "digits/adamw" in capsys.readouterr().out
    assert main(["list", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [(s["name"], s["storage"]) for s in json.loads(out)] == [("digits", "sqlite:///digits.db")]
    assert "left out" in err and "notes.db" in err


def test_how_to_go_on_is_said_as_the_study_was_called(here):
    command = SweepCommand("digits", ("task.epochs=1",))
    assert str(command) == "wdgrid sweep digits --set task.epochs=1"
    words = command_attributes("digits", command.overrides)
    store = SimpleNamespace(attrs=lambda name: {"digits": words, "other": words}[name])
    assert sweep_of(store, "digits", "sqlite:///digits.db", "digits") == command
    coarse = sweep_of(store, "digits@coarse", "sqlite:///digits.db", "digits@coarse")
    assert str(coarse) == "wdgrid sweep digits --set task.epochs=1 --coarse"
    (here / "studies").mkdir()  # where the default is now another place, the storage is named
    moved = sweep_of(store, "digits", "sqlite:///digits.db", "digits")
    assert moved.storage == "sqlite:///digits.db"
    other = sweep_of(store, "other", "sqlite:///studies/other.db", "other")
    assert str(other).endswith("--name other --set task.epochs=1")


def test_a_shipped_study_can_be_planned_by_name(here, capsys):
    assert main(["plan", "digits", *ONE_CELL, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["study"] == "digits"
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_a_shipped_study_is_swept_anywhere_and_each_panel_has_its_own_decay(here):
    """√(b/(B T)) is 1/4 for T = 4: a unit four times as large gives the same cells, bit for bit."""
    raw, normalized = ('{name="raw", optimizer="adamw"', '{name="norm", optimizer="adamw", decay="normalized"')
    panels = f"panels=[{raw}}}, {normalized}, weight_decay_unit=0.064}}]"
    code = "import sys; from wdgrid.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "sweep", "budgets-small", "--workers", "1"]
    command += ["--set", panels, "--set", "task.epochs=4", "--set", "seeds=[0]"]
    for says in ("54 cells to train", "54 of 54 cells are finished, nothing to train"):
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=120, check=True)
        assert says in done.stderr
    assert (here / "reports/budgets-small/report.html").is_file()
    assert [p for p in here.rglob("*.db*") if not p.name.endswith(("-wal", "-shm"))] == [here / "budgets-small.db"]
    table = pd.read_csv(here / "reports/budgets-small/trials.csv").set_index(["row", "col"])
    same = [table[table["panel"] == name][["test_error", "train_loss", "weight_norm"]] for name in ("raw", "norm")]
    pd.testing.assert_frame_equal(*(frame.sort_index() for frame in same), check_exact=True)


def test_listing_them_costs_no_torch():
    code = (
        "import sys; from wdgrid.cli import main; main(['studies', '--json'])\n"
        "heavy = {'torch', 'optuna', 'pandas', 'matplotlib', 'sqlalchemy'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    told = json.loads(done.stdout)
    assert [one["name"] for one in told] == NAMES
    (digits,) = [one for one in told if one["name"] == "digits"]
    title = load_study(FILES["digits"]).title
    what = {"cells": 484, "epochs": [100], "images": 900, "dataset": "digits", "model": "mlp"}
    assert digits == {"name": "digits", "title": title, **what}
    (budgets,) = [one for one in told if one["name"] == "budgets"]
    assert budgets["epochs"] == [25, 100, 400] and budgets["images"] is None


def test_the_list_is_one_line_each(capsys):
    assert main(["studies"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[1].split()[1:] == ["180", "25,", "100,", "400", "all", "cifar10", "shake-shake"]
    assert [line.split()[0] for line in lines if not line.startswith("  ")] == ["study", *NAMES]
    assert [line.strip() for line in lines if line.startswith("  ")] == [load_study(FILES[n]).title for n in NAMES]
    assert all(len(line) <= 80 for line in lines if not line.startswith("  "))
    assert "wdgrid plan" in err


@pytest.mark.slow
def test_the_wheel_holds_every_study_file_and_no_database(tmp_path):
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        pytest.skip("needs uv, which builds the wheel")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("wdgrid", "studies"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.db*"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    (copy / "studies/mine.db").touch()
    (copy / "studies/mine.db.checkpoints").mkdir()
    (copy / "studies/mine.db.checkpoints/x.toml").touch()
    subprocess.run([uv, "build", "--wheel", "--quiet", "-o", str(tmp_path), str(copy)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = [path for path in archive.namelist() if "studies/" in path]
        assert sorted(inside) == sorted(f"wdgrid/studies/{name}.toml" for name in NAMES)
        archive.extractall(tmp_path / "installed")
    code = "from wdgrid.study import bundled; print(bundled.folder(), *bundled.names())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert told.stdout.split() == [str(tmp_path / "installed/wdgrid/studies"), *NAMES]


def test_near_names_are_those_of_the_folder(monkeypatch):
    monkeypatch.setattr(bundled, "names", lambda: ["figure1", "figure1-small", "digits"])
    with pytest.raises(StudyFileError) as caught:
        bundled.study_path("figure-1")
    assert caught.value.lines[0].endswith("did you mean figure1, figure1-small?")
