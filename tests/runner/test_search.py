"""What a search trains after its coarse pass, round by round, and that nothing is lost by it."""

import math

import numpy as np
import pandas as pd
import pytest

from helpers.searching import STUDY, begin, searched, share, surface
from helpers.stored import fabricated, fill
from helpers.synthetic_tables import make_study
from wdgrid.runner.reconcile import plan
from wdgrid.runner.search import CHOSEN, coarse_pass, rounds
from wdgrid.store import Store
from wdgrid.study.coarse import coarse_name, full_places


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path}/s.db") as opened:
        yield opened


def test_the_best_cells_are_found_for_a_quarter(store):
    begin(store, STUDY)
    chosen = searched(store, STUDY)
    assert len(chosen) == 3
    assert 0.2 < share(store, STUDY) <= 0.25
    table = store.table("s")
    errors = {(c.panel, c.multiples): surface(STUDY)(c) for cells in STUDY.cells().values() for c in cells}
    for panel, done in table.loc[table["state"] == "complete"].groupby("panel"):
        assert (done.groupby(["row", "col"]).size() == 2).all()  # every chosen place with every seed
        truth = min(error for (name, _), error in errors.items() if name == panel)
        assert done["test_error"].min() <= truth + 0.1
    assert searched(store, STUDY) == []  # the same command again: nothing to do


def test_a_round_is_no_smaller_than_a_chunk_but_for_the_first(store):
    begin(store, STUDY)
    store.set_attrs(coarse_name("s"), {"chunk": 64})
    sizes = [len(only["sgd"]) for only in searched(store, STUDY)]
    places = full_places(STUDY)["sgd"]
    assert sizes == [math.ceil(places / 3), places]


def test_killed_anywhere_it_goes_on_as_if_it_had_not_been(store, tmp_path):
    begin(store, STUDY)
    searched(store, STUDY)
    uninterrupted = store.table("s")
    small = coarse_pass("s", STUDY)
    for at in (13,):
        with Store(f"sqlite:///{tmp_path}/killed{at}.db") as again:
            done, chosen = 0, True
            while chosen:  # a process that finishes so many cells, each time, and is gone; it knows what is stored
                plan(again, "s", STUDY)
                plan(again, coarse_name("s"), small)
                left = at - fill(again, coarse_name("s"), small, surface(small, 1.0), at)
                if left and (chosen := next(rounds(again, "s", STUDY), None)):
                    done += fill(again, "s", STUDY, surface(STUDY), left, chosen)
            pd.testing.assert_frame_equal(again.table("s"), uninterrupted)
        assert done == (uninterrupted["state"] == "complete").sum()


def test_the_whole_grid_is_completed_as_if_there_had_been_no_search(store, tmp_path):
    begin(store, STUDY)
    before = store.definition("s")
    searched(store, STUDY)
    done = (store.table("s")["state"] == "complete").sum()
    assert plan(store, "s", STUDY) == 0 and store.definition("s") == before
    assert fill(store, "s", STUDY, surface(STUDY)) == len(store.table("s")) - done  # only the rest
    with Store(f"sqlite:///{tmp_path}/plain.db") as plain:
        plan(plain, "s", STUDY)
        fill(plain, "s", STUDY, surface(STUDY))
        pd.testing.assert_frame_equal(store.table("s"), plain.table("s"))
        assert plain.definition("s") == before


def test_what_was_trained_already_counts(store):
    begin(store, STUDY)
    fill(
        store, "s", STUDY, surface(STUDY), at_most=40
    )  # an interrupted sweep: the first panel's first rows, with seed 0
    searched(store, STUDY)
    done = store.table("s").query("state == 'complete'").groupby("panel").size()
    allowed = full_places(STUDY)
    assert done["sgd"] == 40 > 2 * allowed["sgd"]
    assert done["adamw"] == 2 * allowed["adamw"]


def test_a_cell_that_failed_for_good_is_not_chosen_again(store):
    begin(store, STUDY)
    ran = rounds(store, "s", STUDY)
    first = next(ran)
    for panel, seed in store.pending("s", first):
        claims = store.claim("s", panel, seed, 99, "o", only=first)
        store.fail([claims[0].trial_id], "out of memory", "o")
        store.finish([(claim, fabricated(5.0)) for claim in claims[1:]], "o")
    chosen = next(ran)
    assert all(len(set(places)) == len(places) for places in chosen.values())
    assert all(places[: len(first[panel])] == first[panel] for panel, places in chosen.items())


def test_another_process_at_the_rounds_cells_is_waited_for(store):
    begin(store, STUDY)
    ran = rounds(store, "s", STUDY)
    only = next(ran)
    store.claim("s", "sgd", 0, 1, "another", only=only)
    fill(store, "s", STUDY, surface(STUDY), only=only)
    assert next(ran, None) is None
    assert store.attrs("s")[CHOSEN] == {panel: [list(place) for place in places] for panel, places in only.items()}


def test_validation_picks_what_is_trained_next(store):
    """With a split, cells are chosen by their error on validation; the test error says the opposite here."""
    study = make_study(
        task={**STUDY.task.model_dump(), "validation_size": 100}, axes=STUDY.axes, panels=STUDY.panels[1:]
    )
    small = coarse_pass("s", study)
    plan(store, "s", study)
    plan(store, coarse_name("s"), small)
    error = surface(small, 1.0)
    for (panel, seed), n in store.pending(coarse_name("s")).items():
        for claim in store.claim(coarse_name("s"), panel, seed, n, "o"):
            picked = error(claim.cell)
            told = fabricated(50 - picked)
            store.finish([(claim, type(told)(**{**vars(told), "validation_error": picked}))], "o")
    chosen = next(rounds(store, "s", study))["adamw"]
    errors = {c.multiples: surface(study)(c) for c in study.cells()["adamw"]}
    assert np.mean([errors[place] for place in chosen]) < np.median(list(errors.values()))
