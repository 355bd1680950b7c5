"""Batch, layer, group, instance and RMS norm, local response normalisation and F.normalize."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wdgrid.engine.fused.kernels import BatchNorm, LayerNorm, Norm, elementwise
from wdgrid.engine.fused.layouts import Run, UnknownLayerError, Value, cells, innermost, of_maps
from wdgrid.engine.fused.rules.linear import parameter
from wdgrid.engine.fused.trace import Layer


def batch_norm(
    run: Run, input: Value, running_mean: Value | None, running_var: Value | None, weight: Value | None = None,
    bias: Value | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5, *, relu: bool = False,
) -> Value:  # fmt: skip
    """F.batch_norm; its running statistics, if any, are buffers of the network."""
    if input.layout == "shared":
        raise UnknownLayerError("batch norm of the input")
    maps = run.maps(input)
    if running_mean is None or running_var is None or weight is None or bias is None:
        return _plain_batch_norm(run, maps, (running_mean, running_var, weight, bias), training, momentum, eps, relu)
    if maps.dim() > 4 or running_mean.name is None or running_var.name is None:
        raise UnknownLayerError("batch norm in three dimensions, or with statistics from elsewhere")
    mean, variance = (run.own(v.name).view(-1) for v in (running_mean, running_var))  # type: ignore[arg-type]
    norm = Norm(mean, variance, training, momentum, eps, relu)
    given = run.by_cell(weight), run.by_cell(bias), norm, run.sink(weight), run.sink(bias)
    if maps.dim() == 3:
        out: Tensor = BatchNorm.apply(innermost(maps[..., None]), *given)  # type: ignore[assignment]
        return Value(out[..., 0], "maps")
    return of_maps(BatchNorm.apply(maps, *given))  # type: ignore[arg-type]


def _plain_batch_norm(
    run: Run, maps: Tensor, given: tuple[Value | None, ...], training: bool, momentum: float, eps: float, relu: bool
) -> Value:  # fmt: skip
    """Batch norm of K·C channels without statistics or scale, in planes, so that a channel's slot does not matter."""
    if any(v is not None and v.layout == "shared" for v in given):
        raise UnknownLayerError("batch norm with statistics from elsewhere")
    planes = maps[..., None].contiguous() if maps.dim() < 4 else maps.contiguous()
    flat = [None if v is None else run.by_cell(v).flatten() for v in given]
    out = F.batch_norm(planes, *flat, training, momentum, eps).view(maps.shape)  # type: ignore[arg-type]
    return of_maps(torch.relu(out) if relu else out)


def _batch_norm_layer(run: Run, layer: Layer, x: Value) -> Value:
    module: nn.BatchNorm2d = layer.module  # type: ignore[assignment]
    if module.track_running_stats and module.momentum is None:
        raise UnknownLayerError("batch norm without momentum")
    names = "running_mean", "running_var", "weight", "bias"
    mean, variance, weight, bias = (parameter(run, layer, name) for name in names)
    training = module.training or mean is None
    out = batch_norm(
        run, x, mean, variance, weight, bias, training, module.momentum or 0.0, module.eps, relu=layer.relu
    )
    if module.training and mean is not None:
        run.buffers[layer.names["num_batches_tracked"]].add_(1)
    return out


def layer_norm(
    run: Run, input: Value, normalized_shape: Any, weight: Value | None = None, bias: Value | None = None,
    eps: float = 1e-5,
) -> Value:  # fmt: skip
    """F.layer_norm."""
    size = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    x, affine = run.by_cell(input), [None if p is None else run.by_cell(p).flatten(1) for p in (weight, bias)]
    sinks = [None if sink is None else sink.flatten(1) for sink in (run.sink(weight), run.sink(bias))]
    tokens = x.reshape(run.cells, -1, size_of(size)).contiguous()
    out: Tensor = LayerNorm.apply(tokens, *affine, eps, *sinks)  # type: ignore[assignment]
    return cells(out.view(x.shape))


def size_of(shape: tuple[int, ...]) -> int:
    """The sizes of a shape, as numbers."""
    return torch.Size(shape).numel()


def _layer_norm_layer(run: Run, layer: Layer, x: Value) -> Value:
    module: nn.LayerNorm = layer.module  # type: ignore[assignment]
    weight, bias = parameter(run, layer, "weight"), parameter(run, layer, "bias")
    return layer_norm(run, x, module.normalized_shape, weight, bias, module.eps)


def _rms_norm_layer(run: Run, layer: Layer, x: Value) -> Value:
    """x / √(mean x² + ε), times a scale."""
    module: nn.RMSNorm = layer.module  # type: ignore[assignment]
    scale, shape = parameter(run, layer, "weight"), run.shape(x)
    tokens = run.by_cell(x).reshape(run.cells, -1, size_of(tuple(module.normalized_shape))).contiguous()
    eps = torch.finfo(tokens.dtype).eps if module.eps is None else module.eps
    normal = tokens * elementwise(tokens.square().mean(-1, keepdim=True) + eps, torch.rsqrt)
    if scale is not None:
        normal = normal * scale.tensor.flatten(1)[:, None]
    return cells(normal.view(run.cells, *shape))


def group_norm(
    run: Run, input: Value, num_groups: int, weight: Value | None = None, bias: Value | None = None, eps: float = 1e-5
) -> Value:
    """F.group_norm, over K times as many groups."""
    scale, shift = (None if p is None else run.by_cell(p).flatten() for p in (weight, bias))
    return of_maps(F.group_norm(run.maps(input), run.cells * num_groups, scale, shift, eps))


def _group_norm_layer(run: Run, layer: Layer, x: Value) -> Value:
    module: nn.GroupNorm = layer.module  # type: ignore[assignment]
    weight, bias = parameter(run, layer, "weight"), parameter(run, layer, "bias")
    if x.layout == "shared":
        raise UnknownLayerError("group norm of the input")
    return group_norm(run, x, module.num_groups, weight, bias, module.eps)


def _instance_norm_layer(run: Run, layer: Layer, x: Value) -> Value:
    module: nn.InstanceNorm2d = layer.module  # type: ignore[assignment]
    if module.track_running_stats or len(run.shape(x)) < 3 or x.layout == "shared":
        raise UnknownLayerError("instance norm with statistics, or of the input")
    weight, bias = parameter(run, layer, "weight"), parameter(run, layer, "bias")
    return group_norm(run, x, run.shape(x)[1], weight, bias, module.eps)


def normalize(run: Run, input: Value, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Value:
    """F.normalize: divided by the norm along a dimension."""
    x = run.by_cell(input).contiguous()
    along = dim if dim < 0 else dim + 1
    return cells(x / torch.linalg.vector_norm(x, p, along, keepdim=True).clamp_min(eps))


def _local_response_norm(run: Run, layer: Layer, x: Value) -> Value:
    """A function over each cell's own channels; each cell's maps become a separate image."""
    if len(run.shape(x)) != 4:
        raise UnknownLayerError("local response norm of features")
    maps = run.maps(x)
    images, _, height, width = maps.shape
    by_cell = maps.reshape(images * run.cells, -1, height, width)
    return Value(innermost(layer.module(by_cell).view(maps.shape)), "maps")


LAYERS: dict[type, Any] = {
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), _batch_norm_layer),
    nn.LayerNorm: _layer_norm_layer,
    nn.RMSNorm: _rms_norm_layer,
    nn.GroupNorm: _group_norm_layer,
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d), _instance_norm_layer),
    nn.LocalResponseNorm: _local_response_norm,
}
FUNCTIONS: dict[Any, Any] = {
    F.batch_norm: batch_norm,
    F.layer_norm: layer_norm,
    F.group_norm: group_norm,
    F.normalize: normalize,
}
