"""A study held against what is stored of it, over SQLite and PostgreSQL: made room for, gone on with, or refused."""

import pytest
import sqlalchemy as sa

from helpers.searching import surface
from helpers.stored import fabricated, fill
from helpers.synthetic_tables import make_study
from wdgrid.errors import StudyFileError
from wdgrid.runner.reconcile import CONTENT, keep_content, must_be_as_planned, plan, replace_or_refuse
from wdgrid.store import Store, owner_name
from wdgrid.study.coarse import coarse_name, coarse_study

STUDY = make_study()
FEWER = make_study(task={"batch_size": 50, "epochs": 8, "train_size": 900})
MORE = make_study(seeds=[0, 1])
OLD, NEW = ("a" * 64, "b" * 64), ("a" * 64, "c" * 64)


def one_cell(store, name="s"):
    return store.claim(name, "sgd", 0, 1, owner_name())[0]


def rows(url):
    """How many rows every table holds that knows of studies or trials."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        tables = sa.MetaData()
        tables.reflect(connection)
        known = [t for t in tables.sorted_tables if {"study_id", "trial_id"} & set(t.c.keys())]
        counts = {t.name: connection.execute(sa.select(sa.func.count()).select_from(t)).scalar() for t in known}
    engine.dispose()
    return counts


def test_a_study_of_which_nothing_was_trained_makes_room_and_leaves_nothing(store, url):
    plan(store, "neighbour", STUDY)
    before = rows(url)
    plan(store, "s", STUDY)
    plan(store, coarse_name("s"), coarse_study(STUDY))
    store.set_attrs("s", {"chunk": 7})
    store.release([one_cell(store).trial_id])  # claimed once, and given back
    assert replace_or_refuse(store, "s", FEWER, extend=False)
    assert rows(url) == before and [s.name for s in store.studies()] == ["neighbour"]
    plan(store, "s", FEWER)
    assert store.definition("s") == (FEWER.canonical(), FEWER.digest()) and store.attrs("s") == {}
    assert fill(store, "s", FEWER, surface(FEWER)) == len(store.table("s"))


def finished(store):
    store.finish([(one_cell(store), fabricated(5.0))], owner_name())


def failed(store):
    store.fail([one_cell(store).trial_id], "out of memory")


def failed_and_to_be_tried_again(store):
    failed(store)
    store.retry_failed("s")


def its_coarse_pass(store):
    plan(store, coarse_name("s"), coarse_study(STUDY))
    store.finish([(one_cell(store, coarse_name("s")), fabricated(5.0))], owner_name())


@pytest.mark.parametrize("how", [finished, failed, failed_and_to_be_tried_again, one_cell, its_coarse_pass])
def test_a_study_of_which_a_cell_was_begun_is_refused_when_changed(store, how):
    plan(store, "s", STUDY)
    how(store)
    with pytest.raises(StudyFileError) as caught:
        replace_or_refuse(store, "s", FEWER, extend=False)
    assert "s: task.epochs: was 3; is now 8" in caught.value.lines and "--name" in caught.value.lines[-1]
    assert store.definition("s")[1] == STUDY.digest() and not replace_or_refuse(store, "s", STUDY, extend=False)
    with pytest.raises(StudyFileError, match="--extend to add cells"):
        replace_or_refuse(store, "s", MORE, extend=False)
    assert not replace_or_refuse(store, "s", MORE, extend=True)


def test_a_cell_that_a_dead_process_had_claimed_is_no_hindrance(store):
    plan(store, "s", STUDY)
    host, _, token = owner_name().rsplit(":", 2)
    store.claim("s", "sgd", 0, 3, f"{host}:{2**22 + 1}:{token}")
    assert replace_or_refuse(store, "s", FEWER, extend=False)


def test_nothing_is_withdrawn_of_which_a_cell_was_begun(store):
    plan(store, "s", STUDY)
    one_cell(store)
    assert store.begun("s") == 1 and not store.withdraw("s") and store.begun("never planned") == 0
    assert len(store.table("s")) == sum(map(len, STUDY.cells().values()))


def test_claims_on_a_study_that_was_changed_meanwhile_are_not_trained(store):
    plan(store, "s", STUDY)
    keep_content(store, "s", STUDY, OLD)
    must_be_as_planned(store, "s", STUDY, OLD)
    plan(store, "s", MORE)  # --extend by somebody else
    must_be_as_planned(store, "s", STUDY, OLD)
    keep_content(store, "s", STUDY, NEW)  # another machine, whose images are others, was first
    with pytest.raises(StudyFileError, match="another process has changed the stored study"):
        must_be_as_planned(store, "s", STUDY, OLD)
    assert replace_or_refuse(store, "s", FEWER, extend=False)
    for _ in ("gone", "another"):
        with pytest.raises(StudyFileError, match="another process has changed the stored study"):
            must_be_as_planned(store, "s", MORE, None)
        plan(store, "s", FEWER)


# What its images came from


def test_cells_are_not_trained_on_other_images_than_their_neighbours(store):
    plan(store, "s", STUDY)
    keep_content(store, "s", STUDY, OLD)
    keep_content(store, "s", STUDY, NEW)  # nothing was trained on the old ones
    assert store.attrs("s")[CONTENT] == {"training": NEW[0], "test": NEW[1]}
    finished(store)
    keep_content(store, "s", STUDY, NEW)
    for content, what in ((OLD, "test"), (("d" * 64, "c" * 64), "training"), (("d" * 64,) * 2, "training and test")):
        with pytest.raises(StudyFileError, match=rf"s: .*: {what} images are not those .* restore them, or .*--name"):
            keep_content(store, "s", STUDY, content)
    assert store.attrs("s")[CONTENT] == {"training": NEW[0], "test": NEW[1]}


def test_an_older_study_goes_on_with_the_images_there_are(store):
    plan(store, "s", STUDY)
    finished(store)
    keep_content(store, "s", STUDY, None)
    assert CONTENT not in store.attrs("s")
    keep_content(store, "s", STUDY, OLD)
    with pytest.raises(StudyFileError, match="test images are not those"):
        keep_content(store, "s", STUDY, NEW)


# A database in which there is nothing


def test_a_database_in_which_nothing_was_begun_is_removed(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/s.db")
    plan(store, "s", STUDY)
    assert store.discard() and not list(tmp_path.iterdir())


def test_a_database_that_somebody_else_has_open_stays(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/s.db")
    plan(store, "s", STUDY)
    with Store(store.url) as other:
        assert len(other.studies()) == 1
        assert not store.discard()
        finished(other)
    with Store(store.url, create=False) as again:
        assert again.begun("s") == 1


def test_a_database_with_a_cell_stays(url):
    with Store(url) as store:
        plan(store, "s", STUDY)
        finished(store)
        assert not store.discard()
    with Store(url, create=False) as again:
        assert again.begun("s") == 1
