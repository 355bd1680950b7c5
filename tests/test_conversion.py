"""Conversions followed step by step: 200 cosine steps in float64, Algorithms 1 and 2 against each library.

torch runs for real, and so do timm, optax and pytorch_optimizer where they are installed. Beside them stand
recursions written down here from each library's source (timm 1.0.31, Composer 0.32, optax 0.2.8, Keras 3.15,
pytorch_optimizer 4.1), since Composer pins another torch and Keras brings a whole framework. A recursion reads its
decay from the pasted line.
"""

import math
import re

import numpy as np
import pytest
import torch

from wdgrid.analysis.conversion import OPTIMIZERS, TARGETS, convert

STEPS = 200
LR, DECAY = 0.01, 2.5e-4
OUTSIDE_BOUND = 0.1  # what a rate outside the buffer changes under cosine: measured 6 % of the largest weight here
THETA = np.random.default_rng(0).normal(size=12)
CURVATURE = np.logspace(-1, 0.5, 12)
TARGET = np.random.default_rng(1).normal(size=12)


def gradient(theta):
    """Not linear, so that a small difference in the weights is not merely scaled."""
    return CURVATURE * np.tanh(theta - TARGET) + 0.1 * np.sin(3 * theta)


def cosine(t: int) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * t / STEPS)


def constant(t: int) -> float:
    return 1.0


def paper(optimizer: str, lr: float, decay: float, eta=cosine, eps: float = 1e-8) -> np.ndarray:
    """Algorithms 1 and 2, line by line; `decay` is the paper's."""
    theta, m, v = THETA.copy(), np.zeros(12), np.zeros(12)
    decoupled = optimizer in ("sgdw", "adamw")
    for t in range(1, STEPS + 1):
        g = gradient(theta) + (0 if decoupled else decay * theta)
        if optimizer.startswith("adam"):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            step = eta(t - 1) * lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + eps)
        else:
            m = 0.9 * m + eta(t - 1) * lr * g
            step = m
        theta = theta - step - (eta(t - 1) * decay * theta if decoupled else 0)
    return theta


def apart(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).max() / np.abs(first).max())


def numbers(line: str) -> dict[str, float]:
    found = re.findall(r"(\w+)=(-?[\d.]+(?:e[-+]?\d+)?)", line)
    return {name: float(value) for name, value in found}


def run_pasted(line: str, eta=cosine, **modules) -> np.ndarray:
    """Train with the line itself, as a person would paste it."""
    weights = torch.nn.Parameter(torch.tensor(THETA, dtype=torch.float64))
    optimizer = eval(line, {"params": [weights], "torch": torch, **modules})
    rate = optimizer.param_groups[0]["lr"]
    for t in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate * eta(t)
        weights.grad = torch.tensor(gradient(weights.detach().numpy()))
        optimizer.step()
    return weights.detach().numpy()


def outside_buffer(lr: float, eta, shrink, factor: float = 0.0) -> np.ndarray:
    """SGD as torch, timm, Composer, pytorch_optimizer have it: a buffer of gradients, decay (1 − shrink(t)) first."""
    theta, buffer = THETA.copy(), np.zeros(12)
    for t in range(STEPS):
        buffer = 0.9 * buffer + gradient(theta) + factor * theta
        theta = theta * (1 - shrink(t)) - lr * eta(t) * buffer
    return theta


def keras(lr: float, decay: float, l2: float, adaptive: bool, eps: float = 1e-7, eta=cosine) -> np.ndarray:
    """Keras 3: decay first (variable −= variable · decay · lr), the gradient from before it; ε-hat; L2 = l2 · Σθ²."""
    theta, m, v = THETA.copy(), np.zeros(12), np.zeros(12)
    for t in range(1, STEPS + 1):
        rate, g = lr * eta(t - 1), gradient(theta) + 2 * l2 * theta
        theta = theta - theta * decay * rate
        if adaptive:
            m, v = m + (g - m) * (1 - 0.9), v + (g * g - v) * (1 - 0.999)
            theta = theta - m * rate * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) / (np.sqrt(v) + eps)
        else:
            m = m * 0.9 - g * rate
            theta = theta + m
    return theta


def test_the_pitfall_is_large_enough_to_be_seen():
    right = paper("adamw", LR, DECAY)
    line = convert(LR, DECAY, "adamw", "torch").line.replace("weight_decay=0.025", f"weight_decay={DECAY}")
    assert apart(right, run_pasted(line)) > 1e-3


@pytest.mark.parametrize("to", ["torch", "timm", "pytorch_optimizer"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adam_and_adamw_in_torch(optimizer, to):
    conversion = convert(LR, DECAY, optimizer, to)
    assert conversion.warning is None
    assert conversion.value == pytest.approx(DECAY / LR if optimizer == "adamw" else DECAY)
    assert apart(paper(optimizer, LR, DECAY), run_pasted(conversion.line)) < 1e-10


def test_the_library_form_is_torchs_own_number():
    conversion = convert(LR, 0.03, "adamw-torch", "torch")
    assert conversion.value == pytest.approx(0.03)
    assert apart(paper("adamw", LR, LR * 0.03), run_pasted(conversion.line)) < 1e-10
    assert convert(LR, 0.03, "sgdw-torch", "paper").value == pytest.approx(3e-4)


def test_sgd_in_torch_is_equal_at_a_constant_rate_only():
    steady = convert(LR, DECAY, "sgd", "torch", schedule="constant")
    assert steady.warning is None
    assert apart(paper("sgd", LR, DECAY, constant), run_pasted(steady.line, constant)) < 1e-10
    moving = convert(LR, DECAY, "sgd", "torch")
    assert "outside the momentum buffer" in moving.warning
    assert 1e-4 < apart(paper("sgd", LR, DECAY), run_pasted(moving.line)) < OUTSIDE_BOUND


@pytest.mark.parametrize("to", ["timm", "composer", "pytorch_optimizer"])
def test_sgdw_by_recursion(to):
    for eta, schedule in ((constant, "constant"), (cosine, "cosine")):
        conversion = convert(LR, DECAY, "sgdw", to, schedule=schedule)
        decay = numbers(conversion.line)["weight_decay"]
        assert decay == pytest.approx(conversion.value, rel=1e-11)
        per_step = decay * (1 if to == "composer" else LR)
        followed = outside_buffer(LR, eta, lambda t, rate=per_step, eta=eta: rate * eta(t))
        difference = apart(paper("sgdw", LR, DECAY, eta), followed)
        if schedule == "constant":
            assert conversion.warning is None and difference < 1e-10
        else:
            assert "outside" in conversion.warning and 1e-4 < difference < OUTSIDE_BOUND


def test_sgdw_in_torch_is_sgd_with_decay_by_hand():
    conversion = convert(LR, DECAY, "sgdw", "torch", schedule="constant")
    assert "no decoupled SGD" in conversion.warning and "weight_decay" not in conversion.line
    factor = float(re.search(r"1 - lr \* ([\d.]+)", conversion.warning)[1])
    followed = outside_buffer(LR, constant, lambda t: LR * factor)
    assert apart(paper("sgdw", LR, DECAY, constant), followed) < 1e-10


def test_composer_adamw_by_recursion():
    conversion = convert(LR, DECAY, "adamw", "composer")
    assert conversion.warning is None and conversion.value == DECAY
    values = numbers(conversion.line)
    theta, m, v = THETA.copy(), np.zeros(12), np.zeros(12)
    for t in range(1, STEPS + 1):
        g, rate = gradient(theta), LR * cosine(t - 1)
        theta = theta * (1 - rate / LR * values["weight_decay"])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        theta = theta - rate / (1 - 0.9**t) * m / (np.sqrt(v) / math.sqrt(1 - 0.999**t) + values["eps"])
    assert "betas=(0.9, 0.999)" in conversion.line  # Composer's own default is 0.95
    assert apart(paper("adamw", LR, DECAY), theta) < 1e-10


@pytest.mark.parametrize("optimizer", ["sgd", "sgdw"])
def test_keras_sgd_by_recursion(optimizer):
    conversion = convert(LR, DECAY, optimizer, "keras")
    assert conversion.warning is None
    factor = re.search(r"L2\(([^)]+)\)", conversion.line)
    decay, l2 = numbers(conversion.line).get("weight_decay", 0.0), float(factor[1]) if factor else 0.0
    assert apart(paper(optimizer, LR, DECAY), keras(LR, decay, l2, adaptive=False)) < 1e-10


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_keras_adam_is_equal_up_to_epsilon(optimizer):
    conversion = convert(LR, DECAY, optimizer, "keras")
    assert "epsilon" in conversion.warning
    values = numbers(conversion.line)
    factor = re.search(r"L2\(([^)]+)\)", conversion.line)
    decay, l2 = values.get("weight_decay", 0.0), float(factor[1]) if factor else 0.0
    followed = keras(LR, decay, l2, adaptive=True, eps=values["epsilon"])
    assert apart(paper(optimizer, LR, DECAY), followed) < 1e-5  # epsilon over the smallest gradient of this problem
    exact = convert(LR, DECAY, optimizer, "keras", eps=0.0)
    assert exact.warning is None
    assert apart(paper(optimizer, LR, DECAY, eps=0.0), keras(LR, decay, l2, True, eps=0.0)) < 1e-10


def chain_of(*parts):
    """optax.chain's updates over our toy transformations: each maps (updates, weights, step) to updates."""

    def follow() -> np.ndarray:
        theta = THETA.copy()
        for t in range(STEPS):
            updates = gradient(theta)
            for part in parts:
                updates = part(updates, theta, t)
            theta = theta + updates
        return theta

    return follow


class Optax:
    """The six transformations our lines use, from optax's documentation; the same names, so that lines run on it."""

    chain = staticmethod(chain_of)

    @staticmethod
    def add_decayed_weights(decay):
        return lambda u, theta, t: u + (decay(t) if callable(decay) else decay) * theta

    @staticmethod
    def scale_by_learning_rate(rate):
        return lambda u, theta, t: -(rate(t) if callable(rate) else rate) * u

    @staticmethod
    def trace(momentum):
        kept = np.zeros(12)

        def update(u, theta, t):
            kept[:] = u + momentum * kept
            return kept.copy()

        return update

    @staticmethod
    def adam(rate, b1, b2, eps, weight_decay=0.0):
        m, v = np.zeros(12), np.zeros(12)

        def update(g, theta, t):
            m[:], v[:] = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            step = (m / (1 - b1 ** (t + 1))) / (np.sqrt(v / (1 - b2 ** (t + 1))) + eps)
            return -rate * cosine(t) * (step + weight_decay * theta)

        return update

    @classmethod
    def adamw(cls, rate, b1, b2, eps, weight_decay):
        return chain_of(cls.adam(rate, b1, b2, eps, weight_decay))


@pytest.mark.parametrize("optimizer", ["sgd", "sgdw", "adam", "adamw"])
def test_optax_by_recursion(optimizer):
    conversion = convert(LR, DECAY, optimizer, "optax")
    assert conversion.warning is None
    follow = eval(conversion.line, {"optax": Optax, "eta": cosine})
    assert apart(paper(optimizer, LR, DECAY), follow()) < 1e-10
    if not optimizer.startswith("adam"):
        steady = eval(convert(LR, DECAY, optimizer, "optax", schedule="constant").line, {"optax": Optax})
        assert apart(paper(optimizer, LR, DECAY, constant), steady()) < 1e-10


@pytest.mark.filterwarnings("default")  # other people's imports
@pytest.mark.parametrize("to", ["timm", "pytorch_optimizer"])
def test_sgdw_in_the_library_itself(to):
    module = pytest.importorskip("timm.optim" if to == "timm" else to, reason=f"{to} is not installed")
    conversion = convert(LR, DECAY, "sgdw", to, schedule="constant")
    names = {"timm": type("timm", (), {"optim": module})} if to == "timm" else {to: module}
    assert apart(paper("sgdw", LR, DECAY, constant), run_pasted(conversion.line, constant, **names)) < 1e-10


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("optimizer", ["sgd", "sgdw"])
def test_sgd_in_optax_itself(optimizer):
    optax, jax = pytest.importorskip("optax", reason="optax is not installed"), pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    eta = lambda step: 0.5 + 0.5 * jax.numpy.cos(math.pi * step / STEPS)  # noqa: E731
    solver = eval(convert(LR, DECAY, optimizer, "optax").line, {"optax": optax, "eta": eta})
    theta = jax.numpy.array(THETA)
    state = solver.init(theta)
    for _ in range(STEPS):
        updates, state = solver.update(jax.numpy.array(gradient(np.asarray(theta))), state, theta)
        theta = optax.apply_updates(theta, updates)
    assert apart(paper(optimizer, LR, DECAY), np.asarray(theta)) < 1e-10


def test_l2_has_no_equal_where_decay_is_decoupled():
    adam = convert(LR, DECAY, "adam", "composer")
    assert adam.value is None and "no decoupled decay equals L2" in adam.warning
    assert apart(paper("adam", LR, DECAY), run_pasted(adam.line)) < 1e-10
    assert convert(LR, DECAY, "sgd", "composer").value is None
    tau = convert(LR, DECAY, "adam", "tau", steps_per_epoch=100)
    assert tau.value is None and tau.warning


def test_normalised_decay_is_the_papers_example():
    factor = math.sqrt(128 / (50_000 * 100))
    conversion = convert(LR, factor / 20, "adamw", "normalised", batch=128, train_size=50_000, epochs=100)
    assert factor == pytest.approx(0.00506, abs=5e-6)
    assert conversion.value == pytest.approx(1 / 20)
    library = convert(LR, factor / 20 / LR, "adamw-torch", "normalized", steps_per_epoch=50_000 / 128, epochs=100)
    assert library.value == pytest.approx(1 / 20)


@pytest.mark.parametrize(("optimizer", "decay"), [("adamw", 1e-3), ("adamw-torch", 0.1), ("sgdw", 1e-3)])
def test_tau_is_when_a_weight_without_gradient_has_lost_its_e_th_part(optimizer, decay):
    tau = convert(LR, decay, optimizer, "tau", steps_per_epoch=100).value
    assert (1 - 1e-3) ** (tau * 100) == pytest.approx(1 / math.e, rel=1e-3)
    assert convert(LR, 0.0, optimizer, "tau", steps_per_epoch=100).value == math.inf


def test_tau_of_l2_under_momentum_counts_the_buffer():
    tau = convert(LR, 0.01, "sgd", "tau", steps_per_epoch=100)
    theta, m = 1.0, 0.0
    for _ in range(round(tau.value * 100)):
        m = 0.9 * m + LR * 0.01 * theta
        theta -= m
    assert theta == pytest.approx(1 / math.e, rel=0.02) and tau.warning


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("to", TARGETS)
def test_every_pair_has_a_line_or_a_reason_and_round_trips(optimizer, to):
    conversion = convert(0.1, 1e-3, optimizer, to, batch=128, train_size=50_000, epochs=100)
    assert (conversion.line or conversion.warning) and (conversion.value is None) <= bool(conversion.warning)
    assert "\n" not in conversion.line
    none = convert(0.1, 0.0, optimizer, to, batch=128, train_size=50_000, epochs=100)
    assert none.value in (0.0, None, math.inf)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0}, "lr must be"),
        ({"lr": math.nan}, "lr must be"),
        ({"weight_decay": -1}, "weight decay must be"),
        ({"weight_decay": math.inf}, "weight decay must be"),
        ({"optimizer": "lion"}, "optimizer must be one of sgd"),
        ({"to": "jax"}, "can convert to paper"),
        ({"to": "normalised", "steps_per_epoch": 10}, "needs the epochs"),
        ({"to": "tau"}, "steps per epoch are needed"),
        ({"to": "tau", "batch": 0, "train_size": 10}, "batch must be"),
        ({"to": "tau", "steps_per_epoch": 0}, "steps per epoch must be"),
        ({"momentum": 1.0, "optimizer": "sgd"}, "momentum must be"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        convert(**{"lr": 0.1, "weight_decay": 1e-3, "optimizer": "adamw", "to": "torch", **change})
    assert "\n" not in str(caught.value)
