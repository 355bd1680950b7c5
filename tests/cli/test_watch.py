"""`wdgrid report --watch`, whole files, and what an alarm says to add."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.commands import study_toml
from helpers.stored import fill, make_store
from helpers.synthetic_tables import error_of, make_curves, make_study, make_table
from wdgrid.cli import main
from wdgrid.cli.resume_command import SweepCommand, alarm_lines
from wdgrid.report import analyse_table, write_report
from wdgrid.report.output import replaced
from wdgrid.runner.reconcile import plan
from wdgrid.store import Store, owner_name
from wdgrid.study import load_study
from wdgrid.study.coarse import coarse_name, coarse_study
from wdgrid.study.file import only_adds

pytestmark = pytest.mark.slow

TASK = """\
batch_size = 50
epochs = 3
train_size = 900
"""
TOML = study_toml(TASK, "1..1/16", "0, 1/8..4", 0.016, sgd=1.0, adamw=1.0)


CLAIM = """
import sys
from wdgrid.store import Store, owner_name
print(len(Store(sys.argv[1]).claim("s", "adamw", 0, 8, owner_name())), flush=True)
"""


def towards_the_corner(cell):
    """Best at the fastest rate and the largest decay."""
    lr, decay = cell.hyperparameters["lr"], cell.hyperparameters["weight_decay"]
    return 5.0 - 2 * lr - 10 * decay


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/s.toml").write_text(TOML)
    return tmp_path


def test_watching_draws_as_cells_finish_and_ends(here, monkeypatch, capsys):
    study = load_study(here / "studies/s.toml")
    url = make_store(here, "s", study, towards_the_corner, at_most=20)
    looks = []

    def sleep(seconds):  # while it waits, first nothing happens, then a sweep finishes all
        looks.append(seconds)
        if len(looks) == 2:
            with Store(url) as store:
                assert fill(store, "s", study, towards_the_corner) == 50

    monkeypatch.setattr("wdgrid.cli.watch.time.sleep", sleep)
    assert main(["report", "s", "--watch", "--every", "0.2", "--json"]) == 0
    out, err = capsys.readouterr()
    assert looks == [0.2, 0.2]
    assert err.count("drawn with") == 2
    assert "drawn with 20 of 70 cells, 50 left" in err and "drawn with 70 of 70 cells, 0 left" in err
    assert [p["missing"] for p in json.loads(out)] == [0, 0]  # the last drawing's numbers, once, on stdout
    names = ["heatmaps.pdf", "heatmaps.png", "heatmaps.svg", "report.html", "trials.csv"]
    assert sorted(p.name for p in (here / "reports/s").iterdir()) == names


@pytest.mark.parametrize("death", ["killed on this machine", "silent on another"])
def test_watching_ends_where_a_killed_sweep_left_cells_running(here, monkeypatch, capsys, death):
    study = load_study(here / "studies/s.toml")
    url = make_store(here, "s", study, towards_the_corner, at_most=20)
    if death == "killed on this machine":
        child = subprocess.run([sys.executable, "-c", CLAIM, url], capture_output=True, text=True, check=True)
        assert child.stdout.split() == ["8"]
    else:
        with Store(url) as store:
            assert len(store.claim("s", "adamw", 0, 8, "elsewhere:1:m-1", lease_s=-1)) == 8
    monkeypatch.setattr("wdgrid.cli.watch.time.sleep", lambda seconds: pytest.fail("waits for the dead"))
    assert main(["report", "s", "--watch"]) == 1
    err = capsys.readouterr().err
    assert "s: no sweep is running: one died and left 8 cells behind, 42 more wait. To resume it:" in err
    assert err.splitlines()[-1] == "  wdgrid sweep s"
    with Store(url) as store:
        assert store.reclaim() == 8 and store.abandoned("s") == 0
        store.claim("s", "adamw", 0, 8, owner_name())
        assert store.abandoned("s") == 0  # these are being trained


def test_ctrl_c_ends_watching_with_130(here, monkeypatch, capsys):
    make_store(here, "s", load_study(here / "studies/s.toml"), towards_the_corner, at_most=20)

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("wdgrid.cli.watch.time.sleep", interrupted)
    assert main(["report", "s", "--watch"]) == 130
    out, err = capsys.readouterr()
    assert out == "" and "stopped watching" in err
    assert len(list((here / "reports/s").iterdir())) == 5


def test_files_are_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    study = make_study()
    table = make_table(study)
    out = tmp_path / "r"
    out.mkdir()
    (out / "report.html").write_text("old")
    seen = []

    def slow(*given):
        (page,) = (one for one in given if isinstance(one, Path) and one.name == "report.html")
        seen.append((out / "report.html").read_text())
        page.write_text("half")
        seen.append((out / "report.html").read_text())

    monkeypatch.setattr("wdgrid.report.page.write_page", slow)
    written = write_report(study, "r", table, make_curves(table), {}, out)
    assert seen == ["old", "old"] and (out / "report.html").read_text() == "half"
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in written.paths)
    with pytest.raises(RuntimeError), replaced(out) as fresh:
        (fresh / "report.html").write_text("broken")
        raise RuntimeError
    assert (out / "report.html").read_text() == "half" and len(list(out.iterdir())) == 5


def test_the_alarms_command_is_one_that_extend_accepts(here, capsys):
    study = load_study(here / "studies/s.toml")
    make_store(here, "s", study, towards_the_corner)
    assert main(["report", "studies/s.toml"]) == 0
    err = capsys.readouterr().err
    assert "sgd: the best cell lies on the highest rate (1); add rate 2, 4" in err
    expected = (
        "wdgrid sweep studies/s.toml --set 'axes.lr.values=\"4..1/16\"' "
        "--set 'axes.weight_decay.values=\"0, 1/8..16\"' --extend"
    )
    assert expected in err
    grown = load_study(here / "studies/s.toml", ['axes.lr.values="4..1/16"', 'axes.weight_decay.values="0, 1/8..16"'])
    assert only_adds(study.canonical(), grown)
    assert main(["report", "s", "-q"]) == 0
    assert capsys.readouterr().err == ""
    assert "<td>sqlite:///studies/s.db</td>" in (here / "reports/s/report.html").read_text("utf-8")


def test_the_command_keeps_what_was_extended_before_and_other_overrides(here):
    study = load_study(here / "studies/s.toml", ["axes.lr.values=[1, '1/10', '1/100']", "task.epochs=2"])
    make_store(here, "s", study, lambda cell: 5 - 10 * cell.hyperparameters["weight_decay"])
    with Store(f"sqlite:///{here}/studies/s.db") as store:
        numbers = analyse_table(study, store.table("s"), {})
    command = SweepCommand(str(here / "studies/s.toml"), ("task.epochs=2", "axes.lr.values=1"), name="t")
    text = alarm_lines(numbers, study, command)[-1]
    assert "--name t --set task.epochs=2 " in text and text.count("axes.lr.values") == 1
    assert 'axes.lr.values="100, 10, 1, 0.1, 0.01"' in text


def test_the_command_works_as_it_is_printed(here, capsys):
    (here / "elsewhere").mkdir()
    url = f"sqlite:///{here}/elsewhere/x.db"
    axes = ["--set", "axes.lr.values=[1, '1/3']", "--set", "axes.weight_decay.values='0, 1'"]
    quick = ["--set", "task.epochs=1", "--set", "panels=[{optimizer='sgd'}]", "--device", "cpu", "--workers", "1"]
    assert main(["sweep", "s", "--name", "t", "--storage", url, *axes, *quick, "-q"]) == 0
    folder = here / "elsewhere"
    for command in (["report", "t", "--storage", "sqlite:///x.db"], ["show", "t", "--storage", "sqlite:///x.db"]):
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert main(command) == 0
        told = "".join(capsys.readouterr())
        line = told[told.index("to add them:") :].splitlines()[1]
        assert "--name t" in line and "--set task.epochs=1" in line and line.endswith(" --extend")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*shlex.split(line)[1:], "-q"]) == 0
    with Store(url) as store:
        table = store.table("t")
        assert len(table) > 4 and (table["state"] == "complete").all() and set(table["epochs"]) == {1}


def test_no_command_is_printed_that_would_be_refused(here, capsys):
    make_store(here, "s", load_study(here / "studies/s.toml"), towards_the_corner)
    for text in (TOML.replace("batch_size = 50", "batch_size = 60"), None):
        (here / "studies/s.toml").unlink() if text is None else (here / "studies/s.toml").write_text(text)
        assert main(["show", "s"]) == 0
        out = capsys.readouterr().out
        assert "(no study file here matches the stored study):" in " ".join(out.split())
        assert '\n  axes.lr.values = "4..1/16"\n' in out and "wdgrid sweep" not in out


def test_the_alarm_of_a_coarse_pass_names_its_study_and_no_values(here, capsys):
    study = load_study(here / "studies/s.toml")
    make_store(here, "s", study, towards_the_corner, at_most=3)
    with Store(f"sqlite:///{here}/studies/s.db") as store:
        plan(store, coarse_name("s"), coarse_study(study))
        fill(store, coarse_name("s"), coarse_study(study), towards_the_corner)
    for command in (["show", "s@coarse"], ["report", "s@coarse"]):
        assert main(command) == 0
        told = "".join(capsys.readouterr())
        assert "adamw: the best cell lies on the highest rate (1)\n" in told
        assert told.endswith("what to add to its study:\n  wdgrid show s\n")
        assert "--extend" not in told and "add rate" not in told and "add decay" not in told
    assert main(["show", "s"]) == 0
    assert "what to add" not in capsys.readouterr().out


def test_the_alarm_tells_of_cells_that_a_search_left_out(here, capsys):
    study = load_study(here / "studies/s.toml")
    url = make_store(here, "s", study, towards_the_corner, at_most=60)

    def told():
        for command in (["show", "s"], ["report", "s"]):
            assert main(command) == 0
            words = " ".join("".join(capsys.readouterr()).split())
            yield re.search(r"to add them[^:]*:", words).group()

    assert list(told()) == ["to add them:"] * 2
    with Store(url) as store:
        plan(store, coarse_name("s"), coarse_study(study))
    assert list(told()) == ["to add them (trains the 10 cells that the search left out, too):"] * 2
    (here / "studies/s.toml").unlink()
    left_out = "(trains the 10 cells that the search left out, too):"
    assert [line.startswith("to add them, sweep") and line.endswith(left_out) for line in told()] == [True, True]
    (here / "studies/s.toml").write_text(TOML)
    with Store(url) as store:
        fill(store, "s", study, towards_the_corner)
    assert list(told()) == ["to add them:"] * 2


def test_the_command_adds_exact_thirds(here):
    study = load_study(here / "studies/s.toml", ["axes.lr.values=[1, '1/3', '1/9']"])
    make_store(here, "s", study, lambda cell: 5 + cell.hyperparameters["lr"])
    with Store(f"sqlite:///{here}/studies/s.db") as store:
        numbers = analyse_table(study, store.table("s"), {})
    text = alarm_lines(numbers, study, SweepCommand(str(here / "studies/s.toml")))[-1]
    assert 'axes.lr.values="1, 1/3, 1/9, 1/27, 1/81"' in text


def test_show_says_what_the_numbers_mean(here, capsys):
    study = make_study()

    def error(cell):
        unit = 1.0 if cell.panel.startswith("sgd") else 0.1
        jitter = 0.02 * np.sin(1e6 * cell.hyperparameters["lr"] + 1e4 * cell.hyperparameters["weight_decay"])
        return jitter + error_of(
            cell.panel, cell.hyperparameters["lr"] / unit, cell.hyperparameters["weight_decay"] / 0.016
        )

    with Store(make_store(here, "m", study, error)) as store:
        store.set_attrs("m", {"environment": {"torch": "2.15", "commit": None}})  # swept outside a repository
    assert main(["show", "m", "--json"]) == 0
    panels = {p["panel"]: p for p in json.loads(capsys.readouterr().out)["panels"]}
    assert panels["sgd"]["conversion"] is None and panels["sgd"]["sentence"].startswith("tune them together")
    assert panels["adamw"]["conversion"].startswith("torch: torch.optim.AdamW(params, lr=0.0125, weight_decay=2.56")
    assert panels["sgdw"]["conversion"].startswith("timm: timm.optim.SGDW(")
    assert "p = " in panels["sgd"]["best_axes"] and panels["adamw"]["best_axes"] is None
    assert main(["show", "m"]) == 0
    out = capsys.readouterr().out
    assert "\nenvironment: torch 2.15\n" in out
    assert "sgd: tune them together: one after the other costs " in out and "  best axes: p = " in out
    assert "\n  torch.optim.AdamW(params, lr=0.0125, weight_decay=2.56" in out
