"""Converts the result of a user's dataset function (tensors, NumPy arrays or torch Datasets) to four tensors."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from wdgrid.errors import DataError

Tensors = tuple[Tensor, Tensor, Tensor, Tensor]
WANTED = "give train_x, train_y, test_x, test_y (tensors or arrays), or (train, test) as Datasets or pairs x, y"
MAX_INTEGER = 2**24  # integers up to here are exact in float32, in which inputs are stored


def four_tensors(name: str, returned: Any, verb: str = "returned") -> Tensors:
    """(train_x, train_y, test_x, test_y) from the value of `name`. Raises DataError that describes any other value."""
    if isinstance(returned, tuple | list) and len(returned) == 2:
        train, test = (_pair(name, part, kind) for part, kind in zip(returned, ("train", "test"), strict=True))
        return *train, *test
    if isinstance(returned, tuple | list) and len(returned) == 4:
        x, y, other_x, other_y = (
            _tensor(name, part, title)
            for part, title in zip(returned, ("train_x", "train_y", "test_x", "test_y"), strict=True)
        )
        return x, y, other_x, other_y
    raise DataError(f"{name} {verb} {described(returned)}; {WANTED}")


def described(thing: Any) -> str:
    """A description of an object: `a dict with keys a, b`, `a tuple of 3 (Tensor [5, 2], …)`."""
    if isinstance(thing, Mapping):
        return f"a dict with keys {', '.join(map(str, list(thing)[:8]))}"
    if isinstance(thing, tuple | list):
        inner = ", ".join(_short(part) for part in thing[:4]) + ", …" * (len(thing) > 4)
        return f"a {type(thing).__name__} of {len(thing)}{f' ({inner})' if len(thing) else ''}"
    return "None" if thing is None else f"{_short(thing)}"


def _short(thing: Any) -> str:
    shape = getattr(thing, "shape", None)
    return f"{type(thing).__name__}{f' {list(shape)}' if shape is not None else ''}"


def _pair(name: str, part: Any, kind: str) -> tuple[Tensor, Tensor]:
    """x, y of one part: a Dataset, or a pair."""
    if isinstance(part, TensorDataset) and len(part.tensors) == 2:
        return part.tensors[0].detach().cpu(), part.tensors[1].detach().cpu()
    if isinstance(part, tuple | list) and len(part) == 2:
        return _tensor(name, part[0], f"{kind}_x"), _tensor(name, part[1], f"{kind}_y")
    if isinstance(part, DataLoader):
        raise DataError(f"{name}: {kind} is a DataLoader; give its Dataset (loader.dataset): wdgrid makes batches")
    if isinstance(part, Dataset) or (hasattr(part, "__getitem__") and hasattr(part, "__len__")):
        return _stacked(name, part, kind)
    raise DataError(f"{name}: {kind} is {described(part)}; {WANTED}")


def _stacked(name: str, dataset: Any, kind: str) -> tuple[Tensor, Tensor]:
    """The items (x, y) of a map-style Dataset, read once, as two tensors."""
    xs, ys = [], []
    for i in range(len(dataset)):
        item = dataset[i]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"{name}: item {i} of {kind} is {described(item)}; an item must be a pair x, y")
        x, y = _item(item[0]), _item(item[1])
        if xs and x.shape != xs[0].shape:
            raise DataError(
                f"{name}: x of item {i} of {kind} is {list(x.shape)}, of item 0 {list(xs[0].shape)}; they must be alike"
            )
        xs.append(x)
        ys.append(y)
    if not xs:
        raise DataError(f"{name}: {kind} is empty")
    return torch.stack(xs), torch.stack(ys)


def _item(thing: Any) -> Tensor:
    """An item as a tensor; pictures of Pillow as [C, H, W]."""
    if isinstance(thing, Tensor):
        return thing.detach().cpu()
    array = np.asarray(thing)
    if hasattr(thing, "getbands"):
        array = np.atleast_3d(array).transpose(2, 0, 1)
    return torch.tensor(array)


def _tensor(name: str, part: Any, title: str) -> Tensor:
    if isinstance(part, Tensor):
        return part.detach().cpu().contiguous()
    try:
        return torch.tensor(np.asarray(part))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name}: {title} is {described(part)}, of which no tensor can be made: {error}") from None


def checked(name: str, tensors: Tensors) -> Tensors:
    """The four tensors, x in floating point, uint8 images or int64, y in int64. Raises DataError if they do not fit."""
    train_x, train_y, test_x, test_y = tensors
    fault = next(_faults(*tensors), None)
    if fault is None:
        kinds = (_kind(train_x), _kind(test_x))
        if train_x.shape[1:] != test_x.shape[1:] or kinds[0] != kinds[1]:
            parts = " and ".join(f"{_dtype(x)} {list(x.shape)}" for x in (train_x, test_x))
            fault = f"train_x and test_x must be alike but for the number of rows, not {parts}"
    if fault is not None:
        raise DataError(f"{name}: {fault}")
    return _input(train_x), train_y.long(), _input(test_x), test_y.long()


def _faults(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> Iterator[str]:
    """The fault of one part, as text."""
    for part, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        if x.dim() < 2 and len(x) == len(y) > 0:
            yield f"{part}_x is {list(x.shape)}: one number an example; give it a dimension: {part}_x[:, None]"
        if x.dim() == 0 or y.dim() == 0 or len(x) != len(y) or len(x) == 0:
            yield f"{part}_x {list(x.shape)} and {part}_y {list(y.shape)} must have one row for each example"
        yield from _label_faults(part, y)
        yield from _input_faults(part, x)
    least = min(int(y.min()) for y in (train_y, test_y))
    most = max(int(y.max()) for y in (train_y, test_y))
    if least != 0:
        how = f": subtract {least}" if least > 0 else ""
        yield f"the labels run from {least} to {most}; number the classes from 0{how}"


def _label_faults(part: str, y: Tensor) -> Iterator[str]:
    if y.dim() == 2 and y.shape[1] > 1:
        yield f"{part}_y is {list(y.shape)}; give the classes [N] as integers from 0 (of one-hot rows: y.argmax(1))"
    elif y.dim() != 1:
        yield f"{part}_y is {list(y.shape)}; give the classes [N] as integers from 0 (y.reshape(-1))"
    elif y.is_floating_point() or y.is_complex():
        whole = bool((y == y.round()).all()) if y.is_floating_point() else False
        how = ": make them integers (y.long(), or y.astype(int))" if whole else ": wdgrid trains classification"
        yield f"the labels {part}_y are {_dtype(y)}, such as {_odd(y):g}; classes are integers from 0{how}"


def _odd(y: Tensor) -> float:
    """The first label that is not an integer, else the first label."""
    real = y.real.double()
    return float(real[int((real != real.round()).int().argmax())])


def _input_faults(part: str, x: Tensor) -> Iterator[str]:
    if x.is_complex() or x.dtype == torch.bool:
        yield f"{part}_x is {_dtype(x)}; give floating point numbers, integers, or uint8 images [N, C, H, W]"
    elif x.is_floating_point():
        broken = ~x.reshape(len(x), -1).isfinite().all(1)
        if n := int(broken.sum()):
            first = int(broken.int().argmax())
            yield f"{part}_x holds NaN or infinity in {n} of {len(x)} examples, first in number {first} (from 0)"
    elif x.dtype == torch.uint8:
        if x.dim() != 4:
            yield (
                f"{part}_x is uint8 {list(x.shape)}, and uint8 stands for images [N, C, H, W]; give features as "
                "floating point numbers (x / 255), tokens as int64, images without channels as x[:, None]"
            )
        elif x.shape[3] in (1, 3, 4) and x.shape[1] > 4:
            yield f"{part}_x is {list(x.shape)}; images must be [N, C, H, W] (of [N, H, W, C]: x.transpose(0, 3, 1, 2))"
    elif int(x.abs().max()) > MAX_INTEGER:
        yield f"{part}_x holds integers up to {int(x.abs().max())}; the largest allowed is {MAX_INTEGER}"


def _kind(x: Tensor) -> str:
    """The type of an input, which decides how it is stored."""
    return "floating point" if x.is_floating_point() else "uint8" if x.dtype == torch.uint8 else "integers"


def _input(x: Tensor) -> Tensor:
    return x if x.is_floating_point() or x.dtype == torch.uint8 else x.long()


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
