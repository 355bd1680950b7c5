"""Flips and crops blocks of images at random, with tensor operations."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of normalised images [N, C, H, W].

    Training images are flipped horizontally with probability 1/2 (`flip`), padded with `padding` pixels of zeros on
    each side (zero is the mean colour), and cropped at random to `size` × `size` (None: to their own size). Test images
    get the central crop, without padding. The order is that of the authors' code (normalise, flip, crop).
    """

    padding: int = 0
    flip: bool = False
    size: int | None = None

    def draw(self, n: int, features: torch.Size, random: torch.Generator) -> Tensor:
        """Random numbers [3, N] for one epoch: first row and first column of the crop, and flipped or not (1, 0)."""
        if self == Augmentation():
            return torch.zeros(3, n, dtype=torch.int64)
        _, height, width = features
        window = self.window(features)
        last = [side + 2 * self.padding - cut for side, cut in zip((height, width), window, strict=True)]
        drawn = [torch.randint(0, high + 1, (n,), generator=random) for high in last]
        return torch.stack([*drawn, torch.randint(0, 2, (n,), generator=random)])

    def window(self, features: torch.Size) -> tuple[int, int]:
        """Height and width of the crop of images [C, H, W]."""
        _, height, width = features
        return (self.size, self.size) if self.size else (height, width)

    def random(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Training images x [B, C, H, W] with their random numbers [3, B] → [B, C, h, w], contiguous."""
        rows, columns, mirrored = drawn
        if self.flip:
            x = torch.where(mirrored.bool()[:, None, None, None], x.flip(3), x)
        if self.padding or self.size:
            height, width = self.window(x.shape[1:])
            padded = torch.nn.functional.pad(x, [self.padding] * 4)
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view of every possible crop
            x = windows[torch.arange(len(x), device=x.device), :, rows, columns]
        return x

    def central(self, x: Tensor) -> Tensor:
        """Test images x [B, C, H, W] → [B, C, h, w]."""
        if not self.size:
            return x
        top, left = ((side - self.size) // 2 for side in x.shape[2:])
        return x[:, :, top : top + self.size, left : left + self.size].contiguous()


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 images [N, C, H, W], each [C] float64.

    Sums of integers are exact, so the results do not depend on how many images are read at a time.
    """
    total = torch.zeros(x.shape[1], dtype=torch.int64)
    squares = torch.zeros_like(total)
    for block in x.split(1000):
        wide = block.long()
        total += wide.sum((0, 2, 3)).cpu()
        squares += (wide * wide).sum((0, 2, 3)).cpu()
    n = x.numel() // x.shape[1]
    mean = total.double() / n
    deviation = (squares.double() / n - mean * mean).clamp(min=0).sqrt()
    return mean, torch.where(deviation > 0, deviation, 1.0)
