"""Random weights, gradients and hyperparameters for one optimizer."""

import torch

from wdgrid.optim.variants import VARIANTS


def problem(optimizer, cells=3, width=40, dtype=torch.float64):
    random = torch.Generator().manual_seed(1)
    theta = torch.randn(cells, width, generator=random, dtype=dtype)
    hyper = {
        name: torch.full((cells,), value, dtype=torch.float64) for name, value in VARIANTS[optimizer].defaults.items()
    }
    hyper["lr"] = torch.tensor([0.1, 0.01, 0.003], dtype=torch.float64)[:cells]
    hyper["weight_decay"] = torch.tensor([0.0, 0.05, 0.2], dtype=torch.float64)[:cells]
    gradients = [torch.randn(cells, width, generator=random, dtype=dtype) for _ in range(60)]
    return theta, hyper, gradients
