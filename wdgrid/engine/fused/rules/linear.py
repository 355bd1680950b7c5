"""Linear layers, embeddings and matrix products."""

import operator
import string
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from wdgrid.engine.fused.kernels import into
from wdgrid.engine.fused.layouts import Run, UnknownLayerError, Value, cells
from wdgrid.engine.fused.products import Linear, TokenLinear
from wdgrid.engine.fused.trace import Layer


def parameter(run: Run, layer: Layer, name: str) -> Value | None:
    """A layer's own parameter, [K, …]; None if it has none of that name."""
    return Value(run.own(layer.names[name]), "cells", layer.names[name]) if name in layer.names else None


def linear(run: Run, input: Value, weight: Value, bias: Value | None = None) -> Value:
    """F.linear."""
    shape, matrix = run.shape(input), run.by_cell(weight)
    offset = None if bias is None else run.by_cell(bias)
    if len(shape) < 2 or matrix.dim() != 3:
        raise UnknownLayerError("a linear layer on a single example")
    sinks = run.sink(weight), run.sink(bias)
    if len(shape) == 2 and (input.layout == "features" or (input.layout == "shared" and run.features_first)):
        shared = input.layout == "shared"
        return Value(Linear.apply(input.tensor, matrix, offset, *sinks, shared), "features")  # type: ignore[arg-type]
    tokens = input.tensor[None] if input.layout == "shared" else run.by_cell(input)
    out: Tensor = TokenLinear.apply(tokens.reshape(len(tokens), -1, shape[-1]), matrix, offset, *sinks)  # type: ignore[assignment]
    return cells(out.view(run.cells, *shape[:-1], -1))


def _linear_layer(run: Run, layer: Layer, input: Value) -> Value:
    weight = parameter(run, layer, "weight")
    assert weight
    return linear(run, input, weight, parameter(run, layer, "bias"))


class Embedding(torch.autograd.Function):
    """Rows of tables [K, V, D] for indices [M]. `apply(numbers, table, padding, sink)` → [K, M, D]."""

    @staticmethod
    def forward(ctx: Any, numbers: Tensor, table: Tensor, padding: int | None, sink: Tensor | None) -> Tensor:  # noqa: D102
        ctx.save_for_backward(numbers)
        ctx.shape, ctx.padding, ctx.sink = table.shape, padding, sink
        return table.index_select(1, numbers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradient of the table; zero in its row for padding."""
        (numbers,) = ctx.saved_tensors
        cells, rows, _ = ctx.shape
        padding = -1 if ctx.padding is None else ctx.padding % rows
        each = torch.ops.aten.embedding_dense_backward
        table = torch.stack([each(g[k], numbers, rows, padding, False) for k in range(cells)])
        return None, into(ctx.sink, table), None, None


def embedding(
    run: Run, input: Value, weight: Value, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Value:  # fmt: skip
    """F.embedding of numbers that all cells share."""
    if input.layout != "shared" or max_norm is not None or scale_grad_by_freq or sparse:
        raise UnknownLayerError("an embedding of a special kind")
    table = run.by_cell(weight)
    rows: Tensor = Embedding.apply(input.tensor.flatten(), table, padding_idx, run.sink(weight))  # type: ignore[assignment]
    return cells(rows.view(run.cells, *input.tensor.shape, -1))


def _embedding_layer(run: Run, layer: Layer, input: Value) -> Value:
    module: nn.Embedding = layer.module  # type: ignore[assignment]
    weight = parameter(run, layer, "weight")
    assert weight
    options = module.padding_idx, module.max_norm, module.norm_type, module.scale_grad_by_freq, module.sparse
    return embedding(run, input, weight, *options)


def matmul(run: Run, input: Value, other: Value) -> Value:
    """torch.matmul."""
    a, b = run.by_cell(input), run.by_cell(other)
    if a.dim() < 3 or b.dim() < 3:
        raise UnknownLayerError("a product with a vector")
    if b.dim() == 3:  # one matrix for all examples
        tokens = a.reshape(run.cells, -1, a.shape[-1])
        return cells(torch.bmm(tokens, b).view(*a.shape[:-1], -1))
    more = max(a.dim(), b.dim())
    aligned = [x.reshape(run.cells, *[1] * (more - x.dim()), *x.shape[1:]) for x in (a, b)]
    return cells(torch.matmul(*aligned))


def einsum(run: Run, equation: str, *operands: Any) -> Value:
    """torch.einsum, with an additional letter for the cells."""
    values: list[Value] = list(operands[0] if isinstance(operands[0], tuple | list) else operands)
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    if not arrow:
        raise UnknownLayerError("einsum without an output")
    letter = next(c for c in string.ascii_letters if c not in equation)
    terms = inputs.split(",")
    named = [term if v.layout == "shared" else letter + term for v, term in zip(values, terms, strict=True)]
    tensors = [v.tensor if v.layout == "shared" else run.by_cell(v) for v in values]
    return cells(torch.einsum(f"{','.join(named)}->{letter}{output}", *tensors))


_LINEAR = nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear
LAYERS: dict[type, Any] = {**dict.fromkeys(_LINEAR, _linear_layer), nn.Embedding: _embedding_layer}
_PRODUCTS = torch.matmul, operator.matmul, torch.bmm, "matmul", "bmm", "__matmul__"
FUNCTIONS: dict[Any, Any] = {
    F.linear: linear,
    F.embedding: embedding,
    **dict.fromkeys(_PRODUCTS, matmul),
    torch.einsum: einsum,
}
