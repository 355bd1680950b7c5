"""Sums, means and extremes over some of the plain network's dimensions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wdgrid.engine.fused.layouts import Run, Value, cells

NAMES = "sum", "mean", "amax", "amin", "logsumexp", "var", "std"


def _reduction(function: Callable[..., Tensor]) -> Any:
    def run_reduction(run: Run, input: Value, dim: Any = None, *args: Any, **options: Any) -> Value:
        dims = tuple(range(len(run.shape(input)))) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
        # One row per cell: if the numbers of all cells are adjacent, torch rounds the last few differently.
        own = run.by_cell(input).contiguous()
        return cells(function(own, tuple(d if d < 0 else d + 1 for d in dims), *args, **options))

    return run_reduction


LAYERS: dict[type, Any] = {}
FUNCTIONS: dict[Any, Any] = {
    **{name: _reduction(getattr(torch, name)) for name in NAMES},
    **{getattr(torch, name): _reduction(getattr(torch, name)) for name in NAMES},
}
