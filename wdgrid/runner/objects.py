"""Handles networks and data that are given as Python objects instead of names.

During a sweep, they are attributes of this module, so that a study names them like any function of a module:
`wdgrid.runner.objects:NAME`. The study's definition holds their digests, so that another object of the same name is
refused as a changed study. Other processes cannot find them.
"""

# torch's own types are not complete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import contextlib
import hashlib
import re
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

from wdgrid.errors import DataError, LoadingError, UsageError, UsersFaultError
from wdgrid.study import Study
from wdgrid.study.dataset_args import BUILT_IN_DATASETS
from wdgrid.study.import_by_name import failed_at, in_words
from wdgrid.study.model_args import BUILT_IN_MODELS

if TYPE_CHECKING:
    import torch

DIGEST = "sha256"  # the argument that holds an object's digest
_given: dict[str, Callable[..., Any]] = {}


def __getattr__(name: str) -> Callable[..., Any]:
    if name in _given:
        return _given[name]
    if name.startswith("_"):
        raise AttributeError(name)
    raise LoadingError(
        f"{name} was given to wdgrid.sweep as a Python object; train this study by wdgrid.sweep with the same object"
    )


@contextlib.contextmanager
def named(study: Study, model: object, data: object) -> Generator[Study]:
    """The study with these objects as its network and dataset (None: its own), which can be imported within the block.

    Raises UsageError if an object cannot be used, UsersFaultError if a given function raises.
    """
    if model is None and data is None:
        yield study
        return
    task = study.task.model_dump()
    fresh: dict[str, Callable[..., Any]] = {}
    if model is not None:
        task["model"], task["model_args"], fresh[_last(task["model"])] = _network(study, model)
    if data is not None:
        task["dataset"], task["dataset_args"], fresh[_last(task["dataset"])] = _dataset(study, data)
    if len(fresh) < (model is not None) + (data is not None):
        raise UsageError("model and data: two functions of the same name")
    if taken := [name for name in fresh if name in _given]:
        raise UsageError(f"{taken[0]}: another sweep of this process trains an object of that name")
    _given.update(fresh)
    try:
        yield Study.model_validate({**study.model_dump(), "task": task})
    finally:
        for name in fresh:
            del _given[name]


def words(model: object, data: object) -> dict[str, str]:
    """The note on objects in a study's environment."""
    given = [word for word, thing in (("network", model), ("data", data)) if thing is not None]
    if not given:
        return {}
    what = " and ".join(given)
    return {"objects": f"{what} given as Python objects: only wdgrid.sweep with the same objects can train more cells"}


def _last(spec: str) -> str:
    return spec.partition(":")[2]


def _network(study: Study, model: object) -> tuple[str, dict[str, Any], Callable[..., Any]]:
    from torch import nn

    if isinstance(model, nn.Module) or not callable(model):
        what = "a network" if isinstance(model, nn.Module) else f"{type(model).__name__}"
        raise UsageError(
            f"model: {what} was given; give a function that returns a new network, such as `lambda: Net()`, so that "
            "each seed starts from its own weights"
        )
    arguments = _own_arguments(study.task.model_args, study.task.model in BUILT_IN_MODELS)
    name = _name(model)
    digest = _structure(_called(model, arguments, "model"))
    return f"{__name__}:{name}", {**arguments, DIGEST: digest}, _without_digest(model)


def _dataset(study: Study, data: object) -> tuple[str, dict[str, Any], Callable[..., Any]]:
    arguments = _own_arguments(study.task.dataset_args, study.task.dataset in BUILT_IN_DATASETS)
    from wdgrid.data.given import four_tensors

    name = _name(data) if callable(data) else "data"
    given = _called(data, arguments, "data") if callable(data) else data
    verb = "returned" if callable(data) else "is"
    try:
        tensors = tuple(part.contiguous() for part in four_tensors("data", given, verb))
    except DataError as error:
        raise UsageError(str(error)) from None
    return f"{__name__}:{name}", {**arguments, DIGEST: _content(tensors)}, _constant(tensors)


def _without_digest(function: Callable[..., Any]) -> Callable[..., Any]:
    def called(**arguments: Any) -> Any:
        return function(**{name: value for name, value in arguments.items() if name != DIGEST})

    return called


def _constant(tensors: object) -> Callable[..., Any]:
    def called(**_arguments: Any) -> Any:
        return tensors

    return called


def _own_arguments(arguments: Mapping[str, Any], built_in: bool) -> dict[str, Any]:
    """The study's arguments for the user's own function; arguments of a built-in do not apply to an object."""
    return {} if built_in else {key: value for key, value in arguments.items() if key != DIGEST}


def _name(thing: object) -> str:
    """An object's name as an identifier: `make_net`, `lambda`."""
    name: str = getattr(thing, "__name__", type(thing).__name__)
    return re.sub(r"\W", "_", name).strip("_") or "object"


def _called(function: Callable[..., Any], arguments: Mapping[str, Any], what: str) -> Any:
    import torch

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return function(**arguments)
    except Exception as error:
        raise UsersFaultError(f"{failed_at(error) or what}: {in_words(error)}") from error


def _structure(network: Any) -> str:
    """SHA-256 of a network's layers, their settings, and the shapes of parameters and buffers; not of code."""
    from torch import nn

    if not isinstance(network, nn.Module):
        raise UsageError(f"model: the function returned {type(network).__name__}, not an nn.Module")
    layers = [f"{name} {type(layer).__qualname__} {layer.extra_repr()}" for name, layer in network.named_modules()]
    tensors = [*network.named_parameters(), *network.named_buffers()]
    shapes = [f"{name} {tensor.dtype} {list(tensor.shape)}" for name, tensor in tensors]
    text = re.sub(r" at 0x[0-9a-f]+", "", "\n".join([*layers, *shapes]))  # addresses of functions in the settings
    return hashlib.sha256(text.encode()).hexdigest()


def _content(tensors: "tuple[torch.Tensor, ...]") -> str:
    """SHA-256 of four tensors: their types, shapes and bytes."""
    import torch

    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
