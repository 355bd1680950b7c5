"""Dropout and shake for K cells at once: all cells share the noise that a plain layer draws for one."""

import torch
import torch.nn.functional as F

from wdgrid.engine.fused.layouts import Operation, Run, UnknownLayerError, Value
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
