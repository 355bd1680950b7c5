"""The values of a stacked network: tensors with their layouts.

- *shared*: the same for all cells, as in the plain network (the input, until the first layer with parameters);
- *features*: [B, K·F]; batch norm is PyTorch's, over K·F channels;
- *maps*: [B, K·C, …]; a convolution is one grouped convolution, and pooling is PyTorch's; two-dimensional maps
  have channels innermost in memory on a CPU (1.2 to 1.6 times as fast as planes, measured on four networks), and on a
  GPU with products in bfloat16 (NVIDIA recommends this order for tensor cores; not measured here);
- *cells*: [K, …], the plain network's tensors one after another: tokens and all other values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Layout = Literal["shared", "features", "maps", "cells"]


class UnknownLayerError(Exception):
    """A node has no stacked rule; the message says why."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor and its layout; `name` is that of a parameter, else None."""

    tensor: Tensor
    layout: Layout
    name: str | None = None


class Run:
    """One forward pass: parameters and buffers by name, each [K, …], and where gradients are written.

    `sinks` are the [K, …] gradients of the parameters that exactly one node uses. `random`: whether the network draws
    random numbers.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        sinks: Mapping[str, Tensor],
        *,
        random: bool = False,
        features_first: bool = True,
    ) -> None:
        self.parameters, self.buffers, self.random = parameters, buffers, random
        self.features_first = features_first  # whether linear layers return features, not cells
        self.cells = len(next(iter(parameters.values())))
        self.written: set[str] = set()  # parameters whose gradient the backward pass writes to its sink
        self._sinks = sinks

    def own(self, name: str) -> Tensor:
        """A parameter, trained or frozen, or a buffer, [K, …]."""
        return self.parameters[name] if name in self.parameters else self.buffers[name]

    def attribute(self, name: str, changes: bool) -> Value:
        """A parameter or a buffer as a value; it is shared by all cells if it is not trained and does not change."""
        if name in self.parameters or changes:
            return Value(self.own(name), "cells", name)
        return Value(self.buffers[name][0], "shared")

    def sink(self, value: Value | None) -> Tensor | None:
        """Where the backward pass writes the gradient of a parameter, [K, …]; None if autograd accumulates it."""
        if value is None or value.name not in self._sinks:
            return None
        self.written.add(value.name)  # type: ignore[arg-type]
        return self._sinks[value.name]  # type: ignore[index]

    def shape(self, x: Value) -> torch.Size:
        """The shape that the plain network sees."""
        if x.layout == "shared":
            return x.tensor.shape
        if x.layout == "cells":
            return x.tensor.shape[1:]
        batch, channels, *rest = x.tensor.shape
        return torch.Size((batch, channels // self.cells, *rest))

    def by_cell(self, x: Value) -> Tensor:
        """[K, …] of a value in any layout; a view, or a copy for maps of a network that draws random numbers."""
        if x.layout == "cells":
            return x.tensor
        if x.layout == "shared":
            return x.tensor.expand(self.cells, *x.tensor.shape)
        view = x.tensor.unflatten(1, (self.cells, -1)).transpose(0, 1)
        return view.contiguous() if self.random and x.layout == "maps" else view

    def maps(self, x: Value) -> Tensor:
        """[B, K·C, …] of a value that has a batch and channels; raises UnknownLayerError for others."""
        if x.layout in ("maps", "features"):
            return x.tensor
        if len(self.shape(x)) < 2:
            raise UnknownLayerError("a layer of channels on a value without them")
        tensor = self.by_cell(x).transpose(0, 1).flatten(1, 2)
        return innermost(tensor) if tensor.dim() == 4 else tensor


Operation = Callable[..., Any]


def cells(tensor: Tensor) -> Value:
    """A value [K, …]."""
    return Value(tensor, "cells")


def of_maps(tensor: Tensor) -> Value:
    """A value [B, K·C, …], or [B, K·F]."""
    return Value(tensor, "features" if tensor.dim() == 2 else "maps")


def innermost(x: Tensor) -> Tensor:
    """Maps [B, C, H, W] in the memory order in which the device's convolutions are fastest; later nodes keep it."""
    if x.device.type != "cpu" and not torch.is_autocast_enabled(x.device.type):
        return x
    if x.shape[1] > 1:
        return x.contiguous(memory_format=torch.channels_last)
    _, c, h, w = x.shape
    return x.contiguous().as_strided(x.shape, (h * w * c, 1, w * c, c))  # one channel fits both orders: set one
