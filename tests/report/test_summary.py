"""The table at the end of a sweep, what it says of the best cells' decay, and the line a chunk leaves."""

import io
import json
import math
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from helpers.stored import fabricated
from helpers.synthetic_tables import flagged, make_study, make_table
from wdgrid.analysis.separability import analyse
from wdgrid.analysis.surface import surfaces
from wdgrid.analysis.words import figures, number
from wdgrid.cli.progress import show
from wdgrid.optim.conversion import convert
from wdgrid.optim.variants import VARIANTS, Decay
from wdgrid.report.findings import finding_lines, findings, wrapped
from wdgrid.report.grids import grids
from wdgrid.report.summary import summary_rows, summary_tables
from wdgrid.runner.events import ChunkFinished, Progress
from wdgrid.study import Curve, Outcome

CLASSES = {
    ("adam", "1/2", "0", 0): ("late blow-up", 700),
    ("adam", "1/4", "0", 0): ("stuck at chance", 1),
    ("adam", "1/8", "0", 0): ("stuck at chance", 1),
}


def analysed(study, table, environment=None):
    numbers = analyse(surfaces(table, study.row, study.column), draws=0)
    return numbers, findings(study, numbers, grids(study, table), environment or {})


def printed(numbers, found, width):
    out = io.StringIO()
    Console(file=out, width=width).print(summary_tables(numbers, found, width))
    return out.getvalue()


STUDY = make_study()
NUMBERS, FOUND = analysed(STUDY, flagged(make_table(STUDY, noise=0.01), CLASSES))


def test_summary_says_best_slope_verdict_and_what_went_wrong():
    rows = {row["panel"]: row for row in summary_rows(NUMBERS, FOUND)}
    json.dumps(list(rows.values()), allow_nan=False)
    assert rows["sgd"]["diverged"] == 4 and rows["sgd"]["missing"] == 1 and rows["sgd"]["cells"] == 35
    assert rows["sgd"]["slope"] < -0.6 < -0.5 < rows["sgdw"]["slope"]
    assert rows["adam"]["divergences"]["stuck at chance"] == {"cells": 2, "first_step": 1}
    text = printed(NUMBERS, FOUND, 180)
    (adam,) = (line for line in text.splitlines() if line.startswith("adam "))
    assert f"{rows['adam']['best_error']:.2f}" in adam and rows["adam"]["verdict"] in adam and "1/35" in adam
    assert "4 non-finite, 1 late blow-up, 2 stuck" in adam and text.count("late blow-up") == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(60, 200))
def test_no_width_takes_anything_away(width):
    text = printed(NUMBERS, FOUND, width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    told = " ".join(text.split())
    for name, panel in NUMBERS.items():
        words = [f"{panel.best_row:.4g} ({panel.best_row_label})", f"{panel.best_col:.4g} ({panel.best_col_label})"]
        words += [number(panel.slope), panel.verdict]
        words += [figures(FOUND[name]["weight_decay_norm"]), figures(FOUND[name]["tau_epochs"])]
        assert name in told and all(word in told for word in words)
    assert text.count("panel") == len([line for line in text.splitlines() if line.startswith("sgdw ")])


def test_sentences_are_whole_at_any_width():
    """For each panel the answer and the reason, and a line for PyTorch that says its numbers."""
    for width in (60, 80, 200):
        lines = finding_lines(NUMBERS, FOUND, width)
        assert all(cell_len(line) <= width for line in lines)
        told = " ".join(" ".join(lines).split())
        for name, panel in NUMBERS.items():
            assert f"{name}: {panel.sentence}" in told and panel.reason in told
        assert "torch.optim.AdamW(params, lr=" in told and "torch.optim.SGD(params, lr=" in told
    assert wrapped("to add them:\n  wdgrid sweep " + "x" * 90, 60)[-1].endswith("x" * 90)  # a command stays whole


def test_of_what_the_best_is_is_said():
    assert printed(NUMBERS, FOUND, 180).splitlines()[1].count("one seed") == 1
    study = make_study(seeds=[0, 1])
    table = make_table(study)
    numbers, found = analysed(study, table)
    assert {words["best_of"] for words in found.values()} == {"mean of 2 seeds"}
    best = found["sgdw"]["multiples"]
    row, col = re.findall(r"\(([^)]+)\)", best)
    at = (table["panel"] == "sgdw") & (table["seed"] == 1) & (table["row"] == row) & (table["col"] == col)
    assert at.sum() == 1
    numbers, found = analysed(study, table.assign(state=table["state"].where(~at, "waiting")))
    assert found["sgdw"]["best_of"] == "one seed"
    text = " ".join(printed(numbers, found, 180).split())
    assert text.count(", one seed") == 1 and text.count(", mean of 2 seeds") == 3


def test_a_wide_terminal_has_one_table_and_no_column_of_nothing():
    numbers, found = analysed(STUDY, make_table(STUDY, diverged=False, missing=False))
    text = printed(numbers, found, 140)
    assert text.count("sgdw") == 1 and "missing" not in text
    assert "non-finite" not in text and "stuck" not in text


SCHEDULES = {
    "cosine": 12,
    "restarts of one length": 4,
    "restarts that grow": None,
}


@pytest.mark.parametrize("decay", ["raw", "normalized"])
@pytest.mark.parametrize("optimizer", ["sgd", "sgdw", "adam", "adamw", "sgdw-torch", "adamw-torch", "kalman"])
@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_the_best_cells_decay_in_other_units(optimizer, schedule, decay):
    """From the decay a step, which is η λ θ (η α λ θ in the library form), with a last short minibatch left out."""
    kinds = {"cosine": "cosine", "restarts of one length": {"kind": "restarts", "period": 4, "multiplier": 1}}
    panel = {"optimizer": optimizer, "schedule": kinds.get(schedule, {"kind": "restarts", "period": 3})}
    study = make_study(panels=[panel], decay=decay, task={"batch_size": 60, "epochs": 12})
    table = make_table(study, diverged=False, missing=False)
    numbers, found = analysed(study, table, {"train_images": 890, "steps_per_epoch": 14})
    (best,), (words,) = numbers.values(), found.values()
    period, lr, decay_given = SCHEDULES[schedule], best.best_row, best.best_col
    per_step = decay_given * (lr if VARIANTS[optimizer].decay is Decay.LIBRARY else 1)  # as far as it is λ
    if period is None:
        assert words["weight_decay_norm"] is None
        if decay == "normalized":
            assert words["tau_epochs"] is None
            return
    else:
        factor = math.sqrt(60 / (890 * period))  # λ = λ_norm times this
        wanted = per_step if decay == "normalized" else per_step / factor
        assert words["weight_decay_norm"] == pytest.approx(wanted)
        per_step *= factor if decay == "normalized" else 1
    if optimizer == "adam":
        assert words["tau_epochs"] is None
        return
    if optimizer == "sgd":  # the gradient's share of a step is lr over 1 − momentum
        per_step *= lr / (1 - 0.9)
    assert words["tau_epochs"] == pytest.approx(1 / per_step / 14)


def test_units_are_those_of_convert_and_zero_decay_averages_for_ever():
    (values,) = [STUDY.hyperparameters(STUDY.panel_names()["sgd"])]
    best = NUMBERS["sgd"]
    same = convert(best.best_row, best.best_col, "sgd", "tau", steps_per_epoch=900 // 50, momentum=values["momentum"])
    assert FOUND["sgd"]["tau_epochs"] == same.value
    table = make_table(STUDY, missing=False)
    table["test_error"] += table["weight_decay"] * 1e4  # best without decay
    numbers, found = analysed(STUDY, table)
    assert found["adamw"]["weight_decay_norm"] == 0 and found["adamw"]["tau_epochs"] == math.inf
    rows = {row["panel"]: row for row in summary_rows(numbers, found)}
    assert rows["adamw"]["tau_epochs"] is None and "∞" in printed(numbers, found, 100)


def test_where_nothing_is_known_of_the_images_there_are_no_units():
    study = make_study(task={"batch_size": 50, "epochs": 3})
    numbers, found = analysed(study, make_table(study))
    assert all(words["weight_decay_norm"] is None and words["tau_epochs"] is None for words in found.values())
    assert "λ_norm" not in printed(numbers, found, 140)


def test_a_chunks_line_counts_every_class(capsys):
    def outcome(kind):
        return Outcome(5.0, 0.1, 0.1, 0.1, 7.0, None, 0.1, Curve(), divergence=kind, divergence_step=kind and 3)

    kinds = ["spike", "stuck at chance", None, "stuck at chance", "late blow-up", "non-finite"]
    with show(quiet=False) as tell:
        tell(ChunkFinished("sgd", 0, [outcome(kind) for kind in kinds], 2.0, Progress(6, 12, None, 6)))
        tell(ChunkFinished("sgd", 1, [fabricated(5.0)], 2.0, Progress(12, 12)))
    first, second = capsys.readouterr().err.splitlines()
    assert "6/12 cells; best 5.00 %" in first
    assert "6 in 2.0 s (1 non-finite, 1 late blow-up, 2 stuck, 1 spike)" in first
    assert second.endswith("sgd seed 1: 1 in 2.0 s")


def test_signs_and_figures():
    assert [number(v) for v in (-1.234, -0.001, None, float("nan"), 0.5)] == ["−1.23", "0.00", "–", "–", "0.50"]
    values = [0.00012345, 0.04944, 22.222, 1234.5, 98765.0, 0.0, math.inf, None]
    assert [figures(v) for v in values] == ["0.000123", "0.0494", "22.2", "1230", "98800", "0", "∞", "–"]
    steps = [figures(10**k * 1.2345) for k in range(-3, 5)]
    assert all(float(low) < float(high) and "e" not in low for low, high in pairwise(steps))
