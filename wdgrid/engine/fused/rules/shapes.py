"""Functions that reorder, split and join tensors, and functions that return sizes."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from wdgrid.engine.fused.layouts import Run, UnknownLayerError, Value, cells, innermost
from wdgrid.engine.fused.trace import Layer


def _after(dim: int) -> int:
    """A dimension of the plain network's tensor in [K, …]."""
    return dim if dim < 0 else dim + 1


def _listed(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sizes or dimensions, given one by one or as a list."""
    return tuple(given[0]) if len(given) == 1 and isinstance(given[0], tuple | list) else given


def reshape(run: Run, input: Value, *shape: Any) -> Value:
    """Tensor.reshape and view."""
    sizes = _listed(shape)
    if not all(isinstance(size, int) for size in sizes):
        raise UnknownLayerError("a view of another kind")
    own = run.shape(input)
    if input.layout == "maps" and len(sizes) == 2 and sizes[0] in (own[0], -1) and sizes[1] in (own[1:].numel(), -1):
        return flatten(run, input, 1)
    return cells(run.by_cell(input).reshape(run.cells, *sizes))


def reshape_as(run: Run, input: Value, other: Value) -> Value:
    """Tensor.reshape_as and view_as."""
    return reshape(run, input, *run.shape(other))


def flatten(run: Run, input: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    """torch.flatten; the result for whole images is features."""
    dims = len(run.shape(input))
    if input.layout in ("maps", "features") and start_dim == 1 and end_dim in (-1, dims - 1):
        return Value(input.tensor.reshape(len(input.tensor), -1), "features")  # [B, K·C·H·W], planes again
    own = run.by_cell(input)
    return cells(own.flatten(_after(start_dim % dims), _after(end_dim % dims)))


def unflatten(run: Run, input: Value, dim: int, sizes: Any) -> Value:
    """Tensor.unflatten."""
    return cells(run.by_cell(input).unflatten(_after(dim), tuple(sizes)))


def permute(run: Run, input: Value, *dims: Any) -> Value:
    """Tensor.permute."""
    return cells(run.by_cell(input).permute(0, *(_after(d % len(_listed(dims))) for d in _listed(dims))))


def _of_dimensions(name: str) -> Any:
    """A method whose arguments are dimensions."""

    def run_moved(run: Run, input: Value, *dims: int, **named: int) -> Value:
        own = run.by_cell(input)
        return cells(getattr(own, name)(*map(_after, dims), **{n: _after(d) for n, d in named.items()}))

    return run_moved


def squeeze(run: Run, input: Value, dim: Any = None) -> Value:
    """Tensor.squeeze."""
    shape = run.shape(input)
    dims = [i for i, size in enumerate(shape) if size == 1] if dim is None else _listed((dim,))
    return cells(run.by_cell(input).squeeze(tuple(_after(d) for d in dims)))


def _cut(name: str) -> Any:
    """split, chunk and similar functions, which return several tensors."""

    def run_cut(run: Run, input: Value, size: Any, dim: int = 0, **named: Any) -> tuple[Value, ...]:
        return tuple(map(cells, getattr(run.by_cell(input), name)(size, dim=_after(dim), **named)))

    return run_cut


def unbind(run: Run, input: Value, dim: int = 0) -> tuple[Value, ...]:
    """Tensor.unbind."""
    return tuple(map(cells, run.by_cell(input).unbind(_after(dim))))


def concatenation(run: Run, tensors: Any, dim: int = 0) -> Value:
    """torch.cat; along channels, it joins each cell's own channels."""
    values: list[Value] = list(tensors)
    layout = values[0].layout
    if dim == 1 and layout in ("maps", "features") and all(v.layout == layout for v in values):
        by_cell = [v.tensor.unflatten(1, (run.cells, -1)) for v in values]
        joined = torch.cat(by_cell, 2).flatten(1, 2)
        return Value(innermost(joined) if joined.dim() == 4 else joined, layout)
    return cells(torch.cat([run.by_cell(v) for v in values], _after(dim)))


def stack(run: Run, tensors: Any, dim: int = 0) -> Value:
    """torch.stack."""
    return cells(torch.stack([run.by_cell(v) for v in tensors], _after(dim)))


def item(run: Run, of: Any, index: Any) -> Any:
    """x[index], of a value or of a tuple."""
    if not isinstance(of, Value):
        return of[index]
    indices = index if isinstance(index, tuple) else (index,)
    chosen = [i for i in indices if isinstance(i, Value)]
    if any(v.layout != "shared" or v.tensor.dtype in (torch.bool, torch.uint8) for v in chosen):
        raise UnknownLayerError("a mask, or an index that differs between cells")
    if len(chosen) > 1 or (chosen and any(isinstance(i, int) or i is None for i in indices)):
        raise UnknownLayerError("an index of several tensors")
    plain = tuple(i.tensor if isinstance(i, Value) else i for i in indices)
    return cells(run.by_cell(of)[(slice(None), *plain)])


def attribute(run: Run, of: Any, name: str) -> Any:
    """x.shape and similar attributes."""
    if not isinstance(of, Value):
        return getattr(of, name)
    if name == "shape":
        return run.shape(of)
    if name == "ndim":
        return len(run.shape(of))
    if name in ("dtype", "device"):
        return getattr(of.tensor, name)
    if name == "mT" or (name == "T" and len(run.shape(of)) == 2):
        return cells(run.by_cell(of).mT)
    raise UnknownLayerError(f"the attribute {name}")


def size(run: Run, of: Value, dim: int | None = None) -> Any:
    """Tensor.size."""
    return run.shape(of) if dim is None else run.shape(of)[dim]


def repeat(run: Run, input: Value, *sizes: Any) -> Value:
    """Tensor.repeat."""
    own, times = run.by_cell(input), _listed(sizes)
    own = own.reshape(run.cells, *[1] * (len(times) + 1 - own.dim()), *own.shape[1:])
    return cells(own.repeat(1, *times))


def roll(run: Run, input: Value, shifts: Any, dims: Any = None) -> Value:
    """torch.roll."""
    if dims is None:
        raise UnknownLayerError("a roll of flattened numbers")
    return cells(run.by_cell(input).roll(shifts, tuple(map(_after, _listed((dims,))))))


def flip(run: Run, input: Value, *dims: Any) -> Value:
    """torch.flip."""
    return cells(run.by_cell(input).flip(tuple(map(_after, _listed(dims)))))


def _flatten_layer(run: Run, layer: Layer, input: Value) -> Value:
    module: nn.Flatten = layer.module  # type: ignore[assignment]
    return flatten(run, input, module.start_dim, module.end_dim)


def _unflatten_layer(run: Run, layer: Layer, input: Value) -> Value:
    module: nn.Unflatten = layer.module  # type: ignore[assignment]
    return unflatten(run, input, module.dim, module.unflattened_size)  # type: ignore[arg-type]


def _both(rule: Callable[[str], Any], *names: str) -> dict[Any, Any]:
    """Rules of functions and of the methods of the same names."""
    return {key: rule(name) for name in names for key in (getattr(torch, name), name)}


LAYERS: dict[type, Any] = {nn.Flatten: _flatten_layer, nn.Unflatten: _unflatten_layer}
FUNCTIONS: dict[Any, Any] = {
    operator.getitem: item,
    getattr: attribute,
    "size": size,
    "dim": lambda run, x: len(run.shape(x)),
    **dict.fromkeys((torch.reshape, "reshape", "view"), reshape),
    **dict.fromkeys(("reshape_as", "view_as"), reshape_as),
    **dict.fromkeys((torch.flatten, "flatten"), flatten),
    **dict.fromkeys((torch.unflatten, "unflatten"), unflatten),
    **dict.fromkeys((torch.permute, "permute"), permute),
    **{
        key: _of_dimensions(name)
        for name in ("transpose", "swapaxes", "unsqueeze")
        for key in (getattr(torch, name), name)
    },
    **dict.fromkeys((torch.squeeze, "squeeze"), squeeze),
    **_both(_cut, "chunk", "split", "tensor_split"),
    **dict.fromkeys((torch.unbind, "unbind"), unbind),
    **dict.fromkeys((torch.cat, torch.concat), concatenation),
    torch.stack: stack,
    **dict.fromkeys((torch.roll, "roll"), roll),
    **dict.fromkeys((torch.flip, "flip"), flip),
    "repeat": repeat,
}
