"""Algorithms 1 and 2 of "Decoupled Weight Decay Regularization", for K cells at once, the libraries' forms, and the
filter of its section 3.

Every function is pure: (θ, gradient, state) → (θ, state). Tensors are [K, …], one slice a cell; hyperparameters are
[K] vectors (α `lr`, λ `weight_decay`, β1, β2, ε), η a number, t the step from 1. `Rule.update_` is the fast twin that
the engine uses on flat [K, P] storage; tests/test_optim.py ties the two together. docs/theory.md says which line of the
paper stands where.

Knows nothing of networks, schedules or of what a cell means.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

Hyperparameters = Mapping[str, Tensor]  # name → [K]
State = tuple[Tensor, ...]  # each [K, …]
Coefficients = Mapping[str, Tensor]  # name → [K], or columns [K, 1]: what a step multiplies by
Parts = Sequence[tuple[slice, float]]  # columns of [K, P] → what λ is multiplied by there

L2 = frozenset({"sgd", "adam"})
LIBRARY = frozenset({"sgdw-torch", "adamw-torch"})
EVERYTHING: Parts = ((slice(None), 1.0),)


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


class Rule:
    """The fast twin: updates θ [K, P] in place, its state and its hyperparameters [K] kept together.

    Cells are rows of contiguous storage, so nothing that one row holds can reach another. `parts` cover the columns
    and say what λ is multiplied by in each.
    """

    def __init__(self, optimizer: str, theta: Tensor, hyper: Mapping[str, Tensor], parts: Parts = EVERYTHING) -> None:
        self.optimizer = optimizer
        self.theta = theta
        self.state = init(optimizer, theta)
        self.hyper = {name: vector.double().cpu().clone() for name, vector in hyper.items()}
        self.parts = parts
        # The fused CPU kernels take one cell a call: measured, 15 µs for 14 000 parameters.
        self._kernel = is_adam(optimizer) and theta.device.type == "cpu"

    def freeze(self, cells: Tensor) -> None:
        """Stops some cells ([K] bool): weights, state, rate and decay zero from here on."""
        for tensor in (self.theta, *self.state):
            tensor[cells.to(tensor.device)] = 0
        for name in ("lr", "weight_decay"):
            self.hyper[name][cells.cpu()] = 0

    def decayed_squares(self) -> Tensor:
        """Σ m_i θ_i² of each cell [K] in float64 on the CPU, m_i what λ is multiplied by."""
        total = sum(m * self.theta[:, columns].double().square().sum(dim=1) for columns, m in self.parts)
        return torch.as_tensor(total).cpu()

    def update_(self, gradient: Tensor, eta: float, t: int, decay: float = 1.0) -> None:
        """One step in place. `gradient` [K, P] is used up; `decay` multiplies λ (normalised decay)."""
        if not self._kernel:
            self.apply_(gradient, self._columns(self.coefficients(eta, t, decay)))
            return
        rate, shrink = self._rate_and_decay(eta, decay)
        if any(m != 1 for _, m in self.parts):  # the kernel takes one decay for all weights of a call
            self._decay_(gradient, self._columns(self._decays(shrink)))
            shrink = torch.zeros_like(shrink)
        self._adam_kernel_(gradient, rate, shrink, t)

    def coefficients(self, eta: float, t: int, decay: float = 1.0) -> dict[str, Tensor]:
        """What step t (from 1) changes in `apply_`, each [K] float64 on the CPU; the names are the rule's for good."""
        rate, shrink = self._rate_and_decay(eta, decay)
        hyper, decays = self.hyper, self._decays(shrink)
        if self.optimizer == "kalman":
            kappa = (1 - hyper["beta2"]) * eta**2
            return decays | {"eps": hyper["eps"], "kappa": kappa, "1-kappa": 1 - kappa, "-rate": -rate}
        if is_adam(self.optimizer):
            beta1, beta2 = hyper["beta1"], hyper["beta2"]
            betas = {"beta1": beta1, "1-beta1": 1 - beta1, "beta2": beta2, "1-beta2": 1 - beta2}
            return decays | betas | {"bias2": 1 - beta2**t, "-rate/bias1": -rate / (1 - beta1**t), "eps": hyper["eps"]}
        return decays | {"momentum": hyper["momentum"], "rate": rate, "-rate": -rate}

    def apply_(self, gradient: Tensor, now: Coefficients) -> None:
        """One step in place, with its coefficients as columns [K, 1] on θ's device and in its precision.

        `gradient` [K, P] is used up. Nothing here depends on a number of this step that Python knows, so a CUDA graph
        may hold it.
        """
        self._decay_(gradient, now)
        if is_adam(self.optimizer):
            self._adam_(gradient, now)
        elif self.optimizer == "kalman":
            self._kalman_(gradient, now)
        else:
            self._sgd_(gradient, now)

    def _rate_and_decay(self, eta: float, decay: float) -> tuple[Tensor, Tensor]:
        """η_t α; and λ_t where it adds to the gradient, else the share by which θ_{t-1} shrinks. Each [K]."""
        rate, lam = eta * self.hyper["lr"], decay * self.hyper["weight_decay"]
        if self.optimizer in L2:
            return rate, lam
        return rate, lam * (rate if self.optimizer in LIBRARY else eta)

    def _columns(self, vectors: Coefficients) -> dict[str, Tensor]:
        return {name: vector.to(self.theta)[:, None] for name, vector in vectors.items()}

    @cached_property
    def _decayed(self) -> Parts:
        """The columns that decay; none where no cell's do."""
        return [part for part in self.parts if part[1]] if self.hyper["weight_decay"].any() else []

    def _decays(self, shrink: Tensor) -> dict[str, Tensor]:
        return {f"decay{i}": m * shrink for i, (_, m) in enumerate(self._decayed)}

    def _decay_(self, g: Tensor, now: Coefficients) -> None:
        """What decay does in this step: L2 adds to the gradient, the decoupled forms shrink θ_{t-1}."""
        for i, (columns, _) in enumerate(self._decayed):
            theta = self.theta[:, columns]
            if self.optimizer in L2:
                g[:, columns].addcmul_(theta, now[f"decay{i}"])
            else:
                theta.mul_(1 - now[f"decay{i}"])

    def _sgd_(self, g: Tensor, now: Coefficients) -> None:
        (m,) = self.state
        m.mul_(now["momentum"])
        if self.optimizer == "sgdw-torch":
            m.add_(g)
            self.theta.addcmul_(m, now["-rate"])
        else:
            m.addcmul_(g, now["rate"])
            self.theta.sub_(m)

    def _adam_(self, g: Tensor, now: Coefficients) -> None:
        m, v = self.state
        m.mul_(now["beta1"]).addcmul_(g, now["1-beta1"])
        v.mul_(now["beta2"]).addcmul_(g, g * now["1-beta2"])
        denominator = (v / now["bias2"]).sqrt_().add_(now["eps"])
        self.theta.addcmul_(m / denominator, now["-rate/bias1"])

    def _kalman_(self, g: Tensor, now: Coefficients) -> None:
        (s,) = self.state
        g.div_(now["eps"])
        s.mul_(now["1-kappa"]).add_(now["kappa"])
        s.div_((g * g).mul_(s).mul_(now["kappa"]).add_(1))
        self.theta.addcmul_(g.mul_(s), now["-rate"])

    def _adam_kernel_(self, g: Tensor, rate: Tensor, decay: Tensor, t: int) -> None:
        """torch's fused CPU kernel, a cell a call. Its decoupled form subtracts lr·wd·θ: wd = shrink/rate."""
        m, v = self.state
        kernel = torch.ops.aten._fused_adam_ if self.optimizer in L2 else torch.ops.aten._fused_adamw_
        now = [torch.tensor(float(t))]
        columns = (rate, decay, self.hyper["beta1"], self.hyper["beta2"], self.hyper["eps"])
        for k, (lr, wd, beta1, beta2, eps) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
            if self.optimizer not in L2:
                wd = wd / lr if lr else 0.0
            kernel(
                [self.theta[k]], [g[k]], [m[k]], [v[k]], [], now,
                lr=lr, beta1=beta1, beta2=beta2, weight_decay=wd, eps=eps, amsgrad=False, maximize=False,
            )  # fmt: skip
