"""Elementwise functions of several values: sums, products, comparisons, selections."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wdgrid.engine.fused.layouts import Run, UnknownLayerError, Value, cells

BINARY = (
    "add", "sub", "mul", "div", "true_divide", "maximum", "minimum", "where", "masked_fill",
    "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "bitwise_and", "bitwise_or",
)  # fmt: skip
OPERATORS = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.eq, operator.ne, operator.lt, operator.le,
    operator.gt, operator.ge, operator.and_, operator.or_,
)  # fmt: skip


class Expand(torch.autograd.Function):
    """`apply(x, shape)`: x [K, …] expanded to a shape [K, …].

    The gradient is summed cell by cell: torch.sum over the adjacent numbers of all cells would round the last few
    differently.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: torch.Size) -> Tensor:  # noqa: D102
        ctx.shape = x.shape
        return x.expand(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Sums over the expanded dimensions."""
        return g.contiguous().sum_to_size(ctx.shape), None


def numberwise(function: Callable[..., Tensor]) -> Any:
    """A function of values and numbers that rounds at most once, with the broadcasting of the plain network."""

    def run_numberwise(run: Run, *given: Any, **options: Any) -> Value:
        values = [v for v in (*given, *options.values()) if isinstance(v, Value)]
        if any(isinstance(v, Value) for v in options.values()):
            raise UnknownLayerError("a value by keyword")
        first = next(v for v in values if v.layout != "shared")
        if all(v.layout == first.layout and v.tensor.shape == first.tensor.shape for v in values):
            tensors = [v.tensor if isinstance(v, Value) else v for v in given]
            return Value(function(*tensors, **options), first.layout)
        shape = torch.broadcast_shapes(*(run.shape(v) for v in values))
        images = next((v for v in values if v.layout in ("maps", "features") and run.shape(v) == shape), None)
        result = function(*(_expanded(run, v, shape) if isinstance(v, Value) else v for v in given), **options)
        return cells(result) if images is None else Value(result.transpose(0, 1).flatten(1, 2), images.layout)

    return run_numberwise


def _expanded(run: Run, value: Value, shape: torch.Size) -> Tensor:
    """[K, …] of a value in a larger shape."""
    own = run.shape(value)
    if value.layout == "shared":
        return value.tensor.expand(run.cells, *shape)
    x = run.by_cell(value)
    if own == shape:
        return x
    x = x.reshape(run.cells, *[1] * (len(shape) - len(own)), *own)
    return Expand.apply(x, torch.Size((run.cells, *shape)))  # type: ignore[return-value]


def expand(run: Run, input: Value, *sizes: Any) -> Value:
    """Tensor.expand."""
    size = list(sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes)
    own = run.shape(input)
    own = (*[1] * (len(size) - len(own)), *own)
    shape = torch.Size(old if new == -1 else new for new, old in zip(size, own, strict=True))
    return cells(_expanded(run, input, shape))


def addcmul(run: Run, input: Value, tensor1: Value, tensor2: Value, *, value: float = 1.0) -> Value:
    """torch.addcmul, in steps that round once each."""
    return _ADD(run, input, _MULTIPLY(run, _MULTIPLY(run, tensor1, tensor2), value))


_ADD, _MULTIPLY = numberwise(torch.add), numberwise(torch.mul)
LAYERS: dict[type, Any] = {}
FUNCTIONS: dict[Any, Any] = {
    **{function: numberwise(function) for function in OPERATORS},
    **{name: numberwise(getattr(Tensor, name)) for name in BINARY},
    **{getattr(torch, name): numberwise(getattr(torch, name)) for name in BINARY if hasattr(torch, name)},
    operator.neg: numberwise(torch.neg),
    operator.invert: numberwise(torch.bitwise_not),
    **dict.fromkeys((torch.addcmul, "addcmul"), addcmul),
    "expand": expand,
    "expand_as": lambda run, x, other: expand(run, x, *run.shape(other)),
}
