"""What reaches the terminal and which names, folders and code a command takes, each fault in one line."""

import sqlite3
from contextlib import closing

import pytest

from helpers.commands import SMALL
from helpers.stored import make_store
from helpers.synthetic_tables import error_of, make_study
from wdgrid.cli import main
from wdgrid.cli.resume_command import SweepCommand


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "small.toml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fails(capsys, *arguments):
    """The exit status and the one line of a command that fails."""
    status = main(arguments)
    err = capsys.readouterr().err
    assert status in (1, 2) and err.endswith("\n") and err[:-1].isprintable(), err
    return status, err


@pytest.mark.parametrize(
    "name", ["../x", "/tmp/x", "a/b", "x?mode=ro", "%2e%2e", "..", "x" * 201, "\udcff", "a\x1b[2J", ""]
)
def test_a_name_cannot_leave_its_folders(here, capsys, name):
    if name:
        status, line = fails(capsys, "sweep", "small", "--name", name)
        assert status == 2 and "must begin with a letter or digit" in line and "--name" in line
    for command in ("show", "report", "export"):
        assert fails(capsys, command, name)[0] == 2
    assert sorted(path.name for path in here.rglob("*")) == ["small.toml", "studies"]


def test_a_name_of_a_coarse_pass_is_refused(here, capsys):
    assert "coarse passes" in fails(capsys, "sweep", "small", "--name", "small@coarse")[1]


@pytest.mark.parametrize("out", ["/dev/null", "reports", "x" * 300])
def test_outputs_are_checked_before_anything_is_planned(here, capsys, out):
    (here / "reports").write_text("a file")
    status, line = fails(capsys, "sweep", "small", "--out", out)
    assert status == 1 and "cannot be written" in line
    assert not (here / "studies" / "small.db").exists()


def test_no_code_refuses_a_study_that_names_code(here, capsys):
    for command in ("sweep", "plan"):
        status, line = fails(capsys, command, "small", "--no-code", "--set", "task.model=mine:net")
        assert status == 2 and "task.model = mine:net: names code, which --no-code" in line
    assert not (here / "studies" / "small.db").exists()


def test_control_characters_never_reach_the_terminal(here, capsys):
    study = make_study()
    url = make_store(here, "small", study, lambda cell: error_of("sgd", 1, 1), at_most=4)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute(
            "UPDATE study_user_attributes SET value_json = replace(value_json, '\"', '\"\\u001b[2J\\u009b\\u202e') "
            "WHERE key = 'wdgrid:environment'"
        )
        connection.execute(
            "INSERT OR REPLACE INTO study_user_attributes (study_id, key, value_json) "
            "SELECT study_id, 'wdgrid:environment', '{\"device\": \"\\u001b[2J\\u009b1m\\u202e\"}' FROM studies"
        )
    for arguments in (["show", "small"], ["show", "small", "--json"], ["list"], ["show", "small\x1b[2J"]):
        main(arguments)
        told = capsys.readouterr()
        assert (told.out + told.err).replace("\n", "").isprintable(), arguments
    main(["show", "small"])
    assert "\\x1b[2J\\x9b1m\\u202e" in capsys.readouterr().out


def test_passwords_are_shown_nowhere(here, capsys):
    url = "postgresql+psycopg://me:secret@127.0.0.1:1/db?sslpassword=secret"
    assert "secret" not in str(SweepCommand("digits", (), url))
    for arguments in (["list", "--storage", url], ["sweep", "small", "--storage", url], ["doctor", "--storage", url]):
        assert "secret" not in fails(capsys, *arguments)[1]


def test_a_storage_is_looked_at_and_copied(here, capsys):
    url = make_store(here, "small", make_study(), lambda cell: 5.0, at_most=4)
    assert main(["doctor", "--storage", url]) == 0 and "intact; 1 studies" in capsys.readouterr().out
    assert main(["backup", "small", "copy.db"]) == 0 and "written: copy.db" in capsys.readouterr().err
    assert main(["doctor", "--storage", "sqlite:///copy.db"]) == 0
    capsys.readouterr()
    assert fails(capsys, "backup", "small", "copy.db") == (
        1,
        "wdgrid: copy.db: exists already; give the backup another name\n",
    )
    with closing(sqlite3.connect("copy.db")) as connection, connection:
        connection.execute("DELETE FROM trial_values")
    assert main(["doctor", "--storage", "sqlite:///copy.db"]) == 1
    assert "4 complete cells without a value: restore a backup" in capsys.readouterr().out
