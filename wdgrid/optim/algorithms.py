"""Algorithms 1 and 2 of "Decoupled Weight Decay Regularization", for K cells at once, the libraries' forms, and the
filter of its section 3.

Every function is pure: (θ, gradient, state) → (θ, state). Tensors are [K, …], one slice a cell; hyperparameters are
[K] vectors (α `lr`, λ `weight_decay`, β1, β2, ε), η a number, t the step from 1. `wdgrid.optim.fused.Rule.update_` is
the fast twin that the engine uses on flat [K, P] storage; tests/optim/test_optim.py ties the two together.
docs/theory.md says which line of the paper stands where.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

Hyperparameters = Mapping[str, Tensor]  # name → [K]
State = tuple[Tensor, ...]  # each [K, …]

L2 = frozenset({"sgd", "adam"})
LIBRARY = frozenset({"sgdw-torch", "adamw-torch"})


def is_adam(optimizer: str) -> bool:
    """Whether a variant is one of Adam (two moments)."""
    return optimizer.startswith("adam")


def init(optimizer: str, theta: Tensor) -> State:
    """State before the first step for θ [K, …]: (m,) = 0 for SGD, (m, v) = 0 for Adam, (s,) = 1 for the filter."""
    if optimizer == "kalman":
        return (torch.ones_like(theta),)
    return tuple(torch.zeros_like(theta) for _ in range(2 if is_adam(optimizer) else 1))


def step(
    optimizer: str,
    theta: Tensor,
    gradient: Tensor,
    state: State,
    hyper: Hyperparameters,
    eta: float,
    t: int,
    multipliers: Tensor | float = 1.0,
) -> tuple[Tensor, State]:
    """One step of any variant: θ, ∇f [K, …] and the state in, θ_t and the new state out.

    `multipliers` (of θ's shape, or broadcast to it) are what λ is multiplied by for each weight.
    """
    h = {name: _broadcast(vector, theta) for name, vector in hyper.items()}
    alpha, lam = h["lr"], h["weight_decay"] * multipliers
    g = gradient + lam * theta if optimizer in L2 else gradient
    if optimizer == "kalman":
        direction, state = _kalman(g, state, h["beta2"], h["eps"], eta)
        move = eta * alpha * direction
    elif is_adam(optimizer):
        direction, state = _adam(g, state, h["beta1"], h["beta2"], h["eps"], t)
        move = eta * alpha * direction
    else:
        move, state = _momentum(g, state, h["momentum"], eta * alpha, inside=optimizer != "sgdw-torch")
    if optimizer in L2:
        return theta - move, state
    decay = eta * alpha * lam if optimizer in LIBRARY else eta * lam
    return theta - move - decay * theta, state


def _momentum(g: Tensor, state: State, beta1: Tensor, rate: Tensor, *, inside: bool) -> tuple[Tensor, State]:
    """Algorithm 1, line 8: m_t = β1 m_{t-1} + η_t α g_t. torch and timm keep the rate outside of the buffer."""
    (m,) = state
    if inside:
        m = beta1 * m + rate * g
        return m, (m,)
    m = beta1 * m + g
    return rate * m, (m,)


def _adam(g: Tensor, state: State, beta1: Tensor, beta2: Tensor, eps: Tensor, t: int) -> tuple[Tensor, State]:
    """Algorithm 2, lines 7 to 10 and the direction m̂/(√v̂ + ε) of line 12."""
    m, v = state
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    # 1 − β^t cancels in float32: 1e-3 relative at small t.
    m_hat = m / (1 - beta1.double() ** t).to(m.dtype)
    v_hat = v / (1 - beta2.double() ** t).to(v.dtype)
    return m_hat / (v_hat.sqrt() + eps), (m, v)


def _kalman(g: Tensor, state: State, beta2: Tensor, eps: Tensor, eta: float) -> tuple[Tensor, State]:
    """Section 3, after Aitchison (arXiv 1807.07540): a Kalman filter for each weight; the direction is s_t g_t/ε.

    The state s is the posterior variance as a share of the prior's, α²/κ with κ = 1 − β2 (not a valley's slope):

        θ⁻  = (1 − η_t λ) θ_{t-1} ;  s⁻ = s_{t-1} + κ η_t² (1 − s_{t-1})     state transition
        1/s_t = 1/s⁻ + κ (η_t g_t/ε)²                                        observation, its precision the squared g_t
        θ_t = θ⁻ − η_t (α/ε) s_t g_t                                         posterior variance × gradient

    Steady: s = 2/(1 + √(1 + 4 g²/ε²)). Gradients far above ε make it Adam's α g/√⟨g²⟩, far below SGD of rate α/ε.
    """
    (s,) = state
    kappa = (1 - beta2) * eta**2
    s = s + kappa * (1 - s)
    s = s / (1 + kappa * (g / eps) ** 2 * s)
    return s * g / eps, (s,)


def _broadcast(vector: Tensor, theta: Tensor) -> Tensor:
    return vector.to(theta.dtype).view(-1, *[1] * (theta.dim() - 1))
