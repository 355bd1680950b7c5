"""Runs training steps on a GPU without waiting for it, except once an epoch.

A step reads and writes tensors at fixed addresses: its minibatch, its rule's coefficients, its losses, weights, moments
and statistics. It uses no Python number that changes from step to step and never waits for the device, so a recording
of one step (`wdgrid.engine.cuda.graph`) can be replayed for all steps. It runs on any device.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wdgrid import data as datasets
from wdgrid.engine.fused.kernels import cross_entropy
from wdgrid.engine.fused.network import FusedNetwork
from wdgrid.engine.steps import Minibatch, Stepwise
from wdgrid.optim.fused import Rule

Step = Callable[[], None]
Record = Callable[[Step], Step | None]  # may run the step; returns a function that replays it, or None


class Resident(Stepwise):
    """Like Stepwise, but freezes cells with masks on the device.

    On a CPU the results equal Stepwise's to the bit, if those of the update rule do. `record` is called with the step
    before the first step; everything that it changes is restored.
    """

    def __init__(
        self,
        network: FusedNetwork,
        rule: Rule,
        etas: Sequence[float],
        decays: Sequence[float],
        seed: int,
        record: Record | None = None,
    ) -> None:
        super().__init__(network, rule, etas, decays, seed)
        self._record = record
        self._replay: Step | None = None
        self._names = rule.table(etas[:1], 1, decays[:1]).names
        self._now = network.theta.new_zeros(len(self._names), network.cells, 1)
        self._losses = network.theta.new_zeros(network.cells)
        self._frozen = torch.zeros_like(self._losses, dtype=torch.bool)
        self._x = self._y = self._losses  # replaced by a minibatch's tensors in the first step

    def train(self, batches: Callable[[int], Minibatch], first: int, count: int) -> Tensor:
        """Like Stepwise.train, but waits for the device only at the end."""
        steps = slice(first, first + count)
        table = self.rule.table(self.etas[steps], first + 1, self.decays[steps]).rows
        losses = self._losses.new_empty(count, self.network.cells)
        for i in range(count):
            self._load(*batches(i), table[i])
            if self._record:
                self._replay = self._recorded(self._record)
                self._record = None
            self.network.seed(datasets.counter(self.seed, first + i, datasets.NOISE))
            (self._replay or self._step_here)()
            losses[i].copy_(self._losses)
        losses = losses.double().cpu()
        broken = ~losses.isfinite().all(0)
        if broken.any():
            self.freeze(broken)
        return losses

    def _load(self, x: Tensor, y: Tensor, now: Tensor) -> None:
        """Copies a minibatch x [B, …], y [B] and coefficients [C, K, 1] to the tensors that the step reads."""
        if self._x is self._losses:
            self._x, self._y = torch.empty_like(x), torch.empty_like(y)
        self._x.copy_(x)
        self._y.copy_(y)
        self._now.copy_(now)

    def _recorded(self, record: Record) -> Step | None:
        changed = [self.network.theta, *self.rule.state, *self.network.buffers.values(), self._frozen]
        before = [tensor.cpu().clone() for tensor in changed]  # on the host, because device memory may be short
        try:
            return record(self._step_here)
        finally:
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)

    def _step_here(self) -> None:
        """One step on the loaded minibatch.

        Sets the weights of a cell whose loss is not finite to zero (by a mask, because NaN · 0 is NaN). Its moments are
        reset at the end of the epoch, when the cell is frozen.
        """
        losses = cross_entropy(self.network(self._x, training=True, noise=None), self._y)
        self.network.backward(losses)
        self._losses.copy_(losses.detach())
        self._frozen.logical_or_(self._losses.isfinite().logical_not_())
        self.rule.apply_(self.network.gradient, dict(zip(self._names, self._now, strict=True)))
        self.network.theta.masked_fill_(self._frozen[:, None], 0)
