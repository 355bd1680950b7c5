"""What is said of a surface: the verdict and its sentence, why there is none, the best axes, the boundary alarm."""

import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.known_surfaces import DECAY, LR, alone, bowl, labelled, surface
from wdgrid.analysis.best_axes import best_axes
from wdgrid.analysis.separability import LIMITS, analyse
from wdgrid.analysis.surface import Surface, paper_surfaces
from wdgrid.analysis.verdict import judge


def test_the_papers_verdicts_and_their_sentences():
    results = analyse(paper_surfaces(figure=2))
    assert {name: result.verdict for name, result in results.items()} == {
        "SGD": "coupled",
        "SGDW": "separable",
        "Adam": "coupled",
        "AdamW": "separable",
    }
    assert "halve the rate, double the decay" in results["SGD"].sentence
    assert "tune each alone: costs 0.03 points" in results["SGDW"].sentence
    assert {result.interval_kind for result in results.values()} == {"residual"}
    constant = analyse(paper_surfaces(figure=1))["AdamW fixed"]
    assert constant.verdict == "can't tell"
    assert "three values of rate" in constant.sentence


WHOLE = bowl(0)
EMPTY = np.full((11, 11), np.nan)


@pytest.mark.parametrize(
    ("errors", "rows", "cols", "why"),
    [
        (EMPTY, LR, DECAY, "no cell is finished"),
        (np.full((11, 11), np.inf), LR, DECAY, "every finished cell diverged"),
        (np.where(WHOLE > 5, np.nan, np.inf), LR, DECAY, "every finished cell diverged"),
        (WHOLE[:1], LR[:1], DECAY, "a single rate"),
        (WHOLE[:, :1], LR, DECAY[:1], "a single decay"),
        (np.where(np.arange(11) < 4, WHOLE, np.nan), LR, DECAY, "77 of 121 cells are missing"),
        (WHOLE * 0 + 12, LR, DECAY, "every cell has the same error"),
        (WHOLE * 0 + 90, LR, DECAY, "nothing learns well enough"),
        (WHOLE[:2], LR[:2], DECAY, "three values of rate"),
        (WHOLE[:, :1] + np.zeros(2), LR, np.array([0.0, 1e-3]), "positive values of decay"),
        (WHOLE[3:6, 4:7], LR[3:6], DECAY[4:7], "add seeds"),
        (np.zeros((0, 0)), LR[:0], DECAY[:0], "no cell is finished"),
    ],
)
def test_no_number_without_a_ground(errors, rows, cols, why):
    result = alone(errors, rows=rows, cols=cols)
    assert result.verdict == "can't tell"
    assert result.sentence.startswith("can't tell: ") and why in result.sentence
    assert all(getattr(result, name) is None or np.isfinite(getattr(result, name)) for name in LIMITS)


@pytest.mark.parametrize("slope", [0, -1])
def test_a_surface_near_chance_is_no_ground_for_a_verdict(slope):
    near = np.minimum(bowl(slope) + 79, 90)[..., None] + 0.1 * np.random.default_rng(0).standard_normal((11, 11, 3))
    found = alone(near)
    assert 82.5 < found.best_error < 83.5 and found.cap == 90
    assert found.verdict == "can't tell" and found.kappa is None
    assert (
        "nothing learns well enough" in found.sentence
        and "guessing on 90 %; a verdict needs 72 % or less" in found.sentence
    )
    assert alone(near, chance=99.9).verdict == "can't tell"  # a thousand classes: 17 % right is still too little
    assert alone(near - 5, chance=99.9).verdict != "can't tell"  # 22 % is not
    good = surface(bowl(0))
    assert "nothing learns" in analyse({"good": good, "bad": surface(near, panel="bad")}, bootstrap=0)["bad"].sentence


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_noise_alone_is_no_ground_for_a_verdict(seeds):
    rng = np.random.default_rng(seeds)
    verdicts = Counter()
    for grid in range(60):
        noise = 20 + 2 * rng.standard_normal((11, 11, seeds))
        found = alone(noise, bootstrap=50, rng_seed=grid)
        verdicts[found.verdict] += 1
        if "explains" in found.sentence:
            assert found.interaction is None and ("neighbours" in found.sentence) == (seeds == 1)
    assert verdicts["can't tell"] >= 54  # an F-test at 5 %, and a slope that must be certain on top


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_grid_at_all_gets_an_answer(data):
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3)))
    value = st.sampled_from([np.nan, np.inf, 3.0, 4.0, 5.0, 8.0, 90.0, 100.0])
    errors = np.array(data.draw(st.lists(value, min_size=math.prod(shape), max_size=math.prod(shape)))).reshape(shape)
    result = alone(errors, rows=LR[: shape[0]], cols=DECAY[: shape[1]], bootstrap=20)
    assert result.verdict in ("coupled", "separable", "can't tell")
    assert result.sentence
    assert all(getattr(result, name) is None or np.isfinite(getattr(result, name)) for name in LIMITS)


def test_a_cap_given_by_hand_below_the_best_error_is_no_crash():
    assert "is not below the cap, 2.00 %" in alone(WHOLE, cap=2.0).sentence


def test_axes_other_than_rate_and_decay():
    other = replace(surface(bowl(-1)), row_name="momentum", col_name="eps")
    result = analyse({"p": other})["p"]
    assert "halve the momentum, double ε" in result.sentence
    axes = best_axes(result)
    assert axes is not None and "the product of ε and the momentum" in axes.sentence
    tuned = {"kappa": -2.8, "regret_decay": 1.0}
    verdict, sentence = judge(tuned, {"kappa": (-3.0, -2.6)}, 5, ("lr", "eps"), 10.0)
    assert verdict == "coupled" and sentence.startswith("coupled: halve the rate, multiply ε by 7.0 (")
    assert sentence.endswith("; an ε tuned at a wrong rate costs 1.00 points")
    transposed = Surface(
        "p", "weight_decay", "lr", DECAY, LR, other.col_labels, other.row_labels, bowl(-1).T[..., None]
    )
    swapped = analyse({"p": transposed}, cap=7.0)["p"]
    assert swapped.kappa < -0.5
    assert "halve the decay" in swapped.sentence


def test_best_axes_in_the_libraries_terms():
    product = alone(bowl(-1))
    assert "only the product counts" in best_axes(product, "adam").sentence
    assert "paper's form" in best_axes(product, "adamw-torch").sentence
    ratio = alone(4 + 2 * (bowl(1, a=0.01) - 4), cap=7.0)
    assert "torch" in best_axes(ratio, "adamw").sentence and "divided by" in best_axes(ratio, "adamw").sentence
    assert best_axes(alone(WHOLE[:1], rows=LR[:1]), "adamw") is None


@pytest.mark.parametrize("slope", [0, -0.3])
def test_a_separable_panel_is_told_of_no_other_axes(slope):
    found = alone(bowl(slope), cap=7.0)
    assert found.verdict == "separable" and found.intervals["kappa"][1] < 0.05
    assert best_axes(found, "adamw") is None


def test_the_boundary_alarm_names_the_values_to_add():
    rows, cols = ["1", "1/2", "1/4", "1/8"], ["0", "1/4", "1/2", "1"]

    def alarms(i: int, j: int) -> dict:
        errors = 4 + np.add.outer((np.arange(4) - i) ** 2, (np.arange(4) - j) ** 2) / 5
        result = analyse({"p": labelled(errors, rows, cols)})["p"]
        return {(alarm.axis, alarm.edge): alarm.add for alarm in result.alarms}

    assert alarms(1, 2) == {}
    assert alarms(0, 2) == {("lr", "highest"): ("2", "4")}
    assert alarms(3, 3) == {("lr", "lowest"): ("1/16", "1/32"), ("weight_decay", "highest"): ("2", "4")}
    assert alarms(1, 0) == {("weight_decay", "lowest"): ("1/8", "1/16")}
    assert alarms(1, 1) == {}  # zero lies beyond it
    two = labelled(np.array([[4.0, 6.0], [5.0, 7.0]]), ["1", "1/2"], ["0", "1"])
    assert "at decay 0; try a small positive decay" in analyse({"p": two})["p"].alarms[1].text


def test_the_alarm_goes_on_in_exact_thirds():
    exact = [Fraction(1, 3**k) for k in range(4)]
    rows, cols = ["1", "0.333333", "0.111111", "0.037037"], ["0.037037", "0.111111", "0.333333", "1"]  # as printed
    slope = 4 + np.add.outer(np.arange(4)[::-1], np.arange(4)[::-1]) / 5  # best at the slowest rate, the largest decay
    given_surface = labelled(slope, rows, cols)
    found = analyse({"p": given_surface}, multiples={"lr": exact, "weight_decay": exact[::-1]})["p"]
    assert {alarm.axis: alarm.add for alarm in found.alarms} == {"lr": ("1/81", "1/243"), "weight_decay": ("3", "9")}
    assert "add rate 1/81, 1/243" in found.alarms[0].text
