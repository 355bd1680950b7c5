"""A search at a quarter of a grid's cost: the coarse pass, what is trained after it, and that nothing is lost by it."""

import csv
import html
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import fabricated, fill
from synthetic_tables import error_of, make_study

from wdgrid.cli.common import stored
from wdgrid.coarse import coarse_name, coarse_study, full_places
from wdgrid.report import analyse_table, write_report
from wdgrid.report.grids import search_words
from wdgrid.schedule import normalization
from wdgrid.search import CHOSEN, coarse_pass, rounds, time_share
from wdgrid.store import Store
from wdgrid.study import Study
from wdgrid.studyfile import load_study
from wdgrid.sweep import UsersFaultError, plan

ROOT = Path(__file__).parents[1]
DIGITS = load_study(next(ROOT.glob("**/studies/digits.toml")))
STUDY = make_study(
    task={"batch_size": 50, "epochs": 8, "train_size": 900},
    axes={"lr": {"values": "1..1/128"}, "weight_decay": {"values": "0, 1/32..8", "unit": 0.016}},
    panels=[{"optimizer": "sgd"}, {"optimizer": "adamw", "lr_unit": 0.1}],
    seeds=[0, 1],
)


def surface(study, towards=0.0):
    """A known surface; a low budget is worse everywhere and has its best at a faster rate."""

    def error(cell):
        panel = study.panel_names()[cell.panel]
        lr = cell.hyperparameters["lr"] / study.unit(panel, "lr")
        decay = cell.hyperparameters["weight_decay"] / study.unit(panel, "weight_decay")
        return error_of(panel.optimizer, lr / 2**towards, decay) + 2 * towards + 0.01 * cell.seed

    return error


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path}/s.db") as opened:
        yield opened


def begin(store, study, error=None):
    """Plans a study and does its coarse pass."""
    small = coarse_pass("s", study)
    plan(store, "s", study)
    plan(store, coarse_name("s"), small)
    fill(store, coarse_name("s"), small, error or surface(small, 1.0))


def searched(store, study, error=None):
    """Does all rounds; what each one chose."""
    found = []
    for only in rounds(store, "s", study):
        found.append(only)
        fill(store, "s", study, error or surface(study), only=only)
    return found


def share(store, study):
    """Cells × epochs trained, of the whole grid's."""
    tables = [store.table(name) for name in ("s", coarse_name("s"))]
    done = sum(t.loc[t["state"] == "complete", "epochs"].sum() for t in tables)
    return done / tables[0]["epochs"].sum()


# The coarse pass


def test_the_coarse_pass_of_digits():
    small = coarse_study(DIGITS)
    assert {name: len(cells) for name, cells in small.cells().items()} == dict.fromkeys(DIGITS.panel_names(), 36)
    assert {small.panel_epochs(panel) for panel in small.panels} == {25}
    whole = {(c.panel, c.multiples): c for cells in DIGITS.cells().values() for c in cells}
    for cells in small.cells().values():
        for cell in cells:
            same = whole[cell.panel, cell.multiples].hyperparameters
            assert cell.hyperparameters == {**same, "weight_decay": 2 * same["weight_decay"]}  # √(100/25)
    assert full_places(DIGITS) == dict.fromkeys(DIGITS.panel_names(), 21)


@given(
    epochs=st.integers(1, 400),
    schedule=st.sampled_from(
        ["cosine", "step", "constant", {"kind": "restarts", "period": 12}, {"kind": "restarts", "period": 100}]
    ),
    decay=st.sampled_from(["raw", "normalized"]),
    fixed=st.booleans(),
)
@settings(deadline=None)
def test_normalized_decay_is_the_same_in_both(epochs, schedule, decay, fixed):
    panel = {"optimizer": "adamw", "schedule": schedule, "epochs": epochs}
    axes = {"lr": {"values": "1..1/8"}, "weight_decay": {"values": "0, 1..4", "unit": 0.01}}
    if fixed:
        panel["weight_decay"] = 0.03
        axes = {"lr": axes["lr"], "eps": {"values": "1..1/8", "unit": 1e-6}}
    study = make_study(axes=axes, panels=[panel], decay=decay)
    small = coarse_study(study)
    assert list(small.panel_names()) == list(study.panel_names())

    def normal(study):
        """λ_norm of every cell at its first step."""
        panel = study.panels[0]
        first = normalization(panel.schedule, study.panel_epochs(panel), 18, 50, 900)[0]
        scale = 1.0 if decay == "normalized" else first
        cells = next(iter(study.cells().values()))
        return {c.multiples: c.hyperparameters["weight_decay"] / scale for c in cells}

    whole, coarse = normal(study), normal(small)
    assert coarse == pytest.approx({place: whole[place] for place in coarse}, rel=1e-12)


@given(
    rows=st.integers(1, 13),
    cols=st.integers(1, 13),
    epochs=st.lists(st.integers(1, 120), min_size=1, max_size=3, unique=True),
    seeds=st.integers(1, 3),
)
@settings(deadline=None)
def test_a_search_takes_a_quarter_and_not_a_cell_less(rows, cols, epochs, seeds):
    study = make_study(
        axes={"lr": {"values": [f"1/{n}" for n in range(1, rows + 1)]}, "weight_decay": {"values": list(range(cols))}},
        panels=[{"optimizer": "adamw", "epochs": n, "name": f"p{n}"} for n in epochs],
        seeds=list(range(seeds)),
    )
    small = coarse_study(study)
    for name, places in full_places(study).items():
        n, n_coarse = (s.panel_epochs(s.panel_names()[name]) for s in (study, small))
        quarter = len(study.cells()[name]) * n / 4
        spent = len(small.cells()[name]) * n_coarse
        assert spent + places * seeds * n <= quarter < spent + (places + 1) * seeds * n


def test_time_is_counted_in_chunks():
    """Digits: a chunk of 36 at a quarter of the epochs and two of 32 a panel; the grid is four of 32."""
    assert time_share(DIGITS, 36) == pytest.approx((36 / 4 + 2 * 32) / (4 * 32))
    assert time_share(DIGITS, 1) == pytest.approx((36 / 4 + 21) / 121)  # where each cell trains alone: the cost itself


@pytest.mark.parametrize(("axes", "epochs"), [(("1..1/2", "0, 1"), 100), (("1..1/8", "0, 1..8"), 1)])
def test_a_grid_too_small_is_refused_in_a_line(axes, epochs):
    study = make_study(
        axes={"lr": {"values": axes[0]}, "weight_decay": {"values": axes[1]}},
        task={"epochs": epochs, "batch_size": 50},
    )
    with pytest.raises(UsersFaultError, match=r"^s: --coarse: panel sgd: .* leave --coarse out$"):
        coarse_pass("s", study)


# The search


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


def recorded(path):
    """Errors of seed 0 by panel and place."""
    with path.open() as lines:
        return {(r["panel"], r["row"], r["col"]): float(r["test_error"]) for r in csv.DictReader(lines)}


def test_digits_within_a_standard_error_of_the_whole_grid(store):
    """The claim, on tables that were measured: the whole grid, and the coarse pass of 25 epochs."""
    low, full = recorded(Path(__file__).with_name("digits_coarse.csv")), recorded(ROOT / "reports/gallery/digits.csv")
    begin(store, DIGITS, lambda cell: low[cell.panel, *cell.multiples])
    store.set_attrs(coarse_name("s"), {"chunk": 36})
    searched(store, DIGITS, lambda cell: full[cell.panel, *cell.multiples])
    assert share(store, DIGITS) <= 0.25
    table = store.table("s")
    for panel, done in table.loc[table["state"] == "complete"].groupby("panel"):
        best = min(error for (name, *_), error in full.items() if name == panel)
        assert done["test_error"].min() - best <= math.sqrt(best * (100 - best) / 897)


# What is told of it


def test_a_coarse_pass_is_found_beside_its_study():
    assert stored("digits@coarse", None) == ("digits@coarse", stored("digits", None)[1])


@pytest.mark.slow
def test_the_report_tells_what_was_trained_and_what_it_cannot_tell(store, tmp_path):
    begin(store, STUDY)
    searched(store, STUDY)
    small = coarse_study(STUDY)
    tables = store.table("s"), store.table(coarse_name("s"))
    words = search_words(STUDY, tables[0], small, tables[1])
    trained = int((tables[0]["state"] == "complete").sum())
    assert f"{len(tables[1])} cells at 2 epochs" in words and f"{trained} of {len(tables[0])} cells in full" in words
    assert f"{100 * share(store, STUDY):.1f} % of the whole grid's cells × epochs" in words
    written = write_report(STUDY, "s", tables[0], store.curves("s"), {}, tmp_path / "r", coarse=(small, tables[1]))
    names = {path.name for path in written.paths}
    assert names == {p.name for p in (tmp_path / "r").iterdir()} and {"coarse.png", "coarse.svg"} < names
    page = html.unescape((tmp_path / "r/report.html").read_text(encoding="utf-8"))
    assert "<h2>The coarse pass</h2>" in page and words in page
    assert all(found.verdict == "can't tell" and found.kappa is None for found in written.numbers.values())
    fill(store, "s", STUDY, surface(STUDY))
    assert "before all" in search_words(STUDY, store.table("s"), small, tables[1])


def test_cells_chosen_for_being_good_never_make_a_verdict(store):
    """Not even where they fill whole rows between their ends, which on a re-plotted map would do."""
    study = make_study(panels=STUDY.panels[1:], axes=STUDY.axes)
    plan(store, "s", study)
    band = {label: range(i, i + 3) for i, label in enumerate(["1/4", "1/8", "1/16", "1/32", "1/64"])}
    columns = [c.multiples[1] for c in study.cells()["adamw"][:10]]
    only = {"adamw": [(row, columns[j]) for row, places in band.items() for j in places]}
    assert fill(store, "s", study, surface(study), only=only) == 15
    found = analyse_table(study, store.table("s"), {})["adamw"]
    assert found.verdict == "can't tell" and "65 of 80 cells are missing" in found.sentence
    assert (found.n_cells, found.n_missing) == (80, 65)


def test_a_study_is_one_whatever_is_searched_in_it(store):
    """Its coarse pass is another one, beside it."""
    begin(store, STUDY)
    searched(store, STUDY)
    cells = [sum(map(len, study.cells().values())) for study in (STUDY, coarse_study(STUDY))]
    assert [(s.name, s.n_cells) for s in store.studies()] == list(zip(["s", "s@coarse"], cells, strict=True))
    assert Study.model_validate_json(store.definition("s")[0]) == STUDY
