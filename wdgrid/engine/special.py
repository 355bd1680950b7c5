"""Stacked forms of the layers that are more than arithmetic: dropout, shake, concatenation, local response norm.

Each takes K cells at once and gives what K plain layers would: the same noise in all of them, no channel of one cell
next to another's. Knows nothing of what trains the parameters.
"""

import torch
import torch.nn.functional as F
from torch import nn

from wdgrid.engine.values import Operation, Run, UnknownLayerError, Value, innermost
from wdgrid.models.shake import Shake, shaken


def dropout(p: float, training: bool = True, *, whole_maps: bool) -> Operation:
    """One mask for all cells, drawn as the plain layer draws it: for one cell's [B, C] or [B, C, H, W]."""
    drop = F.dropout2d if whole_maps else F.dropout

    def run_dropout(run: Run, x: Value) -> Value:
        if not (run.training and training):
            return x
        if whole_maps and x.tensor.dim() != 4:
            raise UnknownLayerError(f"dropout of whole maps on {x.layout}")
        if x.layout == "shared":
            return Value(drop(x.tensor, p), "shared")
        if x.layout == "features":
            by_cell = x.tensor.view(len(x.tensor), run.cells, -1)
            mask = drop(torch.ones_like(by_cell[:, 0]), p)[:, None]
            return Value((by_cell * mask).view(x.tensor.shape), "features")
        images, channels, *size = x.tensor.shape
        ones = x.tensor.new_ones(images, channels // run.cells, *([1, 1] if whole_maps else size))
        by_cell = x.tensor.unflatten(1, (run.cells, -1))
        return Value((by_cell * drop(ones, p)[:, None]).flatten(1, 2), "maps")

    return run_dropout


def shake(module: Shake) -> Operation:
    """α, β of an image are the same for all cells, so channels need not be told apart."""

    def run_shake(run: Run, a: Value, b: Value) -> Value:
        if (a.layout, b.layout) != ("maps", "maps"):
            raise UnknownLayerError(f"shake of {a.layout} and {b.layout}")
        return Value(shaken(a.tensor, b.tensor, module.level, run.training), "maps")

    return run_shake


def concatenation(run: Run, *values: Value) -> Value:
    """torch.cat along channels: each cell's own side by side."""
    layout = values[0].layout
    if any(value.layout != layout for value in values):
        raise UnknownLayerError("concatenation of values in different layouts")
    tensors = [value.tensor for value in values]
    if layout == "shared":
        return Value(torch.cat(tensors, 1), layout)
    by_cell = torch.cat([t.unflatten(1, (run.cells, -1)) for t in tensors], 2).flatten(1, 2)
    return Value(innermost(by_cell) if layout == "maps" else by_cell, layout)


def local_response_norm(module: nn.Module) -> Operation:
    """nn.LocalResponseNorm over each cell's own channels: a cell's maps become an image of their own."""

    def run_local_response_norm(run: Run, x: Value) -> Value:
        if x.tensor.dim() != 4:
            raise UnknownLayerError(f"local response norm on {x.layout}")
        if x.layout == "shared":
            return Value(module(x.tensor), "shared")
        images, _, height, width = x.tensor.shape
        by_cell = x.tensor.reshape(images * run.cells, -1, height, width)
        return Value(innermost(module(by_cell).view(x.tensor.shape)), "maps")

    return run_local_response_norm
