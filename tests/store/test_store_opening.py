"""How a storage is opened, and which ones are refused, each in one line."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from helpers.store_contract import optuna_storage, plan
from wdgrid.errors import StoreError
from wdgrid.store import Store, address


def test_sqlite_is_opened_for_several_processes(tmp_path):
    path = tmp_path / "x.db"
    with Store(f"sqlite:///{path}") as store, store._database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 60000}


def test_storages_that_cannot_be_used_say_so_in_one_line(tmp_path):
    text = tmp_path / "text.db"
    text.write_text("not a database at all, but long enough to be looked at " * 20)
    wrong = {
        "nonsense": "not a storage URL",
        "postgresql://host:port/x": "not a storage URL",
        "mysql://host/x": "must be SQLite or PostgreSQL",
        "sqlite://": "must be a file",
        f"sqlite:///{tmp_path}/no/x.db": "there is no folder",
        f"sqlite:///{tmp_path}": "cannot open|unable to open",
        f"sqlite:///{text}": "not a database",
    }
    for url, message in wrong.items():
        with pytest.raises(StoreError, match=message) as caught:
            Store(url)
        assert "\n" not in str(caught.value)


def test_without_create_nothing_is_made(tmp_path):
    with pytest.raises(StoreError, match="no such file"):
        Store(f"sqlite:///{tmp_path}/x.db", create=False)
    assert not list(tmp_path.iterdir())
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreError, match="holds no studies"):
        Store(f"sqlite:///{tmp_path}/empty.db", create=False)


@pytest.mark.parametrize("url", ["mysql://me:secret@host/x", "postgresql://me:secret@host:port/x"])
def test_passwords_stay_out_of_messages(url):
    with pytest.raises(StoreError) as caught:
        Store(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("UPDATE study_user_attributes SET value_json = CAST(X'22FF22' AS TEXT)", "decode to UTF-8"),
        ("UPDATE wdgrid_cells SET row = CAST(X'FF' AS TEXT) WHERE trial_id = 1", "decode to UTF-8"),
        ("UPDATE study_user_attributes SET value_json = '{'", "cannot be read: Expecting"),
        ("UPDATE study_user_attributes SET value_json = '1'", "is not what wdgrid writes"),
        ("UPDATE study_user_attributes SET value_json = '\"\x1b[2J\"' WHERE key = 'wdgrid:panel'", "cannot be read"),
        (
            "UPDATE study_user_attributes SET value_json = '\"\\u001b[2J\"' WHERE key = 'wdgrid:panel'",
            "wdgrid:panel holds control characters",
        ),
        ("DELETE FROM study_user_attributes WHERE key = 'wdgrid:digest'", "has no wdgrid:digest"),
        ("UPDATE trials SET state = 'BOGUS'", "'BOGUS' is not among"),
    ],
)
def test_damaged_content_is_told_in_one_line(tmp_path, template, damage, says):
    shutil.copy(template, tmp_path / "x.db")
    with Store(f"sqlite:///{tmp_path}/x.db") as store:
        plan(store)
        with closing(sqlite3.connect(tmp_path / "x.db")) as connection, connection:
            connection.execute(damage)
        with pytest.raises(StoreError, match=says) as caught:
            print(store.studies(), store.table("digits"))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///{}/x.db?mode=ro",
        "sqlite:///{}/\udcff.db",
        "sqlite:///{}/" + 300 * "x",
        "sqlite:///{}/" + 300 * "x" + "/x.db",
        "sqlite://host/{}/x.db",
        "postgresql://me:secret@127.0.0.1:1/db?passwrod=secret",
    ],
)
def test_odd_urls_are_told_in_one_line(tmp_path, url):
    with pytest.raises(StoreError) as caught:
        Store(url.format(tmp_path))
    assert str(caught.value).isprintable() and "secret" not in str(caught.value)
    assert not list(tmp_path.iterdir())


MOUNTS = """\
overlay / overlay rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sda1 /home/local ext4 rw 0 0
me@host: /mnt/a\\040b fuse.sshfs rw 0 0
C: /mnt/c 9p rw 0 0
tmpfs /homeless tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/me/x", "nfs4"),
        ("/home", "nfs4"),
        ("/home/local/x", None),
        ("/homeless", None),
        ("/mnt/a b/c", "fuse.sshfs"),
        ("/mnt/c", None),
        ("/elsewhere", None),
    ],
)
def test_network_file_systems_are_known_by_their_mount(tmp_path, folder, kind):
    (tmp_path / "mounts").write_text(MOUNTS)
    assert address.network_file_system(Path(folder), tmp_path / "mounts") == kind
    assert address.network_file_system(Path(folder), tmp_path / "none") is None


def test_sqlite_on_a_network_file_system_is_refused_unless_the_user_insists(tmp_path, monkeypatch):
    monkeypatch.setattr(address, "network_file_system", lambda folder: "nfs4")
    with pytest.raises(StoreError, match=r"network file system \(nfs4\).*postgresql.*WDGRID_NETWORK_SQLITE=1"):
        Store(f"sqlite:///{tmp_path}/x.db")
    monkeypatch.setenv("WDGRID_NETWORK_SQLITE", "1")
    Store(f"sqlite:///{tmp_path}/x.db").close()


@pytest.mark.parametrize(
    "change", ["UPDATE version_info SET schema_version = 13", "UPDATE alembic_version SET version_num = 'v9.0.0.a'"]
)
def test_another_schema_is_refused(tmp_path, change):
    path = tmp_path / "x.db"
    Store(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path)
    connection.execute(change)
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="Optuna schema"):
        Store(f"sqlite:///{path}")


def test_a_foreign_optuna_study_of_the_same_name_is_left_alone(store, url):
    with optuna_storage(url) as storage:
        optuna.create_study(study_name="digits/adamw", storage=storage)
    with pytest.raises(StoreError, match="not wdgrid's"):
        plan(store)
    assert store.studies() == []
