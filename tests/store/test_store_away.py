"""A PostgreSQL server that goes away for a while: the same call is tried again, for a limited time."""

import os
import warnings

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from helpers.store_contract import outcome, plan, states
from wdgrid.errors import StorageWarning, StoreError
from wdgrid.store import Store, database

POSTGRES = os.environ.get("WDGRID_TEST_POSTGRES")


@pytest.fixture
def hasty(monkeypatch):
    """Waits between two attempts are short."""
    monkeypatch.setattr(database, "WAIT_S", 0.01)


def away(message="the server closed the connection", state="57P01"):
    error = psycopg.OperationalError(message)
    error.sqlstate = state
    return OperationalError("", {}, error)


def failing(times, commit=False, error=None):
    """Makes a connection's commit fail so many times; with `commit` what was written is there all the same."""
    left = [times]

    def fail(connection):
        if left[0]:
            left[0] -= 1
            if commit:
                connection.connection.commit()
            raise error or away()

    return fail


@pytest.mark.parametrize("committed", [False, True])
def test_nothing_is_claimed_or_written_twice_when_an_answer_is_lost(store, hasty, committed):
    """The connection breaks at the commit, before or after the server has done it."""
    plan(store)
    writer = store._database._engine
    with pytest.warns(StorageWarning, match="trying again for up to 300 s"):
        listener = failing(2, committed)
        sa.event.listen(writer, "commit", listener)
        claims = store.claim("digits", "adamw", 0, 3, "o")
        sa.event.remove(writer, "commit", listener)
    assert len(claims) == 3 and states(store) == {"running": 3, "waiting": 3}
    with pytest.warns(StorageWarning):
        listener = failing(1, committed)
        sa.event.listen(writer, "commit", listener)
        assert store.finish([(claim, outcome()) for claim in claims], "o") == 3
        sa.event.remove(writer, "commit", listener)
    assert states(store) == {"complete": 3, "waiting": 3}
    assert store.finish([(claim, outcome()) for claim in claims], "o") == 0


def test_a_server_that_stays_away_is_given_up_after_the_stated_time(store, hasty, monkeypatch):
    monkeypatch.setattr(database, "RETRY_S", 0.05)
    listener = failing(10**9)
    sa.event.listen(store._database._engine, "begin", listener)
    with pytest.warns(StorageWarning), pytest.raises(StoreError, match="the server closed the connection"):
        store.studies()
    sa.event.remove(store._database._engine, "begin", listener)


def test_other_faults_are_not_tried_again(store):
    listener = failing(1, error=away("disk full", "53100"))
    sa.event.listen(store._database._engine, "begin", listener)
    with warnings.catch_warnings(), pytest.raises(StoreError, match="disk full"):
        warnings.simplefilter("error")
        store.studies()


@pytest.mark.skipif(not POSTGRES, reason="WDGRID_TEST_POSTGRES gives no URL")
@pytest.mark.parametrize("fresh_url", ["postgresql"], indirect=True)
def test_a_server_that_ends_all_connections_is_asked_again(fresh_url, hasty):
    """What a restart does to a sweep's connections, one in the middle of a transaction."""
    admin = sa.create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    kill = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
    killed = []

    def end_connections(connection, *_):
        if not killed:
            killed.append(True)
            with admin.connect() as other:
                other.execute(kill, {"name": sa.make_url(fresh_url).database})

    with Store(fresh_url) as store:
        plan(store)
        sa.event.listen(store._database._engine, "before_cursor_execute", end_connections)
        with pytest.warns(StorageWarning):
            assert len(store.claim("digits", "adamw", 0, 3, "o")) == 3
        assert states(store) == {"running": 3, "waiting": 3}
    admin.dispose()
