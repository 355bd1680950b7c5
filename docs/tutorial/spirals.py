"""A network and a dataset of one's own: points on noisy spirals, one arm for each class."""

import numpy as np
from torch import nn


class Net(nn.Module):
    """A small residual network on the points' coordinates."""

    def __init__(self, width: int = 32, classes: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(2, width)
        self.second = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, classes)

    def forward(self, x):
        h = self.first(x).relu()
        h = self.norm(h + self.second(h).relu())
        return self.last(h)


def net(width: int = 32) -> nn.Module:
    return Net(width)


def data(n: int = 600, noise: float = 0.25):
    random = np.random.default_rng(0)

    def points(count):
        label = np.arange(count) % 3
        radius = random.uniform(0.2, 3.0, count)
        angle = 1.5 * radius + label * 2 * np.pi / 3
        x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return x + noise * random.normal(size=x.shape), label

    return points(n), points(600)  # (train, test), each a pair x, y
