"""Builds a task's network, an ordinary nn.Module: a built-in one, or one from the user's own factory."""

import torch
from torch import nn

from wdgrid.errors import ModelError
from wdgrid.models.mlp import mlp
from wdgrid.models.resnet import resnet
from wdgrid.models.shake import shake_shake
from wdgrid.models.tf_tutorial import tf_tutorial
from wdgrid.study.import_by_name import defined_at, failed_at, in_words, load_object
from wdgrid.study.sections import BUILT_IN_MODELS, Task


def build(task: Task, features: torch.Size, classes: int, seed: int) -> nn.Module:
    """The task's network for inputs [B, *features]; its initial weights depend on `seed` alone.

    A user's own factory gets the study's `model_args` and nothing else. Raises ModelError if it fails or returns no
    nn.Module, or if a built-in network needs images and the dataset has other inputs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if task.model not in BUILT_IN_MODELS:
            return _own(task)
        if task.model == "mlp":
            return mlp(features.numel(), classes, **task.model_args)
        if len(features) != 3:
            raise ModelError(f"{task.model} needs images [channels, height, width], not inputs {list(features)}")
        if task.model == "resnet":
            return resnet(features[0], classes, **task.model_args)
        if task.model == "shake-shake":
            return shake_shake(features[0], classes, **task.model_args)
        channels, height, width = features
        return tf_tutorial(channels, height, width, classes)


def _own(task: Task) -> nn.Module:
    factory = load_object(task.model)
    try:
        network = factory(**task.model_args)
    except Exception as error:
        raise ModelError(f"{failed_at(error) or place(task, factory)}: {in_words(error)}") from error
    if not isinstance(network, nn.Module):
        what = f"the class {network.__name__}" if isinstance(network, type) else type(network).__name__
        raise ModelError(f"{place(task, factory)} returned {what}; it must return an nn.Module")
    return network


def place(task: Task, thing: object, called: str = "") -> str:
    """The start of a message about the user's network: where `thing`, or else its factory, is defined, and its name."""
    if at := defined_at(thing):
        return f"{at}: {called or task.model}"
    at = None if task.model in BUILT_IN_MODELS else defined_at(load_object(task.model))
    return f"{at}: {task.model}" if at else task.model
