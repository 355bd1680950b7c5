"""Layers for K cells at once: what each known layer of a traced module becomes.

Knows the layouts of `wdgrid.engine.values`; nothing of what trains the parameters.
"""

import copy
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from wdgrid.engine.special import concatenation, dropout, shake
from wdgrid.engine.values import Operation, Run, UnknownLayerError, Value
from wdgrid.models.shake import Shake

ELEMENTWISE = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Identity)
EACH_MAP = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.ZeroPad2d)
ELEMENTWISE_FUNCTIONS = (F.relu, torch.relu, F.gelu, F.silu, torch.tanh, torch.sigmoid)
DROPOUT = (F.dropout, F.dropout2d)
SUMS = (operator.add, torch.add, operator.iadd)

Stacked = Callable[[dict[str, Tensor], dict[str, Tensor], Tensor, bool], Tensor]


def stack(module: nn.Module) -> Stacked:
    """A module as a function (parameters, buffers, x [B, …], training) → logits [K, C, B].

    Raises UnknownLayerError where a layer has no stacked form, TraceError and others where torch.fx cannot follow. It
    is traced once for training and once for tests: `self.training` in a user's own code is a constant to torch.fx.
    """
    train, test = (_compiled(copy.deepcopy(module).train(mode)) for mode in (True, False))
    return lambda parameters, buffers, x, training: (train if training else test)(parameters, buffers, x, training)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) is Shake or super().is_leaf_module(m, module_qualified_name)


def _compiled(module: nn.Module) -> Stacked:
    modules: dict[str, nn.Module] = dict(module.named_modules())
    program: list[tuple[str, Operation, tuple[str, ...]]] = []
    source, result = "", ""
    for node in _Tracer().trace(module).nodes:
        inputs = tuple(_names(node.args))
        if node.op == "placeholder":
            source = node.name
        elif node.op == "output":
            (result,) = inputs
        else:
            program.append((node.name, _operation(node, modules), inputs))

    def forward(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, training: bool) -> Tensor:
        run = Run(parameters, buffers, training)
        values = {source: Value(x, "shared")}
        for name, operation, inputs in program:
            values[name] = operation(run, *(values[i] for i in inputs))
        logits = values[result]
        if logits.layout != "features":
            raise UnknownLayerError("the network's output is not [B, classes]")
        return logits.tensor

    return forward


def _names(arguments: object) -> Iterator[str]:
    """The nodes among a node's arguments, in order; torch.cat has a list of them."""
    if isinstance(arguments, fx.Node):
        yield arguments.name
    elif isinstance(arguments, tuple | list):
        for argument in arguments:
            yield from _names(argument)


def _operation(node: fx.Node, modules: dict[str, nn.Module]) -> Operation:
    """What one node of the trace becomes."""
    if node.op == "call_module":
        name = str(node.target)
        return _layer(name, modules[name])
    if node.op == "call_function":
        plain = not node.kwargs or set(node.kwargs) == {"inplace"}
        if node.target in ELEMENTWISE_FUNCTIONS and len(node.args) == 1 and plain:
            return _elementwise(node.target)  # type: ignore[arg-type]
        if node.target in SUMS and len(node.args) == 2 and all(isinstance(a, fx.Node) for a in node.args) and plain:
            return _sum
        if node.target is torch.cat and (node.args[1:], node.kwargs) in (((1,), {}), ((), {"dim": 1})):
            return concatenation
        if node.target in DROPOUT:
            return dropout(**_dropout_arguments(node))
        if node.target is torch.flatten and node.args[1:] in ((1,), (1, -1)) and not node.kwargs:
            return _flatten
    if node.op == "call_method" and node.target == "relu":
        return _elementwise(F.relu)
    if node.op == "call_method" and node.target == "flatten" and node.args[1:] in ((1,), (1, -1)):
        return _flatten
    raise UnknownLayerError(f"{node.op} {node.target}")


def _layer(name: str, module: nn.Module) -> Operation:
    kind = type(module)  # a subclass may compute something else
    if kind is nn.Linear:
        return _linear(name, module)  # type: ignore[arg-type]
    if kind is nn.Conv2d:
        return _convolution(name, module)  # type: ignore[arg-type]
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d):
        return _batch_norm(name, module)  # type: ignore[arg-type]
    if kind in ELEMENTWISE:
        return _elementwise(module)
    if kind in EACH_MAP:
        return _each_map(module)
    if kind in (nn.Dropout, nn.Dropout2d):
        return dropout(module.p, whole_maps=kind is nn.Dropout2d)  # type: ignore[arg-type]
    if kind is Shake:
        return shake(module)  # type: ignore[arg-type]
    if kind is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return _flatten
    raise UnknownLayerError(f"{kind.__name__} ({name})")


def _linear(name: str, module: nn.Linear) -> Operation:
    def run_linear(run: Run, x: Value) -> Value:
        weight = run.parameters[f"{name}.weight"]  # [K, out, in]
        if x.layout == "shared" and x.tensor.dim() == 2:
            inputs = x.tensor.T.expand(run.cells, -1, -1)  # [K, in, B]
        elif x.layout == "features":
            inputs = x.tensor
        else:
            raise UnknownLayerError(f"linear layer on {x.layout} ({name})")
        if module.bias is None:
            return Value(torch.bmm(weight, inputs), "features")
        return Value(torch.baddbmm(run.parameters[f"{name}.bias"][:, :, None], weight, inputs), "features")

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
            if module.groups == 1:
                groups = 1
            else:
                inputs = inputs.repeat(1, run.cells, 1, 1)
        out = F.conv2d(inputs, weight, bias, module.stride, module.padding, module.dilation, groups)  # type: ignore[arg-type]
        return Value(out, "maps")

    return run_convolution


def _batch_norm(name: str, module: nn.BatchNorm1d | nn.BatchNorm2d) -> Operation:
    momentum = module.momentum
    if not module.affine or not module.track_running_stats or momentum is None:
        raise UnknownLayerError(f"batch norm without scale, statistics or momentum ({name})")

    def run_batch_norm(run: Run, x: Value) -> Value:
        if x.layout == "shared":
            raise UnknownLayerError(f"batch norm on the input ({name})")
        stacked = x.tensor.flatten(0, 1)[None] if x.layout == "features" else x.tensor  # [1, K·F, B] or [B, K·C, H, W]
        mean, variance = (run.buffers[f"{name}.running_{part}"].view(-1) for part in ("mean", "var"))
        scale, shift = (run.parameters[f"{name}.{part}"].flatten() for part in ("weight", "bias"))
        if run.training:
            run.buffers[f"{name}.num_batches_tracked"] += 1
        out = F.batch_norm(stacked, mean, variance, scale, shift, run.training, momentum, module.eps)
        return Value(out.view(x.tensor.shape), x.layout)

    return run_batch_norm


def _elementwise(function: Callable[[Tensor], Tensor]) -> Operation:
    return lambda run, x: Value(function(x.tensor), x.layout)


def _dropout_arguments(node: fx.Node) -> dict[str, Any]:
    """What F.dropout was called with; the trace in training and the one in tests differ in `training`."""
    named = dict(zip(("x", "p", "training"), node.args, strict=False)) | node.kwargs
    return {"p": named.get("p", 0.5), "training": named.get("training", True), "whole_maps": node.target is F.dropout2d}


def _each_map(module: nn.Module) -> Operation:
    """Layers that do the same to each map by itself: pooling, padding."""

    def run_each_map(run: Run, x: Value) -> Value:
        if x.tensor.dim() != 4:
            raise UnknownLayerError(f"{type(module).__name__} on {x.layout}")
        return Value(module(x.tensor), x.layout)

    return run_each_map


def _flatten(run: Run, x: Value) -> Value:
    if x.layout == "shared":
        return Value(x.tensor.flatten(1), "shared")
    if x.layout == "features":
        return x
    images = len(x.tensor)
    by_cell = x.tensor.reshape(images, run.cells, -1)  # [B, K, C·H·W]
    return Value(by_cell.permute(1, 2, 0).contiguous(), "features")


def _sum(run: Run, a: Value, b: Value) -> Value:
    if a.layout != b.layout:
        raise UnknownLayerError("a sum of values in different layouts")
    return Value(a.tensor + b.tensor, a.layout)


def logits_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of each cell [K] in nats; logits [K, C, B], classes y [B]."""
    log_p = F.log_softmax(logits, dim=1)
    return -log_p.gather(1, y.expand(len(logits), 1, -1)).mean(dim=(1, 2))


def wrong(logits: Tensor, y: Tensor) -> Tensor:
    """Number of misclassified images of each cell [K]; logits [K, C, B], classes y [B]."""
    return (logits.argmax(dim=1) != y).sum(dim=1)
