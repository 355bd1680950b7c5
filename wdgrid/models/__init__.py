"""Networks: ordinary nn.Modules, one definition each.

The engine trains K of them at once without the network's knowing; a user's own factory is taken the same way.
"""

import torch
from torch import nn

from wdgrid.errors import ModelError
from wdgrid.models.mlp import mlp
from wdgrid.models.resnet import resnet
from wdgrid.models.shake import shake_shake
from wdgrid.models.tf_tutorial import tf_tutorial
from wdgrid.study.import_by_name import load_object
from wdgrid.study.sections import BUILT_IN_MODELS, Task


def build(task: Task, features: torch.Size, classes: int, seed: int) -> nn.Module:
    """The task's network for inputs [B, *features], initialised by `seed` alone.

    A user's own factory gets the study's `model_args` and nothing else. Raises ModelError where a network for images
    gets something else.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if task.model not in BUILT_IN_MODELS:
            return load_object(task.model)(**task.model_args)
        if task.model == "mlp":
            return mlp(features.numel(), classes, **task.model_args)
        if len(features) != 3:
            raise ModelError(f"{task.model} takes images [channels, height, width], not inputs {list(features)}")
        if task.model == "resnet":
            return resnet(features[0], classes, **task.model_args)
        if task.model == "shake-shake":
            return shake_shake(features[0], classes, **task.model_args)
        channels, height, width = features
        return tf_tutorial(channels, height, width, classes)
