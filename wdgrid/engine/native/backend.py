"""Trains MLPs on a CPU with compiled code (native.c): one cell after another, several steps in one call.

The weights, moments and activations of K cells do not fit into a core's cache; those of one cell do. For layers this
small, calling PyTorch takes as long as the computation. native.c works on the engine's own tensors.
`wdgrid.engine.native.matcher` finds the networks that native.c can train.
"""

import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence
from ctypes import POINTER, Structure, byref, c_double, c_int64, c_void_p
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wdgrid.engine.fused.network import FusedNetwork
from wdgrid.engine.native.compiler import library
from wdgrid.engine.steps import Minibatch
from wdgrid.optim import fused
from wdgrid.optim.fused import Rule
from wdgrid.optim.variants import Decay

SOURCE = Path(__file__).with_name("native.c")
FLAGS = {torch.float32: (), torch.float64: ("-DDOUBLE",)}
LINEAR, NORM, RELU = range(3)  # as in native.c
SGD, ADAM, KALMAN = range(3)
# The updates that native.c implements: its kind, whether the learning rate is inside the momentum, and where β1 is.
COMPILED = {
    fused.MOMENTUM: (SGD, True, "momentum"),
    fused.LIBRARY_MOMENTUM: (SGD, False, "momentum"),
    fused.ADAM: (ADAM, True, "beta1"),
    fused.KALMAN: (KALMAN, True, "none"),
}
BLOCK_BYTES = 1024**2  # of images per call; they stay in the cache while one cell after another is trained on them
TEST_ROWS = 48  # least number of images that a test passes through the network together


class Chain(NamedTuple):
    """A network that native.c can train: its layers in order, and their names in the module."""

    names: list[str]
    layers: list[nn.Module]


def code(dtype: torch.dtype) -> ctypes.CDLL | None:
    """native.c compiled for this dtype; None if it cannot be compiled or loaded."""
    return library(SOURCE, *FLAGS[dtype]) if dtype in FLAGS else None


def works() -> bool:
    """Whether native.c can be compiled and loaded on this machine."""
    return code(torch.float32) is not None


class _Layer(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("kind", "inputs", "outputs", "weight", "bias")),
        *((name, c_double) for name in ("momentum", "eps")),
        *((name, c_void_p) for name in ("running_mean", "running_var", "out", "normalised", "scale", "transposed")),
    )


class _Network(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("layers", "cells", "width")),
        ("layer", POINTER(_Layer)),
        *((name, c_void_p) for name in ("theta", "gradient")),
        ("rows", c_int64),
        *((name, c_void_p) for name in ("out_gradient", "in_gradient", "sums", "scratch")),
    )


class _Rule(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("kind", "lr_in_momentum", "l2", "decay_times_lr")),
        *((name, c_void_p) for name in ("first", "second", "lr", "weight_decay", "beta1", "beta2", "eps")),
        ("groups", c_int64),
        *((name, c_void_p) for name in ("ends", "multiplier")),
    )


class _Batches(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("steps", "images", "first")),
        *((name, c_void_p) for name in ("x", "y", "eta", "decay")),
    )


class Native:
    """Trains and tests K cells in compiled code, with the interface of `wdgrid.engine.steps.Stepwise`.

    `etas` holds η_t and `decays` the multiplier of λ, one number per step; `batch` is the number of images in a
    minibatch. Updates the tensors of `network` and `rule` in place.
    """

    def __init__(
        self,
        chain: Chain,
        network: FusedNetwork,
        rule: Rule,
        etas: Sequence[float],
        decays: Sequence[float],
        batch: int,
    ) -> None:
        self._network, self._rule = network, rule
        compiled = code(network.theta.dtype)
        if compiled is None:
            raise RuntimeError("native.c can no longer be compiled")  # it was compiled when the network was matched
        self._code = compiled
        self._etas, self._decays = (torch.tensor(numbers, dtype=torch.float64) for numbers in (etas, decays))
        self._alive = torch.ones(network.cells, dtype=torch.bool)
        self._memory: list[Tensor] = []  # working memory of native.c, referenced here so that it is not freed
        self._counters = [network.buffers[f"{n}.num_batches_tracked"] for n in chain.names if _is_norm(network, n)]
        rows = max(batch, TEST_ROWS)
        layers = self._layers(chain, rows)
        cells, width = network.theta.shape
        widest = max(max(layer.inputs, layer.outputs) for layer in layers)
        self._of_network = _Network(
            len(layers), cells, width, (_Layer * len(layers))(*layers),
            network.theta.data_ptr(), self._new(width), rows,
            self._new(rows, widest), self._new(rows, widest), self._new(widest), self._new(widest, widest),
        )  # fmt: skip
        self._of_rule = self._update_rule()

    def train(self, batches: Callable[[int], Minibatch], first: int, count: int) -> Tensor:
        """Runs steps `first` (from 0) to first + count − 1 on minibatches batches(0) to batches(count − 1).

        Returns losses [count, K] float64. A cell whose loss is not finite is frozen before that step's update; the
        losses of a frozen cell are NaN.
        """
        if self._rule.update not in COMPILED:
            return torch.cat([self._step(*batches(i), first + i) for i in range(count)])
        before, losses = self._alive.clone(), []
        for x, y in _blocks(batches, count):
            losses.append(self._call(x, y, first))
            first += len(x)
        if (frozen := before & ~self._alive).any():
            self._rule.freeze(frozen)
        return torch.cat(losses)

    def _step(self, x: Tensor, y: Tensor, t: int) -> Tensor:
        """Step t (from 0) with the update in torch, if native.c does not implement it; the losses [1, K]."""
        before, gradient = self._alive.clone(), self._network.gradient
        losses = self._call(x[None], y[None], t, gradient)
        if (frozen := before & ~self._alive).any():
            self._rule.freeze(frozen)
        gradient[~self._alive] = 0
        self._rule.update_(gradient, self._etas[t].item(), t + 1, self._decays[t].item())
        return losses

    def gradients(self, x: Tensor, y: Tensor) -> Tensor:
        """The losses [K] of one minibatch x [B, …], y [B]. Writes their gradients to the network's `gradient`."""
        return self._call(x[None], y[None], 0, self._network.gradient)[0]

    def test(self, batches: Iterable[Minibatch]) -> tuple[Tensor, Tensor]:
        """Numbers of misclassified images and sums of losses, each [K] float64; the loss of a frozen cell is NaN."""
        errors, losses = (torch.zeros(self._network.cells, dtype=torch.float64) for _ in range(2))
        for x, y in batches:
            wrong, loss = torch.empty_like(errors, dtype=torch.int64), torch.empty_like(losses)
            rows, y = self._rows(x, len(x)), y.contiguous()
            self._code.test(byref(self._of_network), c_int64(len(y)), *_pointers(rows, y, self._alive, wrong, loss))
            errors += wrong
            losses += loss
        return errors, losses

    def freeze(self, cells: Tensor) -> None:
        """Stops training some cells ([K] bool): sets their weights, moments, learning rate and weight decay to zero."""
        self._alive &= ~cells
        self._rule.freeze(cells)

    def _call(self, x: Tensor, y: Tensor, first: int, gradients: Tensor | None = None) -> Tensor:
        """Losses [S, K] of steps on x [S, B, …], y [S, B]."""
        losses = torch.empty(len(x), self._network.cells, dtype=torch.float64)
        rows, y = self._rows(x, y.numel()), y.contiguous()
        etas, decays = self._etas[first:], self._decays[first:]
        batches = _Batches(*y.shape, first, *(tensor.data_ptr() for tensor in (rows, y, etas, decays)))
        into = c_void_p(None) if gradients is None else _pointers(gradients)[0]
        self._code.train(
            byref(self._of_network), byref(self._of_rule), byref(batches), *_pointers(self._alive, losses), into
        )
        for counter in self._counters:
            counter += len(x)
        return losses

    def _rows(self, x: Tensor, n: int) -> Tensor:
        """x as n rows, each padded with zeros to whole vectors."""
        x = x.reshape(n, -1)
        missing = self._padded(x.shape[1]) - x.shape[1]
        return (F.pad(x, (0, missing)) if missing else x).contiguous()

    def _padded(self, n: int) -> int:
        lanes = self._code.lanes()
        return -(-n // lanes) * lanes

    def _new(self, *shape: int) -> int:
        """Address of new zeros of this shape, rows padded to whole vectors."""
        *rows, last = shape
        self._memory.append(self._network.theta.new_zeros(*rows, self._padded(last)))
        return self._memory[-1].data_ptr()

    def _layers(self, chain: Chain, rows: int) -> list[_Layer]:
        """The layers as native.c's structs."""
        columns, buffers, found = self._network.columns, self._network.buffers, []
        for name, module in zip(chain.names, chain.layers, strict=True):
            features = found[-1].outputs if found else 0
            layer = _Layer(RELU, features, features)
            if isinstance(module, nn.Linear):
                layer = _Layer(LINEAR, module.in_features, module.out_features)
                layer.transposed = self._new(layer.inputs, layer.outputs)
            elif isinstance(module, nn.BatchNorm1d):
                layer = _Layer(NORM, features, features, momentum=module.momentum, eps=module.eps)
                layer.running_mean = buffers[f"{name}.running_mean"].data_ptr()
                layer.running_var = buffers[f"{name}.running_var"].data_ptr()
                layer.normalised, layer.scale = self._new(rows, features), self._new(features)
            if layer.kind != RELU:
                layer.weight = columns[f"{name}.weight"].start
                layer.bias = columns[f"{name}.bias"].start if f"{name}.bias" in columns else -1
            layer.out = self._new(rows, layer.outputs)
            found.append(layer)
        return found

    def _update_rule(self) -> _Rule:
        """The update rule as native.c's struct."""
        rule, decay = self._rule, self._rule.variant.decay
        # If native.c has no such update, it computes gradients only, and sets the tensors passed as moments to zero in
        # a cell that diverged.
        kind, inside, beta1 = COMPILED.get(rule.update, (SGD, True, "momentum"))
        moments = [moment.data_ptr() for moment in rule.state[:2] or (rule.theta,)]
        nothing = torch.zeros(self._network.cells, dtype=torch.float64)
        names = ("lr", "weight_decay", beta1, "beta2", "eps")
        hyper = [rule.hyper.get(name, nothing) for name in names]
        ends = torch.tensor([columns.indices(rule.theta.shape[1])[1] for columns, _ in rule.parts])
        times = torch.tensor([m for _, m in rule.parts], dtype=torch.float64)
        self._memory += [nothing, ends, times]
        return _Rule(
            kind, inside, decay is Decay.GRADIENT, decay is Decay.LIBRARY,
            *moments, *[None] * (2 - len(moments)), *(tensor.data_ptr() for tensor in hyper),
            len(rule.parts), ends.data_ptr(), times.data_ptr(),
        )  # fmt: skip


def _is_norm(network: FusedNetwork, name: str) -> bool:
    return f"{name}.num_batches_tracked" in network.buffers


def _pointers(*tensors: Tensor) -> list[c_void_p]:
    return [c_void_p(tensor.data_ptr()) for tensor in tensors]


def _blocks(batches: Callable[[int], Minibatch], count: int) -> Iterator[Minibatch]:
    """Groups minibatches of equal size as x [S, B, …], y [S, B]: as many as fit into BLOCK_BYTES, at least one."""
    several: list[Minibatch] = []
    for x, y in map(batches, range(count)):
        if several and (x.shape != several[0][0].shape or (len(several) + 1) * x.nbytes > BLOCK_BYTES):
            yield _stacked(several)
            several = []
        several.append((x, y))
    if several:
        yield _stacked(several)


def _stacked(several: list[Minibatch]) -> Minibatch:
    x, y = zip(*several, strict=True)
    return torch.stack(x), torch.stack(y)
