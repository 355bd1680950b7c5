"""The network of TensorFlow's CIFAR-10 tutorial (cifar10.py of the tutorials' repository), layer by layer.

On 24 × 24 crops of 3 channels it has 1 068 298 parameters. Initial weights are from a normal distribution truncated at
two standard deviations; convolutions and pooling layers pad like TensorFlow's SAME.
"""

from collections import OrderedDict

from torch import nn

HIDDEN = 384, 192
MAPS = 64


def tf_tutorial(channels: int, height: int, width: int, classes: int) -> nn.Sequential:
    """conv1 – pool – norm, conv2 – norm – pool, fc3, fc4, linear; x [B, C, H, W] → logits [B, classes].

    Names of the weights, for decay patterns: conv1, conv2, fc3, fc4, linear. The tutorial decays those of fc3 and fc4.
    """
    pooled = -(-height // 4), -(-width // 4)  # halved twice, rounded up
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=_started(nn.Conv2d(channels, MAPS, 5, padding=2), 0.05, 0.0),
        relu1=nn.ReLU(),
        pad1=_same(height, width),
        pool1=nn.MaxPool2d(3, 2),
        norm1=_norm(),
        conv2=_started(nn.Conv2d(MAPS, MAPS, 5, padding=2), 0.05, 0.1),
        relu2=nn.ReLU(),
        norm2=_norm(),
        pad2=_same(-(-height // 2), -(-width // 2)),
        pool2=nn.MaxPool2d(3, 2),
        flatten=nn.Flatten(),
        fc3=_started(nn.Linear(MAPS * pooled[0] * pooled[1], HIDDEN[0]), 0.04, 0.1),
        relu3=nn.ReLU(),
        fc4=_started(nn.Linear(*HIDDEN), 0.04, 0.1),
        relu4=nn.ReLU(),
        linear=_started(nn.Linear(HIDDEN[1], classes), 1 / HIDDEN[1], 0.0),
    )
    return nn.Sequential(layers)


def _norm() -> nn.LocalResponseNorm:
    """TensorFlow's lrn with radius 4 and α = 0.001/9. PyTorch takes the width, 2 · 4 + 1, and divides α by it."""
    return nn.LocalResponseNorm(9, alpha=0.001, beta=0.75, k=1.0)


def _same(height: int, width: int) -> nn.ZeroPad2d:
    """SAME padding before 3 × 3 max pooling with stride 2; an odd pixel is added on the right and below.

    TensorFlow ignores padded pixels. Zeros give the same maximum, because the output of a ReLU is not negative.
    """
    (top, bottom), (left, right) = (_sides(size) for size in (height, width))
    return nn.ZeroPad2d((left, right, top, bottom))


def _sides(size: int) -> tuple[int, int]:
    missing = 2 * (-(-size // 2) - 1) + 3 - size
    return missing // 2, missing - missing // 2


def _started(layer: nn.Conv2d | nn.Linear, sigma: float, bias: float) -> nn.Module:
    """A layer with initial weights from N(0, σ) truncated at ±2σ, and a constant initial bias."""
    nn.init.trunc_normal_(layer.weight, std=sigma, a=-2 * sigma, b=2 * sigma)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, bias)
    return layer
