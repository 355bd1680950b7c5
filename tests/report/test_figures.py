import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.patches import Ellipse, Rectangle

from helpers.synthetic_tables import make_study, make_table
from wdgrid.analysis.surface import lowest
from wdgrid.report.captions import panel_title
from wdgrid.report.figures import DIVERGED, heatmaps, save_heatmaps
from wdgrid.report.grids import error_range, grids

STUDY = make_study()
TABLE = make_table(STUDY)


@pytest.fixture(scope="module")
def figure():
    return heatmaps(STUDY, "synthetic", TABLE)


def panels_of(figure):
    return [ax for ax in figure.axes if ax.get_title()]


def meshes(ax):
    return [c for c in ax.collections if isinstance(c, QuadMesh)]


def value_at(frame, panel, row, col):
    return frame.set_index(["panel", "row", "col"]).loc[(panel, row, col), "test_error"]


def test_four_panels_two_by_two_with_titles_and_axes_as_in_the_paper(figure):
    axes = panels_of(figure)
    assert [ax.get_title() for ax in axes] == ["SGD", "SGDW", "Adam", "AdamW"]
    assert axes[0].get_subplotspec().get_geometry()[:2] == (2, 2)
    assert [t.get_text() for t in axes[0].get_xticklabels()] == ["0", "1/8", "1/4", "1/2", "1", "2", "4"]
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["1", "1/2", "1/4", "1/8", "1/16"]
    assert axes[0].get_ylim() == (5, 0)  # the first row, the largest rate, is drawn at the top
    assert np.allclose(np.diff(axes[0].get_xticks()), 1) and np.allclose(np.diff(axes[0].get_yticks()), 1)
    assert [ax.get_ylabel() for ax in axes] == [f"Initial learning rate (× {u})" for u in ("1", "1", "0.1", "0.1")]
    words = ["L2 regularization factor", "Weight decay"] * 2
    assert [ax.get_xlabel() for ax in axes] == [f"{w} (× 0.016)" for w in words]
    assert figure.get_suptitle() == "A synthetic study"


def test_mesh_holds_every_finite_error_and_nothing_else(figure):
    for ax, panel in zip(panels_of(figure), STUDY.panel_names(), strict=True):
        drawn = np.ma.asarray(meshes(ax)[0].get_array()).reshape(5, 7)
        for i, row in enumerate(["1", "1/2", "1/4", "1/8", "1/16"]):
            for j, col in enumerate(["0", "1/8", "1/4", "1/2", "1", "2", "4"]):
                error = value_at(TABLE, panel, row, col)
                assert drawn.mask[i, j] == (not np.isfinite(error))
                assert drawn.mask[i, j] or drawn[i, j] == pytest.approx(error)


def test_diverged_cells_have_a_colour_and_a_cross_of_their_own_missing_ones_a_hatch(figure):
    for ax in panels_of(figure):
        (crosses,) = [line for line in ax.lines if line.get_label() == "diverged"]
        assert {tuple(p) for p in crosses.get_xydata()} == {(5.5, 0.5), (6.5, 0.5), (5.5, 1.5), (6.5, 1.5)}
        grey = next(m for m in meshes(ax) if m.get_label() == "diverged")
        assert np.ma.asarray(grey.get_array()).reshape(5, 7).count() == 4
        assert to_hex(grey.cmap(0.0)) == DIVERGED
        hatched = [p for p in ax.patches if isinstance(p, Rectangle)]
        assert [p.get_xy() for p in hatched] == [(0, 0)] and hatched[0].get_hatch()
    (legend,) = figure.legends
    words = [t.get_text() for t in legend.get_texts()]
    assert words == ["the 10 best cells of each panel", "× diverged", "not trained yet"]


def test_circles_stand_on_the_ten_best(figure):
    for ax, panel in zip(panels_of(figure), STUDY.panel_names(), strict=True):
        here = TABLE[(TABLE["panel"] == panel) & np.isfinite(TABLE["test_error"])]
        best = here.nsmallest(10, "test_error")
        rows, cols = ["1", "1/2", "1/4", "1/8", "1/16"], ["0", "1/8", "1/4", "1/2", "1", "2", "4"]
        wanted = {(cols.index(c) + 0.5, rows.index(r) + 0.5) for r, c in zip(best["row"], best["col"], strict=True)}
        circles = [p for p in ax.patches if isinstance(p, Ellipse)]
        assert {tuple(map(float, p.get_center())) for p in circles} == wanted and len(circles) == 10


def test_one_colour_scale_from_the_best_error_to_the_cap(figure):
    best = TABLE.loc[np.isfinite(TABLE["test_error"]), "test_error"].min()
    limits = {meshes(ax)[0].get_clim() for ax in panels_of(figure)}
    assert len(limits) == 1 and limits.pop() == pytest.approx((best, best + 3))
    bars = [ax for ax in figure.axes if ax.get_ylabel() == "Test error (%)"]
    assert len(bars) == 1 and bars[0].get_ylim() == pytest.approx((best, best + 3))


def test_range_is_the_studys_own_or_capped_at_chance():
    own = make_study(report={"error_range": [3, 7], "top_k": 0})
    figure = heatmaps(own, "s", TABLE)
    assert {meshes(ax)[0].get_clim() for ax in panels_of(figure)} == {(3, 7)}
    assert not [p for ax in panels_of(figure) for p in ax.patches if isinstance(p, Ellipse)]
    for shift, wanted in ((10, (12, 21)), (60, (62, 90)), (95, (0, 100))):
        table = TABLE.assign(test_error=np.where(np.isinf(TABLE["test_error"]), np.inf, 2.0 + shift))
        assert error_range(STUDY, grids(STUDY, table)) == pytest.approx(wanted)
    assert error_range(STUDY, grids(STUDY, TABLE.iloc[:0])) == (0, 100)


def test_mean_over_seeds_and_a_cell_counts_as_diverged_if_any_seed_did():
    study = make_study(seeds=[3, 5])
    table = make_table(study, diverged=False, missing=False)
    at = (table["panel"] == "sgd") & (table["row"] == "1") & (table["col"] == "0")
    table.loc[at, "test_error"] = [3.0, 5.0]
    table.loc[at.shift(1, fill_value=False) & (table["seed"] == 5), "test_error"] = np.inf
    grid = grids(study, table)[0]
    assert grid.error[0, 0] == 4.0 and grid.spread[0, 0] == pytest.approx(np.sqrt(2)) and grid.seeds_done[0, 0] == 2
    assert grid.diverged[0, 1] and grid.seeds_diverged[0, 1] == 1 and np.isposinf(grid.error[0, 1])
    assert (0, 1) not in grid.best
    text = [t.get_text() for t in heatmaps(study, "s", table).legends[0].get_texts()]
    assert "× diverged with at least one seed" in text


def test_caption_states_decay_forms_n_seeds_epochs_device():
    study = make_study(panels=[{"optimizer": o} for o in ("adam", "adamw", "adamw-torch")], seeds=[0, 1, 2])
    figure = heatmaps(study, "mine", make_table(study), device="cpu")
    (caption,) = [t.get_text().replace("\n", " ") for t in figure.texts if t.get_label() == "caption"]
    wanted = "Adam – L2: gradient + λ θ;|AdamW – decoupled: θ − η_t λ θ|AdamW (torch) – decoupled as in PyTorch: θ − "
    wanted += "η_t α λ θ|mine: 105 cells|12 diverged|mean of 3 seeds|3 epochs|cosine|digits|device cpu"
    for words in wanted.split("|"):
        assert words in caption, words


def test_normalized_decay_is_said():
    study = make_study(decay="normalized")
    figure = heatmaps(study, "s", make_table(study))
    assert panels_of(figure)[1].get_xlabel() == "Weight decay, normalized (× 0.016)"
    assert any("λ = λ_norm √(b / (B T))" in t.get_text() for t in figure.texts)


def test_one_panel_may_be_normalized_among_raw_ones():
    panels = [{"optimizer": "adamw", "lr_unit": 0.1, "name": "raw"}]
    panels += [{**panels[0], "name": "normalized", "decay": "normalized", "weight_decay_unit": 0.2}]
    study = make_study(panels=panels)
    figure = heatmaps(study, "s", make_table(study))
    labels = [ax.get_xlabel() for ax in panels_of(figure)]
    assert labels == ["Weight decay (× 0.016)", "Weight decay, normalized (× 0.2)"]
    assert any("normalized where the axis says so" in t.get_text() for t in figure.texts)


def test_other_axes_have_proper_titles():
    axes = {"eps": {"values": "1..1/8", "unit": 0.1}, "beta2": {"values": ["0.9", "0.99"]}}
    study = make_study(axes=axes, panels=[{"optimizer": "adamw", "lr": 0.001, "weight_decay": 0}])
    (ax,) = panels_of(heatmaps(study, "s", make_table(study)))
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("ε of Adam (× 0.1)", "β2 of Adam")


def test_paper_style_interpolates_finite_cells_and_draws_diverged_ones_whole():
    figure = heatmaps(STUDY, "s", TABLE, style="paper")
    for ax in panels_of(figure):
        (image,) = ax.images
        assert image.get_cmap().name == "jet" and image.get_interpolation() == "bilinear"
        shading = np.asarray(image.get_array())
        assert np.isfinite(shading).all()
        assert shading[0, 5] == shading[0, 4]  # under a diverged cell lies its neighbour's value: nothing blends
        over = next(m for m in meshes(ax) if m.get_label() == "diverged")
        assert over.cmap(0.0) == image.get_cmap()(1.0) and np.ma.asarray(over.get_array()).count() == 4
        assert len([p for p in ax.patches if isinstance(p, Ellipse)]) == 10


def test_files_are_deterministic_and_titles_cannot_break_them(tmp_path):
    study = make_study(title="$broken_{math <b> & \u6743\u91cd " + "long " * 40, panels=[{"optimizer": "sgd"}])
    table = make_table(study)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        once, twice = (save_heatmaps(heatmaps(study, "s", table), tmp_path / d) for d in ("a", "b"))
    assert [p.name for p in once] == ["heatmaps.png", "heatmaps.svg", "heatmaps.pdf"]
    assert [p.read_bytes() for p in once] == [p.read_bytes() for p in twice]


@pytest.mark.parametrize("errors", [np.nan, np.inf])
@pytest.mark.parametrize("style", ["cells", "paper"])
def test_nothing_trained_or_all_diverged_is_still_a_figure(style, errors):
    study = make_study(panels=[{"optimizer": "sgd"}])
    figure = heatmaps(study, "s", TABLE.assign(state="complete", test_error=errors), style=style)
    figure.draw_without_rendering()
    assert (len(panels_of(figure)[0].lines[0].get_xydata()) == 35) == np.isinf(errors)


def test_an_empty_table_and_a_one_by_one_grid(tmp_path):
    heatmaps(STUDY, "s", TABLE.iloc[:0])
    one = make_study(axes={"lr": {"values": "1"}, "weight_decay": {"values": "0"}})
    save_heatmaps(heatmaps(one, "s", make_table(one, missing=False)), tmp_path)


def test_six_panels_name_what_differs():
    kinds = [{"optimizer": o, "schedule": s} for o in ("adam", "adamw") for s in ("constant", "step", "cosine")]
    study = make_study(panels=kinds)
    assert panel_title(study, "adam-step") == "Adam, step"
    axes = panels_of(heatmaps(study, "s", make_table(study)))
    assert axes[0].get_subplotspec().get_geometry()[:2] == (2, 3)
    budgets = make_study(panels=[{"optimizer": "adamw", "epochs": e} for e in (1, 2)])
    assert [panel_title(budgets, n) for n in budgets.panel_names()] == ["AdamW, 1 epoch", "AdamW, 2 epochs"]


def test_large_grids_label_some_ticks_and_never_drop_zero():
    study = make_study(
        axes={"lr": {"values": "1..1/2199023255552"}, "weight_decay": {"values": "0, 1/1048576..1048576"}}
    )
    ax = panels_of(heatmaps(study, "s", make_table(study)))[0]
    labels = [t.get_text() for t in ax.get_xticklabels()]
    assert labels[0] == "0" and len(labels) <= 16 and len(ax.get_yticklabels()) <= 16


def test_ties_are_circled_in_reading_order():
    assert lowest(np.array([[2.0, 1.0], [np.inf, 1.0]]), 10) == [(0, 1), (1, 1), (0, 0)]
    assert lowest(pd.DataFrame([[np.nan, np.inf]]).to_numpy(), 3) == []
