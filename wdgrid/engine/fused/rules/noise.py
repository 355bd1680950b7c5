"""Dropout and shake for K cells at once; all cells share the noise that a plain layer draws for one cell."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wdgrid.engine.fused.layouts import Run, UnknownLayerError, Value, cells
from wdgrid.engine.fused.trace import Layer
from wdgrid.models.shake import Shake, shaken


def dropped(run: Run, x: Value, p: float, drop: Any) -> Value:
    """One mask for all cells; `drop` (F.dropout or similar) draws it for one cell's shape, as in the plain layer."""
    whole_maps = drop is not F.dropout
    if whole_maps and (x.layout == "features" or len(run.shape(x)) < 3):
        raise UnknownLayerError("dropout of whole maps on features")
    shape = run.shape(x)
    if whole_maps:
        ones = x.tensor.new_ones(*shape[:2], *([1] * (len(shape) - 2)))
    else:  # numbers are drawn in the order of memory
        ones = torch.ones_like(x.tensor[0]) if x.layout == "cells" else x.tensor.new_ones(shape)
    mask = drop(ones, p)
    if x.layout == "cells":
        return cells(x.tensor * mask)
    by_cell = x.tensor.unflatten(1, (run.cells, -1))
    return Value((by_cell * mask[:, None]).flatten(1, 2), x.layout)


def _dropout_layer(run: Run, layer: Layer, x: Value) -> Value:
    module: nn.Dropout = layer.module  # type: ignore[assignment]
    return dropped(run, x, module.p, DROPOUT[type(module)]) if module.training else x


def _dropout_function(drop: Any) -> Any:
    def dropout(run: Run, input: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
        return dropped(run, input, p, drop) if training else input

    return dropout


def _shake(run: Run, layer: Layer, a: Value, b: Value) -> Value:
    """An image's α and β are the same for all cells, so one call computes the channels of all cells."""
    if (a.layout, b.layout) != ("maps", "maps"):
        raise UnknownLayerError(f"shake of {a.layout} and {b.layout}")
    return Value(shaken(a.tensor, b.tensor, layer.module.level, layer.module.training), "maps")  # type: ignore[arg-type]


def _like(function: Any) -> Any:
    """torch.rand_like and similar functions, called once for all cells."""

    def like(run: Run, x: Value, **options: Any) -> Value:
        return Value(function(x.tensor.new_empty(run.shape(x)), **options), "shared")

    return like


def _new(name: str) -> Any:
    """Tensor.new_zeros and similar methods, called once for all cells."""

    def new(run: Run, x: Value, *size: Any, **options: Any) -> Value:
        tensor: Tensor = x.tensor
        return Value(getattr(tensor, name)(*size, **options), "shared")

    return new


DROPOUT: dict[type, Any] = {
    nn.Dropout: F.dropout,
    nn.Dropout1d: F.dropout1d,
    nn.Dropout2d: F.dropout2d,
    nn.Dropout3d: F.dropout3d,
}
LAYERS: dict[type, Any] = {Shake: _shake, **dict.fromkeys(DROPOUT, _dropout_layer)}
_LIKE = torch.rand_like, torch.randn_like, torch.zeros_like, torch.ones_like, torch.empty_like
FUNCTIONS: dict[Any, Any] = {
    **{drop: _dropout_function(drop) for drop in DROPOUT.values()},
    torch.dropout: _dropout_function(F.dropout),
    **{function: _like(function) for function in _LIKE},
    **{name: _new(name) for name in ("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor")},
}
