"""Defines the networks of the benchmarks as a user would: ordinary nn.Modules that do not use wdgrid.

A study names them as "networks:small_cnn"; wdgrid finds this file because the benchmarks run in this folder. The peers
build the same modules.
"""

import torch
from more_networks import GPT, ViT, gn_cnn, mixer
from torch import Tensor, nn

__all__ = ["GPT", "ResNet8", "ViT", "cnn", "gn_cnn", "mixer", "mlp", "small_cnn"]


def mlp(width: int = 64, depth: int = 3) -> nn.Sequential:
    """What wdgrid calls `mlp`: 64 inputs, `depth` hidden layers with batch norm, 10 classes."""
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = 64
    for _ in range(depth):
        layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


def small_cnn(channels: int = 8) -> nn.Sequential:
    """Two convolutions of 8 channels, the first on 8 × 8 maps and the second on 4 × 4; x [B, 1, 8, 8]."""
    return nn.Sequential(
        *_block(1, channels),
        nn.MaxPool2d(2),
        *_block(channels, channels),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(channels * 4, 10),
    )


def cnn(channels: int = 16) -> nn.Sequential:
    """Convolutions of 16, 16 and 32 channels, the first two on 8 × 8 maps, the last on 4 × 4; x [B, 1, 8, 8]."""
    return nn.Sequential(
        *_block(1, channels),
        *_block(channels, channels),
        nn.MaxPool2d(2),
        *_block(channels, 2 * channels),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * channels, 10),
    )


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


class ResNet8(nn.Module):
    """What wdgrid calls `resnet` of depth 8; x [B, 3, 32, 32]."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_block(3, width))
        self.stages = nn.Sequential(
            _Residual(width, width), _Residual(width, 2 * width, 2), _Residual(2 * width, 4 * width, 2)
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10]."""
        return self.head(self.stages(self.stem(x)))


class _Residual(nn.Module):
    """Two convolutions and a skip connection, 1 × 1 if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.around = nn.Identity()
        if inputs != outputs:
            self.around = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inputs, H, W] → [B, outputs, H/stride, W/stride]."""
        return torch.relu(self.body(x) + self.around(x))
