"""The MLP of the digits study."""

from collections.abc import Sequence

from torch import nn


def mlp(inputs: int, classes: int, hidden: Sequence[int], batch_norm: bool) -> nn.Sequential:
    """Linear [– BatchNorm] – ReLU for each hidden width, then Linear; x [B, …] → logits [B, classes]."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width in hidden:
        # A bias before batch norm would have no effect, because batch norm subtracts the mean.
        layers.append(nn.Linear(inputs, width, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))
