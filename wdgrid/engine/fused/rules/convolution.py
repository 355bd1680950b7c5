"""Convolutions, and functions of each channel's map: pooling, padding, interpolation."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wdgrid.engine.fused.kernels import even_channels
from wdgrid.engine.fused.layouts import Run, UnknownLayerError, Value, innermost, of_maps
from wdgrid.engine.fused.rules.linear import parameter
from wdgrid.engine.fused.trace import Layer

CONVOLUTIONS: dict[type, Any] = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
TRANSPOSED: dict[type, Any] = {
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}
EACH_MAP = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.ZeroPad1d, nn.ZeroPad2d,
    nn.ConstantPad1d, nn.ConstantPad2d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d,
    nn.ReplicationPad2d, nn.CircularPad2d,
)  # fmt: skip
EACH_MAP_FUNCTIONS = (
    F.max_pool1d, F.max_pool2d, F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool1d, F.adaptive_max_pool1d,
    F.adaptive_max_pool2d,
)  # fmt: skip


def _convolution(function: Callable[..., Tensor], dimensions: int) -> Any:
    """One grouped convolution of K·C channels. The arguments after `bias` are the function's."""

    def run_convolution(
        run: Run, input: Value, weight: Value, bias: Value | None = None, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1,
    ) -> Value:  # fmt: skip
        if len(run.shape(input)) != dimensions + 2:
            raise UnknownLayerError("a convolution of features, or of a single example")
        kernel = run.by_cell(weight).flatten(0, 1)  # [K·out, in/groups, k, k]
        offset = None if bias is None else run.by_cell(bias).flatten()
        together = run.cells * groups
        if input.layout == "shared":
            # One product computes all cells; in float64 on a CPU, the rounding of a row depends on its position.
            inputs = input.tensor
            if groups == 1 and not (inputs.device.type == "cpu" and inputs.dtype == torch.float64):
                together = 1
            else:
                inputs = inputs.repeat(1, run.cells, *[1] * dimensions)
            inputs = innermost(inputs) if dimensions == 2 else inputs
        else:
            inputs = run.maps(input)
        return of_maps(function(inputs, kernel, offset, stride, padding, dilation, together))

    return run_convolution


def _convolution_layer(run: Run, layer: Layer, input: Value) -> Value:
    module: nn.Conv2d = layer.module  # type: ignore[assignment]
    rule = FUNCTIONS[CONVOLUTIONS[type(module)]]
    weight, bias, padding = parameter(run, layer, "weight"), parameter(run, layer, "bias"), module.padding
    if module.padding_mode != "zeros":
        sides = module._reversed_padding_repeated_twice  # pyright: ignore[reportPrivateUsage]
        input, padding = Value(F.pad(run.maps(input), sides, mode=module.padding_mode), "maps"), 0
    return rule(run, input, weight, bias, module.stride, padding, module.dilation, module.groups)


def _transposed_layer(run: Run, layer: Layer, input: Value) -> Value:
    module: nn.ConvTranspose2d = layer.module  # type: ignore[assignment]
    weight, bias = parameter(run, layer, "weight"), parameter(run, layer, "bias")
    assert weight
    if input.layout == "shared" or len(run.shape(input)) != weight.tensor.dim() - 1:
        raise UnknownLayerError("a transposed convolution of the input")
    offset = None if bias is None else bias.tensor.flatten()
    out = TRANSPOSED[type(module)](
        run.maps(input), weight.tensor.flatten(0, 1), offset, module.stride, module.padding, module.output_padding,
        module.groups * run.cells, module.dilation,
    )  # fmt: skip
    return of_maps(out)


def _each_map(function: Callable[..., Any], least: int = 3) -> Any:
    """A function that treats each map separately and alike."""

    def run_each_map(run: Run, input: Value, *args: Any, **kwargs: Any) -> Value:
        if len(run.shape(input)) < least:
            raise UnknownLayerError("a function of maps on features")
        out = function(run.maps(input), *args, **kwargs)
        if not isinstance(out, Tensor):
            raise UnknownLayerError("a function of maps with two results")
        return Value(out, "maps")

    return run_each_map


def _each_map_layer(run: Run, layer: Layer, input: Value) -> Value:
    module = layer.module
    if type(module) is nn.AdaptiveAvgPool2d:
        return adaptive_pool(run, input, module.output_size)
    least = 3 if type(module).__name__.endswith("1d") else 4
    return _each_map(module, least)(run, input)


def adaptive_pool(run: Run, input: Value, output_size: Any) -> Value:
    """F.adaptive_avg_pool2d with the same bits in every channel.

    With channels innermost, torch sums the channels beyond a multiple of LANES differently, so planes are used then.
    For an output of one number per map torch computes a mean, whose rounding depends on a channel's position among the
    K·C.
    """
    if output_size in (1, (1, 1)):
        return _each_map(lambda x: torch.ops.aten._adaptive_avg_pool2d(even_channels(x), [1, 1]), 4)(run, input)
    return _each_map(lambda x: F.adaptive_avg_pool2d(even_channels(x), output_size), 4)(run, input)


def interpolate(run: Run, input: Value, size: Any = None, scale_factor: Any = None, mode: str = "nearest") -> Value:
    """F.interpolate. Modes with weighted means have no rule: their rounding depends on a channel's position."""
    if mode != "nearest":
        raise UnknownLayerError(f"interpolation ({mode})")
    return _each_map(F.interpolate)(run, input, size, scale_factor)


def _upsample_layer(run: Run, layer: Layer, input: Value) -> Value:
    module: nn.Upsample = layer.module  # type: ignore[assignment]
    return interpolate(run, input, module.size, module.scale_factor, module.mode)


def pad(run: Run, input: Value, pad: Any, mode: str = "constant", value: float | None = None) -> Value:
    """F.pad."""
    if mode == "constant" and input.layout == "cells":
        return Value(F.pad(input.tensor, pad, mode, value), "cells")
    if len(pad) > 2 * (len(run.shape(input)) - 2):
        raise UnknownLayerError("padding of channels")
    return Value(F.pad(run.maps(input), pad, mode, value), "maps")


LAYERS: dict[type, Any] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution_layer),
    **dict.fromkeys(TRANSPOSED, _transposed_layer),
    **dict.fromkeys(EACH_MAP, _each_map_layer),
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d), _upsample_layer),
}
FUNCTIONS: dict[Any, Any] = {
    **{function: _convolution(function, i) for i, function in enumerate(CONVOLUTIONS.values(), 1)},
    **{
        torch_function: _convolution(torch_function, i)
        for i, torch_function in enumerate((torch.conv1d, torch.conv2d), 1)
    },
    **{function: _each_map(function) for function in EACH_MAP_FUNCTIONS},
    F.adaptive_avg_pool2d: adaptive_pool,
    F.interpolate: interpolate,
    F.pad: pad,
}
