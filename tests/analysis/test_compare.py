"""`wdgrid compare`: the numbers, the pairing, the picture, the command."""

import json

import numpy as np
import pytest

from helpers.stored import make_store
from helpers.synthetic_tables import error_of, make_study, make_table
from wdgrid.analysis.compare import Side, common, compare, pairs
from wdgrid.analysis.selection import Certainty
from wdgrid.analysis.separability import analyse
from wdgrid.analysis.surface import Surface, paper_surfaces, surfaces
from wdgrid.cli import main
from wdgrid.report.comparison import comparison_lines, comparison_rows, draw_comparison


def sides(frame, name="s", row="lr", column="weight_decay"):
    shown = surfaces(frame, row, column)
    numbers = analyse(shown, draws=0)
    return {key: Side(f"{name}/{key}", key, key, "cosine", s.as_printed(), numbers[key]) for key, s in shown.items()}


@pytest.fixture(scope="module")
def paper():
    shown = paper_surfaces(figure=2)
    numbers = analyse(shown, draws=0, test_images=10_000)
    return {k: Side(k, k, k.lower(), "cosine", s.as_printed(), numbers[k]) for k, s in shown.items()}


def test_the_papers_own_panels(paper):
    found = compare(paper["Adam"], paper["AdamW"])
    assert found.difference == pytest.approx(-1.04, abs=0.02) and found.relative == pytest.approx(-20.6, abs=0.3)
    low, high = found.difference_interval
    assert low < found.difference < high < 0
    assert found.relative_interval[0] < found.relative < found.relative_interval[1] < 0
    assert found.interval_kinds == ("binomial", "binomial")
    assert found.common_cells == 121 and found.circles == (10, 10)
    assert any("binomial over 10000 test images (one seed)" in line for line in comparison_lines(found))


def test_a_panel_against_itself_is_the_same(paper):
    found = compare(paper["SGD"], paper["SGD"])
    assert found.difference == 0 and found.relative == 0
    assert found.difference_interval[0] < 0 < found.difference_interval[1]
    assert found.rank_correlation == pytest.approx(1) and found.circles_shared == 10
    assert compare(paper["SGD"], paper["SGD"]) == found  # the same intervals again


@pytest.mark.parametrize("n", [1, 10, 897])
def test_the_interval_of_one_seed_holds_its_error(n):
    for wrong in {0, 1, n // 2, n}:
        found = Certainty("binomial", 100 * wrong / n, 0.0, n)
        low, high = found.interval
        assert low <= found.mean <= high and (low == 0, high == 100) == (wrong == 0, wrong == n)


def noisy(seeds, shift, rng):
    """A bowl of 9 × 9 cells, the best error 2 + shift: noise between seeds or, with one seed, of 5000 test images."""
    i, j = np.meshgrid(np.arange(9), np.arange(9), indexing="ij")
    truth = (2 + shift + 0.08 * ((i - 4) ** 2 + (j - 4) ** 2))[..., None]
    errors = truth + 0.1 * rng.normal(size=(9, 9, seeds)) if seeds > 1 else rng.binomial(5000, truth / 100) / 50
    return side(errors, 5000)


def side(errors, test_images=None, tested=None):
    values, labels = 2.0 ** np.arange(len(errors)), tuple(str(2**k) for k in range(len(errors)))
    surface = Surface("p", "lr", "weight_decay", values, values, labels, labels, errors, test_errors=tested)
    found = analyse({"p": surface}, draws=0, test_images=test_images)["p"]
    return Side("s/p", "p", "adamw", "cosine", surface.as_printed(), found)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_covers_the_true_difference(seeds):
    rng = np.random.default_rng(seeds)
    covered, kinds = 0, set()
    for _ in range(20):
        found = compare(noisy(seeds, 0.0, rng), noisy(seeds, -0.3, rng), draws=1000)
        covered += found.difference_interval[0] <= -0.3 <= found.difference_interval[1]
        kinds |= set(found.interval_kinds)
    assert covered >= 16
    assert kinds == {"binomial" if seeds == 1 else "seeds"}


@pytest.mark.parametrize(
    "seeds", [1, pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(10, marks=pytest.mark.slow)]
)
def test_the_best_errors_own_interval_covers_it_where_others_picked_it(seeds):
    rng = np.random.default_rng(10 + seeds)
    covered = 0
    for _ in range(400):
        errors = np.full((3, 3, seeds), 5.0)
        errors[1, 1] = 4.0  # on validation
        tested = 8 + 0.4 * rng.normal(size=errors.shape) if seeds > 1 else rng.binomial(900, 0.08, errors.shape) / 9
        found = side(errors, 900, tested).found
        assert found.best_test_error == pytest.approx(tested[1, 1].mean()) and found.best_error == 4.0
        assert found.certainty.kind == ("binomial" if seeds == 1 else "seeds")
        covered += found.test_interval[0] <= 8 <= found.test_interval[1]
    assert 0.86 * 400 <= covered <= 0.94 * 400


def test_the_differences_interval_is_that_of_the_side_that_has_one():
    sharp = side(np.full((3, 3, 2), 4.0))  # two seeds that agree: no doubt at all
    blurred = noisy(3, 0.0, np.random.default_rng(0))
    assert sharp.found.test_interval == (4.0, 4.0)
    low, high = compare(blurred, sharp, draws=100_000).difference_interval
    assert (4.0 - high, 4.0 - low) == pytest.approx(blurred.found.test_interval, abs=0.01)
    unknown = side(np.full((3, 3, 1), 4.0))
    found = compare(unknown, blurred)
    assert found.difference_interval is None and unknown.found.test_interval is None
    assert "the number of test images is unknown" in "\n".join(comparison_lines(found))


def test_diverged_cells_rank_last_and_missing_ones_are_left_out():
    found = sides(make_table(make_study()))
    one = compare(found["sgd"], found["adam"])
    assert one.common_cells == 34  # 35 without the first, which waits in both
    assert one.rank_correlation == pytest.approx(1)
    assert -1 <= compare(found["sgd"], found["sgdw"]).rank_correlation < 1


def test_no_common_cells_is_said():
    a = sides(make_table(make_study()))["sgd"]
    other = make_study(
        axes={"lr": {"values": "1/1024..1/4096"}, "weight_decay": {"values": "0, 1/8..4", "unit": 0.016}}
    )
    b = sides(make_table(other))["sgd"]
    assert common(a, b) is None
    found = compare(a, b)
    assert found.rank_correlation is None and found.common_cells == 0 and found.difference is not None
    text = "\n".join(comparison_lines(found))
    assert "rank correlation    –: no common cells" in text and "circles             –: no common cells" in text
    figure = draw_comparison([(a, b)], [found])
    assert "no common cells" in [t.get_text() for ax in figure.axes for t in ax.texts]


def test_swapped_axes_are_turned():
    study = make_study()
    swapped = make_study(axes=dict(reversed(study.model_dump(mode="json")["axes"].items())))
    a, b = sides(make_table(study))["sgdw"], sides(make_table(swapped), row="weight_decay", column="lr")["sgdw"]
    found = compare(a, b)
    assert found.difference == 0 and found.rank_correlation == pytest.approx(1) and found.circles_shared == 10


def test_all_diverged_or_nothing_trained_is_no_crash():
    frame = make_table(make_study())
    whole = sides(frame)["sgd"]
    for value, state in ((np.inf, "complete"), (np.nan, "waiting")):
        broken = frame.assign(test_error=value, state=state)
        one = compare(whole, sides(broken)["sgd"])
        assert one.difference is None and "no finite error" in "\n".join(comparison_lines(one))
        draw_comparison([(whole, sides(broken)["sgd"])], [one])
        json.dumps(comparison_rows([one]), allow_nan=False)


def test_panels_are_matched_by_name_then_by_variant(paper):
    mine = sides(make_table(make_study()))
    matched = [(a.panel, b.panel) for a, b in pairs(mine, paper)]
    assert matched == [("sgd", "SGD"), ("sgdw", "SGDW"), ("adam", "Adam"), ("adamw", "AdamW")]
    assert [(a.panel, b.panel) for a, b in pairs({"sgd": mine["sgd"]}, {"adamw": mine["adamw"]})] == [("sgd", "adamw")]
    assert pairs({"sgd": mine["sgd"]}, {k: paper[k] for k in ("Adam", "AdamW")}) == []


def test_the_picture_has_one_scale_and_a_difference_centred_on_nothing():
    found = sides(make_table(make_study()))
    pair = (found["sgd"], found["sgdw"])
    figure = draw_comparison([pair], [compare(*pair)])
    left, right, difference = figure.axes[:3]
    assert left.collections[0].get_clim() == right.collections[0].get_clim()
    low, high = difference.collections[0].get_clim()
    assert low == -high < 0
    values = difference.collections[0].get_array().reshape(5, 7)
    row, col = 4, 6  # rate 1/16, decay 4
    expected = error_of("sgdw", 1 / 16, 4) - error_of("sgd", 1 / 16, 4)
    assert values[row, col] == pytest.approx(expected)
    assert {t.get_text() for t in difference.texts} == {"×"}
    assert [ax.get_title() for ax in (left, right)] == ["A: s/sgd", "B: s/sgdw"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two filled stores."""
    monkeypatch.chdir(tmp_path)
    units = {"sgd": 1.0, "sgdw": 1.0, "adam": 0.1, "adamw": 0.1}

    def error(cell):
        lr, decay = cell.hyperparameters["lr"] / units[cell.panel], cell.hyperparameters["weight_decay"] / 0.016
        return np.inf if lr > 0.5 and decay > 1 else error_of(cell.panel, lr, decay)

    panels = [{"optimizer": "sgd", "lr_unit": 1.0}, {"optimizer": "adamw", "lr_unit": 0.1}]
    make_store(tmp_path, "one", make_study(panels=panels), error)
    make_store(
        tmp_path, "two", make_study(panels=panels, seeds=(0, 1)), lambda cell: error(cell) * (0.85 + 0.01 * cell.seed)
    )
    return tmp_path


def test_the_command(here, capsys):
    assert main(["compare", "one", "studies/two.toml", "--json", "--out", "pictures"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert [(p["a"], p["b"]) for p in told["pairs"]] == [(f"one/{n}", f"two/{n}") for n in ("sgd", "adamw")]
    assert told["pairs"][0]["relative"] == pytest.approx(-14.5, abs=0.1)
    assert told["pairs"][0]["interval_kinds"] == ["fit", "fit"]
    assert told["figure"] == "pictures/compare-one-vs-two/compare.png" and told["figure"] in err
    assert (here / told["figure"]).read_bytes()[:4] == b"\x89PNG"
    assert [p.name for p in (here / "pictures/compare-one-vs-two").iterdir()] == ["compare.png"]
    assert main(["compare", "one/adamw", "paper:figure2/adamw", "-q"]) == 0
    out, err = capsys.readouterr()
    assert "B: paper:figure2/AdamW" in out and "relative" in out and err == ""
    assert (here / "reports/compare-one-adamw-vs-paper-figure2-adamw/compare.png").exists()
    assert main(["compare", "one/sgd", "one/adamw", "-q", "--storage", f"sqlite:///{here}/studies/one.db"]) == 0


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ("nothing", "one", "no studies/nothing.db"),
        ("one/lion", "one", "no panel lion; there: sgd, adamw"),
        ("paper:figure3", "one", "paper:figure1 and paper:figure2"),
        ("one/sgd", "paper:figure1", "no panel of one/sgd matches one of paper:figure1"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(here, capsys, a, b, says):
    assert main(["compare", a, b]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and err.count("\n") == 1
