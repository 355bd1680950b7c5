"""The networks of the benchmarks, as a user would write them: ordinary nn.Modules, nothing of wdgrid's.

A study names them as "networks:small_cnn"; wdgrid finds this file because the benchmarks run in this folder. The peers
build the same modules.
"""

from torch import nn


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
