"""Defines further networks of the benchmarks, with other layers than convolutions with batch norm; x [B, 1, 8, 8].

Like those of `networks`, they are ordinary nn.Modules and do not use wdgrid.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Layer norm, a hidden layer twice as wide with GELU, dropout, and a skip connection."""

    def __init__(self, width: int, p: float) -> None:
        super().__init__()
        self.norm, self.drop = nn.LayerNorm(width), nn.Dropout(p)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, width] → the same."""
        return x + self.drop(self.down(F.gelu(self.up(self.norm(x)))))


def mixer(width: int = 96, depth: int = 3, p: float = 0.1) -> nn.Sequential:
    """A residual MLP."""
    blocks = (Residual(width, p) for _ in range(depth))
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), *blocks, nn.LayerNorm(width), nn.Linear(width, 10))


class Block(nn.Module):
    """A block of a transformer; `causal` tokens see earlier ones only."""

    def __init__(self, dim: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, D] → the same."""
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.proj(attended.transpose(1, 2).reshape(b, n, d))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches of 2 × 2 as 16 tokens, learned positions, the mean of the tokens."""

    def __init__(self, dim: int = 64, depth: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, dim, 2, 2)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10]."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


def gn_cnn(channels: int = 16) -> nn.Sequential:
    """Convolutions with group norm and SiLU, two on 8 × 8 maps and one on 4 × 4."""

    def part(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.GroupNorm(4, outputs), nn.SiLU()

    parts = *part(1, channels, 1), *part(channels, channels, 1), *part(channels, 2 * channels, 2)
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * channels, 10))


class GPT(nn.Module):
    """Pixels in 17 steps of grey as words, in rows; the last word says the class. Word vectors are shared with it."""

    def __init__(self, dim: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(17, dim), nn.Embedding(64, dim)
        self.blocks = nn.Sequential(*(Block(dim, 2, causal=True) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 17, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 17], of which ten are of classes."""
        words = x.flatten(1).add(1).mul(4).clamp(0, 16).long()
        x = self.words(words) + self.places(torch.arange(64, device=x.device))
        return self.head(self.norm(self.blocks(x)))[:, -1]
