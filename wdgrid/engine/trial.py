"""Tries the task's network on one real minibatch and reports why it cannot be trained."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wdgrid.data import Dataset
from wdgrid.data.given import described
from wdgrid.engine.randomness import generators, preserved
from wdgrid.errors import ModelError
from wdgrid.models import place
from wdgrid.models.adapted import adapted, picked
from wdgrid.study.import_by_name import failed_at, in_words
from wdgrid.study.sections import Task


def tried(task: Task, module: nn.Module, batch: tuple[Tensor, Tensor], test_x: Tensor, data: Dataset) -> int:
    """The network's number of outputs, found by a training pass on x [B, …], y [B], and a test pass.

    `module` is as the user's function returned it; a copy is tried. Raises ModelError, with the user's file and line,
    if it cannot be trained.
    """
    (x, y), classes = batch, data.classes
    plain = copy.deepcopy(module).to(x)
    where = place(task, type(module).forward, "forward")
    with preserved(generators(x.device)), torch.enable_grad():
        raw = _passed(where, adapted(plain, integers=data.integers, output=None).train(), x)
        logits = _logits(task, where, raw)
        _check(where, logits, x, classes)
        trained = [parameter for parameter in plain.parameters() if parameter.requires_grad]
        if not trained:
            raise ModelError(f"{where}: the network has no parameters that could be trained")
        if not logits.requires_grad:
            raise ModelError(f"{where}: the logits do not depend on the parameters (detach, or torch.no_grad?)")
        try:
            nn.functional.cross_entropy(logits, y).backward()
        except Exception as error:
            raise ModelError(f"{failed_at(error) or where}: in the backward pass: {in_words(error)}") from error
        with torch.no_grad():
            tested = _logits(task, where, _passed(where, plain.eval(), test_x))
            _check(f"{where}, in the test pass", tested, test_x, classes)
    return logits.shape[1]


def _passed(where: str, module: nn.Module, x: Tensor) -> Any:
    try:
        return module(x)
    except Exception as error:
        at = failed_at(error) or where
        raise ModelError(f"{at}: on inputs {list(x.shape)}: {in_words(error)}") from error


def _logits(task: Task, where: str, returned: Any) -> Tensor:
    """The logits in the value that `forward` returned."""
    if task.output is not None:
        if isinstance(returned, Tensor):
            raise ModelError(f"{where} returned a tensor; leave task.output = {task.output!r} out")
        try:
            found = picked(returned, task.output)
        except (LookupError, AttributeError, TypeError):
            raise ModelError(
                f"task.output = {task.output!r}: forward returned {described(returned)} ({where})"
            ) from None
        if isinstance(found, Tensor):
            return found
        raise ModelError(f"task.output = {task.output!r}: there forward returned {described(found)} ({where})")
    if isinstance(returned, Tensor):
        return returned
    ask = "return logits [N, classes]"
    if isinstance(returned, Mapping) and returned:
        names = [name for name, part in returned.items() if isinstance(part, Tensor) and part.dim() == 2]
        name = "logits" if "logits" in names else (names or list(returned))[0]
        ask += f', or name the one to use: task.output = "{name}"'
    elif isinstance(returned, tuple | list) and returned:
        ask += ", or say which one to use by its position: task.output = 0"
    elif hasattr(returned, "logits"):
        ask += ', or name the one to use: task.output = "logits"'
    raise ModelError(f"{where} returned {described(returned)}; {ask}")


def _check(where: str, logits: Tensor, x: Tensor, classes: int) -> None:
    """Raises ModelError unless `logits` are [B, classes or more], floating point and finite."""
    shape = list(logits.shape)
    if logits.dim() != 2 or len(logits) != len(x):
        raise ModelError(f"{where} returned {shape} for inputs {list(x.shape)}; return logits [N, classes]")
    if logits.shape[1] < classes:
        raise ModelError(f"{where}: {logits.shape[1]} outputs, labels run to {classes - 1}; it needs {classes} outputs")
    if not logits.is_floating_point():
        raise ModelError(f"{where} returned {logits.dtype}; return logits in floating point")
    if not bool(logits.isfinite().all()):
        raise ModelError(f"{where}: the untrained network's outputs hold NaN or infinity")
