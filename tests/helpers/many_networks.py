"""Forty networks as people use them, small enough to train for a few steps: timm's, torchvision's, torch's own, ours.

Each is a factory of a network for images [B, 3, size, size] and ten classes; NETWORKS has them by name, with the size.
A study names one as "helpers.many_networks:network" with its name.
"""

import timm
import torch
import torch.nn.functional as F
import torchvision.models as vision
from timm.layers import GatedMlp
from timm.models import mlp_mixer
from timm.models.convmixer import ConvMixer
from timm.models.metaformer import MetaFormer
from torch import nn
from torchvision.models.mobilenetv3 import InvertedResidualConfig

CLASSES, CHANNELS = 4, 3


def images(size, n=12):
    """Images and classes for training and testing."""
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(2 * n, CHANNELS, size, size, generator=generator)
    y = torch.arange(2 * n) % CLASSES
    return x[:n], y[:n], x[n:], y[n:]


def timms(name, **options):
    return lambda: timm.create_model(name, num_classes=10, **options)


def mobile():
    parts = [
        InvertedResidualConfig(8, 3, 8, 8, True, "RE", 2, 1, 1.0),
        InvertedResidualConfig(8, 5, 16, 16, True, "HS", 2, 1, 1.0),
    ]
    return vision.MobileNetV3(parts, 16, num_classes=10)


class Tokens(nn.Module):
    """Rows of pixels as tokens [B, H, C·W], a body, and the mean of what comes out."""

    def __init__(self, body, inputs, outputs):
        super().__init__()
        self.body, self.head = body, nn.Linear(outputs, 10)
        self.first = nn.Linear(48, inputs)

    def forward(self, x):
        x = self.first(x.transpose(1, 2).flatten(2))
        return self.head(self.body(x).mean(1))


class Recurrent(nn.Module):
    """The states of a recurrent layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        states, _ = self.layer(x)
        return states


class WithWeights(nn.Module):
    """Attention whose weights are used, too."""

    def __init__(self, dim):
        super().__init__()
        self.attention, self.mix = nn.MultiheadAttention(dim, 2, batch_first=True), nn.Linear(16, dim)

    def forward(self, x):
        out, weights = self.attention(x, x, x, need_weights=True)
        return out + self.mix(weights)


class Block(nn.Module):
    """A block of a GPT, as nanoGPT writes it."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attend, self.project = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim), nn.Dropout(0.1))

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = self.attend(self.norm1(x)).split(c, dim=2)
        q, k, v = (part.view(b, t, self.heads, c // self.heads).transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0, is_causal=True)
        x = x + self.project(y.transpose(1, 2).contiguous().view(b, t, c))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.words, self.places = nn.Embedding(9, dim), nn.Embedding(16, dim)
        self.drop, self.blocks = nn.Dropout(0.1), nn.ModuleList(Block(dim, 2) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10, bias=False)

    def forward(self, x):
        words = x.mean((1, 2)).mul(8).add(4).clamp(0, 8).long()
        x = self.drop(self.words(words) + self.places(torch.arange(words.shape[1], device=words.device)))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))[:, -1]


class MixerBlock(nn.Module):
    def __init__(self, tokens, dim):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.tokens = nn.Sequential(nn.Linear(tokens, 8), nn.GELU(), nn.Linear(8, tokens))
        self.channels = nn.Sequential(nn.Linear(dim, 24), nn.GELU(), nn.Linear(24, dim))

    def forward(self, x):
        x = x + self.tokens(self.norm1(x).mT).mT
        return x + self.channels(self.norm2(x))


class ConvNeXtBlock(nn.Module):
    """As in the paper's code: a depthwise convolution, channels last, a learned scale."""

    def __init__(self, dim):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(dim, dim, 7, padding=3, groups=dim), nn.LayerNorm(dim, eps=1e-6)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.scale = nn.Parameter(0.1 * torch.ones(dim))

    def forward(self, x):
        out = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        out = self.scale * self.down(F.gelu(self.up(out)))
        return x + out.permute(0, 3, 1, 2)


def maps(*layers, channels):
    """Layers on maps, their mean, and classes."""
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def encoder():
    layer = nn.TransformerEncoderLayer(12, 3, 16, dropout=0.1, batch_first=True)
    return Tokens(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), 12, 12)


def waves():
    return nn.Sequential(
        nn.Flatten(2), nn.Conv1d(3, 8, 5, 4), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(8, 12, 3, 2, groups=2), nn.GroupNorm(3, 12), nn.GELU(), nn.AdaptiveAvgPool1d(2), nn.Flatten(),
        nn.Linear(24, 10),
    )  # fmt: skip


NETWORKS = {
    # timm
    "timm test_resnet": (timms("test_resnet"), 32),
    "timm test_vit": (timms("test_vit", img_size=32, embed_dim=16, depth=2), 32),
    "timm test_vit2": (timms("test_vit2", img_size=32, embed_dim=16, depth=2), 32),
    "timm test_efficientnet": (timms("test_efficientnet"), 32),
    "timm test_convnext": (timms("test_convnext", dims=(8, 8, 16, 16), depths=(1, 1, 1, 1)), 32),
    "timm test_byobnet": (timms("test_byobnet"), 32),
    "timm test_nfnet": (timms("test_nfnet"), 32),
    "timm test_mambaout": (timms("test_mambaout"), 32),
    "timm mixer": (lambda: mlp_mixer.MlpMixer(10, 16, 3, 4, 2, 16), 16),
    "timm resmlp": (
        lambda: mlp_mixer.MlpMixer(10, 16, 3, 4, 2, 16, 4, block_layer=mlp_mixer.ResBlock, norm_layer=mlp_mixer.Affine),
        16,
    ),
    "timm gmlp": (
        lambda: mlp_mixer.MlpMixer(
            10, 16, 3, 4, 2, 16, 4, block_layer=mlp_mixer.SpatialGatingBlock, mlp_layer=GatedMlp
        ),
        16,
    ),
    "timm convmixer": (lambda: ConvMixer(16, 2, 3, 4, num_classes=10), 16),
    "timm mobilenetv3": (timms("mobilenetv3_small_050"), 32),
    "timm swin": (
        timms("swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 2)),
        32,
    ),
    "timm poolformer": (lambda: MetaFormer(3, 10, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)), 32),
    "timm cait": (
        timms("cait_xxs24_224", img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, depth_token_only=1),
        16,
    ),
    "timm xcit": (timms("xcit_nano_12_p8_224", img_size=32, embed_dim=16, depth=1, num_heads=2), 32),
    "timm deit3": (
        timms("deit3_small_patch16_224", img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2),
        16,
    ),
    # torchvision
    "torchvision ResNet": (lambda: vision.ResNet(vision.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10), 16),
    "torchvision MobileNetV2": (
        lambda: vision.MobileNetV2(10, 0.125, [[1, 8, 1, 1], [3, 8, 2, 2], [3, 16, 1, 2]]),
        16,
    ),
    "torchvision MobileNetV3": (mobile, 16),
    "torchvision ShuffleNetV2": (lambda: vision.ShuffleNetV2([1, 2, 1], [8, 16, 16, 32, 32], num_classes=10), 32),
    "torchvision SqueezeNet": (lambda: vision.squeezenet1_1(num_classes=10), 32),
    "torchvision DenseNet": (lambda: vision.DenseNet(4, (2, 2), 8, num_classes=10), 16),
    "torchvision ViT": (lambda: vision.VisionTransformer(16, 4, 2, 2, 16, 24, num_classes=10), 16),
    "torchvision Swin": (
        lambda: vision.SwinTransformer([2, 2], 8, [1, 1], [2, 2], [4, 4], num_classes=10),
        16,
    ),
    "torchvision ConvNeXt": (
        lambda: vision.ConvNeXt(
            [vision.convnext.CNBlockConfig(8, 16, 1), vision.convnext.CNBlockConfig(16, None, 1)], num_classes=10
        ),
        16,
    ),
    # torch's own layers
    "LSTM": (lambda: Tokens(Recurrent(nn.LSTM(8, 12, 2, batch_first=True)), 8, 12), 16),
    "GRU": (lambda: Tokens(Recurrent(nn.GRU(8, 12, batch_first=True, bidirectional=True)), 8, 24), 16),
    "GPT": (GPT, 16),
    "TransformerEncoder": (encoder, 16),
    "MultiheadAttention with weights": (lambda: Tokens(WithWeights(12), 12, 12), 16),
    "MLP-Mixer": (lambda: Tokens(nn.Sequential(MixerBlock(16, 12), MixerBlock(16, 12), nn.LayerNorm(12)), 12, 12), 16),
    "ConvNeXt blocks": (lambda: maps(nn.Conv2d(3, 9, 4, 4), ConvNeXtBlock(9), ConvNeXtBlock(9), channels=9), 16),
    "depthwise": (
        lambda: maps(
            nn.Conv2d(3, 9, 3),
            nn.BatchNorm2d(9),
            nn.Hardswish(),
            nn.Conv2d(9, 9, 3, 2, groups=9),
            nn.BatchNorm2d(9),
            nn.ReLU6(),
            nn.Conv2d(9, 12, 1),
            channels=12,
        ),
        16,
    ),
    "Conv1d": (waves, 8),
    "InstanceNorm": (
        lambda: maps(
            nn.Conv2d(3, 8, 3, 2, 1, padding_mode="reflect"),
            nn.InstanceNorm2d(8, affine=True),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(8, 6, 3, 2),
            nn.InstanceNorm2d(6),
            nn.ELU(),
            channels=6,
        ),
        16,
    ),
    "RMSNorm": (
        lambda: Tokens(nn.Sequential(nn.RMSNorm(12), nn.Linear(12, 20), nn.SiLU(), nn.Linear(20, 12)), 12, 12),
        16,
    ),
    # wdgrid's own
    "mlp": ("mlp", 8),
    "resnet": ("resnet", 8),
    "shake-shake": ("shake-shake", 8),
    "tf-tutorial": ("tf-tutorial", 24),
}
OWN_ARGS = {"shake-shake": {"depth": 8, "width": 8}}


def network(name):
    """One of them."""
    make, _ = NETWORKS[name]
    return make()
