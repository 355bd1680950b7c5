"""Normalisation, elementwise functions and the loss for K cells at once, with hand-written backward passes.

They compute what torch.nn computes. autograd would allocate each parameter's gradient and copy it. These functions
write it to a *sink*, the parameter's view of the flat [K, P] storage, if one is given.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LANES = 16  # float32 numbers in the widest vector register
BLOCK = 64  # most numbers that torch's elementwise loops process at once (bfloat16 on AVX-512): two registers


class Elementwise(torch.autograd.Function):
    """An elementwise function whose rounding does not depend on a number's position. `apply(x, function)`.

    On a CPU, torch computes blocks of numbers in vector registers and the remainder one by one. exp, erf and tanh round
    differently there, so the results of the last cell would depend on its slot. This class passes the numbers in memory
    order (GELU uses another kernel otherwise) and computes the last block a second time as a whole block. The gradient
    is computed in the same way.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:  # noqa: D102
        x = x if torch.ops.aten.is_non_overlapping_and_dense(x) else x.contiguous()
        ctx.size, ctx.stride = x.size(), x.stride()
        ctx.whole = x.numel() % BLOCK == 0
        with torch.enable_grad():
            ctx.x = row = _row(x.detach()).requires_grad_()
            ctx.y = function(row)
            if not ctx.whole:
                ctx.last_x = last = _last_block(row.detach()).requires_grad_()
                ctx.last_y = function(last)
        result = ctx.y.data  # detach() would count the write below as a change of a tensor saved for tanh
        if not ctx.whole:
            _with_last_block(result, ctx.last_y.detach())
        return result.as_strided(ctx.size, ctx.stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradient of x."""
        if g.stride() != ctx.stride:
            g = g.new_empty_strided(ctx.size, ctx.stride).copy_(g)
        g = _row(g)
        (row,) = torch.autograd.grad(ctx.y, ctx.x, g)
        if not ctx.whole:
            (last,) = torch.autograd.grad(ctx.last_y, ctx.last_x, _last_block(g))
            _with_last_block(row, last)
        return row.as_strided(ctx.size, ctx.stride), None


def elementwise(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """`function` of x, with the same bits for equal numbers; x of any shape."""
    return Elementwise.apply(x, function) if x.device.type == "cpu" else function(x)  # type: ignore[return-value]


def _row(x: Tensor) -> Tensor:
    """The numbers of a dense x in memory order, [x.numel()]; no copy."""
    return x.as_strided((x.numel(),), (1,))


def _last_block(row: Tensor) -> Tensor:
    """The last BLOCK numbers of a row, with zeros before them if there are fewer."""
    tail = row[-BLOCK:]
    return torch.cat([tail.new_zeros(BLOCK - len(tail)), tail])


def _with_last_block(row: Tensor, last: Tensor) -> Tensor:
    """A row whose last numbers are replaced, in place, by those of `last` [BLOCK]."""
    tail = row[-BLOCK:]
    tail.copy_(last[-len(tail) :])
    return row


class CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of each cell in nats. `apply(logits, y)`: logits [K, B, C], classes y [B] → [K].

    Inside, the images are the last dimension, [K, C, B]: torch's softmax over ten neighbouring numbers took a seventh
    of a small network's step. Along images it is vectorised, with a remainder of the same size in every cell.
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
        # Not exp(log_p): elementwise functions round the last few of all numbers differently.
        back = torch.ops.aten._log_softmax_backward_data(back, log_p, 1, log_p.dtype)
        return back.transpose(1, 2), None


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of each cell in nats [K]; logits [K, B, C], classes y [B]."""
    if len(logits) == 1:
        return F.cross_entropy(logits[0], y)[None]
    return CrossEntropy.apply(logits, y)  # type: ignore[return-value]


def into(sink: Tensor | None, gradient: Tensor) -> Tensor | None:
    """A parameter's gradient for autograd; None if it was written to a sink."""
    if sink is None:
        return gradient
    sink.copy_(gradient)
    return None


class Norm(NamedTuple):
    """A batch norm's running statistics [K·C] and settings."""

    mean: Tensor
    variance: Tensor
    training: bool
    momentum: float
    eps: float
    relu: bool  # whether a ReLU follows and is the only reader of the output


class BatchNorm(torch.autograd.Function):
    """Batch norm of K·C channels [– ReLU]. `apply(x, scale, shift, norm, scale_sink, shift_sink)`.

    x [B, K·C] or [B, K·C, H, W]; scale and shift [K, C]; sinks [K, C]. The ReLU works in place on the normalised
    values, because the backward pass needs x and the ReLU's output only. NaN propagates through both, as in PyTorch.
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
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Writes the gradients of scale and shift to their sinks, if given."""
        x, scale, mean, deviation, out = ctx.saved_tensors
        norm, sinks = ctx.norm, ctx.sinks
        g = _channels(g)
        if out is not None:
            g = torch.ops.aten.threshold_backward(g, out, 0)
        back, *parameters = torch.ops.aten.native_batch_norm_backward(
            g, _channels(x), scale.flatten(), norm.mean, norm.variance, mean, deviation,
            norm.training, norm.eps, [True, True, True],
        )  # fmt: skip
        shaped = [gradient.view_as(scale) for gradient in parameters]
        return _like(back, x), *map(into, sinks, shaped), None, None, None


class LayerNorm(torch.autograd.Function):
    """Layer norm over the last dimension. `apply(x, scale, shift, eps, scale_sink, shift_sink)`.

    x [K, M, D]; scale and shift [K, D] or None. One call normalises all cells; scale and shift are applied after it.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float,
        scale_sink: Tensor | None, shift_sink: Tensor | None,
    ) -> Tensor:  # fmt: skip
        x = x if scale is None else x.to(scale.dtype)  # activations may have a shorter format
        normal, mean, deviation = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
        ctx.save_for_backward(x, scale, mean, deviation, normal)
        ctx.sinks = scale_sink, shift_sink
        if scale is None:
            return normal.clone()
        if shift is None:
            return normal * scale[:, None]
        return torch.addcmul(shift[:, None], normal, scale[:, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Writes the gradients of scale and shift to their sinks, if given."""
        x, scale, mean, deviation, normal = ctx.saved_tensors
        g = g.to(x.dtype).contiguous()
        _, want_scale, want_shift, *_ = ctx.needs_input_grad
        scale_sink, shift_sink = ctx.sinks
        own_scale = into(scale_sink, (g * normal).sum(1)) if want_scale else None
        own_shift = into(shift_sink, g.sum(1)) if want_shift else None
        toward = g if scale is None else g * scale[:, None]
        back, _, _ = torch.ops.aten.native_layer_norm_backward(
            toward, x, x.shape[-1:], mean, deviation, None, None, [True, False, False]
        )
        return back, own_scale, own_shift, None, None, None


def _channels(x: Tensor) -> Tensor:
    """x [B, C] as an image [1, C, B, 1], maps unchanged: channels innermost, for torch's vectorised kernel.

    On a CPU, the kernel's backward pass computes the channels beyond a multiple of 16 one by one and rounds them
    differently. A cell must not depend on its slot, so the kernel for planes is used if there are such channels.
    """
    if x.dim() == 2:
        b, c = x.shape
        x = x.contiguous().as_strided((1, c, b, 1), (b * c, 1, c, c))  # as torch would lay it out, to the last stride
    return even_channels(x)


def even_channels(x: Tensor) -> Tensor:
    """Maps [B, C, H, W] unchanged, or as planes if channels innermost would not fill whole vector registers."""
    return x if x.shape[1] % LANES == 0 or x.device.type != "cpu" else x.contiguous()


def _like(out: Tensor, x: Tensor) -> Tensor:
    """An image in the form of x: [B, C], or maps, with channels innermost if x has them so."""
    if x.dim() == 2:
        return out[0, :, :, 0].T.contiguous()
    return out.contiguous(memory_format=torch.channels_last) if x.stride(1) == 1 else out


def wrong(logits: Tensor, y: Tensor) -> Tensor:
    """Number of misclassified images of each cell [K]; logits [K, B, C], classes y [B]."""
    return (logits.transpose(1, 2).contiguous().argmax(dim=1) != y).sum(dim=1)
