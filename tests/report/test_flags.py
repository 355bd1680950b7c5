"""Cells that went wrong with a finite error: in the store, on the map, in words."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from matplotlib.path import Path

from helpers.stored import fabricated
from helpers.synthetic_tables import flagged, make_study, make_table
from wdgrid.analysis.separability import analyse
from wdgrid.analysis.surface import surfaces
from wdgrid.cli.results import show
from wdgrid.report.export import export
from wdgrid.report.figures import heatmaps
from wdgrid.report.findings import finding_lines, findings
from wdgrid.report.flags import FLAGS, worst
from wdgrid.report.grids import grids
from wdgrid.runner.reconcile import plan
from wdgrid.store import Store
from wdgrid.study import Outcome

STUDY = make_study(seeds=[0, 1])
CLASSES = {  # panel, row, column, seed
    ("adam", "1/2", "0", 0): ("late blow-up", 700),
    ("adam", "1/2", "0", 1): ("spike", 300),
    ("adam", "1/4", "0", 1): ("late blow-up", 650),
    ("adam", "1/16", "4", 0): ("stuck at chance", 1),
    ("adam", "1/16", "4", 1): ("stuck at chance", 19),
    ("sgd", "1/4", "1", 0): ("spike", 40),
    ("sgd", "1", "2", 1): ("spike", 5),  # whose other seed diverged
}
TABLE = flagged(make_table(STUDY, missing=False), CLASSES)
TABLE.loc[
    (TABLE["panel"] == "sgd") & (TABLE["row"] == "1") & (TABLE["col"] == "2") & (TABLE["seed"] == 1), "test_error"
] = 50


def grid_of(panel, table=TABLE):
    return next(g for g in grids(STUDY, table) if g.panel == panel)


def test_a_grid_counts_the_seeds_of_each_class_and_keeps_the_first_step():
    adam, sgdw = grid_of("adam"), grid_of("sgdw")
    assert list(adam.flags) == ["late blow-up", "stuck at chance", "spike"] and sgdw.flags == {}
    assert adam.flags["stuck at chance"].seeds[4, 6] == 2 and adam.flags["stuck at chance"].step[4, 6] == 1
    assert adam.flags["late blow-up"].seeds.sum() == 2 and adam.flags["late blow-up"].step[2, 0] == 650
    assert np.isfinite(adam.error[4, 6]) and np.isfinite(adam.error[1, 0])  # flags change no number


def test_a_cell_has_one_mark_that_of_its_worst_seed():
    marks = {panel: worst(grid_of(panel).flags, grid_of(panel).diverged) for panel in ("adam", "sgd")}
    assert [list(map(list, np.argwhere(marks["adam"][kind]))) for kind in FLAGS] == [[[1, 0], [2, 0]], [[4, 6]], []]
    assert list(map(list, np.argwhere(marks["sgd"]["spike"]))) == [[2, 4]]  # not on the one that diverged


@pytest.mark.parametrize("style", ["cells", "paper"])
def test_the_picture_marks_every_class_with_a_shape_of_its_own(style):
    figure = heatmaps(STUDY, "s", TABLE, style=style)
    adam = next(ax for ax in figure.axes if ax.get_title() == "Adam")
    drawn = {line.get_label(): line for line in adam.lines}
    assert {tuple(at) for at in drawn["late blow-up"].get_xydata()} == {(0.5, 1.5), (0.5, 2.5)}
    assert {tuple(at) for at in drawn["stuck at chance"].get_xydata()} == {(6.5, 4.5)}
    shapes = [line.get_marker() for kind, line in drawn.items() if kind in FLAGS]
    assert len({s.vertices.tobytes() if isinstance(s, Path) else s for s in shapes}) == 3 and "x" not in shapes
    assert all(drawn[k].get_markerfacecolor() == "white" and drawn[k].get_markeredgecolor() == "black" for k in FLAGS)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [w for w in words if w.split(" (")[0] in FLAGS] == [f"{kind} (any seed)" for kind in FLAGS]
    (caption,) = [t.get_text().replace("\n", " ") for t in figure.texts if t.get_label() == "caption"]
    assert "2 blew up late · 1 stuck at chance · 3 spiked" in caption


def test_the_legend_has_only_what_occurs():
    some = {where: found for where, found in CLASSES.items() if found[0] == "spike"}
    for classes, wanted in ((some, ["spike"]), ({}, [])):
        figure = heatmaps(STUDY, "s", flagged(make_table(STUDY, missing=False), classes))
        words = [text.get_text().split(" (")[0] for text in figure.legends[0].get_texts()]
        assert [word for word in words if word in FLAGS] == wanted


@pytest.mark.parametrize("optimizers", [["sgd", "adam"], ["adam"]])
def test_the_legend_has_room(optimizers):
    study = make_study(seeds=[0, 1], panels=[{"optimizer": name} for name in optimizers])
    figure = heatmaps(study, "s", flagged(make_table(study), CLASSES))
    figure.draw_without_rendering()
    (caption,) = [t for t in figure.texts if t.get_label() == "caption"]
    legend = figure.legends[0].get_window_extent()
    assert len(figure.legends[0].get_texts()) == 5
    assert caption.get_window_extent().y1 <= legend.y0
    assert legend.y1 <= min(ax.get_tightbbox().y0 for ax in figure.axes if ax.get_title())
    assert legend.x0 >= 0 and legend.x1 <= figure.bbox.x1


def test_findings_say_what_happened_and_what_helps():
    numbers = analyse(surfaces(TABLE), draws=0)
    found = findings(STUDY, numbers, grids(STUDY, TABLE), {})
    assert found["adam"]["divergence"] == (
        "2 cells blew up late, the first at step 650; a larger ε or a smaller learning rate may help. "
        "1 cell stuck at chance, from step 1 on. 1 cell spiked, at step 300"
    )
    assert found["sgd"]["divergence"] == "2 cells spiked, the first at step 5"
    assert found["adam"]["divergences"]["late blow-up"] == {"cells": 2, "first_step": 650}
    assert found["sgdw"]["divergence"] is None and found["sgdw"]["divergences"] == {}
    assert "  2 cells spiked, the first at step 5" in finding_lines(numbers, found)


def test_sgd_has_no_epsilon_to_enlarge():
    table = flagged(make_table(STUDY), {("sgdw", "1/2", "0", 0): ("late blow-up", 9)})
    found = findings(STUDY, {"sgdw": analyse(surfaces(table), draws=0)["sgdw"]}, grids(STUDY, table), {})
    assert found["sgdw"]["divergence"] == "1 cell blew up late, at step 9; a smaller learning rate may help"


def stored(folder, kinds):
    """A store of one panel's eight cells with these classes in turn; its URL."""
    study = make_study(
        panels=[{"optimizer": "adamw"}],
        axes={"lr": {"values": "1, 1/2"}, "weight_decay": {"values": "0, 1/8..1/2"}},
    )
    url = f"sqlite:///{folder}/x.db"
    with Store(url) as store:
        plan(store, "x", study)
        claims = store.claim("x", "adamw", 0, 8, "me")
        outcomes = [Outcome(**{**vars(fabricated(e)), "divergence": k, "divergence_step": s}) for e, k, s in kinds]
        store.finish(list(zip(claims, outcomes, strict=True)), "me")
    return url


KINDS = [
    *[(3.0, None, None)] * 4,
    (5.0, "spike", 44),
    (90.0, "stuck at chance", 1),
    (8.0, "late blow-up", 99),
    (math.inf, "non-finite", 17),
]


def test_the_store_keeps_class_and_step_and_show_and_export_give_them(tmp_path, capsys):
    url = stored(tmp_path, KINDS)
    with Store(url) as store:
        table = store.table("x")
    assert (
        table["divergence"].tolist()[4:] == [kind for _, kind, _ in KINDS[4:]] and table["divergence"][:4].isna().all()
    )
    assert table["divergence_step"].dtype == "Int64" and table["divergence_step"].tolist()[4:] == [44, 1, 99, 17]
    assert table["diverged_at"].count() == 1 and np.isinf(table["test_error"]).sum() == 1
    export(table, "csv", tmp_path / "t.csv")
    assert pd.read_csv(tmp_path / "t.csv")["divergence"].tolist()[4:] == table["divergence"].tolist()[4:]
    export(table, "json", tmp_path / "t.json")
    rows = json.loads((tmp_path / "t.json").read_text("utf-8"))
    assert (rows[0]["divergence"], rows[6]["divergence"], rows[6]["divergence_step"]) == (None, "late blow-up", 99)
    export(table, "parquet", tmp_path / "t.parquet")
    assert pd.read_parquet(tmp_path / "t.parquet")["divergence_step"].tolist()[4:] == [44, 1, 99, 17]
    show("x", url)
    assert "1 cell blew up late, at step 99; a larger ε or a smaller learning rate may help" in capsys.readouterr().out
    show("x", url, as_json=True)
    (panel,) = json.loads(capsys.readouterr().out)["panels"]
    assert panel["divergences"]["spike"] == {"cells": 1, "first_step": 44} and panel["diverged"] == 1


def test_a_database_from_before_there_were_classes_reads_with_empty_columns(tmp_path, capsys):
    url = stored(tmp_path, KINDS)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        gone = connection.execute(sa.text("DELETE FROM trial_user_attributes WHERE key LIKE 'divergence%'"))
    engine.dispose()
    assert gone.rowcount == 16
    with Store(url) as store:
        table = store.table("x")
    assert table["divergence"].isna().all() and table["divergence_step"].isna().all()
    assert table["diverged_at"].tolist()[7] == 17 and np.isinf(table["test_error"][7])
    show("x", url, as_json=True)
    (panel,) = json.loads(capsys.readouterr().out)["panels"]
    assert panel["divergence"] is None and panel["divergences"] == {}
