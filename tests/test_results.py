"""The results of a stored study, from Python."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

import wdgrid
import wdgrid.results
from helpers.stored import make_store
from helpers.sweeping import STUDY, swept
from helpers.synthetic_tables import error_of, make_study
from wdgrid.optim.conversion import convert
from wdgrid.store import Store


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stored(tmp_path):
    study = make_study()
    panels = study.panel_names()

    def error(cell):
        panel = panels[cell.panel]
        lr = cell.hyperparameters["lr"] / study.unit(panel, "lr")
        return error_of(panel.optimizer, lr, cell.hyperparameters["weight_decay"] / study.unit(panel, "weight_decay"))

    make_store(tmp_path, "synthetic", study, error)
    return wdgrid.load("synthetic")


def test_results_are_what_is_stored(stored, tmp_path):
    table, curves = stored.table(), stored.curves()
    assert len(table) == sum(map(len, stored.study.cells().values())) and len(curves) == 2 * len(table)
    assert {name: one.verdict for name, one in stored.analysis().items()}.keys() == stored.study.panel_names().keys()
    best = stored.best()
    assert best.error == table["test_error"].min() == stored.best(best.panel).error
    row = table.loc[table["test_error"].idxmin()]
    assert (best.panel, best.hyperparameters["lr"]) == (row["panel"], row["lr"])
    figure = stored.figure()
    assert isinstance(figure, Figure) and sum(ax.get_title() != "" for ax in figure.axes) >= 4
    files = stored.report(tmp_path / "out")
    names = ["heatmaps.pdf", "heatmaps.png", "heatmaps.svg", "report.html", "trials.csv"]
    assert sorted(p.name for p in files) == names
    assert all(p.is_file() for p in files)
    shown = stored._repr_html_()
    assert "data:image/png;base64," in shown and f"{len(table)} of {len(table)} cells are finished" in shown
    for one in stored.analysis().values():
        assert one.verdict.replace("'", "&#x27;") in shown


def test_a_figures_colours_end_at_the_cap_of_the_analysis(tmp_path):
    """Two classes, so that guessing is wrong in half of the cases: 1.75 times the best error is never reached."""
    url = make_store(tmp_path, "two", make_study(), lambda cell: 30 + 20 * cell.hyperparameters["lr"])
    with Store(url) as store:
        store.set_attrs("two", {"environment": {"classes": 2}})
    two = wdgrid.load("two")
    caps = {one.cap for one in two.analysis().values()}
    meshes = [m for ax in two.figure().axes if ax.get_title() for m in ax.collections if isinstance(m, QuadMesh)]
    assert {mesh.get_clim()[1] for mesh in meshes} == caps == {50}


@pytest.mark.parametrize("panel", ["sgd", "adam", "adamw"])
def test_the_best_cell_is_ready_for_torch(stored, panel):
    best = stored.best(panel)
    same = best.torch()
    weights = torch.nn.Parameter(torch.zeros(3))
    optimizer = getattr(torch.optim, same.name)([weights], **same.arguments)
    given = best.hyperparameters
    assert optimizer.defaults["lr"] == pytest.approx(given["lr"])
    wanted = convert(given["lr"], given["weight_decay"], panel, "torch").value
    assert optimizer.defaults["weight_decay"] == pytest.approx(wanted)
    assert wanted == pytest.approx(given["weight_decay"] / (given["lr"] if panel == "adamw" else 1))


def test_a_normalized_decay_is_the_real_one_in_the_best_cell():
    study = {**STUDY, "decay": "normalized", "panels": [{"optimizer": "adamw", "lr_unit": 0.1}]}
    best = swept(study).best()
    row = wdgrid.load("s").table().sort_values("test_error").iloc[0]
    factor = np.sqrt(20 / (60 * 3))  # √(b/(B T))
    assert best.hyperparameters["weight_decay"] in [pytest.approx(value * factor) for value in (0.0, 0.01)]
    assert best.error <= row["test_error"] + 100 * 0.5
    restarts = {"kind": "restarts", "period": 1, "multiplier": 2}
    study = {**study, "panels": [{"optimizer": "adamw", "lr_unit": 0.1, "schedule": restarts}]}
    assert "first restart period" in swept(study, name="r").best().torch().warning


def test_what_is_not_there_is_told():
    with pytest.raises(wdgrid.UsageError):
        wdgrid.load("nothing")
    results = swept()
    with pytest.raises(wdgrid.UsageError, match="no panel adam; there: sgdw"):
        results.best("adam")
    with pytest.raises(wdgrid.UsageError, match="other: no such study in this storage; there: s"):
        wdgrid.load("other", storage="s.db")
    make_store(Path(), "empty", make_study(), lambda cell: 1.0, at_most=0)
    with pytest.raises(wdgrid.UsageError, match="no cell is finished"):
        wdgrid.load("empty").best()
