"""What flows through a stacked network: a tensor and its layout, known before anything runs.

- *shared*: x [B, …], the same for all cells (the input, until the first layer with parameters);
- *features*: [K, F, B], images last, so that a linear layer is bmm(W [K, out, in], x [K, in, B]) and batch norm is
  torch's own over K·F channels;
- *maps*: [B, K·C, H, W], so that a convolution is one grouped convolution and pooling is torch's own.

Knows nothing of layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Layout = Literal["shared", "features", "maps"]


class UnknownLayerError(Exception):
    """A layer that has no stacked form; the message names it."""


@dataclass
class Value:
    """A tensor and the layout it is in."""

    tensor: Tensor
    layout: Layout


class Run:
    """One forward pass: parameters and buffers by name, each [K, …]."""

    def __init__(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], training: bool) -> None:
        self.parameters = parameters
        self.buffers = buffers
        self.training = training
        self.cells = len(next(iter(parameters.values())))


Operation = Callable[..., Value]
