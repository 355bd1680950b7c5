"""Backups while others write, and what a look at a storage says of damage."""

import shutil
import sqlite3
import threading
from contextlib import closing

import optuna
import pytest

from helpers.store_contract import optuna_storage, outcome, plan, states
from wdgrid.errors import OutputError, StoreError
from wdgrid.store import Store


def test_a_healthy_storage_has_no_problems(store):
    assert store.problems() == []
    plan(store)
    claims = store.claim("digits", "adamw", 0, 3, "o")
    store.finish([(claims[0], outcome())], "o")
    assert store.problems() == []


def test_what_runs_on_a_lease_that_ended_is_told_and_mended(store):
    plan(store)
    store.claim("digits", "adamw", 0, 2, "o", lease_s=-1)
    assert store.problems() == ["2 expired leases: the next wdgrid sweep of that storage puts the cells back"]
    assert store.reclaim() == 2 and store.problems() == []


def test_orphans_are_told_and_the_next_plan_deletes_them(store, url):
    plan(store)
    plan(store, study="other")
    store.claim("digits", "adamw", 0, 2, "o")
    with optuna_storage(url) as storage:
        optuna.delete_study(study_name="digits/adamw", storage=storage)
    told = store.problems()
    assert len(told) == 2 and told[0].startswith("6 cells whose trial is gone") and told[1].startswith("2 leases")
    plan(store, study="other")
    assert store.problems() == []


def damaged(tmp_path, template, *statements):
    shutil.copy(template, tmp_path / "x.db")
    store = Store(f"sqlite:///{tmp_path}/x.db")
    plan(store)
    claims = store.claim("digits", "adamw", 0, 2, "o")
    store.finish([(claims[0], outcome())], "o")
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return store


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DELETE FROM trial_values", "1 complete cells without a value: restore a backup"),
        ("UPDATE study_user_attributes SET value_json = '3' WHERE key = 'wdgrid:digest'", "restore a backup"),
        ("DELETE FROM studies", "foreign_key_check"),
        ("DELETE FROM wdgrid_cells WHERE trial_id = 6", "1 trials that wdgrid did not plan"),
        ("UPDATE trials SET state = 'FAIL' WHERE trial_id = 6", "1 failed cells"),
    ],
)
def test_damage_is_told_with_how_to_mend_it(tmp_path, template, statement, says):
    with damaged(tmp_path, template, statement) as store:
        assert any(says in line for line in store.problems()), store.problems()


def test_a_running_cell_without_a_lease_is_put_back(tmp_path, template):
    with damaged(tmp_path, template, "DELETE FROM wdgrid_leases") as store:
        (line,) = store.problems()
        assert line.startswith("1 running cells that nobody has a lease on")
        assert store.reclaim() == 1 and store.problems() == []
        assert states(store) == {"complete": 1, "waiting": 5}


def test_a_backup_is_one_moment_while_others_write(tmp_path, template):
    """Cells are finished meanwhile, three at a time: a copy never holds a part of one transaction."""
    shutil.copy(template, tmp_path / "x.db")
    url = f"sqlite:///{tmp_path}/x.db"
    with Store(url) as store:
        for i in range(12):
            plan(store, study=f"s{i}")
    stop = threading.Event()

    def write():
        with Store(url) as own:
            for i in range(12):
                claims = own.claim(f"s{i}", "adamw", 0, 3, "o")
                if stop.is_set():
                    return
                own.finish([(claim, outcome()) for claim in claims], "o")

    writer = threading.Thread(target=write)
    with Store(url) as store:
        writer.start()
        for i in range(5):
            store.backup(tmp_path / f"copy{i}.db")
        stop.set()
        writer.join()
    finished = []
    for i in range(5):
        with Store(f"sqlite:///{tmp_path}/copy{i}.db", create=False) as copy:
            assert copy.problems() == []
            done = [study.n_complete for study in copy.studies()]
            assert len(done) == 12 and set(done) <= {0, 3}
            finished.append(sum(done))
    assert finished == sorted(finished)
    assert {path.suffix for path in tmp_path.glob("copy*")} <= {".db", ".db-wal", ".db-shm"}


def test_a_backup_never_replaces_a_file(tmp_path, template):
    shutil.copy(template, tmp_path / "x.db")
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with Store(f"sqlite:///{tmp_path}/x.db") as store:
        for name, says in (
            ("taken", "exists"),
            ("link", "exists"),
            ("taken/x", "cannot be written"),
            (300 * "x", "be w"),
        ):
            with pytest.raises(OutputError, match=says):
                store.backup(tmp_path / name)
    assert (tmp_path / "taken").read_text() == "mine"
    assert not [path for path in tmp_path.iterdir() if "part" in path.name]


def test_a_backup_of_postgresql_is_pg_dumps(store, tmp_path):
    if store.url.startswith("postgresql"):
        with pytest.raises(StoreError, match="pg_dump"):
            store.backup(tmp_path / "x")
    else:
        store.backup(tmp_path / "x")
