"""The filter of the paper's section 3: a Kalman filter indeed, its decay decoupled, SGDW and Adam as its limits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.synthetic_tables import SMALL, make_curves, make_study, make_table
from helpers.training import cells_of
from wdgrid.engine import Job, Workbench, train
from wdgrid.optim import algorithms
from wdgrid.optim.schedule import etas
from wdgrid.report import write_report
from wdgrid.report.grids import axis_title
from wdgrid.study import Study
from wdgrid.study.sections import Cosine, Task

ETAS = etas(Cosine(), 20, 10)


def vector(**values):
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()}


def start(width=6, seed=0):
    random = torch.Generator().manual_seed(seed)
    theta = torch.randn(1, width, generator=random, dtype=torch.float64)
    return theta, (torch.ones_like(theta),), random


@given(
    lr=st.floats(1e-4, 1.0),
    lam=st.floats(0, 0.2),
    beta2=st.floats(0, 0.9999),
    eps=st.floats(1e-4, 1.0),
    share=st.floats(1e-6, 1.0),
)
@settings(max_examples=30, deadline=None)
def test_without_gradients_nothing_but_the_decay_happens_whatever_the_variance(lr, lam, beta2, eps, share):
    """θ_t = Π (1 − η_t λ) θ_0: the prior mean shrinks by a share that does not know of the uncertainty."""
    theta, state, _ = start()
    first, state, hyper = theta, (state[0] * share,), vector(lr=lr, weight_decay=lam, beta2=beta2, eps=eps)
    for t, eta in enumerate(ETAS, start=1):
        theta, state = algorithms.step("kalman", theta, torch.zeros_like(theta), state, hyper, eta, t)
    torch.testing.assert_close(theta, math.prod(1 - eta * lam for eta in ETAS) * first, rtol=1e-12, atol=0)


@given(lam=st.floats(0, 0.2), lr=st.floats(1e-4, 1.0))
@settings(max_examples=30, deadline=None)
def test_neither_rate_nor_decay_touches_the_filters_certainty(lam, lr):
    """What the preconditioner is depends on the gradients alone; that is what makes rate and decay two knobs."""
    theta, one, random = start()
    other = one
    for t, eta in enumerate(ETAS[:50], start=1):
        gradient = torch.randn(theta.shape, generator=random, dtype=torch.float64)
        _, one = algorithms.step(
            "kalman", theta, gradient, one, vector(lr=lr, weight_decay=lam, beta2=0.99, eps=0.1), eta, t
        )
        _, other = algorithms.step(
            "kalman", theta, gradient, other, vector(lr=1.0, weight_decay=0, beta2=0.99, eps=0.1), eta, t
        )
    assert torch.equal(one[0], other[0])


class TextbookFilter:
    """A scalar Kalman filter as textbooks have it: x' = F x + N(0, Q), y = x + N(0, R)."""

    def __init__(self, x, p):
        self.x, self.p = x, p

    def predict(self, f, q):
        self.x, self.p = f * self.x, f * self.p * f + q

    def update(self, y, r):
        innovation, s = y - self.x, self.p + r
        gain = self.p / s
        self.x, self.p = self.x + gain * innovation, (1 - gain) * self.p


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_one_weight_is_a_textbook_kalman_filter(schedule):
    """In the weight's own units: variance α² s/κ, n = κ/(αε) observations a minibatch, η_t of them counted.

    The gradient of −log N(y; θ, R) is (θ − y)/R; R is the inverse of its square, which is what the filter takes for it.
    """
    lr, lam, kappa, eps = 0.05, 0.03, 0.02, 0.3
    n, prior = kappa / (lr * eps), lr**2 / kappa
    hyper = vector(lr=lr, weight_decay=lam, beta2=1 - kappa, eps=eps)
    theta, state, random = start(width=1)
    textbook = TextbookFilter(theta.item(), prior)
    for t, eta in enumerate(ETAS if schedule == "cosine" else [1.0] * 200, start=1):
        drift = (eta * lr) ** 2 * (1 - textbook.p / prior)  # how far the optimum wanders in a step
        q = drift + (1 - (1 - eta * lam) ** 2) * textbook.p  # and what the shrinking mean would take from the variance
        assert q >= 0
        textbook.predict(1 - eta * lam, q)
        y = 0.7 + 0.5 * torch.randn((), generator=random, dtype=torch.float64).item()
        r = (textbook.x - y) ** 2
        gradient = (textbook.x - y) / r / (eta * n)
        textbook.update(y, r)
        theta, state = algorithms.step("kalman", theta, torch.full_like(theta, gradient), state, hyper, eta, t)
        assert theta.item() == pytest.approx(textbook.x, rel=1e-10)
        assert state[0].item() * prior == pytest.approx(textbook.p, rel=1e-10)


def test_a_fixed_drift_would_couple_the_rate_to_the_decay():
    """Why Q makes good what F² takes: with Q fixed the steady variance, which is the rate, falls as decay grows."""
    steady = []
    for lam in (0.0, 0.01, 0.1):
        textbook = TextbookFilter(0.0, 1.0)
        for _ in range(5000):
            textbook.predict(1 - lam, 1e-4)
            textbook.update(0.0, 1.0)
        steady.append(textbook.p)
    assert steady[0] > 1.5 * steady[1] > 3 * steady[2]


def test_gradients_far_below_eps_make_it_sgdw():
    """The variance stays the prior's: rate α/ε, no momentum, the same decoupled decay, under a schedule, too."""
    theta, state, random = start()
    sgd, buffer = theta, ()
    for t, eta in enumerate(ETAS, start=1):
        gradient = torch.randn(theta.shape, generator=random, dtype=torch.float64)
        theta, state = algorithms.step(
            "kalman", theta, gradient, state, vector(lr=1e6, weight_decay=0.03, beta2=0.9, eps=1e7), eta, t
        )
        sgd, buffer = algorithms.step(
            "sgdw", sgd, gradient, buffer, vector(lr=0.1, weight_decay=0.03, momentum=0.0), eta, t
        )
    torch.testing.assert_close(theta, sgd, rtol=1e-9, atol=1e-12)


def test_gradients_far_above_eps_make_it_adam_without_momentum():
    """The steady direction is g/√⟨g²⟩, whatever each weight's own scale (while κ |g| stays below ε)."""
    theta, state, random = start(width=400)
    adam = ()
    scales = torch.logspace(-1.5, -0.5, 400, dtype=torch.float64)
    hyper = vector(lr=1.0, weight_decay=0.0, beta2=1 - 1e-4, eps=1e-3)
    of_adam = vector(lr=1.0, weight_decay=0.0, beta1=0.0, beta2=0.999, eps=1e-12)
    ratios = []
    for t in range(1, 3001):
        gradient = scales * torch.randn(theta.shape, generator=random, dtype=torch.float64)
        moved, state = algorithms.step("kalman", theta, gradient, state, hyper, 1.0, t)
        reference, adam = algorithms.step("adamw", theta, gradient, adam, of_adam, 1.0, t)
        if t > 2000:
            ratios.append((moved - theta) / (reference - theta))
    ratio = torch.stack(ratios).mean(dim=0)
    assert ((ratio - 1).abs() < 0.15).all() and ratio.mean().item() == pytest.approx(1, abs=0.02)


@given(g=st.floats(1e-3, 30.0), eta=st.floats(0.05, 1.0))
@settings(max_examples=30, deadline=None)
def test_the_steady_variance_of_the_documentation(g, eta):
    """s = 2/(1 + √(1 + 4 g²/ε²)) with ε = 1 and small κ, the same under any η."""
    s = torch.full((1, 1), 1.0, dtype=torch.float64)
    hyper = vector(lr=1.0, weight_decay=0.0, beta2=1 - 1e-3, eps=1.0)
    expected = 2 / (1 + math.sqrt(1 + 4 * g * g))
    state = (s * expected,)
    for t in range(1, 300):
        _, state = algorithms.step("kalman", s, torch.full_like(s, g), state, hyper, eta, t)
    assert state[0].item() == pytest.approx(expected, rel=2e-3 * (1 + g))


def test_a_study_may_not_divide_by_zero():
    fixed = {"optimizer": "kalman", "eps": 0}
    with pytest.raises(ValueError, match="eps must be positive"):
        Study.model_validate(SMALL | {"panels": [fixed]})
    axes = {"lr": {"values": [1]}, "eps": {"values": [0, 1]}}
    panel = {"optimizer": "kalman", "weight_decay": 0.1}
    with pytest.raises(ValueError, match="eps must be positive"):
        Study.model_validate(SMALL | {"axes": axes, "panels": [panel]})


def test_it_learns_the_digits():
    """Four epochs take it far below the 90 % of chance."""
    bench = Workbench(Task(batch_size=25, epochs=4, device="cpu"))
    (outcome,) = train(bench, Job("kalman", Cosine(), 4, False), cells_of("kalman", [0.01], [0.004]), 1, lambda _: None)
    assert outcome.test_error < 15


def test_reports_name_it(tmp_path):
    study = make_study(panels=[{"optimizer": "kalman", "lr_unit": 0.1}])
    table = make_table(study)
    write_report(study, "mine", table, make_curves(table), {"environment": {"device": "cpu"}}, tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Kalman filter" in page and "decoupled: θ − η_t λ θ" in page
    assert axis_title("weight_decay", 0.1, "kalman", False) == "Weight decay (× 0.1)"
    assert axis_title("eps", 1, "kalman", False) == "ε of Kalman filter"
