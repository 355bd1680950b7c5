"""Selection without cheating: cells are picked on images kept apart from training and reported on test."""

import json
import math
from dataclasses import replace

import optuna
import pytest
import torch

from helpers.plain import train_plain
from helpers.synthetic_tables import make_study
from wdgrid import data as datasets
from wdgrid.engine import Job, Workbench, train
from wdgrid.errors import DataError
from wdgrid.store import Store
from wdgrid.study import Cell, Curve, Outcome, Study
from wdgrid.study.cells import selection_error
from wdgrid.study.sections import Constant, Task

CPU = torch.device("cpu")
TASK = Task(model_args={"hidden": [12]}, batch_size=25, epochs=2, train_size=100, validation_size=60, device="cpu")
JOB = Job("adamw", Constant(), 2, False)


def cells(rates=(0.01, 0.03), decays=(0.0, 0.01)):
    fixed = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    return [
        Cell("adamw", 0, {"lr": a, "weight_decay": b, **fixed}, (str(a), str(b)))
        for a, b in zip(rates, decays, strict=True)
    ]


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
    assert str(caught.value) == f"{words}: digits has only 900 training images"
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
        listed = {s.name: (s.best and s.best.error, s.selected_on) for s in store.studies()}
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
