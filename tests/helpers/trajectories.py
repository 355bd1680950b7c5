"""A small problem, Algorithms 1 and 2 upon it line by line, and how a library's line is trained: float64, 200 steps."""

import math
import re
from collections.abc import Callable

import numpy as np
import torch

STEPS = 200
LR, DECAY = 0.01, 2.5e-4
THETA = np.random.default_rng(0).normal(size=12)
CURVATURE = np.logspace(-1, 0.5, 12)
TARGET = np.random.default_rng(1).normal(size=12)
# What a rate outside the buffer changes under cosine: measured 6 % of the largest weight here.
OUTSIDE_BOUND = 0.1


def gradient(theta: np.ndarray) -> np.ndarray:
    """Not linear, so that a small difference in the weights is not merely scaled."""
    return CURVATURE * np.tanh(theta - TARGET) + 0.1 * np.sin(3 * theta)


def cosine(t: int) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * t / STEPS)


def constant(t: int) -> float:
    return 1.0


def paper(
    optimizer: str, lr: float, decay: float, eta: Callable[[int], float] = cosine, eps: float = 1e-8
) -> np.ndarray:
    """Algorithms 1 and 2; `decay` is the paper's."""
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
    """The largest difference over the largest weight."""
    return float(np.abs(first - second).max() / np.abs(first).max())


def numbers(line: str) -> dict[str, float]:
    """The numbers that a pasted line names."""
    found = re.findall(r"(\w+)=(-?[\d.]+(?:e[-+]?\d+)?)", line)
    return {name: float(value) for name, value in found}


def run_torch(line: str, eta: Callable[[int], float] = cosine, **modules: object) -> np.ndarray:
    """Trains with the line itself, as a person would paste it; the rate follows `eta`, as torch's schedulers set it."""
    weights = torch.nn.Parameter(torch.tensor(THETA, dtype=torch.float64))
    optimizer = eval(line, {"params": [weights], "torch": torch, **modules})
    rate = optimizer.param_groups[0]["lr"]
    for t in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate * eta(t)
        weights.grad = torch.tensor(gradient(weights.detach().numpy()))
        optimizer.step()
    return weights.detach().numpy()


def outside_buffer(lr: float, eta: Callable[[int], float], shrink: Callable[[int], float]) -> np.ndarray:
    """SGD as torch and those upon it have it: a buffer of gradients, the decay (1 − shrink(t)) first."""
    theta, buffer = THETA.copy(), np.zeros(12)
    for t in range(STEPS):
        buffer = 0.9 * buffer + gradient(theta)
        theta = theta * (1 - shrink(t)) - lr * eta(t) * buffer
    return theta
