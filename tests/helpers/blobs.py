"""A tiny problem of one's own: two clouds of points, and networks for them."""

import torch
from torch import nn


def blobs():
    random = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (100,), generator=random)
    x = torch.randn(100, 3, generator=random) + 0.7 * y[:, None]
    return x[:60], y[:60], x[60:], y[60:]


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def wider():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
