"""Runs the optimizers of `wdgrid.optim.algorithms` fast and in place, on flat [K, P] storage."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from wdgrid.optim.variants import VARIANTS, Decay

Coefficients = Mapping[str, Tensor]  # name → [K], or columns [K, 1]: what a step multiplies by
State = tuple[Tensor, ...]  # each [K, P]
Steps = float | Tensor  # one step's number, or those of T steps [T, 1]
Parts = Sequence[tuple[slice, float]]  # columns of [K, P] → what λ is multiplied by there

EVERYTHING: Parts = ((slice(None), 1.0),)


@dataclass(frozen=True, eq=False)
class Update:
    """A step of one algorithm without its decay.

    `initial` are the state's values before the first step. `coefficients(hyper, η_t α, η_t, t)` are what a step
    multiplies by, each [K] float64; of T steps, with η_t and t [T, 1], each [T, K] or [K]. `apply_(θ, state, g,
    coefficients)` changes θ [K, P] and the state; g [K, P] is used up, and the coefficients are columns [K, 1].
    `cpu_kernels` do the whole step of one cell, with its decay.
    """

    initial: tuple[float, ...]
    coefficients: Callable[[Coefficients, Tensor, Steps, Steps], dict[str, Tensor]]
    apply_: Callable[[Tensor, State, Tensor, Coefficients], None]
    cpu_kernels: Mapping[Decay, Callable[..., None]] = field(default_factory=dict[Decay, Callable[..., None]])


def _momentum(hyper: Coefficients, rate: Tensor, eta: Steps, t: Steps) -> dict[str, Tensor]:
    return {"momentum": hyper["momentum"], "rate": rate, "-rate": -rate}


def _momentum_(theta: Tensor, state: State, g: Tensor, now: Coefficients) -> None:
    (m,) = state
    m.mul_(now["momentum"]).addcmul_(g, now["rate"])
    theta.sub_(m)


def _library_momentum_(theta: Tensor, state: State, g: Tensor, now: Coefficients) -> None:
    (m,) = state
    m.mul_(now["momentum"]).add_(g)
    theta.addcmul_(m, now["-rate"])


def _adam(hyper: Coefficients, rate: Tensor, eta: Steps, t: Steps) -> dict[str, Tensor]:
    beta1, beta2 = hyper["beta1"], hyper["beta2"]
    betas = {"beta1": beta1, "1-beta1": 1 - beta1, "beta2": beta2, "1-beta2": 1 - beta2}
    return betas | {"bias2": 1 - beta2**t, "-rate/bias1": -rate / (1 - beta1**t), "eps": hyper["eps"]}


def _adam_(theta: Tensor, state: State, g: Tensor, now: Coefficients) -> None:
    m, v = state
    m.mul_(now["beta1"]).addcmul_(g, now["1-beta1"])
    v.mul_(now["beta2"]).addcmul_(g, g * now["1-beta2"])
    denominator = (v / now["bias2"]).sqrt_().add_(now["eps"])
    theta.addcmul_(m / denominator, now["-rate/bias1"])


def _adam_l2_cell_(*tensors: object, lr: float, decay: float, **hyper: float) -> None:
    torch.ops.aten._fused_adam_(*tensors, lr=lr, weight_decay=decay, **hyper, amsgrad=False, maximize=False)


def _adam_decoupled_cell_(*tensors: object, lr: float, decay: float, **hyper: float) -> None:
    """The kernel subtracts lr·weight_decay·θ; a frozen cell has no rate."""
    decay = decay / lr if lr else 0.0
    torch.ops.aten._fused_adamw_(*tensors, lr=lr, weight_decay=decay, **hyper, amsgrad=False, maximize=False)


def _kalman(hyper: Coefficients, rate: Tensor, eta: Steps, t: Steps) -> dict[str, Tensor]:
    kappa = (1 - hyper["beta2"]) * eta**2
    return {"eps": hyper["eps"], "kappa": kappa, "1-kappa": 1 - kappa, "-rate": -rate}


def _kalman_(theta: Tensor, state: State, g: Tensor, now: Coefficients) -> None:
    (s,) = state
    g.div_(now["eps"])
    s.mul_(now["1-kappa"]).add_(now["kappa"])
    s.div_((g * g).mul_(s).mul_(now["kappa"]).add_(1))
    theta.addcmul_(g.mul_(s), now["-rate"])


MOMENTUM = Update((0.0,), _momentum, _momentum_)  # Algorithm 1: the rate is inside of the buffer
LIBRARY_MOMENTUM = Update((0.0,), _momentum, _library_momentum_)  # torch.optim.SGD, timm: outside
ADAM_CELL = {
    Decay.GRADIENT: _adam_l2_cell_,
    Decay.PAPER: _adam_decoupled_cell_,
    Decay.LIBRARY: _adam_decoupled_cell_,
}  # measured in benchmarks/RESULTS.md
ADAM = Update((0.0, 0.0), _adam, _adam_, ADAM_CELL)
KALMAN = Update((1.0,), _kalman, _kalman_)
UPDATES = {
    "sgd": MOMENTUM,
    "sgdw": MOMENTUM,
    "adam": ADAM,
    "adamw": ADAM,
    "sgdw-torch": LIBRARY_MOMENTUM,
    "adamw-torch": ADAM,
    "kalman": KALMAN,
}


def _add_to_gradient_(theta: Tensor, g: Tensor, amount: Tensor) -> None:
    g.addcmul_(theta, amount)


def _shrink_(theta: Tensor, g: Tensor, amount: Tensor) -> None:
    theta.mul_(1 - amount)


# For each decay what λ is multiplied by, of (η_t α, η_t), and what the product does before the update.
DECAYS: dict[Decay, tuple[Callable[[Tensor, Steps], Steps], Callable[[Tensor, Tensor, Tensor], None]]] = {
    Decay.GRADIENT: (lambda rate, eta: 1.0, _add_to_gradient_),
    Decay.PAPER: (lambda rate, eta: eta, _shrink_),
    Decay.LIBRARY: (lambda rate, eta: rate, _shrink_),
}


@dataclass(frozen=True)
class Table:
    """The coefficients of T steps: `rows` [T, C, K, 1] on the weights' device and in their precision, by `names`."""

    names: list[str]
    rows: Tensor

    def at(self, i: int) -> dict[str, Tensor]:
        """The coefficients of step i (from 0) of the table."""
        return dict(zip(self.names, self.rows[i].unbind(0), strict=True))


class Rule:
    """The fast version of a variant: its state, its hyperparameters [K], and the update of θ [K, P] in place.

    Each cell is a row of contiguous storage, so no cell affects another. `parts` cover the columns, each with its decay
    multiplier.
    """

    def __init__(self, optimizer: str, theta: Tensor, hyper: Mapping[str, Tensor], parts: Parts = EVERYTHING) -> None:
        self.variant, self.update = VARIANTS[optimizer], UPDATES[optimizer]
        self.theta = theta
        self.state = tuple(torch.full_like(theta, value) for value in self.update.initial)
        self.hyper = {name: vector.double().cpu().clone() for name, vector in hyper.items()}
        self.parts = parts
        self._scale, self._decay_part_ = DECAYS[self.variant.decay]
        self.kernel = self.update.cpu_kernels.get(self.variant.decay) if theta.device.type == "cpu" else None

    def freeze(self, cells: Tensor) -> None:
        """Stops some cells ([K] bool): sets their weights, state, rate and decay to zero."""
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
        if self.kernel is None:
            self.apply_(gradient, self._columns(self.coefficients(eta, t, decay)))
        else:
            self._apply_cells_(self.kernel, gradient, *self._rate_and_decay(eta, decay), t)

    def coefficients(self, eta: float, t: int, decay: float = 1.0) -> dict[str, Tensor]:
        """The coefficients of step t (from 1) for `apply_`, each [K] float64 on the CPU; their names never change."""
        rate, amount = self._rate_and_decay(eta, decay)
        return self._decays(amount) | self.update.coefficients(self.hyper, rate, eta, t)

    def table(self, etas: Sequence[float], t: int, decays: Sequence[float]) -> Table:
        """The coefficients of several steps at once, the first of which is step t (from 1)."""
        eta, decay = (torch.tensor(numbers, dtype=torch.float64)[:, None] for numbers in (etas, decays))
        numbers = torch.arange(t, t + len(etas), dtype=torch.float64)[:, None]
        rate, amount = self._rate_and_decay(eta, decay)
        vectors = self._decays(amount) | self.update.coefficients(self.hyper, rate, eta, numbers)
        rows = [vector.expand(rate.shape) for vector in vectors.values()]
        return Table(list(vectors), torch.stack(rows, 1)[..., None].to(self.theta))

    def apply_(self, gradient: Tensor, now: Coefficients) -> None:
        """One step in place, with its coefficients as columns [K, 1] on θ's device and in its precision.

        `gradient` [K, P] is overwritten. The operations do not depend on Python numbers of this step, so a CUDA graph
        can record them.
        """
        self._decay_(gradient, now)
        self.update.apply_(self.theta, self.state, gradient, now)

    def _rate_and_decay(self, eta: Steps, decay: Steps) -> tuple[Tensor, Tensor]:
        """η_t α; and λ_t where it adds to the gradient, else the share by which θ_{t-1} shrinks. Each [K] or [T, K]."""
        rate = eta * self.hyper["lr"]
        return rate, decay * self.hyper["weight_decay"] * self._scale(rate, eta)

    def _columns(self, vectors: Coefficients) -> dict[str, Tensor]:
        return {name: vector.to(self.theta)[:, None] for name, vector in vectors.items()}

    @cached_property
    def _decayed(self) -> Parts:
        """The columns that decay; none where no cell's do."""
        return [part for part in self.parts if part[1]] if self.hyper["weight_decay"].any() else []

    def _decays(self, amount: Tensor) -> dict[str, Tensor]:
        return {f"decay{i}": m * amount for i, (_, m) in enumerate(self._decayed)}

    def _decay_(self, g: Tensor, now: Coefficients) -> None:
        for i, (columns, _) in enumerate(self._decayed):
            self._decay_part_(self.theta[:, columns], g[:, columns], now[f"decay{i}"])

    def _apply_cells_(self, kernel: Callable[..., None], g: Tensor, rate: Tensor, amount: Tensor, t: int) -> None:
        """One step by a kernel that updates one cell in each call, with one decay for all its weights."""
        if any(m != 1 for _, m in self.parts):
            self._decay_(g, self._columns(self._decays(amount)))
            amount = torch.zeros_like(amount)
        vectors = {"lr": rate, "decay": amount} | {n: v for n, v in self.hyper.items() if n in self.variant.defaults}
        steps = [torch.tensor(float(t))]
        for k, numbers in enumerate(zip(*(vector.tolist() for vector in vectors.values()), strict=True)):
            moments = [[moment[k]] for moment in self.state]
            kernel([self.theta[k]], [g[k]], *moments, [], steps, **dict(zip(vectors, numbers, strict=True)))
