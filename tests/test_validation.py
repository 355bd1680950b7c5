"""Selection without cheating: cells are picked on images kept apart from training and reported on test."""

import io
import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from plain import train_plain
from rich.console import Console
from synthetic_tables import make_curves, make_study, make_table

from wdgrid import data as datasets
from wdgrid.analysis.compare import Side, compare
from wdgrid.analysis.separability import analyse
from wdgrid.analysis.surface import surfaces
from wdgrid.cells import Cell, Curve, Outcome, selection_error
from wdgrid.data import DataError
from wdgrid.engine import Job, Workbench, train
from wdgrid.report.comparison import comparison_lines, comparison_rows, draw_comparison
from wdgrid.report.figures import heatmaps, save_heatmaps
from wdgrid.report.findings import findings
from wdgrid.report.grids import grids
from wdgrid.report.page import write_page
from wdgrid.report.payload import curve_data, page_data
from wdgrid.report.summary import summary_rows, summary_tables
from wdgrid.sections import Constant, Task
from wdgrid.store import Store
from wdgrid.study import Study

CPU = torch.device("cpu")
TASK = Task(model_args={"hidden": [12]}, batch_size=25, epochs=2, train_size=100, validation_size=60, device="cpu")
JOB = Job("adamw", Constant(), 2, False)


def cells(rates=(0.01, 0.03), decays=(0.0, 0.01)):
    fixed = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    return [
        Cell("adamw", 0, {"lr": a, "weight_decay": b, **fixed}, (str(a), str(b)))
        for a, b in zip(rates, decays, strict=True)
    ]


def validated(seeds=(0,), **task):
    """A study with a split and its table, whose best cell on test is not the best on validation."""
    study = make_study(seeds=list(seeds), task={"batch_size": 50, "epochs": 3, "validation_size": 200, **task})
    table = make_table(study)
    table["validation_error"] = table["test_error"] + 0.3
    best = table.groupby("panel")["test_error"].transform("min") == table["test_error"]
    table.loc[best, "validation_error"] += 1.5  # lucky on test
    return study, table


# Data and engine


def test_validation_images_are_the_end_of_the_training_images_and_no_others():
    whole = datasets.load(Task(), CPU, torch.float32)
    assert whole.val_x is None and whole.val_y is None and len(whole.train_x) == 900
    split = datasets.load(Task(validation_size=200), CPU, torch.float32)
    assert split.val_x is not None and split.val_y is not None
    assert torch.equal(torch.cat([split.train_x, split.val_x]), whole.train_x)
    assert torch.equal(torch.cat([split.train_y, split.val_y]), whole.train_y)
    assert torch.equal(split.test_x, whole.test_x) and torch.equal(split.test_y, whole.test_y)
    small = datasets.load(Task(validation_size=200, train_size=300), CPU, torch.float32)
    assert torch.equal(small.train_x, whole.train_x[:300]) and torch.equal(small.val_x, split.val_x)
    rows = {image.numpy().tobytes() for image in small.val_x}
    assert not rows & {image.numpy().tobytes() for image in torch.cat([small.train_x, small.test_x])}


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"train_size": 800, "validation_size": 101}, "task.train_size = 800, task.validation_size = 101"),
        ({"validation_size": 900}, "task.validation_size = 900"),
        ({"train_size": 901}, "task.train_size = 901"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_one_line(sizes, words):
    with pytest.raises(DataError) as caught:
        datasets.load(Task(**sizes), CPU, torch.float32)
    assert str(caught.value) == f"{words}: digits has 900 training images"
    assert len(datasets.load(Task(train_size=800, validation_size=100), CPU, torch.float32).train_x) == 800


def test_outcomes_agree_with_an_independent_loop_on_the_raw_images():
    bench = Workbench(TASK.model_copy(update={"precision": "float64"}))
    raw = datasets.load(Task(), CPU, torch.float64)  # never augmented
    found = train(bench, JOB, cells(), 3, lambda done: None)
    for x, y, name in (
        (raw.test_x, raw.test_y, "test_error"),
        (raw.train_x[-60:], raw.train_y[-60:], "validation_error"),
    ):
        bench.data = replace(bench.data, test_x=x, test_y=y)
        for cell, outcome in zip(cells(), found, strict=True):
            assert getattr(outcome, name) == pytest.approx(train_plain(bench, JOB, cell)["test_error"])
            curve = getattr(outcome.curve, name)
            assert len(curve) == 2 and curve[-1] == getattr(outcome, name)
    assert found[0].selection_error == found[0].validation_error != found[0].test_error


def test_a_split_changes_nothing_of_the_training_itself():
    without = TASK.model_copy(update={"validation_size": 0})
    (a, b), (c, d) = (train(Workbench(t), JOB, cells(), 2, lambda done: None) for t in (TASK, without))
    assert (a.test_error, a.test_loss, a.weight_norm) == (c.test_error, c.test_loss, c.weight_norm)
    assert b.curve.test_loss == d.curve.test_loss
    assert c.validation_error is None and c.curve.validation_error == [] and c.selection_error == c.test_error


def test_a_diverged_cell_is_infinite_on_both():
    bench = Workbench(TASK)
    _, wild = train(bench, Job("sgd", Constant(), 2, False), [
        Cell("p", 0, {"lr": lr, "weight_decay": 0.0, "momentum": 0.9}, (str(lr), "0")) for lr in (0.01, 1e12)
    ], 2, lambda done: None)  # fmt: skip
    assert wild.diverged_at and wild.validation_error == wild.test_error == math.inf


# Study and store


def test_a_study_without_a_split_keeps_its_digest_and_one_with_it_has_another():
    study = make_study()
    assert "validation_size" not in study.identity()["task"]
    stored = json.loads(study.canonical())
    del stored["task"]["validation_size"]  # as written before there was one
    assert Study.model_validate(stored).digest() == study.digest()
    other = make_study(task={**study.task.model_dump(), "validation_size": 5})
    assert other.digest() != study.digest() and other.identity()["task"]["validation_size"] == 5


def outcome(test, validation):
    curve = Curve([30.0, test], [1.0, 0.2], [1.1, 0.3], [] if validation is None else [40.0, validation])
    if test == math.inf:
        curve = Curve([30.0], [1.0], [1.1], [] if validation is None else [40.0])
    return Outcome(test, 0.2, 0.3, 0.01, 7.0, 8 if test == math.inf else None, 1.5, curve, validation)


def test_the_store_keeps_both_errors_and_tells_optuna_the_validation_error(tmp_path):
    url = f"sqlite:///{tmp_path}/x.db"
    attrs = {"adamw": {"optimizer": "adamw", "schedule": "constant", "epochs": 2}}
    with Store(url) as store:
        for name, results in {
            "split": [outcome(5.0, 7.0), outcome(math.inf, math.inf)],
            "none": [outcome(5.0, None), outcome(math.inf, None)],
        }.items():
            store.create(name, {"adamw": cells()}, "{}", name, {}, attrs)
            claims = store.claim(name, "adamw", 0, 2, "me")
            assert store.finish(list(zip(claims, results, strict=True)), "me") == 2
        table, curves = store.table("split"), store.curves("split")
        old, old_curves = store.table("none"), store.curves("none")
        listed = {s.name: (s.best_error, s.selected_on) for s in store.studies()}
    assert table["test_error"].tolist() == [5.0, math.inf] and table["validation_error"].tolist() == [7.0, math.inf]
    assert curves["test_error"].tolist() == [30.0, 5.0, 30.0]
    assert curves["validation_error"].tolist() == [40.0, 7.0, 40.0]
    assert old["test_error"].tolist() == [5.0, math.inf] and old["validation_error"].isna().all()
    assert old_curves["test_error"].tolist() == [30.0, 5.0, 30.0] and old_curves["validation_error"].isna().all()
    assert (selection_error(table), selection_error(old)) == ("validation_error", "test_error")
    assert listed == {"split": (7.0, "validation"), "none": (5.0, "test")}
    storage = optuna.storages.RDBStorage(url)
    trials = optuna.load_study(study_name="split/adamw", storage=storage).trials
    storage.remove_session()
    storage.engine.dispose()
    assert [t.value for t in trials] == [7.0, math.inf] and trials[0].intermediate_values == {1: 40.0, 2: 7.0}
    assert trials[0].user_attrs["test_error"] == 5.0


def test_an_impossible_validation_error_is_refused(tmp_path):
    with Store(f"sqlite:///{tmp_path}/x.db") as store:
        store.create("s", {"adamw": cells()}, "{}", "d", {}, {"adamw": {}})
        (claim,) = store.claim("s", "adamw", 0, 1, "me")
        with pytest.raises(ValueError, match="percentage"):
            store.finish([(claim, outcome(5.0, math.nan))], "me")


# Numbers


def test_cells_are_picked_on_validation_and_reported_on_test():
    study, table = validated(seeds=(0, 1))
    found = analyse(surfaces(table, study.row, study.column), bootstrap=20)
    plain = analyse(surfaces(table.drop(columns="validation_error"), study.row, study.column), bootstrap=20)
    for name, numbers in found.items():
        means = table[table["panel"] == name].groupby(["row", "col"])[["validation_error", "test_error"]].mean()
        picked = means.loc[means["validation_error"].idxmin()]
        assert numbers.selected_on == "validation"
        assert numbers.best_error == pytest.approx(picked["validation_error"])
        assert numbers.best_test_error == pytest.approx(picked["test_error"])
        assert numbers.best_test_error > plain[name].best_error  # what picking on test would have claimed
        assert (plain[name].selected_on, plain[name].best_test_error) == ("test", None)
        assert numbers.cap > plain[name].cap
    assert found["sgd"].alarms == analyse(surfaces(
        table.assign(test_error=table["validation_error"], validation_error=np.nan), study.row, study.column
    ), bootstrap=20)["sgd"].alarms  # fmt: skip


def test_circles_are_those_of_validation():
    study, table = validated()
    for grid in grids(study, table):
        here = table[(table["panel"] == grid.panel) & np.isfinite(table["validation_error"])]
        best = here.nsmallest(10, "validation_error")
        assert {(grid.row_labels[i], grid.col_labels[j]) for i, j in grid.best} == {
            *zip(best["row"], best["col"], strict=True)
        }
        i, j = grid.best[0]
        assert grid.test_error[i, j] == pytest.approx(grid.error[i, j] - 0.3)


def sides(study, table):
    shown = surfaces(table, study.row, study.column)
    found = analyse(shown, bootstrap=20)
    return {name: Side(f"s/{name}", name, name, "cosine", s.as_printed(), found[name]) for name, s in shown.items()}


def test_a_comparison_sets_test_errors_against_test_errors():
    study, table = validated()
    a = sides(study, table)["adamw"]
    b = sides(study, table.drop(columns="validation_error"))["adamw"]
    one = compare(a, b)
    assert one.best == (a.found.best_test_error, b.found.best_error)
    assert one.difference == pytest.approx(b.found.best_error - a.found.best_test_error) and one.difference < 0
    assert one.rank_correlation == pytest.approx(1)  # the same test errors, whatever they are picked on
    text = "\n".join(comparison_lines(one))
    assert "picked on          validation images" in text and "Only A keeps validation images apart; B picks" in text
    assert f"{a.found.best_test_error:.2f} %" in text and f"{a.found.best_error:.2f} %" not in text
    (row,) = comparison_rows([one])
    assert (row["of_a"]["selected_on"], row["of_b"]["selected_on"]) == ("validation", "test")
    assert row["of_a"]["test_error"] == a.found.best_test_error and row["of_a"]["best_error"] == a.found.best_error
    figure = draw_comparison([(a, b)], [one])
    labels = [ax.get_ylabel() for ax in figure.axes]
    assert "Test error (%)" in labels and "Validation error (%)" not in labels
    difference = figure.axes[2].collections[0].get_array()
    assert np.abs(difference[np.isfinite(difference)]).max() == pytest.approx(0, abs=1e-9)
    assert "Only" not in "\n".join(comparison_lines(compare(a, a)))


# What people look at


def caption_of(figure):
    (caption,) = [t.get_text().replace("\n", " ") for t in figure.texts if t.get_label() == "caption"]
    return caption


def test_the_figure_says_which_error_it_shows():
    study, table = validated()
    figure = heatmaps(study, "s", table)
    assert [ax.get_ylabel() for ax in figure.axes if "error" in ax.get_ylabel()] == ["Validation error (%)"]
    found = analyse(surfaces(table, study.row, study.column), bootstrap=0)
    caption = caption_of(figure)
    assert "picked on 200 validation images" in caption and "Test error of the best cells: SGD " in caption
    assert f"AdamW {found['adamw'].best_test_error:.2f} %" in caption
    plain = make_study()
    figure = heatmaps(plain, "s", make_table(plain))
    assert [ax.get_ylabel() for ax in figure.axes if "error" in ax.get_ylabel()] == ["Test error (%)"]
    assert "optimistic" in caption_of(figure) and "validation images" not in caption_of(figure)


@pytest.mark.parametrize("split", [True, False])
def test_the_page_and_the_summary_say_which_was_used(tmp_path, split):
    study, table = validated() if split else (make_study(), make_table(make_study()))
    curves = make_curves(table)
    if split:
        curves["validation_error"] = curves["test_error"] + 0.3
    numbers = analyse(surfaces(table, study.row, study.column), bootstrap=10)
    (png, _) = save_heatmaps(heatmaps(study, "s", table), tmp_path)
    found = findings(study, numbers, grids(study, table), {})
    write_page(study, "s", table, curves, numbers, found, {}, png, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text("utf-8").partition('<script type="application/json"')[0]
    best = numbers["adamw"]
    rows = {row["panel"]: row for row in summary_rows(numbers, found)}
    shown = page_data(study, grids(study, table), table, {})
    out = io.StringIO()
    Console(file=out, width=140).print(summary_tables(numbers, found, 140))
    words = out.getvalue()
    if split:
        assert "picked on 200 validation images kept out of training and reported on test" in text
        assert f"{best.best_error:.2f} % (validation)" in text and f"test error {best.best_test_error:.2f} %" in text
        assert text.count("<th>validation error (%)</th>") == 4 and text.count("<th>test error (%)</th>") == 4
        assert rows["adamw"]["selected_on"] == "validation"
        assert rows["adamw"]["best_test_error"] == pytest.approx(best.best_test_error)
        assert "on test" in words and "its test error" in words
        assert curve_data(curves)["sgd"]["kinds"][:2] == ["test_error", "validation_error"]
        assert shown["error_words"] == "validation error" and shown["panels"][0]["test_error"]
    else:
        assert "optimistic" in text and "validation error (%)" not in text and "(validation)" not in text
        assert rows["adamw"]["selected_on"] == "test" and rows["adamw"]["best_test_error"] is None
        assert "optimistic" in words and "its test error" not in words
        assert shown["error_words"] == "test error" and shown["panels"][0]["test_error"] is None


def test_a_sweep_with_a_split_through_the_commands(tmp_path):
    (tmp_path / "s.toml").write_text("""
[task]
model_args = { hidden = [8] }
train_size = 200
epochs = 2
device = "cpu"
[axes.lr]
values = "1, 1/4"
[axes.weight_decay]
values = "0, 1"
unit = 0.01
[[panels]]
optimizer = "adamw"
lr_unit = 0.1
""")

    program = [sys.executable, "-c", "import sys; from wdgrid.cli import main; sys.exit(main())"]
    words = ["sweep", "s.toml", "--workers", "1", "--json", "--set", "task.validation_size=100"]
    done = subprocess.run([*program, *words], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    frame = pd.read_csv(tmp_path / "reports" / "s" / "trials.csv")
    best = frame.loc[frame["validation_error"].idxmin()]
    assert row["selected_on"] == "validation" and row["best_error"] == pytest.approx(best["validation_error"])
    assert row["best_test_error"] == pytest.approx(best["test_error"])


def test_steps_of_an_epoch_are_the_trainings_own():
    """τ in epochs is drawn with them: 910 images in minibatches of 50 are 18 steps, the rest waits."""
    study = make_study()
    study = study.model_copy(update={"task": study.task.model_copy(update={"train_size": 910, "batch_size": 50})})
    panels, table = [], make_table(study)
    assert page_data(study, panels, table, {})["steps_per_epoch"] == 18
    assert page_data(study, panels, table, {}, 7)["steps_per_epoch"] == 7
