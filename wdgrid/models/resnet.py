"""Residual networks for small images of at least 8 × 8 pixels (He et al., 2016, section 4.2)."""

import torch
from torch import Tensor, nn


def resnet(channels: int, classes: int, depth: int, width: int) -> nn.Sequential:
    """ResNet of `depth` = 6n + 2: stem, three stages of n blocks, average pooling, linear.

    x [B, C, H, W] → logits [B, classes]. The stages have `width`, 2 `width` and 4 `width` channels; the second and the
    third halve the height and width. Convolutions have no bias, because batch norm follows, and initial weights
    N(0, √(2/(k² C_out))).
    """
    blocks: list[nn.Module] = []
    inputs = width
    for stage in range(3):
        outputs = width * 2**stage
        for block in range((depth - 2) // 6):
            blocks.append(BasicBlock(inputs, outputs, stride=2 if stage and not block else 1))
            inputs = outputs
    head = nn.Linear(inputs, classes)
    nn.init.zeros_(head.bias)
    stem = (convolution(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


class BasicBlock(nn.Module):
    """ReLU(BN(conv(ReLU(BN(conv(x))))) + shortcut(x)).

    The shortcut is the identity if the shapes are equal, else a 1 × 1 convolution with batch norm (option B of He et
    al.). Their option A, zeros for the new channels, has no parameters, but gives the new channels no shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = convolution(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = convolution(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inputs, H, W] → [B, outputs, H/stride, W/stride]."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A k × k convolution without bias, padded to keep the size at stride 1, initial weights N(0, √(2/(k² C_out)))."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
