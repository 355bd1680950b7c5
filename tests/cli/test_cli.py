"""The commands as a user runs them: real processes, small studies."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import typer

from helpers.commands import SMALL, WDGRID, trials, wdgrid
from wdgrid.cli import app, main

NETWORK = """
import torch
from torch import nn

def net(width=8):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, width), nn.LayerNorm(width),
                         nn.Linear(width, 3))

def data(n=60):
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (n,), generator=g)
    x = torch.randn(n, 1, 8, 8, generator=g) + y[:, None, None, None]
    return x[:40], y[:40], x[40:], y[40:]

def broken():
    raise RuntimeError("no such layer")

def ragged():
    return torch.zeros(3, 2), torch.zeros(4).long(), torch.zeros(3, 2), torch.zeros(3).long()
"""
ONE = ["--workers", "1"]


@pytest.fixture
def here(tmp_path):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "small.toml").write_text(SMALL)
    (tmp_path / "mine.py").write_text(NETWORK)
    return tmp_path


@pytest.mark.slow
def test_list_show_report_export(here):
    assert wdgrid("sweep", "studies/small.toml", "-q", cwd=here).returncode == 0
    listed = json.loads(wdgrid("list", "--json", cwd=here).stdout)
    assert [(s["name"], s["n_cells"], s["n_complete"]) for s in listed] == [("small", 48, 48)]
    shown = json.loads(wdgrid("show", "small", "--json", cwd=here).stdout)
    assert shown["cells"] == {"complete": 48} and len(shown["panels"]) == 2
    assert "small <study>" in wdgrid("show", "studies/small.toml", cwd=here).stdout
    drawn = wdgrid("report", "small", "--out", "elsewhere", "--style", "paper", "-q", cwd=here)
    assert drawn.returncode == 0 and drawn.stderr == ""
    assert (here / "elsewhere" / "small" / "heatmaps.png").exists()
    csv = wdgrid("export", "small", cwd=here).stdout
    assert len(csv.splitlines()) == 49
    assert len(json.loads(wdgrid("export", "small", "--format", "json", cwd=here).stdout)) == 48
    assert wdgrid("export", "small", "--out", "t.parquet", cwd=here).returncode == 0  # by its ending
    assert len(pd.read_parquet(here / "t.parquet")) == 48
    assert wdgrid("export", "small", "--format", "parquet", cwd=here).returncode == 2


@pytest.mark.slow
def test_a_grid_too_small_for_a_search_is_refused_before_anything_is_stored(here):
    refused = wdgrid("sweep", "studies/small.toml", "--coarse", "--set", "task.epochs=1", cwd=here)
    assert refused.returncode == 2 and "leave --coarse out" in refused.stderr and "Traceback" not in refused.stderr
    assert not (here / "studies" / "small.db").exists()


@pytest.mark.slow
def test_a_users_own_network_and_data(here):
    mine = ["--set", "task={model='mine:net', dataset='mine:data', epochs=2, batch_size=10, model_args={width=6}}"]
    done = wdgrid("sweep", "studies/small.toml", *mine, *ONE, cwd=here)
    assert done.returncode == 0, done.stderr
    environment = json.loads(wdgrid("show", "small", "--json", cwd=here).stdout)["environment"]
    assert environment["backend"] == "stacked" and environment["classes"] == 3
    assert (trials(here)["state"] == "complete").all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("task.model='nowhere:net'", "task.model = nowhere:net: there is no module nowhere"),
        ("task.model='mine:nothing'", "task.model = mine:nothing: mine.py has no nothing"),
        ("task={model='mine:broken', epochs=2}", "mine.py, line 16: RuntimeError: no such layer"),
        ("task.dataset='mine:ragged'", "must have one row for each example"),
        ("task.train_size=5000", "task.train_size = 5000: digits has only 900"),
        ("task.epochs=0", "task.epochs = 0"),
    ],
)
def test_bad_input_is_status_2(here, override, says):
    refused = wdgrid("sweep", "studies/small.toml", "--set", override, *ONE, cwd=here)
    assert refused.returncode == 2 and refused.stdout == ""
    assert says in refused.stderr and "Traceback" not in refused.stderr, refused.stderr


@pytest.mark.slow
def test_missing_things_are_told_in_one_line(here):
    for arguments in (["sweep", "none.toml"], ["show", "none"], ["report", "none"], ["sweep", "--colour"], ["swep"]):
        refused = wdgrid(*arguments, cwd=here)
        assert refused.returncode == 2, arguments
        assert "Traceback" not in refused.stderr and refused.stderr
    (here / "not.db").write_text("hello, I am no database, and I am long enough to be one")
    refused = wdgrid("list", "--storage", "sqlite:///not.db", cwd=here)
    assert refused.returncode in (1, 2) and "Traceback" not in refused.stderr and "not.db" in refused.stderr


@pytest.mark.slow
def test_a_terminal_gets_a_bar(here):
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [*WDGRID, "sweep", "studies/small.toml", *ONE],
        cwd=here,
        stderr=child,
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    os.close(child)
    seen = b""
    while True:
        try:
            part = os.read(parent, 4096)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(parent)
    assert process.wait(timeout=60) == 0
    assert b"48/48" in seen and "█".encode() in seen and b"best" in seen


def test_every_command_and_option_has_help():
    command = typer.main.get_command(app)
    assert {"sweep", "list", "show", "report", "export"} <= set(command.commands)
    for name, sub in command.commands.items():
        assert sub.help and len(sub.help) > 20, name
        for parameter in sub.params:
            if parameter.name != "help":
                assert getattr(parameter, "help", None), (name, parameter.name)


def test_help_does_not_load_the_heavy_rooms():
    code = (
        "import sys; from wdgrid.cli import main; main(['sweep', '--help'])\n"
        "heavy = {'torch', 'optuna', 'pandas', 'matplotlib', 'sqlalchemy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=Path(__file__).parent)


def test_submit_and_queue_list_move_pause_go_on_and_cancel(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def told(*arguments, status=0):
        assert main(arguments) == status
        return capsys.readouterr()

    assert "there is no such file" in told("queue", status=2).err
    for name in ("a", "b", "c"):
        told("submit", "digits", "--name", name, "--set", "task.epochs=2")
    told("submit", "digits")
    assert told("submit", "digits", status=2).err == "wdgrid: digits: is in the queue already (entry 4)\n"
    assert "a: another study of that name is in the queue" in told("submit", "digits", "--name", "a", status=2).err
    assert "epochs" in told("submit", "digits", "--name", "d", "--set", "task.epochs=-2", status=2).err
    told("queue", "--move", "c", "--to", "1")
    told("queue", "--pause", "1")
    told("queue", "--cancel", "b")
    shown = told("queue")
    lines = [line.split()[:3] for line in shown.out.splitlines()[1:]]
    assert lines == [["3", "waiting", "c"], ["1", "paused", "a"], ["4", "waiting", "digits"], ["2", "cancelled", "b"]]
    assert "no worker trains this queue: start wdgrid serve, or wdgrid queue --work" in shown.err
    rows = json.loads(told("queue", "--resume", "a", "--json").out)
    assert [(row["study"], row["state"]) for row in rows][1] == ("a", "waiting") and "canonical" not in rows[0]
    assert rows[1]["options"]["command"]["overrides"] == ["task.epochs=2"]
    assert "none: no such study in the queue" in told("queue", "--pause", "none", status=2).err
