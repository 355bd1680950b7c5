"""The optimizers as the engine runs them: `wdgrid.optim.algorithms`, in place on flat [K, P] storage."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from wdgrid.optim.algorithms import L2, LIBRARY, init, is_adam

Coefficients = Mapping[str, Tensor]  # name → [K], or columns [K, 1]: what a step multiplies by
Parts = Sequence[tuple[slice, float]]  # columns of [K, P] → what λ is multiplied by there

EVERYTHING: Parts = ((slice(None), 1.0),)


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
