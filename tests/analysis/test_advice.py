"""What is advised where a verdict is open: simulated designs, in a study's own terms."""

import numpy as np

from helpers.known_surfaces import DECAY, LR, alone, bowl
from helpers.synthetic_tables import make_study
from wdgrid.analysis.advice import Design, advise
from wdgrid.analysis.slope import informative, posterior
from wdgrid.analysis.valley import valley
from wdgrid.report.extend import extended_axes, more_seeds


def fitted(errors: np.ndarray, rows: np.ndarray, cols: np.ndarray):
    nowhere = np.zeros(errors.shape, bool)
    return informative(errors, np.ones(errors.shape), nowhere, rows, cols, float(errors.min()), 7.0)


def followed(seed: int) -> tuple[float, float]:
    """Width of the slope's interval on the middle of a grid, before and after the advice was followed."""
    truth = bowl(-0.6)
    errors = truth + 0.2 * np.random.default_rng(seed).standard_normal(truth.shape)
    rows, cols = slice(3, 8), slice(3, 8)
    part = fitted(errors[rows, cols], LR[rows], DECAY[cols])
    design = advise(part, posterior(part), 7.0, 1, seen=True)
    assert isinstance(design, Design) and design.gain > 0 and design.runs > 0
    before = valley(part, DECAY[cols])[0].width
    if design.axis == 0:
        rows = slice(1, 8) if design.steps > 0 else slice(3, 10)  # rates fall
    if design.axis == 1:
        cols = slice(3, 10) if design.steps > 0 else slice(1, 8)
    grown = errors[rows, cols]
    if design.axis == 2:
        grown = (grown + truth[rows, cols] + 0.2 * np.random.default_rng(seed + 100).standard_normal(grown.shape)) / 2
    return before, valley(fitted(grown, LR[rows], DECAY[cols]), DECAY[cols])[0].width


def test_following_the_advice_makes_intervals_narrower():
    before, after = np.mean([followed(seed) for seed in range(8)], axis=0)
    assert after < 0.8 * before


def test_without_a_valley_seeds_are_advised():
    part = fitted(bowl(0), LR, DECAY)
    design = advise(part, posterior(part), 7.0, 3, seen=False)
    assert design is not None and (design.axis, design.steps) == (2, 3)


def test_advice_becomes_axis_values_and_seeds_of_the_study():
    rng, study = np.random.default_rng(0), make_study(seeds=[0, 2])
    noise = alone(20 + 2 * rng.standard_normal((7, 6, 2)), rows=LR[:7], cols=DECAY[:6], draws=0)
    assert noise.advice.text == "train 2 more seeds"
    assert more_seeds({"p": noise}, study) == "[0, 2, 1, 3]"
    assert extended_axes({}, study) == {} and more_seeds({}, study) is None
