"""Propositions 1 to 3 of "Decoupled Weight Decay Regularization" as checks on the optimizers, and docs/theory.md."""

import ast
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wdgrid.optim import algorithms
from wdgrid.optim.schedule import etas
from wdgrid.study.sections import Constant, Cosine

ROOT = Path(__file__).parents[2]
P = 8  # weights
T = 2**53  # a step at which Adam's 1 − β2^t is 0.63 …
FROZEN = 1 - 2**-53  # … with a β2 that keeps v as it is
RATES, DECAYS = st.floats(1e-3, 0.5), st.floats(1e-4, 0.1)
SCALES = st.lists(st.floats(0.2, 5.0), min_size=P, max_size=P)
SEEDS = st.integers(0, 10_000)
quick = settings(max_examples=40, deadline=None)


class Problem:
    """A loss that is neither quadratic nor separable: logistic regression with a bend; a new minibatch every step."""

    def __init__(self, seed):
        self.random = torch.Generator().manual_seed(seed)
        self.start = torch.randn(1, P, generator=self.random, dtype=torch.float64)
        self.x = torch.randn(40, 12, P, generator=self.random, dtype=torch.float64)

    def loss(self, theta, t):
        """f_t(θ) for θ [1, P]."""
        z = self.x[t % len(self.x)] @ theta[0]
        return torch.nn.functional.softplus(z).mean() + 0.1 * torch.sin(z).mean()

    def gradient(self, theta, t, penalty=lambda theta: 0.0):
        """∇(f_t + penalty) at θ, by autograd."""
        theta = theta.detach().requires_grad_()
        return torch.autograd.grad(self.loss(theta, t) + penalty(theta), theta)[0]


def of(**values):
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()}


def trajectory(problem, optimizer, hyper, schedule, penalty=lambda theta: 0.0, steps=30):
    """θ_1 … θ_steps of an optimizer that minimises f_t + penalty."""
    theta, state, points = problem.start, (), []
    for t, eta in enumerate(etas(schedule, steps, 1), start=1):
        gradient = problem.gradient(theta, t, penalty)
        theta, state = algorithms.step(optimizer, theta, gradient, state, hyper, eta, t)
        points.append(theta)
    return torch.cat(points)


def preconditioned(optimizer, theta, gradient, s, alpha, decay):
    """θ − α diag(s)⁻¹ ∇f with decay: a step of Adam or AdamW whose √v̂ is held at s [1, P], without momentum."""
    state = (torch.zeros_like(theta), s**2 * (1 - FROZEN**T))
    hyper = of(lr=alpha, weight_decay=decay, beta1=0.0, beta2=FROZEN, eps=0.0)
    return algorithms.step(optimizer, theta, gradient, state, hyper, 1.0, T)[0]


# Proposition 1: for SGD decay λ is L2 with λ' = λ/α


@given(lam=DECAYS, alpha=RATES, seed=SEEDS, schedule=st.sampled_from([Constant(), Cosine()]))
@quick
def test_proposition_1(lam, alpha, seed, schedule):
    problem = Problem(seed)
    decayed = trajectory(problem, "sgdw", of(lr=alpha, weight_decay=lam, momentum=0.0), schedule)
    factor = trajectory(problem, "sgd", of(lr=alpha, weight_decay=lam / alpha, momentum=0.0), schedule)
    term = trajectory(
        problem,
        "sgdw",
        of(lr=alpha, weight_decay=0.0, momentum=0.0),
        schedule,
        lambda w: lam / alpha / 2 * (w**2).sum(),
    )
    torch.testing.assert_close(factor, decayed, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(term, decayed, rtol=1e-10, atol=1e-12)


def test_proposition_1_needs_sgd_without_momentum():
    """Algorithm 1's buffer delays L2 and not the decay: only their sums over many steps agree."""
    problem = Problem(0)
    decayed = trajectory(problem, "sgdw", of(lr=0.1, weight_decay=0.01, momentum=0.9), Constant())
    factor = trajectory(problem, "sgd", of(lr=0.1, weight_decay=0.1, momentum=0.9), Constant())
    assert (decayed - factor).abs().max() > 1e-3


# Proposition 2: for M_t ≠ k·I no L2 factor does what decay does


def best_factor(theta, gradient, s, alpha, lam):
    """The L2 factor whose Adam step is nearest to AdamW's with decay λ, and the distance that is left.

    A step of L2 is affine in λ', so two steps say all of them and the best one is a projection.
    """
    wanted = preconditioned("adamw", theta, gradient, s, alpha, lam)
    without = preconditioned("adam", theta, gradient, s, alpha, 0.0)
    slope = preconditioned("adam", theta, gradient, s, alpha, 1.0) - without
    factor = ((wanted - without) * slope).sum() / (slope**2).sum()
    best = preconditioned("adam", theta, gradient, s, alpha, factor.item())
    return factor.item(), (wanted - best).norm().item()


@given(scales=SCALES, lam=DECAYS, alpha=RATES, seed=SEEDS)
@quick
def test_proposition_2(scales, lam, alpha, seed):
    """The best L2 factor misses by λ ‖θ‖ sin∠(θ, Mθ): nothing where M = k·I, and much where it is far from it."""
    problem, s = Problem(seed), torch.tensor([scales], dtype=torch.float64)
    theta = problem.start
    gradient = problem.gradient(theta, 1)
    _, left = best_factor(theta, gradient, s, alpha, lam)
    moved = theta / s
    across = theta - (theta * moved).sum() / (moved**2).sum() * moved  # its length is ‖θ‖ sin∠(θ, Mθ)
    assert left == pytest.approx(lam * across.norm().item(), rel=1e-6, abs=1e-10)


@given(lam=DECAYS, alpha=RATES, seed=SEEDS, spread=st.floats(1.5, 20))
@quick
def test_proposition_2_leaves_a_distance(lam, alpha, seed, spread):
    """s = 1 for one half of the weights and `spread` for the other: a distance in proportion to λ remains."""
    problem = Problem(seed)
    theta = problem.start.sign() * (0.5 + problem.start.abs())
    s = torch.ones_like(theta)
    s[:, P // 2 :] = spread
    gradient = problem.gradient(theta, 1)
    _, left = best_factor(theta, gradient, s, alpha, lam)
    half = [part.norm().item() for part in (theta[:, : P // 2], theta[:, P // 2 :])]
    exact = lam * half[0] * half[1] * (spread - 1) / ((spread * half[0]) ** 2 + half[1] ** 2) ** 0.5
    assert left == pytest.approx(exact, rel=1e-8)
    assert left > 0.05 * lam
    _, none = best_factor(theta, gradient, torch.full_like(s, spread), alpha, lam)
    assert none < 1e-10


def test_proposition_2_on_adam_itself():
    """Thirty steps of Adam: over all L2 factors the nearest trajectory stays far from AdamW's, and SGD's does not."""

    def nearest(coupled, decoupled, extra):
        problem, lam, alpha = Problem(3), 0.02, 0.1
        wanted = trajectory(problem, decoupled, of(lr=alpha, weight_decay=lam, **extra), Constant())[-1]
        factors = [*torch.logspace(-4, 2, 121, dtype=torch.float64).tolist(), 0.0, lam / alpha]
        ends = [trajectory(problem, coupled, of(lr=alpha, weight_decay=f, **extra), Constant())[-1] for f in factors]
        return min((end - wanted).norm().item() for end in ends) / wanted.norm().item()

    assert nearest("adam", "adamw", {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}) > 0.02
    assert nearest("sgd", "sgdw", {"momentum": 0.0}) < 1e-10


# Proposition 3: with a fixed M = diag(s)⁻¹ decay is the penalty λ'/2 ‖θ ⊙ √s‖², λ' = λ/α


def fixed_trajectory(problem, s, alpha, lam, penalty=lambda theta: 0.0, steps=30):
    theta, points = problem.start, []
    for t in range(1, steps + 1):
        theta = preconditioned("adamw", theta, problem.gradient(theta, t, penalty), s, alpha, lam)
        points.append(theta)
    return torch.cat(points)


@given(scales=SCALES, lam=DECAYS, alpha=RATES, seed=SEEDS)
@quick
def test_proposition_3(scales, lam, alpha, seed):
    problem, s = Problem(seed), torch.tensor([scales], dtype=torch.float64)
    decayed = fixed_trajectory(problem, s, alpha, lam)
    penalty = fixed_trajectory(problem, s, alpha, 0.0, lambda w: lam / alpha / 2 * (w * s.sqrt()).square().sum())
    torch.testing.assert_close(penalty, decayed, rtol=1e-7, atol=1e-9)


@given(scales=SCALES, lam=DECAYS, alpha=st.floats(0.05, 0.5), seed=SEEDS)
@quick
def test_the_printed_equation_2_is_another_penalty(scales, lam, alpha, seed):
    """Its λ'/(2α) decays by λ/α a step instead of λ: the same only at α = 1. The proof in the appendix has λ'/2."""
    problem, s = Problem(seed), torch.tensor([scales], dtype=torch.float64)
    printed = lambda w: lam / alpha / (2 * alpha) * (w * s.sqrt()).square().sum()  # noqa: E731
    theta, t = problem.start, 1
    found = preconditioned("adamw", theta, problem.gradient(theta, t, printed), s, alpha, 0.0)
    one = preconditioned("adamw", theta, problem.gradient(theta, t), s, alpha, lam)
    other = preconditioned("adamw", theta, problem.gradient(theta, t), s, alpha, lam / alpha)
    torch.testing.assert_close(found, other, rtol=1e-7, atol=1e-9)
    assert (found - one).norm() > 0.9 * lam * (1 / alpha - 1) * theta.norm()


# docs/theory.md


def defined(path):
    """Functions of a C file; functions, classes and their methods (Class.method), and constants of a Python file."""
    if path.suffix == ".c":
        return set(re.findall(r"^\w[\w *]*?(\w+)\([^;{}]*\) \{", path.read_text("utf-8"), re.MULTILINE))
    names = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def test_every_place_that_the_theory_names_exists():
    named = re.findall(r"`([\w/]+\.(?:py|c))(?::([\w.]+))?`", (ROOT / "docs" / "theory.md").read_text("utf-8"))
    assert len(named) > 30 and {Path(p).suffix for p, _ in named} == {".py", ".c"}
    missing = [f"{p}:{name}" for p, name in named if name not in defined(ROOT / p) | {""}]
    assert missing == []


def test_the_theory_speaks_of_every_proposition_here():
    text = (ROOT / "docs" / "theory.md").read_text("utf-8")
    checks = [name for name in defined(Path(__file__)) if name.startswith(("test_prop", "test_the_printed"))]
    assert [name for name in checks if f"tests/optim/test_theory.py:{name}" not in text] == []
