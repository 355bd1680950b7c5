"""Traces a module with torch.fx; sizes that do not depend on the batch are numbers, so code may branch on them.

During tracing, every node is computed for two batches of different size. A value that is not a tensor and is equal in
both is a constant of the trace. wdgrid's own layers are single nodes; torch's attention layers and functions wrapped
for torch.fx are replaced by their steps.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx._symbolic_trace import _wrapped_fns_to_patch  # pyright: ignore[reportPrivateUsage]
from torch.fx.node import map_arg
from torch.fx.proxy import TraceError

from wdgrid.engine.fused.trace import is_in_place
from wdgrid.engine.fused.transformer import INLINED, NotInlinedError
from wdgrid.engine.randomness import generators, preserved
from wdgrid.models.shake import Shake

TRAINED, TESTED = (2, 5), (1, 5)  # images of the two batches; batch norm refuses to be trained on one


class Shape(tuple[Any, ...]):
    """A shape whose sizes are numbers, or proxies where they change with the batch."""

    def numel(self) -> Any:
        """The product of the sizes."""
        return math.prod(self)

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return Shape(part) if isinstance(index, slice) else part


class Known(fx.Proxy):
    """A proxy with a shape."""

    tracer: "Tracer"

    @property
    def shape(self) -> Any:
        """Sizes, as numbers where they do not depend on the batch."""
        return self.tracer.shape_of(self)

    def size(self, dim: int | None = None) -> Any:
        """Tensor.size."""
        shape = self.tracer.shape_of(self)
        return shape if dim is None else shape[dim]

    def dim(self) -> Any:
        """Tensor.dim."""
        shape = self.tracer.shape_of(self)
        return len(shape) if isinstance(shape, Shape) else self.tracer.create_proxy("call_method", "dim", (self,), {})

    @property
    def ndim(self) -> Any:
        """Tensor.ndim."""
        return self.dim()

    def __len__(self) -> int:
        return self.tracer.length(self)


class Tracer(fx.Tracer):
    """Traces a module for inputs like x [B, …]."""

    proxy_buffer_attributes = True

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self._x = x
        self._values: dict[fx.Node, list[Any]] = {}
        self._computing = False

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """The module's graph."""
        sizes = TRAINED if root.training else TESTED
        self._batches = [self._x[torch.arange(n, device=self._x.device) % len(self._x)] for n in sizes]
        try:
            with preserved(generators(self._x.device)):
                return super().trace(root, concrete_args)
        finally:
            self._values.clear()

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """The input as a proxy; further arguments have their default values."""
        function, arguments = super().create_args_for_root(root_fn, is_module, concrete_args)
        defaults = [parameter.default for parameter in inspect.signature(root_fn).parameters.values()]
        if len(defaults) == len(arguments):
            for i in range(2, len(arguments)):
                if defaults[i] is not inspect.Parameter.empty:
                    arguments[i] = defaults[i]
        return function, arguments

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: D102
        return type(m) is Shake or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """One node, or the nodes of the steps that a PyTorch module consists of."""
        if self._computing:
            return forward(*args, **kwargs)
        if inlined := INLINED.get(type(m)):
            try:
                return inlined(m, *args, **kwargs)
            except (NotInlinedError, TypeError):
                pass
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A module's attribute: a node for parameters and buffers."""
        return attr_val if self._computing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:  # noqa: D102
        return Known(node, self)

    def create_proxy(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *rest: Any, **options: Any
    ) -> Any:
        """One node, with its values computed; or the nodes of a function that was only wrapped for torch.fx."""
        if kind == "call_function" and isinstance(target, FunctionType) and _is_wrapped(target):
            try:
                result = target(*args, **kwargs)
                if isinstance(result, fx.Proxy):
                    return result
            except Exception:  # it stays one node
                pass
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        self._compute(proxy.node)
        if kind == "call_method" and is_in_place(str(target)) and isinstance(args[0], fx.Proxy):
            args[0].node = proxy.node  # later readers get the changed value
            return args[0]
        return proxy

    def to_bool(self, obj: fx.Proxy) -> bool:
        """A condition that does not depend on data."""
        values = self._values.get(obj.node)
        if values and not isinstance(values[0], Tensor) and values[0] == values[1]:
            return bool(values[0])
        return super().to_bool(obj)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """The parts of a value of known length."""
        values = self._values.get(obj.node)
        if values and all(isinstance(v, Tensor | tuple | list) for v in values) and len(values[0]) == len(values[1]):
            return iter([obj[i] for i in range(len(values[0]))])  # pyright: ignore[reportIndexIssue]
        return super().iter(obj)

    def length(self, proxy: fx.Proxy) -> int:
        """len() of a value of known length; raises TraceError for others."""
        values = self._values.get(proxy.node)
        if values and len(values[0]) == len(values[1]):
            return len(values[0])
        raise TraceError("the length of a value that changes with the batch")

    def shape_of(self, proxy: fx.Proxy) -> Any:
        """A shape, with numbers for the sizes that are equal in both batches; a proxy if it could not be computed."""
        values = self._values.get(proxy.node, [None, None])
        if not all(isinstance(value, Tensor) for value in values) or values[0].dim() != values[1].dim():
            return self.create_proxy("call_function", getattr, (proxy, "shape"), {})
        sizes = enumerate(zip(values[0].shape, values[1].shape, strict=True))
        return Shape(a if a == b else self.create_proxy("call_method", "size", (proxy, i), {}) for i, (a, b) in sizes)

    def _compute(self, node: fx.Node) -> None:
        """Computes a node for both batches, if possible."""
        self._computing = True
        try:
            with torch.no_grad():
                self._values[node] = [self._computed(node, i) for i in range(2)]
        except Exception:  # whatever was raised, the values stay unknown
            pass
        finally:
            self._computing = False

    def _computed(self, node: fx.Node, i: int) -> Any:
        def known(other: fx.Node) -> Any:
            return self._values[other][i]

        args, kwargs = map_arg((node.args, node.kwargs), known)
        match node.op:
            case "placeholder":
                return args[0] if args else self._batches[i]
            case "get_attr":
                found: Any = self.root
                for part in str(node.target).split("."):
                    found = getattr(found, part)
                return found
            case "call_module":
                return self.root.get_submodule(str(node.target))(*args, **kwargs)
            case "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            case "call_function":
                return node.target(*args, **kwargs)  # type: ignore[operator]
            case _:
                return None


def _is_wrapped(function: FunctionType) -> bool:
    """Whether torch.fx.wrap was called for a function; it may be traceable, because sizes are numbers here."""
    return (id(function.__globals__), function.__name__) in _wrapped_fns_to_patch
