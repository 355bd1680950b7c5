"""The store as a queue, the same over SQLite and PostgreSQL: claims, leases, and processes that die with them."""

import gc
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import pytest
from optuna.trial import TrialState

from helpers.store_contract import grid, optuna_trials, outcome, plan, states
from wdgrid.errors import StoreError
from wdgrid.store import Store, owner_name


def test_claims_are_of_one_seed_lowest_first_and_never_twice(store):
    plan(store, grid(2, 2, seeds=(0, 1)))
    first, second = store.claim("digits", "adamw", 1, 3, "a"), store.claim("digits", "adamw", 1, 3, "b")
    assert [c.cell.multiples for c in first + second] == [("1", "0"), ("1", "1"), ("2", "0"), ("2", "1")]
    assert {c.cell.seed for c in first + second} == {1} and len(second) == 1
    assert store.claim("digits", "adamw", 1, 3, "c") == []
    assert store.pending("digits") == {("adamw", 0): 4}
    assert store.claim("digits", "other", 0, 3, "c") == []


def test_release_puts_back_in_place(store, url):
    plan(store)
    claims = store.claim("digits", "adamw", 0, 4, "a")
    assert store.release([claims[0].trial_id], owner="somebody else") == 0
    assert store.release([c.trial_id for c in claims[:3]], owner="a") == 3
    trials = optuna_trials(url)
    assert len(trials) == 6 and trials[0].state == TrialState.WAITING and trials[0].datetime_start is None
    again = [c.trial_id for c in store.claim("digits", "adamw", 0, 9, "b")]
    assert again[:3] == [c.trial_id for c in claims[:3]]
    assert len(again) == 5 and claims[3].trial_id not in again


def test_a_lost_lease_cannot_finish(store):
    plan(store)
    lost = store.claim("digits", "adamw", 0, 2, "slow", lease_s=-1)
    kept = store.claim("digits", "adamw", 0, 1, "slow", lease_s=-1)
    assert store.finish([(kept[0], outcome(1.0))], "slow") == 1  # expired, but nobody has taken it
    assert store.abandoned("digits") == 2  # asking takes nothing
    assert (store.reclaim(), store.abandoned("digits")) == (2, 0)
    again = store.claim("digits", "adamw", 0, 2, "fast")
    assert [c.trial_id for c in again] == [c.trial_id for c in lost]
    results = [(claim, outcome(9.0)) for claim in lost]
    assert store.finish(results, "slow") == 0
    assert store.fail([c.trial_id for c in lost], "?", "slow") == 0
    assert store.finish([(again[0], outcome(2.0))], "fast") == 1
    assert store.finish([(again[0], outcome(7.0))], "fast") == 0
    assert store.table("digits")["test_error"].tolist()[:2] == [2.0, pytest.approx(math.nan, nan_ok=True)]


def test_renewed_leases_are_not_reclaimed(store):
    plan(store)
    store.claim("digits", "adamw", 0, 2, "me", lease_s=-1)
    assert store.renew("me", 60) == 2
    assert store.abandoned("digits") == store.reclaim() == 0
    assert store.renew("nobody") == 0


def test_failed_cells_are_retried_a_few_times(store):
    plan(store, grid(1, 1))
    for attempt in (1, 2):
        claims = store.claim("digits", "adamw", 0, 1, "o")
        assert store.fail([claims[0].trial_id], f"CUDA error {attempt}") == 1
        assert states(store) == {"failed": 1}
        assert store.retry_failed("digits", attempts=2) == (1 if attempt == 1 else 0)
    assert states(store) == {"failed": 1}
    assert store.retry_failed("digits") == 1
    claims = store.claim("digits", "adamw", 0, 1, "o")
    assert store.finish([(claims[0], outcome())], "o") == 1
    assert states(store) == {"complete": 1}


def start(code, url, n=1):
    """Processes that have imported the store and then begin `code` together (a fresh interpreter is not a fork)."""
    script = (
        "import os, sys, time\n"
        "from wdgrid.study.cells import Cell, Curve, Outcome\n"
        "from wdgrid.store import Store, owner_name\n"
        "url = sys.argv[1]\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", script + textwrap.dedent(code), url]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(n)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * n
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return processes


CLAIM_AND_FINISH = """
    with Store(url) as store:
        while claims := store.claim("digits", "adamw", 0, 7, owner_name()):
            outcome = Outcome(float(os.getpid()), 0.2, 0.3, 0.01, 7.0, None, 1.5, Curve([1.0] * 3))
            print(*[claim.trial_id for claim in claims[:6]])
            assert store.finish([(claim, outcome) for claim in claims[:6]], owner_name()) == len(claims[:6])
            store.release([claim.trial_id for claim in claims[6:]], owner_name())
"""


def test_four_processes_never_execute_a_cell_twice(store, url):
    plan(store, grid(20, 10))
    processes = start(CLAIM_AND_FINISH, url, 4)
    executed = [int(trial_id) for process in processes for trial_id in process.communicate(timeout=60)[0].split()]
    assert [process.returncode for process in processes] == [0] * 4
    assert len(executed) == len(set(executed)) == 200
    table = store.table("digits")
    assert (table["state"] == "complete").all() and table["number"].tolist() == list(range(200))
    assert set(table["test_error"]) <= {float(process.pid) for process in processes}
    assert len(store.curves("digits")) == 600


PLAN = """
    cells = [Cell("adamw", 0, {"lr": 1.0 + i, "weight_decay": 0.0}, (str(i), "0")) for i in range(25)]
    with Store(url) as store:
        print(store.create("digits", {"adamw": cells}, "{}", "sha", {}, {}))
"""


def test_processes_may_open_and_plan_a_fresh_storage_at_once(fresh_url):
    processes = start(PLAN, fresh_url, 2)
    added = [int(process.communicate(timeout=60)[0] or -1) for process in processes]
    assert sorted(added) == [0, 25]
    with Store(fresh_url) as store:
        assert store.table("digits")["number"].tolist() == list(range(25))


CLAIM_AND_HANG = """
    store = Store(url)
    print(len(store.claim("digits", "adamw", 0, 4, owner_name(), lease_s=3600)), flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to tell a zombie from the living")
def test_a_killed_process_gives_everything_back(store, url):
    plan(store)
    (process,) = start(CLAIM_AND_HANG, url)
    assert process.stdout.readline() == "4\n"
    assert store.reclaim() == 0  # it lives
    process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not (back := store.reclaim()) and time.monotonic() < deadline:  # not waited for: a zombie is dead enough
        time.sleep(0.02)
    process.communicate()
    assert back == 4
    assert states(store) == {"waiting": 6}
    assert len(store.claim("digits", "adamw", 0, 9, "o")) == 6
    assert len(optuna_trials(url)) == 6


def test_only_the_certainly_dead_lose_their_lease(store):
    plan(store)
    host, pid, token = owner_name().rsplit(":", 2)
    machine, start = token.split("-")
    reused = f"{host}:{pid}:{machine}-{int(start) + 1}"
    elsewhere = [f"otherhost:{pid}:{machine}-1", f"{host}:999999999:00000000-1", "odd"]
    store.claim("digits", "adamw", 0, 1, reused)
    for owner in (*elsewhere, owner_name()):
        assert store.claim("digits", "adamw", 0, 1, owner)
    assert store.reclaim() == 1


def test_only_the_cells_meant_are_counted_and_claimed(store):
    plan(store, grid(3, 4, seeds=(0, 1)))
    only = {"adamw": [("1", "0"), ("2", "3")]}
    assert store.pending("digits", only) == {("adamw", 0): 2, ("adamw", 1): 2}
    got = [claim.cell.multiples for claim in store.claim("digits", "adamw", 1, 99, "o", only=only)]
    assert got == only["adamw"] and store.pending("digits", only) == {("adamw", 0): 2}
    for none in ({}, {"adamw": []}, {"sgd": only["adamw"]}):
        assert store.pending("digits", none) == {} and store.claim("digits", "adamw", 0, 99, "o", only=none) == []
    assert store.pending("digits") == {("adamw", 0): 12, ("adamw", 1): 10}


def deleted(path):
    path.unlink()


def replaced_by_an_empty_file(path):
    path.unlink()
    path.touch()


def replaced_by_a_copy(path):
    shutil.copy(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").replace(path)


def overwritten(path):
    """By another study's database, with cp: the same file, other content."""
    other = path.with_name("other.db")
    with Store(f"sqlite:///{other}") as store:
        plan(store, study="another")
    path.write_bytes(other.read_bytes())


def overwritten_by_a_backup(path):
    with Store(f"sqlite:///{path}", create=False) as store:
        store.backup(path.with_name("backup.db"))
    path.write_bytes(path.with_name("backup.db").read_bytes())


def overwritten_by_text(path):
    path.write_bytes(b"my notes\n" * 10_000)


def emptied(path):
    os.truncate(path, 0)


def cut_short(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    "change",
    [
        deleted, replaced_by_an_empty_file, replaced_by_a_copy, overwritten, overwritten_by_a_backup,
        overwritten_by_text, emptied, cut_short,
    ],
)  # fmt: skip
def test_a_file_that_is_not_the_one_opened_is_never_written(tmp_path, template, change):
    path = tmp_path / "study.db"
    shutil.copy(template, path)
    with Store(f"sqlite:///{path}") as store:
        plan(store)
        claims = store.claim("digits", "adamw", 0, 2, "o")
        change(path)
        before = path.read_bytes() if path.exists() else None
        for call in (
            lambda: store.finish([(claim, outcome()) for claim in claims], "o"),
            lambda: store.renew("o"),
            lambda: store.table("digits"),
        ):
            with pytest.raises(StoreError, match="was deleted, moved, replaced or overwritten") as refused:
                call()
            assert "\n" not in str(refused.value) and refused.value.exit_status == 1
    gc.collect()
    assert (path.read_bytes() if path.exists() else None) == before
    assert not path.with_name("study.db-wal").exists()
    if change in (overwritten, overwritten_by_a_backup):  # what is there now is whole
        looks = "PRAGMA integrity_check", "SELECT study_name FROM studies"
        code = "import sqlite3, sys\nfor word in sys.argv[2:]: print(*sqlite3.connect(sys.argv[1]).execute(word))"
        said = subprocess.run([sys.executable, "-c", code, path, *looks], capture_output=True, text=True, check=True)
        assert said.stdout == "('ok',)\n('%s/adamw',)\n" % ("another" if change is overwritten else "digits")


def test_an_older_copy_of_a_file_that_has_grown_is_noticed(tmp_path, template):
    path = tmp_path / "study.db"
    shutil.copy(template, path)
    with Store(f"sqlite:///{path}") as store:
        older = path.read_bytes()
        plan(store, grid(20, 20))
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        store.renew("o")
        path.write_bytes(older)
        with pytest.raises(StoreError, match="overwritten"):
            store.renew("o")
    assert path.read_bytes() == older


def test_nothing_is_written_into_another_database_when_the_process_ends(tmp_path, template):
    """Closing SQLite's last connection would write its log into the file."""
    path, other = tmp_path / "study.db", tmp_path / "other.db"
    for copy in (path, other):
        shutil.copy(template, copy)
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("PRAGMA user_version = 7")
    code = """
    from wdgrid.errors import StoreError
    store = Store(url)
    cells = [Cell("adamw", 0, {"lr": 1.0 + i, "weight_decay": 0.0}, (str(i), "0")) for i in range(2000)]
    store.create("digits", {"adamw": cells}, "{}", "sha", {}, {})
    open(sys.argv[1].removeprefix("sqlite:///"), "r+b").write(open(sys.stdin.readline().strip(), "rb").read())
    try:
        store.reclaim()
    except StoreError as error:
        print(error)
    """
    (process,) = start(code, f"sqlite:///{path}")
    told, _ = process.communicate(f"{other}\n", timeout=60)
    assert process.returncode == 0 and "overwritten" in told
    assert path.read_bytes()[: other.stat().st_size] == other.read_bytes()


@pytest.mark.parametrize("writes", [1, 60])
def test_a_file_that_only_wdgrid_and_sqlite_write_is_never_taken_for_another(tmp_path, template, writes):
    """Other processes' commits, SQLite's own checkpoints, a VACUUM and a reader that closes the file."""
    path = tmp_path / "study.db"
    shutil.copy(template, path)
    url = f"sqlite:///{path}"
    with Store(url) as store, Store(url) as other:
        for i in range(writes):
            plan(other, grid(5, 5), study=f"study{i}")
            assert len(store.studies()) == i + 1
            with closing(sqlite3.connect(path)) as connection:
                connection.execute(f"PRAGMA wal_checkpoint({'PASSIVE' if i % 2 else 'TRUNCATE'})")
            store.set_attrs(f"study{i}", {"a": i})
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DELETE FROM trial_params")
            connection.commit()
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert len(store.studies()) == writes
        store.renew("o")
        plan(store, study="last")
        store.close()
        plan(other, study="after")
