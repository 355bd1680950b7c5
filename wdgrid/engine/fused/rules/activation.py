"""Elementwise functions of one value: layers, functions and methods."""

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wdgrid.engine.fused.kernels import elementwise
from wdgrid.engine.fused.layouts import Run, UnknownLayerError, Value, cells
from wdgrid.engine.fused.trace import Layer

# They round at most once, so vector and scalar code give the same bits.
EXACT = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardtanh, nn.Threshold, nn.Identity)
SMOOTH = (
    nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.ELU, nn.CELU, nn.SELU, nn.Softplus, nn.Softsign, nn.LogSigmoid,
    nn.Hardswish, nn.Hardsigmoid, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink,
)  # fmt: skip
EXACT_FUNCTIONS = (F.relu, F.relu6, F.leaky_relu, F.hardtanh)
SMOOTH_FUNCTIONS = (F.gelu, F.silu, F.mish, F.elu, F.celu, F.selu, F.softplus, F.logsigmoid, F.hardswish, F.hardsigmoid)
EXACT_METHODS = (
    "relu", "neg", "abs", "sqrt", "sign", "clamp", "clamp_min", "clamp_max", "round", "floor", "square",
    "clone", "detach", "float", "double", "to", "logical_not", "bitwise_not",
)  # fmt: skip
SMOOTH_METHODS = "sigmoid", "tanh", "exp", "log", "log1p", "expm1", "sin", "cos", "erf", "rsqrt", "reciprocal", "pow"


def _unary(function: Callable[..., Tensor], *, smooth: bool) -> Any:
    """A function of one tensor; its other arguments are numbers."""

    def run_unary(run: Run, input: Any, *args: Any, inplace: bool = False, **kwargs: Any) -> Value:
        if not isinstance(input, Value) or any(isinstance(a, Value) for a in (*args, *kwargs.values())):
            raise UnknownLayerError("a function of several values")
        of = (lambda x: function(x, *args, **kwargs)) if args or kwargs else function
        return Value(elementwise(input.tensor, of) if smooth else of(input.tensor), input.layout)

    return run_unary


def _layer(run: Run, layer: Layer, x: Value) -> Value:
    module = layer.module
    if getattr(module, "inplace", False):
        module = copy.copy(module)
        module.inplace = False  # type: ignore[assignment]
    return Value(elementwise(x.tensor, module) if type(module) in SMOOTH else module(x.tensor), x.layout)


def softmax(function: Any) -> Any:
    """torch.softmax and log_softmax: along one of the plain network's dimensions."""

    def run_softmax(run: Run, input: Value, dim: int, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Value:
        return cells(function(run.by_cell(input).contiguous(), dim if dim < 0 else dim + 1, dtype=dtype))

    return run_softmax


def _softmax_layer(run: Run, layer: Layer, x: Value) -> Value:
    dim, function = layer.module.dim, SOFTMAX[type(layer.module)]
    if dim is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise UnknownLayerError("softmax without a dimension")
    return softmax(function)(run, x, dim)


def glu(run: Run, input: Value, dim: int = -1) -> Value:
    """F.glu: the first half times the sigmoid of the second."""
    a, b = run.by_cell(input).chunk(2, dim if dim < 0 else dim + 1)
    return cells(a * elementwise(b, torch.sigmoid))


SOFTMAX: dict[type, Any] = {nn.Softmax: torch.softmax, nn.LogSoftmax: torch.log_softmax}
LAYERS: dict[type, Any] = {
    **dict.fromkeys((*EXACT, *SMOOTH), _layer),
    **dict.fromkeys(SOFTMAX, _softmax_layer),
    nn.GLU: lambda run, layer, x: glu(run, x, layer.module.dim),
}
FUNCTIONS: dict[Any, Any] = {
    **{function: _unary(function, smooth=False) for function in EXACT_FUNCTIONS},
    **{function: _unary(function, smooth=True) for function in SMOOTH_FUNCTIONS},
    **{name: _unary(getattr(Tensor, name), smooth=False) for name in EXACT_METHODS},
    **{name: _unary(getattr(Tensor, name), smooth=True) for name in SMOOTH_METHODS},
    **{getattr(torch, n): _unary(getattr(torch, n), smooth=False) for n in EXACT_METHODS if hasattr(torch, n)},
    **{getattr(torch, n): _unary(getattr(torch, n), smooth=True) for n in SMOOTH_METHODS if hasattr(torch, n)},
    **dict.fromkeys((torch.softmax, F.softmax, "softmax"), softmax(torch.softmax)),
    **dict.fromkeys((torch.log_softmax, F.log_softmax, "log_softmax"), softmax(torch.log_softmax)),
    operator.pow: _unary(torch.pow, smooth=True),
    F.glu: glu,
    "contiguous": lambda run, x, **_: x,  # changes the memory layout only
}
