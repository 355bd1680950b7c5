"""Layers for K cells at once: what each known layer of a traced module becomes in the layouts of `layouts`."""

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from wdgrid.engine.fused.dropout_and_shake import dropout, shake
from wdgrid.engine.fused.kernels import BatchNorm, Linear, Norm, elementwise, even_channels
from wdgrid.engine.fused.layouts import Operation, Run, UnknownLayerError, Value, innermost
from wdgrid.models.shake import Shake

EXACT = (nn.ReLU, nn.LeakyReLU, nn.Identity)  # of one rounding at most, the same in vector and scalar code
SMOOTH = (nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.Softplus)
EACH_MAP = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.ZeroPad2d)
EXACT_FUNCTIONS = (F.relu, torch.relu)
SMOOTH_FUNCTIONS = (F.gelu, F.silu, torch.tanh, torch.sigmoid)
DROPOUT = (F.dropout, F.dropout2d)
SUMS = (operator.add, torch.add, operator.iadd)


class Trace:
    """What a layer needs to know of its network: its module, its neighbours, and where its gradients are kept."""

    def __init__(self, modules: dict[str, nn.Module], gradients: dict[str, Tensor]) -> None:
        self.modules = modules
        self.gradients = gradients
        self.written: set[str] = set()  # names of the gradients that the backward pass itself fills

    def sink(self, name: str) -> Tensor:
        """Where a layer's backward pass writes the gradient of parameter `name`, [K, …].

        Raises UnknownLayerError where it is frozen, or used twice: its gradients would have to be added.
        """
        if name not in self.gradients or name in self.written:
            raise UnknownLayerError(f"{name} is frozen or used twice")
        self.written.add(name)
        return self.gradients[name]

    def is_relu(self, node: fx.Node) -> bool:
        """Whether a node is a plain ReLU."""
        if node.op == "call_module":
            return type(self.modules[str(node.target)]) is nn.ReLU
        return node.target in (F.relu, torch.relu, "relu") and len(node.args) == 1

    def is_flatten(self, node: fx.Node) -> bool:
        """Whether a node lays all of an image's features side by side: a layer, a function or a method."""
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            return type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)
        flattens = node.op in ("call_function", "call_method") and node.target in (torch.flatten, "flatten")
        return flattens and node.args[1:] in ((1,), (1, -1)) and not node.kwargs

    def is_batch_norm(self, node: fx.Node) -> bool:
        """Whether a node is a batch norm."""
        return node.op == "call_module" and type(self.modules[str(node.target)]) in (nn.BatchNorm1d, nn.BatchNorm2d)

    def fuses(self, node: fx.Node) -> bool:
        """Whether a node is a batch norm whose only reader is a ReLU: they are one layer then."""
        return self.is_batch_norm(node) and len(node.users) == 1 and self.is_relu(next(iter(node.users)))


def operation(node: fx.Node, trace: Trace) -> Operation:
    """What one node of the trace becomes."""
    if trace.is_relu(node) and trace.fuses(node.all_input_nodes[0]):
        return lambda run, x: x
    if trace.is_flatten(node):
        return _flatten
    if node.op == "call_module":
        return _layer(node, trace)
    if node.op == "call_function":
        plain = not node.kwargs or set(node.kwargs) == {"inplace"}
        if node.target in EXACT_FUNCTIONS and len(node.args) == 1 and plain:
            return _exact(node.target)  # type: ignore[arg-type]
        if node.target in SMOOTH_FUNCTIONS and len(node.args) == 1 and plain:
            return _smooth(node.target)  # type: ignore[arg-type]
        if node.target in SUMS and len(node.args) == 2 and all(isinstance(a, fx.Node) for a in node.args) and plain:
            return _sum
        if node.target is torch.cat and (node.args[1:], node.kwargs) in (((1,), {}), ((), {"dim": 1})):
            return concatenation
        if node.target in DROPOUT:
            return dropout(**_dropout_arguments(node))
    if node.op == "call_method" and node.target == "relu":
        return _exact(F.relu)
    raise UnknownLayerError(f"{node.op} {node.target}")


def _layer(node: fx.Node, trace: Trace) -> Operation:
    name = str(node.target)
    module = trace.modules[name]
    kind = type(module)  # a subclass may compute something else
    if kind is nn.Linear:
        return _linear(name, trace)
    if kind is nn.Conv2d:
        return _convolution(name, module)  # type: ignore[arg-type]
    if trace.is_batch_norm(node):
        return _batch_norm(name, trace, relu=trace.fuses(node))
    if kind in EXACT:
        return _exact(module)
    if kind in SMOOTH:
        return _smooth(_out_of_place(module))
    if kind in EACH_MAP:
        return _each_map(module)
    if kind in (nn.Dropout, nn.Dropout2d):
        return dropout(module.p, whole_maps=kind is nn.Dropout2d)  # type: ignore[arg-type]
    if kind is nn.LocalResponseNorm:
        return local_response_norm(module)
    if kind is Shake:
        return shake(module)  # type: ignore[arg-type]
    raise UnknownLayerError(f"{kind.__name__} ({name})")


def _linear(name: str, trace: Trace) -> Operation:
    has_bias = trace.modules[name].bias is not None
    weight_sink = trace.sink(f"{name}.weight")  # [K, out, in]
    bias_sink = trace.sink(f"{name}.bias") if has_bias else None  # [K, out]

    def run_linear(run: Run, x: Value) -> Value:
        if x.tensor.dim() != 2:
            raise UnknownLayerError(f"linear layer on {x.layout} ({name})")
        weight = run.parameters[f"{name}.weight"]
        bias = run.parameters[f"{name}.bias"] if has_bias else None
        shared = x.layout == "shared"
        return Value(Linear.apply(x.tensor, weight, bias, weight_sink, bias_sink, shared), "features")

    return run_linear


def _convolution(name: str, module: nn.Conv2d) -> Operation:
    if module.padding_mode != "zeros":
        raise UnknownLayerError(f"padding mode {module.padding_mode} ({name})")

    def run_convolution(run: Run, x: Value) -> Value:
        if x.layout == "features":
            raise UnknownLayerError(f"convolution on features ({name})")
        weight = run.parameters[f"{name}.weight"].flatten(0, 1)  # [K·out, in/groups, k, k]
        bias = run.parameters[f"{name}.bias"].flatten() if module.bias is not None else None
        groups = run.cells * module.groups
        inputs = x.tensor
        if x.layout == "shared":
            # One product serves all cells; in float64 on a CPU, its rows are rounded by their place.
            if module.groups == 1 and not (inputs.device.type == "cpu" and inputs.dtype == torch.float64):
                groups = 1
            else:
                inputs = inputs.repeat(1, run.cells, 1, 1)
            inputs = innermost(inputs)
        out = F.conv2d(inputs, weight, bias, module.stride, module.padding, module.dilation, groups)  # type: ignore[arg-type]
        return Value(out, "maps")

    return run_convolution


def _batch_norm(name: str, trace: Trace, *, relu: bool) -> Operation:
    module: nn.BatchNorm2d = trace.modules[name]  # type: ignore[assignment]
    momentum = module.momentum
    if not module.affine or not module.track_running_stats or momentum is None:
        raise UnknownLayerError(f"batch norm without scale, statistics or momentum ({name})")
    sinks = trace.sink(f"{name}.weight"), trace.sink(f"{name}.bias")  # [K, C] each

    def run_batch_norm(run: Run, x: Value) -> Value:
        if x.layout == "shared":
            raise UnknownLayerError(f"batch norm on the input ({name})")
        mean, variance = (run.buffers[f"{name}.running_{part}"].view(-1) for part in ("mean", "var"))
        scale, shift = (run.parameters[f"{name}.{part}"] for part in ("weight", "bias"))
        if run.training:
            run.buffers[f"{name}.num_batches_tracked"] += 1
        norm = Norm(mean, variance, run.training, momentum, module.eps, relu)
        return Value(BatchNorm.apply(x.tensor, scale, shift, norm, *sinks), x.layout)

    return run_batch_norm


def _exact(function: Callable[[Tensor], Tensor]) -> Operation:
    return lambda run, x: Value(function(x.tensor), x.layout)


def _smooth(function: Callable[[Tensor], Tensor]) -> Operation:
    return lambda run, x: Value(elementwise(x.tensor, function), x.layout)


def _out_of_place(module: nn.Module) -> nn.Module:
    if not getattr(module, "inplace", False):
        return module
    module = copy.copy(module)
    module.inplace = False  # type: ignore[assignment]
    return module


def _dropout_arguments(node: fx.Node) -> dict[str, Any]:
    """What F.dropout was called with; the trace in training and the one in tests differ in `training`."""
    named = dict(zip(("x", "p", "training"), node.args, strict=False)) | node.kwargs
    return {"p": named.get("p", 0.5), "training": named.get("training", True), "whole_maps": node.target is F.dropout2d}


def _each_map(module: nn.Module) -> Operation:
    """Layers that do the same to each map by itself: pooling, padding."""
    layer: Callable[[Tensor], Tensor] = module
    if isinstance(module, nn.AdaptiveAvgPool2d):
        layer = _adaptive_pool(module)

    def run_each_map(run: Run, x: Value) -> Value:
        if x.tensor.dim() != 4:
            raise UnknownLayerError(f"{type(module).__name__} on {x.layout}")
        return Value(layer(x.tensor), x.layout)

    return run_each_map


def _adaptive_pool(module: nn.AdaptiveAvgPool2d) -> Callable[[Tensor], Tensor]:
    """nn.AdaptiveAvgPool2d with the same bits in every channel.

    Of channels innermost, torch sums those beyond a multiple of LANES in another way: planes then. For one number a map
    it would take the mean instead, whose rounding depends on a channel's place among the K·C.
    """
    pool: Callable[[Tensor], Tensor] = module
    if module.output_size in (1, (1, 1)):
        pool = lambda x: torch.ops.aten._adaptive_avg_pool2d(x, [1, 1])  # noqa: E731
    return lambda x: pool(even_channels(x))


def _flatten(run: Run, x: Value) -> Value:
    if x.layout == "shared":
        return Value(x.tensor.flatten(1), "shared")
    return Value(x.tensor.reshape(len(x.tensor), -1), "features")  # [B, K·C·H·W], planes again


def _sum(run: Run, a: Value, b: Value) -> Value:
    if a.layout != b.layout:
        raise UnknownLayerError("a sum of values in different layouts")
    return Value(a.tensor + b.tensor, a.layout)


def concatenation(run: Run, *values: Value) -> Value:
    """torch.cat along channels: each cell's own side by side."""
    layout = values[0].layout
    if any(value.layout != layout for value in values):
        raise UnknownLayerError("concatenation of values in different layouts")
    tensors = [value.tensor for value in values]
    if layout == "shared":
        return Value(torch.cat(tensors, 1), layout)
    by_cell = torch.cat([t.unflatten(1, (run.cells, -1)) for t in tensors], 2).flatten(1, 2)
    return Value(innermost(by_cell) if layout == "maps" else by_cell, layout)


def local_response_norm(module: nn.Module) -> Operation:
    """nn.LocalResponseNorm over each cell's own channels: a cell's maps become an image of their own."""

    def run_local_response_norm(run: Run, x: Value) -> Value:
        if x.tensor.dim() != 4:
            raise UnknownLayerError(f"local response norm on {x.layout}")
        if x.layout == "shared":
            return Value(module(x.tensor), "shared")
        images, _, height, width = x.tensor.shape
        by_cell = x.tensor.reshape(images * run.cells, -1, height, width)
        return Value(innermost(module(by_cell).view(x.tensor.shape)), "maps")

    return run_local_response_norm
