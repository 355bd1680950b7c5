"""Cells picked on images kept apart, in numbers, figures, pages and words."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from helpers.commands import study_toml, wdgrid
from helpers.synthetic_tables import make_curves, make_study, make_table, validated
from wdgrid.analysis.compare import Side, compare
from wdgrid.analysis.separability import analyse
from wdgrid.analysis.surface import surfaces
from wdgrid.report.comparison import comparison_lines, comparison_rows, draw_comparison
from wdgrid.report.figures import heatmaps, save_heatmaps
from wdgrid.report.findings import findings
from wdgrid.report.grids import grids
from wdgrid.report.page import write_page
from wdgrid.report.payload import curve_data, page_data
from wdgrid.report.summary import summary_rows, summary_tables

# Numbers


def test_cells_are_picked_on_validation_and_reported_on_test():
    study, table = validated(seeds=(0, 1))
    found = analyse(surfaces(table, study.row, study.column), draws=0)
    plain = analyse(surfaces(table.drop(columns="validation_error"), study.row, study.column), draws=0)
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
    ), draws=0)["sgd"].alarms  # fmt: skip


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
    found = analyse(shown, draws=0)
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
    assert "picked on          validation images" in text and "Only A has a validation split. B picks" in text
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
    found = analyse(surfaces(table, study.row, study.column), draws=0)
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
    numbers = analyse(surfaces(table, study.row, study.column), draws=0)
    png, *_ = save_heatmaps(heatmaps(study, "s", table), tmp_path)
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
        assert "picked on 200 validation images; their test error is reported" in text
        assert (
            f"{best.best_error:.2f} % on validation (one seed)" in text
            and f"test error {best.best_test_error:.2f} %" in text
        )
        assert text.count('<th scope="col">validation error (%)</th>') == 4
        assert text.count('<th scope="col">test error (%)</th>') == 4
        assert rows["adamw"]["selected_on"] == "validation"
        assert rows["adamw"]["best_test_error"] == pytest.approx(best.best_test_error)
        assert "their test error" in words.replace("\n", " ") and "its test error" in words
        assert curve_data(curves)["sgd"]["kinds"][:2] == ["test_error", "validation_error"]
        assert [one["words"] for one in shown["measures"]][:2] == ["validation error", "test error"]
        assert shown["panels"][0]["measures"]["test_error"]
    else:
        assert "optimistic" in text and "validation error (%)" not in text and "on validation" not in text
        assert rows["adamw"]["selected_on"] == "test" and rows["adamw"]["best_test_error"] is None
        assert "optimistic" in words and "its test error" not in words
        assert [one["words"] for one in shown["measures"]][:2] == ["test error", "test loss"]


def test_a_sweep_with_a_split_through_the_commands(tmp_path):
    task = 'model_args = { hidden = [8] }\ntrain_size = 200\nepochs = 2\ndevice = "cpu"'
    (tmp_path / "s.toml").write_text(study_toml(task, "1, 1/4", "0, 1", 0.01, adamw=0.1))
    words = ["sweep", "s.toml", "--workers", "1", "--json", "--set", "task.validation_size=100"]
    done = wdgrid(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    frame = pd.read_csv(tmp_path / "reports" / "s" / "trials.csv")
    best = frame.loc[frame["validation_error"].idxmin()]
    assert row["selected_on"] == "validation" and row["best_error"] == pytest.approx(best["validation_error"])
    assert row["best_test_error"] == pytest.approx(best["test_error"])
