"""The readable optimizers and their fast twin; the schedules."""

import math

import pytest
import torch

from helpers.problems import problem
from wdgrid.optim import algorithms
from wdgrid.optim.fused import Rule
from wdgrid.optim.schedule import etas, normalization, periods
from wdgrid.optim.variants import VARIANTS, Decay
from wdgrid.study.sections import Constant, Cosine, Restarts, Step


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("optimizer", VARIANTS)
def test_fast_twin_follows_the_paper_step_by_step(optimizer, kernel):
    theta, hyper, gradients = problem(optimizer)
    table = etas(Cosine(), 6, 10)
    rule = Rule(optimizer, theta.clone(), hyper)
    if not kernel:
        rule.kernel = None
    state = ()
    for t, gradient in enumerate(gradients, start=1):
        theta, state = algorithms.step(optimizer, theta, gradient, state, hyper, table[t - 1], t)
        rule.update_(gradient.clone(), table[t - 1], t)
        torch.testing.assert_close(rule.theta, theta, rtol=1e-11, atol=1e-13)
    for mine, theirs in zip(rule.state, state, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("optimizer", VARIANTS)
def test_steps_are_pure(optimizer):
    theta, hyper, gradients = problem(optimizer)
    before = theta.clone(), gradients[0].clone()
    algorithms.step(optimizer, theta, gradients[0], (), hyper, 0.5, 1)
    assert torch.equal(theta, before[0]) and torch.equal(gradients[0], before[1])


@pytest.mark.parametrize("optimizer", VARIANTS)
def test_decay_of_the_paper_is_multiplied_by_eta_and_not_by_the_rate(optimizer):
    """Without a gradient; L2 is no decay then, but a gradient."""
    rate, decay, eta = 0.1, 0.2, 0.5
    given = {**VARIANTS[optimizer].defaults, "lr": rate, "weight_decay": decay}
    hyper = {name: torch.tensor([value], dtype=torch.float64) for name, value in given.items()}
    theta = torch.ones(1, 1, dtype=torch.float64)
    new, _ = algorithms.step(optimizer, theta, torch.zeros_like(theta), (), hyper, eta, 1)
    no_decay = hyper | {"weight_decay": torch.zeros(1, dtype=torch.float64)}
    by_gradient, _ = algorithms.step(optimizer, theta, decay * theta, (), no_decay, eta, 1)
    expected = {Decay.PAPER: 1 - eta * decay, Decay.LIBRARY: 1 - eta * rate * decay, Decay.GRADIENT: by_gradient.item()}
    assert new.item() == pytest.approx(expected[VARIANTS[optimizer].decay], rel=1e-12)


def test_schedules_by_hand():
    assert etas(Constant(), 2, 3) == [1.0] * 6
    assert etas(Step(milestones=(0.5,), factor=0.1), 2, 2) == [1.0, 1.0, 0.1, 0.1]
    assert etas(Cosine(), 1, 4) == pytest.approx([0.5 + 0.5 * math.cos(math.pi * t / 4) for t in range(4)])
    restarts = etas(Restarts(period=1, multiplier=2), 5, 2)
    assert len(restarts) == 10
    assert restarts == pytest.approx([1, 0.5, 1, 0.853553, 0.5, 0.146447, 1, 0.961940, 0.853553, 0.691342], abs=1e-6)


def test_restarts_end_where_the_paper_says():
    lengths = periods(Restarts(), 1500)
    assert [sum(lengths[: i + 1]) for i in range(4)] == [100, 300, 700, 1500]


@pytest.mark.parametrize(
    "schedule", [Restarts(kind="restarts", period=10**6, multiplier=10**6), Restarts(period=10**6)]
)
def test_a_table_is_never_longer_than_the_budget(schedule, monkeypatch):
    """A period of a million epochs under a budget of three costs three epochs."""
    cosines = []
    monkeypatch.setattr(math, "cos", lambda x: cosines.append(x) or 1.0)
    assert len(etas(schedule, 3, 1000)) == len(cosines) == 3000
    assert len(normalization(schedule, 3, 1000, 10, 100)) == 3000


def test_a_million_short_periods_are_counted_once():
    assert len(periods(Restarts(kind="restarts", period=1, multiplier=1), 10**6)) == 10**6


def test_normalisation_example_of_the_paper():
    """b = 128, B = 50 000, T = 100: λ_norm = 1/20 is λ ≈ 2.5e-4 (appendix B.1)."""
    factors = normalization(Cosine(), 100, 2, 128, 50_000)
    assert set(factors) == {math.sqrt(128 / (50_000 * 100))}
    assert factors[0] / 20 == pytest.approx(2.53e-4, rel=1e-2)
    assert len(set(normalization(Restarts(period=1), 3, 2, 10, 100))) == 2
