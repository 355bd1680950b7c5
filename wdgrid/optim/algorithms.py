"""Algorithms 1 and 2 of "Decoupled Weight Decay Regularization" (arXiv 1711.05101), the libraries' forms of them, and
the filter of the paper's section 3: each variant whole in one function, to be read beside the paper.

A function takes θ_{t-1}, ∇f_t(θ_{t-1}) (line 5), the state, the hyperparameters, η_t (`eta`, from
`wdgrid.optim.schedule`) and t, from 1. It returns θ_t and the new state, and changes nothing in place. Tensors are
[K, …] float64, one slice a cell, and the state before the first step is (). Numbers on the right are lines of the
algorithm. `wdgrid.optim.fused` is what the engine runs; tests compare the two step by step.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace as Hyper  # one column [K, 1, …] for each hyperparameter

from torch import Tensor, ones_like, zeros_like

State = tuple[Tensor, ...]  # each [K, …]
Stepped = tuple[Tensor, State]


def sgd(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, eta: float, t: int) -> Stepped:
    """Algorithm 1, SGD with L2 regularization and momentum."""
    alpha, beta1, lam = hyper.lr, hyper.momentum, hyper.weight_decay
    (m,) = state or (zeros_like(theta),)  # 2
    g = gradient + lam * theta  # 6
    m = beta1 * m + eta * alpha * g  # 7, 8
    return theta - m, (m,)  # 9


def sgdw(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, eta: float, t: int) -> Stepped:
    """Algorithm 1, SGD with decoupled weight decay (SGDW) and momentum."""
    alpha, beta1, lam = hyper.lr, hyper.momentum, hyper.weight_decay
    (m,) = state or (zeros_like(theta),)  # 2
    g = gradient  # 6
    m = beta1 * m + eta * alpha * g  # 7, 8
    return theta - m - eta * lam * theta, (m,)  # 9


def adam(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, eta: float, t: int) -> Stepped:
    """Algorithm 2, Adam with L2 regularization."""
    alpha, beta1, beta2, eps, lam = hyper.lr, hyper.beta1, hyper.beta2, hyper.eps, hyper.weight_decay
    m, v = state or (zeros_like(theta), zeros_like(theta))  # 2
    g = gradient + lam * theta  # 6
    m = beta1 * m + (1 - beta1) * g  # 7
    v = beta2 * v + (1 - beta2) * g**2  # 8
    m_hat = m / (1 - beta1**t)  # 9
    v_hat = v / (1 - beta2**t)  # 10
    return theta - eta * (alpha * m_hat / (v_hat.sqrt() + eps)), (m, v)  # 11, 12


def adamw(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, eta: float, t: int) -> Stepped:
    """Algorithm 2, Adam with decoupled weight decay (AdamW)."""
    alpha, beta1, beta2, eps, lam = hyper.lr, hyper.beta1, hyper.beta2, hyper.eps, hyper.weight_decay
    m, v = state or (zeros_like(theta), zeros_like(theta))  # 2
    g = gradient  # 6
    m = beta1 * m + (1 - beta1) * g  # 7
    v = beta2 * v + (1 - beta2) * g**2  # 8
    m_hat = m / (1 - beta1**t)  # 9
    v_hat = v / (1 - beta2**t)  # 10
    return theta - eta * (alpha * m_hat / (v_hat.sqrt() + eps) + lam * theta), (m, v)  # 11, 12


def sgdw_torch(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, eta: float, t: int) -> Stepped:
    """SGDW as timm.optim.SGDW has it (`timm/optim/sgdw.py`, 1.0.31, no dampening): momentum as in torch.optim.SGD.

    The rate is outside of the buffer, and the decay is multiplied by it. `rate` is the library's lr in step t.
    """
    rate = eta * hyper.lr
    (buffer,) = state or (zeros_like(theta),)
    shrunk = theta * (1 - rate * hyper.weight_decay)  # param.mul_(1 - lr * weight_decay)
    buffer = hyper.momentum * buffer + gradient  # buf.mul_(momentum).add_(grad)
    return shrunk - rate * buffer, (buffer,)  # param.add_(buf, alpha=-lr)


def adamw_torch(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, eta: float, t: int) -> Stepped:
    """AdamW as torch.optim.AdamW has it (the algorithm in the documentation of torch 2.15).

    The decay is multiplied by the rate. `rate` is the library's lr in step t.
    """
    rate, beta1, beta2 = eta * hyper.lr, hyper.beta1, hyper.beta2
    m, v = state or (zeros_like(theta), zeros_like(theta))
    shrunk = theta - rate * hyper.weight_decay * theta  # θ_t ← θ_{t-1} − γ λ θ_{t-1}
    m = beta1 * m + (1 - beta1) * gradient
    v = beta2 * v + (1 - beta2) * gradient**2
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return shrunk - rate * m_hat / (v_hat.sqrt() + hyper.eps), (m, v)


def kalman(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, eta: float, t: int) -> Stepped:
    """Section 3 of the paper, after Aitchison (arXiv 1807.07540): a Kalman filter for each weight.

    The state s is the posterior variance as a share of the prior's, α²/κ with κ = 1 − β2 (not a valley's slope):

        θ⁻  = (1 − η_t λ) θ_{t-1} ;  s⁻ = s_{t-1} + κ η_t² (1 − s_{t-1})     state transition
        1/s_t = 1/s⁻ + κ (η_t g_t/ε)²                                        observation, its precision the squared g_t
        θ_t = θ⁻ − η_t (α/ε) s_t g_t                                         posterior variance × gradient

    Steady: s = 2/(1 + √(1 + 4 g²/ε²)). Gradients far above ε make it Adam's α g/√⟨g²⟩, far below SGD of rate α/ε.
    """
    alpha, kappa, eps, lam = hyper.lr, 1 - hyper.beta2, hyper.eps, hyper.weight_decay
    (s,) = state or (ones_like(theta),)
    g = gradient
    predicted = (1 - eta * lam) * theta
    s = s + kappa * eta**2 * (1 - s)
    s = s / (1 + kappa * (eta * g / eps) ** 2 * s)
    return predicted - eta * (alpha / eps) * s * g, (s,)


ALGORITHMS: dict[str, Callable[[Tensor, Tensor, State, Hyper, float, int], Stepped]] = {
    "sgd": sgd,
    "sgdw": sgdw,
    "adam": adam,
    "adamw": adamw,
    "sgdw-torch": sgdw_torch,
    "adamw-torch": adamw_torch,
    "kalman": kalman,
}


def step(
    optimizer: str,
    theta: Tensor,
    gradient: Tensor,
    state: State,
    hyper: Mapping[str, Tensor],
    eta: float,
    t: int,
    multipliers: Tensor | float = 1.0,
) -> Stepped:
    """One step of a variant, with hyperparameters as vectors [K].

    `multipliers` (of θ's shape, or broadcast to it) are what λ is multiplied by for each weight.
    """
    shape = -1, *[1] * (theta.dim() - 1)
    columns = {name: vector.double().view(shape) for name, vector in hyper.items()}
    columns["weight_decay"] = columns["weight_decay"] * multipliers
    return ALGORITHMS[optimizer](theta, gradient, state, Hyper(**columns), eta, t)
