"""The backends that run the unchanged module: all cells under vmap, or one cell after another."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from wdgrid.engine.fused.layouts import innermost
from wdgrid.engine.randomness import generators, preserved, restore, states

# An operator without a batching rule is slower under vmap; torch prints a warning for each.
torch._C._functorch._set_vmap_fallback_warning_enabled(False)  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]

Tensors = Mapping[str, Tensor]


class Mapped:
    """The vmap backend."""

    def __init__(self, module: nn.Module) -> None:
        self.modes = {mode: copy.deepcopy(module).train(mode) for mode in (True, False)}

    def __call__(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, training: bool) -> Tensor:
        """Logits [K, B, C]."""

        def one(p: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
            return functional_call(self.modes[training], (p, b), (x,))

        return vmap(one, randomness="same")(parameters, buffers)


class Looped:
    """The one-by-one backend: one module per cell, whose parameters and buffers are rows of the [K, …] storage.

    Apart from one copy of the gradients, a step calls only what a plain loop calls. If the network draws random
    numbers, each cell starts from the same generator states, also in the backward pass, where a user's own code may
    draw.
    """

    def __init__(
        self, module: nn.Module, parameters: Tensors, buffers: Tensors, gradients: Tensors, x: Tensor, *, random: bool
    ) -> None:
        self._random = random
        self._modules = [copy.deepcopy(module).train() for _ in range(len(next(iter(parameters.values()))))]
        self._trained: list[list[nn.Parameter]] = []
        self._rows: list[list[Tensor]] = []  # where the parameters' gradients are written
        self._places: list[list[tuple[dict[str, Tensor | None], str, Tensor]]] = []  # of buffers, with their tensors
        for k, own in enumerate(self._modules):
            named = dict(own.named_parameters())
            for name, tensor in (*named.items(), *own.named_buffers()):
                tensor.data = (parameters[name].detach() if name in parameters else buffers[name])[k]
            self._trained.append([named[name] for name in parameters])
            self._rows.append([gradients[name][k] for name in parameters])
            self._places.append([(*_place(own, name), buffer) for name, buffer in own.named_buffers()])
        self._innermost = _takes_channels_innermost(module, x)
        self._states: list[list[Tensor]] = []

    def __call__(self, parameters: Tensors, buffers: Tensors, x: Tensor, training: bool) -> Tensor:
        """Logits [K, B, C]."""
        x = innermost(x) if self._innermost else x
        of = generators(x.device) if self._random else ()
        begin, logits = states(of), []
        self._states = []
        for k, module in enumerate(self._modules):
            if module.training != training:
                module.train(training)
            if k:
                restore(of, begin)
            logits.append(module(x))
            self._states.append(states(of))
            for holder, name, buffer in self._places[k]:
                if (other := holder[name]) is not buffer and other is not None:  # the network replaced the tensor
                    holder[name] = buffer.copy_(other.detach())
        return torch.stack(logits) if len(logits) > 1 else logits[0][None]

    def backward(self, losses: Tensor) -> None:
        """Each cell's gradient of its own loss (`losses` [K])."""
        for k, (trained, rows) in enumerate(zip(self._trained, self._rows, strict=True)):
            if self._random:
                restore(generators(losses.device), self._states[k])
            last = k + 1 == len(self._trained)
            loss = losses[k] if len(losses) > 1 else losses
            found = torch.autograd.grad(loss, trained, retain_graph=not last, allow_unused=True)
            read = [(row, new) for row, new in zip(rows, found, strict=True) if new is not None]  # pyright: ignore[reportUnnecessaryComparison]
            if len(read) < len(rows):
                torch.ops.aten._foreach_zero_(rows)
            torch.ops.aten._foreach_copy_([row for row, _ in read], [new for _, new in read])


def _place(module: nn.Module, name: str) -> tuple[dict[str, Tensor | None], str]:
    """The dictionary that holds a buffer of this name, and its name there."""
    path, _, last = name.rpartition(".")
    return module.get_submodule(path)._buffers, last  # pyright: ignore[reportPrivateUsage]


def _takes_channels_innermost(module: nn.Module, x: Tensor) -> bool:
    """Whether a convolutional network runs on images with channels innermost in memory; `view` may raise there."""
    if x.device.type != "cpu" or x.dim() != 4 or not any(type(m) is nn.Conv2d for m in module.modules()):
        return False
    try:
        with torch.no_grad(), preserved(generators(x.device)):
            for mode in (True, False):
                copy.deepcopy(module).train(mode)(innermost(x))
    except RuntimeError:
        return False
    return True
