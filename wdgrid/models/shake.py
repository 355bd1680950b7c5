"""Shake-Shake networks (Gastaldi, 2017, arXiv 1705.07485), as in the author's released code.

26 2x64d is the network of the paper's experiments on CIFAR-10: 26 layers, two residual branches, 64 channels in the
first stage.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from wdgrid.models.resnet import convolution

STEM = 16  # channels, for every width
Level = Literal["image", "batch"]


def shake_shake(channels: int, classes: int, depth: int, width: int, level: Level) -> nn.Sequential:
    """Stem, three stages of n = (depth − 2)/6 blocks, ReLU, average pooling, linear; x [B, C, H, W] → [B, classes].

    The stages have `width`, 2 `width` and 4 `width` channels; the second and the third halve the height and width.
    Convolutions have no bias and initial weights N(0, √(2/(k² C_out))); the linear layer's bias is initially 0.

    26 2x64d has 11 653 978 parameters (Loshchilov and Hutter: 11.6 M), 26 2x96d 26 192 922 (they print 25.6 M, but
    their released code builds this network).
    """
    blocks: list[nn.Module] = []
    inputs = STEM
    for stage in range(3):
        outputs = width * 2**stage
        for block in range((depth - 2) // 6):
            blocks.append(ShakeBlock(inputs, outputs, 2 if stage and not block else 1, level))
            inputs = outputs
    head = nn.Linear(inputs, classes)
    nn.init.zeros_(head.bias)
    stem = convolution(channels, STEM, 3), nn.BatchNorm2d(STEM)
    return nn.Sequential(*stem, *blocks, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


class ShakeBlock(nn.Module):
    """skip(x) + shake(branch1(ReLU(x)), branch2(ReLU(x))); x [B, inputs, H, W] → [B, outputs, H/stride, W/stride].

    The skip connection is x itself if the number of channels is the same, else TwoPaths of ReLU(x).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, level: Level) -> None:
        super().__init__()
        self.branch1, self.branch2 = (_branch(inputs, outputs, stride) for _ in range(2))
        self.shake = Shake(level)
        self.skip = TwoPaths(inputs, outputs, stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] → [B, outputs, H/stride, W/stride]."""
        positive = torch.relu(x)
        residual = self.shake(self.branch1(positive), self.branch2(positive))
        return residual + (x if self.skip is None else self.skip(positive))


def _branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    first = convolution(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs), nn.ReLU()
    return nn.Sequential(*first, convolution(outputs, outputs, 3), nn.BatchNorm2d(outputs))


class TwoPaths(nn.Module):
    """The skip connection if channels change: two strided 1 × 1 convolutions, concatenated, then batch norm.

    The input of the second is shifted by one pixel down and to the right, so that the two use different pixels. The
    author's code has an average pooling of 1 × 1 with a stride before each convolution, which is the same.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.path1 = convolution(inputs, outputs - outputs // 2, 1, stride)
        self.path2 = convolution(inputs, outputs // 2, 1, stride)
        self.shift = nn.ZeroPad2d((1, -1, 1, -1))
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] → [B, outputs, H/stride, W/stride]."""
        return self.norm(torch.cat([self.path1(x), self.path2(self.shift(x))], 1))


class Shake(nn.Module):
    """α a + (1 − α) b in the forward pass; β and 1 − β replace α and 1 − α in the backward pass; ½ each in tests.

    α and β are drawn independently from U(0, 1) in each forward pass, for each image (`level` "image") or for the
    batch, from torch's generator of the device.
    """

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.level: Level = level

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a, b [B, C, H, W] → [B, C, H, W]."""
        return shaken(a, b, self.level, self.training)


def shaken(a: Tensor, b: Tensor, level: Level, training: bool) -> Tensor:
    """The function of Shake. a and b may also be the activations [B, K·C, H, W] of K networks, which share α and β."""
    if not training:
        return torch.lerp(b, a, 0.5)
    draws = torch.rand(2, len(a) if level == "image" else 1, 1, 1, 1, device=a.device).to(a.dtype)
    return _Shaken.apply(a, b, *draws)


class _Shaken(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        return torch.lerp(b, a, alpha)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[3])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Gradients of a and b: β g and (1 − β) g."""
        (g,), (beta,) = grad_outputs, ctx.saved_tensors
        own = g * beta
        return own, g - own, None, None
