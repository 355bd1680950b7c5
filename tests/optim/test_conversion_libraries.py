"""Conversions in the libraries themselves: 200 steps in float64, Algorithms 1 and 2 against the line one pastes.

torch, timm, optax, Keras and pytorch_optimizer run for real: the dependency group `conversion` brings them. Composer
pins a torch far older than ours (0.32: below 2.7) and cannot stand beside it, so its two optimizers are followed by the
recursions of its documentation, written down here, which read their numbers from the pasted line.
"""

import importlib
import math
import os
import re
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.trajectories import (
    DECAY,
    LR,
    OUTSIDE_BOUND,
    STEPS,
    THETA,
    apart,
    constant,
    cosine,
    gradient,
    numbers,
    outside_buffer,
    paper,
    run_torch,
)
from wdgrid.optim.conversion import convert

pytestmark = pytest.mark.filterwarnings("default")  # other people's imports


def library(name: str) -> ModuleType:
    """The library; without it its tests are skipped, except in CI, where its absence is a fault."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        return importlib.import_module(name)
    except ImportError:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs {name}, of the dependency group `conversion`")
        pytest.skip(f"needs {name}, of the dependency group `conversion`")


def torch_like(to: str) -> dict[str, object]:
    """What a line for `to` may name beside torch."""
    return {"timm": SimpleNamespace(optim=library("timm.optim"))} if to == "timm" else {to: library(to)}


@pytest.mark.parametrize("to", ["torch", "timm", "pytorch_optimizer"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adam_and_adamw_in_torch_and_what_stands_upon_it(optimizer, to):
    conversion = convert(LR, DECAY, optimizer, to)
    assert conversion.warning is None
    assert conversion.value == pytest.approx(DECAY / LR if optimizer == "adamw" else DECAY)
    assert apart(paper(optimizer, LR, DECAY), run_torch(conversion.line, **torch_like(to))) < 1e-10


@pytest.mark.parametrize(("to", "optimizer"), [("torch", "sgd"), ("timm", "sgdw"), ("pytorch_optimizer", "sgdw")])
def test_sgd_and_sgdw_are_equal_at_a_constant_rate_only(to, optimizer):
    steady = convert(LR, DECAY, optimizer, to, schedule="constant")
    assert steady.warning is None
    assert apart(paper(optimizer, LR, DECAY, constant), run_torch(steady.line, constant, **torch_like(to))) < 1e-10
    moving = convert(LR, DECAY, optimizer, to)
    assert "multiplies the momentum buffer by the rate" in moving.warning
    assert 1e-4 < apart(paper(optimizer, LR, DECAY), run_torch(moving.line, **torch_like(to))) < OUTSIDE_BOUND


def test_sgdw_in_torch_is_sgd_with_decay_by_hand():
    conversion = convert(LR, DECAY, "sgdw", "torch", schedule="constant")
    assert "no decoupled SGD" in conversion.warning and "weight_decay" not in conversion.line
    factor = float(re.search(r"1 - lr \* ([\d.]+)", conversion.warning)[1])
    weights = torch.nn.Parameter(torch.tensor(THETA, dtype=torch.float64))
    optimizer = eval(conversion.line, {"params": [weights], "torch": torch})
    for _ in range(STEPS):
        weights.grad = torch.tensor(gradient(weights.detach().numpy()))
        with torch.no_grad():
            weights *= 1 - optimizer.param_groups[0]["lr"] * factor
        optimizer.step()
    assert apart(paper("sgdw", LR, DECAY, constant), weights.detach().numpy()) < 1e-10


@pytest.mark.parametrize("schedule", [constant, cosine])
@pytest.mark.parametrize("optimizer", ["sgd", "sgdw", "adam", "adamw"])
def test_optax(optimizer, schedule):
    optax, jax = library("optax"), library("jax")
    conversion = convert(LR, DECAY, optimizer, "optax", schedule=schedule.__name__)
    assert conversion.warning is None
    with jax.enable_x64(True):
        names = {"optax": optax, "eta": lambda step: 0.5 + 0.5 * jax.numpy.cos(math.pi * step / STEPS)}
        solver = eval(conversion.line, names)
        theta = jax.numpy.array(THETA)
        state, update = solver.init(theta), jax.jit(solver.update)
        for _ in range(STEPS):
            updates, state = update(jax.numpy.array(gradient(np.asarray(theta))), state, theta)
            theta = optax.apply_updates(theta, updates)
        assert apart(paper(optimizer, LR, DECAY, schedule), np.asarray(theta)) < 1e-10


def run_keras(line: str) -> np.ndarray:
    """Trains with the line under cosine; its comment's regularizer adds its gradient, as a layer's would."""
    keras = library("keras")
    before = keras.config.floatx()
    keras.config.set_floatx("float64")  # its rate is a variable too
    try:
        weights = keras.Variable(THETA, dtype="float64")
        code, _, rest = line.partition("  # ")
        optimizer = eval(code, {"keras": keras})
        penalty = re.search(r"keras\.regularizers\.L2\(.*\)", rest)
        regularizer = eval(penalty[0], {"keras": keras}) if penalty else None
        optimizer.build([weights])
        for t in range(STEPS):
            optimizer.learning_rate = LR * cosine(t)
            at = weights.value.detach().clone().requires_grad_()
            slope = torch.tensor(gradient(at.detach().numpy()))
            if regularizer is not None:
                slope += torch.autograd.grad(regularizer(at), at)[0]
            optimizer.apply([slope])
        return weights.value.detach().numpy()
    finally:
        keras.config.set_floatx(before)


@pytest.mark.parametrize("optimizer", ["sgd", "sgdw"])
def test_keras_sgd(optimizer):
    conversion = convert(LR, DECAY, optimizer, "keras")
    assert conversion.warning is None  # the one library whose rate is inside the buffer, as in Algorithm 1
    assert apart(paper(optimizer, LR, DECAY), run_keras(conversion.line)) < 1e-10


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_keras_adam_is_equal_up_to_epsilon(optimizer):
    conversion = convert(LR, DECAY, optimizer, "keras")
    assert "epsilon" in conversion.warning
    # epsilon over the smallest gradient of this problem
    assert 1e-12 < apart(paper(optimizer, LR, DECAY), run_keras(conversion.line)) < 1e-5
    exact = convert(LR, DECAY, optimizer, "keras", eps=0.0)
    assert exact.warning is None
    assert apart(paper(optimizer, LR, DECAY, eps=0.0), run_keras(exact.line)) < 1e-10


def test_composers_sgdw_by_its_recursion():
    for eta in (constant, cosine):
        conversion = convert(LR, DECAY, "sgdw", "composer", schedule=eta.__name__)
        decay = numbers(conversion.line)["weight_decay"]
        assert decay == conversion.value == DECAY
        followed = outside_buffer(LR, eta, lambda t, eta=eta, decay=decay: decay * eta(t))  # lr / initial_lr is eta
        difference = apart(paper("sgdw", LR, DECAY, eta), followed)
        if eta is constant:
            assert conversion.warning is None and difference < 1e-10
        else:
            assert "momentum buffer" in conversion.warning and 1e-4 < difference < OUTSIDE_BOUND


def test_composers_adamw_by_its_recursion():
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


@pytest.mark.parametrize(
    ("module", "line", "taken"),
    [
        ("pytorch_optimizer", "AdaBelief([w], lr=0.01, weight_decay=0.1)", 0.01 * 0.1),
        ("pytorch_optimizer", "AdaBelief([w], lr=0.01, weight_decay=0.1, fixed_decay=True)", 0.1),
        ("schedulefree", "AdamWScheduleFree([w], lr=0.01, weight_decay=0.1)", 0.01 * 0.1),
        ("schedulefree", "SGDScheduleFree([w], lr=0.01, weight_decay=0.1)", 0.01 * 0.1),
    ],
)
def test_what_one_step_without_a_gradient_takes_off(module, line, taken):
    w = torch.nn.Parameter(torch.tensor(THETA, dtype=torch.float64))
    optimizer = eval(f"it.{line}", {"it": library(module), "w": w})
    if module == "schedulefree":
        optimizer.train()
    w.grad = torch.zeros_like(w)
    optimizer.step()
    assert apart(THETA * (1 - taken), w.detach().numpy()) < 1e-10
