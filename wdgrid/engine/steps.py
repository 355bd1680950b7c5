"""Runs the steps of an epoch and a test pass, one step at a time, for any network, rule and device."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from wdgrid import data as datasets
from wdgrid.engine.fused.kernels import cross_entropy, wrong
from wdgrid.engine.fused.network import FusedNetwork
from wdgrid.optim.fused import Rule, Table

Minibatch = tuple[Tensor, Tensor]  # x [B, …] as the network sees it, classes y [B]


class Stepwise:
    """Trains and tests the K cells of `network` by `rule`; step t (from 0) is at `etas[t]` and `decays[t]`."""

    def __init__(
        self, network: FusedNetwork, rule: Rule, etas: Sequence[float], decays: Sequence[float], seed: int
    ) -> None:
        self.network, self.rule = network, rule
        self.etas, self.decays, self.seed = etas, decays, seed

    def train(self, batches: Callable[[int], Minibatch], first: int, count: int) -> Tensor:
        """Steps `first` to `first + count − 1` on minibatches 0 to count − 1; the losses [count, K] float64 on the CPU.

        A cell whose loss is not finite is frozen before that step's update.
        """
        self._steps = first, first + count
        self._table = self._coefficients()
        return torch.stack([self._step(*batches(i), first + i, i) for i in range(count)]).double()

    def _step(self, x: Tensor, y: Tensor, t: int, row: int) -> Tensor:
        noise = datasets.counter(self.seed, t, datasets.NOISE) if self.network.kind.random else None
        losses = cross_entropy(self.network(x, training=True, noise=noise), y)
        self.network.backward(losses)
        losses = losses.detach().cpu()
        broken = ~losses.isfinite()
        if broken.any():
            self.freeze(broken)
            self._table = self._coefficients()
        if self.rule.kernel:
            self.rule.update_(self.network.gradient, self.etas[t], t + 1, self.decays[t])
        else:
            self.rule.apply_(self.network.gradient, self._table.at(row))
        return losses

    def _coefficients(self) -> Table:
        """The coefficients of all steps of an epoch."""
        first, end = self._steps
        return self.rule.table(self.etas[first:end], first + 1, self.decays[first:end])

    def freeze(self, cells: Tensor) -> None:
        """Stops some cells ([K] bool on the CPU): sets weights, moments, rate and decay to zero."""
        self.rule.freeze(cells)
        self.network.gradient[cells.to(self.network.gradient.device)] = 0

    @torch.no_grad()
    def test(self, batches: Iterable[Minibatch]) -> tuple[Tensor, Tensor]:
        """How many images are misclassified and the sum of their losses, each [K] float64 on the CPU."""
        errors = torch.zeros(self.network.cells, dtype=torch.float64)
        losses = torch.zeros(self.network.cells, dtype=torch.float64)
        for x, y in batches:
            logits = self.network(x, training=False)
            errors += wrong(logits, y).cpu()
            losses += cross_entropy(logits, y).cpu().double() * len(y)
        return errors, losses
