"""What a small network spends its time in: two layers and the loss, with hand-written backward passes.

They compute what torch.nn computes, for K cells at once. autograd would allocate each gradient and have it copied; here
a *sink*, the parameter's view of the flat [K, P] storage, is handed in and written to, and autograd is told None.

Activations are images first, [B, K·F]: a cell's part is a matrix with a row stride of K·F, which BLAS takes as it is,
and batch norm runs along contiguous channels (2.5 times as fast as with images last, measured on a MLP's 64 × 50).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LANES = 16  # float32 numbers in the widest vector register
BLOCK = 64  # numbers that torch's elementwise loops take at once, at most (bfloat16 on AVX-512): two registers


def by_cell(x: Tensor, cells: int) -> Tensor:
    """[B, K·F] seen as [K, B, F]; no copy."""
    return x.view(len(x), cells, -1).transpose(0, 1)


class Linear(torch.autograd.Function):
    """y_k = x_k W_kᵀ + b_k. `apply(x, weight, bias, weight_sink, bias_sink, shared)`.

    x [B, K·in], or, where `shared` by all cells, [B, in] (it then gets no gradient); weight [K, out, in]; bias [K, out]
    or None; sinks shaped as their parameters. Returns [B, K·out].
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, weight_sink: Tensor, bias_sink: Tensor | None,
        shared: bool,
    ) -> Tensor:  # fmt: skip
        cells, outputs, _ = weight.shape
        own = x.expand(cells, -1, -1) if shared else by_cell(x, cells)
        if torch.is_autocast_enabled(x.device.type):
            low = torch.get_autocast_dtype(x.device.type)
            own, weight = own.to(low), weight.to(low)
        ctx.save_for_backward(own, weight)
        ctx.sinks = weight_sink, bias_sink
        out = own.new_empty(len(x), cells * outputs)
        torch.bmm(own, weight.transpose(1, 2), out=by_cell(out, cells))
        return out if bias is None else out.add_(bias.flatten())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of the parameters go to their sinks; that of x [B, K·in] is returned."""
        own, weight = ctx.saved_tensors
        weight_sink, bias_sink = ctx.sinks
        cells, _, inputs = weight.shape
        g = g.contiguous()
        columns = by_cell(g, cells)
        _into(weight_sink, columns.transpose(1, 2), own)
        if bias_sink is not None:
            ones = g.new_ones(1, 1, len(g)).expand(cells, -1, -1)
            _into(bias_sink[:, None], ones, columns)  # torch.sum would round the last few of K·out columns differently
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None, None
        back = g.new_empty(len(g), cells * inputs)
        torch.bmm(columns, weight, out=by_cell(back, cells))
        return back, None, None, None, None, None


def _into(sink: Tensor, a: Tensor, b: Tensor) -> None:
    """sink [K, n, m] ← a [K, n, B] @ b [K, B, m], in the sink's precision."""
    if sink.dtype == a.dtype:
        torch.bmm(a, b, out=sink)
    else:
        sink.copy_(torch.bmm(a, b))


class Elementwise(torch.autograd.Function):
    """An elementwise function that rounds a number the same way wherever it stands. `apply(x, function)`.

    On a CPU, torch computes blocks of numbers in vector registers and the rest of them one by one, where exp, erf and
    tanh round differently: the last cell would depend on its slot. Here the function gets the numbers in memory order
    (GELU takes another kernel otherwise), and the last block of them a second time, as a whole block. The gradient is
    computed in the same way.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:  # noqa: D102
        x = x if torch.ops.aten.is_non_overlapping_and_dense(x) else x.contiguous()
        ctx.size, ctx.stride = x.size(), x.stride()
        with torch.enable_grad():
            ctx.x = row = _row(x.detach()).requires_grad_()
            ctx.last_x = last = _last_block(row.detach()).requires_grad_()
            ctx.y, ctx.last_y = function(row), function(last)
        result = ctx.y.data  # detach() would count the writing below as a change of what tanh keeps for its gradient
        return _with_last_block(result, ctx.last_y.detach()).as_strided(ctx.size, ctx.stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradient of x."""
        g = _row(g.new_empty_strided(ctx.size, ctx.stride).copy_(g))
        (row,) = torch.autograd.grad(ctx.y, ctx.x, g)
        (last,) = torch.autograd.grad(ctx.last_y, ctx.last_x, _last_block(g))
        return _with_last_block(row, last).as_strided(ctx.size, ctx.stride), None


def elementwise(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """`function` of x, with the same bits for equal numbers; x of any shape."""
    return Elementwise.apply(x, function) if x.device.type == "cpu" else function(x)  # type: ignore[return-value]


def _row(x: Tensor) -> Tensor:
    """The numbers of a dense x in memory order, [x.numel()]; no copy."""
    return x.as_strided((x.numel(),), (1,))


def _last_block(row: Tensor) -> Tensor:
    """The last BLOCK numbers of a row, with zeros before them where there are fewer."""
    tail = row[-BLOCK:]
    return torch.cat([tail.new_zeros(BLOCK - len(tail)), tail])


def _with_last_block(row: Tensor, last: Tensor) -> Tensor:
    """A row whose last numbers are replaced, in place, by those of `last` [BLOCK]."""
    tail = row[-BLOCK:]
    tail.copy_(last[-len(tail) :])
    return row


class CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of each cell in nats. `apply(logits, y)`: logits [K, B, C], classes y [B] → [K].

    Inside, a cell's images are last, [K, C, B]: torch's softmax over ten neighbouring numbers took a seventh of a small
    network's step; along images it is vectorised, and leaves the same rest in every cell.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        log_p = torch.log_softmax(logits.transpose(1, 2).contiguous(), dim=1)
        own = y.expand(len(logits), 1, -1)
        ctx.save_for_backward(log_p, own)
        return -log_p.gather(1, own)[:, 0].mean(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(softmax − one-hot) g / B."""
        log_p, own = ctx.saved_tensors
        toward = (-g / log_p.shape[2])[:, None, None].expand(own.shape)
        back = torch.zeros_like(log_p).scatter_(1, own, toward)
        # Not by exp(log_p): elementwise functions round the last few of all numbers differently.
        back = torch.ops.aten._log_softmax_backward_data(back, log_p, 1, log_p.dtype)
        return back.transpose(1, 2), None


class Norm(NamedTuple):
    """What a batch norm needs beside its input: running statistics [K·C], and how it is run."""

    mean: Tensor
    variance: Tensor
    training: bool
    momentum: float
    eps: float
    relu: bool  # whether a ReLU follows, and nothing else sees what comes before it


class BatchNorm(torch.autograd.Function):
    """Batch norm of K·C channels [– ReLU]. `apply(x, scale, shift, norm, scale_sink, shift_sink)`.

    x [B, K·C] or [B, K·C, H, W]; scale and shift [K, C]; sinks [K, C]. The ReLU works in place on what is normalised:
    the backward pass needs x and the ReLU's output only. NaN goes through both, as through torch's own.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        norm: Norm,
        scale_sink: Tensor | None,
        shift_sink: Tensor | None,
    ) -> Tensor:
        out, mean, deviation = torch.native_batch_norm(
            _channels(x), scale.flatten(), shift.flatten(), norm.mean, norm.variance,
            norm.training, norm.momentum, norm.eps,
        )  # fmt: skip
        if norm.relu:
            out.relu_()
        ctx.save_for_backward(x, scale, mean, deviation, out if norm.relu else None)
        ctx.norm, ctx.sinks = norm, (scale_sink, shift_sink)
        return _like(out, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of scale and shift go to their sinks; that of x is returned."""
        x, scale, mean, deviation, out = ctx.saved_tensors
        norm, sinks = ctx.norm, ctx.sinks
        g = _channels(g)
        if out is not None:
            g = torch.ops.aten.threshold_backward(g, out, 0)
        back, *parameters = torch.ops.aten.native_batch_norm_backward(
            g, _channels(x), scale.flatten(), norm.mean, norm.variance, mean, deviation,
            norm.training, norm.eps, [True, True, True],
        )  # fmt: skip
        for sink, gradient in zip(sinks, parameters, strict=True):
            sink.copy_(gradient.view_as(sink))
        return _like(back, x), None, None, None, None, None


def _channels(x: Tensor) -> Tensor:
    """x [B, C] as an image [1, C, B, 1], maps as they are: channels innermost, which is torch's vectorised kernel.

    On a CPU its backward pass takes what is left over of 16 channels one by one and rounds those differently; a cell
    must not depend on its place, so where there is such a rest all go through the kernel for planes.
    """
    if x.dim() == 2:
        b, c = x.shape
        x = x.contiguous().as_strided((1, c, b, 1), (b * c, 1, c, c))  # as torch would lay it out, to the last stride
    return even_channels(x)


def even_channels(x: Tensor) -> Tensor:
    """Maps [B, C, H, W] as they are, or as planes where channels innermost would not fill whole vector registers."""
    return x if x.shape[1] % LANES == 0 or x.device.type != "cpu" else x.contiguous()


def _like(out: Tensor, x: Tensor) -> Tensor:
    """An image as x is: [B, C], or maps with channels innermost where x has them so."""
    if x.dim() == 2:
        return out[0, :, :, 0].T.contiguous()
    return out.contiguous(memory_format=torch.channels_last) if x.stride(1) == 1 else out


def wrong(logits: Tensor, y: Tensor) -> Tensor:
    """Number of misclassified images of each cell [K]; logits [K, B, C], classes y [B]."""
    return (logits.transpose(1, 2).contiguous().argmax(dim=1) != y).sum(dim=1)
