"""What is said of a surface: the verdict and its sentence, why there is none, the best axes, the boundary alarm."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.known_surfaces import DECAY, LR, alone, bowl, labelled, surface
from wdgrid.analysis.best_axes import best_axes
from wdgrid.analysis.draws import LIMITS
from wdgrid.analysis.separability import analyse
from wdgrid.analysis.surface import Surface, paper_surfaces
from wdgrid.analysis.valley import Valley
from wdgrid.analysis.verdict import answer_of, reason_of, sentence_of, verdict_of


def test_the_papers_verdicts_and_their_sentences():
    results = analyse(paper_surfaces(figure=2))
    assert {name: result.verdict for name, result in results.items()} == {
        "SGD": "coupled",
        "SGDW": "separable",
        "Adam": "coupled",
        "AdamW": "separable",
    }
    assert "halve the rate, double the decay" in results["SGD"].sentence
    assert "tune them separately: it costs 0.0" in results["SGDW"].sentence
    constant = analyse(paper_surfaces(figure=1), draws=0)["AdamW fixed"]
    assert constant.verdict == "can't tell"
    assert "the slope is too uncertain" in constant.sentence


LINE = Valley(0.0, (-0.1, 0.1), 20.0, 0.0, 0.0, 0.0, (-1.0, 1.0), (0.0, 0.0), 9)


@pytest.mark.parametrize(
    ("slope", "interval", "evidence", "bend", "verdict"),
    [
        (0.2, (-0.1, 0.49), 3.0, (-1, 1), "separable"),
        (0.2, (-0.1, 0.51), 3.0, (-1, 1), "weakly coupled"),
        (-0.6, (-0.9, -0.26), 3.0, (-1, 1), "coupled"),
        (-0.6, (-0.9, -0.24), 3.0, (-1, 1), "weakly coupled"),
        (-0.6, (-1.2, -0.1), 3.0, (-1, 1), "can't tell"),
        (-0.6, (-0.7, -0.5), 2.9, (-1, 1), "can't tell"),
        (-0.6, (-1.9, 0.5), 3.0, (0.1, 1), "bent"),
    ],
)
def test_verdicts_follow_the_slope_the_evidence_and_the_bend(slope, interval, evidence, bend, verdict):
    line = replace(LINE, slope=slope, interval=interval, evidence=evidence, change_interval=bend)
    assert verdict_of(line) == verdict
    reason = reason_of(verdict, line, ("lr", "weight_decay"))
    sentence = sentence_of(verdict, answer_of(verdict, 0.1, (0.0, 0.2)), reason)
    assert verdict in sentence and sentence.endswith(reason)
    assert ("0.10 points [0.00, 0.20]" in sentence) == (verdict != "can't tell")


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
        (WHOLE * 0 + 90, LR, DECAY, "no cell learns enough"),
        (WHOLE[:2], LR[:2], DECAY, "three values of rate"),
        (WHOLE[:, :1] + np.zeros(2), LR, np.array([0.0, 1e-3]), "positive values of decay"),
        (WHOLE[3:6, 4:6], LR[3:6], DECAY[4:6], "three values of rate"),
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
    assert found.verdict == "can't tell" and found.slope is None
    assert "no cell learns enough" in found.sentence and "guessing 90 %; a verdict needs 72 % or less" in found.sentence
    assert alone(near, chance=99.9).verdict == "can't tell"  # a thousand classes: 17 % right is still too little
    assert alone(near - 5, chance=99.9).verdict != "can't tell"  # 22 % is not
    good = surface(bowl(0))
    beside = analyse({"good": good, "bad": surface(near, panel="bad")}, draws=0)["bad"]
    assert "no cell learns enough" in beside.sentence


@pytest.mark.parametrize("seeds", [1, 3])
def test_noise_alone_is_no_ground_for_a_verdict(seeds):
    rng = np.random.default_rng(seeds)
    for _ in range(3):
        found = alone(20 + 2 * rng.standard_normal((11, 11, seeds)), draws=0)
        assert found.verdict == "can't tell" and "by more than the noise" in found.sentence
        assert found.advice.axis is None and found.advice.seeds == seeds


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_grid_at_all_gets_an_answer(data):
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3)))
    value = st.sampled_from([np.nan, np.inf, 3.0, 4.0, 5.0, 8.0, 90.0, 100.0])
    errors = np.array(data.draw(st.lists(value, min_size=math.prod(shape), max_size=math.prod(shape)))).reshape(shape)
    result = alone(errors, rows=LR[: shape[0]], cols=DECAY[: shape[1]], draws=0)
    assert result.verdict in ("coupled", "weakly coupled", "separable", "bent", "can't tell")
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
    steep = replace(LINE, slope=-2.8, interval=(-3.0, -2.6))
    assert answer_of("coupled", 1.0, (0.5, 2.0)) == (
        "tune them together: one after the other costs 1.00 points [0.50, 2.00]"
    )
    assert reason_of("coupled", steep, ("lr", "eps")).startswith("if you halve the rate, multiply ε by 7.0 (")
    transposed = Surface(
        "p", "weight_decay", "lr", DECAY, LR, other.col_labels, other.row_labels, bowl(-1).T[..., None]
    )
    swapped = analyse({"p": transposed}, cap=7.0)["p"]
    assert swapped.slope < -0.5
    assert "halve the decay" in swapped.sentence


def test_best_axes_in_the_libraries_terms():
    product = alone(bowl(-1))
    assert "only the product matters" in best_axes(product, "adam").sentence
    assert "paper's form" in best_axes(product, "adamw-torch").sentence
    ratio = alone(4 + 2 * (bowl(1, a=0.01) - 4), cap=7.0)
    assert "torch" in best_axes(ratio, "adamw").sentence and "divided by" in best_axes(ratio, "adamw").sentence
    assert best_axes(alone(WHOLE[:1], rows=LR[:1]), "adamw") is None


@pytest.mark.parametrize("slope", [0, -0.1])
def test_a_separable_panel_is_told_of_no_other_axes(slope):
    found = alone(bowl(slope), cap=7.0)
    assert found.verdict == "separable"
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
