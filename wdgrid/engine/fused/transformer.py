"""PyTorch's attention layers as separate steps, so that torch.fx traces each step instead of one node.

Each function computes the module's own forward pass in the cases that it covers, and raises NotInlinedError in others;
the module is then one node.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn


class NotInlinedError(Exception):
    """A module or its arguments are a case that is not covered here."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """softmax(q kᵀ / √D) v for q, k, v [B, H, N, D]; a float mask [N, N] is added; true in a bool mask hides."""
    return F.scaled_dot_product_attention(q, k, v, visible(mask), dropout)


def visible(mask: Tensor | None) -> Tensor | None:
    """nn.MultiheadAttention's mask in the form of scaled_dot_product_attention: true in a bool mask shows."""
    return ~mask if mask is not None and mask.dtype is torch.bool else mask


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None, average: bool) -> Tensor:
    """softmax(q kᵀ / √D) for q, k [B, H, N, D], for each head or as their mean; the mask is as in `attend`."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(mask, -math.inf) if mask.dtype is torch.bool else scores + mask
    weights = torch.softmax(scores, -1)
    return weights.mean(1) if average else weights


def multihead_attention(
    layer: nn.MultiheadAttention, query: Any, key: Any, value: Any, key_padding_mask: Any = None,
    need_weights: bool = True, attn_mask: Any = None, average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """nn.MultiheadAttention; queries, keys and values [B, N, E], or [N, B, E].

    If the attention weights are returned, they are computed a second time; this is covered only without dropout.
    """
    separate = layer.in_proj_weight is None  # pyright: ignore[reportUnnecessaryComparison]
    plain = not separate and layer.bias_k is None and not layer.add_zero_attn
    if not plain or key_padding_mask is not None or not isinstance(query, fx.Proxy):
        raise NotInlinedError
    # The memory layout is torch's, [N, B, E], because dropout draws in that order.
    same = query is key and key is value
    given: list[Any] = [
        x.transpose(0, 1) if layer.batch_first else x for x in ((query,) if same else (query, key, value))
    ]
    weight, bias = layer.in_proj_weight, layer.in_proj_bias
    if same:
        projected = F.linear(given[0], weight, bias).chunk(3, -1)
    else:
        weights, biases = weight.chunk(3), (None, None, None) if bias is None else bias.chunk(3)  # pyright: ignore[reportUnnecessaryComparison]
        projected = [F.linear(given[i], weights[i], biases[i]) for i in range(3)]
    heads = layer.num_heads, layer.head_dim
    q, k, v = (projected[i].unflatten(-1, heads).permute(1, 2, 0, 3) for i in range(3))
    arguments = (q, k, v, attn_mask, layer.dropout if layer.training else 0.0)
    out: Any = query.tracer.create_proxy("call_function", attend, arguments, {})
    weights = None
    if need_weights:
        arguments = (q, k, attn_mask, average_attn_weights)
        weights = query.tracer.create_proxy("call_function", attention_weights, arguments, {})
    out = layer.out_proj(out.permute(2, 0, 1, 3).flatten(2))
    return out.transpose(0, 1) if layer.batch_first else out, weights


def encoder_layer(
    layer: nn.TransformerEncoderLayer, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None,
    is_causal: bool = False,
) -> Any:  # fmt: skip
    """nn.TransformerEncoderLayer."""
    if src_key_padding_mask is not None:
        raise NotInlinedError

    def attention(x: Any) -> Any:
        return layer.dropout1(layer.self_attn(x, x, x, attn_mask=src_mask, need_weights=False)[0])

    def feed_forward(x: Any) -> Any:
        hidden = layer.dropout(layer.activation(layer.linear1(x)))
        return layer.dropout2(layer.linear2(hidden))

    if layer.norm_first:
        src = src + attention(layer.norm1(src))
        return src + feed_forward(layer.norm2(src))
    src = layer.norm1(src + attention(src))
    return layer.norm2(src + feed_forward(src))


def encoder(
    stack: nn.TransformerEncoder, src: Any, mask: Any = None, src_key_padding_mask: Any = None,
    is_causal: bool | None = None,
) -> Any:  # fmt: skip
    """nn.TransformerEncoder."""
    if src_key_padding_mask is not None:
        raise NotInlinedError
    for layer in stack.layers:
        src = layer(src, src_mask=mask)
    return src if stack.norm is None else stack.norm(src)


INLINED: dict[type, Callable[..., Any]] = {
    nn.MultiheadAttention: multihead_attention,
    nn.TransformerEncoderLayer: encoder_layer,
    nn.TransformerEncoder: encoder,
}
