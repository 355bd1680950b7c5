"""The coarse pass of a search: what it trains, what it leaves to be trained in full, and what is told of it."""

import html
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.searching import STUDY, begin, searched, share, surface
from helpers.stored import fill
from helpers.synthetic_tables import make_study, make_table
from wdgrid.errors import UsersFaultError
from wdgrid.optim.schedule import normalization
from wdgrid.report import analyse_table, write_report
from wdgrid.report.captions import panel_title, search_words
from wdgrid.report.figures import heatmaps, save_heatmaps
from wdgrid.runner.naming import stored
from wdgrid.runner.reconcile import plan
from wdgrid.runner.rounds import time_share
from wdgrid.runner.search import coarse_pass
from wdgrid.store import Store
from wdgrid.study import Study, load_study
from wdgrid.study.coarse import coarse_name, coarse_study, full_places

ROOT = Path(__file__).parents[2]
DIGITS = load_study(next(ROOT.glob("**/studies/digits.toml")))


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path}/s.db") as opened:
        yield opened


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


# What is told of it


def test_a_coarse_pass_is_found_beside_its_study():
    assert stored("digits@coarse", None) == ("digits@coarse", stored("digits", None)[1])


@pytest.mark.slow
def test_the_report_tells_what_was_trained_and_what_it_cannot_tell(store, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "wdgrid.report.figures.save_heatmaps",
        lambda figure, *rest: titles.append([ax.get_title() for ax in figure.axes]) or save_heatmaps(figure, *rest),
    )
    begin(store, STUDY)
    searched(store, STUDY)
    small = coarse_study(STUDY)
    tables = store.table("s"), store.table(coarse_name("s"))
    words = search_words(STUDY, tables[0], small, tables[1])
    trained = int((tables[0]["state"] == "complete").sum())
    assert f"{len(tables[1])} cells at 2 epochs" in words
    assert f"{trained} of {len(tables[0])} cells were trained in full" in words
    assert f"{100 * share(store, STUDY):.1f} % of the whole grid's cells × epochs" in words
    written = write_report(STUDY, "s", tables[0], store.curves("s"), {}, tmp_path / "r", coarse=(small, tables[1]))
    assert titles[0] == titles[1] and titles[0][:2] == ["SGD", "AdamW"]
    names = {path.name for path in written.paths}
    assert names == {p.name for p in (tmp_path / "r").iterdir()} and {"coarse.png", "coarse.svg"} < names
    page = html.unescape((tmp_path / "r/report.html").read_text(encoding="utf-8"))
    assert "<h2>The coarse pass</h2>" in page and words in page
    assert all(found.verdict == "can't tell" and found.slope is None for found in written.numbers.values())
    fill(store, "s", STUDY, surface(STUDY))
    words = search_words(STUDY, store.table("s"), small, tables[1])
    assert f"All {len(tables[0])} cells were then trained in full" in words


def test_panels_of_a_coarse_pass_are_headed_as_in_the_whole_study():
    panels = [*STUDY.panels, {"optimizer": "adam", "name": "mine"}]
    study = make_study(panels=panels, axes=STUDY.axes)
    figure = heatmaps(coarse_study(study), "s@coarse", make_table(coarse_study(study)), whole=study)
    assert [ax.get_title() for ax in figure.axes[:3]] == ["SGD", "AdamW", "mine"]
    budgets = make_study(panels=[{"optimizer": "sgd", "epochs": 4}, {"optimizer": "sgd", "epochs": 40}])
    small = coarse_study(budgets)
    assert [panel_title(small, name, budgets) for name in small.panel_names()] == ["SGD, 1 epoch", "SGD, 10 epochs"]


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
