"""Runs nodes without a stacked rule cell by cell, and nodes with shared arguments once for all cells."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from wdgrid.engine.fused.layouts import Run, Value, cells
from wdgrid.engine.fused.trace import Layer
from wdgrid.engine.randomness import generators, restore, states


def mapped(function: Callable[[Any], Any], x: Any) -> Any:
    """Nested tuples, lists, dicts and slices with `function` applied to each value."""
    if isinstance(x, tuple | list):
        parts = [mapped(function, part) for part in x]
        return parts if isinstance(x, list) else tuple(parts)
    if isinstance(x, dict):
        return {key: mapped(function, part) for key, part in x.items()}
    if isinstance(x, slice):
        return slice(mapped(function, x.start), mapped(function, x.stop), mapped(function, x.step))
    return function(x)


def values(x: Any) -> list[Value]:
    """The values in nested arguments."""
    found: list[Value] = []
    mapped(lambda part: found.append(part) if isinstance(part, Value) else None, x)
    return found


def only_shared(x: Any) -> bool:
    """Whether nested arguments are the same for all cells."""
    return all(value.layout == "shared" for value in values(x))


def unwrapped(x: Any) -> Any:
    """Nested arguments with shared values as tensors."""
    return mapped(lambda part: part.tensor if isinstance(part, Value) else part, x)


def wrapped(x: Any) -> Any:
    """A result with tensors as shared values."""
    if isinstance(x, torch.Size):
        return x
    return mapped(lambda part: Value(part, "shared") if isinstance(part, Tensor) else part, x)


def plain(node: fx.Node, layer: Layer | None, args: Any, kwargs: Any) -> Any:
    """Runs a node as in the plain network, once for all cells."""
    return wrapped(_call(node, layer.module if layer else None, unwrapped(args), unwrapped(kwargs)))


def each_cell(run: Run, node: fx.Node, layer: Layer | None, args: Any, kwargs: Any) -> Any:
    """Runs a node for one cell after another; each draws the same random numbers."""
    stacks = {id(value): run.by_cell(value).unbind(0) for value in values((args, kwargs))}
    own = {local: run.own(name).unbind(0) for local, name in layer.names.items()} if layer else {}
    of = generators(next(iter(run.parameters.values())).device) if run.random else ()
    begin, results = states(of), []
    for k in range(run.cells):
        if k:
            restore(of, begin)

        def take(part: Any, k: int = k) -> Any:
            return stacks[id(part)][k].contiguous() if isinstance(part, Value) else part

        tensors = {local: tensor[k] for local, tensor in own.items()}
        module = _Bound(layer.module, tensors) if layer else None
        results.append(_call(node, module, mapped(take, args), mapped(take, kwargs)))
    return _stacked(results)


class _Bound:
    """A module with other parameters and buffers."""

    def __init__(self, module: nn.Module, tensors: dict[str, Tensor]) -> None:
        self.module, self.tensors = module, tensors

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return functional_call(self.module, self.tensors, args, kwargs)


def _call(node: fx.Node, module: Callable[..., Any] | None, args: Any, kwargs: Any) -> Any:
    if module is not None:
        return module(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _stacked(results: list[Any]) -> Any:
    """The results of all cells as one; values that are not tensors are the same in all of them."""
    first = results[0]
    if isinstance(first, Tensor):
        return cells(torch.stack(results))
    if isinstance(first, tuple | list) and not isinstance(first, torch.Size):
        return tuple(_stacked([result[i] for result in results]) for i in range(len(first)))
    return first
