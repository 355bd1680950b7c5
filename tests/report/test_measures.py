"""Any stored measure as a map: the values in the figure's meshes are those of the table, on either scale of colours."""

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm

from helpers.synthetic_tables import make_curves, make_study, make_table, validated
from wdgrid.errors import UsageError
from wdgrid.report.figures import heatmaps
from wdgrid.report.grids import grids
from wdgrid.report.measures import MEASURES, limits_of, stored_measures
from wdgrid.report.views import View

STUDY = make_study(seeds=[0, 1], panels=[{"optimizer": "sgd"}, {"optimizer": "adamw"}])
TABLE = make_table(STUDY, noise=0.02)
TABLE["weight_norm"] = 3.0 + np.arange(len(TABLE)) / 7
TABLE["seconds"] = 0.5 + np.arange(len(TABLE)) % 11
CURVES = make_curves(TABLE)


def mesh(figure, panel):
    return next(c for c in figure.axes[panel].collections if isinstance(c, QuadMesh))


def cells(panel, values):
    """Means over seeds [R, C] of values by trial; NaN where a seed diverged or none is complete."""
    shown = np.full((5, 7), np.nan)
    rows, cols = ["1", "1/2", "1/4", "1/8", "1/16"], ["0", "1/8", "1/4", "1/2", "1", "2", "4"]
    done = TABLE.assign(value=values)[(TABLE["panel"] == panel) & (TABLE["state"] == "complete")]
    for (row, col), cell in done.groupby(["row", "col"]):
        if np.isfinite(cell["test_error"]).all():
            shown[rows.index(row), cols.index(col)] = cell["value"].mean()
    return shown


def first_epoch_near_the_best(panel):
    best = np.nanmin(cells(panel, TABLE["test_error"]))
    first = []
    for trial in TABLE.to_dict("records"):
        curve = CURVES[(CURVES["panel"] == trial["panel"]) & (CURVES["number"] == trial["number"])]
        near = curve.loc[curve["test_error"] <= 1.1 * best, "epoch"]
        first.append(near.min() if len(near) else np.inf)
    return first


def expected(panel, measure):
    if measure == "gap":
        return cells(panel, TABLE["test_loss"] - TABLE["train_loss"])
    if measure == "epochs_to_best":
        found = cells(panel, first_epoch_near_the_best(panel))
        return np.where(np.isfinite(found), found, np.nan)
    if measure == "spread":
        both = [cells(panel, TABLE["test_error"].where(TABLE["seed"] == seed)) for seed in (0, 1)]
        return np.abs(both[0] - both[1]) / np.sqrt(2)
    return cells(panel, TABLE[measure])


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("measure", [name for name in MEASURES if name != "validation_error"])
def test_the_mesh_holds_the_measures_values(measure, scale):
    figure = heatmaps(STUDY, "s", TABLE, view=View(measure, scale), curves=CURVES)
    for place, panel in enumerate(STUDY.panel_names()):
        shown = np.ma.filled(np.ma.masked_invalid(mesh(figure, place).get_array().reshape(5, 7)), np.nan)
        wanted = expected(panel, measure)
        if measure == "spread":  # of one seed there is none
            wanted[np.isnan(shown)] = np.nan
            assert np.isfinite(shown).sum() > 20
        np.testing.assert_allclose(shown, wanted, rtol=1e-9)
        assert isinstance(mesh(figure, place).norm, LogNorm) == (scale == "log")
    words = figure.axes[-1].get_ylabel().replace("\n", " ").lower()
    assert words == MEASURES[measure].label.lower()


def test_a_few_extreme_cells_do_not_use_up_the_colours():
    values = {"test_loss": np.append(np.linspace(1, 2, 99), 1000.0).reshape(10, 10)}
    low, high = limits_of("test_loss", [values], (0.0, 1.0))
    assert low == 1.0 and 1.9 < high < 2.0
    assert limits_of("test_error", [values], (3.0, 7.0)) == (3.0, 7.0)


def test_measures_that_are_not_stored_are_refused_by_name():
    one = make_study(panels=[{"optimizer": "sgd"}])
    table = make_table(one)
    there = stored_measures(grids(one, table))
    assert "spread" not in there and "epochs_to_best" not in there and there[0] == "test_error"
    for measure in ("spread", "validation_error", "epochs_to_best"):
        with pytest.raises(UsageError, match=f"--measure {measure}: .*there: test_error, test_loss"):
            heatmaps(one, "s", table, view=View(measure))


def test_with_a_split_the_validation_error_comes_first_and_the_test_error_is_another_map():
    study, table = validated()
    (grid, *_) = grids(study, table)
    assert list(grid.measures)[:2] == ["validation_error", "test_error"]
    trained = np.isfinite(grid.error)
    apart = grid.measures["validation_error"][trained] - grid.measures["test_error"][trained]
    assert apart.min() == pytest.approx(0.3)


def test_time_to_the_best_is_never_where_a_seed_does_not_get_there():
    second = TABLE.loc[(TABLE["panel"] == "sgd") & (TABLE["seed"] == 1), "number"]
    slow = (CURVES["panel"] == "sgd") & CURVES["number"].isin(second)
    sgd, adamw = grids(STUDY, TABLE, curves=CURVES.assign(test_error=CURVES["test_error"].where(~slow, 50.0)))
    assert np.isfinite(adamw.measures["epochs_to_best"]).sum() > 1
    assert "epochs_to_best" in adamw.measures and "epochs_to_best" not in sgd.measures  # no cell has both seeds there
    quick = (CURVES["panel"] == "sgd") & CURVES["number"].isin(second[:20])
    sgd, _ = grids(STUDY, TABLE, curves=CURVES.assign(test_error=CURVES["test_error"].where(~slow | quick, 50.0)))
    found, trained = sgd.measures["epochs_to_best"], np.isfinite(sgd.error)
    assert np.isposinf(found[trained]).any() and np.isfinite(found[trained]).any()
