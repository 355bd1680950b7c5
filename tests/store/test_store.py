"""The store's contract, the same over SQLite and PostgreSQL: what is planned and what is read."""

import math
import time
from datetime import UTC, datetime, timedelta

import optuna
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from helpers.store_contract import SETTINGS, grid, optuna_storage, optuna_trials, outcome, plan, states
from wdgrid.errors import StoreError
from wdgrid.store import Store, owner_name
from wdgrid.study import Cell, Curve
from wdgrid.study.cells import TABLE_COLUMNS

# Planning


def test_optuna_reads_what_was_planned_and_finished(store, url):
    assert plan(store, grid(2, 3, seeds=(3,))) == 6
    before = datetime.now()
    claims = store.claim("digits", "adamw", 3, 6, owner_name())
    diverged = outcome(math.inf, diverged_at=17, curve=Curve([50.0], [2.0], [2.1]))
    results = [(claim, outcome(10.0 - i)) for i, claim in enumerate(claims[:5])] + [(claims[5], diverged)]
    assert store.finish(results, owner_name()) == 6

    with optuna_storage(url) as storage:
        study = optuna.load_study(study_name="digits/adamw", storage=storage)
        trials = study.get_trials()
        assert study.direction == optuna.study.StudyDirection.MINIMIZE
        assert study.best_trial.number == 4 and study.best_value == 6.0
        assert study.user_attrs["wdgrid:device"] == "cpu"
        assert len(study.trials_dataframe()) == 6
    assert [t.number for t in trials] == list(range(6))
    assert all(t.state == TrialState.COMPLETE for t in trials)
    assert trials[4].params == {"lr": 0.002, "weight_decay": 0.1, "seed": 3}
    assert trials[4].distributions["lr"] == optuna.distributions.FloatDistribution(0.001, 0.002, log=True)
    assert trials[4].distributions["weight_decay"] == optuna.distributions.FloatDistribution(0.0, 0.2)
    assert trials[4].intermediate_values == {1: 30.0, 2: 10.0, 3: 6.0}
    assert trials[4].user_attrs["row"] == "2" and trials[4].user_attrs["col"] == "1"
    assert trials[4].user_attrs["test_loss_curve"] == [1.0, 0.5, 0.2]
    assert trials[5].value == math.inf and trials[5].user_attrs["diverged_at"] == 17
    slack = timedelta(seconds=1)
    assert all(before - slack < t.datetime_start <= t.datetime_complete < datetime.now() + slack for t in trials)


def test_claims_give_back_the_cells_exactly(store):
    cells = grid(3, 4, seeds=(0, 5))
    plan(store, cells)
    got = [c.cell for seed in (0, 5) for c in store.claim("digits", "adamw", seed, 99, "o")]
    assert got == cells


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(st.tuples(st.floats(1e-300, 1e300), st.floats(0, 1e300)), min_size=1, max_size=6),
    constant=st.floats(-1e300, 1e300),
    seed=st.integers(0, 2**40),
)
def test_any_hyperparameters_survive_the_way_through_the_store(tmp_path_factory, pairs, constant, seed):
    cells = [
        Cell("p", seed, {"lr": lr, "weight_decay": wd, "eps": constant}, (str(i), "1"))
        for i, (lr, wd) in enumerate(pairs)
    ]
    with Store(f"sqlite:///{tmp_path_factory.getbasetemp()}/property.db") as store:
        study = f"s{time.monotonic_ns()}"
        store.create(study, {"p": cells}, "{}", "d", {}, {})
        assert [c.cell for c in store.claim(study, "p", seed, 99, "o")] == cells
        table = store.table(study)
        assert table["lr"].tolist() == [lr for lr, _ in pairs] and (table["eps"] == constant).all()


def test_extending_adds_only_new_cells(store, url):
    assert plan(store, grid(2, 2)) == 4
    first = store.claim("digits", "adamw", 0, 1, "o")
    store.finish([(first[0], outcome())], "o")
    assert plan(store, grid(2, 2)) == 0
    panels = {"sgdw": grid(1, 1, panel="sgdw"), "adamw": grid(3, 2, seeds=(0, 1))}
    added = store.create("digits", panels, '{"a": 2}', "new", {}, SETTINGS)
    assert added == 9
    assert store.definition("digits") == ('{"a": 2}', "new")
    assert store.pending("digits") == {("sgdw", 0): 1, ("adamw", 0): 5, ("adamw", 1): 6}
    table = store.table("digits")
    assert table["panel"].tolist() == ["sgdw"] + ["adamw"] * 12  # in the new study order
    assert table["number"].tolist() == [0, *range(12)]
    assert table.loc[1, "test_error"] == 5.0
    trials = optuna_trials(url)
    assert len({str(t.distributions) for t in trials}) == 1
    assert trials[0].distributions["lr"].high == 0.004


def test_a_planned_cell_cannot_change_its_hyperparameters(store):
    plan(store)
    changed = [Cell(c.panel, c.seed, {**c.hyperparameters, "lr": 9.0}, c.multiples) for c in grid()]
    with pytest.raises(StoreError, match="planned with other hyperparameters"):
        plan(store, changed, digest="other")
    assert store.definition("digits") == ('{"a": 1}', "sha")  # nothing of the refused plan was kept


def test_a_hyperparameter_that_was_constant_may_vary_in_new_cells(store):
    plan(store, grid(1, 1))
    other = [Cell("adamw", 0, {**grid(1, 1)[0].hyperparameters, "beta1": 0.5}, ("9", "9"))]
    assert plan(store, [*grid(1, 1), *other]) == 1
    assert [c.cell.hyperparameters["beta1"] for c in store.claim("digits", "adamw", 0, 9, "o")] == [0.9, 0.5]
    assert store.table("digits")["beta1"].tolist() == [0.9, 0.5]


def test_attributes_are_kept_and_replaced(store):
    plan(store)
    store.set_attrs("digits", {"chunk": 64, "device": "cuda", "loss": math.nan})
    assert store.attrs("digits") == {"chunk": 64, "device": "cuda", "loss": None}
    with pytest.raises(ValueError, match="digest"):
        store.set_attrs("digits", {"digest": "x"})


def test_unknown_studies_are_named(store):
    assert store.definition("nope") is None
    for call in (store.table, store.curves, store.pending, store.attrs, store.retry_failed):
        with pytest.raises(StoreError, match="'nope'"):
            call("nope")
    assert store.studies() == []


def test_studies_sharing_a_prefix_do_not_mix(store):
    plan(store, grid(1, 1), study="a")
    plan(store, grid(1, 2), study="a_")
    plan(store, grid(1, 3), study="a%")
    plan(store, panels={"b/adamw": grid(2, 2, panel="b/adamw")}, study="a/c")
    assert [(s.name, s.n_cells) for s in store.studies()] == [("a", 1), ("a%", 3), ("a/c", 4), ("a_", 2)]
    assert len(store.table("a")) == 1


def test_studies_are_summed_up(store):
    plan(store, panels={"adamw": grid(), "sgdw": grid(1, 2, panel="sgdw")})
    claims = store.claim("digits", "adamw", 0, 5, "o")
    diverged = outcome(math.inf, diverged_at=1)
    store.finish([(claims[0], outcome(3.0)), (claims[1], outcome(2.5)), (claims[2], diverged)], "o")
    store.fail([claims[3].trial_id], "out of memory")
    (summary,) = store.studies()
    assert (summary.name, summary.panels, summary.n_cells) == ("digits", ("adamw", "sgdw"), 8)
    assert (summary.n_complete, summary.n_running, summary.n_waiting, summary.n_failed) == (3, 1, 3, 1)
    assert summary.best and (summary.best.panel, summary.best.error, summary.best.seeds) == ("adamw", 2.5, 1)
    assert summary.best.values.keys() == {"lr", "weight_decay"}
    assert abs((datetime.now(UTC) - summary.created).total_seconds()) < 60


def test_deleting_through_optuna_leaves_nothing_in_the_way(store, url):
    plan(store)
    store.claim("digits", "adamw", 0, 2, "o")
    with optuna_storage(url) as storage:
        optuna.delete_study(study_name="digits/adamw", storage=storage)
    assert store.studies() == []
    assert plan(store) == 6
    assert states(store) == {"waiting": 6}


# Results


def test_table_holds_every_column_and_state(store):
    plan(store, panels={"sgdw": [], "adamw": grid()})
    claims = store.claim("digits", "adamw", 0, 4, "o")
    store.finish([(claims[0], outcome(4.0)), (claims[1], outcome(math.inf, diverged_at=8, test_loss=math.nan))], "o")
    store.fail([claims[2].trial_id], "disk full")
    table = store.table("digits")
    assert list(table) == [*TABLE_COLUMNS, "lr", "weight_decay", "momentum", "beta1", "beta2", "eps"]
    assert table["state"].tolist() == ["complete", "complete", "failed", "running", "waiting", "waiting"]
    assert table["test_error"].tolist()[:2] == [4.0, math.inf] and table["test_error"][2:].isna().all()
    assert table["diverged_at"].dtype == "Int64" and table["diverged_at"][1] == 8 and table["diverged_at"].isna()[0]
    assert (table["optimizer"] == "adamw").all() and (table["epochs"] == 3).all()
    assert table["momentum"].isna().all() and (table["beta1"] == 0.9).all() and (table["eps"] == 1e-8).all()
    assert table["row"].tolist() == ["1"] * 3 + ["2"] * 3 and table["col"].tolist() == ["0", "1", "2"] * 2
    assert table["weight_norm"][0] == 7.0 and math.isnan(table["test_loss"][1])
    assert table["lr"].dtype == "float64" and table["seconds"].dtype == "float64"


def test_an_empty_study_gives_empty_tables(store):
    plan(store, panels={"adamw": []})
    table, curves = store.table("digits"), store.curves("digits")
    assert len(table) == len(curves) == 0 and list(table)[: len(TABLE_COLUMNS)] == list(TABLE_COLUMNS)
    assert store.pending("digits") == {} and store.studies()[0].panels == ("adamw",)


def test_curves_are_long_and_keep_nan_and_inf(store, url):
    plan(store)
    claims = store.claim("digits", "adamw", 0, 2, "o")
    odd = Curve([50.0, math.inf, math.nan], [2.0, math.inf, math.nan], [2.5])
    store.finish([(claims[1], outcome(math.inf, curve=odd)), (claims[0], outcome())], "o")
    curves = store.curves("digits")
    assert list(curves) == ["panel", "number", "epoch", "test_error", "validation_error", "test_loss", "train_loss"]
    assert curves["number"].tolist() == [0] * 3 + [1] * 3 and curves["epoch"].tolist() == [1, 2, 3] * 2
    expected = pd.Series([30.0, 10.0, 5.0, 50.0, math.inf, math.nan], name="test_error")
    pd.testing.assert_series_equal(curves["test_error"], expected)
    assert curves["test_loss"].isna().tolist() == [False] * 4 + [True] * 2  # JSON has neither NaN nor inf
    assert curves["train_loss"].isna().tolist() == [False] * 4 + [True] * 2
    assert math.isnan(optuna_trials(url)[1].intermediate_values[3])


@pytest.mark.parametrize("error", [math.nan, -math.inf])
def test_impossible_errors_are_refused_and_nothing_is_written(store, error):
    plan(store)
    claims = store.claim("digits", "adamw", 0, 2, "o")
    with pytest.raises(ValueError, match="percentage"):
        store.finish([(claims[0], outcome()), (claims[1], outcome(error))], "o")
    assert states(store) == {"running": 2, "waiting": 4}
