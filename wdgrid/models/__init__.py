"""Networks: ordinary nn.Modules, one definition each.

The engine trains K of them at once without the network's knowing; a user's own factory is taken the same way.
"""

import torch
from torch import nn

from wdgrid.loading import load_object
from wdgrid.models.mlp import mlp
from wdgrid.sections import BUILT_IN_MODELS, Task


def build(task: Task, features: torch.Size, classes: int, seed: int) -> nn.Module:
    """The task's network for inputs [B, *features], initialised by `seed` alone.

    A user's own factory gets the study's `model_args` and nothing else.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if task.model in BUILT_IN_MODELS:
            return mlp(features.numel(), classes, **task.model_args)
        return load_object(task.model)(**task.model_args)
