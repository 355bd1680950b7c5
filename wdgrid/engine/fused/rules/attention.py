"""Attention; cells and examples form one batch dimension."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wdgrid.engine.fused.layouts import Run, UnknownLayerError, Value, cells
from wdgrid.engine.fused.transformer import attend, attention_weights, visible

# Above this number of scores per head, PyTorch's own kernel is used, which does not store the scores. With 64 tokens it
# took 0.5 to 0.7 of the time of two products and a softmax, forward and backward; in a ViT of 16 tokens the products
# were faster (AMD EPYC, a loaded machine).
FEW_SCORES = 32 * 32


def attention(
    run: Run, query: Value, key: Value, value: Value, attn_mask: Value | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Value:  # fmt: skip
    """F.scaled_dot_product_attention."""
    shapes = [run.shape(x) for x in (query, key, value)]
    if enable_gqa or any(len(shape) < 3 or shape[:-2] != shapes[0][:-2] for shape in shapes):
        raise UnknownLayerError("attention of a special kind")
    q, k, v = (run.by_cell(x) for x in (query, key, value))
    mask = None
    if attn_mask is not None:
        mask = run.by_cell(attn_mask)
        mask = mask.reshape(run.cells, *[1] * (q.dim() - mask.dim()), *mask.shape[1:])
        if mask.shape[1] == 1 and attn_mask.layout == "shared":
            mask = mask[:1]
    few = q.shape[-2] * k.shape[-2] <= FEW_SCORES
    if not few and dropout_p == 0 and mask is None and q.dim() == 5:
        flat = [x.flatten(0, 1) for x in (q, k, v)]
        out = F.scaled_dot_product_attention(flat[0], flat[1], flat[2], is_causal=is_causal, scale=scale)
        return cells(out.view(*q.shape[:-1], v.shape[-1]))
    if is_causal:
        mask = q.new_ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    scores = torch.matmul(q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale), k.transpose(-1, -2))
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask
    weights = torch.softmax(scores, -1)
    if dropout_p:
        weights = weights * F.dropout(weights.new_ones(weights.shape[1:]), dropout_p)
    return cells(torch.matmul(weights, v))


def _attend(run: Run, q: Value, k: Value, v: Value, mask: Value | None, dropout: float) -> Value:
    """`transformer.attend`."""
    if mask is not None:
        tensor: Tensor = visible(mask.tensor)  # type: ignore[assignment]
        mask = Value(tensor, mask.layout)
    return attention(run, q, k, v, mask, dropout)


def _weights(run: Run, q: Value, k: Value, mask: Value | None, average: bool) -> Value:
    """`transformer.attention_weights`; cells and examples form one batch dimension."""
    if mask is not None and mask.layout != "shared":
        raise UnknownLayerError("a mask that differs between cells")
    flat = [run.by_cell(x).flatten(0, 1) for x in (q, k)]
    weights = attention_weights(flat[0], flat[1], None if mask is None else mask.tensor, average)
    return cells(weights.unflatten(0, (run.cells, -1)))


LAYERS: dict[type, Any] = {}
FUNCTIONS: dict[Any, Any] = {F.scaled_dot_product_attention: attention, attend: _attend, attention_weights: _weights}
