"""Adapts a user's network to the engine: casts tokens at its input to integers and selects the logits of its output."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def adapted(module: nn.Module, *, integers: bool, output: str | int | None) -> nn.Module:
    """The module itself, its class replaced by a subclass whose forward casts x to int64 and picks `output`.

    Names of layers and parameters stay as they are, and torch.fx traces through it.
    """
    if not integers and output is None:
        return module
    own: Any = type(module)

    def forward(self: nn.Module, x: Tensor) -> Any:
        returned = own.forward(self, x.long() if integers else x)
        return returned if output is None else picked(returned, output)

    module.__class__ = type(own.__name__, (own,), {"forward": forward, "__module__": own.__module__, "adapts": own})
    return module


def picked(returned: Any, output: str | int) -> Any:
    """The part of a network's output that `output` names. Raises LookupError or AttributeError if there is none."""
    if isinstance(output, str) and not isinstance(returned, Mapping):
        return getattr(returned, output)  # named tuples and dataclasses
    return returned[output]
