"""Matrix products for K cells at once: linear layers with hand-written backward passes.

Features have images first, [B, K·F]: a cell's part is a matrix with a row stride of K·F, which BLAS accepts without a
copy, and batch norm runs along contiguous channels (2.5 times as fast as with images last, measured on an MLP's
64 × 50). Tokens are [K, M, F].
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wdgrid.engine import processor
from wdgrid.engine.fused.kernels import into

# torch computes float32 products with MKL, which uses generic code on processors that are not Intel's: 64 to 92 GFLOP/s
# on a core of an AMD EPYC (Zen 5). oneDNN's linear layer, also part of torch, reaches 112 to 185 from this number of
# multiplications per cell on, and is no faster below it. Both round in float32. Not measured on Intel processors.
LEAST_MULTIPLICATIONS = 4 * 1024**2
OFF_INTEL = torch.backends.mkldnn.is_available() and not processor.is_intel()


def library() -> str:
    """The library that multiplies large float32 matrices on the CPU, for the environment."""
    return "oneDNN" if OFF_INTEL else "torch.bmm"


def _by_onednn(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN multiplies a [K, n, m] by b [K, p, m]."""
    large = a[0].numel() * b.shape[1] >= LEAST_MULTIPLICATIONS
    return large and OFF_INTEL and a.dtype is torch.float32 and a.device.type == "cpu"


def transposed_product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a_k b_kᵀ for a [K, n, m] and b [K, p, m]; by oneDNN for large float32 matrices if that is faster."""
    if not _by_onednn(a, b):
        return torch.bmm(a, b.transpose(1, 2)) if out is None else torch.bmm(a, b.transpose(1, 2), out=out)
    each = torch.ops.mkldnn._linear_pointwise
    rows = [each(x, y, None, "none", [], "") for x, y in zip(a.unbind(0), b.unbind(0), strict=True)]
    if out is not None:
        return torch.stack(rows, out=out)
    return torch.stack(rows) if len(rows) > 1 else rows[0][None]


def by_cell(x: Tensor, cells: int) -> Tensor:
    """[B, K·F] seen as [K, B, F]; no copy."""
    return x.view(len(x), cells, -1).transpose(0, 1)


class Linear(torch.autograd.Function):
    """y_k = x_k W_kᵀ + b_k. `apply(x, weight, bias, weight_sink, bias_sink, shared)`.

    x [B, K·in], or [B, in] if it is `shared` by all cells (and gets no gradient); weight [K, out, in]; bias [K, out]
    or None; sinks shaped as their parameters, or None. Returns [B, K·out].
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, weight_sink: Tensor | None, bias_sink: Tensor | None,
        shared: bool,
    ) -> Tensor:  # fmt: skip
        cells, outputs, _ = weight.shape
        x, weight = _in_products(x, weight)  # before the expansion, so that one copy is made
        own = x.expand(cells, -1, -1) if shared else by_cell(x, cells)
        ctx.save_for_backward(own, weight)
        ctx.sinks = weight_sink, bias_sink
        out = own.new_empty(len(x), cells * outputs)
        torch.bmm(own, weight.transpose(1, 2), out=by_cell(out, cells))
        return out if bias is None else out.add_(bias.flatten())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Writes the parameters' gradients to their sinks, if given; the gradient of x is [B, K·in]."""
        _, weight = ctx.saved_tensors
        cells, _, inputs = weight.shape
        g = g.contiguous()
        columns = by_cell(g, cells)
        parameters = _parameters(ctx, columns)
        if not ctx.needs_input_grad[0]:
            return None, *parameters, None, None, None
        back = g.new_empty(len(g), cells * inputs)
        torch.bmm(columns, weight, out=by_cell(back, cells))
        return back, *parameters, None, None, None


class TokenLinear(torch.autograd.Function):
    """y_k = x_k W_kᵀ + b_k for x [K, M, in] → [K, M, out]; the arguments are those of `Linear`.

    An x [1, M, in] is shared by all cells and gets no gradient.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, weight_sink: Tensor | None, bias_sink: Tensor | None,
    ) -> Tensor:  # fmt: skip
        x, weight = _in_products(x, weight)
        own = x.expand(len(weight), -1, -1)
        ctx.save_for_backward(own, weight)
        ctx.sinks = weight_sink, bias_sink
        out = transposed_product(own, weight)
        return out if bias is None else out.add_(bias[:, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Writes the parameters' gradients to their sinks, if given."""
        _, weight = ctx.saved_tensors
        g = g.contiguous()
        parameters = _parameters(ctx, g)
        back = transposed_product(g, weight.transpose(1, 2)) if ctx.needs_input_grad[0] else None
        return back, *parameters, None, None


def _in_products(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors in the number format of products."""
    if not torch.is_autocast_enabled(x.device.type):
        return x, weight
    low = torch.get_autocast_dtype(x.device.type)
    return x.to(low), weight.to(low)


def _parameters(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of weight and bias from g [K, M, out]."""
    own, _ = ctx.saved_tensors
    _, want_weight, want_bias, *_ = ctx.needs_input_grad
    weight_sink, bias_sink = ctx.sinks
    weight = _weight_gradient(weight_sink, g, own) if want_weight else None
    if not want_bias:
        return weight, None
    # torch.sum would round the last few of K·out columns differently
    ones = g.new_ones(1, 1, g.shape[1]).expand(len(g), -1, -1)
    if bias_sink is not None:
        _product(bias_sink[:, None], ones, g.transpose(1, 2))
        return weight, None
    return weight, torch.bmm(ones, g)[:, 0]


def _weight_gradient(sink: Tensor | None, g: Tensor, own: Tensor) -> Tensor | None:
    """g_kᵀ x_k [K, out, in] into the sink, in its precision, or as a gradient for autograd."""
    g, own = g.transpose(1, 2), own.transpose(1, 2)
    if sink is not None and g.shape[1] > own.shape[1] and _by_onednn(own, g):  # faster with few rows
        transposed_product(own, g, out=sink.transpose(1, 2))
        return None
    return _product(sink, g, own)


def _product(sink: Tensor | None, a: Tensor, b: Tensor) -> Tensor | None:
    """a_k b_kᵀ into the sink, in its precision, or as a gradient for autograd."""
    if sink is not None and sink.dtype == a.dtype:
        transposed_product(a, b, out=sink)
        return None
    return into(sink, transposed_product(a, b))
