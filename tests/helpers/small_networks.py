"""Small networks of what people use, whole: attention, tokens, gates, group norm, recurrence; x [B, 1, 8, 8]."""

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """Self-attention as timm writes it."""

    def __init__(self, dim, heads, dropout=0.0, causal=False):
        super().__init__()
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        p = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=self.causal)
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    def __init__(self, dim, heads, **options):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim, heads, **options)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches of 2 × 2: 16 tokens and one for the class, or their mean."""

    def __init__(self, dim=64, depth=3, heads=4, token=True):
        super().__init__()
        self.patches = nn.Conv2d(1, dim, 2, 2)
        self.token = nn.Parameter(0.1 * torch.randn(1, 1, dim)) if token else None
        self.positions = nn.Parameter(0.1 * torch.randn(1, 17 if token else 16, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.norm(self.blocks(x + self.positions))
        return self.head(x[:, 0] if self.token is not None else x.mean(dim=1))


class Residual(nn.Module):
    def __init__(self, width, p=0.1):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.drop = nn.Dropout(p)

    def forward(self, x):
        return x + self.drop(self.down(F.gelu(self.up(self.norm(x)))))


def mixer(width=96, depth=3):
    """A residual MLP with layer norm, GELU and dropout."""
    blocks = (Residual(width) for _ in range(depth))
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), *blocks, nn.LayerNorm(width), nn.Linear(width, 10))


def group_norm_cnn(width=16, groups=4):
    def part(inputs, outputs, stride):
        return nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(groups, outputs), nn.SiLU()

    parts = *part(1, width, 1), *part(width, width, 1), *part(width, 2 * width, 2)
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


class GPT(nn.Module):
    """Pixels as words, a causal mask, and word vectors that are the last layer's, too."""

    def __init__(self, dim=32, depth=2, words=17):
        super().__init__()
        self.words, self.places = nn.Embedding(words, dim), nn.Embedding(64, dim)
        self.blocks = nn.ModuleList(Block(dim, 2, causal=True, dropout=0.1) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(dim, bias=False), nn.Linear(dim, words, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x):
        indices = x.flatten(1).abs().mul(5).clamp(0, 16).long()
        length = indices.size(1)
        x = self.words(indices) + self.places(torch.arange(length))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))[:, -1, :10]


class Recurrent(nn.Module):
    """Rows as steps of time."""

    def __init__(self, kind=nn.LSTM, width=12):
        super().__init__()
        self.rnn, self.head = kind(8, width, num_layers=2, batch_first=True), nn.Linear(width, 10)

    def forward(self, x):
        states, _ = self.rnn(x.squeeze(1))
        return self.head(states[:, -1])


class Gated(nn.Module):
    """Squeeze and excitation, depthwise and grouped convolutions, a learned scale of channels."""

    def __init__(self, width=6):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.grouped = nn.Conv2d(width, 2 * width, 1, groups=2)
        self.squeeze, self.excite = nn.Conv2d(2 * width, 3, 1), nn.Conv2d(3, 2 * width, 1)
        self.scale = nn.Parameter(torch.full((2 * width, 1, 1), 0.7))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x):
        x = self.grouped(F.silu(self.depthwise(self.stem(x))))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = x * gate + self.scale * x
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Encoder(nn.Module):
    """torch's own transformer, with the lower half of the attention hidden."""

    def __init__(self, dim=12, norm_first=True, batch_first=True):
        super().__init__()
        self.first = nn.Linear(8, dim)
        layer = nn.TransformerEncoderLayer(
            dim, 3, 20, 0.1, activation=F.gelu, norm_first=norm_first, batch_first=batch_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.batch_first, self.head = batch_first, nn.Linear(dim, 10)
        self.register_buffer("mask", torch.ones(8, 8, dtype=torch.bool).triu(1))

    def forward(self, x):
        x = self.first(x.squeeze(1))
        x = self.encoder(x if self.batch_first else x.transpose(0, 1), mask=self.mask)
        return self.head(x.mean(1 if self.batch_first else 0))


class Cross(nn.Module):
    """Attention of one sequence to another."""

    def __init__(self, dim=12):
        super().__init__()
        self.a, self.b = nn.Linear(8, dim), nn.Linear(8, dim)
        self.attention = nn.MultiheadAttention(dim, 2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(dim, 10)

    def forward(self, x):
        x = x.squeeze(1)
        own, other = self.a(x), self.b(x[:, 2:7])
        out, _ = self.attention(own, other, other)
        return self.head((own + out)[:, 0])


WHOLE = {
    "ViT": ViT,
    "ViT, mean": lambda: ViT(20, 2, 2, token=False),
    "residual MLP": mixer,
    "GroupNorm CNN": group_norm_cnn,
    "GPT": GPT,
    "LSTM": Recurrent,
    "GRU": lambda: Recurrent(nn.GRU, 9),
    "gated": Gated,
    "encoder": Encoder,
    "encoder, norm last": lambda: Encoder(15, norm_first=False, batch_first=False),
    "cross-attention": Cross,
}
